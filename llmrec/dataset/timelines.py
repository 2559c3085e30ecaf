"""Users' pasts as whole timelines: all that a user did, and which of it is a choice to learn from.

Against examples, whose states each hold a slice of the past: what the states of a user have in common is kept, so
that training can read it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from llmrec.dataset.examples import target_events
from llmrec.dataset.history import History, indexed, no_collection
from llmrec.dataset.split import Split
from llmrec.dataset.store import Dataset
from llmrec.types import Example, Interaction, State


@dataclass(frozen=True, slots=True)
class Timeline:
    """What one user did, oldest first, and which items the user chose to be learnt from.

    Attributes:
        user_id: whose it is.
        profile: what the user says of themselves.
        history: all interactions that any of the states draws on.
        choices: what was chosen, in the order of time.
        before: for each choice, how many interactions are strictly earlier: its state may show `history[:before]`.
    """

    user_id: str | None
    profile: str
    history: tuple[Interaction, ...]
    choices: tuple[Interaction, ...]
    before: tuple[int, ...]

    def example(self, choice: int, shown: Sequence[Interaction]) -> Example:
        """The example of a choice whose state shows `shown` of what came before."""
        chosen = self.choices[choice]
        return Example(
            State(self.user_id, self.profile, tuple(shown), time=chosen.time), chosen.item, chosen.feedback
        )


@dataclass(frozen=True, slots=True)
class Timelines:
    """The timelines of some users; `history_events` is how many interactions a deployed state shows at most."""

    users: tuple[Timeline, ...]
    history_events: int

    def __len__(self) -> int:
        """All choices."""
        return sum(len(user.choices) for user in self.users)


def timelines(
    dataset: Dataset,
    split: Split,
    *,
    signal: Literal["click", "conversion"] = "click",
    history_events: int = 20,
) -> Timelines:
    """The timelines of all users who chose something in the training part, in the order of their ids.

    Choices are those of `examples`: one for each (user, time, item) with a positive event. Those of one time are one
    unordered set: none of them is among the interactions before another.
    """
    targets = target_events(dataset, indexed(dataset, split.train)).filter(pl.col(signal))
    targets = targets.sort("time", "user_id", "item")
    history = History(dataset, 0, events=split.train)
    before = history.counts(targets["user_id"].to_list(), targets["time"].to_numpy())
    columns = (targets[name].to_list() for name in ("user_id", "item", "conversion", "time"))
    rows: dict[str, list[tuple[Interaction, int]]] = {}
    made = []
    with no_collection():
        for user, item, conversion, time, count in zip(*columns, before.tolist(), strict=True):
            chosen = Interaction(item, "conversion" if conversion else "click", time)
            rows.setdefault(user, []).append((chosen, count))
        for user in sorted(rows):
            chosen_C, count_C = zip(*rows[user], strict=True)
            past = history.whole(user)[: count_C[-1]]
            made.append(Timeline(user, history.profile(user), past, chosen_C, count_C))
    return Timelines(tuple(made), history_events)
