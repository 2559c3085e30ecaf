"""Run folders to a page: what a folder tells, what it does not hold, and the report of one or several runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmrec.errors import RequestError, RunError
from llmrec.evaluation.reporting.contents import RunReport, SlateChange
from llmrec.evaluation.reporting.page import Page
from llmrec.evaluation.reporting.record import RECORD, fingerprint, read_record
from llmrec.evaluation.reporting.reported_run import MEASUREMENTS, ReportedRun, RowFigures
from llmrec.evaluation.reporting.write import FIGURES, HTML, MARKDOWN, write_page
from llmrec.export import CARD, read_facts
from llmrec.files import check_writable, matching, new_folder
from llmrec.storage import resolve, work_folder


def report_runs(runs: Sequence[Path], out: Path, *, command: str, users: bool = True) -> Path:
    """Writes the report of finished runs into the folder `out`, whole or not at all.

    Args:
        runs: run folders, each once; several stand side by side, and the first is what others are held against.
        out: a new folder, or one that holds a report already.
        command: the command line that asks for it, for the page.
        users: show a few users' slates with their histories, from the runs' working folders.

    Returns:
        The path of the HTML page.

    Raises:
        RequestError: no run, or one that is named twice.
        RunError: not a run folder or one of another version, or `out` holds something else.
    """
    out = resolve(out)
    check_place(out, runs)
    check_writable(out)
    told = read_runs(runs, users=users)
    with new_folder(out, ours=matching(HTML, MARKDOWN, f"{FIGURES}/*")) as folder:
        write_page(folder, Page(told, [command]))
    return out / HTML


def check_place(out: Path, runs: Sequence[Path]) -> None:
    """Refuses to put a report where something else lies, or into one of its runs."""
    for run in runs:
        if out.resolve() in (run.resolve(), *run.resolve().parents):
            raise RunError(f"--out {out} is the run {run} or holds it; name a folder of the report's own.")
    if out.is_dir():
        strange = sorted(p.name for p in out.iterdir() if p.name not in (HTML, MARKDOWN, FIGURES))
        if strange:
            raise RunError(f"{out} holds {strange[0]!r} and is not a report's folder; give another --out.")
    elif out.exists():
        raise RunError(f"{out} is a file; give another --out.")


def read_runs(folders: Sequence[Path], *, users: bool = True) -> list[ReportedRun]:
    """The runs with the names that they have on a page."""
    if not folders:
        raise RequestError("Name at least one run folder.")
    places = [folder.resolve() for folder in folders]
    for n, place in enumerate(places):
        if place in places[:n]:
            raise RequestError(f"The run {folders[n]} is named twice; name each run once.")
    names = short_names(places)
    return [read_run(folder, name, users=users) for folder, name in zip(folders, names, strict=True)]


def short_names(places: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as few as tell them apart."""
    for depth in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]


def read_run(folder: Path, name: str, *, users: bool = True) -> ReportedRun:
    """What a run folder and, where it is there, the working folder beside it tell.

    Raises:
        RunError: not a run folder, or of another version, or a report in it that cannot be read.
    """
    read_facts(folder)
    if not (folder / RECORD).is_file():
        raise RunError(
            f"{folder} has no {RECORD}, so {CARD} is of an older llmrec or `llmrec items` made the folder; give the "
            "run that it came from, after its own command again (finished stages are kept)."
        )
    report = read_record(folder / RECORD)
    work = work_folder(folder) / "report"
    absent = [f"{name}: {said}" for said in _empty(report)]
    slates: Sequence[SlateChange] = ()
    measured = None
    if not (work / RECORD).is_file():
        absent.append(f"{name}: slates of users and figures by row; {work.parent.name} is not beside the run folder.")
    elif fingerprint(work / RECORD) != fingerprint(folder / RECORD):
        absent.append(f"{name}: slates of users and figures by row; {work.parent.name} is not of this run.")
    else:
        measured = RowFigures.load(work / MEASUREMENTS)
        slates = read_record(work / RECORD).slates if users else ()
        if not users:
            absent.append(f"{name}: slates of users; they were not asked for.")
    return ReportedRun(name, dataclasses.replace(report, slates=slates), measured, tuple(absent))


def _empty(report: RunReport) -> Iterator[str]:
    """What a run may have and this one has not."""
    if not report.tables:
        yield "comparison; the run holds no table."
    if not report.groups:
        yield "groups of users and items; no two of them have 30 rows."
    if report.gate is None:
        yield "trust gate; no checkpoint came to it."
    if not report.sft_curve:
        yield "loss of supervised fine-tuning; none was logged."
    if not report.curve:
        yield f"training curves of {report.algorithm}; none were logged."
    if report.reward_model is None:
        yield "learned reward model; only RLHF has one."
    if not any("turns" in entry for entry in report.curve):
        yield "sessions; the training met users one recommendation at a time."
    if not report.reliability:
        yield "reliability of the simulators; no held-out event was logged."
