"""All rows of a table measured on the same test rows, with what they cost and what can be claimed.

A system that depends on chance is fitted under several seeds. Intervals are over users and trainings together
(`evaluation.trainings`), so they are of the next training, and `seed_sd` says how far trainings differ; of the
further tables, which show each system's first seed, they are over users.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.errors import LLMRecError
from llmrec.evaluation.offline import Ranking, list_figures, rank_systems
from llmrec.evaluation.simulated import Judge, simulate
from llmrec.evaluation.table import Comparison
from llmrec.evaluation.trainings import compare_trainings, paired, relative_bound, spread
from llmrec.pipeline.work import Work
from llmrec.printing import one_line
from llmrec.progress import console
from llmrec.studies.table.entries import Answer, Entry, width
from llmrec.studies.table.protocol import TableData
from llmrec.types import FloatArray, IntArray, Slate

K = (5, 10, 20)
REFERENCE = "covisitation"
MARGIN = 0.03
"""Share of NDCG@10 that RL may lose of its warm start."""


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The finished table.

    Attributes:
        main: mean figures over seeds with paired differences to the reference.
        further: sets, repeats, beyond accuracy and groups, of each system's first seed.
        facts: by system: settings, seconds, figures by seed.
        claims: sentences about pairs of rows, by name.
        failed: systems that could not be measured, with the reason.
        described: what each row is.
    """

    main: Comparison
    further: Ranking
    facts: dict[str, dict[str, Any]]
    claims: dict[str, dict[str, Any]]
    failed: dict[str, str]
    described: dict[str, str] = field(default_factory=dict)


def answers(
    bench: TableData, entries: Mapping[str, Entry], out: Path, seeds: Sequence[int]
) -> tuple[dict[str, list[Answer]], dict[str, str]]:
    """Every row's lists by seed, from `out` where they are finished, and the rows that failed with the reason."""
    found: dict[str, list[Answer]] = {}
    failed: dict[str, str] = {}
    for name, entry in entries.items():
        console.print(f"{name}: {entry.description}", style="bold")
        work = Work(out / "rows" / name)
        try:
            found[name] = [entry.answer(bench, seed, work) for seed in (seeds if entry.random else seeds[:1])]
        except LLMRecError as error:
            failed[name] = str(error)
            console.print(f"  {name} left out: {one_line(error)}", style="red")
    return found, failed


def measure(
    bench: TableData,
    found: Mapping[str, Sequence[Answer]],
    judge: Judge | None,
    *,
    pairs: Sequence[tuple[str, str, str]] = (),
    failed: Mapping[str, str] | None = None,
    entries: Mapping[str, Entry] | None = None,
    samples: int = 1000,
) -> Leaderboard:
    """The table of finished rows.

    Args:
        bench: what is measured on.
        found: by system, an answer a seed.
        judge: values the lists of each user's first test row; None leaves the column out.
        pairs: (name of the claim, system, the system that it is compared with).
        failed: systems without an answer.
        entries: the rows, for what they are and whether they depend on chance.
        samples: bootstrap samples of the further tables.
    """
    rows = {name: _over_seeds([_figures(bench, answer, judge) for answer in given]) for name, given in found.items()}
    users = [str(e.state.user_id) for e in bench.test]
    reference = REFERENCE if REFERENCE in rows else None
    title = f"{len(bench.test)} test rows of {bench.protocol.name}, all {bench.dataset.n_items} items ranked"
    judged = {name: row.pop("judge") for name, row in rows.items() if "judge" in row}
    options: dict[str, Any] = {"reference": reference, "lower_is_better": ("illegal",)}
    known = {name: entries[name] for name in rows if entries is not None and name in entries}
    once = [name for name, entry in known.items() if entry.random and len(found[name]) == 1]
    note = bench.protocol.note
    if once:
        note += f" Trained once, so that nothing is known of their next training: {', '.join(once)}."
    main = compare_trainings(title, rows, users=users, note=note, **options)
    # The judge values what a user is shown, not a row: one list a user, or whoever has many test rows would count
    # often.
    people = [users[row] for row in _first_rows(bench)]
    if judged:
        beside = compare_trainings(title, {n: {"judge": v} for n, v in judged.items()}, users=people, **options)
        cells = {name: row | beside.cells.get(name, {}) for name, row in main.cells.items()}
        main = dataclasses.replace(main, cells=cells)
    # Coverage, novelty and groups are of one deployed system; their mean over trainings is no system.
    lists = {name: given[0].items_BK for name, given in found.items()}
    further = rank_systems(
        lists,
        bench.test,
        bench.dataset,
        k=[k for k in K if k <= width(bench)],
        reference=reference,
        samples=samples,
        train=bench.after.split.train,
        split=bench.protocol.split,
    )
    claims = {
        claim: _claim(rows, judged, users, people, one, other)
        for claim, one, other in pairs
        if one in rows and other in rows
    }
    facts = {name: _facts(bench, given) for name, given in found.items()}
    described = {name: entry.description for name, entry in known.items()}
    return Leaderboard(main, further, facts, claims, dict(failed or {}), described)


def _figures(bench: TableData, answer: Answer, judge: Judge | None) -> dict[str, FloatArray | float]:
    targets = [e.target for e in bench.test]
    excluded = bench.test.seen if bench.dataset.manifest.repeat == "exclude" else None
    cutoffs = [k for k in K if k <= width(bench)]
    found = list_figures(answer.items_BK, targets, bench.dataset.n_items, cutoffs, excluded)
    if judge is not None:
        rows = _first_rows(bench)
        slates = _slates(answer.items_BK[rows, :10])
        found["judge"] = simulate(slates, [bench.test[r].state for r in rows], judge, k=min(10, width(bench))).click_B
    return found


def _first_rows(bench: TableData) -> list[int]:
    """Each user's first test row."""
    first: dict[str | None, int] = {}
    for row, example in enumerate(bench.test):
        first.setdefault(example.state.user_id, row)
    return sorted(first.values())


def _over_seeds(figures: Sequence[Mapping[str, FloatArray | float]]) -> dict[str, FloatArray | float]:
    """Figures of rows stacked by seed, (S, B); of plain figures the mean over seeds."""
    found: dict[str, FloatArray | float] = {}
    for name, first in figures[0].items():
        values: list[Any] = [figure[name] for figure in figures]
        found[name] = np.stack(values) if isinstance(first, np.ndarray) else float(np.mean(values))
    return found


def _claim(
    rows: Mapping[str, Mapping[str, Any]],
    judged: Mapping[str, Any],
    users: Sequence[str],
    judged_users: Sequence[str],
    one: str,
    other: str,
) -> dict[str, Any]:
    a_SB, b_SB = rows[one]["NDCG@10"], rows[other]["NDCG@10"]
    # Both the draw of users and the next training are in the interval: seeds are paired where both sides have them.
    gain = spread(paired(a_SB, b_SB), users).interval()
    bound = relative_bound(a_SB, b_SB, users=users)
    hit = spread(paired(rows[one]["HR@10"], rows[other]["HR@10"]), users).interval()
    found: dict[str, Any] = {"NDCG@10": dataclasses.asdict(gain), "HR@10": dataclasses.asdict(hit)}
    found |= {"relative": bound.relative, "relative bound": bound.low, "non-inferior": bound.not_inferior(MARGIN)}
    sentence = (
        f"{one} - {other}: NDCG@10 {gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f}), relative "
        f"{100 * bound.relative:+.1f}% (one-sided 95% bound {100 * bound.low:+.1f}%), HR@10 {hit.mean:+.4f} "
        f"({hit.low:+.4f} to {hit.high:+.4f})"
    )
    if one in judged and other in judged:
        judge = spread(paired(judged[one], judged[other]), judged_users).interval()
        found["judge"] = dataclasses.asdict(judge)
        sentence += f"; judge {judge.mean:+.4f} ({judge.low:+.4f} to {judge.high:+.4f})"
    return found | {"sentence": sentence + "."}


def _facts(bench: TableData, given: Sequence[Answer]) -> dict[str, Any]:
    """The first seed's facts, with the main figures of each seed."""
    targets = [e.target for e in bench.test]
    top = min(10, width(bench))
    name = f"NDCG@{top}"
    by_seed = [float(np.mean(list_figures(a.items_BK, targets, bench.dataset.n_items, [top])[name])) for a in given]
    spread = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None
    return given[0].facts | {"by_seed": by_seed, "seed_sd": spread, "seeds": len(given)}


def _slates(items_BK: IntArray) -> list[Slate]:
    lists = [[int(item) for item in row if item >= 0] for row in items_BK]
    return [Slate(tuple(items), tuple(0.0 for _ in items)) for items in lists]
