"""The same metric for groups of rows: cold and warm users, cold and warm items, kinds of people.

A group gap is the largest difference of a metric's means between two groups of a family. The groups are picked by
the same rows that measure them, which flatters a gap, so its interval is simultaneous for all pairs of groups: with d
the difference of a pair and s its bootstrap standard error, d ± c s, where c is the 95% quantile over the bootstrap
samples of the largest |d* - d| / s of any pair.

People are grouped by what their profiles say, which is free, untrusted text.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmrec.dataset.examples import Examples
from llmrec.evaluation.beyond import ItemFacts, past_mean
from llmrec.evaluation.resampling import LEVEL, Resampler
from llmrec.evaluation.significance import Interval
from llmrec.evaluation.table import Cell, Comparison
from llmrec.text.profiles import profile_facts
from llmrec.types import BoolArray, FloatArray, IntArray

LARGEST = 6
"""Values of an attribute that stand as groups of their own; the others are one group."""

OTHER = "other"
FEW = 30
"""Rows below which a group is marked and takes part in no gap."""

GAP = "largest gap"

Groups = dict[str, BoolArray]
"""Rows (B,) of each group, by its name."""


def profile_groups(profiles: Sequence[str]) -> dict[str, dict[str, BoolArray]]:
    """Rows (B,) by attribute and value; rows whose profile does not name the attribute are in no group of it."""
    read = {profile: profile_facts(profile) for profile in dict.fromkeys(profiles)}
    facts = [read[profile] for profile in profiles]
    groups: dict[str, dict[str, BoolArray]] = {}
    for attribute in dict.fromkeys(key for fact in read.values() for key in fact):
        value_B = [fact.get(attribute) for fact in facts]
        counts = Counter(value for value in value_B if value is not None)
        if len(counts) == sum(counts.values()) and len(counts) > LARGEST:
            continue  # everybody another value: a name, not a group
        # Free text has many values: the common ones stand for themselves, the rest together.
        kept = [value for value, _ in counts.most_common(LARGEST)]
        names = [v if v is None or v in kept else OTHER for v in value_B]
        named_B = np.array(names, dtype=object)
        groups[attribute] = {n: named_B == n for n in sorted({n for n in names if n is not None})}
    return {attribute: found for attribute, found in groups.items() if len(found) > 1}


@dataclass(frozen=True)
class GroupTable:
    """One metric by the groups of one family.

    Attributes:
        table: systems by groups; the last column is the largest gap, where two groups are large enough.
        rows: rows of each group.
        between: of each system, the groups with the lowest and the highest mean.
    """

    table: Comparison
    rows: dict[str, int]
    between: dict[str, tuple[str, str]]


def families(examples: Examples, facts: ItemFacts) -> dict[str, Groups]:
    """The groups of the rows, by family; a family with fewer than two groups that hold a row is left out.

    User history counts the events of history and session, or the items that the user had chosen, whichever is more
    (a state may be cut). Taste is the mean popularity percentile of the history, in thirds of the rows that have one.
    """
    past_BN = facts.past([e.state for e in examples])
    events_B = np.asarray(past_BN.sum(axis=1)).ravel()
    # A state may be cut to its latest events, what was seen is not.
    events_B = np.maximum(events_B, [len(items) for items in examples.seen])
    clicks_B = facts.count_N[np.array([e.target for e in examples], dtype=np.int64)]
    found = {
        "user history": _bands(events_B, {"none": (0, 0), "1-2": (1, 2), "3-9": (3, 9), "10+": (10, np.inf)}),
        "item training clicks": _bands(clicks_B, {"none": (0, 0), "1-4": (1, 4), "5+": (5, np.inf)}),
        "taste": _thirds(past_mean(facts.percentile_N, past_BN)),
        **profile_groups([e.state.profile for e in examples]),
    }
    return {name: groups for name, groups in found.items() if len(groups) > 1}


def group_table(
    title: str,
    values: Mapping[str, FloatArray],
    groups: Groups,
    resampler: Resampler,
    *,
    name: str,
    reference: str | None = None,
    gap: bool = True,
) -> GroupTable:
    """A metric's mean of every system in every group, with intervals, paired differences and the largest gap.

    Args:
        title: of the table.
        values: the metric, (B,), by system.
        groups: rows of each group; they may overlap.
        resampler: of the B rows.
        name: of the bootstrap samples.
        reference: system that the others are compared with.
        gap: whether to add the column of the largest gap.
    """
    cells: dict[str, dict[str, Cell]] = {system: {} for system in values}
    for group, kept_B in groups.items():
        for system, cell in resampler.cells(values, name, reference, kept_B).items():
            cells[system][group] = cell
    rows = {group: int(kept_B.sum()) for group, kept_B in groups.items()}
    large = [group for group, count in rows.items() if count >= FEW]
    between = {}
    if gap and len(large) > 1:
        for system, (pair, interval) in _gaps(values, {g: groups[g] for g in large}, resampler, name).items():
            cells[system][GAP], between[system] = Cell(interval.mean, interval), pair
    labels = {group: f"{group}\n(n={count}{'' if count >= FEW else ', few'})" for group, count in rows.items()}
    small = [group for group in rows if group not in large]
    unclear = [s for s in between if (found := cells[s][GAP].interval) is not None and not found.above_zero]
    notes = [f"Fewer than {FEW} rows: {', '.join(small)}."] if small else []
    notes += [f"The interval of the largest gap holds 0 for: {', '.join(unclear)}."] if unclear else []
    table = Comparison(title, cells, reference, labels=labels, lower_is_better=(GAP,), note=" ".join(notes))
    return GroupTable(table, rows, between)


def _gaps(
    values: Mapping[str, FloatArray], groups: Groups, resampler: Resampler, name: str
) -> dict[str, tuple[tuple[str, str], Interval]]:
    """The two groups farthest apart and the simultaneous interval of their difference, by system."""
    names, kept_BG = list(groups), np.column_stack(list(groups.values()))
    columns_BC = np.hstack([np.where(kept_BG, v[:, None], 0.0) for v in values.values()] + [kept_BG.astype(float)])
    sums_SC = resampler.sums(columns_BC, name)
    count, size = len(names), len(values) * len(names)
    # Samples in which a group is empty have no mean for it.
    full_S = (sums_SC[:, size:] > 0).all(axis=1)
    found = {}
    pairs = list(itertools.combinations(range(count), 2))
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    for number, (system, values_B) in enumerate(values.items()):
        means_SG = sums_SC[full_S, number * count : (number + 1) * count] / sums_SC[full_S, size:]
        mean_G = np.array([values_B[kept_B].mean() for kept_B in groups.values()])
        # Groups overlap in users, so a pair's difference is taken within each resample and not from two intervals.
        gap_P, draws_SP = mean_G[second] - mean_G[first], means_SG[:, second] - means_SG[:, first]
        # Studentised, so that a pair of small groups with a wide spread does not set the width for all pairs.
        error_P = draws_SP.std(axis=0)
        off_SP = np.abs(draws_SP - gap_P) / np.where(error_P > 0, error_P, np.inf)
        # The 95% quantile of the largest deviation of any pair: whichever pair is picked afterwards, its interval was
        # wide enough to be picked from.
        width_P = np.quantile(off_SP.max(axis=1), LEVEL) * error_P
        pair = int(np.abs(gap_P).argmax())
        # The gap is told as the larger mean less the smaller, whichever way round the pair was drawn.
        sign = -1 if gap_P[pair] < 0 else 1
        low, high = sorted((sign * gap_P[pair] - width_P[pair], sign * gap_P[pair] + width_P[pair]))
        order = (first[pair], second[pair]) if sign > 0 else (second[pair], first[pair])
        ends = (names[order[0]], names[order[1]])
        found[system] = (ends, Interval(float(abs(gap_P[pair])), float(low), float(high), LEVEL))
    return found


def _bands(amount_B: FloatArray | IntArray, bands: Mapping[str, tuple[float, float]]) -> Groups:
    groups = {name: (amount_B >= low) & (amount_B <= high) for name, (low, high) in bands.items()}
    return {name: kept_B for name, kept_B in groups.items() if kept_B.any()}


def _thirds(value_B: FloatArray) -> Groups:
    known_B = ~np.isnan(value_B)
    if not known_B.any():
        return {}
    low, high = np.quantile(value_B[known_B], [1 / 3, 2 / 3])
    groups = {
        "niche": known_B & (value_B <= low),
        "middle": known_B & (value_B > low) & (value_B <= high),
        "mainstream": known_B & (value_B > high),
    }
    return {name: kept_B for name, kept_B in groups.items() if kept_B.any()}
