"""Builds the arrays of `PrefixIndex` from token rows: a sort by packed keys, then one linear pass a level.

N items, L tokens at most, M nodes. A sorted row makes a new node for each of its tokens from the first one in which
it differs from the row before it (its branch) to its last; so lengths and branches say where all nodes are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llmrec.errors import CatalogueError

Array = npt.NDArray[np.integer]
KEY_BITS = 63


class SameTokens(CatalogueError):
    """Two items whose tokens are equal, or those of one begin those of the other."""

    def __init__(self, first: int, second: int) -> None:
        self.first, self.second = first, second
        super().__init__(
            f"The tokens of items number {first} and {second} equal or begin one another; make them distinct."
        )

    def naming(self, item_ids: Sequence[str]) -> CatalogueError:
        """The same error, by item ids."""
        one, other = (item_ids[i] for i in sorted((self.first, self.second)))
        return CatalogueError(
            f"The tokens of items {one!r} and {other!r} are the same, or one's begin the other's; give each item a "
            "sequence of its own."
        )


def tree_arrays(tokens_NL: Array, lengths_N: Array) -> dict[str, Array]:
    """All arrays of `PrefixIndex`, by the names of its fields, from token rows padded with -1 in item order.

    Raises:
        CatalogueError: no rows, or a row that equals another or begins it.
    """
    tokens, lengths = np.asarray(tokens_NL), np.asarray(lengths_N)
    if not len(tokens):
        raise CatalogueError("The catalogue is empty; it needs at least one item.")
    order = sorted_order(tokens)
    rows, length = tokens[order], lengths[order].astype(np.int32)
    branch = branches(rows)
    # A row that ends where the next one still agrees with it is equal to it or begins it: its end would be a node
    # with children, and a finished item could go on.
    clash = np.flatnonzero(length[:-1] <= branch[1:])
    if len(clash):
        raise SameTokens(int(order[clash[0]]), int(order[clash[0] + 1]))
    return {**_grow(rows, length, branch), **item_arrays(order, length)}


def item_arrays(order_N: Array, length_N: Array) -> dict[str, Array]:
    """The arrays of `PrefixIndex` that the order of the items gives: which item is which sorted row, and lengths."""
    row_of_item = np.empty(len(order_N), dtype=np.int64)
    row_of_item[order_N] = np.arange(len(order_N))
    return {
        "length_N": length_N.astype(np.int64),
        "item_of_row_N": order_N.astype(np.int64),
        "row_of_item_N": row_of_item,
    }


def sorted_order(tokens_NL: Array) -> npt.NDArray[np.int64]:
    """The order that sorts rows padded with -1.

    As many columns as fit are packed into one integer; the following ones are packed behind the rank so far, and
    looked at for ties alone.
    """
    n_rows, width = tokens_NL.shape
    # + 1: padding, -1, becomes 0 and sorts before every token, as the end of a string does.
    bits = (int(tokens_NL.max(initial=0)) + 1).bit_length()
    column = KEY_BITS // bits
    key = _packed(tokens_NL[:, :column], bits, np.zeros(n_rows, dtype=np.int64))
    order = np.argsort(key)
    # Most rows differ within the first few tokens, so the later columns are looked at for few of them.
    tied = np.diff(key[order]) == 0  # each row with the row before it
    # The rank so far needs bits of its own in front of the next columns.
    more = max((KEY_BITS - n_rows.bit_length()) // bits, 1)
    while column < width and tied.any():
        place = np.flatnonzero(np.append(tied, False) | np.insert(tied, 0, False))
        rank = np.cumsum(np.insert(~tied, 0, True))[place]
        rows = order[place]
        key = _packed(tokens_NL[rows, column : column + more], bits, rank)
        within = np.argsort(key)
        order[place] = rows[within]
        still = np.diff(key[within]) == 0
        tied[place[1:][~still] - 1] = False
        column += more
    return order


def _packed(tokens_NC: Array, bits: int, first_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    key = first_N
    for column in tokens_NC.T:
        key = (key << bits) | (column + 1)
    return key


def branches(rows_NL: Array) -> npt.NDArray[np.int32]:
    """For each sorted row the first column in which it differs from the row before it (0 for the first row).

    A row that equals the one before it has L.
    """
    differs = rows_NL[1:] != rows_NL[:-1]
    first = differs.argmax(axis=1).astype(np.int32)
    first[(first == 0) & ~differs[:, 0]] = rows_NL.shape[1]
    return np.insert(first, 0, 0)


def _grow(rows_NL: Array, length_N: npt.NDArray[np.int32], branch_N: npt.NDArray[np.int32]) -> dict[str, Array]:
    """The arrays by node, level by level from sorted rows, and the path of each row."""
    n_rows, levels = len(rows_NL), int(length_N.max())
    # The tokens of each row from its branch on are new nodes; those before it are the row's above.
    n_nodes = 1 + int((length_N - branch_N).sum(dtype=np.int64))
    names = ("token_M", "first_child_M", "degree_M", "low_M", "high_M", "depth_M")
    token, first_child, degree, low, high, depth = (np.empty(n_nodes, dtype=np.int32) for _ in names)
    path = np.full((levels, n_rows), -1, dtype=np.int32)
    token[0], low[0], high[0], depth[0] = -1, 0, n_rows, 0
    above, end = slice(0, 1), 1
    for level in range(levels + 1):
        new = (branch_N <= level) & (length_N > level)
        made = np.zeros(n_rows + 1, dtype=np.int32)  # new nodes before each row
        np.cumsum(new, out=made[1:])
        # Breadth first: the children of a level stand in one block, in the order of the rows that make them.
        first_child[above] = end + made[low[above]]
        degree[above] = made[high[above]] - made[low[above]]
        if level == levels:
            break
        here = slice(end, end + int(made[-1]))
        # Within a level a node's rows run from the row that made it to the next row that parts from it.
        border = np.append(np.flatnonzero(branch_N <= level), n_rows).astype(np.int32)  # rows that part from the last
        starts = new[border[:-1]]
        low[here], high[here] = border[:-1][starts], border[1:][starts]
        token[here], depth[here] = rows_NL[low[here], level], level + 1
        np.copyto(path[level], made[1:] + (end - 1), where=length_N > level)
        above, end = here, here.stop
    arrays = dict(zip(names, (token, first_child, degree, low, high, depth), strict=True))
    return {**arrays, "settled_M": settled(degree, first_child, depth), "path_NL": np.ascontiguousarray(path.T)}


def settled(degree_M: Array, first_child_M: Array, depth_M: Array) -> npt.NDArray[np.int32]:
    """The first node at or below each that branches or is a leaf, from the deepest level up."""
    # Deepest first, so a chain of forced tokens is followed in one step: the child's goal is known already.
    goal = np.arange(len(degree_M), dtype=np.int32)
    starts = np.searchsorted(depth_M, np.arange(int(depth_M[-1]) + 1))
    for start, end in zip(starts[-2::-1], starts[:0:-1], strict=True):
        forced = start + np.flatnonzero(degree_M[start:end] == 1)
        goal[forced] = goal[first_child_M[forced]]
    return goal
