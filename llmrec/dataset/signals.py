"""What stands for a click and for a conversion in a data set, written as a short rule."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import polars as pl

from llmrec.errors import DataError
from llmrec.types import EVENT_KINDS, EventKind

_RULE = re.compile(r"\s*(?P<kind>\w+)\s*(>=\s*(?P<least>\S+)\s*)?")


@dataclass(frozen=True, slots=True)
class Signal:
    """Events of one `kind`, with a value of `at_least` or more where that is given.

    Written "click", "conversion", "rating" or "rating>=4"; `str` and `parse` are inverse to each other.
    """

    kind: EventKind
    at_least: float | None = None

    @classmethod
    def parse(cls, text: str) -> Signal:
        """Reads "<kind>" or "<kind>>=<number>"; raises `DataError` for anything else."""
        match = _RULE.fullmatch(text)
        kind = next((k for k in EVENT_KINDS if match and match["kind"] == k), None)
        if match is None or kind is None:
            kinds = ", ".join(EVENT_KINDS)
            raise DataError(f"Signal {text!r} is not <kind> or <kind>>=<number> with a kind of: {kinds}.")
        if match["least"] is None:
            return cls(kind)
        try:
            least = float(match["least"])
        except ValueError:
            least = math.nan
        if not math.isfinite(least):
            raise DataError(f"Signal {text!r} compares with {match['least']!r}; give a finite number after >=.")
        return cls(kind, least)

    def __str__(self) -> str:
        if self.at_least is None:
            return self.kind
        number = repr(self.at_least)
        return f"{self.kind}>={number.removesuffix('.0')}"

    def mask(self) -> pl.Expr:
        """A boolean expression over an events table, never null: a missing value does not reach a threshold."""
        of_kind = pl.col("kind") == self.kind
        if self.at_least is None:
            return of_kind
        return of_kind & (pl.col("value") >= self.at_least).fill_null(False)
