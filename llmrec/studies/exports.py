"""What the forms of a run's weights cost and save: ranking of held-out events, bytes, milliseconds a request.

Each form is written by `conversion.convert` from one run and loaded as anybody loads it. Ranking is that of `llmrec
evaluate`, with paired intervals to whole weights. Requests are timed one at a time, and each goes
through all forms before the next one, so that what else the machine does falls on all alike. Their lists are held
against those of whole weights in 32-bit floats, whatever the forms are computed in.

With `later` lists are also held against all that their users chose from then on. A list that is 1% worse shows there
in hundreds of states, where the single next choice, which most lists miss, takes tens of thousands.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.conversion import MERGED, convert
from llmrec.dataset.examples import examples
from llmrec.dataset.split import Split
from llmrec.dataset.store import Dataset
from llmrec.errors import LLMRecError, RequestError
from llmrec.evaluation.relevance import set_metrics
from llmrec.evaluation.significance import relative_draws
from llmrec.export import read_bundle
from llmrec.files import entries
from llmrec.finding import run_folder
from llmrec.policy.loading import load_causal_lm
from llmrec.printing import one_line
from llmrec.progress import Bar, console
from llmrec.recommender import Recommender
from llmrec.studies.answer import Answer, Sheet
from llmrec.studies.held_out import HeldOut, cut_of, held_out
from llmrec.types import FloatArray, IntArray, State
from llmrec.written import TOLD

METRIC = "NDCG@10"
WARM = 3
"""Requests of each form that are not timed."""
AT_ONCE = 16
AIM = {"int8": 0.01}
"""What a form may lose of the metric."""


def exports(
    run: str,
    data: Path,
    out: Path,
    *,
    forms: Sequence[str] = ("int8", "int4", "onnx", "gguf"),
    split: str = "time",
    since: int | None = None,
    test_events: int = 2000,
    requests: int = 100,
    k: int = 10,
    later: int = 0,
    seed: int = 0,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Writes each form of a run under `out`, measures it and returns the figures.

    Args:
        run: a run folder or a Hub id.
        data: a data set's folder.
        out: the forms and the answer; forms that are there are measured as they are.
        forms: beside whole weights; one that this model cannot take is left out with a word.
        split: as the run was trained, unless `since` is given.
        since: seconds; the test is all from then on.
        test_events: a uniform sample of this many.
        requests: users whose requests are timed.
        k: items of a timed request.
        later: also ranks at every so many choices of a test user, against all choices from there on; 0: not.
        seed: of samples and intervals.
        json_file: the figures are also written here.

    Raises:
        RequestError: no user, or a catalogue of fewer than 10 items.
        LLMRecError: what cannot be read or written.
    """
    dataset = Dataset.load(data)
    if not dataset.users.height or dataset.n_items < k:
        raise RequestError("The data set has no users or fewer items than a list; give another.")
    states = later_states(dataset, cut_of(dataset, split, since), later) if later else []
    made, left_out = _written(run, out, forms)
    names = {form: str(place) for form, place in made.items()}
    asked: dict[str, Any] = {"split": split, "since": since, "test_events": test_events or None, "seed": seed}
    found = held_out(dataset, data=data, runs=list(names.values()), systems=(), reference=names[MERGED], **asked)
    users = dataset.users["user_id"].gather_every(max(dataset.users.height // (requests + WARM), 1)).to_list()
    exact = Recommender.load(
        names[MERGED], data=data, engine=lambda folder: load_causal_lm(str(folder), dtype="float32", whole=True)
    )
    loaded = {form: Recommender.load(name, data=data) for form, name in names.items()}
    spans, differ = _timed(loaded, exact, users, k)
    figures = {form: _figures(found, names, form, made[form], spans[form]) for form in made}
    if states:
        for form, told in later_figures(loaded, states, seed=seed).items():
            figures[form]["later"] = told
    for form, told in differ.items():
        figures[form] |= told
    whole = {
        "forms": figures,
        "left out": left_out,
        "k": k,
        "requests": len(users) - WARM,
        "rows": found.facts["rows"],
        "later states": len(states),
    }
    answer = Answer(
        f"Forms of {one_line(run)}",
        whole,
        [_sheet(figures, found, len(users) - WARM), *([_later_sheet(figures, states)] if states else [])],
        [*_said(figures), *left_out.values()],
    )
    return answer.finish(out, json_file, seed=seed, data=dataset.manifest.content_hash)


def _written(run: str, out: Path, forms: Sequence[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """The folder of each form, and why others are not there."""
    folder, made, left_out = run_folder(run), {}, {}
    for form in (MERGED, *forms):
        place = out / form
        if not place.is_dir():
            console.print(f"writing {form}", style="dim")
            try:
                convert(read_bundle(folder), form, place)
            except LLMRecError as error:
                if form == MERGED:
                    raise
                left_out[form] = f"{form} is left out: {error}"
                continue
        made[form] = place
    return made, left_out


def _timed(
    recommenders: dict[str, Recommender], exact: Recommender, users: Sequence[str], k: int
) -> tuple[dict[str, list[float]], dict[str, dict[str, Any]]]:
    """Milliseconds of each request by form, and how its lists differ from those of `exact`."""
    spans: dict[str, list[float]] = {form: [] for form in recommenders}
    equal = dict.fromkeys(recommenders, 0)
    off: dict[str, list[float]] = {form: [] for form in recommenders}
    with Bar("requests", len(users)) as bar:
        for number, user in enumerate(users):
            wanted = {item.item_id: item.log_prob for item in exact.recommend(user=user, k=k).items}
            for form, recommender in recommenders.items():
                start = time.perf_counter()
                found = recommender.recommend(user=user, k=k).items
                if number >= WARM:
                    spans[form].append(1000 * (time.perf_counter() - start))
                    equal[form] += [item.item_id for item in found] == list(wanted)
                    off[form] += [i.log_prob - wanted[i.item_id] for i in found if i.item_id in wanted]
            bar.advance()
    differ = {
        form: {"equal_lists": equal[form], "log_pi_off": statistics.fmean(x * x for x in off[form] or [0.0]) ** 0.5}
        for form in recommenders
    }
    return spans, differ


@dataclass(frozen=True, slots=True)
class LaterState:
    """A state of a user, all that the user had chosen, and all that the user chose from then on."""

    state: State
    seen: IntArray
    chosen: tuple[int, ...]


def later_states(dataset: Dataset, cut: Split, every: int) -> list[LaterState]:
    """Of each user of the test part the first state and each `every`-th choice's after it.

    Raises:
        RequestError: `every` below 1.
    """
    if every < 1:
        raise RequestError(f"later is {every}; give 1 or more, or 0 to leave it out.")
    rows = examples(dataset, cut, "test")
    own: dict[str | None, list[int]] = {}
    for row, example in enumerate(rows.rows):
        own.setdefault(example.state.user_id, []).append(row)
    found = []
    for mine in own.values():
        for place in range(0, len(mine), every):
            chosen = sorted({rows.rows[row].target for row in mine[place:]})
            found.append(LaterState(rows.rows[mine[place]].state, rows.seen[mine[place]], tuple(chosen)))
    return found


def later_figures(
    recommenders: Mapping[str, Recommender], states: Sequence[LaterState], *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """NDCG@10 of lists against all later choices by form, and its change to whole weights, paired by user."""
    users = [str(one.state.user_id) for one in states]
    value: dict[str, FloatArray] = {}
    parts = [states[begin : begin + AT_ONCE] for begin in range(0, len(states), AT_ONCE)]
    with Bar("later choices", len(parts) * len(recommenders)) as bar:
        for form, recommender in recommenders.items():
            slates = []
            for part in parts:
                asked, seen = [one.state for one in part], [one.seen for one in part]
                slates += recommender.bundle.policy.recommend(asked, 10, seen=seen)
                bar.advance()
            value[form] = set_metrics(slates, [one.chosen for one in states], k=(10,)).per_row[METRIC]
    whole_B, figures = value[MERGED], dict[str, dict[str, Any]]()
    for form, own_B in value.items():
        change = None
        if form != MERGED and whole_B.mean() > 0:
            drawn_S = relative_draws(own_B, whole_B, users=users, samples=2000, seed=seed, name=("later",))
            low, high = np.nanquantile(drawn_S, [0.025, 0.975])
            change = {"mean": float(own_B.mean() / whole_B.mean() - 1), "low": float(low), "high": float(high)}
        figures[form] = {METRIC: float(own_B.mean()), "change": change}
    return figures


def _told(change: Mapping[str, float] | None) -> str:
    return "" if change is None else f"{change['mean']:+.2%} ({change['low']:+.2%} to {change['high']:+.2%})"


def _later_sheet(figures: dict[str, dict[str, Any]], states: Sequence[LaterState]) -> Sheet:
    rows = []
    for form, row in figures.items():
        rows.append([form, f"{row['later'][METRIC]:.4f}", _told(row["later"]["change"])])
    users = len({one.state.user_id for one in states})
    note = f"{len(states)} states of {users} users; relevant is all that the user chose from there on."
    return Sheet("Lists against all later choices", ["form", METRIC, "change of it (paired 95%)"], rows, note)


def _figures(found: HeldOut, names: dict[str, str], form: str, place: Path, spans: list[float]) -> dict[str, Any]:
    cell, whole = found.table.cells[names[form]][METRIC], found.table.cells[names[MERGED]][METRIC].mean
    difference = cell.difference
    lost = None
    if difference is not None and whole > 0:
        lost = {name: getattr(difference, name) / whole for name in ("mean", "low", "high")}
    # what a person reads of a run (report, figures) is the same in all
    size = sum(
        (place / name).stat().st_size for name in entries(place) if not any(fnmatchcase(name, told) for told in TOLD)
    )
    quantiles = statistics.quantiles(spans, n=10) if len(spans) > 1 else spans * 9
    return {
        METRIC: cell.mean,
        "change": lost,
        "bytes": size,
        "median_ms": statistics.median(spans),
        "p90_ms": quantiles[8],
    }


def _sheet(figures: dict[str, dict[str, Any]], found: HeldOut, requests: int) -> Sheet:
    rows = []
    for form, row in figures.items():
        size, lists = f"{row['bytes'] / 1e6:,.2f}", f"{row['equal_lists']} of {requests}"
        spans = [f"{row[name]:.1f}" for name in ("median_ms", "p90_ms")]
        rows.append(
            [form, f"{row[METRIC]:.4f}", _told(row["change"]), lists, f"{row['log_pi_off']:.4f}", size, *spans]
        )
    columns = [
        "form",
        METRIC,
        "change of it (paired 95%)",
        "equal lists",
        "log pi off",
        "MB",
        "median ms",
        "p90 ms",
    ]
    note = (
        "MB: all that the form needs. ms: one request, top 10, one after another through all forms. Beside whole "
        "weights in 32-bit floats: lists of these requests with the same items in the same order, and the root mean "
        "square by which log pi of items in both lists differs."
    )
    return Sheet(found.table.title, columns, rows, note)


def _said(figures: dict[str, dict[str, Any]]) -> list[str]:
    said = []
    for form, most in AIM.items():
        told = figures.get(form, {})
        of_all = told.get("later", {}).get("change")
        for change, what in ((told.get("change"), ""), (of_all, " against all later choices")):
            if change is None:
                continue
            held = "within" if change["mean"] > -most else "more than"
            shown = "shown" if change["low"] > -most else "not shown"
            said.append(
                f"{form} loses {held} {most:.0%} of {METRIC}{what} ({max(-change['mean'], 0.0):.2%}); that it is "
                f"less than {most:.0%} is {shown} at 95%."
            )
    return said
