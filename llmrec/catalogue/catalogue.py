"""The catalogue: every item as one token sequence that ends with the end token."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as tensors_from_bytes
from safetensors.numpy import save as tensors_to_bytes

from llmrec.catalogue.encode import TitleEncoder
from llmrec.catalogue.index import PrefixIndex
from llmrec.errors import CatalogueError, RunError
from llmrec.files import read_json, sha256_of, write_json

TENSORS, TABLE = "catalogue.safetensors", "catalogue.json"


@dataclass(frozen=True)
class Catalogue:
    """Distinct, prefix-free token sequences of N items, in item-index order.

    Attributes:
        item_ids: the data set's item ids.
        titles: display titles; where two items encode alike, the later one carries " (2)", " (3)", ...
        tokens_NL: int32 token ids, each row ended by `end_token` and padded with -1.
        lengths_N: int64 tokens of each item, the end token counted.
        end_token: id of the token that ends every item and occurs nowhere else.
        answer_prefix: text put before a title when it is encoded (the prompt ends right before it).
        max_title_tokens: longest title in tokens, the end token not counted.
    """

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    tokens_NL: npt.NDArray[np.int32]
    lengths_N: npt.NDArray[np.int64]
    end_token: int
    answer_prefix: str = " "
    max_title_tokens: int = 24

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
        if not item_ids:
            raise CatalogueError("The catalogue is empty; it needs at least one item.")
        if len(item_ids) != len(titles):
            raise CatalogueError(f"{len(item_ids)} item ids but {len(titles)} titles; give one title for each item.")
        if len(set(item_ids)) != len(item_ids):
            twice = Counter(item_ids).most_common(1)[0][0]
            raise CatalogueError(f"Item id {twice!r} occurs twice in the catalogue; item ids must be unique.")
        encoder = TitleEncoder(tokenizer, answer_prefix, max_title_tokens)
        shown, rows = encoder.encode_distinct(item_ids, titles)
        lengths = np.array([len(row) + 1 for row in rows], dtype=np.int64)
        tokens = np.full((len(rows), int(lengths.max())), -1, dtype=np.int32)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
            tokens[i, len(row)] = encoder.end
        return cls(tuple(item_ids), tuple(shown), tokens, lengths, encoder.end, answer_prefix, max_title_tokens)

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def index(self) -> PrefixIndex:
        """The tree of all prefixes (on the CPU; `.index.to(device)` moves it)."""
        return PrefixIndex.from_tokens(self.tokens_NL, self.lengths_N)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over ids, titles and tokens."""
        tokens = np.ascontiguousarray(self.tokens_NL, dtype="<i4").tobytes()
        return sha256_of(str(self.tokens_NL.shape), tokens, *self.item_ids, *self.titles)

    def token_ids(self, item: int) -> list[int]:
        """Tokens of one item, the end token last."""
        return [int(t) for t in self.tokens_NL[item, : self.lengths_N[item]]]

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raises `CatalogueError` unless `tokenizer` has the same end token and encodes titles the same way."""
        mend = "load the tokenizer that was saved beside the catalogue, or build the catalogue anew."
        if tokenizer.eos_token_id != self.end_token:
            raise CatalogueError(
                f"The catalogue ends items with token {self.end_token}, the tokenizer's end token is "
                f"{tokenizer.eos_token_id}; {mend}"
            )
        encoder = TitleEncoder(tokenizer, self.answer_prefix, self.max_title_tokens)
        uncut = [i for i in range(min(len(self), 256)) if self.lengths_N[i] <= self.max_title_tokens]
        rows = encoder.encode([self.titles[i] for i in uncut]) if uncut else []
        for i, row in zip(uncut, rows, strict=True):
            if list(row) != self.token_ids(i)[:-1]:
                raise CatalogueError(f"The tokenizer encodes the title {self.titles[i]!r} differently; {mend}")

    def save(self, folder: Path) -> None:
        """Writes `catalogue.safetensors` and `catalogue.json` into `folder`, each atomically."""
        folder.mkdir(parents=True, exist_ok=True)
        _write_bytes(folder / TENSORS, tensors_to_bytes({"tokens_NL": self.tokens_NL, "lengths_N": self.lengths_N}))
        table = {
            "content_hash": self.content_hash,
            "end_token": self.end_token,
            "answer_prefix": self.answer_prefix,
            "max_title_tokens": self.max_title_tokens,
            "item_ids": list(self.item_ids),
            "titles": list(self.titles),
        }
        write_json(folder / TABLE, table)

    @classmethod
    def load(cls, folder: Path) -> Catalogue:
        """Reads what `save` wrote; raises `RunError` for files that are missing, broken or of another catalogue."""
        table, path = read_json(folder / TABLE), folder / TENSORS
        try:
            tensors = tensors_from_bytes(path.read_bytes())
            catalogue = cls(
                tuple(table["item_ids"]),
                tuple(table["titles"]),
                tensors["tokens_NL"],
                tensors["lengths_N"],
                int(table["end_token"]),
                str(table["answer_prefix"]),
                int(table["max_title_tokens"]),
            )
            known_hash = table["content_hash"]
        except FileNotFoundError:
            raise RunError(f"{path} does not exist; the folder holds no whole catalogue.") from None
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} or {TABLE} is not a catalogue ({error!r}); save it anew.") from None
        if catalogue.content_hash != known_hash:
            raise RunError(f"{folder / TABLE} and {TENSORS} do not belong together; save the catalogue anew.")
        return catalogue


def _write_bytes(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise
