"""Rows of the warm start packed: what a step learns as forests of tokens, laid out for a trainer's data set.

A step holds units: the rows of a window, which share most of their tokens, or a single row of another task. Units
that are short lie in one packed row, so that there is little padding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset as HFDataset
from torch import Tensor

from llmrec.policy.forest import Forest
from llmrec.training.sft_data import SFTRow
from llmrec.types import IntArray

Unit = Sequence[SFTRow]
LONGEST = 2048
"""Tokens of a packed row at most, unless one sequence alone has more: its mask grows with their square."""
COLUMNS = ("ids", "depth", "end", "length", "place", "token", "weight")


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


def pack_step(units: Sequence[Unit], longest: int) -> list[tuple[SFTRow, ...]]:
    """The rows of each packed row of a step: units together, as long as they do not make it longer than the longest.

    A unit of more than `longest` tokens is halved, and its beginning read once in each half.
    """
    whole = [part for unit in units for part in _parts(unit, longest)]
    whole.sort(key=lambda part: -part[0])  # stable: what is of one length stays in order
    room = whole[0][0]
    bins: list[tuple[int, list[SFTRow]]] = []
    for tokens, rows in whole:
        # first fit, the longest first: within 11/9 of the fewest bins
        for number, (taken, held) in enumerate(bins):
            if taken + tokens <= room:
                bins[number] = (taken + tokens, held + rows)
                break
        else:
            bins.append((tokens, rows))
    return [tuple(rows) for _, rows in bins]


def _parts(unit: Unit, longest: int) -> list[tuple[int, list[SFTRow]]]:
    tokens = len(Forest.of([row.input_ids for row in unit]))
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
    sizes = [(len(Forest.of([row.input_ids for row in part])), part) for part in parts]
    for size, part in sorted(sizes, key=lambda pair: -pair[0]):
        least = tokens.index(min(tokens))
        shares[least].append(part)
        tokens[least] += size
    return shares


@dataclass(frozen=True, slots=True)
class Packed:
    """All that a training learns: `data` has an element a process for each step, `digest` tells the rows."""

    data: Any
    steps: int
    packing: Packing
    digest: str


def pack(steps: Iterable[Sequence[Unit]], processes: int = 1, longest: int = LONGEST) -> Packed:
    """Packs steps as they come: element `step * processes + process` is what that process learns in that step.

    Args:
        steps: the units of each.
        processes: that share them.
        longest: tokens of a packed row at most, unless one sequence alone has more.
    """
    columns: dict[str, list[IntArray]] = {name: [] for name in COLUMNS}
    packing, digest, count = Packing(), hashlib.sha256(), 0
    for units in steps:
        count += 1
        # an answer's length, negated, tells where a row begins, and 0 where a unit does: borders count
        told = (t for unit in units for t in (0, *(t for row in unit for t in (-row.answer, *row.input_ids))))
        digest.update(np.fromiter((-1, *told), dtype=np.int64).tobytes())
        for share in share_out(units, processes) if processes > 1 else [list(units)]:
            # A process without a row goes along with the step's first one, at no weight: wrappers wait for all.
            element, counted = _element(share or [units[0][:1]], 1 if share else 0, longest)
            packing = packing + counted
            for name in COLUMNS:
                columns[name].append(element[name])
    return Packed(HFDataset.from_dict(columns), count, packing, digest.hexdigest())


def _element(units: Sequence[Unit], weight: int, longest: int) -> tuple[dict[str, IntArray], Packing]:
    """Packed rows one behind the other, and what is predicted at which of their tokens, each pair once."""
    parts: dict[str, list[IntArray]] = {name: [] for name in COLUMNS}
    packing, start = Packing(), 0
    for rows in pack_step(units, longest):
        forest = Forest.of([row.input_ids for row in rows])
        # A token of an answer hangs on one token alone; where several rows teach it there, it counts as often.
        pairs = np.concatenate([_taught(row, places) for row, places in zip(rows, forest.places, strict=True)])
        taught, times = np.unique(pairs, axis=0, return_counts=True)
        made = {
            "ids": forest.ids_L,
            "depth": forest.depth_L,
            "end": forest.end_L,
            "length": np.array([len(forest)]),
            "place": start + taught[:, 0],
            "token": forest.ids_L[taught[:, 1]],
            "weight": weight * times,
        }
        for name, values in made.items():
            parts[name].append(values)
        packing = packing + Packing(len(rows), sum(len(row.input_ids) for row in rows), len(forest))
        start += len(forest)
    return {name: np.concatenate(values) for name, values in parts.items()}, packing


def _taught(row: SFTRow, places: IntArray) -> IntArray:
    """(place of the token before, place) of each token of the answer that has one before it: (T, 2)."""
    first = max(1, len(row.input_ids) - row.answer)
    return np.stack([places[first - 1 : -1], places[first:]], axis=1)


def collate(elements: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
    """The tensors of one element of `packed_dataset`: forests of (B, L), padded on the right, and T targets.

    `place` counts tokens of the padded rows: row * L + place in the row.
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
    for table, name in ((ids, "ids"), (depth, "depth"), (end, "end")):
        table[to_X] = column[name]
    return {
        "ids": ids.view(shape),
        "depth": depth.view(shape),
        "end": end.view(shape),
        "place": to_X[column["place"]],
        "token": column["token"],
        "weight": column["weight"],
    }
