"""Which stage of how many a run is at, and about how long all of it will still take."""

from __future__ import annotations

import time
from collections.abc import Mapping

_LIGHT = ("data", "simulator", "exam")
"""Stages without a language model: they say nothing of how long the others take."""
_EARLY = 0.02
"""Share of a stage from which its speed is believed."""


class Ahead:
    """The stages of a run in their order.

    Args:
        weights: how long each takes relative to the others, by its name in the working folder.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)
        self._open = dict(weights)
        self._took: dict[str, float] = {}
        self._now, self._start = "", time.monotonic()

    def begin(self, name: str) -> str:
        """Which stage it is and what is left, in words; "" for one that is not of the run's own."""
        if name not in self.weights:
            return ""
        place = list(self.weights).index(name) + 1
        for passed in list(self.weights)[: place - 1]:  # such as a model that was cached
            self._open.pop(passed, None)
        self._now, self._start = name, time.monotonic()
        return ", ".join(filter(None, (f"stage {place} of {len(self.weights)}", self.told())))

    def end(self, name: str, *, made: bool) -> None:
        """A stage is there: just made, or found finished."""
        if self._open.pop(name, None) is not None and made and name == self._now:
            self._took[name] = time.monotonic() - self._start
        self._now = "" if name == self._now else self._now

    def told(self, share: float | None = None) -> str:
        """About how long the whole run still takes; "" as long as nothing tells.

        Args:
            share: of the present stage that is done, where its bar knows.
        """
        seconds = self.left(share)
        return "" if seconds is None else f"about {about(seconds)} left in all"

    def left(self, share: float | None = None) -> float | None:
        """Seconds that the present stage and those after it will take; None as long as nothing tells."""
        took, rest = dict(self._took), 0.0
        elapsed = time.monotonic() - self._start
        if share is not None and share >= _EARLY and self._now in self._open:
            took[self._now] = elapsed / share
            rest = took[self._now] - elapsed
        told = {name: seconds for name, seconds in took.items() if name not in _LIGHT}
        if not told:
            return None
        speed = sum(told.values()) / sum(self.weights[name] for name in told)
        others = {name: weight for name, weight in self._open.items() if name != self._now or not rest}
        return rest + speed * sum(others.values())


def about(seconds: float) -> str:
    """A time that is not known to the second."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
