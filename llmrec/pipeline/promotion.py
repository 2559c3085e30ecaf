"""From the gate's figures to decisions: what is admissible, what is promoted, when to stop, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llmrec.config import GateSettings
from llmrec.evaluation.multiple import simultaneous
from llmrec.evaluation.significance import Interval, noninferiority_bound
from llmrec.evaluation.table import Cell, Comparison
from llmrec.types import FloatArray

Score = dict[str, Any]
"""The figures of one checkpoint as `Gate` writes them to score.json."""


@dataclass(frozen=True, slots=True)
class Looks:
    """Lists that were judged on the gate's users beside checkpoints: K mean gains, and the same in S samples."""

    gains_K: Sequence[float]
    draws_KS: FloatArray


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
    tested = bound.low if gate.ndcg_test == "bound" else bound.relative
    kept = tested >= -gate.ndcg_tolerance
    tolerance = f"{100 * gate.ndcg_tolerance:g}%"
    found = f"{percent(bound.relative)}, one-sided 95% limit {percent(bound.low)}"
    if gate.ndcg_test == "mean":
        sentence = f"{metric} changed by {found}; a fall of {tolerance} is tolerated in the mean"
    else:
        sentence = f"{metric} changed by {found}; the limit may not be below −{tolerance}"
    return RankingChange(bound.relative, bound.low, kept, sentence)


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
    scores: Sequence[Score], draws: Sequence[FloatArray], gate: GateSettings, *, besides: Looks | None = None
) -> list[Score]:
    """The scores with the judge's gains corrected for how many checkpoints there are, and what follows from them.

    The best of several checkpoints is promoted, so each has its chance to look better than it is. Their intervals
    hold all at once (`multiple.simultaneous`): one that gained nothing is admissible in at most 5% of trainings.

    Args:
        scores: of all checkpoints so far.
        draws: of each the judge's mean gain in the same bootstrap samples, (S,).
        gate: its settings.
        besides: other looks at the same users, which were chosen by; they count as checkpoints do.
    """
    if not scores:
        return []
    gains, looks = [score["judge_gain"]["mean"] for score in scores], [*draws]
    if besides is not None:
        gains, looks = [*gains, *besides.gains_K], [*looks, *besides.draws_KS]
    intervals = simultaneous(gains, np.stack(looks))
    found = []
    for score, interval in zip(scores, intervals, strict=False):  # the first ones are the checkpoints'
        alone = score.get("judge_gain_alone", score["judge_gain"])
        made = score | {"judge_gain": asdict(interval), "judge_gain_alone": alone, "looks": len(gains)}
        refused = refusals(made, gate, RankingChange(**score["ranking"]))
        found.append(made | {"refused": refused, "admissible": not refused})
    return found


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
