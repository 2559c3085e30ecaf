"""What adaptation within a session looks like: curves over turns, and later turns less first ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmrec.adaptation.context import halves
from llmrec.evaluation.plots import curve_figure
from llmrec.evaluation.significance import Interval
from llmrec.studies.answer import Sheet, signed
from llmrec.types import FloatArray

FIRST, LATER, RISE = "turns 1 to 5", "turns 6 to 10", "turns 6 to 10 less turns 1 to 5"
"""Of sessions of ten turns."""


def rise_of(turn_BT: FloatArray) -> dict[str, FloatArray]:
    """Mean value of a turn in both halves of each session, and their difference: (B,) each."""
    first_B, later_B = halves(turn_BT)
    return {FIRST: first_B, LATER: later_B, RISE: later_B - first_B}


def turns_plot(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Curves over turns by side, in as many panels."""
    turns = {side: turn_T for sides in panels.values() for side, turn_T in sides.items()}
    longest = max(len(turn_T) for turn_T in turns.values())
    rows = [{"step": t + 1.0} | {side: turn_T[t] for side, turn_T in turns.items()} for t in range(longest)]
    wanted = [(title, tuple(sides)) for title, sides in panels.items()]
    return curve_figure(rows, wanted, label="True value of an item by turn", xlabel="turn")


def turns_sheet(title: str, turns: Mapping[str, Sequence[float]], rises: Mapping[str, Interval], slate: int) -> Sheet:
    """The first turn, both halves and the rise of each side."""
    rows = []
    for side, turn_T in turns.items():
        half = len(turn_T) // 2
        first, later = sum(turn_T[:half]) / half, sum(turn_T[-half:]) / half
        rows.append([side, f"{turn_T[0]:.4f}", f"{first:.4f}", f"{later:.4f}", signed(rises[side])])
    columns = ["system", "turn 1", FIRST, LATER, "rise"]
    return Sheet(title, columns, rows, f"True value of an item; slates of {slate}, no dynamics.")
