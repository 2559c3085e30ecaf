"""What a gain of an improvement is held against: other uses of the same compute, and the same training told nothing.

A control is an improvement like any other (a stage of its own, with the same gate), made from the run's configuration
by one change. `evaluation.controls` names those that a run makes; each costs about what the improvement itself does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from llmrec.config import BestOfNSettings, ContinuedSFTSettings, RewardSettings, RunConfig
from llmrec.config.reward import COMPARING_TERMS
from llmrec.errors import ConfigError
from llmrec.evaluation.significance import Interval, paired_bootstrap
from llmrec.pipeline.algorithms import ALGORITHMS, SHUFFLED, learning_of
from llmrec.pipeline.data import RunData
from llmrec.pipeline.improve import ImprovedStage, improve_stage
from llmrec.pipeline.sft import SFTStage
from llmrec.pipeline.simulation import Simulators
from llmrec.pipeline.work import Work
from llmrec.rewards import reading_next, without
from llmrec.types import FloatArray

ALL = "all"
"""Stands for every control that has a meaning for the run."""
LEAST_SHARE = 0.01
"""Of the warm start that is repeated, however cheap the improvement was."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a control may take, and how.

    Attributes:
        share: what the improvement cost, in trainings of the warm start.
        adapter: whether the warm start trained a LoRA adapter rather than all weights (`SFTStage.has_adapter`).
    """

    share: float
    adapter: bool = False

    @classmethod
    def of(cls, improvement: ImprovedStage, sft: SFTStage) -> Cost:
        """That of a finished improvement, by seconds of the processor."""
        return cls(improvement.cpu_seconds / max(sft.cpu_seconds, 1e-9), sft.has_adapter)


@dataclass(frozen=True, slots=True)
class Control:
    """One control.

    Attributes:
        label: its name in tables.
        asks: what it asks, as a clause.
        changed: the configuration of its training.
        missing: why a configuration has no such control; "" where it has.
    """

    label: Callable[[RunConfig], str]
    asks: str
    changed: Callable[[RunConfig, Cost], RunConfig]
    missing: Callable[[RunConfig], str]


def _with_section(config: RunConfig, algorithm: str, settings: Any) -> RunConfig:
    return replace(config, algorithm=algorithm, sections={**config.sections, algorithm: settings})


def continued(config: RunConfig, cost: Cost) -> RunConfig:
    """The configuration in which a share of the warm start is what improves the policy."""
    sft = config.sft
    own = replace(
        config.section(ContinuedSFTSettings),
        share=max(round(cost.share, 3), LEAST_SHARE),
        learning_rate=sft.learning_rate,
        warmup=sft.warmup,
        save_every=sft.save_every,
        weights="lora" if cost.adapter else "full",
        lora=replace(sft.lora, dropout=0.0),
    )
    return _with_section(_plain(config), "continued_sft", own)


def _best_of_n(config: RunConfig, cost: Cost) -> RunConfig:
    del cost
    own = config.section(BestOfNSettings)
    drawn = learning_of(config).draws(config.improvement)
    if drawn:  # as many draws as the improvement makes
        prompts = max(own.batch_size, math.ceil(drawn / (own.draws * own.rounds)))
        own = replace(own, prompts=prompts)
    return _with_section(_plain(config), "best_of_n", own)


def _plain(config: RunConfig) -> RunConfig:
    """Without sessions and comparisons of draws, from which neither learns."""
    return replace(
        config,
        session=replace(config.session, turns=1, slate=1),
        reward=without(config.reward, tuple(COMPARING_TERMS)),
    )


def _rewarded(config: RunConfig, **changes: Any) -> RunConfig:
    return replace(config, reward=replace(config.reward, **changes))


def _no_next_item(config: RunConfig, cost: Cost) -> RunConfig:
    del cost
    return replace(config, reward=without(config.reward, reading_next(config.reward)))


def _draws_missing(config: RunConfig) -> str:
    if learning_of(config) in SHUFFLED:
        return ""
    return f"{ALGORITHMS[config.algorithm].label} does not learn from rewards of single draws"


def _next_item_missing(config: RunConfig) -> str:
    if not reading_next(config.reward):
        return "no term of the reward reads the logged next item"
    left: RewardSettings = _no_next_item(config, Cost(0.0)).reward
    some = left.click or left.conversion or set(left.terms) - COMPARING_TERMS or left.custom
    return "" if some else "nothing else is rewarded"


def _other_than(algorithm: str) -> Callable[[RunConfig], str]:
    return lambda config: f"it is {algorithm} itself" if config.algorithm == algorithm else ""


def _own(words: str) -> Callable[[RunConfig], str]:
    return lambda config: f"{ALGORITHMS[config.algorithm].label}, {words}"


CONTROLS: Mapping[str, Control] = {
    "continued_sft": Control(
        lambda _: ALGORITHMS["continued_sft"].label,
        "whether more of the warm start is worth as much, at the same seconds of the processor",
        continued,
        _other_than("continued_sft"),
    ),
    "best_of_n": Control(
        lambda _: ALGORITHMS["best_of_n"].label,
        "whether imitating the best of as many draws is worth as much",
        _best_of_n,
        _other_than("best_of_n"),
    ),
    "no_next_item": Control(
        _own("no next item"),
        "what is left of the gain where the reward does not know what the log says comes next",
        _no_next_item,
        _next_item_missing,
    ),
    "other_people": Control(
        _own("others' rewards"),
        "what is gained where a draw earns what it would with somebody else: the same for everybody",
        lambda config, _: _rewarded(config, shuffle="people"),
        _draws_missing,
    ),
    "shuffled_reward": Control(
        _own("shuffled reward"),
        "whether anything is gained from rewards that tell nothing: nothing may be",
        lambda config, _: _rewarded(config, shuffle="rewards"),
        _draws_missing,
    ),
}
"""By the name in `evaluation.controls`."""


def controls_of(config: RunConfig, names: Sequence[str] | None = None) -> dict[str, Control]:
    """The controls that are asked for (by default `evaluation.controls`), by name.

    Raises:
        ConfigError: an unknown one, or one that has no meaning for the run.
    """
    asked = config.evaluation.controls if names is None else tuple(names)
    found: dict[str, Control] = {}
    for name in asked:
        if name == ALL:
            found |= {known: control for known, control in CONTROLS.items() if not control.missing(config)}
        elif name not in CONTROLS:
            raise ConfigError(
                f"Key 'evaluation.controls' names {name!r}; choose among {', '.join((ALL, *CONTROLS))}."
            )
        elif missing := CONTROLS[name].missing(config):
            raise ConfigError(f"Key 'evaluation.controls' names {name}, but {missing}; leave it out.")
        else:
            found[name] = CONTROLS[name]
    return found


@dataclass(frozen=True, slots=True)
class ControlStage:
    """A finished control: what it was made with, and what came of it."""

    name: str
    config: RunConfig
    stage: ImprovedStage


def control_stages(
    config: RunConfig,
    data: RunData,
    sft: SFTStage,
    simulators: Simulators,
    improvement: ImprovedStage,
    work: Work,
) -> dict[str, ControlStage]:
    """Makes the controls that a run asks for, of its finished improvement, each a stage of its own; by label.

    Args:
        config: of the improvement.
        data: the run's data.
        sft: the warm start.
        simulators: reward and judge.
        improvement: what is held against them.
        work: where the stages are.
    """
    found = {}
    for name, control in controls_of(config).items():
        changed = control.changed(config, Cost.of(improvement, sft))
        stage = improve_stage(changed, data, sft, simulators, work, name=f"control-{name}")
        found[control.label(config)] = ControlStage(name, changed, stage)
    return found


@dataclass(frozen=True, slots=True)
class Against:
    """A system less one control, on the same rows.

    Attributes:
        control: the control's label.
        value: difference of the judged value of a place.
        ranking: difference of the ranking metric on held-out events.
    """

    control: str
    value: Interval
    ranking: Interval

    def sentence(self, system: str, metric: str, asks: str = "") -> str:
        """What a person reads."""
        told = f" ({asks})" if asks else ""
        return (
            f"{system} less {self.control}{told}: judged value {_signed(self.value)}; {metric} "
            f"{_signed(self.ranking)}."
        )


def against(
    system: str,
    controls: Sequence[str],
    value: Mapping[str, FloatArray],
    ranking: Mapping[str, FloatArray],
    *,
    people: Sequence[object],
    users: Sequence[object],
    samples: int,
    seed: int,
) -> list[Against]:
    """A system less each control, with paired 95% intervals.

    Args:
        system: what is held against the controls.
        controls: their labels.
        value: judged value of a place by system, (B,).
        ranking: a ranking metric by system, (M,).
        people: whose rows those of `value` are.
        users: likewise of `ranking`.
        samples: of the bootstrap.
        seed: the run's seed.
    """
    draw: dict[str, Any] = {"samples": samples, "seed": seed}
    return [
        Against(
            control,
            paired_bootstrap(np.asarray(value[system]), np.asarray(value[control]), users=people, **draw),
            paired_bootstrap(np.asarray(ranking[system]), np.asarray(ranking[control]), users=users, **draw),
        )
        for control in controls
    ]


def plain_figures(found: Sequence[Against]) -> dict[str, Any]:
    """For JSON, by control."""
    return {one.control: {"value": asdict(one.value), "ranking": asdict(one.ranking)} for one in found}


def _signed(found: Interval) -> str:
    said = {"▲": "more", "▼": "less", "": "no significant difference"}[found.mark(1.0)]
    return f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f}), {said}".replace("-", "−")
