"""A finished table's rows under perturbed states: the same systems, their own test rows, the loss against the clean.

Nothing is chosen or trained here. Settings and trained policies are found where the table was made (`OUT`), and what
is not finished there is refused. Baselines are fitted to everything before the test period, as for the table; those
that read item texts, and the second score of a mixture, are fitted anew where texts change, with the settings already
chosen. Policies word the view. Rows that depend on chance are those of the table's first seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from llmrec.dataset.examples import Examples, sample
from llmrec.evaluation.ranking import ranking_metrics
from llmrec.pipeline.work import DONE, Unfinished, Work
from llmrec.printing import command as shell_command
from llmrec.printing import one_line, shell_word
from llmrec.progress import console
from llmrec.studies.robustness_table import CLEAN, Robustness, robustness_table, standard_perturbations
from llmrec.studies.table.entries import Answer, Entry, kept, width
from llmrec.studies.table.policies import FIRST
from llmrec.studies.table.protocol import Protocol, TableData, open_table
from llmrec.studies.table.roster import FUSED, LM, RL, roster
from llmrec.types import IntArray, Ranker

USUAL = ("popularity", "covisitation", "interpolation", LM, RL, FUSED)
"""The rows that are taken, as far as they are there, where none is asked for."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FinishedRow:
    """A finished row: `entry` with nothing left to choose, and the lists that it gave under the first seed."""

    entry: Entry
    answer: Answer


def run_perturbed(
    protocol: Protocol,
    out: Path,
    *,
    source: Path | None = None,
    only: Sequence[str] = (),
    limit: int | None = None,
    k: int = 10,
    seed: int = 0,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Ranks the test rows of the table in `out`, clean and under the standard perturbations, and prints the tables.

    Args:
        protocol: of the table.
        out: what `eval/table.py` had as --out; it is only read.
        source: what `eval/table.py` had as --source.
        only: rows of the table; by default those of `USUAL` that are there.
        limit: rank a uniform sample of this many test rows.
        k: length of the lists.
        seed: run seed of perturbations, samples and intervals.
        json_file: the figures are also written here.

    Returns:
        The figures; `as in the table` says of each row whether its clean ones are those of the kept lists, where all
        test rows are ranked.

    Raises:
        ConfigError: a row that no table has.
        DataError: no original files.
        RunError: no such table, or a row or what it is made of is not finished there.
    """
    entries = roster(protocol, out, range(1), only=only or USUAL)
    told = ["--dataset", protocol.name, *(["--source", str(source)] if source else []), "--out", str(out)]
    command = shell_command(["python", "eval/table.py", *told])
    with _explained(f"{out} holds no table of {protocol.name} from these files", f"make it with {command}"):
        bench = open_table(protocol, source, out, finished_only=True)
    rows, systems = finished_rows(bench, entries, out, command, strict=bool(only))
    taken = sample(len(bench.test), limit, seed, "robustness", "rows").tolist()
    test = Examples([bench.test.rows[b] for b in taken], [bench.test.seen[b] for b in taken])
    perturbations = standard_perturbations(bench.dataset.manifest.domain, seed)
    found = robustness_table(systems, test, bench.dataset, perturbations, k=k, places=width(bench), seed=seed)
    # of a sample of the rows, equal scores may be ordered otherwise
    whole = rows if len(test) == len(bench.test) else {}
    same = {name: as_kept(found, name, row.answer.items_BK, test) for name, row in whole.items()}
    for name in (name for name, agrees in same.items() if not agrees):
        console.print(f"{name}: the clean figures are not those of the table's lists.", style="yellow")
    facts = {"table": protocol.name, "events": len(test), "test rows": len(bench.test), "as in the table": same}
    return found.answer(bench.dataset, **facts, **{"seed": seed, "seed of the rows": FIRST}).finish(None, json_file)


def finished_rows(
    bench: TableData, entries: Mapping[str, Entry], out: Path, command: str, *, strict: bool = True
) -> tuple[dict[str, FinishedRow], dict[str, Ranker]]:
    """The rows that are finished, and the recommenders behind them, by name.

    Args:
        bench: the open table.
        entries: the rows.
        out: where the table was made.
        command: makes the table; a refusal adds the row to it.
        strict: refuse a row that is not there; else say so and leave it out.

    Raises:
        Unfinished: a row is not there (with `strict`), or none is.
    """
    bench, refused = dataclasses.replace(bench, finished_only=True), list[Unfinished]()

    def those(names: Iterable[str], make: Callable[[str, Work], T], what: str, mend: str) -> dict[str, T]:
        done = {}
        for name in names:
            work = bench.work(out / "rows" / name)
            told = f"{mend}make it with {command} --only {shell_word(name)}"
            try:
                with _explained(f"{what} {name!r} is not finished in {out}", told):
                    done[name] = make(name, work)
            except Unfinished as error:
                if strict:
                    raise
                refused.append(error)
                console.print(f"Left out: {one_line(error)}", style="dim")
        return done

    rows = those(entries, lambda name, work: finished_row(entries[name], bench, work), "Row", "")
    systems = those(
        rows,
        lambda name, work: rows[name].entry.recommender(bench, FIRST, work),
        "What was trained or chosen for row",
        "remove the row's folder, then ",
    )
    if refused and not systems:
        raise refused[0]
    return {name: rows[name] for name in systems}, systems


def finished_row(entry: Entry, bench: TableData, work: Work) -> FinishedRow:
    """What is kept of a row, by the settings that it was answered with, whatever the budget was.

    Raises:
        Unfinished: nothing is kept.
    """
    folder = work.folder / entry.stage(FIRST)
    if not (folder / DONE).is_file():
        raise Unfinished(f"{folder} is not there.")
    entry = entry.settled(kept(folder).facts)
    return FinishedRow(entry, entry.answer(bench, FIRST, work))


def as_kept(found: Robustness, name: str, items_BK: IntArray, test: Examples) -> bool:
    """Whether the clean figures of a system are those of the lists that were kept of it."""
    if found.k > items_BK.shape[1]:
        return True  # longer lists than were kept
    figures = ranking_metrics(items_BK[:, : found.k], [e.target for e in test], k=(found.k,)).per_row
    clean = found.tables[name].cells[CLEAN]
    metrics = (f"HR@{found.k}", f"NDCG@{found.k}")
    return all(bool(np.isclose(clean[m].mean, figures[m].mean(), rtol=0.0, atol=1e-12)) for m in metrics)


@contextmanager
def _explained(what: str, mend: str) -> Iterator[None]:
    """Says how to make what is not finished."""
    try:
        yield
    except Unfinished as error:
        raise Unfinished(f"{what} ({str(error).rstrip('.')}); {mend}") from error
