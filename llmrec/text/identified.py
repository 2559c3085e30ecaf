"""Identifiers in prompts: trusted special tokens among untrusted text.

While a prompt is worded, an item's identifier is a mark that holds the item's index between two control characters.
`escape.clean_text` takes control characters out of every text, so no title or profile can spell a mark, whatever it
spells. The mark becomes the identifier's tokens at the very end, in `budget.PromptEncoder`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from llmrec.errors import ConfigError

_OPEN, _CLOSE = "\x02", "\x03"
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
_FIRST = 256


def mark(item: int) -> str:
    """What stands for the identifier of item index `item` until the prompt is encoded."""
    return f"{_OPEN}{item}{_CLOSE}"


class IdentifierTokens:
    """The identifiers of a catalogue as text and as token ids.

    Args:
        texts: the identifier of each item in item-index order, words such as "<a_3>" joined without a space.
        tokenizer: a Hugging Face tokenizer to which those words were added.
        control_ids: ids that no untrusted text may emit; every token of an identifier must be one of them.

    Raises:
        ConfigError: an identifier holds anything but control tokens (the first ones are looked at here, any other
            when it is first used: a catalogue of a million items should load at once).
    """

    def __init__(self, texts: Sequence[str], tokenizer: Any, control_ids: frozenset[int]) -> None:
        self.texts, self.tokenizer, self.control_ids = texts, tokenizer, control_ids
        self._known: dict[int, list[int]] = {}
        self._learn(range(min(len(texts), _FIRST)))

    def __len__(self) -> int:
        return len(self.texts)

    def expand(self, text: str) -> str:
        """`text` with each mark replaced by the identifier's text.

        Raises:
            ConfigError: a mark of an item that is not there; only a template can have put it.
        """
        return _MARK.sub(lambda found: self._text(int(found[1])), text) if _OPEN in text else text

    def expected(self, text: str) -> list[int]:
        """The identifier tokens that the marks in `text` stand for, in their order."""
        if _OPEN not in text:
            return []
        return [token for found in _MARK.finditer(text) for token in self.ids(int(found[1]))]

    def pieces(self, text: str) -> list[str | list[int]]:
        """`text` cut at its marks: strings of untrusted text, and the token ids of identifiers between them."""
        parts: list[str | list[int]] = []
        # `re.split` with a group alternates: text at even places, what the mark held at odd ones.
        for place, part in enumerate(_MARK.split(text)):
            if place % 2:
                parts.append(self.ids(int(part)))
            elif part:
                parts.append(part)
        return parts

    def ids(self, item: int) -> list[int]:
        """Token ids of the identifier of item index `item`."""
        if item not in self._known:
            self._learn([item])
        return self._known[item]

    def _text(self, item: int) -> str:
        if item >= len(self.texts):
            raise ConfigError(
                f"A prompt marks the identifier of item index {item}, which is not there; take control characters "
                "out of the templates."
            )
        return self.texts[item]

    def _learn(self, items: Sequence[int]) -> None:
        if not items:
            return
        texts = [self._text(item) for item in items]
        rows = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        for item, text, ids in zip(items, texts, rows, strict=True):
            if not ids or not self.control_ids.issuperset(ids):
                raise ConfigError(
                    f"The identifier {text!r} of item index {item} is not made of special tokens of the tokenizer; "
                    "add its words to the tokenizer as special tokens first."
                )
            self._known[item] = ids
