"""What a profile says of a person, as attributes; profiles are free, untrusted text."""

from __future__ import annotations

import re

_AGES = ((25, "under 25"), (35, "25-34"), (50, "35-49"), (1000, "50+"))
_AGE = re.compile(r"\b(\d{1,3})-year-old\b|\baged (?:under )?(\d{1,3})\b|\b(\d{1,3})(?:[-+]\d*)? years old\b")
_UNDER = r"(?P<under>\b(?:under|below|younger than|less than|not yet|up to|at most)\s+|未满|不到|不满|小于)?"
_SPAN = r"(?P<least>\d{1,3})(?:\s*(?:-|–|to|or|and|until|到|至|~)\s*(?:more|over|above|\d{1,3})|\+)?"
_STATED = re.compile(
    rf"{_UNDER}\s*{_SPAN}\s*(?:[- ]?years?[- ]?old\b|[- ]?year[- ]olds?\b|\s?y/?o\b|岁(?P<below>以下|以内)?)"
    rf"|\baged?\s*(?:[:：]|is|of)?\s*{_UNDER.replace('under>', 'under2>')}\s*{_SPAN.replace('least>', 'least2>')}"
    rf"|年龄\s*[:：]?\s*{_UNDER.replace('under>', 'under3>')}\s*{_SPAN.replace('least>', 'least3>')}"
    r"(?:\s*岁)?(?P<below3>以下|以内)?",
    re.IGNORECASE,
)
_AGE_KEY = re.compile(r"\s*(?:age|年龄)\s*[:：]", re.IGNORECASE)
_GENDER = re.compile(r"\b(man|woman|male|female)\b", re.IGNORECASE)
_PAIR = re.compile(r"\s*([^\W\d_][\w '-]{0,23})\s*[:：]\s*(\S.{0,39}?)\s*")
_END = r"[;。；\n]|\.(?:\s|$)"
_FIELD = re.compile(rf".*?(?:(?:{_END})\s*|$)", re.DOTALL)
FIELDS = 16
"""Fields that a profile is divided into, at most; the last one holds the rest."""
_INCOME = re.compile(r"\s*income (\S.{0,19}?)\s*")


def profile_facts(profile: str) -> dict[str, str]:
    """What a profile says of gender, age (in bands), income and of "key: value" parts, as text by attribute.

    Parts are what stands between full stops and semicolons. Gender is read from the first part and age (its lower
    end, where it is a span) from the first two, so that what is said of interests further on is not taken for it.
    """
    found: dict[str, str] = {}
    parts = re.split(_END, profile[:2000])
    head = ";".join(parts[:2])
    if gender := _GENDER.search(parts[0]):
        found["gender"] = {"male": "man", "female": "woman"}.get(gender[1].lower(), gender[1].lower())
    if age := _AGE.search(head):
        years = int(next(group for group in age.groups() if group))
        found["age"] = next(band for limit, band in _AGES if years < limit)
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
    what is forbidden below an age must not be shown because of a doubt. Ages are read from the first two parts of a
    profile, as `profile_facts` does, and from parts that begin with "age:".
    """
    parts = re.split(_END, profile[:2000])
    told = [*parts[:2], *(part for part in parts[2:] if _AGE_KEY.match(part))]
    found = []
    for match in _STATED.finditer(" ; ".join(told)):
        low = next(match[name] for name in ("least", "least2", "least3") if match[name])
        under = any(match[name] for name in ("under", "under2", "under3", "below", "below3"))
        found.append(0 if under else int(low))
    return min(found, default=None)


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
