"""Choice within a slate: how the places share a user's attention, and fits on logged slates."""

from llmrec.simulator.choice.base import Choice
from llmrec.simulator.choice.fitting import FITTED, MODELS, fit_choice, fit_settings, make_choice, require_places
from llmrec.simulator.choice.models import (
    CascadeChoice,
    DynamicBayesianChoice,
    IndependentChoice,
    LogitChoice,
    PositionChoice,
)
from llmrec.simulator.choice.slates import KeyedParameters, SlateLog

__all__ = [
    "FITTED",
    "MODELS",
    "CascadeChoice",
    "Choice",
    "DynamicBayesianChoice",
    "IndependentChoice",
    "KeyedParameters",
    "LogitChoice",
    "PositionChoice",
    "SlateLog",
    "fit_choice",
    "fit_settings",
    "make_choice",
    "require_places",
]
