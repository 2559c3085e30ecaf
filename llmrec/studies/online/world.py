"""A month of traffic in a world whose demand shifts in the middle: who notices, and how soon?

People of a generated world meet, on the same days and with the same luck, a policy that stays as it is, two that go
on learning (`llmrec.online`), one that is trained anew every block of days on all that is known by then, and what is
counted anew as often: item worths beside the policy that stays, which are what an update would teach it,
co-visitation and means of items. Each learns from its own traffic alone. The informed optimum, which knows the world
and its shift but not the people (docs/world.md), is asked at the states in which they were when the month began, as
it cannot read what other policies have shown; it is the ceiling, but for what the month tells of people.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from llmrec.baselines.registry import baseline
from llmrec.config import RewardSettings, RunConfig
from llmrec.config_tree import Overrides
from llmrec.dataset.world.scenario import DAY, DAYS, START
from llmrec.files import read_json, write_json
from llmrec.online.cycle import Cycle
from llmrec.online.events import Logged
from llmrec.online.explore import EpsilonGreedy, Explorer, WithoutReplacement
from llmrec.online.log import EventLog
from llmrec.online.replay import parted, replay
from llmrec.online.report import by_day, draw
from llmrec.online.simulated import from_policy, serve_days
from llmrec.online.traffic import TrafficSettings, WorldTraffic
from llmrec.online.update import ADAPTER, Updater
from llmrec.online.versions import VERSION, Version, Versions
from llmrec.pipeline.base_model import Base, base_model
from llmrec.pipeline.data import RunData, open_data
from llmrec.pipeline.recipes import demo_config
from llmrec.pipeline.sft import SFTStage, sft_policy, sft_stage, warm_start
from llmrec.pipeline.work import Work
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.progress import Bar
from llmrec.studies.online.arms import Alone, Means, cut, events_of, item_means, reranked, serve_by
from llmrec.studies.online.month import (
    AFTER,
    ALONE,
    BEFORE,
    COUNTS,
    END,
    FROZEN,
    INFORMED,
    LEARNERS,
    RERANKED,
    RETRAINED,
    UPDATED,
    Month,
)
from llmrec.studies.online.telling import answer_of
from llmrec.studies.study import SeedRows, Study
from llmrec.training.lora import Adapter, load_adapter
from llmrec.types import FloatArray, Ranker

WORLD: Mapping[str, Any] = {
    "world.users": 500,
    "world.items": 60,
    "world.slates_per_user": 8,
    "world.scenario.kind": "shift",
    "data.valid_fraction": 0.05,
    "model.nano_hidden": 64,
    "model.nano_layers": 2,
    "model.nano_vocabulary": 1024,
    "model.nano_pretrain_sequences": 600,
    "sft.examples": 2500,
    "sft.epochs": 6,
    # so long that the output head, which adapters leave as it is, is large enough to be sure of anything
    "sft.learning_rate": 3e-3,
    "sft.mixture": {"next_item": 1.0},
}
"""A small world and a small model: a month with seven arms in ten minutes of a core."""


def month_study(
    seeds: Sequence[int], out: Path, overrides: Overrides, month: Month, json_file: Path | None
) -> dict[str, Any]:
    """Plays the month in a world for each seed and returns the figures."""

    def measure(seed: int) -> SeedRows:
        return _measured(seed, out / f"world-{seed}", overrides, month)

    return Study(seeds, measure, lambda pooled: answer_of(pooled, month)).run(out, json_file)


def _config(seed: int, overrides: Overrides, month: Month) -> RunConfig:
    """The world of a seed: the month is the end of its log, in whose place the played traffic stands."""
    begins = DAYS - month.days
    own = {**WORLD, "data.test_fraction": month.days / (DAYS - 2), "world.scenario.day": begins + month.days / 2}
    return demo_config(seed, {**own, **overrides})


def _measured(seed: int, folder: Path, overrides: Overrides, month: Month) -> SeedRows:
    """One world: all arms, or what they gave before."""
    config = _config(seed, overrides, month)
    work = Work(folder)
    learning = [dataclasses.asdict(month.settings_of(arm)) for arm in month.learning]
    key = [config.tree(), dataclasses.asdict(month), learning]

    def build(place: Path, scratch: Path) -> None:
        del scratch
        rows, facts, data_hash = Played.of(config, month, work).all()
        write_json(place / "rows.json", {"rows": rows, "facts": facts, "hash": data_hash})

    told = read_json(work.stage("month", key, build) / "rows.json")
    rows = {side: {m: np.array(v) for m, v in own.items()} for side, own in told["rows"].items()}
    return SeedRows(seed, told["hash"], rows, facts=told["facts"])


@dataclass(frozen=True)
class Played:
    """A world at the beginning of its month, and what plays it."""

    config: RunConfig
    month: Month
    work: Work
    data: RunData
    base: Base
    stage: SFTStage
    policy: LanguagePolicy
    start: int

    @classmethod
    def of(cls, config: RunConfig, month: Month, work: Work) -> Played:
        """Trains the policy that all arms begin with."""
        data = open_data(config, work)
        start = START + (DAYS - month.days) * DAY
        known = data.dataset.events.filter(pl.col("time") < start)
        data = cut(data, known)
        base = base_model(config, data, work)
        stage = sft_stage(config, data, base, work)
        return cls(config, month, work, data, base, stage, sft_policy(config, data, stage), start)

    def people(self, days: int | None = None) -> WorldTraffic:
        """The same people for every arm."""
        month = self.month
        settings = TrafficSettings(days=days or month.days, visits=month.visits, places=month.places)
        assert self.data.world is not None
        return WorldTraffic(self.data.world, settings, self.config.data.history_events, self.start, self.config.seed)

    def all(self) -> tuple[dict[str, Any], dict[str, Any], str]:
        """Rows of every side, facts, and the hash of the data."""
        values: dict[str, FloatArray] = {}
        facts: dict[str, Any] = {}
        month = self.month
        slates: list[Logged] = []
        for arm in month.played:
            began, cpu = time.monotonic(), time.process_time()
            folder = self.work.folder / "arms" / arm.replace(" ", "-").replace(",", "")
            if arm in LEARNERS:
                slates, facts[arm] = self._updated(arm, folder)
            else:
                slates, facts[arm] = self._played(arm, folder), {}
            values[arm] = self.people().values(slates)
            facts[arm] |= {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
        values[INFORMED] = self._informed(slates)
        facts["by_day"] = {arm: value.reshape(month.days, -1).mean(1).tolist() for arm, value in values.items()}
        rows = {
            arm: {part: value.tolist() for part, value in self._parts(value).items()} for arm, value in values.items()
        }
        return rows, facts, self.data.dataset.manifest.content_hash

    def _parts(self, value_M: FloatArray) -> dict[str, FloatArray]:
        """Slates before and after the shift, and of the last days."""
        visits, half = self.month.visits, self.month.days // 2
        parts = {BEFORE: value_M[: half * visits], AFTER: value_M[half * visits :], END: value_M[-5 * visits :]}
        return {name: np.asarray(part) for name, part in parts.items()}

    def _played(self, arm: str, folder: Path) -> list[Logged]:
        """The month of an arm without versions, whose slates are made by what it last learnt."""
        people, month = self.people(), self.month
        explorer: Explorer | None = None
        made_at = -1

        def explorer_at(day: int, slates: list[Logged]) -> Explorer:
            block = day // month.block * month.block
            told = [one for one in slates if one.time < people.time_of(block)]
            if arm == FROZEN or (arm == RETRAINED and not block):
                return WithoutReplacement(self.policy, self.config.seed, month.temperature)
            if arm == RETRAINED:
                data = self._with(told)
                work = Work(folder / f"block-{block}")
                policy = sft_policy(self.config, data, sft_stage(self.config, data, self.base, work))
                return WithoutReplacement(policy, self.config.seed, month.temperature)
            data, ranker = self.data, self._counted(arm, told, folder)
            return EpsilonGreedy(ranker, data.dataset.n_items, month.epsilon, self.config.seed, repeat="allow")

        with EventLog(folder / "events.sqlite", window_s=people.window_s, clock=people.clock) as log:
            first = people.resume(log)
            with Bar(arm, max(0, people.last + 1 - first)) as bar:
                for day in range(first, people.last + 1):
                    begins = day // month.block
                    if day < month.days and (explorer is None or begins != made_at):
                        explorer, made_at = explorer_at(day, list(log.slates(mature=False))), begins
                    people.day(day, log, serve_by(explorer, people))
                    bar.advance(1)
            return list(log.slates(mature=False))

    def _counted(self, arm: str, told: Sequence[Logged], folder: Path) -> Ranker:
        """The lists of an arm that counts, by what is told."""
        if arm == RERANKED:
            return reranked(self.policy, told, self._updater(folder)) or self.policy
        data = self._with(told)
        if arm == COUNTS:
            found: Ranker = baseline("covisitation-fixed").fitted(data.dataset, data.dataset.events)
            return found
        newest = self.month.settings_of().newest * self.month.places
        return Means(item_means(data.dataset, newest, self.config.reward))

    def _with(self, slates: Sequence[Logged]) -> RunData:
        """All that is known by then: the log before the month, and the slates with what has come of them."""
        events = pl.concat([self.data.dataset.events, events_of(slates)], how="diagonal_relaxed")
        return cut(self.data, events)

    def _updated(self, arm: str, folder: Path) -> tuple[list[Logged], dict[str, Any]]:
        """The month of the policy that goes on, and what becomes of bad versions behind it."""
        month, seed = self.month, self.config.seed
        people = self.people(month.days + month.after)

        updater = self._updater(folder, arm)
        explorer = from_policy(seed, month.temperature)
        with EventLog(folder / "events.sqlite", window_s=people.window_s, clock=people.clock) as log:
            cycle = Cycle(updater, log)
            with cycle.alone():
                serve_days(people, log, cycle, explorer, until=month.days)
                bad = self._bad(updater, log, folder)
                # what comes of the bad versions alone is looked at behind the month
                quiet = dataclasses.replace(updater.settings.cycle, every=10**9, trial_pairs=10**6, drift_level=0.0)
                last = dataclasses.replace(updater, settings=dataclasses.replace(updater.settings, cycle=quiet))
            forced = Cycle(last, log)
            with forced.alone():
                serve_days(people, log, forced, explorer)
            slates = list(log.slates(mature=False))
        whole = [one for one in slates if one.time < people.time_of(month.days)]
        decided = forced.progress.decisions
        days = by_day(whole, self.config.reward, self.start, people.values(whole))
        svg = draw(
            days, [d for d in decided if d.time < people.time_of(month.days)], self.start, f"The policy: {arm}"
        )
        kinds = [d.kind for d in decided if d.time < people.time_of(month.days)]
        return whole, {
            "promoted": kinds.count("promoted"),
            "refused": kinds.count("refused"),
            "taken back": kinds.count("taken back"),
            "alarms": [(d.time - self.start) // DAY + 1 for d in decided if d.kind == "alarm"],
            "bad": {**bad, **_came_of(slates, decided, bad["forced"], self.start)},
            "svg": svg,
        }

    def _bad(self, updater: Updater, log: EventLog, folder: Path) -> dict[str, Any]:
        """Puts bad versions to the gate, and one past it: of noise, and of feedback that was turned round."""
        file = folder / "bad.json"
        if file.is_file():
            found: dict[str, Any] = read_json(file)
            return found
        versions = updater.versions
        number = versions.serving().number
        assert number is not None
        served = load_adapter(versions.version(number).folder / ADAPTER)
        random = torch.Generator().manual_seed(self.config.seed)
        tensors = {name: torch.randn(t.shape, generator=random) * 0.3 for name, t in served.tensors.items()}
        noise = Adapter(served.config, tensors)
        reward = self.config.reward
        turned = RewardSettings(click=-reward.click, conversion=-reward.conversion)
        copied = folder / "turned"
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(versions.folder, copied)
        other = dataclasses.replace(updater, versions=Versions(copied), reward=turned)
        newest = list(log.slates())[-updater.settings.newest :]
        made = other.update(log, folder / "turned.work", after=newest[0].seq)
        reverse = other.versions.version(made.number)
        held = replay(parted(newest, updater.settings.held_out, updater.seed)[1], updater.row_of, reward)
        found = {}
        for name, write in (
            ("noise", lambda place: noise.save(place / ADAPTER)),
            ("turned", partial(_copy, reverse)),
        ):
            added = versions.add(write, {"made": name})
            verdict = updater.judge(added.number, held)
            gain = None if verdict.gain is None else dataclasses.asdict(verdict.gain)
            found[name] = {"version": added.number, "promoted": verdict.promoted, "gain": gain}
        found["forced"] = found["noise"]["version"]
        versions.promote(found["forced"], "promoted without the gate")
        write_json(file, found)
        return found

    def _informed(self, slates: Sequence[Logged]) -> FloatArray:
        """True values of what is best to show to each visitor by the state at the beginning, at the slate's time."""
        people, world = self.people(), self.data.world
        assert world is not None
        found = np.zeros(len(slates))
        half = people.time_of(self.month.days // 2)
        for late in (False, True):
            rows = [row for row, one in enumerate(slates) if (one.time >= half) == late]
            users = sorted({str(slates[row].served.user_id) for row in rows})
            states = [people.state(user) for user in users]
            moment = half if late else self.start
            reward = self.config.reward
            told = world.informed_optimum(
                states, self.month.places, reward.click, reward.conversion, moment, particles=128, least=32
            )
            value_B = world.value_of_BK(users, told.items_BK, time=moment).mean(1)
            of = dict(zip(users, value_B.tolist(), strict=True))
            found[rows] = [of[str(slates[row].served.user_id)] for row in rows]
        return found

    def _updater(self, folder: Path, arm: str = UPDATED) -> Updater:
        """Of the policy that goes on, in the arm's folder."""

        def start() -> Any:
            # loaded anew, as an adapter is put on it in place
            policy = sft_policy(self.config, self.data, self.stage)
            return warm_start(self.config, self.data, policy)

        versions, made = Versions(folder / "versions"), Alone if arm == ALONE else Updater
        settings = self.month.settings_of(arm)
        return made(versions, start, self.config.reward, settings, self.config.seed)


def _copy(version: Version, place: Path) -> None:
    """The files of a version but for what is said of it."""
    shutil.copytree(version.folder, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns(VERSION))


def _came_of(slates: Sequence[Logged], decided: Any, forced: int, start: int) -> dict[str, Any]:
    """What became of the version that was promoted without the gate."""
    back = [one for one in decided if one.kind == "taken back" and one.version == forced]
    mine = [one for one in slates if one.served.version == forced]
    if not back:
        return {"taken back": False, "slates": len(mine)}
    later = [one for one in mine if one.time > back[0].time + 3 * DAY]
    return {
        "taken back": True,
        "day": (back[0].time - start) // DAY + 1,
        "slates": len(mine),
        "served three days later": len(later),
        "reason": back[0].reason,
    }
