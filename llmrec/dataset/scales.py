"""What scale the values of ratings are on, and what of it stands for a click and for a conversion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import polars as pl

from llmrec.dataset.manifest import Signal

ScaleKind = Literal["graded", "binary", "share", "counts", "other"]
FIT = 0.99
"""Share of the values that a usual scale must hold: a few typing errors do not make another scale."""
UPPER = 0.35
"""Largest share of the values that stands for a conversion where no usual scale says which are high."""

_HEAVY = 0.3  # share of the 1s from which on values that fall off from 1 to 3 are counts
_FEW = 20  # fewer values than this show no shape
_LOW_MARKS = 20.0  # a median below it is of counts, not of marks out of 100


class _Usual(NamedTuple):
    low: float
    high: float
    conversion: float


_USUAL = (
    _Usual(0, 1, 1),
    _Usual(-1, 1, 1),
    _Usual(1, 5, 4),
    _Usual(0.5, 5, 4),
    _Usual(0, 5, 4),
    _Usual(1, 7, 6),
    _Usual(1, 10, 8),
    _Usual(0, 10, 8),
    _Usual(-10, 10, 5),
    _Usual(0, 100, 80),
)


@dataclass(frozen=True, slots=True)
class Scale:
    """What values of ratings are measured on.

    Attributes:
        kind: graded (stars, points, marks), binary (0 or 1, -1 or 1), share (fractions from 0 to 1), counts (plays,
            hours, amounts: no upper end) or other.
        low: the lower end; of counts and others the smallest value.
        high: the upper end; of counts and others the largest value.
        conversion: from this value on a rating is high.
        least: the smallest rating, where a 0 says that nothing was rated; else None.
        zeros: share of the values that are 0.
    """

    kind: ScaleKind
    low: float
    high: float
    conversion: float
    least: float | None = None
    zeros: float = 0.0

    @property
    def bounded(self) -> bool:
        """Whether a value outside low and high is an error."""
        return self.kind in ("graded", "binary", "share")

    @property
    def click(self) -> Signal:
        """What stands for a click: any rating, but no 0 that says that nothing was rated."""
        return Signal("rating", self.least)

    @property
    def middle(self) -> float:
        """Half way between the lowest rating and the highest."""
        return (self.high + (self.low if self.least is None else self.least)) / 2

    def __str__(self) -> str:
        ends = f"{figure(self.low)} to {figure(self.high)}"
        said = {
            "binary": f"values are {figure(self.low)} or {figure(self.high)}",
            "share": f"values are fractions from {ends}",
            "counts": f"values are counts or amounts from {ends}",
            "other": f"values from {ends} are on no usual scale",
        }.get(self.kind, f"ratings go from {ends}")
        if self.least is not None:
            return f"{said}, and the {self.zeros:.0%} that are 0 are taken for not rated"
        return f"{said}, 0 taken for the lowest" if self.kind == "graded" and self.low == 0 else said


def figure(value: float) -> str:
    """A number as short as it can be said: "8", "0.5", "−1", "3,215"."""
    text = f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "−")


def rating_scale(values: pl.Series) -> Scale | None:
    """The scale of ratings: the narrowest usual one that holds at least 99% of them, else counts or another.

    Whole numbers with a long tail, most of them 1, and marks out of 100 that are nearly all low are counts. A 0 at
    the lower end is taken for "not rated" where it is more common than all ratings of the lower half together.

    Args:
        values: ratings; nulls are left out.

    Returns:
        None where there is no value.
    """
    values = values.drop_nulls().cast(pl.Float64)
    if values.is_empty():
        return None
    low, high = _ends(values)
    # The narrowest scale that fits: values from 1 to 5 also lie in 0 to 100, which nobody meant.
    fitting = [u for u in _USUAL if _share(values.is_between(u.low, u.high)) >= FIT]
    usual = min(fitting, key=lambda u: u.high - u.low, default=None)
    if low >= 0 and high > 1 and (usual is None or _are_counts(values, usual)):
        return _unbounded("counts", values)
    if usual is None:
        return _unbounded("other", values)
    if usual.high == 1:
        if (values == values.round()).all():
            return Scale("binary", usual.low, usual.high, usual.conversion)
        return Scale("share" if usual.low == 0 else "other", usual.low, usual.high, _upper(values))
    zeros, rated = _share(values == 0), values.filter(values > 0)
    # People seldom give the lowest mark: zeros that outnumber all ratings of the lower half are not ratings.
    lower_half = _share((values > 0) & (values < (1 + usual.high) / 2))
    if usual.low < 0 or zeros <= max(lower_half, 1 - FIT) or rated.is_empty():
        return Scale("graded", usual.low, usual.high, usual.conversion)
    return Scale("graded", 0, usual.high, usual.conversion, min(1.0, _ends(rated)[0]), zeros)


def _are_counts(values: pl.Series, usual: _Usual) -> bool:
    """Whether values that fit a usual scale look like counts all the same."""
    positive = values.filter(values > 0)
    if len(positive) < _FEW:
        return False
    # Marks out of 100 centre in the upper half; counts that stay below 100 centre near their lower end.
    if usual.high == 100 and float(positive.median()) < _LOW_MARKS:  # type: ignore[arg-type]
        return True
    beyond = positive.filter(positive > usual.high).n_unique()
    if (usual.high <= 5 and beyond < 3) or not (positive == positive.round()).all():
        return False
    # Plays and purchases fall off from 1 on, stars do not.
    ones, twos, threes = (_share(positive == number) for number in (1, 2, 3))
    return ones >= _HEAVY and ones > twos >= threes


def _unbounded(kind: ScaleKind, values: pl.Series) -> Scale:
    low, high = _ends(values)
    rated, zeros = values.filter(values > 0), _share(values == 0)
    if kind == "counts" and zeros and len(rated):
        return Scale(kind, low, high, _upper(rated), _ends(rated)[0], zeros)
    return Scale(kind, low, high, _upper(values))


def _upper(values: pl.Series) -> float:
    """The smallest value that at most `UPPER` of the values reach, to three digits; the largest where none is."""
    ordered = values.sort()
    most, largest = int(UPPER * len(ordered)), float(ordered[-1])
    value = float(ordered[-max(most, 1)])
    if _share(ordered >= value) > UPPER:  # many equal ones
        above = ordered.filter(ordered > value)
        value = largest if above.is_empty() else float(above[0])
    rounded = float(f"{value:.3g}")
    return rounded if rounded <= largest else value


def _ends(values: pl.Series) -> tuple[float, float]:
    return float(values.min()), float(values.max())  # type: ignore[arg-type]


def _share(mask: pl.Series) -> float:
    return float(mask.mean() or 0.0)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class DefaultSignals:
    """Rules for click and conversion that follow from the events, and the sentence on what they stand for."""

    click: Signal
    conversion: Signal
    proxy: str = ""


def default_signals(events: pl.DataFrame) -> DefaultSignals:
    """What stands for a click and for a conversion, by the kinds of `events` (columns kind, value) and their scale.

    Clicks and conversions are themselves where the events have clicks or impressions. Else ratings are both, by their
    scale (see `rating_scale`), and without ratings a conversion stands for a click as well.
    """
    kinds = set(events["kind"].unique())
    if kinds & {"click", "impression"}:
        return DefaultSignals(Signal("click"), Signal("conversion"))
    if "rating" not in kinds:
        said = "No clicks are logged: a conversion stands for a click as well."
        return DefaultSignals(Signal("conversion"), Signal("conversion"), said)
    values = events.filter(pl.col("kind") == "rating")["value"] if "value" in events.columns else pl.Series([])
    scale = rating_scale(values) or Scale("graded", 1, 5, 4)
    return DefaultSignals(
        scale.click, Signal("rating", scale.conversion), f"No clicks are logged: {_stand_ins(scale)}"
    )


def _stand_ins(scale: Scale) -> str:
    high = figure(scale.conversion)
    if scale.kind == "graded" and (scale.high, scale.least) == (5, None) and scale.low > 0:
        return f"any rating stands for a click and {high} or more for a conversion."
    one = "rating" if scale.kind == "graded" else "value"
    click = f"any {one}" if scale.least is None else f"a {one} of {figure(scale.least)} or more"
    least = high if scale.kind == "binary" else f"{high} or more"
    return f"{scale}; {click} stands for a click and {least} for a conversion."
