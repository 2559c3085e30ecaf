"""Checks and padding of what a catalogue is made from: ids, titles, token rows, and how its tokenizer called them.

The names are kept as a fingerprint, so that another tokenizer is noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.catalogue.texts import Texts
from llmrec.errors import CatalogueError
from llmrec.files import sha256_of

Array = npt.NDArray[np.integer]
LARGEST = np.iinfo(np.int32).max


def checked_items(item_ids: Sequence[str], titles: Sequence[str]) -> tuple[Texts, Texts]:
    """Ids and titles as columns; raises `CatalogueError` where they are none, not as many, or ids repeat."""
    if not len(item_ids):
        raise CatalogueError("The catalogue is empty; it needs at least one item.")
    if len(item_ids) != len(titles):
        raise CatalogueError(f"{len(item_ids)} item ids but {len(titles)} titles; give one title for each item.")
    ids = Texts.of(item_ids)
    twice = ids.first_repeated()
    if twice is not None:
        raise CatalogueError(f"Item id {twice!r} occurs twice in the catalogue; item ids must be unique.")
    return ids, Texts.of(titles)


def end_token_of(tokenizer: Any) -> int:
    """Id of the tokenizer's end token; raises `CatalogueError` where it has none."""
    if tokenizer.eos_token_id is None:
        raise CatalogueError(
            "The tokenizer has no end token (eos_token), so items cannot be ended; set tokenizer.eos_token."
        )
    return int(tokenizer.eos_token_id)


def padded(rows: Sequence[Sequence[int]], end: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Rows, each with `end` appended, as one matrix padded with -1, and their lengths."""
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int32, count=len(rows)) + np.int32(1)
    tokens = np.full((len(rows), int(lengths.max())), -1, dtype=np.int32)
    flat = np.fromiter((token for row in rows for token in row), dtype=np.int32, count=int(lengths.sum()) - len(rows))
    tokens[np.arange(tokens.shape[1]) < lengths[:, None] - 1] = flat
    tokens[np.arange(len(rows)), lengths - 1] = end
    return tokens, lengths


def stacked(tokens_NL: npt.NDArray[np.int32], tokens_nL: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Both matrices, one below the other, padded with -1 to the wider one's width."""
    parts, width = (tokens_NL, tokens_nL), max(tokens_NL.shape[1], tokens_nL.shape[1])
    wide = [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=-1) for part in parts]
    return np.concatenate(wide)


def ended(
    item_ids: Texts, sequences: Sequence[Sequence[int]] | Array, end: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Token rows (lists, or a matrix padded with -1) with `end` appended, checked, and their lengths.

    Raises:
        CatalogueError: not one row for each item, or a row that is empty, holds no token ids, or holds `end`.
    """
    if len(sequences) != len(item_ids):
        raise CatalogueError(f"{len(item_ids)} items but {len(sequences)} token sequences; give one for each item.")
    if not 0 <= end <= LARGEST:
        raise CatalogueError(f"{end} is no id of an end token; token ids are numbers from 0.")
    matrix, lengths = _matrix(item_ids, sequences)
    width = max(int(lengths.max(initial=0)), 0)
    inside = np.arange(width) < lengths[:, None]
    given = matrix[:, :width]
    _refuse(item_ids, (lengths == 0)[:, None], "has an empty token sequence; give it at least one token")
    wrong = inside & ((given < 0) | (given > LARGEST))
    _refuse(item_ids, wrong, "has a number in its token sequence that is no token id")
    _refuse(item_ids, inside & (given == end), f"has the end token {end} inside its token sequence")
    tokens = np.full((len(matrix), width + 1), -1, dtype=np.int32)
    tokens[:, :width] = np.where(inside, given, -1)
    tokens[np.arange(len(matrix)), lengths] = end
    return tokens, (lengths + 1).astype(np.int32)


def _matrix(item_ids: Texts, sequences: Sequence[Sequence[int]] | Array) -> tuple[Array, Array]:
    if isinstance(sequences, np.ndarray):
        if sequences.ndim != 2 or not np.issubdtype(sequences.dtype, np.integer):
            raise CatalogueError("Token sequences must be lists of integers, or a matrix of integers padded with -1.")
        there = sequences != -1
        ends: Array = np.where(there, np.arange(1, sequences.shape[1] + 1), 0).max(axis=1, initial=0)
        return sequences, ends
    lengths = np.fromiter((len(row) for row in sequences), dtype=np.int64, count=len(sequences))
    out = np.full((len(sequences), int(lengths.max(initial=0))), -1, dtype=np.int64)
    try:
        flat = np.array([token for row in sequences for token in row])
    except (ValueError, OverflowError):
        flat = np.array(["?"])
    if flat.size and not np.issubdtype(flat.dtype, np.integer):
        at = next(i for i, row in enumerate(sequences) if not all(map(_is_token, row)))
        raise CatalogueError(f"Item {item_ids[at]!r} has a number in its token sequence that is no token id.")
    out[np.arange(out.shape[1]) < lengths[:, None]] = flat
    return out, lengths


def _is_token(value: object) -> bool:
    return isinstance(value, int | np.integer) and 0 <= int(value) <= LARGEST


def _refuse(item_ids: Texts, wrong_NL: Any, what: str) -> None:
    if wrong_NL.any():
        at = int(wrong_NL.any(axis=1).argmax())
        raise CatalogueError(f"Item {item_ids[at]!r} {what}.")


@dataclass(frozen=True, eq=False)
class TokenNames:
    """A fingerprint of a tokenizer over some of its tokens.

    Attributes:
        ids_V: the V token ids it covers, ascending, int32.
        digest: SHA-256 over their vocabulary entries; empty where no tokenizer was given.
    """

    ids_V: npt.NDArray[np.int32]
    digest: str

    @classmethod
    def of(cls, tokenizer: Any, tokens_NL: npt.NDArray[np.integer]) -> TokenNames:
        """The fingerprint over all tokens of rows padded with -1.

        Raises:
            CatalogueError: a token that the tokenizer does not know.
        """
        used = used_tokens(tokens_NL)
        names = _names(tokenizer, used)
        if None in names:
            token = int(used[names.index(None)])
            item = int(np.flatnonzero((np.asarray(tokens_NL) == token).any(axis=1))[0])
            raise CatalogueError(
                f"Token {token}, in the sequence of item number {item}, is unknown to the tokenizer, which has "
                f"{len(tokenizer)} tokens; add the token to the tokenizer first."
            )
        return cls(used, _digest(names))

    def check(self, tokenizer: Any, mend: str) -> None:
        """Raises `CatalogueError`, ending with `mend`, where `tokenizer` calls a covered token otherwise."""
        if self.digest and _digest(_names(tokenizer, self.ids_V)) != self.digest:
            raise CatalogueError(f"The tokenizer has other names for the catalogue's tokens; {mend}")


NO_NAMES = TokenNames(np.zeros(0, dtype=np.int32), "")


def used_tokens(tokens_NL: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """The distinct tokens of rows padded with -1, ascending."""
    tokens = np.asarray(tokens_NL)
    used = np.zeros(int(tokens.max(initial=-1)) + 2, dtype=bool)
    used[tokens] = True  # the padding sets the last place
    return np.flatnonzero(used[:-1]).astype(np.int32)


def _names(tokenizer: Any, ids_V: npt.NDArray[np.integer]) -> list[str | None]:
    # Asking a tokenizer for ids beyond its vocabulary is an error in some and nonsense in others.
    known = int(np.searchsorted(ids_V, len(tokenizer)))
    names: list[str | None] = tokenizer.convert_ids_to_tokens(ids_V[:known].tolist())
    return [*names, *[None] * (len(ids_V) - known)]


def _digest(names: list[str | None]) -> str:
    return sha256_of(*("" if name is None else name for name in names))
