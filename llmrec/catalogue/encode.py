"""Titles as token sequences: ordinary tokens only, cut to a length, made distinct where they are equal."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from llmrec.errors import CatalogueError
from llmrec.progress import Bar

Tokens = tuple[int, ...]
Taken = Callable[[Sequence[Tokens]], Sequence[bool]]
"""Which of some token sequences are those of items that are there already."""
BATCH = 8192
"""Titles encoded at a time; more than one batch is shown as a bar."""


def _none_taken(rows: Sequence[Tokens]) -> Sequence[bool]:
    return [False] * len(rows)


def display_title(title: str) -> str:
    """`title` on one line: runs of white space become one space, control and direction characters go."""
    if title.isprintable():  # neither control nor direction characters, and no white space but the space
        return " ".join(title.split())
    kept = (c for c in title if c.isspace() or (unicodedata.category(c) != "Cc" and c not in _DIRECTION))
    return " ".join("".join(kept).split())


_DIRECTION = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


class TitleEncoder:
    """Encodes answers (`prefix` + title, no special tokens, at most `max_tokens`) with one tokenizer.

    A title is untrusted: text that spells a special token is broken by a space after its first character, and any
    special id that still comes out (except that of unknown text) is dropped.
    """

    def __init__(self, tokenizer: Any, prefix: str, max_tokens: int) -> None:
        self.tokenizer, self.prefix, self.max_tokens = tokenizer, prefix, max_tokens
        end = tokenizer.eos_token_id
        if end is None:
            raise CatalogueError(
                "The tokenizer has no end token (eos_token), so titles cannot be ended; set tokenizer.eos_token."
            )
        self.end = int(end)
        self._markers = sorted(_special_texts(tokenizer), key=lambda text: (-len(text), text))
        self._starts = frozenset(marker[0] for marker in self._markers)
        self._forbidden = (set(map(int, tokenizer.all_special_ids)) | {self.end}) - self._unknown()

    def _unknown(self) -> set[int]:
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        return set() if unknown is None or unknown == self.end else {int(unknown)}

    def neutral(self, text: str) -> str:
        """`text` in which nothing spells a special token."""
        # Chat markers of other models are no tokens here, but a reader of the prompt should not meet them either.
        text = text.replace("<|", "< |").replace("|>", "| >")
        for marker in self._markers if self._starts.intersection(text) else ():
            if marker in text:
                text = text.replace(marker, f"{marker[0]} {marker[1:]}" if len(marker) > 1 else " ")
        return text

    def encode(self, titles: Sequence[str]) -> list[Tokens]:
        """Token ids of prefix + title for each title, uncut and without the end token."""
        if len(titles) <= BATCH:
            return self._encode(titles)
        rows: list[Tokens] = []
        with Bar("encode titles", len(titles)) as bar:
            for start in range(0, len(titles), BATCH):
                batch = titles[start : start + BATCH]
                rows += self._encode(batch)
                bar.advance(len(batch))
        return rows

    def _encode(self, titles: Sequence[str]) -> list[Tokens]:
        texts = [self.prefix + self.neutral(title) for title in titles]
        rows = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        # Some tokenizers make a special id of text that is none of the listed markers; it would end the item or the
        # turn.
        return [tuple(int(t) for t in row if t not in self._forbidden) for row in rows]

    def encode_distinct(
        self, item_ids: Sequence[str], titles: Sequence[str], taken: Taken = _none_taken
    ) -> tuple[list[str], list[Tokens]]:
        """Display titles and cut token sequences, all distinct; the first holder of a sequence keeps it.

        Later holders get " (2)", " (3)", ... in item order, in the tokens (the title is cut to make room) and in the
        display title. Sequences for which `taken` is true have their holder already. Raises `CatalogueError` for a
        title that is empty or has no token.
        """
        shown = [display_title(title) for title in titles]
        for item_id, title in zip(item_ids, shown, strict=True):
            if not title:
                raise CatalogueError(f"Item {item_id!r} has an empty title; give it one or remove the item.")
        rows = [row[: self.max_tokens] for row in self.encode(shown)] if shown else []
        for item_id, title, row in zip(item_ids, shown, rows, strict=True):
            if not row:
                raise CatalogueError(
                    f"The title {title!r} of item {item_id!r} has no ordinary token for this tokenizer; change it."
                )
        return self._separate(shown, rows, taken)

    def _separate(self, shown: list[str], rows: list[Tokens], taken: Taken) -> tuple[list[str], list[Tokens]]:
        held = {row for row, there in zip(rows, taken(rows), strict=True) if there}
        first: dict[Tokens, int] = dict.fromkeys(held, -1)
        for i, row in enumerate(rows):
            first.setdefault(row, i)
        # Numbered sequences must not meet anybody's own one: "Chess (2)" may be a title itself.
        used, count = set(rows), dict.fromkeys(first, 1)
        titles, out = list(shown), list(rows)
        for i, row in enumerate(rows):
            numbered = row
            while first[row] != i and (numbered in used or taken([numbered])[0]):
                count[row] += 1
                titles[i] = f"{shown[i]} ({count[row]})"
                numbered = self._numbered(shown[i], row, f" ({count[row]})")
            used.add(numbered)
            out[i] = numbered
        return titles, out

    def _numbered(self, title: str, row: Tokens, suffix: str) -> Tokens:
        (whole,) = self.encode([title + suffix])
        if len(whole) <= self.max_tokens:
            return whole
        tail = tuple(
            int(t)
            for t in self.tokenizer([suffix], add_special_tokens=False)["input_ids"][0]
            if t not in self._forbidden
        )
        if len(tail) >= self.max_tokens:
            raise CatalogueError(
                f"max_title_tokens = {self.max_tokens} leaves no room to tell apart items titled {title!r}; raise it."
            )
        # The number must survive the cut, or the two would be equal again.
        return row[: self.max_tokens - len(tail)] + tail


def _special_texts(tokenizer: Any) -> set[str]:
    texts = {str(text) for text in tokenizer.all_special_tokens}
    added = getattr(tokenizer, "added_tokens_decoder", {})
    texts |= {token.content for token in added.values() if token.special}
    return {text for text in texts if text.strip()}
