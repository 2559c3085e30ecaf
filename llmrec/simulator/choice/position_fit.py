"""EM for the position-based model, on counts by (item, rank)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmrec.progress import Bar
from llmrec.simulator.choice.models import PositionChoice
from llmrec.simulator.choice.slates import SlateLog
from llmrec.simulator.choice.tally import EDGE, Keyed, Prior, Stop
from llmrec.types import FloatArray


def fit_position(log: SlateLog, prior: Prior, stop: Stop, random: np.random.Generator) -> PositionChoice:
    """Examination by rank and attraction by item, by EM (Chuklin et al. 2015, section 4.2).

    Only the product of the two is seen, so examination of rank 0 is 1 by convention: an attraction is P(click) at
    the top. Where the log brings attractions they are kept, and examination alone is fitted, of rank 0 too.
    """
    keyed = Keyed.of(log)
    cell, shown, clicks, given = _cells(log, keyed)
    index_J, rank_J = cell
    places, count = log.item_SK.shape[1], len(keyed.key_P)
    examined = _first_guess(rank_J, shown, clicks, places)
    if given is not None:
        examined[0] = 0.9  # EM never leaves a probability of 1
    # A little noise: EM stays on a symmetric start for ever.
    attraction = np.full(count, 0.5) * (1 + 0.1 * (random.random(count) - 0.5))
    curve: list[float] = []
    with Bar("EM of the position model", stop.max_steps) as bar:
        for _ in range(stop.max_steps):
            a_J = attraction[index_J] if given is None else given
            e_J = examined[rank_J]
            curve.append(_objective(shown, clicks, a_J, e_J, None if given is not None else (prior, attraction)))
            if stop.done(curve):
                break
            # E step. A click tells all: looked at and attractive. Of those not clicked, with e the examination and a
            # the attraction, P(looked at | no click) = e (1 - a) / (1 - e a) and P(attractive | no click) = (1 - e) a
            # / (1 - e a).
            missed = (shown - clicks) / np.maximum(1 - e_J * a_J, 1e-300)
            looked, liked = clicks + missed * e_J * (1 - a_J), clicks + missed * (1 - e_J) * a_J
            if given is None:
                attraction = prior.rate(np.bincount(index_J, liked, count), np.bincount(index_J, shown, count))
            seen_K, shown_K = np.bincount(rank_J, looked, places), np.bincount(rank_J, shown, places)
            renewed = np.clip(np.where(shown_K > 0, seen_K / np.maximum(shown_K, 1), examined), EDGE, 1.0)
            examined = renewed if given is not None else np.concatenate([examined[:1], renewed[1:]])
            bar.advance(note=f"{curve[-1]:.1f}")
    learnt = None if given is not None else keyed.parameters(attraction, prior.mean)
    return PositionChoice(examined, learnt, tuple(curve))


def _cells(
    log: SlateLog, keyed: Keyed
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64], FloatArray | None]:
    """Impressions and clicks of each (item, rank) that occurs; single impressions where attractions are given."""
    row, rank = np.nonzero(keyed.shown_SK)
    index, click = keyed.index_SK[row, rank], log.click_SK[row, rank].astype(np.float64)
    if log.attraction_SK is not None:
        given = np.clip(log.attraction_SK[row, rank].astype(np.float64), EDGE, 1 - EDGE)
        return np.stack([index, rank]), np.ones(len(row)), click, given
    places = log.item_SK.shape[1]
    # The likelihood depends on counts by (item, rank) alone, so a step costs as much as there are such cells, however
    # long the log.
    cell_J, place = np.unique(index * places + rank, return_inverse=True)
    shown, clicks = np.bincount(place).astype(np.float64), np.bincount(place, click).astype(np.float64)
    return np.stack([cell_J // places, cell_J % places]), shown, clicks, None


def _first_guess(
    rank_J: npt.NDArray[np.int64], shown: FloatArray, clicks: FloatArray, places: int
) -> npt.NDArray[np.float64]:
    """Click rate of each rank relative to rank 0, which is right where items are shuffled over ranks."""
    rate_K = (np.bincount(rank_J, clicks, places) + 1) / (np.bincount(rank_J, shown, places) + 2)
    return np.concatenate([[1.0], np.clip(rate_K[1:] / rate_K[0], 0.02, 0.98)])


def _objective(
    shown: FloatArray,
    clicks: FloatArray,
    a_J: FloatArray,
    e_J: FloatArray,
    prior: tuple[Prior, FloatArray] | None,
) -> float:
    chance = np.clip(a_J * e_J, 1e-300, 1 - 1e-16)
    value = float((clicks * np.log(chance) + (shown - clicks) * np.log1p(-chance)).sum())
    return value if prior is None else value + prior[0].log_density(prior[1])
