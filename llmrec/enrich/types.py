"""The types of text enrichment; read top to bottom they tell its course.

data set -> Source (facts of one user, item or review) -> Writer -> Draft -> checks -> Written -> data set

A `Source` is all that may be said in one text. Whoever writes sees its facts and nothing else: no id of a person, no
event after the training part. What it writes is a `Draft`, sentence by sentence; a sentence that says more than the
source, is in another language or holds forbidden words goes, and what is left is `Written` with its author.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Literal, Protocol

from llmrec.files import sha256_of

Kind = Literal["user", "item", "review"]
Field = Literal["long_term", "recent", "description", "opinion"]
FIELDS: dict[Kind, tuple[Field, ...]] = {
    "user": ("long_term", "recent"),
    "item": ("description",),
    "review": ("opinion",),
}
Sentiment = Literal["positive", "negative", "mixed", "neutral"]
SENTIMENTS: tuple[Sentiment, ...] = ("positive", "negative", "mixed", "neutral")
Unfounded = Literal["number", "name", "quotation", "address"]
Reason = Unfounded | Literal["contrary", "language", "repeated", "cut", "long", "harmful", "forbidden"]
"""Why a sentence went: the first four say what in it the source lacks; "contrary" praises what is disliked."""
UNGROUNDED: tuple[Reason, ...] = ("number", "name", "quotation", "address")


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is known: `name` says what ("category", "liked"), `note` how much (a count, a value)."""

    name: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class Source:
    """What one text may say.

    Attributes:
        kind: what it is about.
        field: which text of it.
        subject: the user's or item's id (of a review its place in the file). No writer sees it, and it is not hashed.
        facts: the most important ones first; where a prompt is too long the last ones are left out.
    """

    kind: Kind
    field: Field
    subject: str
    facts: tuple[Fact, ...]

    @cached_property
    def content_hash(self) -> str:
        """Hex SHA-256 of field and facts: equal ones have equal texts."""
        return sha256_of(self.field, *(part for fact in self.facts for part in (fact.name, fact.text, fact.note)))

    def texts(self, *names: str) -> list[str]:
        """Texts of the facts of these names, in their order."""
        return [fact.text for fact in self.facts if fact.name in names]


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes: enough to tell two texts of different making apart. Never holds a secret.

    Attributes:
        writer: which of the writers.
        model: a name, folder or Hub id; of an endpoint "MODEL at ORIGIN".
        model_hash: of the weights, where they can be had; of an endpoint empty, as nobody can check it.
        prompts: hash of the templates and the language's and domain's words.
        settings: of the generation.
    """

    writer: Literal["extractive", "model", "endpoint"]
    model: str = ""
    model_hash: str = ""
    prompts: str = ""
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """Hex SHA-256 of all of it."""
        return sha256_of(json.dumps(asdict(self), sort_keys=True))


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a review says: `aspects` holds (aspect, "positive" or "negative") in order, each aspect once."""

    sentiment: Sentiment
    aspects: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """What a writer gave, unchecked. `cut`: the answer was cut off at its end; `failure`: why there is nothing."""

    sentences: tuple[str, ...] = ()
    cut: bool = False
    opinion: Opinion | None = None
    failure: str = ""


class Writer(Protocol):
    """Writes texts from sources. The same sources in the same batch give the same drafts."""

    @property
    def author(self) -> Author:
        """Who that is."""
        ...

    @property
    def batch(self) -> int:
        """How many sources it takes at a time."""
        ...

    @property
    def together(self) -> bool:
        """Whether a draft may depend, in the last bit, on the batch that it is written in."""
        ...

    def write(self, sources: Sequence[Source]) -> list[Draft]:
        """One draft for each source; what cannot be written is a draft with its `failure`.

        Raises:
            LLMRecError: nothing at all can be written (no model, a refused key).
        """
        ...


@dataclass(frozen=True, slots=True)
class Dropped:
    """A sentence that went, why, and the words that were its fault."""

    sentence: str
    reason: Reason
    words: str = ""


@dataclass(frozen=True)
class Written:
    """A text after the checks.

    Attributes:
        source: what it was written from.
        author: who wrote what stands in it.
        sentences: those that are left.
        dropped: those that went, of this author.
        opinion: of a review.
        tried: the writer that was asked first, where another had to do it, and `failure` what became of that one.
        tried_dropped: what went of the first one's draft.
    """

    source: Source
    author: Author
    sentences: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    opinion: Opinion | None = None
    tried: Author | None = None
    failure: str = ""
    tried_dropped: tuple[Dropped, ...] = field(default=())

    def text(self, language: str) -> str:
        """The sentences as one text."""
        return ("" if language == "zh" else " ").join(self.sentences)
