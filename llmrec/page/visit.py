"""One visitor's state on the page: who it is for, and what was clicked and bought since; nothing of the browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from llmrec.errors import RequestError
from llmrec.text.objectives import LEVELS
from llmrec.types import Interaction, State

Who = Literal["user", "profile", "prompt"]
WHO: tuple[Who, ...] = ("user", "profile", "prompt")
Act = Literal["click", "conversion"]
LONGEST_TEXT = 4_000
"""Characters of a profile or prompt."""
MOST_ACTS = 50
"""Acts of a visit that are kept; the oldest go."""


@dataclass(frozen=True, slots=True)
class Did:
    """What the visitor did with an item, by its index."""

    item: int
    kind: Act


@dataclass(frozen=True, slots=True)
class Visit:
    """Whom the slates are for.

    Attributes:
        who: what `text` is: a user's id, a profile or a free prompt.
        text: that; "" is a visitor of whom nothing is known.
        did: oldest first, each item once with the strongest that was done with it.
        prefer: what to weigh how much, by names of the terms that the run reads; () as the run was set.
    """

    who: Who = "profile"
    text: str = ""
    did: tuple[Did, ...] = ()
    prefer: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, who: str, text: str) -> Visit:
        """A visit that begins.

        Raises:
            RequestError: another kind of visitor, or a text that is too long.
        """
        if who not in WHO:
            raise RequestError(f"{who!r} is no kind of visitor; choose user, profile or prompt.")
        text = text.strip()
        if len(text) > LONGEST_TEXT:
            raise RequestError(f"The text has {len(text):,} characters; write at most {LONGEST_TEXT:,}.")
        return cls(who, text)

    def then(self, item: int, kind: Act) -> Visit:
        """After a click or a purchase; what was bought stays bought if it is clicked again."""
        bought = Did(item, "conversion") in self.did
        rest = tuple(one for one in self.did if one.item != item)
        return replace(self, did=(*rest, Did(item, "conversion" if bought else kind))[-MOST_ACTS:])

    def weighing(self, levels: Mapping[str, int]) -> Visit:
        """The same that asks for these weights; all of all is what the run weighs by itself."""
        whole = all(level == LEVELS - 1 for level in levels.values())
        return replace(self, prefer=() if whole else tuple(levels.items()))

    def undone(self) -> Visit:
        """Without what was done last."""
        return replace(self, did=self.did[:-1])

    def anew(self) -> Visit:
        """The same visitor who has done nothing yet."""
        return replace(self, did=())

    def state(self, known: State) -> State:
        """What a policy reads: what was known before the visit, and the visit as the running session."""
        begin = known.time if known.time is not None else 1 + max((i.time for i in known.history), default=-1)
        done = tuple(Interaction(one.item, one.kind, begin + n) for n, one in enumerate(self.did))
        return replace(known, session=done, time=begin + len(done) if done else known.time)


def moved(before: Sequence[int] | None, now: Sequence[int]) -> tuple[int | None, ...]:
    """How many places each item of a slate has come up since the slate before (None: it was not in it)."""
    if before is None:
        return (0,) * len(now)
    place = {item: n for n, item in enumerate(before)}
    return tuple(place[item] - n if item in place else None for n, item in enumerate(now))
