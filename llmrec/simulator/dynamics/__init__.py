"""User dynamics: what a turn does to interests, boredom, trust, money, patience and loyalty."""

from llmrec.simulator.dynamics.dynamics import DRAWS, Dynamics, TurnOutcome
from llmrec.simulator.dynamics.loyalty import afford
from llmrec.simulator.dynamics.modulate import modulate
from llmrec.simulator.dynamics.state import ItemTable, UserState, fresh_users

__all__ = ["DRAWS", "Dynamics", "ItemTable", "TurnOutcome", "UserState", "afford", "fresh_users", "modulate"]
