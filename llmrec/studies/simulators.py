"""Behaviour models side by side on held-out events, one cell for each (data set, model), finished cells kept.

A model is fitted on the training period, selected by its loss on the validation period and reported on the test
period. The yardstick is the mean of each item, whose smoothing is selected on the validation period too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmrec.config import SimulatorSettings
from llmrec.dataset.importers import import_dataset
from llmrec.dataset.impressions import impressions
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, DataError
from llmrec.files import read_json, sha256_of, write_json
from llmrec.simulator.behaviour import fit_behaviour
from llmrec.simulator.diagnostics import arm_test, bucket_report
from llmrec.simulator.log import ImpressionLog, read_log
from llmrec.simulator.metrics import item_means, log_losses, paired_interval, predict_log, section
from llmrec.simulator.networks import ARCHITECTURES
from llmrec.types import FloatArray, IntArray, Prediction, State

BASELINE = "item-mean"
MODELS = (BASELINE, *ARCHITECTURES)
STRENGTHS = (1.0, 10.0, 100.0)
SIGNALS = ("click", "click_and_conversion")
VERSION = 2
SETTINGS = SimulatorSettings(epochs=6, batch_size=1024)


@dataclass(frozen=True)
class Source:
    """A real data set: its importer with options, its split, how many states of each part are read, and the fit."""

    kind: str
    folder: str
    split: Literal["time", "given"]
    options: tuple[tuple[str, str], ...] = ()
    states: tuple[int, int, int] = (12_000, 2_500, 5_000)
    arms: bool = False
    fit: SimulatorSettings = SETTINGS


SOURCES = {
    "movielens-100k": Source("movielens", "movielens-100k", "time"),
    "amazon-industrial": Source("amazon-minionerec", "amazon-industrial", "given"),
    "complete-journey": Source("complete-journey", "complete-journey", "time", (("level", "type"),)),
    "hillstrom": Source(
        "hillstrom",
        "hillstrom",
        "given",
        states=(40_000, 10_000, 40_000),
        arms=True,
        # three items and one impression a customer: large batches would be too few steps (150 left the arms' rates a
        # point off on the fitted customers), and 60 held-out conversions calibrate nothing
        fit=SimulatorSettings(epochs=8, batch_size=256, calibration="everything"),
    ),
}


class ItemMeans:
    """The mean of each item as a predictor, smoothed to the overall rate by `strength` events."""

    proxy = ""

    def __init__(self, train: ImpressionLog, n_items: int, strength: float) -> None:
        self.table = item_means(read_log(train, n_items), np.arange(n_items), n_items, strength)

    def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction:
        """The same for every state."""
        at = np.asarray(items_BK).clip(min=0)
        return Prediction(self.table.click_BK[at], self.table.conversion_BK[at])

    def predict_all(self, states: Sequence[State]) -> Prediction:
        """Every item, (B, N)."""
        return self.predict(states, np.tile(np.arange(len(self.table.click_BK)), (len(states), 1)))


class SimulatorCells:
    """The parts of one data set, and its cells in `folder`.

    Args:
        name: A key of `SOURCES`.
        data: The folder that holds the data sets.
        folder: Where finished cells are kept; a cell of other settings or seed is made anew.
        seed: Seed of models, samples and the bootstrap.
    """

    def __init__(self, name: str, data: Path, folder: Path, seed: int = 0) -> None:
        if name not in SOURCES:
            raise ConfigError(f"Data set {name!r} is unknown; choose of {', '.join(SOURCES)}.")
        self.name, self.source, self.data, self.folder, self.seed = name, SOURCES[name], data, folder, seed
        self._parts: tuple[Dataset, dict[str, ImpressionLog]] | None = None

    def parts(self) -> tuple[Dataset, dict[str, ImpressionLog]]:
        """The data set and the impressions of train, valid and test (read once, and only if a cell needs them)."""
        if self._parts is None:
            path = self.data / self.source.folder
            if not path.is_dir():
                raise DataError(f"{path} does not exist; set LLMREC_DATA to the folder that holds {self.name}.")
            dataset = import_dataset(self.source.kind, path, **dict(self.source.options))
            split = make_split(dataset, self.source.split)
            logs: dict[str, ImpressionLog] = {}
            for part, limit in zip(("train", "valid", "test"), self.source.states, strict=True):
                logs[part] = impressions(dataset, split, part, limit=limit, seed=self.seed)  # type: ignore[arg-type]
            self._parts = dataset, logs
        return self._parts

    def cell(self, model: str) -> dict[str, Any]:
        """The figures of one model, from its file if that is of the same settings."""
        if model not in MODELS:
            raise ConfigError(f"Model {model!r} is unknown; choose of {', '.join(MODELS)}.")
        path = self.folder / f"{self.name}--{model}.json"
        key = sha256_of(repr((VERSION, self.source, self.seed, model)))
        if path.is_file():
            found: dict[str, Any] = read_json(path)
            if found.get("key") == key:
                return found
        figures = {"key": key, "dataset": self.name, "model": model, **self._measured(model)}
        write_json(path, figures)
        return figures

    def _measured(self, model: str) -> dict[str, Any]:
        dataset, logs = self.parts()
        start = time.perf_counter()
        baseline = self._baseline(dataset, logs)
        facts: dict[str, Any] = {"strength": baseline[1]}
        predictor: Any = baseline[0]
        if model != BASELINE:
            settings, valid = self.source.fit, logs["valid"]
            predictor = fit_behaviour(
                dataset, logs["train"], architecture=model, seed=self.seed, settings=settings, valid=valid
            )
            facts = predictor.facts
        figures = {
            "content_hash": dataset.manifest.content_hash,
            "proxy": dataset.manifest.proxy,
            "valid_loss": funnel_losses(predictor, logs["valid"], dataset.n_items).mean(),
            "test": self._figures(predictor, baseline[0], logs["test"], dataset.n_items),
            "buckets": bucket_report(predictor, logs["test"], logs["train"], n_items=dataset.n_items),
            "fit": {key: facts[key] for key in ("strength", "kept_epoch", "calibration") if key in facts},
        }
        if self.source.arms:
            figures["arms"] = self._arms(predictor, logs, dataset.n_items)
        return {**figures, "seconds": time.perf_counter() - start}

    def _baseline(self, dataset: Dataset, logs: dict[str, ImpressionLog]) -> tuple[ItemMeans, float]:
        means = {strength: ItemMeans(logs["train"], dataset.n_items, strength) for strength in STRENGTHS}
        loss = {s: funnel_losses(means[s], logs["valid"], dataset.n_items).mean() for s in STRENGTHS}
        best = min(STRENGTHS, key=lambda s: float(loss[s]))
        return means[best], best

    def _figures(self, model: Any, baseline: ItemMeans, test: ImpressionLog, n_items: int) -> dict[str, Any]:
        """By signal the figures of the model and the paired gain in log loss over the baseline, over users."""
        log, states = read_log(test, n_items), list(test.states)
        group_M = np.unique([str(state.user_id) for state in states], return_inverse=True)[1][log.row_M]
        found, mean = (predict_log(predictor, states, log) for predictor in (model, baseline))
        joint, mean_joint = (p.click_BK * p.conversion_BK for p in (found, mean))
        figures = {
            "click": section(log.click_M, found.click_BK, mean.click_BK, group_M, self.seed),
            "click_and_conversion": section(log.conversion_M, joint, mean_joint, group_M, self.seed),
        }
        gain_M = _funnel(mean, log.click_M, log.conversion_M) - _funnel(found, log.click_M, log.conversion_M)
        values = paired_interval(gain_M, group_M, seed=self.seed)
        return {**figures, "funnel_gain": dict(zip(("mean", "low", "high"), values, strict=True))}

    def _arms(self, model: Any, logs: dict[str, ImpressionLog], arms: int) -> dict[str, Any]:
        fitted = np.concatenate([np.asarray(logs[part].item_M) for part in ("train", "valid")])
        test = arm_test(model, logs["test"], np.bincount(fitted, minlength=arms))
        return {
            "simulated": test.simulated_A3.tolist(),
            "observed": test.observed_A3.tolist(),
            "chi_square": test.statistic,
            "degrees": test.degrees,
            "p_value": test.p_value,
        }


def funnel_losses(model: Any, impressions: ImpressionLog, n_items: int) -> FloatArray:
    """Minus the log-likelihood of each impression's outcome (nothing, click, conversion): (M,)."""
    log = read_log(impressions, n_items)
    return _funnel(predict_log(model, list(impressions.states), log), log.click_M, log.conversion_M)


def _funnel(found: Prediction, click_M: FloatArray, conversion_M: FloatArray) -> FloatArray:
    after_M = np.where(click_M > 0, log_losses(conversion_M, found.conversion_BK), 0.0)
    return np.asarray(log_losses(click_M, found.click_BK) + after_M)


def selected(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The cell with the least validation loss among those that are not the baseline."""
    rivals = [cell for cell in cells if cell["model"] != BASELINE]
    if not rivals:
        raise ConfigError(f"Only {BASELINE} was measured; name another model to compare with it.")
    return min(rivals, key=lambda cell: float(cell["valid_loss"]))
