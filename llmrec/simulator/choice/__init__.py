"""Choice within a slate: how the places share a user's attention, and fits on logged slates."""

from llmrec.simulator.choice.base import Choice, ChoiceModel
from llmrec.simulator.choice.cascade import CascadeChoice, DynamicBayesianChoice
from llmrec.simulator.choice.fitting import MODELS, SIMPLIFIED, fit_choice, make_choice
from llmrec.simulator.choice.independent import IndependentChoice, PositionChoice
from llmrec.simulator.choice.logit import LogitChoice
from llmrec.simulator.choice.slates import KeyedParameters, SlateLog
from llmrec.simulator.choice.store import load_choice, save_choice

__all__ = [
    "MODELS",
    "SIMPLIFIED",
    "CascadeChoice",
    "Choice",
    "ChoiceModel",
    "DynamicBayesianChoice",
    "IndependentChoice",
    "KeyedParameters",
    "LogitChoice",
    "PositionChoice",
    "SlateLog",
    "fit_choice",
    "load_choice",
    "make_choice",
    "save_choice",
]
