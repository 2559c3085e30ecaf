"""Settings of the reward."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Literal

from llmrec.errors import ConfigError

REWARD_TERMS: tuple[str, ...] = (
    "rating",
    "satisfaction",
    "watch_time",
    "revenue",
    "next_item",
    "next_item_rank",
    "diversity",
    "coherence",
    "calibration",
    "novelty",
    "long_tail",
    "repetition",
    "category_repetition",
    "exposure",
    "margin",
)
"""Names of the terms that `reward.terms` weighs, beside those of `reward.custom`; `docs/rewards.md` defines each."""
LIST_LEVEL_TERMS = frozenset({"diversity", "coherence", "calibration"})
"""Terms that are defined on a whole slate and need two places or more."""
COMPARING_TERMS = frozenset({"margin"})
"""Terms that compare the independent draws of a state, and need two of them or more."""
FEEDBACK_WEIGHTS = ("click", "conversion")


class Unvouched(str):
    """The name of code that stands in a file, which may be a stranger's: it is not run (`rewards.custom`)."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """reward = click * P(click) + conversion * P(click and conversion) + the sum of weight * term over `terms`.

    With `sampled` clicks and conversions are drawn, 0 or 1, in place of their probabilities.
    """

    click: float = 1.0
    conversion: float = 3.0
    sampled: bool = False
    pessimism: float = 0.0
    """Standard deviations over the ensemble's members that are taken off the expected feedback."""
    terms: dict[str, float] = field(default_factory=dict)
    """Weights of further terms by name; more is better in each of them, so weights are positive as a rule."""
    stated: tuple[str, ...] = ()
    """Terms (click and conversion among them) whose weights a state's text may ask for, 0 to 3 of 3 of what is set
    here: half of the training's states say drawn ones ("prefer clicks, revenue revenue"), the others none."""
    shuffle: Literal["none", "rewards", "people"] = "none"
    """Controls of what was learnt by draws: the draws of a state earn what those of another state earned (rewards:
    there is nothing to learn), or what they would earn with another state's user (people: nothing personal is)."""
    custom: tuple[str, ...] = ()
    """Own callables, "package.module:function" or "file.py:function", named by the function; weight 1 by default."""
    head_share: float = 0.8
    """`long_tail`: the head is the fewest items with this share of the training period's interactions."""
    group_by: Literal["category", "brand"] = "category"
    """What `diversity`, `coherence`, `calibration`, `category_repetition` and `exposure` take for an item's
    category."""
    diversity_by: Literal["group", "vector"] = "group"
    """Distance of two items (`diversity`), likeness (`coherence`): by their groups (see `group_by`), or by vectors of
    their texts."""
    calibration_alpha: float = 0.01
    """`calibration`: share of the history's distribution that is mixed into the slate's, in (0, 1)."""
    repetition_window: int = 10
    """`category_repetition`: how many of the latest interactions count."""
    exposure_target: Literal["equal", "catalogue", "merit"] = "catalogue"
    """Share each group should get: the same, its share of items, or its share of the training period's clicks."""

    def custom_names(self) -> tuple[str, ...]:
        """The names of the own callables: what stands after the colon."""
        return tuple(spec.rpartition(":")[2] for spec in self.custom)


def check_reward(settings: RewardSettings, slate_size: int) -> None:
    """Raises `ConfigError` for what cannot work; reads nothing, so it can be called before anything loads.

    Args:
        settings: What was asked for.
        slate_size: K, the places of a slate that is one action; 1 where items are drawn independently.
    """
    _check_numbers(settings)
    known = (*REWARD_TERMS, *settings.custom_names())
    twice = {name for name in known if known.count(name) > 1} | set(FEEDBACK_WEIGHTS) & set(settings.custom_names())
    if twice:
        raise ConfigError(
            f"Key 'reward.custom' names {min(twice)!r}, which another term is called too; rename the function."
        )
    for name in settings.terms:
        if name not in known:
            raise ConfigError(_unknown(name, known))
        if name in LIST_LEVEL_TERMS and slate_size < 2:
            raise ConfigError(
                f"Key 'reward.terms.{name}' is defined on slates of two items or more, but an action is one item "
                "here; use a trainer of slates or remove the term."
            )
        if name in COMPARING_TERMS and slate_size > 1:
            raise ConfigError(
                f"Key 'reward.terms.{name}' compares independent draws of a state, but an action is a slate here; "
                "set session.slate to 1 or remove the term."
            )
    _check_stated(settings)


def _check_stated(settings: RewardSettings) -> None:
    weights = {"click": settings.click, "conversion": settings.conversion, **settings.terms}
    weights |= {name: 1.0 for name in settings.custom_names() if name not in weights}
    for name in settings.stated:
        if not weights.get(name):
            weighed = [known for known, weight in weights.items() if weight]
            raise ConfigError(
                f"Key 'reward.stated' names {name!r}, which has no weight in the reward; choose among "
                f"{', '.join(weighed)}, or give it one (the most that can be asked for)."
            )
        if settings.stated.count(name) > 1:
            raise ConfigError(f"Key 'reward.stated' names {name!r} twice; name it once.")
        if name in COMPARING_TERMS:
            raise ConfigError(f"Key 'reward.stated' names {name!r}, which compares all the others; leave it out.")
    if len(settings.stated) == 1:
        raise ConfigError(
            f"Key 'reward.stated' names {settings.stated[0]!r} alone, against which nothing can be weighed; name two "
            "terms or more."
        )


def _unknown(name: str, known: tuple[str, ...]) -> str:
    if name in FEEDBACK_WEIGHTS:
        return f"Key 'reward.terms.{name}' is a weight of its own; set 'reward.{name}' instead."
    near = difflib.get_close_matches(name, known, n=1)
    mend = f"did you mean {near[0]!r}?" if near else f"known terms: {', '.join(known)}."
    return f"Unknown reward term {name!r} in 'reward.terms'; {mend}"


def _check_numbers(settings: RewardSettings) -> None:
    if settings.pessimism < 0:
        raise ConfigError(f"Key 'reward.pessimism' is {settings.pessimism}, but it must be 0 or more.")
    if settings.pessimism and settings.sampled:
        raise ConfigError("Keys 'reward.pessimism' and 'reward.sampled' exclude each other; unset one.")
    for key in ("head_share", "calibration_alpha"):
        if not 0 < getattr(settings, key) < 1:
            raise ConfigError(f"Key 'reward.{key}' is {getattr(settings, key)}, but it must lie between 0 and 1.")
    if settings.repetition_window < 1:
        raise ConfigError(f"Key 'reward.repetition_window' is {settings.repetition_window}; it must be 1 or more.")
    for spec in settings.custom:
        module, colon, function = spec.rpartition(":")
        if not (module and colon and function.isidentifier()):
            raise ConfigError(
                f"Key 'reward.custom' holds {spec!r}; write it as package.module:function or file.py:function."
            )
