"""Behaviour models: P(click | state, item) and P(conversion | click, state, item) of a fitted log of impressions.

    model = fit_behaviour(dataset, impressions, architecture="factorised", seed=0, settings=SimulatorSettings())
    model.predict(states, items_BK).click_BK

A model is calibrated on held-out impressions, saved as safetensors and JSON, and answers for items that came after
it was fitted by their text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from llmrec.config import SimulatorSettings
from llmrec.errors import ConfigError, DataError, RunError
from llmrec.files import new_folder, read_json, write_json
from llmrec.seeding import stream_seed
from llmrec.simulator.calibration import Calibrator, Platt, calibrator_of, fit_calibrator
from llmrec.simulator.crossed import CrossedNet
from llmrec.simulator.factorised import FactorisedNet, UserTensors
from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.fitting import VALID_SHARE, FitCurve, Net, fit_net, pair_logits
from llmrec.simulator.log import Impressions, Log, latest, read_log, require_learnable
from llmrec.types import FloatArray, IntArray, Item, Prediction, State

Architecture = Literal["factorised", "crossed"]
ARCHITECTURES: dict[str, Callable[[FeatureSpace], Net]] = {
    "factorised": cast(Callable[[FeatureSpace], Net], FactorisedNet),
    "crossed": cast(Callable[[FeatureSpace], Net], CrossedNet),
}
REWARD_ARCHITECTURE: Architecture = "factorised"
JUDGE_ARCHITECTURE: Architecture = "crossed"
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
    """

    def __init__(
        self,
        architecture: str,
        space: FeatureSpace,
        net: Net,
        calibrators: tuple[Calibrator, Calibrator],
        facts: dict[str, Any],
    ) -> None:
        self.architecture, self.space, self.net, self.calibrators, self.facts = (
            architecture,
            space,
            net,
            calibrators,
            facts,
        )

    @property
    def proxy(self) -> str:
        """A sentence on what stands in for clicks and conversions, or nothing."""
        return str(self.facts.get("proxy", ""))

    def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction:
        """Probabilities of the items `items_BK`; -1 (no item at this place) gets 0 for both.

        Raises:
            DataError: Shapes that do not fit, or an item index outside the catalogue.
        """
        items_BK = check_items(states, items_BK, self.space.n_items)
        shape = items_BK.shape
        users = UserTensors.of(self.space.encode(states), self.space)
        row_M = np.repeat(np.arange(shape[0]), shape[1])
        logits_M2 = pair_logits(self.net, users, row_M, items_BK.clip(min=0).ravel())
        prediction = self._calibrated(logits_M2.reshape(*shape, 2))
        real_BK = items_BK >= 0
        return Prediction(prediction.click_BK * real_BK, prediction.conversion_BK * real_BK)

    @torch.no_grad()
    def predict_all(self, states: Sequence[State]) -> Prediction:
        """Probabilities of every item of the catalogue, shape (B, N)."""
        users = UserTensors.of(self.space.encode(states), self.space)
        parts = [np.zeros((0, self.space.n_items, 2))]
        for low in range(0, len(states), _CHUNK):
            rows = torch.arange(low, min(low + _CHUNK, len(states)))
            parts.append(self.net.grid(self.net.users(users.rows(rows))).double().numpy())
        return self._calibrated(np.concatenate(parts))

    def _calibrated(self, logits_BK2: FloatArray) -> Prediction:
        click, conversion = self.calibrators
        return Prediction(click(logits_BK2[..., 0]), conversion(logits_BK2[..., 1]))

    def save(self, folder: Path) -> None:
        """Writes `behaviour.safetensors` and `behaviour.json` into a new `folder`, whole or not at all."""
        arrays, values = self.space.state()
        tensors = {f"net.{name}": value.numpy() for name, value in self.net.state_dict().items()} | arrays
        for head, calibrator in zip(("click", "conversion"), self.calibrators, strict=True):
            tensors[f"calibration.{head}"] = calibrator.array()
        with new_folder(folder) as work:
            save_file({name: np.ascontiguousarray(a) for name, a in tensors.items()}, work / "behaviour.safetensors")
            facts = {"kind": "behaviour", "architecture": self.architecture, "features": values, "facts": self.facts}
            write_json(work / "behaviour.json", facts)


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
    except DataError:
        raise
    except Exception as error:  # safetensors and torch raise many kinds for a broken file
        raise RunError(f"{path} cannot be read as a behaviour model ({error}); fit it anew.") from None
    return BehaviourModel(facts["architecture"], space, net, (click, conversion), facts["facts"])


def fit_behaviour(
    dataset: Any,
    impressions: Impressions,
    *,
    architecture: str = REWARD_ARCHITECTURE,
    seed: int,
    settings: SimulatorSettings,
    valid: Impressions | None = None,
) -> BehaviourModel:
    """Fits and calibrates a behaviour model.

    Args:
        dataset: A `Dataset` (its items and the proxy sentence of its manifest are used), or a sequence of items.
        impressions: The log to fit.
        architecture: A name in `ARCHITECTURES`.
        seed: Run seed; initial weights, order and encoders have streams of their own.
        settings: Epochs, batch size, learning rate.
        valid: Later impressions for early stopping and calibration; without them the latest tenth is held out.

    Raises:
        DataError: Impressions that nothing can be learnt from, or that are not what they should be.
        ConfigError: Unknown architecture.
    """
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"Unknown architecture {architecture!r}; choose one of {', '.join(ARCHITECTURES)}.")
    items = items_of(dataset)
    log = read_log(impressions, len(items))
    require_learnable(log, impressions.states, len(items))
    states = list(impressions.states)
    if valid is None:
        late_M = latest(log, states, VALID_SHARE)
        log, held_out = log.part(~late_M), log.part(late_M)
        require_learnable(log, states, len(items))
    else:
        held_out = read_log(valid, len(items))
        held_out = Log(held_out.row_M + len(states), held_out.item_M, held_out.click_M, held_out.conversion_M)
        states += valid.states
    space = FeatureSpace.fit(
        items,
        states[: len(impressions.states)],
        np.bincount(log.item_M, minlength=len(items)).astype(np.float64),
        seed=stream_seed(seed, "simulator", "text"),
    )
    users = UserTensors.of(space.encode(states), space)
    net = _fresh_net(architecture, space, stream_seed(seed, "simulator", "weights"))
    curve = fit_net(net, users, log, held_out, settings, seed)
    logits_M2 = pair_logits(net, users, held_out.row_M, held_out.item_M)
    clicked_M = held_out.click_M > 0
    calibrators = (
        fit_calibrator(logits_M2[:, 0], held_out.click_M),
        fit_calibrator(logits_M2[clicked_M, 1], held_out.conversion_M[clicked_M]),
    )
    return BehaviourModel(
        architecture, space, net, calibrators, _facts(dataset, log, states, curve, calibrators, seed)
    )


def _fresh_net(architecture: str, space: FeatureSpace, seed: int) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[architecture](space)


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
    if items_BK.size and (items_BK.min() < -1 or items_BK.max() >= n_items):
        bad = items_BK[(items_BK < -1) | (items_BK >= n_items)][0]
        raise DataError(f"Item index {bad} is outside the catalogue of {n_items} items.")
    return items_BK.astype(np.int64)
