from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.catalogue import PrefixIndex
from llmrec.catalogue.store import tensors_of
from llmrec.errors import CatalogueError
from llmrec.policy.edges import Edges
from tests.policy.tiny import all_prefixes, index_of, legal_tokens

END = 9
titles = st.lists(st.integers(0, 3), min_size=1, max_size=5).map(lambda row: (*row, END))
catalogues = st.lists(titles, min_size=1, max_size=14, unique=True)


def node_of(index, items, prefix):
    """The node of a prefix, through an item that begins with it."""
    if not prefix:
        return torch.tensor(0)
    item = next(i for i, row in enumerate(items) if row[: len(prefix)] == prefix)
    return index.prefixes(torch.tensor(item))[1][len(prefix) - 1]


@settings(max_examples=30, deadline=None)
@given(catalogues, st.data())
def test_children_equal_brute_force(items, data):
    index = index_of(items)
    excluded = data.draw(st.sets(st.integers(0, len(items) - 1)))
    exclusion = index.exclusion(torch.tensor([[-1] * len(items), [*excluded, *[-1] * (len(items) - len(excluded))]]))
    allowed = [row for i, row in enumerate(items) if i not in excluded]
    for prefix in all_prefixes(items):
        node = node_of(index, items, prefix)
        token, child, legal = index.children(node)
        assert token[legal].tolist() == legal_tokens(prefix, items)
        low, high = index.range_of(node)
        below = {i for i, row in enumerate(items) if row[: len(prefix)] == prefix}
        assert set(index.item_of_row_N[low:high].tolist()) == below
        assert bool(index.is_decided(node)) == (len(below) == 1)
        for user, kept in ((0, items), (1, allowed)):
            mask = index.is_allowed(child, torch.full_like(child, user), exclusion) & legal
            assert token[mask].tolist() == legal_tokens(prefix, kept)
        for t, c in zip(token[legal].tolist(), child[legal], strict=True):
            assert c == node_of(index, items, (*prefix, t))


@settings(max_examples=20, deadline=None)
@given(catalogues)
def test_paths_and_settling(items):
    index = index_of(items)
    before, after = index.prefixes(torch.arange(len(items)))
    for i, row in enumerate(items):
        nodes = after[i, : len(row)]
        assert index.token_M[nodes].tolist() == list(row)
        assert index.depth_M[nodes].tolist() == list(range(1, len(row) + 1))
        assert before[i, : len(row)].tolist() == [0, *nodes[:-1].tolist()]
        assert (after[i, len(row) :] == -1).all()
        assert (before[i, len(row) :] == -1).all()
        assert index.item_of(nodes[-1]) == i
    for node in range(index.n_nodes):
        walk = node
        while index.degree_M[walk] == 1:
            walk = int(index.first_child_M[walk])
        assert int(index.settle(torch.tensor(node))) == walk


@settings(max_examples=30, deadline=None)
@given(catalogues, st.data())
def test_a_tree_of_some_items_is_the_tree_without_the_others(items, data):
    kept = sorted(data.draw(st.sets(st.integers(0, len(items) - 1), min_size=1)))
    index, rows = index_of(items).among(np.array(kept[::-1])), [items[i] for i in kept]
    for prefix in all_prefixes(rows):
        node = node_of(index_of(rows), rows, prefix)
        token, _, legal = index.children(node)
        assert token[legal].tolist() == legal_tokens(prefix, rows)
        low, high = index.range_of(node)
        below = {i for i in kept if items[i][: len(prefix)] == prefix}
        assert set(index.item_of_row_N[low:high].tolist()) == below
    there = index.row_of_item_N >= 0
    assert there.nonzero().flatten().tolist() == kept
    assert index.item_of_row_N[index.row_of_item_N[there].long()].tolist() == kept


def test_repeated_exclusions_count_once():
    index = index_of([(1, 2), (1, 3), (4, 2)])
    exclusion = index.exclusion(torch.tensor([[0, 0, -1, -1], [0, 0, 1, -1], [-1, -1, -1, -1]]))
    node = index.prefixes(torch.tensor(0))[1][0].expand(3)
    assert index.is_allowed(node, torch.arange(3), exclusion).tolist() == [True, False, True]
    assert index.exclusion(torch.full((2, 3), -1)) is None
    assert index.exclusion(None) is None


@pytest.mark.parametrize("items", [[(1, 2), (1, 2)], [(1, 2), (1, 2, 3)], [(4, 9), (1, 9), (4, 9, 9)]])
def test_equal_or_beginning_rows_are_refused(items):
    with pytest.raises(CatalogueError, match="make them distinct"):
        index_of(items)


def test_an_empty_catalogue_is_refused():
    with pytest.raises(CatalogueError, match="empty"):
        PrefixIndex.from_tokens(np.zeros((0, 3), dtype=np.int32), np.zeros(0, dtype=np.int64))


def test_a_hundred_thousand_items_take_seconds():
    random = np.random.default_rng(0)
    lengths = random.integers(5, 20, size=100_000)
    tokens = 2 + np.minimum(random.zipf(1.3, size=(100_000, 20)), 30_000).astype(np.int32)
    tokens[:, 1:4] = np.array(np.unravel_index(random.permutation(100_000), (50, 50, 40))).T + 2
    tokens[np.arange(100_000), lengths - 1] = 1
    tokens[np.arange(20) >= lengths[:, None]] = -1
    start = time.process_time()
    index = PrefixIndex.from_tokens(tokens, lengths)
    assert time.process_time() - start < 20
    held = sum(tensor.nbytes for tensor in tensors_of(index).values())
    assert held < 120e6
    assert index.degree_M.sum() == index.n_nodes - 1


@settings(max_examples=40, deadline=None)
@given(catalogues, st.data())
def test_what_is_open_is_the_same_for_all_children_and_for_one(items, data):
    """The ranges that a decoding step looks up, against one look-up a child and against the items themselves."""
    index, n = index_of(items), len(items)
    some = st.lists(st.integers(0, n - 1), max_size=n)
    left_out, chosen = data.draw(st.tuples(some, some)), data.draw(st.none() | st.tuples(some, some))
    passes = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    pad = [torch.tensor([[*row, *[-1] * (n - len(row))] for row in rows]) for rows in (left_out, chosen or ((), ()))]
    dense = data.draw(st.sampled_from([None, index.item_filter(passes)]))
    allowed = index.allowed(pad[0], dense=dense, candidates_BC=None if chosen is None else pad[1])
    node = torch.nonzero(index.degree_M > 0).squeeze(1).repeat(2)
    user = torch.arange(2).repeat_interleave(len(node) // 2)
    edges = Edges.of(index, user, node, None)
    one_by_one = index.is_allowed(edges.child_E, user[edges.state_E], allowed)
    together = edges.is_open(index, allowed)
    assert one_by_one.tolist() == ([True] * len(edges.child_E) if together is None else together.tolist())
    for edge, is_open in enumerate(one_by_one.tolist()):
        low, high = index.range_of(edges.child_E[edge])
        below, u = index.item_of_row_N[low:high].tolist(), int(user[edges.state_E[edge]])
        kept = [i for i in below if i not in left_out[u] and (dense is None or passes[i])]
        assert is_open == bool([i for i in kept if chosen is None or i in chosen[u]])
