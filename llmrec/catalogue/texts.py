"""A column of strings that may stay in its file: a million item ids or titles without a million Python objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.errors import CatalogueError, RunError

ITERATED = 65_536
"""Strings made at a time by an iteration."""


class Texts(Sequence[str]):
    """A read-only sequence of strings over one Arrow array; equal to any tuple, list or `Texts` of the same strings.

    Attributes:
        array: the Arrow array (large_string), in memory or mapped from a file.
    """

    def __init__(self, array: Any) -> None:
        self.array = array

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        """`texts` as an Arrow array; raises `CatalogueError` for text that cannot be written as UTF-8."""
        if isinstance(texts, Texts):
            return texts
        try:
            return cls(pa.array(list(texts), pa.large_string()))
        except (UnicodeEncodeError, pa.ArrowException, TypeError) as error:
            raise CatalogueError(
                f"Item ids and titles must be text that UTF-8 can write ({error}); mend the items table."
            ) from None

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Texts: ...
    def __getitem__(self, place: int | slice) -> str | Texts:
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        at = place + len(self) if place < 0 else place
        if not 0 <= at < len(self):
            raise IndexError(f"{place} is outside a column of {len(self)} texts")
        return str(self.array[int(at)].as_py())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), ITERATED):
            yield from self.array.slice(start, ITERATED).to_pylist()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Texts):
            return bool(self.array.equals(other.array))
        if isinstance(other, tuple | list):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Texts({list(self[:4])!r}{', ...' if len(self) > 4 else ''}, {len(self)} in all)"

    def __contains__(self, text: object) -> bool:
        return isinstance(text, str) and self._find(text) >= 0

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Place of the first `value` in [start, stop); raises `ValueError` where there is none."""
        low, high, _ = slice(start, stop).indices(len(self))
        at = self._find(value, low, high) if isinstance(value, str) else -1
        if at < 0:
            raise ValueError(f"{value!r} is not among the texts")
        return at

    def _find(self, text: str, low: int = 0, high: int | None = None) -> int:
        try:
            value = pa.scalar(text, pa.large_string())
        except UnicodeEncodeError:
            return -1
        return int(pc.index(self.array, value, low, len(self) if high is None else high).as_py())

    def places(self, wanted: Texts) -> npt.NDArray[np.int64]:
        """For each of `wanted` the place of its first occurrence here, -1 where there is none."""
        # Only the texts of this column that are wanted are looked up, so a few ids in a million cost one pass and no
        # table of all.
        there = np.flatnonzero(pc.is_in(self.array, value_set=wanted.array).to_numpy(zero_copy_only=False))
        local = pc.index_in(wanted.array, value_set=self.array.take(pa.array(there)))
        out: npt.NDArray[np.int64] = np.full(len(wanted), -1, dtype=np.int64)
        found = np.asarray(local.is_valid())
        out[found] = there[local.drop_null().to_numpy()]
        return out

    def take(self, places: npt.NDArray[np.integer]) -> Texts:
        """The texts at `places`, copied."""
        return Texts(self.array.take(pa.array(places)))

    def joined(self, other: Texts) -> Texts:
        """These texts and then those of `other`, copied."""
        return Texts(pa.concat_arrays([self.array, other.array]))

    def first_repeated(self) -> str | None:
        """A text that occurs twice, or None."""
        # The common case in one pass; only where ids do repeat is it found out which.
        if len(pc.unique(self.array)) == len(self):
            return None
        counts = pc.value_counts(self.array)
        return str(counts.field(0)[pc.index(pc.greater(counts.field(1), 1), True).as_py()].as_py())

    def verify(self) -> None:
        """Raises `RunError` where the column is no well-formed UTF-8."""
        try:
            self.array.validate(full=True)
        except pa.ArrowException as error:
            raise RunError(f"The catalogue's ids or titles are broken ({error}); save it anew.") from None

    def buffers(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """Offsets (N + 1, from 0) and the UTF-8 bytes between them, the canonical form that is hashed."""
        _, offsets, data = self.array.buffers()
        if not len(self):
            return np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.uint8)
        # A slice of an Arrow array shares its parent's buffers; offsets from 0 make the hash one of the texts alone.
        at = np.frombuffer(offsets, dtype=np.int64)[self.array.offset : self.array.offset + len(self) + 1]
        held = np.zeros(0, dtype=np.uint8) if data is None else np.frombuffer(data, dtype=np.uint8)
        return at - at[0], held[at[0] : at[-1]]
