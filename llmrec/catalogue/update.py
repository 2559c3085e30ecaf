"""Changes the arrays of `PrefixIndex` where rows come or go: linear passes, no sort of what is there already.

The result equals what `build.tree_arrays` makes of the changed catalogue. n changed rows; N, L, M as in `build`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmrec.catalogue.build import Array, SameTokens, branches, item_arrays, settled, sorted_order

Arrays = Mapping[str, Array]


def without_items(arrays: Arrays, items_n: Array) -> dict[str, Array]:
    """The arrays without the items of distinct numbers `items_n`; later items move up. At least one must stay."""
    gone = np.sort(arrays["row_of_item_N"][items_n])
    low, high = arrays["low_M"], arrays["high_M"]
    before = np.zeros(len(arrays["item_of_row_N"]) + 1, dtype=np.int32)  # rows gone before each row
    before[gone + 1] = 1
    np.cumsum(before, out=before)
    touched = arrays["path_NL"][gone]
    dead = np.unique(touched[touched >= 0])
    # A node dies with its last row: all rows of its range are gone.
    dead = dead[(before[high[dead]] - before[low[dead]]) == high[dead] - low[dead]]
    degree = arrays["degree_M"].copy()
    parents = np.searchsorted(arrays["first_child_M"], dead, side="right") - 1  # breadth first: they ascend
    np.subtract.at(degree, parents, 1)
    low, high, depth, token, degree = (
        np.delete(values, dead) for values in (low, high, arrays["depth_M"], arrays["token_M"], degree)
    )
    kept_items = np.ones(len(before) - 1, dtype=bool)
    kept_items[items_n] = False
    number = np.cumsum(kept_items) - 1
    moved = _shifted(len(arrays["token_M"]), dead, -1)
    length = np.delete(arrays["length_N"], gone)
    # The longest item may be among those gone; the table is as wide as the longest that stays, as a fresh build makes
    # it.
    path = np.delete(arrays["path_NL"][:, : int(length.max())], gone, axis=0)
    return {
        **_nodes(token, degree, low - before[low], high - before[high], depth),
        "path_NL": moved[path],
        **item_arrays(number[np.delete(arrays["item_of_row_N"], gone)], length),
    }


def with_rows(arrays: Arrays, tokens_nL: Array, lengths_n: Array) -> dict[str, Array]:
    """The arrays with new rows, padded with -1, whose items are numbered after the old ones.

    Raises:
        SameTokens: a new row equals or begins another row, or another row begins it.
    """
    news = _place(arrays, tokens_nL[:, : int(lengths_n.max())], lengths_n)
    n_rows, n_nodes = len(arrays["item_of_row_N"]), len(arrays["token_M"])
    new = news.new_nL
    level, row = np.nonzero(new.T)  # level by level: the order in which nodes are numbered
    at = news.node_place(arrays, level, row)
    moved = _shifted(n_nodes, at, 1)
    path = np.full(news.tokens_nL.shape, -1, dtype=np.int32)
    path[news.walk_nL >= 0] = moved[news.walk_nL[news.walk_nL >= 0]]
    path[row, level] = at + np.arange(len(at))
    path = _filled(path, news)
    parent = np.where(level > 0, path[row, np.maximum(level - 1, 0)], 0)
    under = np.zeros(n_nodes, dtype=np.int32)  # new rows below each old node, and those before all its old rows
    ahead = np.zeros(n_nodes, dtype=np.int32)
    walked, rows = _walked(news)
    np.add.at(under, walked, 1)
    np.add.at(ahead, walked[news.place_n[rows] == arrays["low_M"][walked]], 1)
    # New rows stand before an old row, so its number grows by all that are placed at or before it.
    shift = np.cumsum(np.bincount(news.place_n, minlength=n_rows + 1)).astype(np.int32)  # new rows up to each old one
    # New rows that are placed right before a node's first row belong to it only if they walk through it: `ahead`
    # takes those back into its range.
    low = arrays["low_M"] + shift[arrays["low_M"]] - ahead
    high = low + (arrays["high_M"] - arrays["low_M"]) + under
    own = news.place_n[row] + row
    token, depth, low, high, degree = (
        np.insert(old, at, values).astype(np.int32)
        for old, values in (
            (arrays["token_M"], news.tokens_nL[row, level]),
            (arrays["depth_M"], level + 1),
            (low, own),
            (high, own + news.run_nL[row, level]),
            (arrays["degree_M"], np.zeros(len(at), dtype=np.int32)),
        )
    )
    np.add.at(degree, parent, 1)
    order = np.insert(arrays["item_of_row_N"], news.place_n, n_rows + news.order_n)
    length = np.insert(arrays["length_N"], news.place_n, news.lengths_n)
    return {
        **_nodes(token, degree, low, high, depth),
        "path_NL": _inserted(moved, arrays["path_NL"], news.place_n, path),
        **item_arrays(order, length),
    }


def find(arrays: Arrays, tokens_nL: Array, lengths_n: Array) -> tuple[npt.NDArray[np.int32], Array, Array]:
    """How far rows, padded with -1, follow the tree.

    Returns:
        the nodes reached after each token (n, L), -1 from where the tree ends; how many they are (n,); and the
        sorted row before which each would stand (n,).
    """
    walk: npt.NDArray[np.int32] = np.full(tokens_nL.shape, -1, dtype=np.int32)
    place = np.zeros(len(tokens_nL), dtype=np.int64)
    node, going = np.zeros(len(tokens_nL), dtype=np.int64), np.arange(len(tokens_nL))
    for level in range(tokens_nL.shape[1]):
        going = going[lengths_n[going] > level]
        if not len(going):
            break
        parent, token = node[going], tokens_nL[going, level]
        child, last = _lower_bound(arrays, parent, token)
        found = (child < last) & (arrays["token_M"][np.minimum(child, len(arrays["token_M"]) - 1)] == token)
        beyond = child == last
        left = np.where(beyond, arrays["high_M"][parent], arrays["low_M"][np.where(beyond, 0, child)])
        place[going] = left
        going, child = going[found], child[found]
        node[going] = walk[going, level] = child
        place[going] = arrays["low_M"][child]
    return walk, (walk >= 0).sum(axis=1), place


@dataclass(frozen=True)
class _News:
    """New rows in sorted order beside the tree they go into.

    `order_n`: their own numbers; `walk_nL`: old nodes on their paths; `branch_n`: first token that makes a new node;
    `new_nL`: which tokens do; `place_n`: the old row before which they stand; `run_nL`: new rows from this one on
    that share the prefix.
    """

    tokens_nL: Array
    lengths_n: Array
    order_n: Array
    walk_nL: npt.NDArray[np.int32]
    depth_n: Array
    place_n: Array
    parted_n: Array
    new_nL: npt.NDArray[np.bool_]
    run_nL: Array

    def node_place(self, arrays: Arrays, level: Array, row: Array) -> npt.NDArray[np.int64]:
        """The old node before which each new node stands."""
        out = np.empty(len(level), dtype=np.int64)
        starts = np.searchsorted(arrays["depth_M"], np.arange(self.tokens_nL.shape[1] + 2))
        for depth in np.unique(level) + 1:
            here, (start, end) = level == depth - 1, starts[depth : depth + 2]
            # Nodes of a depth are in the order of their rows, so a new one stands before the first that begins at or
            # after its own.
            out[here] = start + np.searchsorted(arrays["low_M"][start:end], self.place_n[row[here]])
        return out


def _place(arrays: Arrays, tokens_nL: Array, lengths_n: Array) -> _News:
    order = sorted_order(tokens_nL)
    tokens, lengths = tokens_nL[order], lengths_n[order].astype(np.int64)
    walk, depth, place = find(arrays, tokens, lengths)
    n_rows = len(arrays["item_of_row_N"])
    last = np.where(depth > 0, walk[np.arange(len(walk)), np.maximum(depth - 1, 0)], 0)
    # Wholly on old nodes: the new row equals or begins an old one. Past a leaf: an old one begins it.
    same = (depth == lengths) | (arrays["degree_M"][last] == 0)
    if same.any():
        at = int(same.argmax())
        raise SameTokens(int(arrays["item_of_row_N"][arrays["low_M"][last[at]]]), n_rows + int(order[at]))
    parted = branches(tokens)
    clash = np.flatnonzero(lengths[:-1] <= parted[1:])
    if len(clash):
        raise SameTokens(*(n_rows + int(order[clash[0] + step]) for step in (0, 1)))
    columns = np.arange(tokens.shape[1])
    new = (np.maximum(depth, parted)[:, None] <= columns) & (columns < lengths[:, None])
    return _News(tokens, lengths, order, walk, depth, place, parted, new, _runs(parted, tokens.shape[1]))


def _runs(parted_n: Array, levels: int) -> npt.NDArray[np.int64]:
    """For each row and level, how many rows from this one on share the row's first level + 1 tokens."""
    runs = np.ones((len(parted_n), levels), dtype=np.int64)
    for level in range(levels):
        border = np.flatnonzero(np.append(parted_n <= level, True))
        runs[border[:-1], level] = np.diff(border)
    return runs


def _filled(path_nL: npt.NDArray[np.int32], news: _News) -> npt.NDArray[np.int32]:
    """Paths in which the nodes that an earlier new row made are filled in."""
    for level in range(path_nL.shape[1]):
        own = path_nL[:, level] >= 0
        last = np.maximum.accumulate(np.where(own, np.arange(len(own)), 0))
        missing = ~own & (news.lengths_n > level)
        path_nL[missing, level] = path_nL[last[missing], level]
    return path_nL


def _walked(news: _News) -> tuple[Array, Array]:
    """Old nodes on the paths of new rows, the root among them, and the rows."""
    rows, levels = np.nonzero(news.walk_nL >= 0)
    n = len(news.walk_nL)
    return np.append(np.zeros(n, dtype=np.int64), news.walk_nL[rows, levels]), np.append(np.arange(n), rows)


def _lower_bound(arrays: Arrays, parent_n: Array, token_n: Array) -> tuple[Array, Array]:
    """The first child of each parent whose token is at least the one given, and the end of the children."""
    low = arrays["first_child_M"][parent_n].astype(np.int64)
    end = low + arrays["degree_M"][parent_n]
    high = end.copy()
    # One binary search for all parents at once.
    while (low < high).any():
        middle = (low + high) // 2
        less = (low < high) & (arrays["token_M"][np.minimum(middle, len(arrays["token_M"]) - 1)] < token_n)
        low, high = np.where(less, middle + 1, low), np.where(less, high, np.maximum(middle, low))
    return low, end


def _shifted(n_nodes: int, at: Array, by: int) -> npt.NDArray[np.int32]:
    """New numbers of old nodes, where each of `at` moves itself and later ones by `by`; -1 comes last."""
    steps = np.ones(n_nodes + 1, dtype=np.int32)
    steps[0] = 0
    steps += by * np.bincount(at, minlength=n_nodes + 1).astype(np.int32)
    moved = np.cumsum(steps, dtype=np.int32)
    moved[-1] = -1
    return moved


def _inserted(moved: Array, path_NL: Array, place_n: Array, path_nL: Array) -> Array:
    width = max(path_NL.shape[1], path_nL.shape[1])
    out: Array = np.full((len(path_NL) + len(path_nL), width), -1, dtype=np.int32)
    fresh = np.zeros(len(out), dtype=bool)
    fresh[place_n + np.arange(len(place_n))] = True
    out[~fresh, : path_NL.shape[1]] = moved[path_NL]
    out[fresh, : path_nL.shape[1]] = path_nL
    return out


def _nodes(token_M: Array, degree_M: Array, low_M: Array, high_M: Array, depth_M: Array) -> dict[str, Array]:
    first_child = (1 + np.cumsum(degree_M, dtype=np.int32) - degree_M).astype(np.int32)
    return {
        "token_M": token_M,
        "first_child_M": first_child,
        "degree_M": degree_M,
        "low_M": low_M,
        "high_M": high_M,
        "depth_M": depth_M,
        "settled_M": settled(degree_M, first_child, depth_M),
    }
