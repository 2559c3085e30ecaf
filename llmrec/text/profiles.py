"""What a profile says of a person, as attributes; profiles are free, untrusted text."""

from __future__ import annotations

import re

_AGES = ((25, "under 25"), (35, "25-34"), (50, "35-49"), (1000, "50+"))
_AGE = re.compile(r"\b(\d{1,3})-year-old\b|\baged (?:under )?(\d{1,3})\b|\b(\d{1,3})(?:[-+]\d*)? years old\b")
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
