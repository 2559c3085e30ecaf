"""The examination of a simulator: does it know people, or only what is popular?

It is asked about held-out choices, each of them E in number made by a user in a state:

    (a) NDCG@10 of its ranking of the whole catalogue by P(click), beside yardsticks such as popularity
    (b) the share of rivals of equal popularity that it puts below the chosen item (AUC; 1/2 is a coin), and the same
        with the state of another person in place of this one's

Rivals are items of the same number of training clicks; where these are few, the next ones above and below, as many
on either side, so that *every* order by the number of clicks has exactly 1/2. What an order that is the same for
everybody can still gain (it may know what is popular of late) it gains with another person's state too: the
difference of the two is what it knows of the person. (c), calibration, is `simulator.metrics.fit_report`'s, and (d),
the share of what can be found in a generated world, `pipeline.exam`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from llmrec.baselines.base import exclude, item_counts, positives
from llmrec.baselines.ties import fair_top
from llmrec.dataset.examples import Examples
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError
from llmrec.evaluation.ranking import score_metrics
from llmrec.evaluation.significance import Interval, bootstrap_interval, paired_bootstrap
from llmrec.seeding import numpy_stream
from llmrec.simulator.ensemble import Predictor
from llmrec.types import FloatArray, IntArray, State

TOP = 10
RIVALS = 20
"""Items of equal popularity that each chosen one is compared with."""
NARROW = 0.05
"""An interval of (b) with a larger half-width decides nothing: the events are too few."""
PEOPLE = 30
"""With fewer users a bootstrap over them says little, and nothing is decided."""
DISGUISE = 0.8
"""Agreement (beyond chance) of its top ten with popularity's from which they are the same list."""
Mark = Literal["knows people", "popularity in disguise", "undecided"]
Scores = Callable[[Sequence[State]], FloatArray]
"""Scores of the whole catalogue, (B, N)."""
_CHUNK = 256
_TRIES = 100


@dataclass(frozen=True)
class Questions:
    """Held-out choices, their rivals and the states of other people.

    Attributes:
        examples: E choices.
        count_N: training clicks of each item.
        rival_ER: rivals of each choice, -1 where there are fewer.
        other_E: for each choice another one, of another user, whose state stands in; -1 where there is none.
        excluded: items that each user may not be shown again; None where the data set repeats.
    """

    examples: Examples
    count_N: FloatArray
    rival_ER: IntArray
    other_E: IntArray
    excluded: list[IntArray] | None
    seed: int

    @classmethod
    def of(cls, dataset: Dataset, train: pl.DataFrame, examples: Examples, *, seed: int) -> Questions:
        """The questions about `examples`, which no simulator was fitted on.

        Args:
            dataset: items and the manifest's rules.
            train: training events, which popularity is counted in.
            examples: held-out choices.
            seed: the run's seed, for rivals and other people.

        Raises:
            DataError: there is no example.
        """
        if not len(examples):
            raise DataError("There is no held-out choice to examine a simulator on; widen the validation period.")
        count_N = item_counts(positives(dataset, train), dataset.n_items)
        excluded = examples.seen if dataset.manifest.repeat == "exclude" else None
        stream = numpy_stream(seed, "exam", "rivals")
        rival_ER = np.full((len(examples), RIVALS), -1, dtype=np.int64)
        for row, example in enumerate(examples):
            banned = np.empty(0, dtype=np.int64) if excluded is None else excluded[row]
            found = rivals(count_N, example.target, banned, RIVALS, stream)
            rival_ER[row, : len(found)] = found
        return cls(examples, count_N, rival_ER, _others(examples, seed), excluded, seed)

    @property
    def states(self) -> list[State]:
        """The state of each choice."""
        return [example.state for example in self.examples]

    @property
    def users(self) -> list[str]:
        """The user of each choice, whole in every bootstrap sample."""
        return [str(example.state.user_id) for example in self.examples]

    @property
    def targets(self) -> IntArray:
        """What was chosen, (E,)."""
        return np.array([example.target for example in self.examples], dtype=np.int64)

    def allowed(self, score_BN: FloatArray, rows: slice) -> FloatArray:
        """The scores of the choices `rows`, -inf at what may not be shown."""
        return score_BN if self.excluded is None else exclude(score_BN, self.excluded[rows])

    def popularity(self, states: Sequence[State]) -> FloatArray:
        """The scores of the yardstick that knows nobody: training clicks, (B, N)."""
        return np.broadcast_to(self.count_N, (len(states), len(self.count_N)))


def rivals(count_N: FloatArray, target: int, banned: IntArray, size: int, stream: np.random.Generator) -> IntArray:
    """At most `size` items of the target's count; where these are fewer, the nearest above and below, in pairs.

    Any score that depends on the count alone, rising or falling, has the target above exactly half of them, ties
    counting half.
    """
    free_N = np.ones(len(count_N), dtype=bool)
    free_N[banned] = False
    free_N[target] = False
    # Shuffled once: the choice among items of one count is fair, and the sorts below keep it.
    items = stream.permutation(np.flatnonzero(free_N))
    count, own = count_N[items], count_N[target]
    equal = items[count == own][:size]
    above, below = items[count > own], items[count < own]
    side = min((size - len(equal)) // 2, len(above), len(below))
    nearest = [above[np.argsort(count_N[above], kind="stable")], below[np.argsort(-count_N[below], kind="stable")]]
    return np.concatenate([equal, *(part[:side] for part in nearest)])


def _others(examples: Examples, seed: int) -> IntArray:
    """A random choice of another user for each, or -1."""
    stream = numpy_stream(seed, "exam", "others")
    user_E = np.unique([str(example.state.user_id) for example in examples], return_inverse=True)[1]
    other_E = np.arange(len(examples))
    for _ in range(_TRIES):
        same_E = user_E[other_E] == user_E
        if not same_E.any():
            break
        other_E[same_E] = stream.integers(0, len(examples), int(same_E.sum()))
    return np.where(user_E[other_E] == user_E, -1, other_E)


@dataclass(frozen=True)
class Answers:
    """What a simulator answers, choice by choice: (E,) each.

    Attributes:
        ndcg_E: NDCG@10 of its ranking.
        own_E: (b), share of the rivals below the chosen item; nan without a rival.
        other_E: the same with the state of another person; nan without one.
        shared_E: share of its top ten that are popularity's.
    """

    ndcg_E: FloatArray
    own_E: FloatArray
    other_E: FloatArray
    shared_E: FloatArray


def answers(model: Predictor, questions: Questions) -> Answers:
    """Asks a simulator."""
    states, target_E = questions.states, questions.targets
    asked_EP = np.concatenate([target_E[:, None], questions.rival_ER], axis=1)
    ndcg, own, shared = [], [], []
    for start in range(0, len(states), _CHUNK):
        rows = slice(start, start + _CHUNK)
        score_BN = np.asarray(model.predict_all(states[rows]).click_BK, dtype=np.float64)
        ndcg.append(_ndcg(questions.allowed(score_BN, rows), target_E[rows]))
        own.append(_share_below(np.take_along_axis(score_BN, asked_EP[rows].clip(min=0), axis=1), asked_EP[rows]))
        popular_BN = questions.popularity(states[rows])
        lists = [_top(questions, score, rows) for score in (score_BN, popular_BN)]
        shared.append(_overlap(*lists))
    other = np.full(len(states), np.nan)
    known = np.flatnonzero(questions.other_E >= 0)
    for start in range(0, len(known), _CHUNK):
        at = known[start : start + _CHUNK]
        found = model.predict([states[e] for e in questions.other_E[at]], asked_EP[at]).click_BK
        other[at] = _share_below(np.asarray(found, dtype=np.float64), asked_EP[at])
    return Answers(np.concatenate(ndcg), np.concatenate(own), other, np.concatenate(shared))


def yardstick(scores: Scores, questions: Questions) -> FloatArray:
    """NDCG@10 of other scores on the same choices, (E,)."""
    states, parts = questions.states, []
    for start in range(0, len(states), _CHUNK):
        rows = slice(start, start + _CHUNK)
        score_BN = np.asarray(scores(states[rows]), dtype=np.float64)
        parts.append(_ndcg(questions.allowed(score_BN, rows), questions.targets[rows]))
    return np.concatenate(parts)


def _ndcg(score_BN: FloatArray, target_B: IntArray) -> FloatArray:
    k = min(TOP, score_BN.shape[1])
    found_B: FloatArray = score_metrics(score_BN, target_B, k=(k,)).per_row[f"NDCG@{k}"]
    return found_B


def _share_below(score_BP: FloatArray, asked_BP: IntArray) -> FloatArray:
    """Share of the places 1.. (where there is an item) that score below place 0, ties half; nan without any."""
    real_BR = asked_BP[:, 1:] >= 0
    first_B1, rest_BR = score_BP[:, :1], score_BP[:, 1:]
    won_BR = (first_B1 > rest_BR) + 0.5 * (first_B1 == rest_BR)
    count_B = real_BR.sum(axis=1)
    won_B = (won_BR * real_BR).sum(axis=1)
    return np.asarray(np.divide(won_B, count_B, out=np.full(len(count_B), np.nan), where=count_B > 0))


def _top(questions: Questions, score_BN: FloatArray, rows: slice) -> IntArray:
    # Equal scores in one order for both lists: a model that ties where popularity ties shows the same items.
    stream = numpy_stream(questions.seed, "exam", "ties", rows.start)
    return fair_top(questions.allowed(score_BN, rows), min(TOP, score_BN.shape[1]), stream)


def _overlap(one_BK: IntArray, other_BK: IntArray) -> FloatArray:
    same_BKK = (one_BK[:, :, None] == other_BK[:, None, :]) & (one_BK[:, :, None] >= 0)
    held_B = np.maximum((one_BK >= 0).sum(axis=1), 1)
    return np.asarray(same_BKK.any(axis=2).sum(axis=1) / held_B)


def marks(
    found: Answers,
    questions: Questions,
    yardsticks: Mapping[str, FloatArray],
    *,
    name: str,
    samples: int = 1000,
) -> dict[str, Any]:
    """Figures, intervals over users and the verdict, as plain values for JSON.

    Args:
        found: what the simulator answered.
        questions: what it was asked.
        yardsticks: NDCG@10 of other systems on the same choices, (E,) by name.
        name: what sentences call the simulator.
        samples: of the bootstrap.

    Returns:
        "events", "users"; "ndcg", its interval, and "ndcg_of" and "ndcg_minus", the yardsticks' means and the paired
        differences to them; "compared", the choices that (b) can compare, of "people" users; "auc" (b), "auc_other"
        (with another person's state) and "personal", their paired difference; "agreement" with popularity's top ten
        beyond chance; "verdict" and "sentence".
    """
    draw: dict[str, Any] = {"samples": samples, "seed": questions.seed}
    users = questions.users
    asked_E = np.isfinite(found.own_E)
    both_E = asked_E & np.isfinite(found.other_E)

    def of(kept_E: Any) -> list[str]:
        return [user for user, kept in zip(users, kept_E, strict=True) if kept]

    figures: dict[str, Any] = {
        "events": len(users),
        "users": len(set(users)),
        "ndcg": asdict(bootstrap_interval(found.ndcg_E, users=users, **draw)),
        "ndcg_of": {other: float(values_E.mean()) for other, values_E in yardsticks.items()},
        "ndcg_minus": {
            other: asdict(paired_bootstrap(found.ndcg_E, values_E, users=users, **draw))
            for other, values_E in yardsticks.items()
        },
        "compared": int(both_E.sum()),
        "people": len(set(of(both_E))),
        "auc": None,
        "auc_other": None,
        "personal": None,
        "agreement": _agreement(found.shared_E, len(questions.count_N)),
    }
    if both_E.any():
        own_E, other_E = found.own_E[both_E], found.other_E[both_E]
        figures["auc"] = asdict(bootstrap_interval(found.own_E[asked_E], users=of(asked_E), **draw))
        figures["auc_other"] = asdict(bootstrap_interval(other_E, users=of(both_E), **draw))
        figures["personal"] = asdict(paired_bootstrap(own_E, other_E, users=of(both_E), **draw))
    mark = verdict(figures)
    return figures | {"verdict": mark, "sentence": sentence(figures | {"verdict": mark}, name)}


def _agreement(shared_E: FloatArray, n_items: int) -> float:
    """Overlap of the top tens beyond that of lists drawn at random, as Cohen's kappa: 1 the same, 0 chance."""
    chance = min(TOP, n_items) / n_items
    return 0.0 if chance >= 1 else float((shared_E.mean() - chance) / (1 - chance))


def verdict(figures: Mapping[str, Any]) -> Mark:
    """The rule: both intervals of (b) exclude a coin, and its lists are not popularity's.

    A simulator that does not pass is popularity in disguise, unless an interval is so wide, or the people so few,
    that nothing can be told.
    """
    auc, personal = (None if figures[key] is None else Interval(**figures[key]) for key in ("auc", "personal"))
    if auc is None or personal is None or figures["people"] < PEOPLE:
        return "undecided"
    if auc.low > 0.5 and personal.low > 0 and figures["agreement"] < DISGUISE:
        return "knows people"
    wide = max((one.high - one.low) / 2 for one in (auc, personal))
    return "undecided" if wide > NARROW else "popularity in disguise"


def sentence(figures: Mapping[str, Any], name: str) -> str:
    """The verdict and what it rests on, in one sentence."""
    beside = ", ".join(f"{other} {value:.4f}" for other, value in figures["ndcg_of"].items())
    ranking = f"NDCG@{TOP} {figures['ndcg']['mean']:.4f}" + (f" ({beside})" if beside else "")
    if figures["auc"] is None:
        return f"{name}: undecided, since no held-out choice has a rival of equal popularity; {ranking}."
    auc, other = figures["auc"], figures["auc_other"]
    told = (
        f"among items of equal popularity it puts the chosen one first in {auc['mean']:.1%} of pairs (95%: "
        f"{auc['low']:.1%} to {auc['high']:.1%}; with another person's state {other['mean']:.1%}), {ranking}"
    )
    if figures["verdict"] == "popularity in disguise" and figures["agreement"] >= DISGUISE:
        told = f"its top ten are popularity's ({figures['agreement']:.0%} beyond chance); {told}"
    few = (
        f"; {figures['compared']} choices of {figures['people']} users are too few"
        if figures["verdict"] == "undecided"
        else ""
    )
    return f"{name}: {figures['verdict']}{few}; {told}."
