"""Windows of users' timelines: choices whose states begin at one event, so that their prompts share a beginning.

A state of the last twenty events loses its oldest one with every step, and no two prompts begin alike. The states of
a window all begin at the same event and grow by one at a time: each prompt holds the one before it, and a packed row
(`policy.forest`) reads what they share once.

What is drawn for a window:

- *Where it begins.* A pass cuts each timeline into windows of T choices; the first of them has a random length, so
  that the borders lie elsewhere in every pass.
- *Its lead*, the events before its first choice that its states show: 0 to H at random, where H
  (`data.history_events`) is how many a deployed state shows. So states of 0 to H + T events are learnt, those of
  about H events most often. Before a user's first event there is nothing: the user was new.
- *What is dropped* (`sft.history_dropout`), once for all its states.

Prompts stay within `text.max_tokens`. A window whose states would be cut by it is made shorter and the next one
starts anew: no state loses the beginning that it shares.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrec.config import SFTSettings
from llmrec.dataset.timelines import Timeline, Timelines
from llmrec.types import Example, IntArray, State

_BLOCK = 256
"""Windows whose prompts are measured together."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Choices first .. last - 1 of a timeline, which still have to be cut into windows."""

    timeline: Timeline
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Window:
    """A stretch with the places in the history of the events that its states may show."""

    stretch: _Stretch
    shown: IntArray

    @property
    def examples(self) -> list[Example]:
        """The window's choices with what was shown strictly before each."""
        timeline = self.stretch.timeline
        events = [timeline.history[place] for place in self.shown]
        choices = range(self.stretch.first, self.stretch.last)
        ends = np.searchsorted(self.shown, [timeline.before[choice] for choice in choices])
        return [timeline.example(choice, events[:end]) for choice, end in zip(choices, ends.tolist(), strict=True)]

    @property
    def longest(self) -> State:
        """The last choice's state, which shows all events."""
        timeline, choice = self.stretch.timeline, self.stretch.last - 1
        return timeline.example(choice, [timeline.history[place] for place in self.shown]).state

    def first_choices(self, events: int) -> _Window:
        """As many of its choices as have states of at most `events` events; one at least, with the newest of them."""
        before = self.stretch.timeline.before[self.stretch.first : self.stretch.last]
        counts = np.searchsorted(self.shown, before)
        kept = max(1, int(np.searchsorted(counts, events, side="right")))
        shown = self.shown[: counts[kept - 1]]
        last = self.stretch.first + kept
        return _Window(
            _Stretch(self.stretch.timeline, self.stretch.first, last), shown[max(0, len(shown) - events) :]
        )


def windows(
    timelines: Timelines, renderer: Any, settings: SFTSettings, rng: np.random.Generator
) -> Iterator[list[Example]]:
    """One pass over all choices of all timelines, window by window in random order.

    Args:
        timelines: whose choices are learnt from.
        renderer: the state renderer, which knows how many events a prompt has room for.
        settings: `window` and `history_dropout` are read.
        rng: all that is drawn.
    """
    stretches = [stretch for timeline in timelines.users for stretch in _stretches(timeline, settings.window, rng)]
    order = rng.permutation(len(stretches))
    for start in range(0, len(order), _BLOCK):
        pending = [stretches[place] for place in order[start : start + _BLOCK]]
        made: list[_Window] = []
        while pending:
            found = _cut(pending, renderer, settings, timelines.history_events, rng)
            made += found
            # what was too long for one window is begun anew behind it
            ends = ((old, new.stretch.last) for old, new in zip(pending, found, strict=True))
            pending = [_Stretch(old.timeline, end, old.last) for old, end in ends if end < old.last]
        for window in made:
            yield window.examples


def _stretches(timeline: Timeline, size: int, rng: np.random.Generator) -> list[_Stretch]:
    borders = [0, *range(int(rng.integers(1, size + 1)), len(timeline.choices), size), len(timeline.choices)]
    return [_Stretch(timeline, first, last) for first, last in itertools.pairwise(borders)]


def _cut(
    stretches: Sequence[_Stretch], renderer: Any, settings: SFTSettings, history_events: int, rng: np.random.Generator
) -> list[_Window]:
    """A window from the beginning of each stretch, as long as its prompts have room."""
    widest = [
        _Window(stretch, _kept(stretch, history_events, settings.history_dropout, rng)) for stretch in stretches
    ]
    room = renderer.shown([window.longest for window in widest])
    cut = []
    for window, most in zip(widest, room, strict=True):
        first = window.stretch.timeline.before[window.stretch.first]
        before = int(np.searchsorted(window.shown, first))  # events that are there to lead
        # One event less than there is room for, so that a window has more than one choice where it can.
        lead = min(int(rng.integers(min(history_events, max(0, most - 1)) + 1)), before)
        # Where a user chooses seldom, what lies between two choices is no longer than a window either.
        most = min(most, history_events + settings.window)
        cut.append(_Window(window.stretch, window.shown[before - lead :]).first_choices(most))
    # Other events than those that were measured may take more tokens; the rest of such a window is another one.
    room = renderer.shown([window.longest for window in cut])
    return [window.first_choices(most) for window, most in zip(cut, room, strict=True)]


def _kept(stretch: _Stretch, lead: int, dropout: float, rng: np.random.Generator) -> IntArray:
    """Places of the events that the stretch's states may show, without those that were dropped."""
    before = stretch.timeline.before
    places = np.arange(max(0, before[stretch.first] - lead), before[stretch.last - 1], dtype=np.int64)
    return places[rng.random(len(places)) >= dropout]
