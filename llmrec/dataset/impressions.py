"""What behaviour models learn from: items shown in a state, and whether each was clicked and then converted.

Where a data set logs no impressions, a click stands for an impression and items that the user never touched are
drawn as unclicked ones; such figures are proxies, and the manifest says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from llmrec.dataset.examples import sample
from llmrec.dataset.history import History, indexed, strongest
from llmrec.dataset.linking import LINK_WINDOW, link_feedback
from llmrec.dataset.split import Part, Split
from llmrec.dataset.store import Dataset
from llmrec.seeding import numpy_stream
from llmrec.types import IntArray, State

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Impressions:
    """M impressions in S states; the impressions of one slate share one state.

    Attributes:
        states: The S distinct (user, time) states, ordered by time and user.
        state_row_M: Which state each impression belongs to.
        item_M: Item shown.
        click_M: 1 if clicked.
        conversion_M: 1 if clicked and then converted.
        position_M: Place in the slate, counted from 0; nan where unknown.
        propensity_M: P(item at its position | state) under the logging policy; nan where unknown.
        seen: For each state, all items that its user had chosen before.
    """

    states: list[State]
    state_row_M: IntArray
    item_M: IntArray
    click_M: Float32Array
    conversion_M: Float32Array
    position_M: Float32Array
    propensity_M: Float32Array
    seen: list[IntArray] = field(repr=False)

    def __len__(self) -> int:
        return len(self.item_M)

    @property
    def user_ids(self) -> list[str | None]:
        """The user of each state."""
        return [state.user_id for state in self.states]


def impressions(
    dataset: Dataset,
    split: Split,
    part: Part,
    *,
    history_events: int = 20,
    limit: int | None = None,
    seed: int = 0,
    negatives: int = 4,
    link_window: int = LINK_WINDOW,
    never_drawn: IntArray | None = None,
) -> Impressions:
    """The impressions of `part`, slate by slate.

    Clicks are joined to impressions and conversions to clicks as `llmrec.dataset.linking` says. Feedback that came
    after the part's end is not used.

    Args:
        dataset: The data set.
        split: Its split.
        part: Whose impressions.
        history_events: How many interactions a state keeps.
        limit: Keep a uniform sample of this many states, with all their impressions.
        seed: The run's seed, for the sample and the drawn negatives.
        negatives: Unclicked items drawn for each click where no impressions are logged, uniformly and with
            replacement from the items that the user touched neither in this part nor before it.
        link_window: Seconds within which feedback of another time and session still belongs to what was shown.
        never_drawn: Items (indices) that are no negatives: that nobody chose them may be because nobody could.
    """
    # Feedback is looked for in the part alone: a conversion after its end is the future of a model that is fitted on
    # it.
    past = split.until(part)
    links = link_feedback(dataset, split.part(part), link_window)
    click, conversion = links.marks()
    shown = links.shown.with_columns(pl.Series("click", click), pl.Series("conversion", conversion))
    shown = shown.sort("time", "user_id", "position", "item", nulls_last=True)
    # Sampled by state and not by row, so that a slate is whole or not there: what was left unclicked beside a click
    # is what a click says.
    states = shown.select("time", "user_id").unique(maintain_order=True)
    kept = states[sample(states.height, limit, seed, "impressions", part)].with_row_index("state_row")
    shown = shown.join(kept, on=["time", "user_id"], how="inner", maintain_order="left")
    shown = shown.select("user_id", "state_row", "item", "click", "conversion", "position", "propensity")
    if not links.logged and negatives:
        stream = numpy_stream(seed, "impressions", part, "negatives")
        drawn = _negatives(dataset, past, shown, negatives, stream, never_drawn)
        shown = pl.concat([shown, drawn]).sort("state_row", maintain_order=True)
    return _build(History(dataset, history_events, events=past), kept, shown)


def _negatives(
    dataset: Dataset,
    past: pl.DataFrame,
    shown: pl.DataFrame,
    negatives: int,
    random: np.random.Generator,
    never_drawn: IntArray | None,
) -> pl.DataFrame:
    """`negatives` unclicked rows for each row of `shown`, from the items its user never touched in `past`."""
    touched = strongest(indexed(dataset, past)).group_by("user_id").agg(pl.col("item").unique().sort())
    items_of = dict(zip(touched["user_id"], touched["item"], strict=True))
    rows: list[IntArray] = [np.empty(0, dtype=np.int64)]
    items: list[IntArray] = [np.empty(0, dtype=np.int64)]
    for (user_id,), group in shown.group_by(["user_id"], maintain_order=True):
        known = items_of[str(user_id)].to_numpy()
        if never_drawn is not None:
            known = np.union1d(known, never_drawn)
        # Drawn among the items left by rank, without a rejection: whoever touched nearly all costs no more than
        # anybody.
        free = dataset.n_items - len(known)
        if free:
            draws = random.integers(free, size=group.height * negatives)
            # the r-th free item is r plus the number of touched items at or below it
            items.append(draws + np.searchsorted(known - np.arange(len(known)), draws, side="right"))
            rows.append(np.repeat(group["state_row"].to_numpy(), negatives))
    columns = {"state_row": np.concatenate(rows), "item": np.concatenate(items)}
    blank = {name: None for name in shown.columns if name not in columns}
    frame = pl.DataFrame(columns).with_columns(**{name: pl.lit(value) for name, value in blank.items()})
    frame = frame.with_columns(click=pl.lit(False), conversion=pl.lit(False))
    return frame.select(shown.columns).cast(dict(shown.schema))  # type: ignore[arg-type]


def _build(history: History, states: pl.DataFrame, shown: pl.DataFrame) -> Impressions:
    made, seen = history.states(states["user_id"].to_list(), states["time"].to_numpy())

    def column(name: str) -> Float32Array:
        return shown[name].cast(pl.Float32).fill_null(float("nan")).to_numpy().astype(np.float32)

    return Impressions(
        states=made,
        state_row_M=shown["state_row"].cast(pl.Int64).to_numpy(),
        item_M=shown["item"].cast(pl.Int64).to_numpy(),
        click_M=column("click"),
        conversion_M=column("conversion"),
        position_M=column("position"),
        propensity_M=column("propensity"),
        seen=seen,
    )
