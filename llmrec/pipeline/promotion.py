"""From the gate's figures to decisions: what is admissible, what is promoted, when to stop, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from llmrec.config import GateSettings
from llmrec.evaluation.multiple import simultaneous, simultaneous_lower
from llmrec.evaluation.significance import Interval, noninferiority_bound
from llmrec.evaluation.table import Cell, Comparison
from llmrec.types import FloatArray

Score = dict[str, Any]
"""The figures of one checkpoint as `Gate` writes them to score.json."""


@dataclass(frozen=True, slots=True)
class Looks:
    """Lists that were looked at on the gate's users and events beside checkpoints.

    Attributes:
        gains_K: what the judge sees in each, as a mean gain.
        draws_KS: the same in S samples of the users.
        relatives_K: relative change of the ranking metric; empty where an older version did not keep the samples.
        ranking_KS: the same in S samples of the events' users.
    """

    gains_K: Sequence[float]
    draws_KS: FloatArray
    relatives_K: Sequence[float] = ()
    ranking_KS: FloatArray = field(default_factory=lambda: np.zeros((0, 2)))


@dataclass(frozen=True, slots=True)
class RankingChange:
    """Relative change of a ranking metric, its one-sided 95% limit, and whether that is within the tolerance."""

    relative: float
    low: float
    kept: bool
    sentence: str


def ranking_change(
    after_M: FloatArray,
    before_M: FloatArray,
    gate: GateSettings,
    *,
    metric: str,
    users: Sequence[object],
    samples: int,
    seed: int,
) -> RankingChange:
    """Puts `gate.ndcg_tolerance` to a ranking metric of the same events before and after.

    A metric that was 0 before cannot have fallen.
    """
    if float(np.mean(before_M)) <= 0:
        return RankingChange(0.0, 0.0, True, f"{metric} was 0 before and cannot have fallen")
    bound = noninferiority_bound(after_M, before_M, users=users, samples=samples, seed=seed)
    return _put_to(bound.relative, bound.low, gate, metric)


def _put_to(relative: float, low: float, gate: GateSettings, metric: str) -> RankingChange:
    """Holds a change, or its limit, against `gate.ndcg_tolerance`."""
    tested = low if gate.ndcg_test == "bound" else relative
    kept = tested >= -gate.ndcg_tolerance
    tolerance = f"{100 * gate.ndcg_tolerance:g}%"
    found = f"{percent(relative)}, one-sided 95% limit {percent(low)}"
    if gate.ndcg_test == "mean":
        sentence = f"{metric} changed by {found}; a fall of {tolerance} is tolerated in the mean"
    else:
        sentence = f"{metric} changed by {found}; the limit may not be below −{tolerance}"
    return RankingChange(relative, low, kept, sentence)


def refusals(score: Score, gate: GateSettings, ranking: RankingChange) -> list[str]:
    """Why a checkpoint is not admissible: nothing if it is."""
    found = []
    gain = Interval(**score["judge_gain"])
    # By the mark that tables show, which takes rounding noise for no gain: a policy that changed nothing has an
    # interval of width 0 around 1e-17.
    if gain.mark(score["judge_value"]) != "▲":
        found.append(f"the judge sees no significant gain over SFT{_of(score)} ({signed(gain)})")
    if not ranking.kept:
        found.append(ranking.sentence)
    logged = score["off_policy"]
    # Few effective samples prove nothing in either direction (Kong 1992), so they do not refuse.
    if logged is not None and gate.off_policy == "refuse" and logged["effective_samples"] >= gate.effective_samples:
        change = Interval(**logged["gain"])
        if change.mark(logged["value"]) == "▼":
            found.append(f"logged feedback speaks against it (off-policy value {signed(change)} against SFT)")
    return found


def settled(
    scores: Sequence[Score],
    draws: Sequence[FloatArray],
    gate: GateSettings,
    *,
    ranking: Sequence[FloatArray] = (),
    besides: Looks | None = None,
) -> list[Score]:
    """The scores corrected for how many checkpoints there are, and what follows from them.

    The best of several checkpoints is promoted, so each has its chance to look better than it is. The judge's
    intervals hold all at once (`multiple.simultaneous`): one that gained nothing is admissible in at most 5% of
    trainings. So do the limits of the ranking metric: one that lost more than is tolerated is admissible in at most
    5%, too. A checkpoint has to pass both.

    Args:
        scores: of all checkpoints so far.
        draws: of each the judge's mean gain in the same bootstrap samples, (S,).
        gate: its settings.
        ranking: of each the relative change of the ranking metric in the same samples, (S,). Empty where they were
            not kept: each limit is then that of the checkpoint alone.
        besides: other looks at the same users and events, which were chosen by; they count as checkpoints do.
    """
    if not scores:
        return []
    gains, looks = [score["judge_gain"]["mean"] for score in scores], [*draws]
    if besides is not None:
        gains, looks = [*gains, *besides.gains_K], [*looks, *besides.draws_KS]
    intervals = simultaneous(gains, np.stack(looks))
    found = []
    for score, interval, change in zip(scores, intervals, _rankings(scores, ranking, gate, besides), strict=False):
        # the first intervals are the checkpoints'
        alone = score.get("judge_gain_alone", score["judge_gain"])
        made = score | {"judge_gain": asdict(interval), "judge_gain_alone": alone, "looks": len(gains)}
        made |= {"ranking": asdict(change), "ndcg_relative": {**score["ndcg_relative"], "low": change.low}}
        refused = refusals(made, gate, change)
        found.append(made | {"refused": refused, "admissible": not refused})
    return found


def _rankings(
    scores: Sequence[Score], ranking: Sequence[FloatArray], gate: GateSettings, besides: Looks | None
) -> list[RankingChange]:
    """Each checkpoint's change of the ranking metric, with a limit that holds for all looks at once."""
    alone = [RankingChange(**score["ranking"]) for score in scores]
    if not len(ranking):
        return alone
    relatives, looks = [one.relative for one in alone], [*ranking]
    if besides is not None:
        relatives, looks = [*relatives, *besides.relatives_K], [*looks, *besides.ranking_KS]
    # A sample in which SFT ranks nothing has no ratio and says nothing of how the two compare.
    draws_KS = np.stack(looks)
    draws_KS = np.where(np.isnan(draws_KS), np.nanmean(draws_KS, axis=1, keepdims=True), draws_KS)
    limits_K = simultaneous_lower(relatives, draws_KS)
    return [
        _put_to(one.relative, float(low), gate, score["metric"]) if np.ptp(draws_S) > 0 else one
        for one, low, score, draws_S in zip(alone, limits_K, scores, draws_KS, strict=False)
    ]


def promote(checkpoints: Sequence[Score]) -> tuple[Score | None, str]:
    """The admissible checkpoint that the judge values most, and the reason in a sentence."""
    admissible = [c for c in checkpoints if c["admissible"]]
    if not admissible:
        many = f"none of {len(checkpoints)} is admissible" if checkpoints else "there is none"
        return None, f"No checkpoint was promoted, {many}: the SFT policy is kept."
    # The largest of several noisy figures flatters its checkpoint (winner's curse); the verdict on the test period,
    # which nothing was chosen on, tests it again.
    best = max(admissible, key=lambda c: c["judge_value"])
    return best, (
        f"Checkpoint {best['step']} was promoted: of {len(admissible)} admissible among {len(checkpoints)} the judge "
        f"values it most ({signed(Interval(**best['judge_gain']))} over SFT{_of(best)})."
    )


def _of(score: Score) -> str:
    """What a judged gain is of, where that is not an impression."""
    judged = score.get("judged", "an impression")
    return "" if judged == "an impression" else f" in the value of {judged}"


def decisions(checkpoints: Sequence[Score]) -> list[str]:
    """One sentence for each checkpoint: promoted, admissible and second, or refused and why."""
    best, _ = promote(checkpoints)
    said = []
    for score in checkpoints:
        name = f"Checkpoint {score['step']}"
        if not score["admissible"]:
            said.append(f"{name} was refused: {'; '.join(score['refused'])}.")
        elif best is not None and score["step"] == best["step"]:
            said.append(f"{name} was promoted: the judge values it most among the admissible ones.")
        elif best is not None:
            said.append(f"{name} was admissible, but the judge values checkpoint {best['step']} as much or more.")
    return said


def out_of_patience(checkpoints: Sequence[Score], patience: int | None) -> bool:
    """Whether the last `patience` checkpoints (in order of steps) brought no new best admissible one."""
    best, since = -np.inf, 0
    for score in checkpoints:
        better = score["admissible"] and score["judge_value"] > best
        best, since = (score["judge_value"], 0) if better else (best, since + 1)
    return patience is not None and since >= patience


def gate_table(checkpoints: Sequence[Score], gate: GateSettings) -> Comparison | None:
    """SFT and the checkpoints under all that measures them, on validation data; None without checkpoints."""
    if not checkpoints:
        return None
    best, _ = promote(checkpoints)
    first, ndcg = checkpoints[0]["sft"], checkpoints[0]["metric"]
    columns = ("reward", "pessimistic", "judge", "ndcg", "off_policy")
    shown = [c for c in columns if first.get(c) is not None]
    cells = {"SFT": {c: Cell(first[c]) for c in shown}}
    for score in checkpoints:
        verdict = "promoted" if best is not None and score["step"] == best["step"] else "refused"
        verdict = "admissible" if verdict == "refused" and score["admissible"] else verdict
        cells[f"checkpoint {score['step']}, {verdict}"] = _row(score)
    labels = {
        "reward": "reward simulator",
        "pessimistic": "pessimistic reward",
        "judge": "judge",
        "ndcg": ndcg,
        "off_policy": "off-policy",
    }
    note = (
        f"Slates as valued by the reward's simulator, as it is and less {gate.pessimism:g} × its members' "
        "disagreement, and by the judge; off-policy: draws of the policy as valued by logged feedback."
    )
    effective = [score["off_policy"]["effective_samples"] for score in checkpoints if score["off_policy"]]
    if effective:
        note += f" Effective samples of the off-policy values: {min(effective):,.0f} or more."
        places = {score["off_policy"].get("places", "") for score in checkpoints if score["off_policy"]}
        note += "".join(f" {said}" for said in sorted(places) if said)
    return Comparison("Checkpoints at the gate, on the validation period", cells, "SFT", labels=labels, note=note)


def _row(score: Score) -> dict[str, Cell]:
    row = {
        "reward": Cell(score["reward_value"], None, Interval(**score["reward_gain"])),
        "pessimistic": Cell(score["pessimistic_value"], None, Interval(**score["pessimistic_gain"])),
        "judge": Cell(score["judge_value"], None, Interval(**score["judge_gain"])),
        "ndcg": Cell(score["ndcg"], None, Interval(**score["ndcg_change"])),
    }
    logged = score["off_policy"]
    if logged is not None:
        row["off_policy"] = Cell(logged["value"], None, Interval(**logged["gain"]))
    return row


def in_a_line(score: Score) -> str:
    """What the console says of a checkpoint: its measures, and whether it is admissible."""
    judge, logged = Interval(**score["judge_gain"]), score["off_policy"]
    said = (
        f"checkpoint {score['step']}, over SFT: reward {score['reward_gain']['mean']:+.4f} "
        f"(pessimistic {score['pessimistic_gain']['mean']:+.4f}), "
        f"judge {judge.mean:+.4f} ({judge.low:+.4f} to {judge.high:+.4f}), "
        f"{score['metric']} {100 * score['ndcg_relative']['mean']:+.1f}%"
    )
    if logged is not None:
        said += f", logged feedback {logged['gain']['mean']:+.4f} (n_eff {logged['effective_samples']:.0f})"
    return said + (": admissible" if score["admissible"] else f": refused, {'; '.join(score['refused'])}")


def percent(share: float) -> str:
    """A share as a signed percentage."""
    return f"{100 * share:+.1f}%".replace("-", "−")


def signed(interval: Interval) -> str:
    """A difference with its interval."""
    text = f"{interval.mean:+.4f}, 95% interval {interval.low:+.4f} to {interval.high:+.4f}"
    return text.replace("-", "−")
