"""`llmrec evaluate`: baselines and finished runs on data, the ones that these were made with or new ones."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from llmrec.errors import RequestError
from llmrec.printing import command, short_line

BASELINES = ["popularity", "covisitation"]


def evaluate_command(
    data: Annotated[Path, typer.Option(help="A data set's folder (llmrec data import).")],
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN...]", help="Run folders or Hub ids; none for baselines alone.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="The test is all from this moment on, a date (2026-11-01) or seconds: for data that go on from "
            "those of the run."
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Without --since: time, leave-last-out or given, as the run was trained.")
    ] = "time",
    baselines: Annotated[
        list[str], typer.Option("--baseline", help="Baselines beside the runs, or all; may be repeated.")
    ] = BASELINES,
    defaults: Annotated[
        bool, typer.Option("--defaults", help="Baselines as they are by default; nothing is selected.")
    ] = False,
    reference: Annotated[
        str | None, typer.Option(help="What the others are compared with; the first baseline, of all popularity.")
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option(help="Rules that the runs' lists obey, a YAML file (docs/rules.md; default: each run's own)."),
    ] = None,
    k: Annotated[
        list[int] | None, typer.Option("--k", min=1, help="A cut-off; may be repeated. By default 1, 5 and 10.")
    ] = None,
    history_events: Annotated[int, typer.Option(min=0, help="Interactions that a state tells of.")] = 20,
    test_events: Annotated[int, typer.Option(min=0, help="A uniform sample of this many; 0 takes all.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of samples and intervals.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this JSON file.")] = None,
) -> None:
    """Ranks held-out events by finished runs and baselines, over the whole catalogue, with paired intervals.

    A run may meet data that it was not made with: items are matched by their ids, and those that it does not know are
    counted as missed. Baselines take the settings that rank the validation events best and learn from the training
    events alone. Leaks are refused, and so is a run that was trained on another split of these data.
    """
    import sys

    from llmrec.cli.data import load_dataset
    from llmrec.files import write_json
    from llmrec.studies.held_out import ALL, held_out

    found = held_out(
        load_dataset(data),
        data=data,
        runs=runs or (),
        systems=baselines,
        split=split,
        since=None if since is None else _seconds(since),
        reference=reference or ("popularity" if baselines[0] == ALL else baselines[0]),
        test_events=test_events or None,
        history_events=history_events,
        k=k,
        defaults=defaults,
        seed=seed,
        rules=rules,
    )
    found.show()
    if json_file is not None:
        write_json(json_file, {"command": command(["llmrec", *sys.argv[1:]]), **found.to_json()})


def _seconds(text: str) -> int:
    """Seconds of a date or moment, UTC where it does not say."""
    if text.lstrip("-").isdecimal() and len(text) > 4:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(
            f"--since is {short_line(text)!r}; give a date such as 2026-11-01, or seconds since 1970."
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
