"""Rows of the warm start packed: what a step learns as forests of tokens, laid out for a trainer's data set.

A step holds units: the rows of a window, which share most of their tokens, or a single row of another task. Units
that are short lie in one packed row, so that there is little padding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from datasets import Dataset as HFDataset
from torch import Tensor

from llmrec.catalogue.index import PrefixIndex
from llmrec.policy.forest import Forest
from llmrec.training.sft_data import SFTRow
from llmrec.types import IntArray

Unit = Sequence[SFTRow]
LONGEST = 2048
"""Tokens of a packed row at most, unless one sequence alone has more: its mask grows with their square."""
FOREST = ("ids", "depth", "end")
TARGETS, CHOICES = ("place", "token", "weight"), ("at", "node", "child", "times")
COLUMNS = (*FOREST, "length", *TARGETS, *CHOICES)


@dataclass(frozen=True, slots=True)
class Packing:
    """Tokens of the rows one by one, and of the packed rows that hold them."""

    rows: int = 0
    apart: int = 0
    packed: int = 0

    def __add__(self, other: Packing) -> Packing:
        return Packing(self.rows + other.rows, self.apart + other.apart, self.packed + other.packed)

    @property
    def sentence(self) -> str:
        """Figures for the log."""
        times = self.apart / max(1, self.packed)
        return f"{self.rows:,} rows of {self.apart:,} tokens packed into {self.packed:,} ({times:.1f} times fewer)"


class HasTokens(Protocol):
    """Anything with token ids."""

    @property
    def ids(self) -> tuple[int, ...]:
        """What is fed."""
        ...


R = TypeVar("R", bound=HasTokens)


def pack_step(units: Sequence[Sequence[R]], longest: int) -> list[tuple[R, ...]]:
    """The rows of each packed row of a step: units together, as long as they do not make it longer than the longest.

    A unit of more than `longest` tokens is halved, and its beginning read once in each half.
    """
    whole = [part for unit in units for part in _parts(unit, longest)]
    whole.sort(key=lambda part: -part[0])  # stable: what is of one length stays in order
    room = whole[0][0]
    bins: list[tuple[int, list[R]]] = []
    for tokens, rows in whole:
        # first fit, the longest first: within 11/9 of the fewest bins
        for number, (taken, held) in enumerate(bins):
            if taken + tokens <= room:
                bins[number] = (taken + tokens, held + rows)
                break
        else:
            bins.append((tokens, rows))
    return [tuple(rows) for _, rows in bins]


def _parts(unit: Sequence[R], longest: int) -> list[tuple[int, list[R]]]:
    tokens = len(Forest.of([row.ids for row in unit]))
    if tokens <= longest or len(unit) == 1:
        return [(tokens, list(unit))]
    half = len(unit) // 2
    return _parts(unit[:half], longest) + _parts(unit[half:], longest)


def share_out(units: Sequence[Unit], processes: int) -> list[list[Unit]]:
    """The units of a step dealt out to processes, about the same number of tokens to each; some may get none."""
    parts = list(units)
    while len(parts) < processes and any(len(part) > 1 for part in parts):
        largest = max(range(len(parts)), key=lambda n: len(parts[n]))
        half = len(parts[largest]) // 2
        parts[largest : largest + 1] = [parts[largest][:half], parts[largest][half:]]
    shares: list[list[Unit]] = [[] for _ in range(processes)]
    tokens = [0] * processes
    sizes = [(len(Forest.of([row.ids for row in part])), part) for part in parts]
    for size, part in sorted(sizes, key=lambda pair: -pair[0]):
        least = tokens.index(min(tokens))
        shares[least].append(part)
        tokens[least] += size
    return shares


@dataclass(frozen=True, slots=True)
class Packed:
    """All that a training learns: `data` has an element a process for each step, `digest` tells the rows.

    `shared`: whether packed rows have branches. `index`: the catalogue, where items are chosen among legal tokens.
    """

    data: Any
    steps: int
    packing: Packing
    digest: str
    shared: bool
    index: PrefixIndex | None


def pack(
    steps: Iterable[Sequence[Unit]],
    processes: int = 1,
    *,
    index: PrefixIndex | None = None,
    shared: bool = True,
    longest: int = LONGEST,
) -> Packed:
    """Packs steps as they come: element `step * processes + process` is what that process learns in that step.

    Args:
        steps: the units of each.
        processes: that share them.
        index: the catalogue, or some of its items (`PrefixIndex.among`); those are then learnt as choices among legal
            tokens, all else as text.
        shared: whether rows may lie together in a packed one; else each is one.
        longest: tokens of a packed row at most, unless one sequence alone has more.
    """
    columns: dict[str, list[IntArray]] = {name: [] for name in COLUMNS}
    packer = _Packer(None if index is None else _Paths.of(index), shared, longest)
    packing, count = Packing(), 0
    # legal tokens are those of all items
    digest = hashlib.sha256()
    for table in () if index is None else (index.token_M, index.path_NL):
        digest.update(table.numpy().tobytes())
    for units in steps:
        count += 1
        # an answer's length, negated, tells where a row begins, and 0 where a unit does: borders count
        told = (t for unit in units for t in (0, *(t for row in unit for t in (-row.answer, *row.input_ids))))
        digest.update(np.fromiter((-1, *told), dtype=np.int64).tobytes())
        for share in share_out(units, processes) if processes > 1 else [list(units)]:
            # A process without a row goes along with the step's first one, at no weight: wrappers wait for all.
            element, counted = packer.element(share or [units[0][:1]], 1 if share else 0)
            packing = packing + counted
            for name in COLUMNS:
                columns[name].append(element[name])
    return Packed(HFDataset.from_dict(columns), count, packing, digest.hexdigest(), shared, index)


@dataclass(frozen=True, slots=True)
class _Paths:
    """What is read of a `PrefixIndex`, as arrays."""

    path_NL: IntArray
    row_of_item_N: IntArray
    degree_M: IntArray

    @classmethod
    def of(cls, index: PrefixIndex) -> _Paths:
        return cls(index.path_NL.numpy(), index.row_of_item_N.numpy(), index.degree_M.numpy())

    def holds(self, item: int) -> bool:
        """Whether the tree has the item (`PrefixIndex.among`)."""
        return bool(self.row_of_item_N[item] >= 0)

    def choices(self, item: int) -> IntArray:
        """(tokens read, node, child) of each step of an item with more than one legal token: (C, 3)."""
        after = self.path_NL[self.row_of_item_N[item]]
        after = after[after >= 0].astype(np.int64)
        before = np.concatenate([[0], after[:-1]])
        step = np.flatnonzero(self.degree_M[before] > 1)
        return np.stack([step, before[step], after[step]], axis=1)


@dataclass(frozen=True, slots=True)
class _Lesson:
    """A row as it is fed: tokens, (place before, place) of what is predicted, and choices (place, node, child)."""

    ids: tuple[int, ...]
    tokens: IntArray
    choices: IntArray


@dataclass(frozen=True, slots=True)
class _Packer:
    paths: _Paths | None
    shared: bool
    longest: int

    def element(self, units: Sequence[Unit], weight: int) -> tuple[dict[str, IntArray], Packing]:
        """Packed rows one behind the other, and what is predicted at which of their tokens, each once."""
        parts: dict[str, list[IntArray]] = {name: [] for name in COLUMNS}
        lessons = [[self._lesson(row) for row in unit] for unit in units]
        packing, start = Packing(), 0
        packed = pack_step(lessons, self.longest) if self.shared else [(one,) for unit in lessons for one in unit]
        for rows in packed:
            forest = Forest.of([row.ids for row in rows])
            both = list(zip(rows, forest.places, strict=True))
            # A token of an answer hangs on one token alone; where several rows teach it there, it counts as often.
            token, token_times = _once([places[row.tokens] for row, places in both], 2)
            at = [np.column_stack([places[row.choices[:, 0]], row.choices[:, 1:]]) for row, places in both]
            choice, choice_times = _once(at, 3)
            made = {
                "ids": forest.ids_L,
                "depth": forest.depth_L,
                "end": forest.end_L,
                "length": np.array([len(forest)]),
                "place": start + token[:, 0],
                "token": forest.ids_L[token[:, 1]],
                "weight": weight * token_times,
                "at": start + choice[:, 0],
                "node": choice[:, 1],
                "child": choice[:, 2],
                "times": weight * choice_times,
            }
            for name, values in made.items():
                parts[name].append(values)
            packing = packing + Packing(len(rows), sum(len(row.ids) for row in rows), len(forest))
            start += len(forest)
        return {name: np.concatenate(values) for name, values in parts.items()}, packing

    def _lesson(self, row: SFTRow) -> _Lesson:
        prompt = len(row.input_ids) - row.answer
        if self.paths is None or row.item is None or not self.paths.holds(row.item):
            place = np.arange(max(1, prompt), len(row.input_ids), dtype=np.int64)
            return _Lesson(row.input_ids, np.stack([place - 1, place], axis=1), np.zeros((0, 3), dtype=np.int64))
        choices = self.paths.choices(row.item)
        # Behind the last choice all tokens are forced: pi is 1 there, and nothing of them is fed.
        read = prompt + int(choices[-1, 0]) if len(choices) else prompt
        choices[:, 0] += prompt - 1
        return _Lesson(row.input_ids[:read], np.zeros((0, 2), dtype=np.int64), choices)


def _once(parts: Sequence[IntArray], width: int) -> tuple[IntArray, IntArray]:
    """The distinct rows of some tables of `width` columns, and how often each stands there."""
    return np.unique(np.concatenate(parts).reshape(-1, width), axis=0, return_counts=True)


def collate(elements: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
    """The tensors of one element of `pack`: forests of (B, L), padded on the right, T tokens and C choices.

    `place` and `at` count tokens of the padded rows: row * L + place in the row.
    """
    (element,) = elements
    column = {name: torch.tensor(element[name], dtype=torch.long) for name in COLUMNS}
    length_B = column["length"]
    width = int(length_B.max())
    row_X = torch.repeat_interleave(torch.arange(len(length_B)), length_B)
    start_B = length_B.cumsum(0) - length_B
    to_X = row_X * width + torch.arange(len(row_X)) - start_B[row_X]
    shape = (len(length_B), width)
    ids, depth = (torch.zeros(shape, dtype=torch.long).flatten() for _ in range(2))
    # padding sees itself alone, as a softmax over nothing has no value
    end = (torch.arange(width) + 1).repeat(len(length_B))
    for table, name in zip((ids, depth, end), FOREST, strict=True):
        table[to_X] = column[name]
    forest = {name: table.view(shape) for name, table in zip(FOREST, (ids, depth, end), strict=True)}
    rest = {name: column[name] for name in (*TARGETS, *CHOICES)}
    return {**forest, **rest, "place": to_X[column["place"]], "at": to_X[column["at"]]}
