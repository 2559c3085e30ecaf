"""The types that cross layers; read top to bottom they tell the pipeline.

Dataset -> State -> prompt tokens -> policy -> Slate -> simulator -> Feedback -> Reward -> advantage -> update

Axis letters, used as suffixes of array names everywhere: B users (rows of a batch), K places of a slate,
G independent draws for one prompt, T turns of a session, L tokens of an item, N items of the catalogue.
An *item index* is the item's row in `Dataset.items`; every array of items holds item indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

EventKind = Literal["impression", "click", "conversion", "rating", "cart"]
EVENT_KINDS: tuple[EventKind, ...] = ("impression", "click", "conversion", "rating", "cart")
"""Tables are sorted by the places of kinds in here, so a new one goes last. A cart counts as a click wherever clicks
are counted, and has a word of its own where a state tells what was done."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item of the catalogue. All text is untrusted. `price` is in the data set's currency."""

    item_id: str
    title: str
    description: str = ""
    categories: tuple[str, ...] = ()
    brand: str = ""
    price: float | None = None


@dataclass(frozen=True, slots=True)
class User:
    """One user; `profile` is free text (age, occupation, stated interests), untrusted."""

    user_id: str
    profile: str = ""


@dataclass(frozen=True, slots=True)
class Interaction:
    """An item in a state together with the strongest feedback that it got there.

    `item` is the item index. `feedback` orders impression < click < cart < rating < conversion; `value` is the rating
    or the amount where there is one. `time` is in seconds.
    """

    item: int
    feedback: EventKind
    time: int
    value: float | None = None


@dataclass(frozen=True, slots=True)
class State:
    """What the policy may know before it recommends; every part may be empty (cold start).

    `history` (oldest first) holds what is past, `session` what the running session has shown so far, `context`
    free text (a request, a place, a season). `time` is the moment of the recommendation: everything in the state
    happened strictly earlier.
    """

    user_id: str | None = None
    profile: str = ""
    history: tuple[Interaction, ...] = ()
    session: tuple[Interaction, ...] = ()
    context: str = ""
    time: int | None = None

    def seen(self) -> tuple[int, ...]:
        """Item indices of history and session, each once, in order of first sight."""
        return tuple(dict.fromkeys(i.item for i in (*self.history, *self.session)))


@dataclass(frozen=True, slots=True)
class Example:
    """A state and the item that the user then chose: one row of training or of an offline test."""

    state: State
    target: int
    feedback: EventKind = "click"


@dataclass(frozen=True, slots=True)
class Slate:
    """A recommendation: item indices, best first, and log pi(item | state) of each. May hold fewer than k."""

    items_K: tuple[int, ...]
    log_probs_K: tuple[float, ...]


class Ranker(Protocol):
    """Anything that can be deployed: a policy, a baseline, a mixture, a reranker. States in, slates out."""

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        """The k best items of each state, without those in `seen` where the data set excludes repeats.

        `seen` holds what each user has seen beside the state. `log_probs_K` of a ranker that is no distribution
        holds its scores.
        """
        ...


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a behaviour model expects of item k shown to user b: all shapes (B, K), probabilities.

    `conversion_BK` is P(conversion | click); P(click and conversion) is the product.
    """

    click_BK: FloatArray
    conversion_BK: FloatArray


@dataclass(frozen=True, slots=True)
class Feedback:
    """What users did (0 or 1) or are expected to do (probabilities) with a slate: shapes (B, K).

    `conversion_BK` is per impression: P(click and conversion), or 1 only where the click is 1.
    """

    click_BK: FloatArray
    conversion_BK: FloatArray


@dataclass(frozen=True, slots=True)
class Reward:
    """Weighted sum and its named, unweighted terms, each of shape (B, K)."""

    total_BK: FloatArray
    terms: dict[str, FloatArray] = field(default_factory=dict)
