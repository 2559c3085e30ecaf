"""How well identifiers use their words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.catalogue.identifiers.scheme import Identifiers


@dataclass(frozen=True, slots=True)
class LevelUsage:
    """One level: words there are, words in use, and the perplexity exp(entropy) of their use (at most `words`)."""

    words: int
    used: int
    perplexity: float


@dataclass(frozen=True, slots=True)
class Usage:
    """How a catalogue's identifiers use their words.

    Attributes:
        levels: one entry a level, tie words left out.
        tokens_per_item: mean length, the end token not counted.
        colliding: items whose codes (without tie word) another item has too.
        largest_group: most items that share their codes; 1 is none.
        tied: items that carry a tie word.
        shared: items whose whole identifier another item has too; always 0.
    """

    levels: tuple[LevelUsage, ...]
    tokens_per_item: float
    colliding: int
    largest_group: int
    tied: int
    shared: int

    def tree(self) -> dict[str, Any]:
        """The figures as plain dictionaries and lists, ready for JSON."""
        return asdict(self) | {"levels": [asdict(level) for level in self.levels]}


def usage(identifiers: Identifiers) -> Usage:
    """Measures `identifiers`."""
    codes_NL, levels = identifiers.codes_NL, identifiers.levels
    size = len(identifiers.codebooks_LKD[0]) if len(identifiers.codebooks_LKD) else len(identifiers.words)
    group_N = _group_sizes(codes_NL[:, :levels])
    return Usage(
        tuple(_level(codes_NL[:, level], size) for level in range(levels)),
        float((codes_NL >= 0).sum(axis=1).mean()),
        int((group_N > 1).sum()),
        int(group_N.max()),
        int((codes_NL[:, levels:] >= 0).sum()),
        int((_group_sizes(codes_NL) > 1).sum()),
    )


def _level(code_N: npt.NDArray[np.integer], size: int) -> LevelUsage:
    _, count = np.unique(code_N, return_counts=True)
    share = count / count.sum()
    return LevelUsage(size, len(count), float(np.exp(-(share * np.log(share)).sum())))


def _group_sizes(codes_NL: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """How many rows equal each row, itself included, (N,)."""
    _, group_N, count = np.unique(codes_NL, axis=0, return_inverse=True, return_counts=True)
    sizes: npt.NDArray[np.int64] = count[group_N.reshape(-1)]
    return sizes
