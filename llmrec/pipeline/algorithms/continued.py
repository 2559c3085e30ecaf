"""The warm start continued: what the compute of an improvement would have been worth without any reward."""

from __future__ import annotations

import dataclasses

from llmrec.config import ContinuedSFTSettings, RunConfig
from llmrec.pipeline.data import RunData
from llmrec.pipeline.sft import lessons_of, warm_start
from llmrec.pipeline.simulation import Simulators
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.seeding import numpy_stream
from llmrec.training.continued import check_continued, continue_sft
from llmrec.training.improvement import Checkpointing, Improved


def improve_continued(
    config: RunConfig, data: RunData, policy: LanguagePolicy, simulators: Simulators, checkpointing: Checkpointing
) -> Improved:
    """Gives the policy more of the lessons of its warm start; no simulator is asked."""
    del simulators
    settings = config.improvement
    assert isinstance(settings, ContinuedSFTSettings)
    # Drawn and augmented anew: the same rows in the same order again would be a poorer use of the time.
    anew = dataclasses.replace(config, seed=int(numpy_stream(config.seed, "continued_sft").integers(2**31)))
    return continue_sft(warm_start(anew, data, policy), lessons_of(anew, data), config.sft, settings, checkpointing)


def check_continued_settings(config: RunConfig, processes: int) -> None:
    """Refuses settings that cannot work."""
    del processes
    settings = config.improvement
    assert isinstance(settings, ContinuedSFTSettings)
    check_continued(settings)


def check_continued_data(config: RunConfig, data: RunData, limit: int | None) -> None:
    """What a warm start could learn from, it can be continued with (`check_targets`)."""
    del config, data, limit


def without_reward(settings: object) -> str:
    """What a simulator is to a training that asks none."""
    del settings
    return "It learned from logged choices alone; a simulator ({simulator}) only values its checkpoints."
