"""Behaviour models: P(click | state, item) and P(conversion | click, state, item) of a fitted log of impressions.

    model = fit_behaviour(dataset, impressions, architecture="factorised", seed=0, settings=SimulatorSettings())
    model.predict(states, items_BK).click_BK

A model is calibrated on held-out impressions, saved as safetensors and JSON, and answers for items that came after
it was fitted by their text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from llmrec.config import SimulatorSettings
from llmrec.errors import ConfigError, DataError, RunError
from llmrec.files import new_folder, read_json, write_json
from llmrec.seeding import stream_seed
from llmrec.simulator.blend import Blend, Traces, fit_blend
from llmrec.simulator.calibration import Calibrator, Platt, calibrator_of
from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.fitting import FitCurve, pair_logits
from llmrec.simulator.learning import Learner, ValueScale, calibrators
from llmrec.simulator.log import ImpressionLog, Log, require_indices, require_learnable, two_parts
from llmrec.simulator.networks import (
    ARCHITECTURES,
    REWARD_ARCHITECTURE,
    VALUED,
    Architecture,
    Net,
    encoded,
    require_architecture,
)
from llmrec.simulator.networks.parts import CLICK, VALUE
from llmrec.simulator.networks.recurrent import LiveState, RecurrentNet, advanced, live_logits, started
from llmrec.types import BoolArray, FloatArray, IntArray, Item, Prediction, State

__all__ = [
    "ARCHITECTURES",
    "REWARD_ARCHITECTURE",
    "Architecture",
    "BehaviourModel",
    "Catalogued",
    "check_items",
    "fit_behaviour",
    "items_of",
    "load_behaviour",
]

_CHUNK = 256  # states at a time in predictions


class Catalogued(Protocol):
    """Anything that lists its items, such as a `Dataset`."""

    @property
    def n_items(self) -> int: ...  # noqa: D102
    def item(self, i: int, /) -> Item: ...  # noqa: D102


class BehaviourModel:
    """A fitted network, its encoders and its two calibrators.

    Attributes:
        architecture: Its name in `ARCHITECTURES`.
        facts: What a report should say: counts, held-out losses by epoch, seed, and `proxy`, a sentence that is not
            empty where clicks, conversions or unclicked items are stand-ins.
        blend: What counts beside the network where nothing was logged as shown, popularity among it; else None.
    """

    def __init__(
        self,
        architecture: str,
        space: FeatureSpace,
        net: Net,
        calibrators: tuple[Calibrator, Calibrator],
        facts: dict[str, Any],
        scale: ValueScale | None = None,
        blend: Blend | None = None,
    ) -> None:
        self.architecture, self.space, self.net = architecture, space, net
        self.calibrators, self.facts, self.scale, self.blend = calibrators, facts, scale, blend

    @property
    def proxy(self) -> str:
        """A sentence on what stands in for clicks and conversions, or nothing."""
        return str(self.facts.get("proxy", ""))

    @property
    def examination_K(self) -> FloatArray | None:
        """P(a place is looked at), 1 at the first, where the log was corrected for places; else None."""
        curve = self.facts.get("examination")
        return None if curve is None else np.asarray(curve)

    def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction:
        """Probabilities of the items `items_BK`; -1 (no item at this place) gets 0 for both.

        Raises:
            DataError: Shapes that do not fit, or an item index outside the catalogue.
        """
        logits_BKH, real_BK = self._logits(states, items_BK)
        prediction = self._calibrated(logits_BKH)
        return Prediction(prediction.click_BK * real_BK, prediction.conversion_BK * real_BK)

    def expected_value(self, states: Sequence[State], items_BK: IntArray) -> FloatArray:
        """Expected value (rating, amount, seconds watched) given that there is one, (B, K); nan for no item (-1).

        Raises:
            ConfigError: The model has learnt no values.
        """
        scale = self.scale
        if scale is None:
            raise ConfigError(
                f"This {self.architecture!r} model has learnt no values; fit gru, mlp or another with a value "
                "head on a log that holds them (see llmrec.simulator.values)."
            )
        logits_BKH, real_BK = self._logits(states, items_BK)
        return np.where(real_BK, scale.value(logits_BKH[..., VALUE]), np.nan)

    def _logits(self, states: Sequence[State], items_BK: IntArray) -> tuple[FloatArray, BoolArray]:
        items_BK = check_items(states, items_BK, self.space.n_items)
        users = encoded(self.net, self.space, states)
        # An empty place is computed as item 0 and set to 0 afterwards.
        row_M = np.repeat(np.arange(items_BK.shape[0]), items_BK.shape[1])
        logits_MH = pair_logits(self.net, users, row_M, items_BK.clip(min=0).ravel())
        logits_BKH = logits_MH.reshape(*items_BK.shape, logits_MH.shape[1])
        if self.blend is not None:
            logits_BKH[..., CLICK] = self.blend.at(states, items_BK.clip(min=0), logits_BKH[..., CLICK])
        return logits_BKH, items_BK >= 0

    def without_popularity(self) -> BehaviourModel:
        """The same model without the popularity that was kept apart; its probabilities are no longer calibrated.

        Raises:
            ConfigError: it keeps none apart (see `blend`).
        """
        if self.blend is None:
            raise ConfigError(
                f"This {self.architecture!r} model keeps no popularity apart; only one that was fitted on choices "
                "without logged impressions and with simulator.blend does."
            )
        blend = self.blend.without_popularity()
        return BehaviourModel(
            self.architecture, self.space, self.net, self.calibrators, self.facts, self.scale, blend
        )

    @torch.no_grad()
    def predict_all(self, states: Sequence[State]) -> Prediction:
        """Probabilities of every item of the catalogue, shape (B, N)."""
        users = encoded(self.net, self.space, states)
        parts = [np.zeros((0, self.space.n_items, 2))]
        for low in range(0, len(states), _CHUNK):
            rows = torch.arange(low, min(low + _CHUNK, len(states)))
            found = self.net.grid(self.net.users(users.rows(rows)))[..., :2].double().numpy()
            if self.blend is not None:
                found[..., CLICK] = self.blend.grid(states[low : low + _CHUNK], found[..., CLICK])
            parts.append(found)
        return self._calibrated(np.concatenate(parts))

    def initial_state(self, states: Sequence[State]) -> LiveState:
        """What "gru" and "lstm" carry of each user, for `step` and `predict_from`; `ConfigError` for others."""
        return started(self._recurrent(), encoded(self.net, self.space, states))

    def step(self, state: LiveState, items: IntArray, feedback: IntArray) -> LiveState:
        """The state after users saw items, as if the events had been appended to their sessions.

        Args:
            state: Of B users.
            items: Item indices, (B,) or in order of the slate (B, K); -1 is no event.
            feedback: Codes of `llmrec.simulator.sequence.CODES`, same shape; 0 is no event.
        """
        return advanced(self._recurrent(), state, items, feedback)

    def predict_from(self, state: LiveState, items_BK: IntArray) -> Prediction:
        """`predict`, from the carried state: equal up to rounding, without reading a history."""
        prediction = self._calibrated(live_logits(self._recurrent(), state, items_BK))
        real_BK = np.asarray(items_BK) >= 0
        return Prediction(prediction.click_BK * real_BK, prediction.conversion_BK * real_BK)

    def _recurrent(self) -> RecurrentNet:
        if not isinstance(self.net, RecurrentNet):
            raise ConfigError(f"A {self.architecture!r} model cannot be fed event by event; fit gru or lstm.")
        return self.net

    def _calibrated(self, logits_BK2: FloatArray) -> Prediction:
        click, conversion = self.calibrators
        return Prediction(click(logits_BK2[..., 0]), conversion(logits_BK2[..., 1]))

    def save(self, folder: Path) -> None:
        """Writes `behaviour.safetensors` and `behaviour.json` into a new `folder`, whole or not at all."""
        arrays, values = self.space.state()
        # Arrays and JSON alone: loading a model of a stranger runs no code.
        tensors = {f"net.{name}": value.numpy() for name, value in self.net.state_dict().items()} | arrays
        tensors |= self._arrays()
        for head, calibrator in zip(("click", "conversion"), self.calibrators, strict=True):
            tensors[f"calibration.{head}"] = calibrator.array()
        if self.scale is not None:
            tensors["value.scale"] = self.scale.array()
        if self.blend is not None:
            tensors["blend.weights"] = self.blend.weight_J
            tensors |= {f"blend.{name}": array for name, array in self.blend.traces.arrays().items()}
        with new_folder(folder, mark="behaviour.json") as work:
            save_file({name: np.ascontiguousarray(a) for name, a in tensors.items()}, work / "behaviour.safetensors")
            facts = {"kind": "behaviour", "architecture": self.architecture, "features": values, "facts": self.facts}
            write_json(work / "behaviour.json", facts)

    def _arrays(self) -> dict[str, FloatArray]:
        """What a kind of model keeps beside network, encoders and calibrators, by names of its own."""
        return {}


def load_behaviour(folder: Path, items: Sequence[Item] | Catalogued) -> BehaviourModel:
    """Loads a model for a catalogue (a `Dataset` or its items); items it never met are judged by their text.

    Raises:
        RunError: `folder` holds no behaviour model.
    """
    facts = read_json(folder / "behaviour.json")
    path = folder / "behaviour.safetensors"
    if not isinstance(facts, dict) or facts.get("architecture") not in ARCHITECTURES:
        raise RunError(f"{folder / 'behaviour.json'} does not describe a behaviour model; fit it anew.")
    if not path.is_file():
        raise RunError(f"{path} does not exist; fit the behaviour model anew.")
    try:
        tensors = load_file(path)
        space = FeatureSpace.restore(items_of(items), tensors, facts["features"])
        net = ARCHITECTURES[facts["architecture"]](space)
        net.load_state_dict({k[4:]: torch.from_numpy(v) for k, v in tensors.items() if k.startswith("net.")})
        click, conversion = (calibrator_of(tensors[f"calibration.{head}"]) for head in ("click", "conversion"))
        counts = {name[6:]: array for name, array in tensors.items() if name.startswith("blend.")}
        blend = Blend(Traces.restore(counts), space, counts["weights"]) if counts else None
    except DataError:
        raise
    except Exception as error:  # safetensors and torch raise many kinds for a broken file
        raise RunError(f"{path} cannot be read as a behaviour model ({error}); fit it anew.") from None
    scale = ValueScale(*tensors["value.scale"].tolist()) if "value.scale" in tensors else None
    return BehaviourModel(facts["architecture"], space, net, (click, conversion), facts["facts"], scale, blend)


def fit_behaviour(
    dataset: Any,
    impressions: ImpressionLog,
    *,
    architecture: str = REWARD_ARCHITECTURE,
    seed: int,
    settings: SimulatorSettings,
    valid: ImpressionLog | None = None,
    examination_K: FloatArray | None = None,
) -> BehaviourModel:
    """Fits and calibrates a behaviour model.

    Args:
        dataset: A `Dataset` (its items and the proxy sentence of its manifest are used), or a sequence of items.
        impressions: The log to fit; columns `value_M`, `propensity_M` and `position_M` are used where they are.
        architecture: A name in `ARCHITECTURES`.
        seed: Run seed; initial weights, order and encoders have streams of their own.
        settings: Epochs, batch size, learning rate, objective, correction.
        valid: Later impressions for early stopping and calibration; without them the latest tenth is held out.
        examination_K: P(a place is looked at), if known, for the corrections by position.

    Raises:
        DataError: Impressions that nothing can be learnt from, or that are not what they should be.
        ConfigError: Unknown architecture, or settings that exclude each other.
    """
    require_architecture(architecture)
    items = items_of(dataset)
    # Text encoders and counts see the fitted states and impressions alone; what is held out stands behind them in
    # `states`.
    log, held_out, states = two_parts(impressions, valid, len(items))
    require_learnable(log, states, len(items))
    space = FeatureSpace.fit(
        items,
        states[: len(impressions.states)],
        np.bincount(log.item_M, minlength=len(items)).astype(np.float64),
        seed=stream_seed(seed, "simulator", "text"),
    )
    unshown = not getattr(dataset, "has_impressions", True)
    learner = Learner(architecture, space, settings, seed, unshown)
    users = learner.encoded(states)
    net, taught, curve = learner.learn(users, log, held_out, curve_K=examination_K)
    blend = None
    if settings.blend and unshown and not isinstance(net, RecurrentNet):

        def clicks(row_M: IntArray, item_M: IntArray) -> FloatArray:
            return pair_logits(net, users, row_M, item_M)[:, CLICK]

        blend = fit_blend(log, held_out, states, space, clicks, seed, repeats=_repeats(dataset))
    blended = None if blend is None else partial(blend.pairs, states)
    found = calibrators(net, users, (log, held_out), taught, settings, blended)
    facts = _facts(dataset, log, states, curve, found, seed) | taught.facts(settings)
    facts |= {} if blend is None else blend.facts
    scale = taught.scale if architecture in VALUED else None
    return BehaviourModel(architecture, space, net, found, facts, scale, blend)


def _repeats(dataset: Any) -> bool:
    """Whether what a user has chosen may be chosen again; a plain list of items does not say."""
    return getattr(getattr(dataset, "manifest", None), "repeat", "allow") != "exclude"


def _facts(
    dataset: Any,
    log: Log,
    states: Sequence[State],
    curve: FitCurve,
    calibrators: tuple[Calibrator, Calibrator],
    seed: int,
) -> dict[str, Any]:
    proxy = getattr(getattr(dataset, "manifest", None), "proxy", "")
    if not getattr(dataset, "has_impressions", True):
        # Drawn negatives change the base rate: only ratios between items mean anything then.
        proxy = f"{proxy} Items without a click were sampled, so probabilities are relative.".strip()
    return {
        "seed": seed,
        "users": len({states[row].user_id for row in np.unique(log.row_M)}),
        "impressions": len(log),
        "clicks": int(log.click_M.sum()),
        "conversions": int(log.conversion_M.sum()),
        "train_loss": list(curve.train),
        "valid_loss": list(curve.valid),
        "kept_epoch": curve.kept,
        "calibration": ["Platt" if isinstance(c, Platt) else "isotonic" for c in calibrators],
        "proxy": proxy,
    }


def items_of(source: Sequence[Item] | Catalogued) -> list[Item]:
    """The items of a data set, or of a sequence of items, in index order."""
    if isinstance(source, Sequence):
        return list(source)
    return [source.item(i) for i in range(source.n_items)]


def check_items(states: Sequence[State], items_BK: IntArray, n_items: int) -> IntArray:
    """`items_BK` as int64 of shape (len(states), K) with indices from -1 to n_items - 1; raises `DataError`."""
    items_BK = np.asarray(items_BK)
    if items_BK.ndim != 2 or len(items_BK) != len(states):
        raise DataError(f"Items of shape {items_BK.shape} do not fit {len(states)} states; give one row a state.")
    if items_BK.dtype.kind not in "iu":
        raise DataError(f"Items must be whole numbers (item indices), not {items_BK.dtype}.")
    require_indices(items_BK, n_items)
    return items_BK.astype(np.int64)
