"""The constraint of the catalogue for an engine that decodes row by row: which tokens may follow in each row.

An engine with continuous batching (vLLM) keeps requests in the rows of one table, adds, removes, moves and swaps them
between steps, and asks before each draw which logits count. What is left after `restrict` is softmaxed and drawn by
the engine: pi_F of the policy token by token, F the request's own filter.

A request's place in the prefix tree is read off its tokens at each step and never advanced by hand. A draw that the
engine throws away (the rest of a prompt is still to be read), a request that is preempted and comes back with what it
has written, or an output that is cut short therefore needs no word to this side.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmrec.catalogue.allowed import Allowed
from llmrec.catalogue.filters import Filters
from llmrec.catalogue.index import PrefixIndex
from llmrec.errors import RequestError
from llmrec.policy.edges import Edges
from llmrec.policy.filtered import FilterBook, padded

OFF = -1
"""In place of a node: the tokens are those of no item."""


class TreeWalk:
    """From tokens to nodes of a prefix tree, on the host: a step is a binary search among the children."""

    def __init__(self, index: PrefixIndex) -> None:
        host = index.to("cpu")
        self._token_M, self._first_M, self._degree_M = (
            column.numpy() for column in (host.token_M, host.first_child_M, host.degree_M)
        )
        self._index = host

    def step(self, node: int, token: int) -> int:
        """The child of `node` under `token`, or `OFF`."""
        if node == OFF:
            return OFF
        first, degree = int(self._first_M[node]), int(self._degree_M[node])
        place = bisect_left(self._token_M, token, first, first + degree)
        return place if place < first + degree and self._token_M[place] == token else OFF

    def item_of(self, tokens: Sequence[int], end_token: int) -> int | None:
        """The item that `tokens` write, with or without its end token; None where they write no whole item."""
        node = 0
        for token in tokens:
            node = self.step(node, token)
        if node != OFF and self._degree_M[node]:
            node = self.step(node, end_token)
        return None if node == OFF else int(self._index.item_of(torch.tensor(node)))


@dataclass
class _Request:
    """One row: what is asked of its item, what that leaves, and its tokens, of which `output` is the engine's own
    growing list."""

    filters: Filters | None
    allowed: Allowed | None
    begun: tuple[int, ...]
    output: Sequence[int]
    read: list[int] = field(default_factory=list)
    node: int | None = None


@dataclass(frozen=True)
class _Group:
    rows: list[int]
    allowed: Allowed | None


class ConstrainedRows:
    """Which tokens may follow in each row of an engine's batch.

    Rows that were never put, or were dropped, are left as they are.

    Args:
        book: the catalogue's prefix index on the device of the logits, and what filters look at.
        end_token: the token that ends every item.
    """

    def __init__(self, book: FilterBook, end_token: int) -> None:
        self.book, self.end_token = book, end_token
        self._walk = TreeWalk(book.index)
        self._rows: dict[int, _Request] = {}
        self._groups: list[_Group] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, row: int, filters: Filters, output: Sequence[int], begun: Sequence[int] = ()) -> None:
        """A request begins in `row`, in place of one that may be there.

        A filter that cannot be met, or not be read, leaves its request nothing: the end token alone. Ids that the
        catalogue has not are passed over, since a catalogue may change while requests wait.

        Args:
            row: of the logits.
            filters: what the item must be; bounds on a slate mean nothing here.
            output: tokens written so far, which the engine makes longer.
            begun: tokens of the item that are the end of the prompt.
        """
        asked = self._readable(filters)
        # counted once a request, and only put together when rows change
        self._rows[row] = _Request(asked, None if asked is None else self._allowed(asked), tuple(begun), output)
        self._groups = None

    def drop(self, row: int) -> None:
        """The request in `row`, if any, is gone."""
        self._groups = None if self._rows.pop(row, None) is not None else self._groups

    def move(self, source: int, target: int) -> None:
        """What is in `source` takes the place of what is in `target`."""
        moved = self._rows.pop(source, None)
        self.drop(target)
        if moved is not None:
            self._rows[target] = moved
            self._groups = None

    def swap(self, one: int, other: int) -> None:
        """Two rows change places; either may be free."""
        first, second = self._rows.pop(one, None), self._rows.pop(other, None)
        self._rows |= {other: first} if first is not None else {}
        self._rows |= {one: second} if second is not None else {}
        self._groups = None

    def restrict(self, logits_RV: Tensor) -> None:
        """Sets the logits of what no allowed item goes on with to -inf, in place.

        A row whose item is whole, whose filter leaves nothing or whose tokens are those of no item keeps the end
        token alone.

        Args:
            logits_RV: a row for each request, tokens of the model's vocabulary.
        """
        for group in self._grouped():
            rows = [row for row in group.rows if row < len(logits_RV)]
            if rows:
                self._restrict(logits_RV, group, rows)

    def _restrict(self, logits_RV: Tensor, group: _Group, rows: list[int]) -> None:
        device = logits_RV.device
        nodes = [self._node(self._rows[row]) for row in rows]
        row_G = torch.tensor(rows, device=device)
        on = [place for place, node in enumerate(nodes) if node != OFF]
        edges = Edges.of(
            self.book.index,
            torch.tensor(on, dtype=torch.long, device=device),
            torch.tensor([nodes[place] for place in on], dtype=torch.long, device=device),
            group.allowed,
        )
        row_on = row_G[torch.tensor(on, dtype=torch.long, device=device)]
        row_E, token_E = row_on[edges.state_E], edges.token_E.long()
        kept_E = logits_RV[row_E, token_E]
        logits_RV[row_G] = -torch.inf
        logits_RV[row_E, token_E] = kept_E
        bare = torch.ones(len(logits_RV), dtype=torch.bool, device=device)
        bare[row_E] = False
        bare_G = row_G[bare[row_G]]
        logits_RV[bare_G, torch.full_like(bare_G, self.end_token)] = 0.0

    def _node(self, request: _Request) -> int:
        """Where the request's tokens end in the tree."""
        if request.filters is None:
            return OFF
        known = len(request.read)
        if request.node is None or list(request.output[:known]) != request.read:
            request.node, request.read, known = 0, [], 0
            for token in request.begun:
                request.node = self._walk.step(request.node, token)
        for token in request.output[known:]:
            if token < 0:  # a place that the engine has not filled in yet, so nothing can be said of what follows
                return OFF
            request.node = self._walk.step(request.node, token)
            request.read.append(token)
        return request.node

    def _readable(self, filters: Filters) -> Filters | None:
        """The filter without bounds on a slate and without unknown ids; None where it cannot be read."""
        attributes = self.book.attributes
        known = attributes.item_index
        candidates = filters.candidates
        asked = Filters(
            filters.categories,
            filters.brands,
            filters.price,
            filters.in_stock,
            None if candidates is None else tuple(one for one in candidates if one in known),
            tuple(one for one in filters.exclude if one in known),
            without=filters.without,
            within=filters.within,
        )
        try:
            attributes.check(asked)
            if asked.attributes is not None:
                attributes.passes(asked.attributes)
        except RequestError:
            return None
        return None if asked.candidates == () else asked

    def _grouped(self) -> list[_Group]:
        """Rows whose filters can be told together; made anew only when rows have changed."""
        if self._groups is None:
            together: dict[object, list[int]] = {}
            for row, request in sorted(self._rows.items()):
                key = None if request.filters is None else self.book.group(request.filters)
                together.setdefault(key, []).append(row)
            self._groups = [
                _Group(rows, Allowed.joined([self._rows[row].allowed for row in rows])) for rows in together.values()
            ]
        return self._groups

    def _allowed(self, filters: Filters) -> Allowed | None:
        left_out = self.book.left_out(filters)
        exclude = torch.from_numpy(padded([left_out])) if len(left_out) else None
        return self.book.allowed([filters], exclude, may_be_empty=True)
