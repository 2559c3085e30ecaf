"""Online learning on a generated world: a finished run serves its people and goes on learning, day by day."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmrec.config import RewardSettings
from llmrec.dataset.world.world import World
from llmrec.errors import ConfigError, RunError
from llmrec.files import read_json, write_json
from llmrec.finding import rules_of
from llmrec.online.cycle import Cycle, Decision
from llmrec.online.deployed import deployed
from llmrec.online.events import Logged
from llmrec.online.explore import Explorer, UnderRules, WithoutReplacement
from llmrec.online.log import EventLog
from llmrec.online.report import Days, by_day, write
from llmrec.online.serving import Drawn, Server
from llmrec.online.traffic import TrafficSettings, WorldTraffic
from llmrec.online.update import OnlineSettings
from llmrec.pipeline.data import open_data
from llmrec.pipeline.opening import read_config
from llmrec.pipeline.work import Work
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.progress import Bar
from llmrec.rules import Exposure, Rule, RuleBook, write_rules
from llmrec.storage import resolve, shown, work_folder

EVENTS, VERSIONS, SETTINGS = "events.sqlite", "versions", "simulation.json"
_FORMAT = "llmrec-online-1"


@dataclass(frozen=True)
class Simulated:
    """What a simulation has come to: days, decisions, and the moment it began."""

    days: Days
    decisions: tuple[Decision, ...]
    start: int


def simulate(
    run: Path,
    out: Path,
    settings: OnlineSettings,
    traffic: TrafficSettings,
    *,
    temperature: float,
    seed: int,
    rules: Sequence[Rule] | None = None,
) -> Simulated:
    """Serves the world of the run `run` from the day on at which its test period begins, and learns meanwhile.

    A simulation that was stopped or killed goes on; its result is that of an undisturbed one.

    Args:
        run: a finished run on a generated world, with its working folder.
        out: log, versions and report are kept here.
        settings: of updates; `position_bias` is the world's.
        traffic: how many people come.
        temperature: of the slates, which are drawn from the policy; below 1 explores less.
        seed: of people, slates and updates.
        rules: that every slate obeys; None: those of the run's configuration.

    Raises:
        ConfigError: settings that cannot work, a run on other data, or rules that contradict one another or name what
            no item has.
        RunError: no run, or `out` holds another simulation.
        Busy: another process works in `out`.
    """
    out = resolve(out)
    world, start, history = _world_of(run)
    settings = replace(settings, position_bias=world.config.position_bias)
    if not temperature > 0:
        raise ConfigError(f"The temperature is {temperature}; it must be above 0.")
    people = WorldTraffic(world, traffic, history, start, seed)
    updater = deployed(run, out / VERSIONS, settings, seed=seed)
    told = {"format": _FORMAT, "origin": updater.origin, "seed": seed, "temperature": temperature}
    told |= {"traffic": asdict(traffic), "settings": asdict(settings)}
    rules = rules_of(run) if rules is None else rules
    explorer = _explorer(people, rules, seed, temperature)
    if rules:
        told["set of rules"] = write_rules(rules)
    _check_same(out / SETTINGS, told)
    with EventLog(out / EVENTS, window_s=people.window_s, clock=people.clock) as log:
        if not (out / SETTINGS).is_file():
            write_json(out / SETTINGS, told)
        cycle = Cycle(updater, log)
        with cycle.alone():
            serve_days(people, log, cycle, explorer)
            slates = list(log.slates(mature=False))
            found = report_of(slates, people, cycle.progress.decisions, updater.reward)
            facts = {
                **told,
                "run": str(run),
                "slates": len(slates),
                "version served": updater.versions.serving().number,
            }
            title = "What was served, day by day"
            write(out, found.days, found.decisions, start, title=title, facts=facts)
    return found


def from_policy(seed: int, temperature: float) -> Drawn:
    """Slates drawn from a policy itself."""

    def explorer(policy: LanguagePolicy, heat: float) -> Explorer:
        return WithoutReplacement(policy, seed, temperature * heat)

    return explorer


def _explorer(people: WorldTraffic, rules: Sequence[Rule], seed: int, temperature: float) -> Drawn:
    """How the slates of a version are drawn; all versions count what was shown today together."""
    plain = from_policy(seed, temperature)
    if not rules:
        return plain
    items = people.world.dataset.item_list
    # a day's slates stand in the log together, so a simulation that goes on has none of today's to count
    book, exposure = RuleBook.of(rules, items), Exposure(clock=people.clock)
    return lambda policy, heat: UnderRules(plain(policy, heat), book, items, exposure)


def serve_days(
    people: WorldTraffic,
    log: EventLog,
    cycle: Cycle,
    explorer: Drawn,
    *,
    until: int | None = None,
    each: Callable[[int], object] = lambda day: None,
) -> None:
    """All days of the traffic, with the cycle between a day's feedback and its slates.

    Args:
        people: the traffic.
        log: of it; days that stand in it are not served again.
        cycle: looks after the versions.
        explorer: turns a version's policy into slates.
        until: the first day that is left; by default all slates ripen.
        each: called before each day.
    """
    server, first = Server(cycle, explorer), people.resume(log)
    days = people.last + 1 if until is None else until
    with Bar("Serving", max(0, days - first)) as bar:
        for day in range(first, days):
            each(day)
            people.day(day, log, server.slates, cycle.step)
            bar.advance(1, f"version {cycle.updater.versions.serving().number}")


def report_of(
    slates: list[Logged], people: WorldTraffic, decisions: tuple[Decision, ...], reward: RewardSettings
) -> Simulated:
    """Slates by day with their true values."""
    days = by_day(slates, reward, people.start, people.values(slates))
    return Simulated(days, decisions, people.start)


def _world_of(run: Path) -> tuple[World, int, int]:
    """The world of a run, when its test period begins, and what its states keep."""
    config = read_config(run)
    if config.data.dataset != "world":
        raise ConfigError(
            f"{shown(run)} was made on real data, whose people cannot be simulated; serve them, and learn from the "
            "log by `llmrec online update`."
        )
    place = work_folder(run)
    if not place.is_dir():
        raise RunError(
            f"{shown(run)} has no working folder {shown(place)}, which holds its world; take a run made here."
        )
    data = open_data(config, Work(place, finished_only=True))
    if data.world is None or data.split.cut_test is None:
        raise ConfigError(
            "People are simulated from the test period on, and this split has none; set data.split: time."
        )
    return data.world, data.split.cut_test, config.data.history_events


def _check_same(place: Path, told: dict[str, Any]) -> None:
    """Refuses to go on with a simulation of other settings."""
    if not place.is_file():
        return
    # as JSON has it: tuples come back as lists
    before, told = read_json(place), json.loads(json.dumps(told))
    known = before if isinstance(before, dict) else {}
    here = [key for key in {**known, **told} if known.get(key) != told.get(key)]
    if here:
        raise RunError(
            f"{shown(place.parent)} holds a simulation with another {' and another '.join(sorted(here))}; give the "
            "command that began it, or another --out."
        )
