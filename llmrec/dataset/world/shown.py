"""What the states of a world's log show of the slates that were logged, and what the log shows of the whole."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from llmrec.dataset.history import Timeline, indexed, strongest
from llmrec.dataset.store import Dataset
from llmrec.dataset.world.scenario import Scenario
from llmrec.errors import RequestError
from llmrec.types import FloatArray, IntArray, State


class ShownSlate(NamedTuple):
    """One slate as a state shows it.

    `items` were clicked, `bought` says which of them were converted. The other items of the slate are unseen; those
    of index `silent_from` and above were not clicked, of the rest this is not known (a history that was cut).
    """

    time: int
    items: tuple[int, ...]
    bought: tuple[bool, ...]
    silent_from: int = 0


class ShownLog:
    """When a world's users were shown slates and what they chose."""

    def __init__(self, dataset: Dataset) -> None:
        shown = dataset.events.filter(pl.col("kind") == "impression")
        self.impressions = indexed(dataset, shown.select("item_id", "time"))
        self._moments = Timeline(shown.select("user_id", "time", item=pl.lit(0)).unique().sort("user_id", "time"))
        self._choices = Timeline(strongest(indexed(dataset, dataset.events)))

    def slates(self, state: State) -> list[ShownSlate]:
        """The slates of the state's user before the state's time, oldest first, as far as the state tells of them.

        A history that holds fewer choices than the log was cut: slates before its oldest choice are unknown and left
        out, and so are, in that choice's slate, the items that stand before it.

        Raises:
            RequestError: the history is not the newest choices of the log, or the state has a running session.
        """
        low, high = self._moments.rows(state.user_id, state.time)
        start, end = self._choices.rows(state.user_id, state.time)
        first = end - len(state.history)
        items, times = [i.item for i in state.history], [i.time for i in state.history]
        if (
            low == high == 0
            or state.session
            or first < start
            or self._choices.items[first:end].tolist() != items
            or self._choices.times[first:end].tolist() != times
            or not {i.feedback for i in state.history} <= {"click", "conversion"}
        ):
            raise RequestError(
                f"The state of user {state.user_id!r} is none of this world's log; what can be known is told of "
                "states whose history is the newest of the user's logged choices, without a session."
            )
        cut = first > start
        if cut and not items:
            return []
        known_from = times[0] if cut else self._moments.times[low] if high > low else 0
        slates = []
        for moment in self._moments.times[low:high].tolist():
            if moment < known_from:
                continue
            chosen = [i for i in state.history if i.time == moment]
            slates.append(
                ShownSlate(
                    moment,
                    tuple(i.item for i in chosen),
                    tuple(i.feedback == "conversion" for i in chosen),
                    items[0] if cut and moment == times[0] else 0,
                )
            )
        return slates


def phase_tilts(log: ShownLog, scenario: Scenario, appeal_N: FloatArray) -> list[FloatArray | None]:
    """For each phase of the log what it added to the logging policy's logits (see `Scenario.tilt_N`)."""
    item, phase = log.impressions["item"].to_numpy(), scenario.phase_M(log.impressions["time"].to_numpy())
    shown_N: IntArray = np.zeros(appeal_N.size, dtype=np.int64)
    tilts = []
    for number in range(scenario.phases):
        tilts.append(scenario.tilt_N(number, shown_N, appeal_N))
        shown_N = shown_N + np.bincount(item[phase == number], minlength=appeal_N.size)
    return tilts
