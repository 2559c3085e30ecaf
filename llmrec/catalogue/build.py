"""Builds the arrays of `PrefixIndex` from token rows: one sort, then one linear pass a level."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmrec.errors import CatalogueError

Array = npt.NDArray[np.integer]


class SameTokens(CatalogueError):
    """Two items whose tokens are equal, or those of one begin those of the other."""

    def __init__(self, first: int, second: int) -> None:
        self.first, self.second = first, second
        super().__init__(
            f"The tokens of items number {first} and {second} equal or begin one another; make them distinct."
        )


def tree_arrays(tokens_NL: Array, lengths_N: Array) -> dict[str, Array]:
    """All arrays of `PrefixIndex`, by the names of its fields, from token rows padded with -1 in item order.

    Raises:
        CatalogueError: no rows, or a row that equals another or begins it.
    """
    tokens, lengths = np.asarray(tokens_NL), np.asarray(lengths_N)
    if not len(tokens):
        raise CatalogueError("The catalogue is empty; it needs at least one item.")
    order = np.lexsort(tokens.T[::-1]).astype(np.int64)
    arrays, path = _grow(tokens[order], lengths[order])
    leaf = (arrays["degree_M"] == 0) & (arrays["high_M"] - arrays["low_M"] > 1)
    ends_inside = (arrays["degree_M"] > 0)[path[np.arange(len(path)), lengths[order] - 1]]
    if leaf.any() or ends_inside.any():
        row = int(arrays["low_M"][leaf.argmax()]) if leaf.any() else int(ends_inside.argmax())
        raise SameTokens(int(order[row]), int(order[row + 1]))
    row_of_item = np.empty_like(order)
    row_of_item[order] = np.arange(len(order))
    return {
        **{name: value.astype(np.int32) for name, value in arrays.items()},
        "path_NL": path,
        "length_N": lengths[order].astype(np.int64),
        "item_of_row_N": order,
        "row_of_item_N": row_of_item,
    }


def _grow(rows_NL: Array, length_N: Array) -> tuple[dict[str, Array], npt.NDArray[np.int32]]:
    """Nodes level by level from sorted rows: the arrays of `PrefixIndex` and the path of each row."""
    n_rows, levels = rows_NL.shape
    token, parent, low, high, depth = [np.array([-1])], [np.array([-1])], [np.array([0])], [np.array([n_rows])], [0]
    path = np.full((n_rows, levels), -1, dtype=np.int32)
    at, n_nodes, counts = np.zeros(n_rows, dtype=np.int64), 1, [1]
    for level in range(levels):
        row = np.flatnonzero(length_N > level)
        if not len(row):
            path = path[:, :level]
            break
        value, above = rows_NL[row, level], at[row]
        new = np.ones(len(row), dtype=bool)
        new[1:] = (above[1:] != above[:-1]) | (value[1:] != value[:-1])
        at[row] = n_nodes + np.cumsum(new) - 1
        path[row, level] = at[row]
        start = np.flatnonzero(new)
        token.append(value[start])
        parent.append(above[start])
        low.append(row[start])
        high.append(row[start] + np.diff(np.append(start, len(row))))
        depth.append(level + 1)
        counts.append(len(start))
        n_nodes += len(start)
    parents = np.concatenate(parent)
    degree = np.bincount(parents[1:], minlength=n_nodes)
    arrays = {
        "token_M": np.concatenate(token),
        "first_child_M": 1 + np.cumsum(degree) - degree,  # breadth first: children follow in their parents' order
        "degree_M": degree,
        "low_M": np.concatenate(low),
        "high_M": np.concatenate(high),
        "depth_M": np.repeat(depth, counts),
    }
    arrays["settled_M"] = _settled(arrays["degree_M"], arrays["first_child_M"])
    return arrays, path


def _settled(degree_M: Array, first_child_M: Array) -> Array:
    """Follows chains of single children to their end, doubling the stride each time."""
    goal = np.where(degree_M == 1, first_child_M, np.arange(len(degree_M)))
    while True:
        further = goal[goal]
        if (further == goal).all():
            return goal
        goal = further
