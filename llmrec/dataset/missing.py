"""Words that tables write where a value is missing."""

from __future__ import annotations

MISSING: tuple[str, ...] = (
    *("nan", "NaN", "NAN", "-nan", "-NaN", "NaT"),
    *("null", "Null", "NULL", "none", "None", "NONE", "nil", "NIL"),
    *("\\N", "n/a", "N/A", "NA", "#N/A", "#NA", "<NA>", "-", "--", "—", "–"),
    *("undefined", "(null)", "#VALUE!", "#REF!", "#NAME?", "#DIV/0!"),
)
"""Words that stand for a missing value, written so by tables of numbers, databases, spreadsheets and people.

Case counts: `Na` and `na` are words of languages. An empty cell is always missing.
"""
