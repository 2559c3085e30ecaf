"""Untrusted text made harmless before it enters a prompt.

Titles, descriptions and profiles are written by strangers. None of them may close a chat turn, emit a special token
or open a new line of the prompt. The first line of defence is here: markers are rewritten so that they stay readable
and are no longer markers. The second is in `budget.PromptEncoder`, which counts the control tokens of every prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from llmrec.printing import visible

_ANGLES = str.maketrans({"<": "‹", ">": "›", "＜": "‹", "＞": "›", "﹤": "‹", "﹥": "›"})
_SQUARE_MARKER = re.compile(r"[\[［]\s*(/?\s*(?:[A-Z][A-Z_]+|(?i:inst|sys|gmask|s?mask|sop|eop|bos|eos)))\s*[\]］]")
_HEADING = re.compile(r"[#＃]{2,}")
_SPACE = re.compile(r"\s+")


def clean_text(text: str, limit: int) -> str:
    """Returns `text` on one line, without markers, control or invisible characters, of at most `limit` characters.

    `<|im_end|>` becomes `‹|im_end|›`, `[INST]` becomes `(INST)`. A text too long is cut at a word. Takes time
    proportional to `limit`, not to the length of `text`. `Cleaner` does the same for one tokenizer's own tokens too.
    """
    # Cleaning shortens a text, so more than the limit is read; a book in a title must not cost a book's time.
    text = visible(text[: 4 * limit + 256])
    text = _SQUARE_MARKER.sub(r"(\1)", text.translate(_ANGLES))
    text = _HEADING.sub("#", text)
    return cut_at_word(_SPACE.sub(" ", text).strip(), limit)


def cut_at_word(text: str, limit: int) -> str:
    """The longest beginning of `text` of at most `limit` characters that ends with a whole word.

    Text without a space in the second half (Chinese, one long word) is cut at the character.
    """
    if len(text) <= limit:
        return text
    head = text[: max(limit, 0)]
    if not text[len(head)].isspace():
        space = head.rfind(" ")
        head = head[:space] if 2 * space >= limit and space > 0 else head
    return head.rstrip(" ,;:-–—，；：、(（")


class Cleaner:
    """`clean_text` for one tokenizer: none of its control tokens survives in a cleaned text.

    Control tokens are the special tokens and all added tokens but whitespace and ordinary words.

    Args:
        tokenizer: a Hugging Face tokenizer, or None for the general rules alone.
    """

    def __init__(self, tokenizer: Any = None) -> None:
        self.control_ids = frozenset[int]() if tokenizer is None else control_token_ids(tokenizer)
        texts: Iterable[str] = []
        if tokenizer is not None and self.control_ids:
            # Markers in angle brackets are broken by `clean_text` already; what is left are tokens such as "[MASK]"
            # or an added word with a sign.
            texts = tokenizer.convert_ids_to_tokens(sorted(self.control_ids))
        self._control = _alternatives(texts)

    def clean(self, text: str, limit: int) -> str:
        """Returns `text` as `clean_text` does, with the tokenizer's own control tokens broken up as well."""
        text = clean_text(text, limit)
        if self._control is None:
            return text
        for _ in range(3):  # breaking one token up may, rarely, form another
            broken = self._control.sub(lambda match: _broken(match[0]), text)
            if broken == text:
                return text
            text = cut_at_word(broken, limit)
        while self._control.search(text):
            text = self._control.sub("", text)
        return text.strip()


def _broken(token: str) -> str:
    return f"{token[0]} {token[1:]}" if len(token) > 1 else ""


def _alternatives(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern for those tokens that cleaned text can still hold; case is ignored as a normaliser might."""
    left = {token.strip() for token in tokens if not any(c in token for c in "<>")} - {""}
    if not left:
        return None
    return re.compile("|".join(re.escape(token) for token in sorted(left, key=len, reverse=True)), re.IGNORECASE)


def control_token_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that no untrusted text may emit: special tokens, and added ones that are neither space nor a plain word.

    The unknown token is left out where it is nothing else: an odd character yields it and it closes nothing. (In
    GPT-2-like tokenizers it is the end token too, and then it counts.)
    """
    special = set(tokenizer.all_special_ids)
    added = {
        index for token, index in tokenizer.get_added_vocab().items() if token.strip() and not token.strip().isalnum()
    }
    roles = ("eos", "bos", "pad", "sep", "cls", "mask")
    closing = {getattr(tokenizer, f"{role}_token_id", None) for role in roles}
    harmless = {getattr(tokenizer, "unk_token_id", None)} - closing
    return frozenset((special | added) - harmless)
