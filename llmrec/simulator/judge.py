"""The judge: a behaviour model that is corrected on users it was not fitted on, and knows how sure it is.

A judge's users are of two kinds. On the first its network is fitted, as any behaviour model is. On the second, its
calibration slice, two heads (`heads`) correct the network's log-odds of a click and of a click that converts: their
features are 1 and these two log-odds, standardised, and one number an item. `with_replicates` answers as R judges
whose heads were found again on samples of the slice's users; a figure of the judge that is worked out once by each of
them spreads as the judge's own error does (`evaluation.simulated` draws the users who are judged beside).

What that spread holds: the chance of who was in the slice, and with it whatever the network learnt wrongly in the
directions of the heads, which the slice corrects. What it does not hold: what neither the network nor the heads can
tell, a liking of some users for some items beyond the network's own order, and all that no log of this kind shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from scipy.special import expit, logit

from llmrec.config import SimulatorSettings
from llmrec.errors import RunError
from llmrec.seeding import numpy_stream
from llmrec.simulator.behaviour import BehaviourModel, Catalogued, fit_behaviour, load_behaviour
from llmrec.simulator.fitting import pair_logits
from llmrec.simulator.heads import HeadRows, Heads, fit_head, resampled_heads, user_draws
from llmrec.simulator.learning import logged_labels
from llmrec.simulator.log import ImpressionLog, Log, read_log
from llmrec.simulator.networks import encoded
from llmrec.simulator.networks.recurrent import LiveState
from llmrec.types import FloatArray, IntArray, Prediction, State

HEADS = ("click", "joint")
_LEAST = 1e-6


@dataclass(frozen=True)
class Replicates:
    """What R judges expect of slates: P(click) and P(click and conversion), each (R, B, K)."""

    click_RBK: FloatArray
    joint_RBK: FloatArray


@dataclass(frozen=True)
class Correction:
    """Two heads, those of R samples of users, and the scale of their features.

    Attributes:
        point: the heads of all users, by name, with items in the order of the space's known ones and a last 0.
        drawn: those of the samples.
        scale_22: mean and deviation of the two log-odds over the calibration slice.
    """

    point: dict[str, Heads]
    drawn: dict[str, Heads]
    scale_22: FloatArray

    def arrays(self) -> dict[str, FloatArray]:
        """All of it by name, for a file."""
        found = {"heads.scale": self.scale_22}
        for kind, heads in (("point", self.point), ("drawn", self.drawn)):
            for name, head in heads.items():
                found[f"heads.{kind}.{name}.feature"] = head.feature_RP
                found[f"heads.{kind}.{name}.item"] = head.item_RN
        return found

    @classmethod
    def of_arrays(cls, arrays: dict[str, FloatArray]) -> Correction:
        """From `arrays`; raises `KeyError` where one is missing."""

        def heads(kind: str) -> dict[str, Heads]:
            names = {name: f"heads.{kind}.{name}" for name in HEADS}
            return {name: Heads(arrays[f"{key}.feature"], arrays[f"{key}.item"]) for name, key in names.items()}

        return cls(heads("point"), heads("drawn"), arrays["heads.scale"])


class Judge(BehaviourModel):
    """A behaviour model with heads; made by `fit_judge`."""

    def __init__(self, model: BehaviourModel, correction: Correction) -> None:
        super().__init__(
            model.architecture, model.space, model.net, model.calibrators, model.facts, model.scale, model.blend
        )
        self.correction = correction

    def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction:
        """Probabilities of the items `items_BK`; -1 (no item at this place) gets 0 for both."""
        items_BK = np.asarray(items_BK)
        return self._headed(super().predict(states, items_BK), items_BK)

    def predict_all(self, states: Sequence[State]) -> Prediction:
        """Probabilities of every item of the catalogue, shape (B, N)."""
        found = super().predict_all(states)
        return self._headed(found, np.broadcast_to(np.arange(self.space.n_items), found.click_BK.shape))

    def predict_from(self, state: LiveState, items_BK: IntArray) -> Prediction:
        """`predict`, from the carried state."""
        items_BK = np.asarray(items_BK)
        return self._headed(super().predict_from(state, items_BK), items_BK)

    def with_replicates(self, states: Sequence[State], items_BK: IntArray) -> tuple[Prediction, Replicates]:
        """`predict`, and what the judges of R samples of the calibration slice's users expect; 0 at -1."""
        items_BK = np.asarray(items_BK)
        # The network, which costs most, is asked once for both.
        found = super().predict(states, items_BK)
        return self._headed(found, items_BK), self._corrected(found, items_BK, self.correction.drawn)

    def _headed(self, found: Prediction, items_BK: IntArray) -> Prediction:
        one = self._corrected(found, items_BK, self.correction.point)
        click_BK, joint_BK = one.click_RBK[0], one.joint_RBK[0]
        return Prediction(click_BK, np.divide(joint_BK, click_BK, out=np.zeros_like(joint_BK), where=click_BK > 0))

    def _corrected(self, found: Prediction, items_BK: IntArray, heads: dict[str, Heads]) -> Replicates:
        odds_BK2 = log_odds(found)
        feature_BKP = features(odds_BK2, self.correction.scale_22)
        place_BK = self.space.known_N[items_BK]  # -1, no item, is some item here and 0 in the end
        click_RBK, joint_RBK = (
            _expit(odds_BK2[..., k], feature_BKP, place_BK, heads[name]) for k, name in enumerate(HEADS)
        )
        real_BK = items_BK >= 0
        # What converts was clicked: two heads that are fitted apart may say otherwise where both are near 1.
        return Replicates(click_RBK * real_BK, np.minimum(joint_RBK, click_RBK) * real_BK)

    def _arrays(self) -> dict[str, FloatArray]:
        return super()._arrays() | self.correction.arrays()


def _expit(odds_BK: FloatArray, feature_BKP: FloatArray, place_BK: IntArray, heads: Heads) -> FloatArray:
    shift_RBK = np.tensordot(heads.feature_RP, feature_BKP, axes=(1, 2)) + heads.item_RN[:, place_BK]
    return np.asarray(expit(odds_BK + shift_RBK))


def log_odds(found: Prediction) -> FloatArray:
    """Log-odds of P(click) and P(click and conversion), a last axis of 2."""
    both = np.stack([found.click_BK, found.click_BK * found.conversion_BK], axis=-1)
    return np.asarray(logit(np.clip(both, _LEAST, 1 - _LEAST)))


def features(odds: FloatArray, scale_22: FloatArray) -> FloatArray:
    """The features of heads: 1 and both log-odds, standardised by mean and deviation; a last axis of 3."""
    scaled = (odds - scale_22[0]) / scale_22[1]
    return np.concatenate([np.ones_like(scaled[..., :1]), scaled], axis=-1)


def fit_judge(
    dataset: Any,
    impressions: ImpressionLog,
    slice_: ImpressionLog,
    *,
    architecture: str,
    seed: int,
    settings: SimulatorSettings,
    valid: ImpressionLog | None = None,
) -> Judge:
    """Fits the network on `impressions` (see `fit_behaviour`) and its heads on the calibration slice `slice_`.

    Args:
        dataset: a data set, or a sequence of items.
        impressions: of the users that the network is fitted on.
        slice_: of other users.
        architecture: of the network.
        seed: of the network and of the draws of users.
        settings: of the fit; `replicates` is R.
        valid: later impressions of the first users.
    """
    model = fit_behaviour(dataset, impressions, architecture=architecture, seed=seed, settings=settings, valid=valid)
    return with_heads(model, slice_, seed=seed, settings=settings)


def with_heads(model: BehaviourModel, slice_: ImpressionLog, *, seed: int, settings: SimulatorSettings) -> Judge:
    """A judge from a fitted model and the impressions of users that it was not fitted on."""
    log, states = read_log(slice_, model.space.n_items), list(slice_.states)
    names, user_S = np.unique(np.array([str(state.user_id) for state in states]), return_inverse=True)
    odds_M2 = log_odds(_pairs(model, states, log))
    mean_2, deviation_2 = odds_M2.mean(axis=0), odds_M2.std(axis=0)
    scale_22 = np.stack([mean_2, np.where(deviation_2 > 0, deviation_2, 1.0)])
    weight_M, look_M = log_weights(model, log, settings)
    known = len(model.space.known)
    random = numpy_stream(seed, "simulator", "judge", "replicates")
    # The same samples for both heads: clicks and conversions of one user vary together.
    times_RU = user_draws(len(names), settings.replicates, random)
    point, drawn = {}, {}
    for k, name in enumerate(HEADS):
        rows = HeadRows(
            features(odds_M2, scale_22),
            odds_M2[:, k],
            model.space.known_N[log.item_M],
            (log.click_M, log.conversion_M)[k] / look_M,
            weight_M * look_M,
            user_S[log.row_M],
            known + 1,
            len(names),
        )
        point[name] = fit_head(rows)
        drawn[name] = resampled_heads(rows, point[name], times_RU)
        for heads in (point[name], drawn[name]):
            heads.item_RN[:, known] = 0.0  # items that came after the fit: nothing is known of them
    model.facts |= {"calibration_users": len(names), "replicates": settings.replicates}
    return Judge(model, Correction(point, drawn, scale_22))


def _pairs(model: BehaviourModel, states: Sequence[State], log: Log) -> Prediction:
    """The model's own prediction of each logged impression, (M, 1)."""
    logits_MH = pair_logits(model.net, encoded(model.net, model.space, states), log.row_M, log.item_M)
    if model.blend is not None:
        logits_MH[:, 0] = model.blend.pairs(states, log.row_M, log.item_M, logits_MH[:, 0])
    click, conversion = model.calibrators
    return Prediction(click(logits_MH[:, 0]), conversion(logits_MH[:, 1]))


def log_weights(model: BehaviourModel, log: Log, settings: SimulatorSettings) -> tuple[FloatArray, FloatArray]:
    """Weight of each impression and P(its place is looked at), under the correction of the fit, each (M,)."""
    labels = logged_labels(log, settings)
    weight_M = np.ones(len(log)) if labels.weight_M is None else labels.weight_M.numpy()
    look_M, curve_K = np.ones(len(log)), model.examination_K
    if labels.place_M is not None and curve_K is not None:
        # A click over P(look) has the mean of a click that is looked at for certain; weighing it by P(look) leaves
        # the variance of such outcomes at what the log can bear. Places beyond the fit's count as its last.
        look_M = curve_K[np.minimum(labels.place_M.numpy(), len(curve_K) - 1)]
    return weight_M, look_M


def load_judge(folder: Path, items: Sequence[Any] | Catalogued) -> Judge:
    """Loads what `Judge.save` wrote; raises `RunError` for anything else."""
    model = load_behaviour(folder, items)
    try:
        return Judge(model, Correction.of_arrays(load_file(folder / "behaviour.safetensors")))
    except KeyError:
        raise RunError(f"{folder} holds a behaviour model without a judge's heads; fit the judge anew.") from None
