"""The stages of a run of some configuration, in their order."""

from __future__ import annotations

from llmrec.config import RunConfig
from llmrec.config.improvement import RolloutSettings
from llmrec.pipeline.ahead import Ahead
from llmrec.pipeline.controls import controls_of
from llmrec.pipeline.pilot import wants_pilot

EVALUATION, REPORT = "evaluation", "report"


def ahead_of(config: RunConfig) -> Ahead:
    """The stages that a run of this configuration has, weighed by what the demo's took and how much there is to do.

    The demo's seconds on two cores are the unit; a run finds its own speed. How many samples a log has is not
    known here: what is left is an estimate until the training's own bar moves.
    """
    sft = config.sft.examples * config.sft.epochs / 18_000
    settings = config.improvement
    improvement = 150.0
    if isinstance(settings, RolloutSettings):
        improvement *= settings.steps * settings.prompts * settings.draws / 3_120
    weights = {} if config.data.dataset == "folder" else {"data": 1.0}
    weights |= {"simulator": 14.0, "exam": 2.0}
    weights |= {"nano": 50.0} if config.model.name == "nano" else {}
    weights["sft"] = 215.0 * sft
    weights |= {"pilot": 30.0} if wants_pilot(config) else {}
    weights[config.algorithm] = improvement
    weights |= {f"control-{name}": improvement for name in controls_of(config)}
    weights[EVALUATION] = 60.0 * (config.evaluation.test_events + config.evaluation.users) / 1_200
    return Ahead(weights | {REPORT: 5.0})
