"""Which impression a click belongs to, and which click a conversion: the one place where feedback is joined.

Of the same user and item, feedback belongs to what happened at the same time, else to the latest earlier one of the
same session, else to the latest earlier one of at most `window` seconds before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from llmrec.dataset.history import indexed
from llmrec.dataset.manifest import Signal
from llmrec.dataset.store import Dataset
from llmrec.types import BoolArray, IntArray

LINK_WINDOW = 86_400
"""Seconds after which feedback without a common session no longer belongs to what was shown or clicked: a day."""

_PAIR = ["user_id", "item"]


@dataclass(frozen=True)
class Links:
    """Impressions with the feedback that belongs to them.

    Attributes:
        shown: one row for each impression, or for each click where no impressions are logged.
        clicks: the click events, and `shown_of_click` the row of `shown` that each belongs to, -1 where none does.
        conversions: the conversion events, and `click_of_conversion` the row of `clicks` of each, -1 where none is.
        logged: whether `shown` are logged impressions.
        window: seconds within which feedback of different times was joined.
    """

    shown: pl.DataFrame
    clicks: pl.DataFrame
    conversions: pl.DataFrame
    shown_of_click: IntArray
    click_of_conversion: IntArray
    logged: bool
    window: int

    @property
    def shown_of_conversion(self) -> IntArray:
        """The row of `shown` that each conversion belongs to, through its click; -1 where none does."""
        if not len(self.shown_of_click):
            return self.click_of_conversion
        return np.where(self.click_of_conversion >= 0, self.shown_of_click[self.click_of_conversion], -1)

    def marks(self) -> tuple[BoolArray, BoolArray]:
        """Whether each row of `shown` was clicked, and whether it was then converted."""
        return _at(self.shown_of_click, self.shown.height), _at(self.shown_of_conversion, self.shown.height)


def link_feedback(dataset: Dataset, events: pl.DataFrame, window: int = LINK_WINDOW) -> Links:
    """Joins the feedback among `events` (of `dataset`; with the column `item` or without) by the manifest's rules."""
    events = events if "item" in events.columns else indexed(dataset, events)
    logged = bool((events["kind"] == "impression").any())
    clicks = events.filter(Signal.parse(dataset.manifest.click).mask())
    conversions = events.filter(Signal.parse(dataset.manifest.conversion).mask())
    shown = events.filter(pl.col("kind") == "impression") if logged else _stand_ins(clicks)
    return Links(
        shown,
        clicks,
        conversions,
        linked_rows(shown, clicks, window),
        linked_rows(clicks, conversions, window),
        logged,
        window,
    )


def linked_rows(causes: pl.DataFrame, effects: pl.DataFrame, window: int | None) -> IntArray:
    """The row of `causes` that each of `effects` belongs to, -1 where there is none: shape (rows of effects,).

    Both need the columns user_id, item, time, session and position. Among causes of the same time the one of the
    same position, then the one of the same session goes first.

    Args:
        causes: what was shown or clicked.
        effects: the clicks or conversions that followed.
        window: seconds; None for any time before.
    """
    found = np.full(effects.height, -1, dtype=np.int64)
    if causes.is_empty() or effects.is_empty():
        return found
    columns = (*_PAIR, "time", "session", "position")
    cause = causes.select(columns).with_row_index("cause").with_columns(pl.col("cause").cast(pl.Int64))
    effect = effects.select(columns).with_row_index("effect")
    # From the surest to the vaguest: what is joined in one step is not joined anew in the next.
    _put(found, _at_once(cause, effect))
    cause = cause.sort("time", "cause")
    in_session = cause.filter(pl.col("session").is_not_null())
    left = _left(effect, found).filter(pl.col("session").is_not_null())
    _put(found, _latest(in_session, left, [*_PAIR, "session"], None))
    _put(found, _latest(cause, _left(effect, found), _PAIR, window))
    return found


def _at_once(cause: pl.DataFrame, effect: pl.DataFrame) -> pl.DataFrame:
    """Pairs of the same user, item and time, one for each effect that has any."""
    met = effect.join(cause, on=[*_PAIR, "time"], how="inner", suffix="_of_cause")
    # An item may stand in a slate, or in two slates of one second, more than once: position and session tell which
    # was meant.
    same = [(pl.col(name) == pl.col(f"{name}_of_cause")).fill_null(False) for name in ("position", "session")]
    nearest = met.sort(*same, "cause", descending=[True, True, False])
    return nearest.unique("effect", keep="first", maintain_order=True)


def _latest(cause: pl.DataFrame, effect: pl.DataFrame, by: list[str], window: int | None) -> pl.DataFrame:
    """The latest cause at or before each effect; `cause` is sorted by time."""
    if cause.is_empty() or effect.is_empty():
        return effect.with_columns(cause=pl.lit(None, dtype=pl.Int64)).head(0)
    return effect.sort("time").join_asof(
        cause.select(*by, "time", "cause"), on="time", by=by, tolerance=window, check_sortedness=False
    )


def _left(effect: pl.DataFrame, found: IntArray) -> pl.DataFrame:
    return effect.filter(pl.Series(found < 0))


def _put(found: IntArray, pairs: pl.DataFrame) -> None:
    met = pairs.filter(pl.col("cause").is_not_null())
    found[met["effect"].to_numpy()] = met["cause"].to_numpy()


def _at(rows: IntArray, length: int) -> BoolArray:
    marks: BoolArray = np.zeros(length, dtype=np.bool_)
    marks[rows[rows >= 0]] = True
    return marks


def _stand_ins(clicks: pl.DataFrame) -> pl.DataFrame:
    """Clicks as impressions; their position would tell them from drawn items, so it is left out."""
    blank = clicks.with_columns(
        pl.lit(None).alias(name).cast(clicks[name].dtype) for name in ("position", "propensity")
    )
    return blank.unique(["user_id", "item", "time"], keep="first", maintain_order=True)


@dataclass(frozen=True, slots=True)
class Funnel:
    """How far the events of a data set, or of a part of it, hang together.

    Attributes:
        impressions: logged ones; 0 where a click stands for an impression.
        clicks: events that stand for a click.
        clicks_linked: those of them that belong to an impression (all, where none are logged).
        clicked: impressions, or moments of a click, that were clicked: what the conversion rate is a share of.
        conversions: events that stand for a conversion.
        linked: those that belong to a click with an impression.
        converted: clicked impressions that were converted.
        late: conversions whose click was longer ago than the window.
        unclicked: conversions without any earlier click of their user on their item.
        window: seconds.
    """

    impressions: int
    clicks: int
    clicks_linked: int
    clicked: int
    conversions: int
    linked: int
    converted: int
    late: int
    unclicked: int
    window: int

    @classmethod
    def of(cls, dataset: Dataset, events: pl.DataFrame | None = None, window: int = LINK_WINDOW) -> Funnel:
        """Counts over `events`, by default all of the data set's."""
        links = link_feedback(dataset, dataset.events if events is None else events, window)
        click, conversion = links.marks()
        alone = links.conversions.filter(pl.Series(links.click_of_conversion < 0))
        # Without a window: a click is there, but too long ago to be called the cause.
        late = int((linked_rows(links.clicks, alone, None) >= 0).sum())
        return cls(
            impressions=links.shown.height if links.logged else 0,
            clicks=links.clicks.height,
            clicks_linked=int((links.shown_of_click >= 0).sum()),
            clicked=int(click.sum()),
            conversions=links.conversions.height,
            linked=int((links.shown_of_conversion >= 0).sum()),
            converted=int(conversion.sum()),
            late=late,
            unclicked=alone.height - late,
            window=window,
        )

    @property
    def unshown(self) -> int:
        """Conversions whose click belongs to no impression."""
        return self.conversions - self.linked - self.late - self.unclicked

    @property
    def conversion_rate(self) -> float:
        """Share of the clicked impressions that were converted; 0 where nothing was clicked."""
        return self.converted / self.clicked if self.clicked else 0.0

    def __str__(self) -> str:
        clicks = f"{self.clicks:,} clicks"
        if self.impressions:
            clicks += f", {self.clicks_linked:,} of them linked to one of {self.impressions:,} impressions"
        if not self.conversions:
            return f"{clicks}; no conversions"
        lost = [
            f"{count:,} {what}"
            for count, what in (
                (self.late, f"longer than {span(self.window)} after the click"),
                (self.unclicked, "without a click before"),
                (self.unshown, "whose click has no impression"),
            )
            if count
        ]
        said = f"{clicks}; {self.conversions:,} conversions, {self.linked:,} of them linked to a click"
        return f"{', '.join([said, *lost])}; {self.conversion_rate:.2%} of what was clicked was converted"


def span(seconds: int) -> str:
    """A time in its largest whole unit: "1 day", "90 minutes", "45 seconds"."""
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds and seconds % size == 0:
            return f"{seconds // size} {unit}{'s' if seconds != size else ''}"
    return f"{seconds} second{'s' if seconds != 1 else ''}"
