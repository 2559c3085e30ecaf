"""Users' events as sequences, cut into windows of tokens that a network reads.

A token is an item index, or N, the *start* of a user's sequence: what stands after it is the first event, so a user
without history has a prediction that was learnt. Rows are padded at the end: a network that looks only backwards
never sees the padding, whatever its width, and needs no mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from llmrec.errors import RequestError
from llmrec.types import IntArray


@dataclass(frozen=True)
class TokenRows:
    """Padded rows: tokens (B, L), the number of tokens of each row (B,), and the next token at each place (B, L).

    `target_BL` is -1 at padding. Rows to score have no targets (all -1).
    """

    token_BL: IntArray
    length_B: IntArray
    target_BL: IntArray


@dataclass(frozen=True)
class HeldOut:
    """Held-out events: what a network reads before each, its item (V,), and all that its user had chosen before."""

    rows: TokenRows
    target_V: IntArray
    seen: list[IntArray]

    def __len__(self) -> int:
        return len(self.target_V)


class Sequences:
    """The events of users, each user's in order of time; repeats are kept.

    Args:
        events: rows of `positives` (user, item, time, and `order` where there is one).
        n_items: N, which is also the token of the start.
    """

    def __init__(self, events: pl.DataFrame, n_items: int) -> None:
        ordered = events.sort("user", "time", maintain_order=True)
        self.n_items = n_items
        self.user_M, self.item_M, self.time_M = (ordered[c].to_numpy() for c in ("user", "item", "time"))
        known = ordered["order"] if "order" in ordered.columns else pl.Series([None] * len(ordered), dtype=pl.Int64)
        self.order_M = known.fill_null(-(2**63)).to_numpy()  # unknown ones tie
        _, self.start_U, self.count_U = np.unique(self.user_M, return_index=True, return_counts=True)

    def __len__(self) -> int:
        return len(self.item_M)

    def shuffled_ties(self, stream: np.random.Generator) -> Sequences:
        """The same events; those of one user and time without a known order in a random one."""
        found = object.__new__(Sequences)
        found.__dict__.update(self.__dict__)
        found.item_M = self.item_M[np.lexsort((stream.random(len(self)), self.order_M, self.time_M, self.user_M))]
        return found

    def before(self, cut: int) -> Sequences:
        """The events earlier than `cut` (seconds)."""
        keep_M = self.time_M < cut
        columns = {"user": self.user_M[keep_M], "item": self.item_M[keep_M], "time": self.time_M[keep_M]}
        columns["order"] = self.order_M[keep_M]
        return Sequences(pl.DataFrame(columns), self.n_items)

    def cut(self, fraction: float) -> int | None:
        """The moment that leaves the latest `fraction` of the events behind it; None where no moment does."""
        if not len(self) or not fraction:
            return None
        moment = int(np.quantile(self.time_M, 1 - fraction, method="higher"))
        return moment if moment > self.time_M.min() else None

    def windows(self, length: int, stream: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Cuts every user's sequence into windows of at most `length` tokens, so that each event is a target once.

        Where a sequence is longer than a window, the first cut is drawn anew at each call: over the epochs each event
        is predicted from few and from many events before it.

        Returns:
            First token (in `tokens`) and number of tokens of each window.
        """
        # Cuts at fixed places would give each event the same number of events before it in every epoch.
        first_U = np.where(self.count_U > length, stream.integers(1, length + 1, len(self.count_U)), length)
        windows_U = 1 + np.maximum(0, -((first_U - self.count_U) // length))
        user_W = np.repeat(np.arange(len(windows_U)), windows_U)
        within_W = np.arange(len(user_W)) - np.repeat(np.cumsum(windows_U) - windows_U, windows_U)
        low_W = np.maximum(0, first_U[user_W] + (within_W - 1) * length)
        high_W = np.minimum(first_U[user_W] + within_W * length, self.count_U[user_W])
        return self.start_U[user_W] + user_W + low_W, high_W - low_W

    def tokens(self) -> IntArray:
        """All users' tokens in a row, each user's behind a start: user u begins at `start_U[u] + u`."""
        return np.insert(self.item_M, self.start_U, self.n_items)

    def batches(self, length: int, size: int, stream: np.random.Generator) -> Iterator[TokenRows]:
        """Windows in random order, about `size` targets (at least one window) at a time."""
        shuffled = self.shuffled_ties(stream)
        first_W, count_W = shuffled.windows(length, stream)
        order_W = stream.permutation(len(first_W))
        # Batches of as many targets, not of as many windows: the size of a step does not depend on how long histories
        # are.
        group_W = (np.cumsum(count_W[order_W]) - 1) // size
        tokens = shuffled.tokens()
        for part in np.split(order_W, np.flatnonzero(np.diff(group_W)) + 1):
            if len(part):
                yield _rows(tokens, first_W[part], count_W[part])

    def held_out(self, cut: int, length: int, limit: int, stream: np.random.Generator, *, repeats: bool) -> HeldOut:
        """Events from `cut` on, each behind its user's events of strictly earlier time.

        Args:
            cut: seconds.
            length: tokens of a row.
            limit: keep a uniform sample of this many.
            stream: draws the sample.
            repeats: whether items that the user had chosen before may be targets.
        """
        at = np.flatnonzero(self.time_M >= cut)
        group_M = np.concatenate(([0], np.cumsum((np.diff(self.user_M) != 0) | (np.diff(self.time_M) != 0))))
        # Events of one moment are a set; none of them is known when another is predicted.
        first_M = np.searchsorted(group_M, group_M)  # the first event of the same user and time
        user_M = np.repeat(np.arange(len(self.count_U)), self.count_U)
        if not repeats:
            at = np.array(
                [m for m in at if self.item_M[m] not in self._past(int(m), first_M, user_M)], dtype=np.int64
            )
        if len(at) > limit:
            at = np.sort(stream.choice(at, size=limit, replace=False))
        count_V = first_M[at] - self.start_U[user_M[at]] + 1
        kept_V = np.minimum(count_V, length)
        rows = _rows(self.tokens(), self.start_U[user_M[at]] + user_M[at] + count_V - kept_V, kept_V)
        return HeldOut(rows, self.item_M[at], [self._past(int(m), first_M, user_M) for m in at])

    def _past(self, event: int, first_M: IntArray, user_M: IntArray) -> IntArray:
        past: IntArray = self.item_M[self.start_U[user_M[event]] : first_M[event]]
        return past


def latest(items: Sequence[Sequence[int]], n_items: int, length: int) -> TokenRows:
    """The latest `length` tokens of each list of item indices behind its start; targets are all -1.

    Raises:
        RequestError: an item outside the catalogue, named with its row.
    """
    kept = [[n_items, *row][-length:] for row in items]
    for number, row in enumerate(items):
        if wrong := [item for item in row if not 0 <= item < n_items]:
            raise RequestError(f"State {number} holds item index {wrong[0]}; use indices from 0 to {n_items - 1}.")
    length_B = np.array([len(tokens) for tokens in kept], dtype=np.int64)
    token_BL = np.full((len(kept), int(length_B.max(initial=1))), n_items, dtype=np.int64)
    for number, tokens in enumerate(kept):
        token_BL[number, : len(tokens)] = tokens
    return TokenRows(token_BL, length_B, np.full_like(token_BL, -1))


def _rows(tokens: IntArray, first_B: IntArray, length_B: IntArray) -> TokenRows:
    """The rows that begin at `first_B` of `tokens`; a row's target is the token after it, the last row's end -1."""
    place_L = np.arange(int(length_B.max(initial=1)))
    inside_BL = place_L < length_B[:, None]
    at_BL = np.where(inside_BL, first_B[:, None] + place_L, first_B[:, None])
    following = np.append(tokens[1:], -1)
    return TokenRows(tokens[at_BL], length_B, np.where(inside_BL, following[at_BL], -1))
