"""From a log and the settings to what a network learns: objective, weights, values, places and calibrators."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmrec.config import SimulatorSettings
from llmrec.errors import ConfigError, DataError
from llmrec.seeding import stream_seed
from llmrec.simulator.calibration import Calibrator, Platt, fit_calibrator, fit_platt
from llmrec.simulator.corrections import effective_size, inverse_weights
from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.fitting import Catalogue, FitCurve, Imputation, fit_net, pair_logits
from llmrec.simulator.log import Log
from llmrec.simulator.networks import VALUED, Net, encoded, fresh_net
from llmrec.simulator.networks.factorised import UserTensors
from llmrec.simulator.objectives import COUNTERFACTUAL, Examination, Labels, Objective
from llmrec.types import FloatArray, IntArray, State

WEIGHTED = ("ips", "dr")
PLACED = ("position", "inverse-position")


@dataclass(frozen=True)
class ValueScale:
    """Mean, deviation and range of the values of a fitted log; networks predict standardised values."""

    mean: float
    deviation: float
    low: float
    high: float

    @classmethod
    def of(cls, value_M: FloatArray) -> ValueScale:
        """The scale of the known (finite) values."""
        known = value_M[np.isfinite(value_M)]
        return cls(float(known.mean()), float(known.std()) or 1.0, float(known.min()), float(known.max()))

    def standard(self, value_M: FloatArray) -> FloatArray:
        """(value - mean) / deviation."""
        return np.asarray((value_M - self.mean) / self.deviation)

    def value(self, standard: FloatArray) -> FloatArray:
        """The inverse of `standard`, kept in the range of the fitted values."""
        return np.asarray(np.clip(standard * self.deviation + self.mean, self.low, self.high))

    def array(self) -> FloatArray:
        """The four numbers."""
        return np.array([self.mean, self.deviation, self.low, self.high])


@dataclass(frozen=True)
class Lesson:
    """An objective, and the labels of the fitted and the held-out log."""

    objective: Objective
    labels: tuple[Labels, Labels]
    scale: ValueScale | None

    def facts(self, settings: SimulatorSettings) -> dict[str, Any]:
        """What a report should say of objective and correction, as plain values."""
        facts: dict[str, Any] = {"objective": settings.objective, "correction": settings.correction}
        weight_M = self.labels[0].weight_M
        if weight_M is not None:
            facts["effective_impressions"] = effective_size(weight_M.numpy())
        if self.objective.examination is not None:
            facts["examination"] = self.objective.examination.curve().tolist()
        return facts


def check_objective(settings: SimulatorSettings, architectures: Sequence[str] = ()) -> None:
    """Raises `ConfigError` where objective, correction and `architectures` exclude each other."""
    if settings.correction == "dr" and settings.objective != "funnel":
        raise ConfigError("Key 'simulator.correction' is dr, which goes with simulator.objective=funnel only.")
    if settings.unshown == "catalogue" and (settings.objective, settings.correction) != ("funnel", "none"):
        raise ConfigError(
            "Key 'simulator.unshown' is catalogue, which goes with simulator.objective=funnel and "
            "simulator.correction=none only."
        )
    without = sorted(set(architectures) - VALUED)
    if settings.objective == "escm2-dr" and without:
        raise ConfigError(
            f"Key 'simulator.objective' is escm2-dr, which needs a network with an imputation head; {without[0]} has "
            "none: choose gru or another (simulator.reward_architecture, simulator.judge_architecture)."
        )


def lesson(
    log: Log,
    held_out: Log,
    settings: SimulatorSettings,
    *,
    curve_K: FloatArray | None = None,
    value_only: bool = False,
) -> Lesson:
    """What is learnt from a log under `settings`.

    Args:
        log: The fitted impressions.
        held_out: Those of early stopping and calibration.
        settings: `objective` and `correction`.
        curve_K: A known examination curve; without it the correction "position" fits one.
        value_only: Learn the expected value alone.

    Raises:
        DataError: The correction needs propensities or positions that the log does not hold.
        ConfigError: Settings that exclude each other.
    """
    correction = settings.correction
    check_objective(settings)
    scale = None if log.value_M is None else ValueScale.of(log.value_M)
    places = None
    if correction in PLACED:
        position_M = _needed(log, "position")
        places = int(max(position_M.max(), _needed(held_out, "position").max(initial=0))) + 1
    given = None if curve_K is None else torch.from_numpy(np.asarray(curve_K, dtype=np.float64))
    objective = Objective(
        settings.objective,
        counterfactual=settings.counterfactual,
        clip=settings.clip,
        examination=None if places is None else Examination(places, given),
        inverse_places=correction == "inverse-position",
        value_only=value_only,
    )
    return Lesson(objective, (_labels(log, settings, scale), _labels(held_out, settings, scale)), scale)


def logged_labels(log: Log, settings: SimulatorSettings) -> Labels:
    """What was seen of a log's impressions, with the weights and places of `settings.correction`."""
    return _labels(log, settings, None)


def _labels(log: Log, settings: SimulatorSettings, scale: ValueScale | None) -> Labels:
    weight_M = value_M = place_M = None
    if settings.correction in WEIGHTED and len(log):
        weight_M = torch.from_numpy(inverse_weights(_needed(log, "propensity"), clip=settings.clip))
    if scale is not None:
        values = np.full(len(log), np.nan) if log.value_M is None else log.value_M
        value_M = torch.from_numpy(scale.standard(values))
    if settings.correction in PLACED:
        place_M = torch.from_numpy(_needed(log, "position").astype(np.int64))
    return Labels(torch.from_numpy(log.click_M), torch.from_numpy(log.conversion_M), weight_M, value_M, place_M)


def _needed(log: Log, what: str) -> FloatArray:
    found: FloatArray | None = getattr(log, f"{what}_M")
    if len(log) == 0:
        return np.zeros(0)
    if found is None or np.isnan(found).any():
        row = 0 if found is None else int(np.argmax(np.isnan(found)))
        raise DataError(
            f"Impression {row} has no {what}, which simulator.correction needs of each; log {what}s or set "
            "it to none."
        )
    return found


@dataclass(frozen=True)
class Learner:
    """Fits networks of one architecture on logs under one correction; some corrections need a first network."""

    architecture: str
    space: FeatureSpace
    settings: SimulatorSettings
    seed: int
    unshown: bool = False
    """Whether what was not clicked was drawn, as nothing was logged as shown."""

    def encoded(self, states: Sequence[State]) -> UserTensors:
        """States as this architecture reads them."""
        return encoded(fresh_net(self.architecture, self.space, self.seed), self.space, states)

    def learn(
        self,
        users: UserTensors,
        log: Log,
        held_out: Log,
        *,
        curve_K: FloatArray | None = None,
        value_only: bool = False,
    ) -> tuple[Net, Lesson, FitCurve]:
        """A fitted network, what it was taught, and its losses; see `lesson` for the arguments."""
        settings = self.settings
        if settings.correction == "inverse-position" and curve_K is None:
            # Inverse weighing needs P(look) as given numbers. This loss is linear in 1 / P(look), so a joint fit
            # would run to one of its ends.
            _, first, _ = self._first("position").learn(users, log, held_out)
            assert first.objective.examination is not None
            curve_K = first.objective.examination.curve().detach().double().numpy()
        imputation = None
        taught = lesson(log, held_out, settings, curve_K=curve_K, value_only=value_only)
        if settings.correction == "dr":
            # The imputation is of another seed and not corrected itself: its error is what the weighted residual
            # takes off.
            guess, _, _ = self._first("none").learn(users, log, held_out, value_only=value_only)
            imputation = Imputation(guess, self.space.n_items)
        net = fresh_net(self.architecture, self.space, self.seed)
        curve = fit_net(
            net,
            users,
            log,
            held_out,
            settings,
            self.seed,
            objective=taught.objective,
            labels=taught.labels,
            imputation=imputation,
            catalogue=Catalogue(self.space.n_items) if self.unshown and settings.unshown == "catalogue" else None,
        )
        return net, taught, curve

    def _first(self, correction: str) -> Learner:
        settings = dataclasses.replace(self.settings, correction=correction)  # type: ignore[arg-type]
        return dataclasses.replace(self, settings=settings, seed=stream_seed(self.seed, "simulator", "first"))


def calibrators(
    net: Net,
    users: UserTensors,
    logs: tuple[Log, Log],
    taught: Lesson,
    settings: SimulatorSettings,
    blended: Callable[[IntArray, IntArray, FloatArray], FloatArray] | None = None,
) -> tuple[Calibrator, Calibrator]:
    """Calibrators of click and conversion, under the same weights and places as the fit.

    They are fitted on the second (held-out) one of `logs`, or on both (`settings.calibration`). ESCM²'s conversion
    head is left as it is: calibrating it on clicked impressions would take its correction back. `blended` turns rows,
    items and the network's click logits into those that are calibrated (see `blend`).
    """
    log, labels = logs[1], taught.labels[1]
    if settings.calibration == "everything":
        log, labels = logs[0].joined(logs[1]), taught.labels[0].joined(taught.labels[1])
    logits_MH, clicked_M = pair_logits(net, users, log.row_M, log.item_M), log.click_M > 0
    if blended is not None:
        logits_MH[:, 0] = blended(log.row_M, log.item_M, logits_MH[:, 0])
    weight_M = None if labels.weight_M is None else labels.weight_M.numpy()
    # Raw click rates fall with the place, so a calibrator fitted on them would take the correction for places back;
    # its likelihood is that of look * p.
    if taught.objective.examination is not None and labels.place_M is not None:
        look_M = taught.objective.examination.curve().detach().numpy()[labels.place_M.numpy()]
        click: Calibrator = fit_platt(logits_MH[:, 0], log.click_M, look_M=look_M.astype(np.float64))
    else:
        click = fit_calibrator(logits_MH[:, 0], log.click_M, weight_M)
    if taught.objective.name in COUNTERFACTUAL:
        return click, Platt()
    weight = None if weight_M is None else weight_M[clicked_M]
    return click, fit_calibrator(logits_MH[clicked_M, 1], log.conversion_M[clicked_M], weight)
