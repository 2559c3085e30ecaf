"""How much of what can be found a run found, in words: only a generated world knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from llmrec.evaluation.resampling import LEVEL, Resampler
from llmrec.evaluation.significance import Interval
from llmrec.pipeline.result import POPULARITY, SFT, RunResult
from llmrec.pipeline.systems import INFORMED
from llmrec.types import FloatArray

VALUE = "value"


def run_headroom(run: RunResult) -> str:
    """What the run's systems reach of the informed optimum; "" for data without a known truth."""
    truth = run.measured.deployed.get("truth", {})
    values = {system: np.asarray(row[VALUE]) for system, row in truth.items()}
    users = [str(state.user_id) for state in run.arena.states]
    return headroom(values, run.after, users=users, samples=run.config.evaluation.bootstrap, seed=run.config.seed)


def headroom(
    values: Mapping[str, FloatArray], after: str, *, users: list[str], samples: int = 1000, seed: int = 0
) -> str:
    """True values of a place, and the share of SFT's distance to the informed optimum that `after` closes.

    Args:
        values: true value by system, (B,) over the same users.
        after: the system after the improvement.
        users: the user of each row, for the interval.
        samples: of the bootstrap.
        seed: the run's seed.
    """
    if not {SFT, INFORMED, after} <= set(values):
        return ""
    mean = {system: float(values_B.mean()) for system, values_B in values.items()}
    times = f", {mean[SFT] / mean[POPULARITY]:.2f} times popularity" if mean.get(POPULARITY, 0.0) > 0 else ""
    said = f"True value of a place: {SFT} {mean[SFT]:.4f}{times}; {after} {mean[after]:.4f}. "
    said += (
        f"Whoever knows the world, and of a person what the state tells, reaches {mean[INFORMED]:.4f} ({INFORMED})"
    )
    if mean[INFORMED] <= mean[SFT]:
        return f"{said}, which leaves {SFT} nothing to gain."
    share = share_closed(*(values[s] for s in (SFT, after, INFORMED)), users=users, samples=samples, seed=seed)
    between = f"{share.low:.0%} to {share.high:.0%}"
    return f"{said}: {after} closes {share.mean:.0%} (95% interval {between}) of what {SFT} leaves to gain."


def share_closed(
    base_B: FloatArray,
    after_B: FloatArray,
    best_B: FloatArray,
    *,
    users: Sequence[str],
    samples: int = 1000,
    seed: int = 0,
) -> Interval:
    """(V_after - V_base) / (V_best - V_base) of mean values, with its interval over users.

    Args:
        base_B: values of what is to be surpassed, (B,), on average below `best_B`.
        after_B: of what surpasses it.
        best_B: of the best.
        users: the user of each row.
        samples: of the bootstrap.
        seed: the run's seed.
    """
    columns_B3 = np.stack([base_B, after_B, best_B], axis=1)
    base_S, after_S, best_S = Resampler(len(users), users, samples=samples, seed=seed).sums(columns_B3, "headroom").T
    # A sample whose users leave next to nothing to gain has a share without bounds; quantiles bear a few of them.
    gain_S = best_S - base_S
    share_S = (after_S - base_S)[gain_S > 0] / gain_S[gain_S > 0]
    low, high = np.quantile(share_S, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    base, after, best = columns_B3.mean(axis=0)
    return Interval(float((after - base) / (best - base)), float(low), float(high), LEVEL)
