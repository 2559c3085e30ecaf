"""Fitting any choice model on logged slates.

    model = fit_choice("dynamic-bayesian", SlateLog.of_impressions(slate_M, item_M, click_M, position_M), seed=0)
    model.attraction.of(item_BK), model.perseverance, model.curve

Items get a Beta prior at the log's click rate, worth `prior_strength` impressions; the objective that EM raises at
every step, and that `curve` shows, is log-likelihood plus log prior. With strength 0 it is the log-likelihood.
"""

from __future__ import annotations

import numpy as np

from llmrec.config import ChoiceSettings
from llmrec.errors import ConfigError, DataError
from llmrec.seeding import numpy_stream
from llmrec.simulator.choice.base import Choice, require_ranks
from llmrec.simulator.choice.bayesian_fit import fit_dynamic_bayesian, fit_simplified
from llmrec.simulator.choice.cascade import CascadeChoice, DynamicBayesianChoice
from llmrec.simulator.choice.independent import IndependentChoice, PositionChoice
from llmrec.simulator.choice.logit import LogitChoice
from llmrec.simulator.choice.logit_fit import fit_logit
from llmrec.simulator.choice.position_fit import fit_position
from llmrec.simulator.choice.slates import SlateLog
from llmrec.simulator.choice.tally import Keyed, Prior, Stop, last_click

SIMPLIFIED = "simplified-dynamic-bayesian"
"""Name under which `fit_choice` takes the closed form of the dynamic Bayesian model."""
MODELS: dict[str, type[Choice]] = {
    model.name: model
    for model in (IndependentChoice, PositionChoice, CascadeChoice, DynamicBayesianChoice, LogitChoice)
}


def make_choice(settings: ChoiceSettings, places: int) -> Choice:
    """The configured model for slates of up to `places`, without parameters by item.

    Raises:
        DataError: A perseverance outside [0, 1] or a negative position bias.
    """
    if settings.model == "position":
        return PositionChoice.power(settings.position_bias, places)
    if settings.model == "dynamic-bayesian":
        return DynamicBayesianChoice(settings.perseverance)
    plain: dict[str, type[Choice]] = {m.name: m for m in (IndependentChoice, CascadeChoice, LogitChoice)}
    return plain[settings.model]()


def fit_choice(
    name: str,
    log: SlateLog,
    *,
    seed: int,
    tolerance: float = 1e-7,
    max_steps: int = 500,
    prior_strength: float = 2.0,
    perseverance: float | None = None,
) -> Choice:
    """Fits the choice model `name` (a key of `MODELS`, or `SIMPLIFIED`).

    Args:
        name: Which model.
        log: Logged slates; attractions that it brings (`attraction_SK`) are kept, and only the rest is fitted.
        seed: Run seed, for first guesses.
        tolerance: The fit ends when a step gains less than this an impression (nats).
        max_steps: Steps of EM or L-BFGS at most.
        prior_strength: Pseudo-impressions of the Beta prior of each item, at the log's click rate.
        perseverance: A known perseverance of the dynamic Bayesian model.

    Raises:
        ConfigError: An unknown name.
        DataError: A log that the model cannot be fitted on: without ranks, all or nothing clicked, one item, one
            user, several clicks in a slate of a model that knows only one, or empty places amid a slate.
    """
    if name not in MODELS and name != SIMPLIFIED:
        raise ConfigError(f"Unknown choice model {name!r}; choose one of {', '.join([*MODELS, SIMPLIFIED])}.")
    kind = MODELS.get(name, DynamicBayesianChoice)
    require_ranks(kind, log)
    require_fittable(kind, log)
    rate = float(log.click_SK.sum() / log.shown_SK.sum())
    prior, random = Prior.at(rate, prior_strength), numpy_stream(seed, "simulator", "choice", name)
    stop = Stop(tolerance, max_steps, int(log.shown_SK.sum()))
    if name == "position":
        return fit_position(log, prior, stop, random)
    if name == "dynamic-bayesian":
        return fit_dynamic_bayesian(log, prior, prior_strength, stop, random, perseverance)
    if name == SIMPLIFIED:
        return fit_simplified(log, prior, prior_strength)
    if name == "logit":
        return fit_logit(log, prior, stop)
    return _counted(CascadeChoice if name == "cascade" else IndependentChoice, log, prior)


def _counted(kind: type[CascadeChoice | IndependentChoice], log: SlateLog, prior: Prior) -> Choice:
    """Independent: clicks over impressions. Cascade: over impressions down to the slate's click, all without one."""
    if log.attraction_SK is not None:
        return kind(curve=(kind().log_likelihood(log),))
    keyed = Keyed.of(log)
    read = keyed.shown_SK
    if kind is CascadeChoice:
        last = last_click(log.click_SK)[:, None]
        read = read & ((last < 0) | (np.arange(log.item_SK.shape[1]) <= last))
    value_P = prior.rate(keyed.total(log.click_SK.astype(np.float64)), keyed.total(read.astype(np.float64)))
    attraction = keyed.parameters(value_P, prior.mean)
    return kind(attraction, curve=(kind(attraction).log_likelihood(log) + prior.log_density(value_P),))


def require_fittable(kind: type[Choice], log: SlateLog) -> None:
    """Raises `DataError` where `kind` cannot be fitted on `log`; see `fit_choice`."""
    shown = log.shown_SK
    if not shown.any():
        raise DataError("The log holds no impression to fit a choice model on; widen the period.")
    if log.click_SK[shown].all():
        raise DataError(
            "Every impression of the log is clicked, so nothing tells what a user leaves; log the others."
        )
    if not log.click_SK.any():
        raise DataError("No impression of the log is clicked; check the rule for clicks and the period.")
    if len(np.unique(log.item_SK[shown])) < 2:
        raise DataError("The log shows one item only, so there is nothing to choose between; a fit needs two.")
    if log.user_S is not None and len(np.unique(log.user_S)) < 2:
        raise DataError("The log is of one user only; a choice model needs at least two.")
    clicks_S = log.click_SK.sum(axis=1)
    if issubclass(kind, CascadeChoice | LogitChoice) and clicks_S.max() > 1:
        row = int(np.argmax(clicks_S > 1))
        raise DataError(
            f"Slate {row} has {clicks_S[row]} clicks, but the choice model {kind.name!r} knows one at most; choose "
            "'dynamic-bayesian' or 'position', or keep each slate's first click."
        )
    gap_S = (shown[:, 1:] & ~shown[:, :-1]).any(axis=1)
    if issubclass(kind, CascadeChoice | DynamicBayesianChoice) and gap_S.any():
        raise DataError(
            f"Slate {int(np.argmax(gap_S))} has an empty place above an item, but the choice model {kind.name!r} "
            "reads from the top; log whole slates."
        )
