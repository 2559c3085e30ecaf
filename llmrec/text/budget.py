"""Prompts as tokens: the frame that a model's chat template puts around a text, and how much text fits."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import jinja2

from llmrec.errors import ConfigError
from llmrec.printing import one_line
from llmrec.text.escape import control_token_ids, cut_at_word
from llmrec.text.identified import IdentifierTokens
from llmrec.text.sandbox import try_chat_template

_PROBE = "probe"
T = TypeVar("T")


class PromptEncoder:
    """Turns a text into prompt tokens as the model expects them.

    For a chat model the text is the user's turn of the tokenizer's own chat template, generation prompt included;
    the template is rendered once and its two halves are kept. For a base model the text stays plain, after the BOS
    token where the tokenizer itself adds one; an end token that it adds is left out, as an answer follows.

    Args:
        tokenizer: a Hugging Face tokenizer.
        chat: force or forbid the chat template; by default it is used where the tokenizer has one.
        identifiers: the trusted identifier of each item, for the marks of `identified.mark` in a text.
    """

    def __init__(self, tokenizer: Any, chat: bool | None = None, identifiers: Sequence[str] | None = None) -> None:
        self.tokenizer = tokenizer
        self.chat = bool(getattr(tokenizer, "chat_template", None)) if chat is None else chat
        self.control_ids = control_token_ids(tokenizer)
        self.before, self.after = self._chat_frame() if self.chat else ("", "")
        self.lead_ids = [] if self.chat else self._lead_ids()
        self.identifiers = IdentifierTokens(identifiers or (), tokenizer, self.control_ids)
        frame = self._controls(self.encode_unchecked([_PROBE])[0])
        head = len(self._controls(self.lead_ids + self._tokenise([self.before])[0]))
        self._frame = frame[:head], frame[head:]

    def wrap(self, text: str) -> str:
        """The full prompt string around `text`, identifiers spelled out."""
        return self.before + self.identifiers.expand(text) + self.after

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of the wrapped texts.

        The control tokens of a prompt are exactly those of its frame with the identifiers that the text marks between
        them; no text adds one, whatever it says.
        """
        ids = self.encode_unchecked(texts)
        (before, after), marked = self._frame, self.identifiers.expected
        for row, prompt in enumerate(ids):
            # Counted, not searched for: whatever a tokenizer makes of a text, a prompt with the frame's control
            # tokens and no others cannot close a turn.
            if self._controls(prompt) != [*before, *marked(texts[row]), *after]:
                ids[row] = self._encode_apart(texts[row])
        return ids

    def encode_unchecked(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of the wrapped texts as the tokenizer gives them."""
        return [self.lead_ids + ids for ids in self._tokenise([self.wrap(text) for text in texts])]

    def count(self, text: str) -> int:
        """Number of tokens of a bare text."""
        return self.counts([text])[0]

    def counts(self, texts: Sequence[str]) -> list[int]:
        """`count` of many texts, many times faster than one by one."""
        return list(map(len, self._tokenise([self.identifiers.expand(text) for text in texts])))

    def _encode_apart(self, text: str) -> list[int]:
        """The frame and the text tokenised apart, the text with its special tokens split and the rest removed."""
        before, after = self._tokenise([self.before, self.after]) if self.chat else ([], [])
        ids = self.lead_ids + before
        for piece in self.identifiers.pieces(text):
            ids += self._harmless(piece) if isinstance(piece, str) else piece
        return ids + after

    def _harmless(self, text: str) -> list[int]:
        # Some tokenizers split special tokens on request, others still emit them; those are taken out.
        ids = self._tokenise([text], split_special_tokens=True)[0]
        return [i for i in ids if i not in self.control_ids]

    def _tokenise(self, texts: list[str], **options: Any) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False, **options
        )
        return list(encoded["input_ids"])

    def _controls(self, ids: list[int]) -> list[int]:
        return list(filter(self.control_ids.__contains__, ids))

    def _chat_frame(self) -> tuple[str, str]:
        turns = [{"role": "user", "content": _PROBE}]
        # enable_thinking: templates in the manner of Qwen3 then close the empty thought themselves
        how = {"add_generation_prompt": True, "enable_thinking": False}
        try:
            source, tokens = self.tokenizer.get_chat_template(), self.tokenizer.special_tokens_map
            try_chat_template(source, messages=turns, tools=None, documents=None, **{**tokens, **how})
            # Only after a trial within bounds: a template comes with a stranger's model.
            prompt = self.tokenizer.apply_chat_template(turns, tokenize=False, **how)
        except (jinja2.TemplateError, TypeError, LookupError, ValueError, ArithmeticError, RecursionError) as error:
            raise ConfigError(
                f"The tokenizer's chat template cannot be rendered: {one_line(error, 200)}; use another template."
            ) from None
        before, found, after = prompt.rpartition(_PROBE)
        if not found:
            raise ConfigError("The tokenizer's chat template leaves the user's text out; use another template.")
        return before, after

    def _lead_ids(self) -> list[int]:
        plain = self._tokenise([_PROBE])[0]
        marked = list(self.tokenizer(_PROBE, return_attention_mask=False)["input_ids"])
        # What a tokenizer puts before a text of its own accord is found by where the plain text begins in it.
        for start in range(len(marked) - len(plain) + 1):
            if marked[start : start + len(plain)] == plain:
                return marked[:start]
        return []


class Fit:
    """Searches the largest number of parts whose prompt fits `room` tokens, where the first parts are given up first.

    `costs` (tokens of each part, in that order) only steer the search; what fits is measured. Use: encode the prompt
    with the last `guess` parts, call `measured`, repeat until `done`; `best` is the answer (-1: not even none fits).
    """

    def __init__(self, costs: Sequence[int], base: int, room: int) -> None:
        # Running costs from the last part back, so that "how many fit" is a binary search.
        self._total = [0]
        for cost in reversed(costs):
            self._total.append(self._total[-1] + cost)
        self.room, self.best, self._fails = room, -1, len(costs) + 1
        self.guess = self._within(room - base)
        self.done = False

    def measured(self, tokens: int) -> None:
        """Takes the length of the prompt with the last `guess` parts and moves `guess` on."""
        if tokens <= self.room:
            self.best = self.guess
        else:
            self._fails = self.guess
        # The measured length corrects the estimate, so the next guess is off only by what the parts in between are
        # misjudged.
        free = self._total[self.guess] + self.room - tokens
        # Between the best that fitted and the least that did not, so the search ends.
        self.guess = min(max(self._within(free), self.best), self._fails - 1)
        self.done = self.guess == self.best

    def _within(self, tokens: int) -> int:
        """How many of the last parts cost at most `tokens` together."""
        return max(0, bisect.bisect_right(self._total, tokens) - 1)


def longest_that_fits(text: str, fits: Callable[[str], bool]) -> str | None:
    """The longest beginning of `text`, cut at a word, for which `fits` holds; None where not even "" does."""
    if fits(text):
        return text
    if not fits(""):
        return None
    low, high = 0, len(text)  # the beginning of length low fits, that of length high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(cut_at_word(text, middle)) else (low, middle)
    return cut_at_word(text, low)


def longest_that_fit(texts: Sequence[str], measure: Callable[[list[str]], Sequence[int]], room: int) -> list[str]:
    """The longest beginning of each text, cut at a word, of at most `room` tokens; "" where there is none.

    What `longest_that_fits` finds text by text, with all open searches measured together.

    Args:
        texts: whole texts.
        measure: texts to their numbers of tokens.
        room: tokens that fit.
    """
    lengths = list(measure(list(texts)))
    best = [text if tokens <= room else "" for text, tokens in zip(texts, lengths, strict=True)]
    searches = {
        row: _Cut(0, 0, len(text), tokens)
        for row, (text, tokens) in enumerate(zip(texts, lengths, strict=True))
        if tokens > room
    }
    turn = 0
    while searches := {row: search for row, search in searches.items() if search.high - search.low > 1}:
        guesses = [search.guess(room, turn) for search in searches.values()]
        parts = [cut_at_word(texts[row], at) for row, at in zip(searches, guesses, strict=True)]
        for row, at, part, tokens in zip(searches, guesses, parts, measure(parts), strict=True):
            search = searches[row]
            # A cut at a word is the same for many lengths in a row, and what is known of one is known of them all.
            search.fitted = tokens <= room
            if search.fitted:
                while at + 1 < search.high and cut_at_word(texts[row], at + 1) == part:
                    at += 1
                best[row], search.low, search.least = part, at, tokens
            else:
                search.high, search.most = max(search.low + 1, min(at, len(part))), tokens
        turn += 1
    return best


@dataclass(slots=True)
class _Cut:
    """A search for where to cut: a length in characters that fits, its tokens, one that does not, its tokens."""

    low: int
    least: int
    high: int
    most: int
    fitted: bool = False
    """Whether what was measured last did."""

    def guess(self, room: int, turn: int) -> int:
        """A length in between: where `room` lies in proportion, beside what was measured last, or the middle.

        Proportion comes near, its neighbour mostly proves it, and halves end the search in any case.
        """
        width = self.high - self.low
        if turn % 3 == 1:
            return self.low + 1 if self.fitted else self.high - 1
        share = (room - self.least) / max(self.most - self.least, 1) if turn % 3 == 0 else 0.5
        return min(max(self.low + round(share * width), self.low + 1), self.high - 1)


def chunks(values: Sequence[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of at most `size` values."""
    iterator = iter(values)
    while chunk := list(islice(iterator, size)):
        yield chunk
