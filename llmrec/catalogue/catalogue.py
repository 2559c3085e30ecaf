"""The catalogue: every item as one token sequence that ends with the end token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from llmrec.catalogue.build import SameTokens
from llmrec.catalogue.encode import TitleEncoder, display_title
from llmrec.catalogue.index import PrefixIndex
from llmrec.catalogue.rows import NO_NAMES, TokenNames, checked_items, end_token_of, ended, padded, stacked
from llmrec.catalogue.store import (
    FACTS,
    StoredParts,
    arrays_of,
    index_from,
    read_parts,
    sha256_of_arrays,
    tensor_hash,
    tensors_of,
    write_parts,
)
from llmrec.catalogue.texts import Texts
from llmrec.catalogue.update import find, with_rows, without_items
from llmrec.errors import CatalogueError, RunError
from llmrec.types import FloatArray

TITLE, INDEX = "title", "index."
VERIFIED_ITEMS = 50_000
"""Up to so many items, loading recomputes all hashes."""
CHECKED_TITLES = 256
"""Titles that `check_tokenizer` encodes again."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Distinct, prefix-free token sequences of N items, in item-index order.

    Attributes:
        item_ids: the data set's item ids.
        titles: display titles; under the title scheme, where two items encode alike, the later one carries " (2)",
            " (3)", ...
        tokens_NL: int32 token ids, each row ended by `end_token` and padded with -1.
        lengths_N: int32 tokens of each item, the end token counted.
        end_token: id of the token that ends every item and occurs nowhere else.
        answer_prefix: text put before a title when it is encoded (the prompt ends right before it).
        max_title_tokens: longest sequence in tokens, the end token not counted.
        scheme: where the sequences come from: "title" (the title's own tokens), or the name of another scheme.
        token_names: how the tokenizer called the tokens.
    """

    item_ids: Texts
    titles: Texts
    tokens_NL: npt.NDArray[np.int32]
    lengths_N: npt.NDArray[np.int32]
    end_token: int
    answer_prefix: str = " "
    max_title_tokens: int = 24
    scheme: str = TITLE
    token_names: TokenNames = NO_NAMES

    @classmethod
    def from_titles(
        cls,
        item_ids: Sequence[str],
        titles: Sequence[str],
        tokenizer: Any,
        *,
        answer_prefix: str = " ",
        max_title_tokens: int = 24,
    ) -> Catalogue:
        """Encodes titles with `tokenizer` (a Hugging Face tokenizer).

        Raises:
            CatalogueError: no item, two equal item ids, an empty title, or a tokenizer without an end token.
        """
        ids, _ = checked_items(item_ids, titles)
        encoder = TitleEncoder(tokenizer, answer_prefix, max_title_tokens)
        shown, rows = encoder.encode_distinct(item_ids, titles)
        tokens, lengths = padded(rows, encoder.end)
        names = TokenNames.of(tokenizer, tokens)
        return cls(ids, Texts.of(shown), tokens, lengths, encoder.end, answer_prefix, max_title_tokens, TITLE, names)

    @classmethod
    def from_sequences(
        cls,
        item_ids: Sequence[str],
        titles: Sequence[str],
        sequences: Sequence[Sequence[int]] | npt.NDArray[np.integer],
        tokenizer_or_end_token: Any,
        *,
        scheme: str,
    ) -> Catalogue:
        """Takes token sequences as they are (semantic ids, atomic ids); the end token is appended to each.

        Args:
            item_ids: distinct ids, N.
            titles: titles to display, N; they need not be distinct.
            sequences: token ids without end token: N lists of integers, or an (N, L) array padded with -1.
            tokenizer_or_end_token: the tokenizer, whose names of the tokens are kept for `check_tokenizer`; or the
                id of the end token alone.
            scheme: name of the scheme, any but "title".

        Raises:
            CatalogueError: no item, equal ids, two items with equal tokens, an empty sequence, or a token id that is
                negative, the end token, or unknown to the tokenizer.
        """
        if scheme == TITLE:
            raise CatalogueError('The scheme "title" encodes titles itself; use Catalogue.from_titles.')
        ids, shown = checked_items(item_ids, [display_title(title) for title in titles])
        tokenizer = None if isinstance(tokenizer_or_end_token, int | np.integer) else tokenizer_or_end_token
        end = end_token_of(tokenizer) if tokenizer is not None else int(tokenizer_or_end_token)
        tokens, lengths = ended(ids, sequences, end)
        names = NO_NAMES if tokenizer is None else TokenNames.of(tokenizer, tokens)
        catalogue = cls(ids, shown, tokens, lengths, end, "", int(lengths.max()) - 1, scheme, names)
        _ = catalogue.index  # equal sequences are found here
        return catalogue

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def index(self) -> PrefixIndex:
        """The tree of all prefixes (on the CPU; `.index.to(device)` moves it)."""
        try:
            return PrefixIndex.from_tokens(self.tokens_NL, self.lengths_N)
        except SameTokens as clash:
            raise clash.naming(self.item_ids) from None

    def tilted(self, power: float, worth_N: FloatArray, mean_N: FloatArray) -> Catalogue:
        """The same items, chosen by pi^power exp(worth) in the place of pi (see `PrefixIndex.tilted`).

        What is written of it is written without.
        """
        made = replace(self)
        vars(made)["index"] = self.index.tilted(power, worth_N, mean_N)
        return made

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over scheme, end token, ids, titles and tokens (of a loaded catalogue: as its files state it)."""
        return self._content_digest()

    @cached_property
    def index_hash(self) -> str:
        """SHA-256 over the index (of a loaded catalogue: as its files state it)."""
        return tensor_hash(tensors_of(self.index, INDEX))

    def _content_digest(self) -> str:
        facts = f"{self.scheme}\n{self.end_token}\n{self.tokens_NL.shape}\n{self.answer_prefix}"
        tokens = np.ascontiguousarray(self.tokens_NL, dtype="<i4")
        return sha256_of_arrays(facts, tokens, *self.item_ids.buffers(), *self.titles.buffers())

    def token_ids(self, item: int) -> list[int]:
        """Tokens of one item, the end token last."""
        return [int(t) for t in self.tokens_NL[item, : self.lengths_N[item]]]

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raises `CatalogueError` unless `tokenizer` means the same by the catalogue's tokens.

        It must have the same end token and know all tokens by the names they had; under the title scheme it must
        also encode titles the same way (a sample is tried).
        """
        mend = "load the tokenizer that was saved beside the catalogue, or build the catalogue anew."
        if tokenizer.eos_token_id != self.end_token:
            raise CatalogueError(
                f"The catalogue ends items with token {self.end_token}, the tokenizer's end token is "
                f"{tokenizer.eos_token_id}; {mend}"
            )
        if self.scheme == TITLE:
            self._check_titles(tokenizer, mend)
        largest = self.largest_token
        if largest >= len(tokenizer):
            raise CatalogueError(
                f"The catalogue uses token {largest}, the tokenizer knows {len(tokenizer)} tokens only; {mend}"
            )
        self.token_names.check(tokenizer, mend)

    @cached_property
    def largest_token(self) -> int:
        """The largest token id in use."""
        return int(self.index.token_M.max())

    def _check_titles(self, tokenizer: Any, mend: str) -> None:
        encoder = TitleEncoder(tokenizer, self.answer_prefix, self.max_title_tokens)
        # A cut title's tokens are not those of its text, so only whole ones can be compared.
        uncut = [i for i in range(min(len(self), CHECKED_TITLES)) if self.lengths_N[i] <= self.max_title_tokens]
        rows = encoder.encode([self.titles[i] for i in uncut]) if uncut else []
        for i, row in zip(uncut, rows, strict=True):
            if list(row) != self.token_ids(i)[:-1]:
                raise CatalogueError(f"The tokenizer encodes the title {self.titles[i]!r} differently; {mend}")

    def added(self, item_ids: Sequence[str], titles: Sequence[str], tokenizer: Any) -> Catalogue:
        """The catalogue with new items behind the old ones, which keep their tokens and titles (title scheme).

        Args:
            item_ids: new ids.
            titles: their titles; where one encodes like an item's that is there, it carries " (2)", " (3)", ...
            tokenizer: the catalogue's own.

        Raises:
            CatalogueError: an id that repeats or is there already, an empty title, another scheme or tokenizer.
        """
        if self.scheme != TITLE:
            raise CatalogueError(f"Items of the scheme {self.scheme!r} are added by their tokens: with_sequences.")
        self.check_tokenizer(tokenizer)
        if not len(item_ids) + len(titles):
            return self
        ids, _ = self._new_items(item_ids, titles)
        encoder = TitleEncoder(tokenizer, self.answer_prefix, self.max_title_tokens)
        shown, rows = encoder.encode_distinct(item_ids, titles, self._taken)
        tokens, lengths = padded(rows, self.end_token)
        return self._grown(ids, Texts.of(shown), tokens, lengths, tokenizer)

    def with_sequences(
        self,
        item_ids: Sequence[str],
        titles: Sequence[str],
        sequences: Sequence[Sequence[int]] | npt.NDArray[np.integer],
        tokenizer: Any = None,
    ) -> Catalogue:
        """The catalogue with new items of given token sequences behind the old ones (any scheme but "title").

        Args:
            item_ids: new ids.
            titles: titles to display.
            sequences: as in `from_sequences`.
            tokenizer: where given, it is checked, and `check_tokenizer` covers the new tokens too from now on.

        Raises:
            CatalogueError: an id that repeats or is there already, a sequence that is there already or is no sequence
                of tokens, the title scheme, or another tokenizer.
        """
        if self.scheme == TITLE:
            raise CatalogueError('The scheme "title" encodes titles itself; use added.')
        if tokenizer is not None:
            self.check_tokenizer(tokenizer)
        if not len(item_ids) + len(titles) + len(sequences):
            return self
        ids, shown = self._new_items(item_ids, [display_title(title) for title in titles])
        return self._grown(ids, shown, *ended(ids, sequences, self.end_token), tokenizer)

    def removed(self, item_ids: Sequence[str]) -> Catalogue:
        """The catalogue without some items; the others keep tokens, titles and order.

        Raises:
            CatalogueError: an id that is unknown or given twice, or no item would be left.
        """
        if not len(item_ids):
            return self
        gone = Texts.of(item_ids)
        twice, places = gone.first_repeated(), self.item_ids.places(gone)
        if twice is not None:
            raise CatalogueError(f"Item id {twice!r} is to be removed twice; give each id once.")
        if (places < 0).any():
            unknown = gone[int((places < 0).argmax())]
            raise CatalogueError(f"Item {unknown!r} cannot be removed: the catalogue has no such item.")
        if len(places) == len(self):
            raise CatalogueError("All items would be removed; a catalogue needs at least one.")
        kept = np.delete(np.arange(len(self)), places)
        lengths = self.lengths_N[kept]
        return self._changed(
            self.item_ids.take(kept),
            self.titles.take(kept),
            self.tokens_NL[kept, : int(lengths.max())],
            lengths,
            without_items(arrays_of(self.index), places),
            self.token_names,
        )

    def _new_items(self, item_ids: Sequence[str], titles: Sequence[str]) -> tuple[Texts, Texts]:
        ids, shown = checked_items(item_ids, titles)
        known = self.item_ids.places(ids) >= 0
        if known.any():
            raise CatalogueError(
                f"Item {ids[int(known.argmax())]!r} is in the catalogue already; give new items ids of their own."
            )
        return ids, shown

    def _taken(self, rows: Sequence[Sequence[int]]) -> list[bool]:
        tokens, lengths = padded(rows, self.end_token)
        _, depth, _ = find(arrays_of(self.index), tokens, lengths)
        return [bool(known) for known in depth == lengths]

    def _grown(
        self,
        ids: Texts,
        shown: Texts,
        tokens: npt.NDArray[np.int32],
        lengths: npt.NDArray[np.int32],
        tokenizer: Any,
    ) -> Catalogue:
        item_ids = self.item_ids.joined(ids)
        try:
            arrays = with_rows(arrays_of(self.index), tokens, lengths)
        except SameTokens as clash:
            raise clash.naming(item_ids) from None
        # Old rows stay as they are and where they are: item indices in stored data go on meaning the same.
        both = stacked(self.tokens_NL, tokens)
        names = self.token_names if tokenizer is None else TokenNames.of(tokenizer, both)
        lengths_N = np.append(self.lengths_N, lengths)
        return self._changed(item_ids, self.titles.joined(shown), both, lengths_N, arrays, names)

    def _changed(
        self,
        item_ids: Texts,
        titles: Texts,
        tokens_NL: npt.NDArray[np.int32],
        lengths_N: npt.NDArray[np.int32],
        arrays: Mapping[str, npt.NDArray[np.integer]],
        names: TokenNames,
    ) -> Catalogue:
        longest = self.max_title_tokens if self.scheme == TITLE else tokens_NL.shape[1] - 1
        catalogue = replace(
            self,
            item_ids=item_ids,
            titles=titles,
            tokens_NL=tokens_NL,
            lengths_N=lengths_N,
            max_title_tokens=longest,
            token_names=names,
        )
        catalogue.__dict__["index"] = PrefixIndex.of_arrays(arrays)  # where cached_property looks first
        return catalogue

    def save(self, folder: Path) -> None:
        """Writes the catalogue and its index into `folder`: three files, each atomically (see `store`)."""
        write_parts(folder, self._parts())

    def _parts(self) -> StoredParts:
        facts = {
            "content_hash": self.content_hash,
            "index_hash": self.index_hash,
            "scheme": self.scheme,
            "end_token": self.end_token,
            "answer_prefix": self.answer_prefix,
            "max_title_tokens": self.max_title_tokens,
            "token_names": self.token_names.digest,
            "items": len(self),
            "nodes": self.index.n_nodes,
        }
        own = {"tokens_NL": self.tokens_NL, "lengths_N": self.lengths_N, "named_V": self.token_names.ids_V}
        tensors = {name: torch.from_numpy(value) for name, value in own.items()} | tensors_of(self.index, INDEX)
        return StoredParts(facts, tensors, {"item_ids": self.item_ids, "titles": self.titles})

    @classmethod
    def load(cls, folder: Path) -> Catalogue:
        """Opens what `save` wrote; tokens, index, ids and titles stay in their files until they are used.

        Raises:
            RunError: files that are missing, broken or of different catalogues. A small catalogue is verified in
                full, a large one by `verify`.
        """
        parts = read_parts(folder)
        try:
            catalogue = _from_parts(parts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(
                f"{folder / FACTS} and its tensors are no whole catalogue ({error!r}); save it anew."
            ) from None
        if len(catalogue) <= VERIFIED_ITEMS:
            catalogue.verify()
        return catalogue

    def verify(self) -> None:
        """Recomputes the hashes of a loaded catalogue from all that it holds.

        Raises:
            RunError: ids, titles, tokens or index are not those that were saved.
        """
        for texts in (self.item_ids, self.titles):
            texts.verify()
        if self._content_digest() != self.content_hash:
            raise RunError("The catalogue's ids, titles or tokens are not those that were saved; save it anew.")
        if tensor_hash(tensors_of(self.index, INDEX)) != self.index_hash:
            raise RunError("The catalogue's index is not the one that was saved; save the catalogue anew.")


def _from_parts(parts: StoredParts) -> Catalogue:
    facts, tensors = parts.facts, parts.tensors
    index = index_from(tensors, INDEX)
    catalogue = Catalogue(
        parts.texts["item_ids"],
        parts.texts["titles"],
        tensors["tokens_NL"].numpy(),
        tensors["lengths_N"].numpy(),
        int(facts["end_token"]),
        str(facts["answer_prefix"]),
        int(facts["max_title_tokens"]),
        str(facts["scheme"]),
        TokenNames(tensors["named_V"].numpy(), str(facts["token_names"])),
    )
    sizes = {
        len(catalogue.item_ids),
        len(catalogue.titles),
        len(catalogue.tokens_NL),
        len(catalogue.lengths_N),
        index.n_items,
        int(facts["items"]),
    }
    if len(sizes) > 1 or index.n_nodes != int(facts["nodes"]):
        raise ValueError(f"parts of different sizes: {sorted(sizes)}")
    known = {"index": index, "content_hash": str(facts["content_hash"]), "index_hash": str(facts["index_hash"])}
    catalogue.__dict__.update(known)  # where cached_property looks first
    return catalogue
