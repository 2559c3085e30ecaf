"""What makes figures too good: each check looks for one fault and says in a sentence what it found."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from llmrec.baselines.ties import expected_gain, ndcg_gain
from llmrec.dataset.examples import Examples
from llmrec.dataset.schema import show
from llmrec.dataset.split import Split
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError
from llmrec.evaluation.leaks import check_leaks
from llmrec.evaluation.ranking import contains, ranking_metrics
from llmrec.studies.audit.predictions import Prediction, Predictions
from llmrec.types import BoolArray, FloatArray, IntArray

Severity = Literal["fault", "caution"]
MANY = 30
"""Rows from which on a share says something."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found: a fault, which makes the figures wrong, or a caution."""

    kind: str
    sentence: str
    severity: Severity = "fault"


@dataclass(frozen=True)
class Matched:
    """Lists laid on the rows of the test.

    Attributes:
        examples: all B rows of the test.
        items_BK: item indices, -1 for nothing and the catalogue's size for an unknown id.
        given_B: which rows have a list.
        lists: of those rows, the first list that was given, by row.
        findings: what did not fit.
    """

    examples: Examples
    items_BK: IntArray
    given_B: BoolArray
    lists: Mapping[int, Prediction]
    findings: Sequence[Finding]


def matched(predictions: Predictions, examples: Examples, dataset: Dataset, split: Split, width: int) -> Matched:
    """Finds each list's row by user, item and, where it is given, time.

    Raises:
        DataError: no list belongs to any row.
    """
    rows_of: dict[tuple[str, str], list[int]] = defaultdict(list)
    ids = dataset.items["item_id"].to_list()
    for row, example in enumerate(examples):
        rows_of[str(example.state.user_id), ids[example.target]].append(row)
    lists: dict[int, Prediction] = {}
    strangers: list[Prediction] = []
    again: list[Prediction] = []
    for one in predictions.rows:
        fitting = [
            row
            for row in rows_of.get((one.user, one.target), ())
            if one.time is None or examples[row].state.time == one.time
        ]
        free = [row for row in fitting if row not in lists]
        if free:
            lists[free[0]] = one
        else:
            (again if fitting else strangers).append(one)
    if not lists:
        raise DataError(
            f"None of the {len(predictions.rows)} lists is of an event of the test part; check --split, and that ids "
            "and times are those of the data set."
        )
    items_BK = np.full((len(examples), width), -1, dtype=np.int64)
    for row, one in lists.items():
        kept = [dataset.item_index.get(item, dataset.n_items) for item in one.items_K[:width]]
        items_BK[row, : len(kept)] = kept
    given_B = np.isin(np.arange(len(examples)), list(lists))
    found = [*_strangers(strangers, dataset, split), *_again(again), *_unanswered(given_B)]
    return Matched(examples, items_BK, given_B, lists, found)


def _strangers(lists: Sequence[Prediction], dataset: Dataset, split: Split) -> list[Finding]:
    if not lists:
        return []
    first = lists[0]
    trained = {*split.train.select("user_id", "item_id").unique().iter_rows()}
    known = sum((one.user, one.target) in trained for one in lists)
    more = f" {known} of them are choices of the training part." if known else ""
    return [
        Finding(
            "foreign rows",
            f"{len(lists)} lists are of no event of the test part, the first on line {first.line} (user "
            f"{show(first.user)}, item {show(first.target)}); they are not counted.{more}",
        )
    ]


def _again(lists: Sequence[Prediction]) -> list[Finding]:
    if not lists:
        return []
    return [
        Finding(
            "repeated rows",
            f"{len(lists)} lists are of a row that has one already, the first on line {lists[0].line}; the first of "
            "each row is counted.",
        )
    ]


def _unanswered(given_B: BoolArray) -> list[Finding]:
    left = int((~given_B).sum())
    if not left:
        return []
    return [
        Finding(
            "missing rows",
            f"{left} of {len(given_B)} test events have no list ({left / len(given_B):.1%}); figures over the others "
            "alone are of rows that somebody chose. Here a missing list is a miss.",
        )
    ]


def list_faults(found: Matched, dataset: Dataset, k: int) -> list[Finding]:
    """Lists that break a rule: unknown items, an item twice, an item that the user has, too few."""
    items_BK, given_B = found.items_BK, found.given_B
    top_BK = items_BK[:, :k]
    out: list[Finding] = []

    def say(kind: str, wrong_BK: BoolArray, sentence: str) -> None:
        rows = int(wrong_BK.any(axis=1).sum())
        if rows:
            where = int(np.flatnonzero(wrong_BK.any(axis=1))[0])
            line = found.lists[where].line
            out.append(Finding(kind, f"{rows} of {int(given_B.sum())} lists {sentence} (the first on line {line})."))

    unknown_BK = items_BK >= dataset.n_items
    say("unknown items", unknown_BK, f"name items that are not among the {dataset.n_items} of the catalogue")
    legal_BK = (items_BK >= 0) & ~unknown_BK
    twice_BK = legal_BK & np.tril(items_BK[:, :, None] == items_BK[:, None, :], -1).any(axis=2)
    say("duplicates", twice_BK, "name an item twice")
    if dataset.manifest.repeat == "exclude":
        had_BK = legal_BK & contains(found.examples.seen, items_BK)
        say("seen items", had_BK, "name items that their user had before, which this data set never asks for")
    short_BK = (top_BK < 0) & given_B[:, None]
    say("short lists", short_BK, f"have fewer than {k} items, so a miss at their end is certain")
    return out


def sampled(found: Matched, dataset: Dataset) -> list[Finding]:
    """Whether only a sample of the items was ranked: as the file says, or since no list misses its target."""
    said = [one.candidates for one in found.lists.values() if one.candidates is not None]
    if said and min(said) < dataset.n_items:
        return [
            Finding(
                "sampled candidates",
                f"Only {min(said)} of {dataset.n_items} items were ranked (candidates), so figures are not those of "
                "the whole catalogue and their order among systems need not be either (Krichene and Rendle 2020).",
            )
        ]
    rows = [row for row in found.lists if found.items_BK[row, 0] >= 0]
    target_B = np.array([found.examples[row].target for row in rows])
    hit_B = (found.items_BK[rows] == target_B[:, None]).any(axis=1)
    length = found.items_BK.shape[1]
    if len(rows) >= MANY and length < dataset.n_items and hit_B.all():
        return [
            Finding(
                "sampled candidates",
                f"All {len(rows)} lists hold their target among {length} of {dataset.n_items} items: either the "
                "target was put among a sample of candidates, or the system was told.",
                "fault" if 2 * length <= dataset.n_items else "caution",
            )
        ]
    return []


def tied_scores(found: Matched, k: int) -> list[Finding]:
    """Whether the target stands first among items of equal score more often than a fair order lets it."""
    gain_K = ndcg_gain(k)
    given, fair = [], []
    for row, one in found.lists.items():
        if not one.scores_K:
            continue
        target = found.examples[row].target
        places = np.flatnonzero(found.items_BK[row] == target)
        if not len(places):
            continue
        scores_K = np.array(one.scores_K[: found.items_BK.shape[1]])
        own = scores_K[places[0]]
        given.append(float(gain_K[places[0]]) if places[0] < k else 0.0)
        above, tied = np.array([(scores_K > own).sum()]), np.array([(scores_K == own).sum()])
        fair.append(float(expected_gain(above, tied, gain_K)[0]))
    if not _too_lucky(given, fair):
        return []
    return [
        Finding(
            "ties",
            f"Of items with equal scores the target stands first too often: in the {len(given)} lists that hold it "
            f"NDCG@{k} is {np.mean(given):.4f} as listed and {np.mean(fair):.4f} in a fair order of equal scores.",
        )
    ]


def _too_lucky(given: Sequence[float], fair: Sequence[float]) -> bool:
    """Whether figures as listed are above their expectation by more than three standard errors, on enough rows."""
    if len(given) < MANY:
        return False
    apart_B = np.array(given) - np.array(fair)
    error = float(apart_B.std(ddof=1)) / math.sqrt(len(apart_B))
    return float(apart_B.mean()) > 3 * max(error, 1e-9)


def collisions(found: Matched, identifiers: Mapping[str, str], dataset: Dataset, k: int) -> list[Finding]:
    """What figures are by items and by identifiers, where several items share one.

    A list of identifiers does not tell the items of one apart: by items, the target stands anywhere among them.
    """
    ids = dataset.items["item_id"].to_list()
    code_N = np.array([identifiers.get(item, "\0" + item) for item in ids])
    counts = Counter(code_N.tolist())
    shared = [code for code, many in counts.items() if many > 1]
    if not shared:
        return []
    gain_K = ndcg_gain(k)
    listed_B, by_code, by_item = [], [], []
    for row in found.lists:
        items = [i for i in found.items_BK[row].tolist() if 0 <= i < dataset.n_items]
        target = found.examples[row].target
        place = items.index(target) if target in items else k
        listed_B.append(float(gain_K[place]) if place < k else 0.0)
        codes = list(dict.fromkeys(code_N[items].tolist()))
        own = code_N[target]
        place = codes.index(own) if own in codes else k
        by_code.append(float(gain_K[place]) if place < k else 0.0)
        above = sum(counts[code] for code in codes[:place])
        fair = expected_gain(np.array([above]), np.array([counts[own]]), gain_K)
        by_item.append(float(fair[0]) if own in codes else 0.0)
    many = sum(counts[code] for code in shared)
    # a list that names one of the items that share an identifier by chance is as good as its expectation
    lucky = _too_lucky(listed_B, by_item)
    more = f", and {np.mean(listed_B):.4f} as listed: the target stands for its whole group" if lucky else ""
    return [
        Finding(
            "collisions",
            f"{many} of {dataset.n_items} items share their identifier with another (the largest group has "
            f"{max(counts.values())}), among which an identifier cannot choose: NDCG@{k} is {np.mean(by_code):.4f} "
            f"by identifiers and {np.mean(by_item):.4f} by items{more}.",
            "fault" if lucky else "caution",
        )
    ]


def leaks(dataset: Dataset, trained: pl.DataFrame, examples: Examples, split: str) -> list[Finding]:
    """What `check_leaks` says of the events that a system was trained on."""
    try:
        note = check_leaks(dataset, trained, examples, split)
    except DataError as error:
        return [Finding("leak", str(error))]
    return [Finding("time-blind", note, "caution")] if note else []


def tuned(predictions: Predictions) -> list[Finding]:
    """Whether settings were chosen on the rows that are reported."""
    if predictions.chosen_on != "test":
        return []
    return [
        Finding(
            "tuned on test",
            "Settings were chosen on the test part (about.chosen_on): the best of several figures is too good, "
            "however honest each is. Choose on the validation part, and read the test once.",
        )
    ]


def claims(predictions: Predictions, measured: Mapping[str, float]) -> list[Finding]:
    """Reported figures that are not those of the lists, to the digits that were given."""
    out = []
    for name, value in predictions.claims.items():
        if name not in measured:
            known = ", ".join(measured)
            out.append(
                Finding("claims", f"{show(name)} was claimed, which is not measured here ({known}).", "caution")
            )
            continue
        digits = len(repr(value).partition(".")[2])
        room = 0.5 * 10.0 ** -min(digits, 6) + 1e-9
        if abs(value - measured[name]) > room:
            out.append(
                Finding(
                    "claims",
                    f"{name} was reported as {value:g}, and is {measured[name]:.{max(digits, 4)}f} of these lists "
                    "over all test events.",
                )
            )
    return out


def told(found: Matched, best: float, k: int) -> list[Finding]:
    """Whether lists are so much better than everything that is known that they may have been told the answer."""
    targets_B = np.array([example.target for example in found.examples], dtype=np.int64)
    first = ranking_metrics(found.items_BK, targets_B, k=(1,)).means["HR@1"]
    if len(targets_B) < MANY or first <= max(0.5, 2 * best):
        return []
    return [
        Finding(
            "too good",
            f"The first item of {first:.0%} of all lists is the one that was chosen, where the best baseline's is of "
            f"{best:.0%}: look for the target in what the system reads.",
            "caution",
        )
    ]


def flat_groups(rates: FloatArray) -> list[Finding]:
    """Whether most groups of a training's draws taught nothing."""
    if not len(rates) or rates.mean() <= 0.5:
        return []
    return [
        Finding(
            "flat groups",
            f"On average {rates.mean():.0%} of the groups of draws earned one and the same reward, from which a "
            "method that compares draws learns nothing.",
            "caution",
        )
    ]
