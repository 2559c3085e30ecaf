"""The writer by rule: sentences put together from the facts alone, the same for the same facts on every machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llmrec.enrich.reviews import opinion_of
from llmrec.enrich.types import Author, Draft, Fact, Source
from llmrec.enrich.words import Words, words_for
from llmrec.files import sha256_of

VERSION = "1"
"""Of the wording below; another wording is another author."""
_MARKS = re.compile(r"[\"“”«»《》〈〉「」『』【】]")


@dataclass(frozen=True)
class ExtractiveWriter:
    """Says what the facts say, in a fixed wording.

    Args:
        language: "en" or "zh".
        domain: of the data set; decides what people and items are called.
    """

    language: str
    domain: str
    batch: int = 256
    together: bool = False

    @property
    def author(self) -> Author:
        """By rule, in this wording."""
        return Author("extractive", prompts=sha256_of(VERSION, self.language, self.domain))

    @property
    def words(self) -> Words:
        """What things are called."""
        return words_for(self.language, self.domain)

    def write(self, sources: Sequence[Source]) -> list[Draft]:
        """One draft a source; empty where its facts say nothing."""
        return [self._draft(source) for source in sources]

    def _draft(self, source: Source) -> Draft:
        if source.kind == "review":
            return Draft(opinion=opinion_of(" ".join(source.texts("review")), self.language))
        said = _Facts(source.facts)
        make = _ZH if self.language == "zh" else _EN
        sentences = make(self.words).sentences(source, said)
        return Draft(tuple(sentence for sentence in sentences if sentence))


class _Facts:
    """Facts by name, titles without marks that would look like a quotation."""

    def __init__(self, facts: Sequence[Fact]) -> None:
        self._facts = facts

    def texts(self, name: str, most: int) -> list[str]:
        found = (" ".join(_MARKS.sub(" ", fact.text).split()) for fact in self._facts if fact.name == name)
        return [text for text in found if text][:most]

    def one(self, name: str) -> str:
        return next(iter(self.texts(name, 1)), "")

    def note(self, name: str) -> str:
        return next((fact.note for fact in self._facts if fact.name == name), "")


@dataclass(frozen=True)
class _EN:
    words: Words

    def sentences(self, source: Source, said: _Facts) -> list[str]:
        return {"long_term": self._long_term, "recent": self._recent}.get(source.field, self._description)(said)

    def _long_term(self, said: _Facts) -> list[str]:
        kinds = _list(said.texts("category", 3))
        return [
            f"Over time mostly chose {kinds} {self.words.items}." if kinds else "",
            _said("Liked", _list(said.texts("liked", 5))),
            _said("Disliked", _list(said.texts("disliked", 2))),
            *self._aspects(said),
        ]

    def _recent(self, said: _Facts) -> list[str]:
        kinds = _list(said.texts("category", 2))
        return [
            f"Lately chose {kinds} {self.words.items}." if kinds else "",
            _said("Most recently chose", _list(said.texts("chosen", 4))),
            *self._aspects(said),
        ]

    def _aspects(self, said: _Facts) -> list[str]:
        return [
            _said("Praised", _list(said.texts("praised", 3))),
            _said("Complained of", _list(said.texts("blamed", 3))),
        ]

    def _description(self, said: _Facts) -> list[str]:
        kinds, brand = _list(said.texts("category", 3)), said.one("brand")
        of = f" by {brand}" if brand else ""
        price = said.one("price")
        return [
            f"The {self.words.item} belongs to {kinds}{of}."
            if kinds
            else f"The {self.words.item} is{of}."
            if of
            else "",
            f"The price is {price}." if price else "",
            _said("Reviews praise", _list(said.texts("praised", 3))),
            _said("Reviews complain of", _list(said.texts("blamed", 3))),
        ]


@dataclass(frozen=True)
class _ZH:
    words: Words

    def sentences(self, source: Source, said: _Facts) -> list[str]:
        return {"long_term": self._long_term, "recent": self._recent}.get(source.field, self._description)(said)

    def _long_term(self, said: _Facts) -> list[str]:
        kinds = "、".join(said.texts("category", 3))
        return [
            f"长期以来主要选择{kinds}{self.words.items}。" if kinds else "",
            _zh("喜欢", _titles(said.texts("liked", 5))),
            _zh("不喜欢", _titles(said.texts("disliked", 2))),
            *self._aspects(said),
        ]

    def _recent(self, said: _Facts) -> list[str]:
        kinds = "、".join(said.texts("category", 2))
        return [
            f"最近选择{kinds}{self.words.items}。" if kinds else "",
            _zh("最近几次选择", _titles(said.texts("chosen", 4))),
            *self._aspects(said),
        ]

    def _aspects(self, said: _Facts) -> list[str]:
        return [_zh("称赞过", "、".join(said.texts("praised", 3))), _zh("抱怨过", "、".join(said.texts("blamed", 3)))]

    def _description(self, said: _Facts) -> list[str]:
        kinds, brand, price = "、".join(said.texts("category", 3)), said.one("brand"), said.one("price")
        return [
            f"这件{self.words.item}属于{kinds}。" if kinds else "",
            f"品牌是{brand}。" if brand else "",
            f"价格是{price}。" if price else "",
            _zh("评论称赞", "、".join(said.texts("praised", 3))),
            _zh("评论抱怨", "、".join(said.texts("blamed", 3))),
        ]


def _list(texts: Sequence[str]) -> str:
    """ "A, B and C"."""
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))


def _titles(texts: Sequence[str]) -> str:
    return "、".join(f"《{text}》" for text in texts)


def _said(lead: str, what: str) -> str:
    return f"{lead} {what}." if what else ""


def _zh(lead: str, what: str) -> str:
    return f"{lead}{what}。" if what else ""
