"""Traffic of a generated world behind its log: people who come, are shown slates, and answer with a delay.

Everything is drawn from the seed, the day and a slate's name, so that two systems meet the same people on the same
days with the same luck, and a month that was stopped goes on as it would have.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmrec.dataset.examples import History
from llmrec.dataset.world.scenario import DAY
from llmrec.dataset.world.truth import click_logit, conversion_logit, examination_K, sigmoid
from llmrec.dataset.world.world import World
from llmrec.errors import ConfigError, DataError
from llmrec.online.events import Logged, Outcome, Served
from llmrec.online.log import EventLog, EventReader
from llmrec.seeding import numpy_stream
from llmrec.types import EventKind, FloatArray, Interaction, State

Serve = Callable[[Sequence[State], int, Sequence[str]], list[Served]]
"""Slates of so many items for states, by the names of the slates."""


@dataclass(frozen=True, kw_only=True)
class TrafficSettings:
    """A stretch of simulated traffic."""

    days: int = 30
    visits: int = 200
    """Slates a day."""
    places: int = 5
    """Items of a slate."""
    click_delay: float = 0.02
    """Days on the average until a click is reported."""
    conversion_delay: float = 0.4
    """Days on the average from there until a conversion is."""
    window: float = 2.0
    """Days after a slate within which feedback counts."""

    def check(self, items: int) -> None:
        """Raises `ConfigError` for what cannot be, with a catalogue of so many items."""
        if self.days < 1 or self.visits < 1 or not 1 <= self.places <= items:
            raise ConfigError(
                f"Traffic of {self.days} days with {self.visits} slates of {self.places} items cannot be; take 1 or "
                f"more of each, and at most the catalogue's {items} items."
            )
        if min(self.click_delay, self.conversion_delay) < 0 or not self.window > 1:
            raise ConfigError(
                "Delays of feedback are 0 or more days; its window is longer than a day, as feedback comes in daily."
            )


class WorldTraffic:
    """A world's people from one moment on.

    Args:
        world: whose people come.
        settings: how many, for how long.
        history_events: what a state keeps of the past.
        start: the first day's beginning, in seconds; of the log only what lies before it is known of anybody.
        seed: of who comes and what they do.

    Raises:
        DataError: nobody was there before `start`.
    """

    def __init__(self, world: World, settings: TrafficSettings, history_events: int, start: int, seed: int) -> None:
        settings.check(world.dataset.n_items)
        self.world, self.settings, self.start, self.seed = world, settings, start, seed
        self.max_events, self.now = history_events, start
        self._history = History(world.dataset, history_events)
        shown = world.dataset.events.filter(world.dataset.events["time"] < start)["user_id"].unique().sort().to_list()
        if not shown:
            raise DataError("Nobody was shown anything before the traffic begins; begin later.")
        self.users: list[str] = shown
        self._item_ids = world.dataset.items["item_id"].to_list()
        self._row_of = {item: row for row, item in enumerate(self._item_ids)}
        self._user_row = {user: row for row, user in enumerate(world.dataset.users["user_id"].to_list())}
        self._chosen: dict[str, list[Interaction]] = {}
        self._waiting: list[tuple[int, int, int, Outcome, str]] = []  # arrival, order, slate's time, what, whose
        self._count = 0

    @property
    def window_s(self) -> int:
        """Of the log: a slate of one day has ripened at the beginning of the day `window` days later."""
        return round(self.settings.window * DAY) - 1

    @property
    def last(self) -> int:
        """The day on which all slates have ripened."""
        return self.settings.days + math.ceil(self.settings.window) - 1

    def clock(self) -> int:
        """The moment of the simulation, for the log."""
        return self.now

    def time_of(self, day: int) -> int:
        """When the slates of a day are shown."""
        return self.start + day * DAY

    def visitors(self, day: int) -> list[str]:
        """Who comes on a day: nobody twice, as long as there are people enough."""
        stream, wanted = numpy_stream(self.seed, "online", "visitors", day), self.settings.visits
        rounds = [stream.permutation(len(self.users)) for _ in range(math.ceil(wanted / len(self.users)))]
        return [self.users[row] for row in np.concatenate(rounds)[:wanted]]

    def names(self, day: int) -> list[str]:
        """Of the day's slates."""
        return [f"day-{day + 1:03d}-{number:05d}" for number in range(self.settings.visits)]

    def state(self, user: str) -> State:
        """What is known of somebody now: the log before the beginning, and choices that were reported since."""
        known = self._history.state(user, self.start)
        mine = sorted(self._chosen.get(user, []), key=lambda choice: choice.time)
        return replace(known, history=(*known.history, *mine)[-self.max_events :], time=self.now)

    def resume(self, reader: EventReader) -> int:
        """Remembers what stands in a log; returns the day that it has come to, which may not be complete."""
        for logged in reader.slates(mature=False):
            for arrival, outcome in self.outcomes(logged.served, logged.time):
                self._wait(arrival, logged.time, outcome, str(logged.served.user_id))
        return (reader.marks()["time"] - self.start) // DAY

    def day(self, day: int, log: EventLog, serve: Serve, between: Callable[[], object] = lambda: None) -> None:
        """One day: feedback that has arrived, whatever is to be done `between`, then the day's slates.

        Days behind the last one bring feedback alone.
        """
        self.now = self.time_of(day)
        self._receive(log)
        between()
        if day >= self.settings.days:
            return
        names = self.names(day)
        # a day that was killed goes on: its slates stand in the log all together or not at all
        if log.slate(names[0]) is not None:
            return
        states = [self.state(user) for user in self.visitors(day)]
        made = serve(states, self.settings.places, names)
        log.serve(made)
        for slate in made:
            for arrival, outcome in self.outcomes(slate, self.now):
                self._wait(arrival, self.now, outcome, str(slate.user_id))

    def outcomes(self, slate: Served, time: int) -> list[tuple[int, Outcome]]:
        """What comes of a slate and when it is reported; a click on a thing that is bought comes before."""
        settings, world = self.settings, self.world
        user = np.array([self._user_row[str(slate.user_id)]])
        item_K = np.array([self._row_of[item] for item in slate.items_K])
        offset_K = world.scenario.offset(time, world.truth.topic_N[item_K])
        look_K = examination_K(len(item_K), world.config.position_bias)
        click_K = look_K * sigmoid(click_logit(world.truth, world.parameters, user, item_K) + offset_K)
        buy_K = sigmoid(conversion_logit(world.truth, world.parameters, user, item_K))
        luck_K4 = numpy_stream(self.seed, "online", "feedback", slate.slate_id).random((len(item_K), 4))
        found = []
        for place in np.flatnonzero(luck_K4[:, 0] < click_K).tolist():
            waits = -np.log1p(-luck_K4[place, 2:]) * (settings.click_delay, settings.conversion_delay) * DAY
            kinds: list[tuple[EventKind, float]] = [("click", waits[0])]
            if luck_K4[place, 1] < buy_K[place]:
                kinds.append(("conversion", waits.sum()))
            found += [(time + int(wait), Outcome(slate.slate_id, slate.items_K[place], kind)) for kind, wait in kinds]
        return found

    def values(self, slates: Sequence[Logged]) -> FloatArray:
        """What slates of equally many places are truly worth a place, when they were shown, by the usual reward."""
        found, time_M = np.zeros(len(slates)), np.array([one.time for one in slates])
        for time in np.unique(time_M).tolist():
            rows = np.flatnonzero(time_M == time)
            shown = [slates[row].served for row in rows.tolist()]
            items_BK = np.array([[self._row_of[item] for item in one.items_K] for one in shown])
            users = [str(one.user_id) for one in shown]
            found[rows] = self.world.value_of_BK(users, items_BK, time=time).mean(axis=1)
        return found

    def _wait(self, arrival: int, time: int, outcome: Outcome, user: str) -> None:
        self._count += 1
        heapq.heappush(self._waiting, (arrival, self._count, time, outcome, user))

    def _receive(self, log: EventLog) -> None:
        """Feedback that has arrived by now; the log's time moves on in the same transaction."""
        arrived = []
        while self._waiting and self._waiting[0][0] <= self.now:
            arrived.append(heapq.heappop(self._waiting))
        log.receive([outcome for *_, outcome, _ in arrived])
        for _, _, time, outcome, user in arrived:
            # a conversion comes behind its click, and is told in its place
            choice = Interaction(self._row_of[outcome.item_id], outcome.kind, time)
            mine = self._chosen.setdefault(user, [])
            self._chosen[user] = [c for c in mine if (c.item, c.time) != (choice.item, time)] + [choice]
