"""What a policy is asked to weigh, as a line of the state: "prefer clicks 1, purchases 3, revenue 0, variety 2".

The line stands where a request stands (`State.context`), so nothing else of a policy changes. A policy follows it
only if it was trained with rewards whose weights the line said (docs/objectives.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, get_args

from llmrec.errors import RequestError

Objective = Literal["click", "conversion", "revenue", "diversity"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
LEVELS = 4
"""Weights are 0 (not asked for) to LEVELS - 1 (as much as can be)."""
_WORDS: dict[str, dict[Objective, str]] = {
    "en": {"click": "clicks", "conversion": "purchases", "revenue": "revenue", "diversity": "variety"},
    "zh": {"click": "点击", "conversion": "购买", "revenue": "营收", "diversity": "多样"},
}
_FRAME = {"en": ("prefer ", ", "), "zh": ("偏好：", "，")}


def preference(levels: Mapping[Objective, int], language: str = "en") -> str:
    """The line that asks for these weights; objectives that are not named have the weight 0.

    Raises:
        RequestError: a level outside 0 .. LEVELS - 1, or an objective or language that is none.
    """
    if language not in _WORDS:
        raise RequestError(f"There is no preference line in {language!r}; choose one of {', '.join(_WORDS)}.")
    for name, level in levels.items():
        if name not in OBJECTIVES:
            raise RequestError(f"{name!r} is no objective; choose among {', '.join(OBJECTIVES)}.")
        if not 0 <= level < LEVELS:
            raise RequestError(f"The weight of {name} is {level}; give 0 to {LEVELS - 1}.")
    begin, comma = _FRAME[language]
    return begin + comma.join(f"{_WORDS[language][name]} {levels.get(name, 0)}" for name in OBJECTIVES)


def read_preference(text: str, language: str = "en") -> dict[Objective, int] | None:
    """The weights that a text asks for; None where it holds no such line."""
    begin, comma = _FRAME[language]
    parts = [rf"{re.escape(_WORDS[language][name])} ([0-{LEVELS - 1}])" for name in OBJECTIVES]
    found = re.search(re.escape(begin) + re.escape(comma).join(parts), text)
    return None if found is None else dict(zip(OBJECTIVES, map(int, found.groups()), strict=True))
