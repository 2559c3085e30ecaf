"""The catalogue as a constraint on an engine's rows: what it lets through, by enumeration of every prefix."""

from __future__ import annotations

import itertools

import pytest
import torch

from llmrec.catalogue.allowed import Allowed
from llmrec.catalogue.filters import Attributes, Filters
from llmrec.policy.constrained_rows import OFF, ConstrainedRows, TreeWalk
from llmrec.policy.filtered import FilterBook
from llmrec.types import Item
from tests.policy.tiny import ITEMS, VOCABULARY, all_prefixes, index_of, legal_tokens

END = 1
KINDS = ("tea", "cup")
GOODS = [Item(f"i{n}", f"title {n}", categories=(KINDS[n % 2],), price=float(n)) for n in range(len(ITEMS))]
FILTERS = {
    Filters(): range(12),
    Filters(exclude=("i1", "i7", "gone")): [n for n in range(12) if n not in (1, 7)],
    Filters(exclude=("i0", "i1", "i2", "i3", "i4", "i5")): range(6, 12),
    Filters(candidates=("i4", "i5", "i9", "unknown")): [4, 5, 9],
    Filters(candidates=("i4", "i5"), exclude=("i4",)): [5],
    Filters(categories=("cup",)): [1, 3, 5, 7, 9, 11],
    Filters(categories=("cup",), price=(4.0, 8.0), exclude=("i5",)): [7],
}


@pytest.fixture
def rows():
    return ConstrainedRows(FilterBook(index_of(), Attributes.of(GOODS)), END)


def let_through(rows, count):
    """Tokens whose logits are left in each row, and that these are left as they were."""
    logits = torch.randn(count, VOCABULARY)
    before = logits.clone()
    rows.restrict(logits)
    found = []
    for row in range(count):
        tokens = torch.isfinite(logits[row]).nonzero().flatten().tolist()
        assert tokens == [END] or torch.equal(logits[row, tokens], before[row, tokens])
        found.append(tokens)
    return found


def test_every_prefix_under_every_filter_goes_on_as_counted_by_hand(rows):
    cases = [(f, kept, p) for f, kept in FILTERS.items() for p in sorted(all_prefixes(ITEMS))]
    for row, (filters, _, prefix) in enumerate(cases):
        half = len(prefix) // 2  # some of the item may stand in the prompt
        rows.put(row, filters, list(prefix[half:]), prefix[:half])
    found = let_through(rows, len(cases))
    open_ones = 0
    for tokens, (_, kept, prefix) in zip(found, cases, strict=True):
        legal = legal_tokens(prefix, [ITEMS[n] for n in kept])
        open_ones += bool(legal)
        assert tokens == (legal or [END])
    assert open_ones > 60


def test_a_request_without_an_item_left_or_without_the_catalogue_gets_the_end_alone(rows):
    nothing = [
        Filters(exclude=tuple(f"i{n}" for n in range(12))),
        Filters(candidates=()),
        Filters(candidates=("unknown",)),
        Filters(categories=("no such",)),
        Filters(price=(5.0, 2.0)),
        Filters(in_stock=True),  # no stock is known
    ]
    for row, filters in enumerate(nothing):
        rows.put(row, filters, [])
    rows.put(6, Filters(), [5, 99])  # off the tree
    rows.put(7, Filters(), [5, 6, END])  # a whole item
    rows.put(8, Filters(), [5, -1])  # not filled in yet
    assert let_through(rows, 9) == [[END]] * 9


def test_rows_that_ask_for_nothing_are_left_as_they_are(rows):
    rows.put(1, Filters(), [])
    logits = torch.randn(3, VOCABULARY)
    before = logits.clone()
    rows.restrict(logits)
    assert torch.equal(logits[[0, 2]], before[[0, 2]])
    rows.drop(1)
    logits = before.clone()
    rows.restrict(logits)
    assert torch.equal(logits, before)
    assert not len(rows)


def test_outputs_are_read_where_they_are_and_may_shrink_or_be_filled_in(rows):
    output = []
    rows.put(0, Filters(), output)
    assert let_through(rows, 1) == [[5, 20, 30, 40, 41]]
    output += [5, 8]
    assert let_through(rows, 1) == [[9]]
    output += [-1]
    assert let_through(rows, 1) == [[END]]
    output[-1] = 9
    assert let_through(rows, 1) == [[10]]
    del output[1:]
    assert let_through(rows, 1) == [[END, 6, 8]]
    output[0] = 41
    assert let_through(rows, 1) == [[6, 7]]


def test_rows_move_and_swap_as_the_batch_does(rows):
    """Against a list of the same requests that is permuted by hand; free rows take part."""
    prefixes = [(5,), (20, 21), (41,), (30,)]
    table = [*prefixes, None, None]
    for row, prefix in enumerate(prefixes):
        rows.put(row, Filters(), list(prefix))

    def expected():
        return [legal_tokens(p, ITEMS) if p is not None else list(range(VOCABULARY)) for p in table]

    for one, other in itertools.permutations(range(6), 2):
        rows.swap(one, other)
        table[one], table[other] = table[other], table[one]
        assert let_through(rows, 6) == expected()
    for source, target in ((4, 0), (5, 1), (0, 3), (2, 4)):
        rows.move(source, target)
        table[target], table[source] = table[source], None
        assert let_through(rows, 6) == expected()
    rows.put(4, Filters(candidates=("i11",)), [])  # in place of what may be there
    assert let_through(rows, 6)[4] == [41]


def test_written_tokens_are_read_back_as_their_item():
    walk = TreeWalk(index_of())
    for n, tokens in enumerate(ITEMS):
        assert walk.item_of(tokens, END) == walk.item_of(tokens[:-1], END) == n
    assert [walk.item_of(tokens, END) for tokens in ((), (END,), (5, 8), (5, 6, 7, END, END), (99,))] == [None] * 5
    assert walk.step(OFF, 5) == OFF


def test_filters_told_one_by_one_are_those_of_a_batch():
    index = index_of()
    passes = torch.tensor([n % 3 != 0 for n in range(12)])
    exclude = torch.tensor([[1, 2, 3, -1], [-1, -1, -1, -1], [6, 7, -1, -1], [0, 1, 2, 4]])
    candidates = torch.tensor([[1, 5, 8], [2, -1, -1], [6, 7, -1], [10, 11, 4]])
    node = torch.arange(index.n_nodes).expand(4, -1)
    user = torch.arange(4).unsqueeze(1).expand_as(node)
    for dense, chosen in itertools.product((None, index.item_filter(passes)), (None, candidates)):
        batch = index.allowed(exclude, dense=dense, candidates_BC=chosen)
        alone = [
            index.allowed(exclude[[b]], dense=dense, candidates_BC=None if chosen is None else chosen[[b]])
            for b in range(4)
        ]
        joined = Allowed.joined(alone)
        assert torch.equal(joined.is_open(node, user), batch.is_open(node, user))
    assert Allowed.joined([None, None]) is None
