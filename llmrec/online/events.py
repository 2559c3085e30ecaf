"""What a running recommender writes down: slates with propensities, and what came of them.

Items are named by their ids and not by their rows, since a catalogue changes while a log goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmrec.errors import RequestError
from llmrec.printing import one_line
from llmrec.types import EVENT_KINDS, EventKind, Interaction, State

LONGEST_ID = 512
"""Characters of an id at most: ids come from outside, and each stands in an index."""
LONGEST_STATE = 1 << 20
"""Characters of a state at most, as JSON."""
_Choice = tuple[str, EventKind, int, float | None]


@dataclass(frozen=True, slots=True)
class LoggedState:
    """A `State` whose items are named by their ids; interactions are (item id, feedback, time, value)."""

    profile: str = ""
    history: tuple[_Choice, ...] = ()
    session: tuple[_Choice, ...] = ()
    context: str = ""
    time: int | None = None

    @classmethod
    def of(cls, state: State, item_ids: Sequence[str]) -> LoggedState:
        """A state whose items are rows of `item_ids`."""

        def named(made: Sequence[Interaction]) -> tuple[_Choice, ...]:
            return tuple((item_ids[i.item], i.feedback, i.time, i.value) for i in made)

        return cls(state.profile, named(state.history), named(state.session), state.context, state.time)

    def state(self, user_id: str | None, row_of: Mapping[str, int]) -> State:
        """The state in a catalogue whose items have the rows `row_of`; items that it lacks are left out."""

        def indexed(made: Sequence[_Choice]) -> tuple[Interaction, ...]:
            return tuple(Interaction(row_of[i], kind, time, value) for i, kind, time, value in made if i in row_of)

        return State(user_id, self.profile, indexed(self.history), indexed(self.session), self.context, self.time)

    def as_json(self) -> str:
        """One line of JSON."""
        parts = [self.profile, self.history, self.session, self.context, self.time]
        return json.dumps(parts, ensure_ascii=False, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> LoggedState:
        """What `as_json` wrote."""
        profile, history, session, context, time = json.loads(text)
        choices: list[tuple[_Choice, ...]] = [
            tuple((str(i), kind, int(at), value) for i, kind, at, value in part) for part in (history, session)
        ]
        return cls(profile, choices[0], choices[1], context, time)


@dataclass(frozen=True, slots=True)
class Served:
    """A slate that was shown.

    Attributes:
        slate_id: unique in a log; feedback names it.
        user_id: None where nobody is known.
        items_K: item ids, the highest place first, each once.
        propensity_K: P(item at its place | the state, the items above), above 0 and at most 1.
        version: of the policy (`versions.Versions`).
        exploration: how it was drawn, in a word; drift is watched among slates that were drawn alike.
        state: what the policy read; None keeps it out of the log, and the slate out of what is learnt from.
    """

    slate_id: str
    user_id: str | None
    items_K: tuple[str, ...]
    propensity_K: tuple[float, ...]
    version: int
    exploration: str = ""
    state: LoggedState | None = None

    def check(self) -> None:
        """Raises `RequestError` for a slate that cannot be logged."""
        _check_id("slate", self.slate_id)
        if self.user_id is not None:
            _check_id("user", self.user_id)
        for item in self.items_K:
            _check_id("item", item)
        name = f"Slate {one_line(self.slate_id, 60)!r}"
        if not self.items_K or len(set(self.items_K)) < len(self.items_K):
            raise RequestError(f"{name} must show at least one item, and none of them twice.")
        if len(self.propensity_K) != len(self.items_K):
            raise RequestError(
                f"{name} has {len(self.items_K)} items but {len(self.propensity_K)} propensities; give one a place."
            )
        for place, chance in enumerate(self.propensity_K):
            if not 0 < chance <= 1:  # NaN too
                raise RequestError(
                    f"{name} has the propensity {chance} at place {place}; it must be above 0 and at most 1."
                )
        if self.state is not None and len(self.state.as_json()) > LONGEST_STATE:
            raise RequestError(f"{name} has a state of more than {LONGEST_STATE:,} characters; cut its history.")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What somebody did with one item of a slate.

    Attributes:
        slate_id: of the slate.
        item_id: an item that it showed.
        kind: click, cart, conversion or rating.
        value: a rating or an amount, where there is one.
        feedback_id: one report's own name, by which a repeated one is known. By default kind and item: of one item
            of a slate each kind then counts once.
    """

    slate_id: str
    item_id: str
    kind: EventKind
    value: float | None = None
    feedback_id: str = ""

    @property
    def name(self) -> str:
        """The report's name within its slate."""
        return self.feedback_id or f"{self.kind}:{self.item_id}"

    def check(self) -> None:
        """Raises `RequestError` for a report that cannot be logged."""
        _check_id("slate", self.slate_id)
        _check_id("item", self.item_id)
        _check_id("feedback", self.name, LONGEST_ID + 16)
        if self.kind not in EVENT_KINDS or self.kind == "impression":
            kinds = ", ".join(kind for kind in EVENT_KINDS if kind != "impression")
            raise RequestError(
                f"Feedback of kind {one_line(str(self.kind), 40)!r} is not known; give one of {kinds}."
            )
        if self.value is not None and not math.isfinite(self.value):
            raise RequestError(f"The value of feedback is {self.value}; give a finite number or none.")


@dataclass(frozen=True, slots=True)
class Received:
    """An outcome as it stands in the log; `late` came after the window and does not count."""

    seq: int
    time: int
    outcome: Outcome
    late: bool


@dataclass(frozen=True, slots=True)
class Logged:
    """A slate as it stands in the log, with all that came of it, in order.

    `seq` orders all slates and outcomes of a log, whatever clocks did. `time` is the log's own time in seconds, which
    never falls; `clock` is what the machine's clock said.
    """

    seq: int
    time: int
    clock: int
    served: Served
    received: tuple[Received, ...] = ()

    def counted(self, kind: EventKind, item_id: str) -> bool:
        """Whether feedback of `kind` on the item came within the window."""
        return any(not r.late and (r.outcome.kind, r.outcome.item_id) == (kind, item_id) for r in self.received)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is known for certain when a call returns: it stands in the log at `seq`, on the disk.

    `repeated`: it stood there before; `late`: it came after the window.
    """

    seq: int
    repeated: bool = False
    late: bool = False


def _check_id(what: str, value: Any, longest: int = LONGEST_ID) -> None:
    if not isinstance(value, str) or not value or len(value) > longest:
        raise RequestError(f"The {what} id {one_line(str(value), 60)!r} must be text of 1 to {longest} characters.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RequestError(
            f"The {what} id {one_line(value, 60)!r} holds half a character; send it in UTF-8."
        ) from None
