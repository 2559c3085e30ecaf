"""The configured choice model, and what the slates of a log tell of its places.

    settings = fit_settings(ChoiceSettings(model="position"), SlateLog.of_impressions(...), places=10, seed=0)
    make_choice(settings, places=10)

Good items may stand on top, so items are fitted beside the places and then left out: in a session their attraction
is the population's. Items get a Beta prior at the log's click rate, worth `prior_strength` impressions; the objective
that EM raises at every step, and that `curve` shows, is log-likelihood plus log prior. With strength 0 it is the
log-likelihood.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llmrec.config import ChoiceSettings
from llmrec.errors import ConfigError, DataError
from llmrec.seeding import numpy_stream
from llmrec.simulator.choice.base import Choice, require_ranks
from llmrec.simulator.choice.bayesian_fit import fit_dynamic_bayesian
from llmrec.simulator.choice.logit_fit import fit_logit
from llmrec.simulator.choice.models import (
    CascadeChoice,
    DynamicBayesianChoice,
    IndependentChoice,
    LogitChoice,
    PositionChoice,
)
from llmrec.simulator.choice.position_fit import fit_position
from llmrec.simulator.choice.slates import SlateLog
from llmrec.simulator.choice.tally import Prior, Stop

MODELS: dict[str, type[Choice]] = {
    model.name: model
    for model in (IndependentChoice, PositionChoice, CascadeChoice, DynamicBayesianChoice, LogitChoice)
}


FITTED = ("position", "dynamic-bayesian", "logit")
"""Models that have numbers of their places to find."""


def make_choice(settings: ChoiceSettings, places: int) -> Choice:
    """The configured model for slates of up to `places`, without parameters by item.

    Raises:
        DataError: A perseverance or examination outside [0, 1], or a negative position bias.
    """
    if settings.model == "position" and settings.by_rank:
        return PositionChoice(settings.by_rank)
    if settings.model == "position":
        return PositionChoice.power(settings.position_bias, places)
    if settings.model == "dynamic-bayesian":
        return DynamicBayesianChoice(settings.perseverance)
    if settings.model == "logit":
        return LogitChoice(settings.by_rank or None)
    return MODELS[settings.model]()


def fit_settings(settings: ChoiceSettings, log: SlateLog, places: int, *, seed: int) -> ChoiceSettings:
    """The settings with `by_rank` or `perseverance` as the log has them, for slates of up to `places`.

    Raises:
        ConfigError: A model without numbers of its places.
        DataError: A log that the model cannot be fitted on, or of slates that are shorter than `places`.
    """
    fitted = fit_choice(
        settings.model,
        log,
        seed=seed,
        tolerance=settings.tolerance,
        max_steps=settings.max_steps,
        prior_strength=settings.prior_strength,
    )
    if isinstance(fitted, DynamicBayesianChoice):
        return replace(settings, perseverance=fitted.perseverance)
    by_rank = fitted.examination_K if isinstance(fitted, PositionChoice) else fitted.offset_K
    known = () if by_rank is None else tuple(by_rank.tolist())
    if len(known) < places:
        raise DataError(
            f"The log's slates tell of {len(known)} places by position, not of {places}; make slates (session.slate) "
            "as short, or set choice.fitted to false."
        )
    return replace(settings, by_rank=known)


def fit_choice(
    name: str,
    log: SlateLog,
    *,
    seed: int,
    tolerance: float = 1e-7,
    max_steps: int = 500,
    prior_strength: float = 2.0,
) -> PositionChoice | DynamicBayesianChoice | LogitChoice:
    """Fits the choice model `name`, one of `FITTED`.

    Args:
        name: Which model.
        log: Logged slates; attractions that it brings (`attraction_SK`) are kept, and only the rest is fitted.
        seed: Run seed, for first guesses.
        tolerance: The fit ends when a step gains less than this an impression (nats).
        max_steps: Steps of EM or L-BFGS at most.
        prior_strength: Pseudo-impressions of the Beta prior of each item, at the log's click rate.

    Raises:
        ConfigError: An unknown name, or a model that has nothing to fit.
        DataError: A log that the model cannot be fitted on: without ranks, all or nothing clicked, one item, one
            user, several clicks in a slate of a model that knows only one, or empty places amid a slate.
    """
    require_places(name)
    kind = MODELS[name]
    require_ranks(kind, log)
    require_fittable(kind, log)
    # Items begin at the log's click rate and are moved from there by what they got; without a prior an item clicked
    # once of once would be certain.
    rate = float(log.click_SK.sum() / log.shown_SK.sum())
    prior, random = Prior.at(rate, prior_strength), numpy_stream(seed, "simulator", "choice", name)
    stop = Stop(tolerance, max_steps, int(log.shown_SK.sum()))
    if name == "position":
        return fit_position(log, prior, stop, random)
    if name == "dynamic-bayesian":
        return fit_dynamic_bayesian(log, prior, prior_strength, stop, random)
    return fit_logit(log, prior, stop)


def require_places(name: str) -> None:
    """Raises `ConfigError` where no choice model is called `name`, or it has no numbers of places."""
    if name not in FITTED:
        raise ConfigError(f"Choice model {name!r} has no places to fit on a log; choose one of {', '.join(FITTED)}.")


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
    if issubclass(kind, LogitChoice) and clicks_S.max() > 1:
        row = int(np.argmax(clicks_S > 1))
        raise DataError(
            f"Slate {row} has {clicks_S[row]} clicks, but the choice model {kind.name!r} knows one at most; choose "
            "'dynamic-bayesian' or 'position', or keep each slate's first click."
        )
    gap_S = (shown[:, 1:] & ~shown[:, :-1]).any(axis=1)
    if issubclass(kind, DynamicBayesianChoice) and gap_S.any():
        raise DataError(
            f"Slate {int(np.argmax(gap_S))} has an empty place above an item, but the choice model {kind.name!r} "
            "reads from the top; log whole slates."
        )
