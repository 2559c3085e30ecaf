"""Prompts that were read before: a prompt that begins like one of them is read from where they part.

In a causal model the keys and values of a token depend on the tokens before it alone, so what two prompts begin with
in common is read once and gives the same numbers. How much that is, the wording decides: see docs/serving.md.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, (heads, tokens, width)."""


@dataclass(frozen=True)
class Kept:
    """One prompt that was read: its tokens, with keys and values of each layer."""

    ids: tuple[int, ...]
    layers: Layers

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(x.numel() * x.element_size() for pair in self.layers for x in pair)

    def common(self, ids: Sequence[int]) -> int:
        """How many tokens `ids` begins with in common; never its last, whose state is needed."""
        most = min(len(self.ids), len(ids) - 1)
        return next((n for n in range(most) if self.ids[n] != ids[n]), most)


class KeptPrompts:
    """The latest prompt of each name, in bounded memory: those that were not asked for the longest go first.

    Prompts without a name share one place, from which a name that is new takes what all begin with; it goes last. It
    belongs to one model with fixed weights, and to one thread.

    Args:
        most: bytes.

    Attributes:
        size: bytes that are kept.
        tokens: of all prompts that were asked for.
        saved: those of them that were kept.
        hits: prompts of which something was kept.
        prompts: that were asked for.
    """

    def __init__(self, most: int) -> None:
        self.most, self.size = most, 0
        self.tokens = self.saved = self.hits = self.prompts = 0
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, name: Hashable, ids: Sequence[int]) -> tuple[Kept | None, int]:
        """What was read of a prompt, and how many of its first tokens that are."""
        found, common = None, 0
        for key in dict.fromkeys((name, None)):
            kept = self._kept.get(key)
            if kept is not None and (own := kept.common(ids)) > common:
                found, common = kept, own
                self._kept.move_to_end(key)
        self.prompts += 1
        self.tokens += len(ids)
        self.saved += common
        self.hits += common > 0
        return found, common

    def holds(self, name: Hashable, ids: Sequence[int]) -> bool:
        """Whether this very prompt is kept by that name."""
        kept = self._kept.get(name)
        return kept is not None and kept.ids == tuple(ids)

    def keep(self, name: Hashable, kept: Kept) -> None:
        """Keeps a prompt in place of the one of that name."""
        before = self._kept.pop(name, None)
        self.size += kept.size - (0 if before is None else before.size)
        self._kept[name] = kept
        if None in self._kept:
            self._kept.move_to_end(None)
        while self.size > self.most and self._kept:
            self.size -= self._kept.popitem(last=False)[1].size
