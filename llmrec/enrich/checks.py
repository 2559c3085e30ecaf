"""What a draft has to pass, sentence by sentence: its end, its language, the source, the words, its length."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from llmrec.enrich.grounding import Ground, is_whole, speaks, tokens
from llmrec.enrich.types import Draft, Dropped, Opinion, Source
from llmrec.files import sha256_of
from llmrec.text.escape import clean_text
from llmrec.text.forbidden import FORBIDDEN, Forbidden, WordFilter

_LONGEST = 600
"""Characters of one sentence; what is longer is no sentence."""
_ROUNDS = 3
_YEAR = re.compile(r"\s*[(（]\d{4}[)）]$")
_AGAINST = {
    "en": re.compile(
        r"\b(?:dis\w+|not|no|never|less|least|hat\w+|avoid\w*|bad\w*|poor\w*|low\w*|un\w+)\b|n['’]t\b", re.I
    ),
    "zh": re.compile("[不没无差]|讨厌|反感"),
}
"""Words that speak against something."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Greatest length of one text: characters and sentences."""

    characters: int = 400
    sentences: int = 3


@dataclass(frozen=True)
class Checks:
    """The checks of one data set.

    Args:
        language: "en" or "zh".
        bounds: of a text.
        forbidden: what a person forbids, beside the harmful words.
        decisions: of `llmrec review`, by entry: "accept" or "refuse".
        known: names that have to stand in the source in whatever letters: the catalogue's categories (`naming`).
    """

    language: str
    bounds: Bounds = field(default_factory=Bounds)
    forbidden: Forbidden = field(default_factory=Forbidden)
    decisions: Mapping[str, str] = field(default_factory=dict)
    known: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "_filter", self.forbidden.filter())

    @property
    def words(self) -> WordFilter:
        """Finds what must not stand in a text."""
        found: WordFilter = self._filter  # type: ignore[attr-defined]
        return found

    def naming(self, categories: Iterable[str]) -> Checks:
        """The same checks that also know these names."""
        return replace(self, known=tuple(sorted(set(categories))))

    def sift(self, source: Source, draft: Draft) -> tuple[tuple[str, ...], tuple[Dropped, ...]]:
        """The sentences of a draft that may stay, and those that go with the reason."""
        ground = Ground.of(source, self.language, self.known)
        kept: list[str] = []
        dropped: list[Dropped] = []
        seen: set[str] = set()
        room = self.bounds.characters
        for place, raw in enumerate(draft.sentences):
            sentence = clean_text(raw, _LONGEST)
            cut = draft.cut and place == len(draft.sentences) - 1 and not is_whole(sentence)
            fault = self._fault(source, ground, sentence, seen, cut=cut)
            if fault is None and (len(kept) >= self.bounds.sentences or len(sentence) > room):
                fault = Dropped(sentence, "long")
            if fault is not None:
                dropped.append(fault)
                continue
            kept.append(sentence)
            seen.add(" ".join(tokens(sentence)))
            room -= len(sentence) + 1
        return tuple(kept), tuple(dropped)

    def opinion(self, source: Source, opinion: Opinion) -> Opinion:
        """An opinion without aspects that the review does not name or that hold forbidden words."""
        ground = Ground.of(source, self.language)
        kept = [(a, side) for a, side in opinion.aspects if ground.holds(a) and not self.words.find(a)]
        sides: dict[str, str] = {}
        for name, side in kept:
            sides.setdefault(name, side)
        return Opinion(opinion.sentiment, tuple(sides.items()))

    def _fault(self, source: Source, ground: Ground, sentence: str, seen: set[str], *, cut: bool) -> Dropped | None:
        if cut:
            return Dropped(sentence, "cut")
        if not speaks(sentence, self.language):
            return Dropped(sentence, "language")
        if wrong := ground.ungrounded(sentence):
            return Dropped(sentence, wrong[0].reason, ", ".join(mention.text for mention in wrong))
        said = f" {' '.join(tokens(sentence))} "
        disliked = [title for title in source.texts("disliked") if _bare(title) in said]
        if disliked and not _AGAINST[self.language].search(sentence):
            return Dropped(sentence, "contrary", ", ".join(disliked))
        if said.strip() in seen or _goes_round(tokens(sentence)):
            return Dropped(sentence, "repeated")
        found = self.words.find(sentence)
        if found:
            listed = ", ".join(one.word for one in found)
            if any(one.category == FORBIDDEN for one in found):
                return Dropped(sentence, "forbidden", listed)
            if self.decisions.get(entry_id(source, sentence)) != "accept":
                return Dropped(sentence, "harmful", listed)
        return None


def _bare(title: str) -> str:
    """A title's words without its year, which sentences leave out, as they stand between other words."""
    bare = _YEAR.sub("", title)
    return f" {' '.join(tokens(bare))} "


def _goes_round(words: Sequence[str]) -> bool:
    """Whether a sentence says four words in a row three times or more, as small models do without end."""
    count = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    return max(count.values(), default=0) >= _ROUNDS


def entry_id(source: Source, sentence: str = "") -> str:
    """A short name of a sentence about a subject, by which a person decides on it."""
    return sha256_of(source.kind, source.subject, source.field, sentence)[:12]
