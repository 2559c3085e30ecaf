"""A warm start continued: what the seconds of an improvement are worth without any reward."""

from __future__ import annotations

import dataclasses

from llmrec.config import ContinuedSFTSettings, SFTSettings
from llmrec.errors import ConfigError
from llmrec.training.improvement import (
    Checkpointing,
    Improved,
    WarmStart,
    check_update,
    require_above_zero,
    trainable,
)
from llmrec.training.sft import Lessons, learn


def continue_sft(
    start: WarmStart,
    lessons: Lessons,
    settings: SFTSettings,
    plan: ContinuedSFTSettings,
    checkpointing: Checkpointing,
) -> Improved:
    """Gives a warm-started policy `plan.share` as many more of the same lessons: the control of what costs as much.

    Args:
        start: the policy; its seed decides order and augmentation, so it is another than that of the warm start.
        lessons: what the warm start learnt from.
        settings: the section `sft` of the warm start.
        plan: the section `continued_sft`.
        checkpointing: checkpoints and reports. It is judged at its end alone, as the warm start is.

    Raises:
        ConfigError: a setting that cannot be used.
        DataError: nothing to learn from.
    """
    check_continued(plan)
    model = trainable(start, plan)
    teacher = dataclasses.replace(settings.teacher, epochs=settings.teacher.epochs * plan.share)
    more = dataclasses.replace(
        settings,
        epochs=settings.epochs * plan.share,
        learning_rate=plan.learning_rate,
        warmup=plan.warmup,
        save_every=plan.save_every,
        teacher=teacher,
    )
    plain = dataclasses.replace(checkpointing, on_checkpoint=None)
    given = (start.tokenizer, start.catalogue, start.renderer)
    fitted = learn(model, *given, lessons, more, seed=start.seed, checkpointing=plain)
    return Improved(model, fitted.curve, fitted.seconds, cpu_seconds=fitted.cpu_seconds)


def check_continued(settings: ContinuedSFTSettings) -> None:
    """Raises `ConfigError` for what a continued warm start cannot honour."""
    section = "continued_sft"
    require_above_zero(settings, section, ("share", "learning_rate", "save_every"))
    check_update(settings, section)
    if not 0 <= settings.warmup < 1:
        raise ConfigError(f"Key '{section}.warmup' is {settings.warmup}; it must be in [0, 1).")
    if settings.max_grad_norm != 1.0:
        raise ConfigError(f"Key '{section}.max_grad_norm' is fixed at 1.0, as it is in the warm start; leave it out.")
