"""Gymnasium environments over simulated users; importing this package registers `llmrec/Shop-v0` and its siblings."""

from __future__ import annotations

import gymnasium

from llmrec.simulator.environments.domains import DOMAINS, domain_users
from llmrec.simulator.environments.engine import Engine
from llmrec.simulator.environments.learned_users import LearnedUsers
from llmrec.simulator.environments.population import Population
from llmrec.simulator.environments.record import LazyState, LazyStates
from llmrec.simulator.environments.single import DiscreteActions, ItemFeatureActions, NumericObservations, RecEnv
from llmrec.simulator.environments.tools import ToolEnvironment, ToolEnvironments
from llmrec.simulator.environments.vector import VectorRecEnv
from llmrec.simulator.environments.world_users import WorldUsers

__all__ = [
    "DOMAINS",
    "DiscreteActions",
    "Engine",
    "ItemFeatureActions",
    "LazyState",
    "LazyStates",
    "LearnedUsers",
    "NumericObservations",
    "Population",
    "RecEnv",
    "ToolEnvironment",
    "ToolEnvironments",
    "VectorRecEnv",
    "WorldUsers",
    "domain_users",
]

for _domain in DOMAINS:
    gymnasium.register(
        id=f"llmrec/{_domain.capitalize()}-v0",
        entry_point="llmrec.simulator.environments.domains:make_single",
        vector_entry_point="llmrec.simulator.environments.domains:make_vector",
        kwargs={"domain": _domain},
    )
