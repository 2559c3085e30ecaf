"""Identifiers of items in words of their own: codes of a quantised vector, or one word an item.

A semantic identifier (Rajput et al. 2023) is L words, one a level: `<a_17><b_203><c_5>`. Items whose codes are all
equal are told apart by one more word, `<d_1>`, `<d_2>`, ...: the first of them in item order has none, since the end
token that follows already tells it from the others. An atomic identifier is one word, `<item_42>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from llmrec.catalogue.identifiers.quantise import Quantised, Vectors, nearest_codes, reconstructed
from llmrec.errors import CatalogueError, RunError
from llmrec.files import new_folder, read_json, sha256_of, write_json

TABLE, TENSORS = "identifiers.json", "identifiers.safetensors"
RESERVE = 16
"""Tie words beyond those that the first items need."""
_NO_BOOKS = np.zeros((0, 0, 0), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Identifiers:
    """What each of N items is called; distinct items have distinct identifiers.

    Attributes:
        scheme: semantic or atomic.
        words: the texts of all new tokens; semantic: level by level, tie words last.
        codes_NL: int32 indices into `words`, padded with -1.
        codebooks_LKD: centres of each level (semantic), else of shape (0, 0, 0).
    """

    scheme: Literal["semantic", "atomic"]
    words: tuple[str, ...]
    codes_NL: npt.NDArray[np.int32]
    codebooks_LKD: Vectors

    def __len__(self) -> int:
        return len(self.codes_NL)

    @property
    def levels(self) -> int:
        """Words before the tie word."""
        return len(self.codebooks_LKD) or 1

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over scheme, words, codes and codebooks."""
        codes = np.ascontiguousarray(self.codes_NL, dtype="<i4").tobytes()
        books = np.ascontiguousarray(self.codebooks_LKD, dtype="<f4").tobytes()
        shapes = f"{self.scheme} {self.codes_NL.shape} {self.codebooks_LKD.shape}"
        return sha256_of(shapes, codes, books, *self.words)

    def text(self, item: int) -> str:
        """The identifier of one item as it stands in a prompt."""
        return "".join(self.words[code] for code in self.codes_NL[item] if code >= 0)

    def texts(self) -> list[str]:
        """The identifiers of all items."""
        return [self.text(item) for item in range(len(self))]

    def tokens(self, tokenizer: Any) -> npt.NDArray[np.int64]:
        """Token ids (N, L), padded with -1, without the end token.

        Raises:
            CatalogueError: a word that is not one token of `tokenizer`.
        """
        ids = tokenizer.convert_tokens_to_ids(list(self.words))
        strange = [word for word, i in zip(self.words, ids, strict=True) if i is None or i == tokenizer.unk_token_id]
        if strange:
            raise CatalogueError(
                f"The tokenizer does not know {len(strange)} words of the identifiers, {strange[0]!r} among them; "
                "add them to it or load the one that was saved beside the model."
            )
        table = np.append(np.asarray(ids, dtype=np.int64), -1)  # the padding, -1, finds the last place
        out: npt.NDArray[np.int64] = table[self.codes_NL]
        return out

    def sequences(self, tokenizer: Any) -> list[list[int]]:
        """Token ids of each item, without the end token."""
        return [[int(t) for t in row if t >= 0] for row in self.tokens(tokenizer)]

    def vectors(self) -> Vectors:
        """What the codes stand for, (N, D); semantic identifiers only."""
        return reconstructed(self._level_codes(), self.codebooks_LKD)

    def removed(self, kept_n: npt.NDArray[np.integer]) -> Identifiers:
        """The identifiers of the items `kept_n` (rising item indices), unchanged; all words stay."""
        codes_NL = self.codes_NL[kept_n]
        # Without a tie word left the column is empty and goes, so that sequences are as short as those of a fresh
        # build.
        tied = codes_NL.shape[1] > self.levels and bool((codes_NL[:, self.levels :] >= 0).any())
        return replace(self, codes_NL=codes_NL if tied else np.ascontiguousarray(codes_NL[:, : self.levels]))

    def added(self, vectors_MD: Vectors) -> Identifiers:
        """These identifiers and those of M new items behind them; no existing one changes.

        Of the items with equal codes a new one gets the first tie word that none has, or no word where that is free.

        Args:
            vectors_MD: vectors of the new items, in the space that the codebooks were made in.

        Raises:
            CatalogueError: atomic identifiers, vectors of another width, or too few tie words.
        """
        if self.scheme == "atomic":
            raise CatalogueError(
                "A new item needs a new word under the atomic scheme, and a model that is trained on it; train anew, "
                "or use semantic identifiers or titles."
            )
        width = self.codebooks_LKD.shape[2]
        if vectors_MD.ndim != 2 or vectors_MD.shape[1] != width or not np.isfinite(vectors_MD).all():
            raise CatalogueError(
                f"New items need finite vectors of {width} numbers, not an array of shape {vectors_MD.shape}."
            )
        new = nearest_codes(np.asarray(vectors_MD, dtype=np.float32), self.codebooks_LKD)
        offset = self.codebooks_LKD.shape[1] * np.arange(self.levels)
        codes_NL = np.concatenate([self._level_codes(), new])
        spare = len(self.words) - self.levels * self.codebooks_LKD.shape[1]
        # Ranks that were freed by removed items are used again: tie words are few.
        rank_N = np.append(self._ranks(), free_ranks(codes_NL, self._ranks()))
        if rank_N.max() > spare:
            item = int(np.flatnonzero(rank_N > spare)[0]) - len(self)
            raise CatalogueError(
                f"New item number {item} shares its codes with {spare + 1} others and all {spare} tie words are "
                "taken; make the identifiers anew and train on them."
            )
        return replace(self, codes_NL=_with_ties(codes_NL + offset, rank_N, len(self.words) - spare))

    def save(self, folder: Path) -> None:
        """Writes `folder` (the old one goes): the words as JSON, codes and codebooks as safetensors."""
        with new_folder(folder, mark=TABLE) as place:
            arrays = {"codes_NL": self.codes_NL, "codebooks_LKD": self.codebooks_LKD}
            # safetensors writes memory as it lies, whatever its order
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, place / TENSORS)
            facts = {"scheme": self.scheme, "content_hash": self.content_hash, "words": list(self.words)}
            write_json(place / TABLE, facts)

    @classmethod
    def load(cls, folder: Path) -> Identifiers:
        """Reads what `save` wrote; raises `RunError` for files that are missing, broken or of different makes."""
        facts, path = read_json(folder / TABLE), folder / TENSORS
        try:
            tensors = load_file(path)
            words = tuple(map(str, facts["words"]))
            identifiers = cls(facts["scheme"], words, tensors["codes_NL"], tensors["codebooks_LKD"])
            known_hash = facts["content_hash"]
        except FileNotFoundError:
            raise RunError(f"{path} does not exist; the folder holds no whole identifiers.") from None
        except (SafetensorError, KeyError, TypeError, OSError) as error:
            raise RunError(f"{path} or {TABLE} holds no identifiers ({error!r}); save them anew.") from None
        if identifiers.content_hash != known_hash:
            raise RunError(f"{folder / TABLE} and {TENSORS} do not belong together; save the identifiers anew.")
        return identifiers

    def _level_codes(self) -> npt.NDArray[np.int32]:
        """Codes within each level's codebook, (N, L)."""
        offset = self.codebooks_LKD.shape[1] * np.arange(self.levels)
        codes_NL: npt.NDArray[np.int32] = (self.codes_NL[:, : self.levels] - offset).astype(np.int32)
        return codes_NL

    def _ranks(self) -> npt.NDArray[np.int64]:
        """The number of each item's tie word, counted from 1; 0 where it has none."""
        if self.codes_NL.shape[1] == self.levels:
            return np.zeros(len(self), dtype=np.int64)
        first = self.levels * self.codebooks_LKD.shape[1]
        tie_N = self.codes_NL[:, self.levels].astype(np.int64)
        return np.where(tie_N >= 0, tie_N - first + 1, 0)


def semantic(quantised: Quantised) -> Identifiers:
    """Semantic identifiers of items that were quantised together.

    Raises:
        CatalogueError: more than 25 levels (they are lettered).
    """
    levels, codes, _ = quantised.codebooks_LKD.shape
    if levels > 25:
        raise CatalogueError(f"{levels} levels cannot be lettered; use at most 25.")
    rank_N = rank_in_group(quantised.codes_NL)
    ties = int(rank_N.max()) + RESERVE
    words = [f"<{_letter(level)}_{code}>" for level in range(levels) for code in range(codes)]
    words += [f"<{_letter(levels)}_{tie}>" for tie in range(1, ties + 1)]
    codes_NL = quantised.codes_NL + codes * np.arange(levels)
    return Identifiers(
        "semantic", tuple(words), _with_ties(codes_NL, rank_N, levels * codes), quantised.codebooks_LKD
    )


def atomic(n_items: int) -> Identifiers:
    """One word an item."""
    codes_NL = np.arange(n_items, dtype=np.int32)[:, None]
    return Identifiers("atomic", tuple(f"<item_{i}>" for i in range(n_items)), codes_NL, _NO_BOOKS)


def rank_in_group(codes_NL: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """How many earlier rows equal each row, (N,)."""
    _, group_N = np.unique(codes_NL, axis=0, return_inverse=True)
    group_N = group_N.reshape(-1)
    order = np.argsort(group_N, kind="stable")
    grouped = group_N[order]
    rank_N = np.zeros(len(group_N), dtype=np.int64)
    rank_N[order] = np.arange(len(grouped)) - np.searchsorted(grouped, grouped, side="left")
    return rank_N


def free_ranks(codes_NL: npt.NDArray[np.integer], rank_n: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """For each row behind the first n, in order, the least rank that no row of equal codes has; `rank_n` stay."""
    _, group_N = np.unique(codes_NL, axis=0, return_inverse=True)
    old_n, new_M = np.split(group_N.reshape(-1), [len(rank_n)])
    taken: dict[int, set[int]] = {group: set() for group in new_M.tolist()}
    for row in np.flatnonzero(np.isin(old_n, new_M)).tolist():
        taken[int(old_n[row])].add(int(rank_n[row]))
    next_free = dict.fromkeys(taken, 0)
    out = np.zeros(len(new_M), dtype=np.int64)
    for m, group in enumerate(new_M.tolist()):
        while next_free[group] in taken[group]:
            next_free[group] += 1
        out[m] = next_free[group]
        next_free[group] += 1
    return out


def _with_ties(
    codes_NL: npt.NDArray[np.integer], rank_N: npt.NDArray[np.integer], first: int
) -> npt.NDArray[np.int32]:
    """Codes with the tie word of each later holder, which are the words from `first` on, as a last column."""
    if not rank_N.any():
        return codes_NL.astype(np.int32)
    tie_N = np.where(rank_N > 0, first + rank_N - 1, -1)
    return np.column_stack([codes_NL, tie_N]).astype(np.int32)


def _letter(level: int) -> str:
    return chr(ord("a") + level)


def word_members(identifiers: Identifiers, most: int) -> list[list[int]]:
    """For each word, the first `most` items that carry it."""
    members: list[list[int]] = [[] for _ in identifiers.words]
    for item, row in enumerate(identifiers.codes_NL.tolist()):
        for code in row:
            if code >= 0 and len(members[code]) < most:
                members[code].append(item)
    return members


def described(identifiers: Identifiers, titles: Sequence[str], tokenizer: Any, *, most: int = 64) -> list[list[int]]:
    """For each word, the tokens of the titles of (at most `most`) items that carry it, for its row to start from."""
    rows = tokenizer(list(titles), add_special_tokens=False)["input_ids"]
    return [[int(t) for item in items for t in rows[item]] for items in word_members(identifiers, most)]
