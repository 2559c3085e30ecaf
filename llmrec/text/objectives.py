"""What a policy is asked to weigh, as a line of the state: "prefer clicks, purchases purchases purchases".

A word stands as often as it counts. Where a number stood behind it a small model read which words there were and not
which number belonged to which of them; how often a word stands is read without putting two things together.

The line stands where a request stands (`State.context`), before it, so nothing else of a policy changes. A policy
follows it only if it was trained with rewards whose weights the line said (`reward.stated`, docs/objectives.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from llmrec.errors import RequestError
from llmrec.types import IntArray, State

Objective = Literal["click", "conversion", "revenue", "diversity"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
"""The objectives of the study of them; a run states the terms of its reward that `reward.stated` names."""
LEVELS = 4
"""Weights are 0 (not asked for) to LEVELS - 1 (as much as can be)."""
TOLD = 0.5
"""Share of the training's states that hold a line; the others are weighed as the settings say."""
ALONE = 0.5
"""Share of the lines of a training that ask for one objective alone."""
_WORDS: dict[str, dict[str, str]] = {
    "en": {
        "click": "clicks",
        "conversion": "purchases",
        "rating": "ratings",
        "watch_time": "time",
        "diversity": "variety",
        "long_tail": "rarity",
    },
    "zh": {
        "click": "点击",
        "conversion": "购买",
        "revenue": "营收",
        "diversity": "多样",
        "rating": "评分",
        "satisfaction": "满意",
        "watch_time": "时长",
        "novelty": "新颖",
        "long_tail": "冷门",
        "coherence": "连贯",
        "calibration": "均衡",
        "exposure": "曝光",
    },
}
_FRAME = {"en": ("prefer ", ", ", ". ", "nothing"), "zh": ("偏好：", "，", "。", "无")}
"""How a line begins, what stands between its parts and behind it, and what it says where nothing is asked for."""


def word_of(name: str, language: str = "en") -> str:
    """What the line calls a term of the reward; terms without a word of their own by their names."""
    return _WORDS[language].get(name, name.replace("_", " "))


def preference(levels: Mapping[str, int], language: str = "en", names: Sequence[str] = OBJECTIVES) -> str:
    """The line that asks for these weights; objectives that are not named, or have 0, do not stand in it.

    Args:
        levels: 0 to LEVELS - 1 by the name of an objective.
        language: "en" or "zh".
        names: all objectives that a line may have, in its order.

    Raises:
        RequestError: a level outside 0 .. LEVELS - 1, or an objective or language that is none.
    """
    if language not in _WORDS:
        raise RequestError(f"There is no preference line in {language!r}; choose one of {', '.join(_WORDS)}.")
    for name, level in levels.items():
        if name not in names:
            raise RequestError(f"{name!r} is no objective; choose among {', '.join(names)}.")
        if not isinstance(level, int) or not 0 <= level < LEVELS:
            raise RequestError(f"The weight of {name} is {level}; give 0 to {LEVELS - 1}, a whole number.")
    begin, comma, _, nothing = _FRAME[language]
    asked = [_asked(name, levels[name], language) for name in names if levels.get(name)]
    return begin + (comma.join(asked) or nothing)


def preferring(state: State, levels: Mapping[str, int], language: str, names: Sequence[str]) -> State:
    """The state with the line, before the request that it may hold; raises as `preference` does."""
    line, request = preference(levels, language, names), state.context
    return replace(state, context=f"{line}{_FRAME[language][2]}{request}" if request else line)


def heard(state: State, names: Sequence[str]) -> tuple[State, dict[str, int] | None]:
    """The state as it is without its line, in whatever language, and the weights that the line asks for.

    Only a line at the beginning of the request counts, where `preferring` writes it.
    """
    for language, (begin, _, stop, _) in _FRAME.items():
        if state.context.startswith(begin):
            line, _, request = state.context.partition(stop)
            levels = _levels(line, language, names)
            if levels is not None:
                return replace(state, context=request), levels
    return state, None


def _asked(name: str, level: int, language: str) -> str:
    return " ".join([word_of(name, language)] * level)


def _levels(line: str, language: str, names: Sequence[str]) -> dict[str, int] | None:
    """The weights of a line that `preference` wrote; None of any other."""
    begin, comma, _, _ = _FRAME[language]
    known = {_asked(name, level, language): (name, level) for name in names for level in range(1, LEVELS)}
    levels = dict.fromkeys(names, 0)
    levels |= dict(known[part] for part in line.removeprefix(begin).split(comma) if part in known)
    return levels if preference(levels, language, names) == line else None


def drawn_levels(count: int, objectives: int, random: np.random.Generator) -> IntArray:
    """Levels to train under, (count, objectives): half ask for one objective alone and all of it, half are drawn.

    Each objective alone moves a policy furthest, and so is what shows it first that the line is to be read; the
    others, each level alike, say what lies between.
    """
    drawn_BO = random.integers(0, LEVELS, (count, objectives))
    alone_BO = (LEVELS - 1) * np.eye(objectives, dtype=np.int64)[random.integers(0, objectives, count)]
    return np.where(random.random((count, 1)) < ALONE, alone_BO, drawn_BO)


def drawn_preferences(
    states: Sequence[State], names: Sequence[str], language: str, random: np.random.Generator, told: float = TOLD
) -> list[State]:
    """The states, a share `told` of which ask for weights that are drawn (`drawn_levels`)."""
    level_BO, told_B = drawn_levels(len(states), len(names), random), random.random(len(states)) < told
    return [
        preferring(state, dict(zip(names, levels, strict=True)), language, names) if asks else state
        for state, levels, asks in zip(states, level_BO.tolist(), told_B, strict=True)
    ]
