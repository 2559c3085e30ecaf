"""Items and free texts as rows of one space, so that their inner products are cosines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from llmrec.errors import DataError
from llmrec.progress import track
from llmrec.types import Item

Encode = Callable[[Sequence[str]], npt.NDArray[np.floating]]
"""Texts to vectors, (n,) to (n, H)."""
Rows: TypeAlias = "npt.NDArray[np.float32] | sp.csr_matrix"
_TEXTS = 512


class Space(Protocol):
    """Items and texts in one space; all rows have unit length, or are zeros where there is nothing to say."""

    @property
    def rows_NV(self) -> Rows:
        """The items, in item order."""
        ...

    def encode(self, texts: Sequence[str]) -> Rows:
        """Free texts, (n, V)."""
        ...


class EncodedSpace:
    """The space of an encoder of texts.

    Args:
        texts: what there is to read about each item, in item order.
        encode: texts to vectors.
        centred: take the items' mean from everything. Mean hidden states of causal models all point one way, and
            what tells texts apart is what is left (Mu and Viswanath 2018, "All-but-the-Top"); sentence encoders are
            trained for cosines as they are.

    Raises:
        DataError: `encode` gives another number of vectors, or one that is not finite.
    """

    def __init__(self, texts: Sequence[str], encode: Encode, *, centred: bool = False) -> None:
        self._encode = encode
        raw_NV = encoded(texts, encode)
        self._mean_V = raw_NV.mean(axis=0) if centred and len(raw_NV) else np.zeros(raw_NV.shape[1], np.float32)
        self.rows_NV = self._unit(raw_NV, texts)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Free texts, (n, V); zeros for an empty one."""
        if not len(texts):
            return np.zeros((0, self.rows_NV.shape[1]), dtype=np.float32)
        return self._unit(encoded(texts, self._encode), texts)

    def _unit(self, raw_NV: npt.NDArray[np.float32], texts: Sequence[str]) -> npt.NDArray[np.float32]:
        rows_NV = raw_NV - self._mean_V
        length_N1 = np.linalg.norm(rows_NV, axis=1, keepdims=True)
        # an encoder has a vector even for nothing, which is like some items more than others
        said_N1 = np.array([[bool(text.strip())] for text in texts]) & (length_N1 > 1e-9)
        return np.where(said_N1, rows_NV / np.maximum(length_N1, 1e-9), 0.0).astype(np.float32)


def encoded(texts: Sequence[str], encode: Encode, names: Sequence[str] | None = None) -> npt.NDArray[np.float32]:
    """The vectors of `texts`, encoded by some hundreds and checked; float32 (n, H).

    Args:
        texts: at least one.
        encode: texts to vectors.
        names: what an error calls each text; by default its number, from 0.

    Raises:
        DataError: `encode` gives another number of vectors, or one that is not finite.
    """
    parts = []
    starts = range(0, len(texts), _TEXTS)
    for start in track(starts, "Embedding texts") if len(starts) > 1 else starts:
        chunk = texts[start : start + _TEXTS]
        part = np.asarray(encode(chunk), dtype=np.float32)
        if part.ndim != 2 or len(part) != len(chunk):
            raise DataError(f"The text encoder made an array of shape {part.shape} of {len(chunk)} texts.")
        bad = np.flatnonzero(~np.isfinite(part).all(1))
        if len(bad):
            row = start + int(bad[0])
            what = f"text {row}" if names is None else f"item {names[row]!r}"
            raise DataError(f"The text encoder's vector of {what} is not finite; use another model or dtype.")
        parts.append(part)
    return np.concatenate(parts) if parts else np.zeros((0, 1), dtype=np.float32)


def item_text(item: Item) -> str:
    """What there is to read about an item, in one line."""
    parts = (item.title, item.brand, ", ".join(item.categories), item.description)
    return ". ".join(part.strip() for part in parts if part.strip())
