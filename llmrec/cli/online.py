"""`llmrec online`: a run that goes on learning from those it serves."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from llmrec.cli.filter_options import Rules
from llmrec.cli.told import AsJson, Told, tell
from llmrec.printing import echo, json_line

online_app = typer.Typer(help="Learn while serving: log, updates behind a gate, versions.", no_args_is_help=True)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")]
Place = Annotated[Path, typer.Argument(metavar="VERSIONS", help="The folder of the versions.")]
Events = Annotated[str, typer.Option("--events", help="The event log.")]
Sets = Annotated[
    list[str],
    typer.Option("--set", help="A setting of updates, for example --set cycle.every=2000 (docs/online.md)."),
]


@online_app.command()
def simulate(
    run: Run,
    out: Annotated[Path, typer.Option("--out", help="Log, versions and report; the same command goes on in it.")],
    days: Annotated[int, typer.Option(help="Days of traffic.")] = 30,
    visits: Annotated[int, typer.Option(help="Slates a day.")] = 200,
    places: Annotated[int, typer.Option("-k", help="Items of a slate.")] = 5,
    temperature: Annotated[float, typer.Option(help="Of the slates that are drawn; below 1 explores less.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of people, slates and updates.")] = 0,
    rules: Rules = None,
    overrides: Sets = [],  # noqa: B006 (typer needs a literal; it is never changed)
    as_json: AsJson = False,
) -> None:
    """Serves the people of a run's generated world from its test period on, and learns from what they do."""
    from llmrec.online.report import sentence
    from llmrec.online.simulated import simulate as simulated
    from llmrec.online.traffic import TrafficSettings
    from llmrec.rules import read_rules

    asked = None if rules is None else read_rules(rules)
    traffic = TrafficSettings(days=days, visits=visits, places=places)
    found = simulated(run, out, _settings(overrides), traffic, temperature=temperature, seed=seed, rules=asked)
    lines = [f"day {(one.time - found.start) // 86_400 + 1}: {sentence(one)}" for one in found.decisions]
    lines.append(f"Reward by day, versions and decisions: {out / 'report.md'}")
    told = [asdict(one) for one in found.decisions]
    tell(Told("\n".join(lines), report=str(out / "report.md"), start=found.start, decisions=told), as_json)


@online_app.command()
def update(
    run: Run,
    versions: Place,
    events: Events,
    overrides: Sets = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Makes one update from a log that another program writes: watch, learn, judge, and promote or refuse.

    The first call serves the run itself as version 1. Slates that were looked at before are not looked at again.
    """
    from llmrec.online.cycle import Cycle
    from llmrec.online.deployed import deployed
    from llmrec.online.log import EventReader
    from llmrec.online.report import sentence

    with EventReader(events) as reader:
        cycle = Cycle(deployed(run, versions, _settings(overrides)), reader)
        known = len(cycle.progress.decisions)
        try:
            with cycle.alone():
                cycle.update()
        finally:
            made = cycle.progress.decisions[known:]
            for one in made if not as_json else ():
                echo(sentence(one))
    number = cycle.updater.versions.serving().number
    tell(Told(f"Version {number} is served.", serving=number, decisions=[asdict(one) for one in made]), as_json)


@online_app.command()
def status(
    versions: Place,
    events: Annotated[str | None, typer.Option("--events", help="The event log, for what its slates earned.")] = None,
    as_json: AsJson = False,
) -> None:
    """Says what is served, what was decided, and what stands in the log."""
    from llmrec.errors import RunError
    from llmrec.online.cycle import Progress
    from llmrec.online.log import EventReader
    from llmrec.online.report import sentence
    from llmrec.online.versions import Versions
    from llmrec.storage import shown

    held = Versions(versions)
    serving, progress = held.serving(), Progress.read(held.folder)
    if serving.number is None:
        raise RunError(f"{shown(versions)} serves nothing; give the folder of versions that `llmrec online` made.")
    told: dict[str, Any] = {"serving": asdict(serving), "versions": held.numbers(), "progress": asdict(progress)}
    alarm = progress.alarm
    told["unanswered_alarm"] = None if alarm is None else {"seq": alarm.seq}
    if events is not None:
        with EventReader(events) as reader:
            told["log"] = reader.counts()
            if alarm is not None:
                told["unanswered_alarm"]["slates_since"] = reader.count(alarm.seq, progress.seq)
    if as_json:
        echo(json_line(told))
        return
    echo(f"Version {serving.number} of {len(held.numbers())} is served: {serving.reason or 'no reason was given'}.")
    if progress.trial is not None:
        echo(f"It is on trial against version {progress.trial.old}.")
    for one in progress.decisions:
        echo(f"slate {one.seq}: {sentence(one)}")
    if alarm is not None:
        seen = told["unanswered_alarm"].get("slates_since")
        echo(
            f"No update has answered the alarm at slate {alarm.seq} yet"
            + (f" ({seen:,} slates have ripened since)" if seen is not None else "")
            + ": until one does, or cycle.search_slates have ripened, draw slates hotter (cycle.search_heat)."
        )
    if "log" in told:
        counts = told["log"]
        echo(
            f"{counts['slates']:,} slates, {counts['outcomes']:,} reports, {counts['late']:,} of them too late; the "
            f"clock has jumped back {counts['jumps']} times."
        )


@online_app.command()
def rollback(
    versions: Place,
    reason: Annotated[str, typer.Option(help="Why, for those who ask later.")] = "taken back by hand",
    as_json: AsJson = False,
) -> None:
    """Takes the served version back: the one before it is served again, and the one taken back never more."""
    from llmrec.online.versions import Versions

    serving = Versions(versions).roll_back(reason)
    tell(Told(f"Version {serving.number} is served.", serving=serving.number), as_json)


@online_app.command()
def record(
    events: Annotated[
        str,
        typer.Argument(metavar="LOG", help="The event log, a file or postgresql://...; made where there is none."),
    ],
    slates: Annotated[Path | None, typer.Option(help="Slates that were shown, a JSON object a line.")] = None,
    feedback: Annotated[Path | None, typer.Option(help="What came of them, a JSON object a line.")] = None,
    window_days: Annotated[float, typer.Option(help="Days within which feedback counts.")] = 7.0,
    as_json: AsJson = False,
) -> None:
    """Takes slates and feedback of another program into an event log; lines that stand in it count once."""
    from llmrec.errors import RequestError
    from llmrec.online.log import EventLog
    from llmrec.online.record import record as taken

    if slates is None and feedback is None:
        raise RequestError("Name a file of --slates, of --feedback, or both.")
    with EventLog(events, window_s=round(window_days * 86_400)) as log:
        served, reports, late = taken(log, slates, feedback)
        place = log.place
    said = f"{served:,} slates and {reports:,} reports are new in {place}; {late:,} reports came too late to count."
    tell(Told(said, slates=served, reports=reports, late=late), as_json)


def _settings(overrides: list[str]) -> Any:
    from llmrec.config_tree import from_tree, override_tree, parse_overrides
    from llmrec.online.update import OnlineSettings

    tree = override_tree(parse_overrides(overrides, OnlineSettings))
    return from_tree(OnlineSettings, tree, "the command line")
