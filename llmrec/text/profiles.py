"""What a profile says of a person, as attributes; profiles are free, untrusted text."""

from __future__ import annotations

import re
from collections.abc import Sequence

_AGES = ((25, "under 25"), (35, "25-34"), (50, "35-49"), (1000, "50+"))
_UNDER = r"(?P<under>(?:under|below|younger than|less than|not yet|up to|at most)\s+|未满|不到|不满|小于)?\s*"
_SPAN = (
    r"(?P<least>\d{1,3})(?:\.\d{1,2})?(?!\d)(?![.,]\d)"
    r"(?:\s*(?:-|–|to|or|and|until|到|至|~)\s*(?:more|over|above|\d{1,3})|\+)?"
)
_BELOW = r"(?P<below>以下|以内)?"
_AGE_WORD = r"(?:aged?\b(?:\s*(?:group|range|band)\b)?\s*(?:[:：]|is|of)?|年龄段?\s*[:：]?)"
_STATED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_UNDER}(?<![a-z\d$€£¥#])(?<!\d[.,/–-]){_SPAN}"
        rf"(?:[- ]?(?:years?|yrs?)[- ]?olds?\b|\s?years of age\b|\s?y[/.]?o\b|\s?周?岁{_BELOW})",
        rf"(?:\b|(?=年)){_AGE_WORD}\s*(?:(?:over|above|at least|from|between|about|around)\s+)?"
        rf"{_UNDER}{_SPAN}(?!\s*(?:months?|weeks?|days?)\b)(?:\s*周?岁)?{_BELOW}",
        # "44, chef from Ottawa", as generated worlds have it: words in small letters up to a name
        r"^\s*(?P<least>\d{1,3}), (?-i:[a-z][a-z' -]{0,40} from [A-Z])",
    )
)
_OF_ANOTHER = re.compile(
    r"\b(?:has|have|had|having|with|owns?|keeps?|drives?|likes?|loves?|in|of|on|from|for|by)\s+(?:an?|the|one|two)\s+$"
    r"|\b(?:my|his|her|their|our)\s+(?:\w+\s+){1,2}(?:(?:is|was|are|turned)\s+)(?:an?\s+)?$"
    r"|\b(?:sons?|daughters?|child|children|kids?|cats?|dogs?|whiske?y|wines?|cheese)\s+$"
    r"|(?:有|养|儿子|女儿|孩子|猫|狗)[^，,。；;]{0,4}$",
    re.IGNORECASE,
)
_OLDEST = 120
_AGE_KEY = re.compile(rf"\s*{_AGE_WORD}(?<=[:：])", re.IGNORECASE)
_GENDER = re.compile(r"\b(man|woman|male|female)\b", re.IGNORECASE)
_PAIR = re.compile(r"\s*([^\W\d_][\w '-]{0,23})\s*[:：]\s*(\S.{0,39}?)\s*")
_END = r"[;。；\n]|\.(?:\s|$)"
_FIELD = re.compile(rf".*?(?:(?:{_END})\s*|$)", re.DOTALL)
FIELDS = 16
"""Fields that a profile is divided into, at most; the last one holds the rest."""
_INCOME = re.compile(r"\s*income (\S.{0,19}?)\s*")


def profile_facts(profile: str) -> dict[str, str]:
    """What a profile says of gender, age (in bands), income and of "key: value" parts, as text by attribute.

    Parts are what stands between full stops and semicolons. Gender is read from the first part, so that what is said
    of interests further on is not taken for it, and age where `stated_age` reads the
    person's own; where a part says "age: 18-24" that is the value.
    """
    found: dict[str, str] = {}
    parts = re.split(_END, profile[:2000])
    if gender := _GENDER.search(parts[0]):
        found["gender"] = {"male": "man", "female": "woman"}.get(gender[1].lower(), gender[1].lower())
    if not any(map(_AGE_KEY.match, parts)) and (own := _ages(parts)[0]):
        found["age"] = next(band for limit, band in _AGES if min(own) < limit)
    for part in parts:
        if pair := _PAIR.fullmatch(part):
            key, value = pair[1].strip().lower(), pair[2].lower()
            if key == "gender":
                value = {"m": "man", "male": "man", "f": "woman", "female": "woman"}.get(value, value)
            found.setdefault(key, value)
        elif income := _INCOME.fullmatch(part):
            found["income"] = income[1]
    return found


def stated_age(profile: str) -> int | None:
    """The least age in years that a profile allows for; None where it says none.

    Of a span it is the lower end, of "under 18" it is 0, and where several ages are named it is the least of them:
    what is forbidden below an age must not be shown because of a doubt. So an age that is of somebody or something
    else ("has a 3-year-old son") counts beside the person's own, but never in its place. Ages are read from the first
    two parts of a profile and from parts that begin with "age:".
    """
    own, others = _ages(re.split(_END, profile[:2000]))
    return min([*own, *others]) if own else None


def _ages(parts: Sequence[str]) -> tuple[list[int], list[int]]:
    """The person's own ages, and those of others, that the parts of a profile name."""
    told = " ; ".join([*parts[:2], *(part for part in parts[2:] if _AGE_KEY.match(part))])
    own: list[int] = []
    others: list[int] = []
    for match in (match for pattern in _STATED for match in pattern.finditer(told)):
        said = match.groupdict()
        if (years := int(said["least"])) <= _OLDEST:
            is_other = _OF_ANOTHER.search(told[max(0, match.start() - 60) : match.start()] + " ")
            (others if is_other else own).append(0 if said.get("under") or said.get("below") else years)
    return own, others


def profile_fields(profile: str) -> tuple[str, ...]:
    """A profile in its fields, what stands between full stops, semicolons and lines; joined they are the profile.

    Each keeps the sign that ends it, so that a profile without one of them reads as if it had never been there.
    """
    fields: list[str] = []
    for found in _FIELD.finditer(profile):
        if found[0].strip(" .;。；\n\t") and len(fields) < FIELDS:
            fields.append(found[0])
        elif fields:
            fields[-1] += found[0]
        elif found[0]:
            fields.append(found[0])
    return tuple(fields)
