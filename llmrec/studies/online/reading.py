"""The study of two changes: a policy that was taught to read a session, frozen and going on.

A small model is taught as strangers' is (`studies.adaptation`), over sessions of people who choose for themselves and
whose interest may move, under the demand of the time before the month. Then a month of their visits comes, and demand
turns round when a third of it is over: at each visit so many choices stand in the session, a slate is drawn and
logged with its propensities, and the policy goes on learning from that log through the gate. Counts are made of the
same log. Who is asked at the end was met by nobody.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmrec.baselines.registry import baseline
from llmrec.config import ModelConfig, RewardSettings, ScenarioSettings
from llmrec.config_tree import Overrides, from_tree, merged, override_tree
from llmrec.dataset.world.scenario import DAY, DAYS, START
from llmrec.dataset.world.world import World
from llmrec.errors import ConfigError
from llmrec.files import read_json, write_json
from llmrec.online.cycle import Cycle, Decision
from llmrec.online.events import Logged
from llmrec.online.log import EventLog
from llmrec.online.simulated import from_policy, serve_days
from llmrec.online.traffic import TrafficSettings, WorldTraffic
from llmrec.online.update import OnlineSettings, Updater
from llmrec.online.versions import Versions
from llmrec.policy.loading import load_causal_lm
from llmrec.seeding import numpy_stream
from llmrec.studies.adaptation.choosing import (
    LONGEST,
    LOOKING,
    MOVES,
    SHARPNESS,
    Follower,
    choices,
    choosing_lessons,
    told,
    whose,
)
from llmrec.studies.adaptation.setting import Setting, StudySettings
from llmrec.studies.adaptation.strangers import taught
from llmrec.studies.online.arms import Means, events_of, item_means
from llmrec.studies.online.changes import (
    CHANGES,
    COUNTS,
    KNOWN,
    MEANS,
    MOVED,
    READ,
    SHIFTED,
    UNREAD,
    Asked,
    changes_answer,
    sides_of,
)
from llmrec.studies.online.month import FROZEN, UPDATED, Month
from llmrec.studies.study import SeedRows, Study
from llmrec.training.improvement import WarmStart
from llmrec.types import FloatArray, Ranker, State

SIZES = StudySettings(
    trained=1,
    users=1000,
    items=40,
    slates=2,
    new=300,
    examples=200,
    max_tokens=192,
    model=ModelConfig(nano_hidden=64, nano_layers=2, nano_vocabulary=2000, nano_pretrain_sequences=400),
)
SESSIONS = 1500
"""That lessons are made of."""
MONTH = Month(visits=300, days=18, temperature=1.5)
BEFORE = 1 / 3
"""Share of the month that is over when demand shifts."""


class SessionTraffic(WorldTraffic):
    """A world's people who come with a session of choices of their own, and of whom nothing else is known.

    Their interest may have moved within it, and is their own at its end.

    Args:
        world: whose people come; see `WorldTraffic` for the other arguments.
        users: the only ones who come.
    """

    def __init__(self, world: World, users: Sequence[str], settings: TrafficSettings, start: int, seed: int) -> None:
        super().__init__(world, settings, 0, start, seed)
        self.users = [user for user in self.users if user in set(users)]
        self._appeal: tuple[int, FloatArray] = (-1, np.empty(0))

    def state(self, user: str) -> State:
        """So many choices as chance will have it, by the demand of the day."""
        stream = numpy_stream(self.seed, "online", "session", user, self.now)
        if self._appeal[0] != self.now:
            self._appeal = self.now, self.world.expected_click_BN(self.users, self.now)
        row_T = whose(self.users.index(user), int(stream.integers(LONGEST + 1)), len(self.users), stream)
        return State(user, session=told(choices(self._appeal[1][row_T], stream)))


def changes_study(
    seeds: Sequence[int],
    out: Path,
    overrides: Overrides,
    month: Month = MONTH,
    *,
    sessions: int = SESSIONS,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Asks both changes in a world for each seed and returns the figures.

    Args:
        seeds: each has a world of its own, of another domain than the seed before.
        out: stages and answer are kept here.
        overrides: other values of `SIZES`, by key.
        month: that is played.
        sessions: that lessons are made of.
        json_file: the figures are also written here.

    Raises:
        ConfigError: a key or value that cannot be used, no session, or a warm start on more than one domain.
    """
    shift = ScenarioSettings(kind="shift", day=DAYS - month.days + round(BEFORE * month.days))
    sizes = replace(SIZES, scenario=shift, days=float(DAYS - month.days))
    settings = from_tree(StudySettings, merged(dataclasses.asdict(sizes), override_tree(overrides)), "--set")
    if sessions < 1 or settings.trained != 1 or settings.new < 2:
        raise ConfigError("Take one session or more, two new users or more (new), and one domain (trained).")

    def measure(seed: int) -> SeedRows:
        setting = Setting.of(seed, settings, out)
        domain = setting.trained[0]
        data_hash = domain.world.dataset.manifest.content_hash
        work, seen = setting.work, [data_hash, dataclasses.asdict(settings), sessions, SHARPNESS, LOOKING, MOVES]
        lessons = work.stage(
            "taught", seen, lambda folder, scratch: _teach(setting, sessions, month, folder, scratch)
        )
        key = [
            *seen,
            BEFORE,
            dataclasses.asdict(month),
            dataclasses.asdict(_updates(month, domain.world)),
            CHANGES,
        ]

        def build(folder: Path, scratch: Path) -> None:
            del scratch
            rows, facts = Reading(setting, month, lessons, work.folder / "month").measured()
            plain = {name: {change: value_B.tolist() for change, value_B in of.items()} for name, of in rows.items()}
            write_json(folder / "rows.json", {"rows": plain, "facts": facts})

        found = read_json(work.stage("changes", key, build) / "rows.json")
        rows = {name: {c: np.array(value_B) for c, value_B in of.items()} for name, of in found["rows"].items()}
        facts = found["facts"] | read_json(lessons / "facts.json")
        users = [f"{seed}/{user}" for user in domain.new]
        return SeedRows(seed, data_hash, rows, dict.fromkeys(CHANGES, users), facts)

    return Study(seeds, measure, changes_answer).run(out, json_file)


def _updates(month: Month, world: World) -> OnlineSettings:
    return replace(month.settings_of(), position_bias=world.config.position_bias)


def _start(month: Month) -> int:
    """When the month begins."""
    return START + (DAYS - month.days) * DAY


def _teach(setting: Setting, sessions: int, month: Month, out: Path, scratch: Path) -> None:
    """Writes the taught policy into `out`."""
    domain = setting.trained[0]
    teacher = Follower(domain.world, domain.met, _start(month))
    _, facts = taught(setting, choosing_lessons(teacher, sessions, setting.seed), out, scratch)
    write_json(out / "facts.json", facts)


@dataclass(frozen=True)
class Reading:
    """One seed.

    Attributes:
        setting: its world.
        month: that is played.
        model: the taught policy's folder.
        folder: of log and versions.
    """

    setting: Setting
    month: Month
    model: Path
    folder: Path

    def measured(self) -> tuple[dict[str, dict[str, FloatArray]], dict[str, Any]]:
        """True values of every side under both changes, and what became of the updates."""
        domain, seed, month = self.setting.trained[0], self.setting.seed, self.month
        start = _start(month)
        times = {MOVED: start, SHIFTED: start + month.days * DAY - 1}
        frozen = domain.place.policy(load_causal_lm(str(self.model)), self.setting.tokenizer)
        before = Follower(domain.world, domain.met, start)
        updater = self._updater()
        slates, decided = self._played(updater)
        shift = start + round(BEFORE * month.days) * DAY
        rows: dict[str, dict[str, FloatArray]] = {}
        for change in CHANGES:
            known = [one for one in slates if change == SHIFTED or one.time < shift]
            last = max(known, key=lambda one: one.seq).served.version
            updated = updater.policy(updater.versions.version(last))
            asked = Asked.of(domain.world, change, domain.new, times[change], seed)
            sides = sides_of(FROZEN, frozen) | sides_of(UPDATED, updated)
            for name, log in ((FROZEN, []), (UPDATED, known)):
                sides |= sides_of(f"{MEANS}, {name}", self._counted(MEANS, log), (UNREAD,))
                sides |= sides_of(f"{COUNTS}, {name}", self._counted(COUNTS, log), (READ,))
            sides |= sides_of(f"{KNOWN}, {FROZEN}", before, (READ,))
            sides |= sides_of(f"{KNOWN}, {UPDATED}", replace(before, time=times[change]), (READ,))
            for name, ranker in sides.items():
                rows.setdefault(name, {})[change] = asked.values(domain.world, ranker, month.places)
            for name, value_B in asked.known(domain.world, domain.met, month.places).items():
                rows.setdefault(name, {})[change] = value_B
        return rows, self._told(decided, shift)

    def _told(self, decided: Sequence[Decision], shift: int) -> dict[str, Any]:
        """What the cycle decided, before demand shifted and behind it."""

        def counted(kind: str) -> dict[str, int]:
            late = [one.time >= shift for one in decided if one.kind == kind]
            return {MOVED: late.count(False), SHIFTED: late.count(True)}

        alarms = [(one.time - _start(self.month)) // DAY + 1 for one in decided if one.kind == "alarm"]
        kinds = {kind: counted(kind) for kind in ("promoted", "refused", "taken back")}
        return {"domain": self.setting.trained[0].place.name, **kinds, "alarms": alarms}

    def _updater(self) -> Updater:
        """Of the policy that goes on from the taught one."""
        place, seed = self.setting.trained[0].place, self.setting.seed

        def start() -> WarmStart:
            # loaded anew, as an adapter is put on it in place
            return place.start(load_causal_lm(str(self.model)), self.setting.tokenizer, seed)

        settings = _updates(self.month, self.setting.trained[0].world)
        return Updater(Versions(self.folder / "versions"), start, RewardSettings(), settings, seed)

    def _played(self, updater: Updater) -> tuple[list[Logged], Sequence[Decision]]:
        """The month, in which the policy goes on: its slates, and what was decided."""
        domain, month, seed = self.setting.trained[0], self.month, self.setting.seed
        sizes = TrafficSettings(days=month.days, visits=month.visits, places=month.places)
        people = SessionTraffic(domain.world, domain.met, sizes, _start(month), seed)

        explorer = from_policy(seed, month.temperature)
        with EventLog(self.folder / "events.sqlite", window_s=people.window_s, clock=people.clock) as log:
            cycle = Cycle(updater, log)
            with cycle.alone():
                serve_days(people, log, cycle, explorer)
            return list(log.slates(mature=False)), cycle.progress.decisions

    def _counted(self, what: str, slates: Sequence[Logged]) -> Ranker:
        """Counts of the log before the month and of these slates."""
        dataset = self.setting.trained[0].world.dataset
        events = pl.concat([dataset.events, events_of(slates)], how="diagonal_relaxed")
        whole = dataset.with_events(events)
        if what == MEANS:
            newest = self.month.settings_of().newest * self.month.places
            return Means(item_means(whole, newest, RewardSettings()))
        return baseline("covisitation-fixed").fitted(whole, whole.events)
