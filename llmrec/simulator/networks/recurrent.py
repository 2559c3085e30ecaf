"""Architectures "gru" (Cho et al. 2014) and "lstm" (Hochreiter and Schmidhuber 1997) over all of a history.

They keep their reading of the past in a vector of fixed length. So an environment can feed one event at a time
(`LiveState`), with the result of reading the whole history again, and a turn costs the same however long that is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmrec.errors import DataError
from llmrec.simulator.features import TEXT, FeatureSpace
from llmrec.simulator.log import require_indices
from llmrec.simulator.networks.factorised import LIKENESS_SCALE, UserTensors
from llmrec.simulator.networks.history import HistoryNet
from llmrec.simulator.sequence import CODES
from llmrec.types import FloatArray, IntArray

SHOWN_HEADS = 2  # click and conversion
_TABLE_ITEMS = 300_000  # catalogues up to this size are turned into vectors once, above that item by item


class RecurrentNet(HistoryNet):
    """A recurrent network; the carried state is (S, C): the hidden vector, and for an LSTM its cell after it."""

    def __init__(self, space: FeatureSpace, cell: type[nn.RNNBase], hidden: int = 32) -> None:
        super().__init__(space, events=32, reading=hidden)
        self.hidden = hidden
        self.cell = cell(32, hidden, batch_first=True)  # type: ignore[call-arg, arg-type]
        self._table: Tensor | None = None

    @property
    def carried(self) -> int:
        """C, the length of the carried state."""
        return self.hidden * (2 if isinstance(self.cell, nn.LSTM) else 1)

    def reading(self, users: UserTensors) -> Tensor:
        """Hidden vector after the last event of each state; zeros without one: (S, hidden)."""
        return self.carry(users)[:, : self.hidden]

    def carry(self, users: UserTensors) -> Tensor:
        """Carried state after the last event of each state: (S, C)."""
        vectors_SLE, real_SL = self.event_vectors(users)
        length_S = real_SL.sum(dim=1)
        some = length_S > 0
        found = torch.zeros(len(length_S), self.carried)
        if not bool(some.any()):
            return found
        # Packed rows end at their own last event, so the final state is not one of padding; a state without events
        # keeps the zeros that a recurrent network starts from.
        packed = nn.utils.rnn.pack_padded_sequence(
            vectors_SLE[some], length_S[some], batch_first=True, enforce_sorted=False
        )
        _, last = self.cell(packed)
        parts = last if isinstance(last, tuple) else (last,)
        return found.index_put((some.nonzero()[:, 0],), torch.cat([part[0] for part in parts], dim=1))

    def live_table(self, rows: Callable[[RecurrentNet, Tensor], Tensor]) -> Tensor:
        """`rows(self, every item)`, computed once for a fitted network; loading weights forgets it."""
        if self._table is None:
            self._table = rows(self, torch.arange(self.items_side.count))
        return self._table

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As in torch; the table of items is forgotten."""
        self._table = None
        return super().load_state_dict(*args, **kwargs)

    def advance(self, carried_SC: Tensor, item_S: Tensor, code_S: Tensor) -> Tensor:
        """Carried state after one more event of each user; code 0 is no event and changes nothing."""
        vector_SE = self.events(self.items_side, item_S, code_S)
        # The cell of the fitted layer itself: a step is what `carry` does at its last event, so carried and read
        # histories agree.
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        weights: Any = tuple(getattr(self.cell, name) for name in names)
        if isinstance(self.cell, nn.LSTM):
            halves = (carried_SC[:, : self.hidden].contiguous(), carried_SC[:, self.hidden :].contiguous())
            fresh = torch.cat(torch.lstm_cell(vector_SE, halves, *weights), dim=1)
        else:
            fresh = torch.gru_cell(vector_SE, carried_SC, *weights)
        return torch.where((code_S > 0)[:, None], fresh, carried_SC)


class GRUNet(RecurrentNet):
    """Gated recurrent unit over the history."""

    def __init__(self, space: FeatureSpace) -> None:
        super().__init__(space, nn.GRU)


class LSTMNet(RecurrentNet):
    """Long short-term memory over the history."""

    def __init__(self, space: FeatureSpace) -> None:
        super().__init__(space, nn.LSTM)


@dataclass(frozen=True)
class LiveState:
    """B users: the carried vector (B, C), the share of the profile (B, 2 * (D + 1)), its text (B, TEXT); float32."""

    carried_BC: Tensor
    still_BX: Tensor
    words_BT: Tensor

    def __len__(self) -> int:
        return len(self.carried_BC)

    def take(self, rows: slice | IntArray) -> LiveState:
        """The users at `rows`: views for a slice."""
        at = _place(rows)
        return LiveState(self.carried_BC[at], self.still_BX[at], self.words_BT[at])

    def put(self, rows: slice | IntArray, other: LiveState) -> None:
        """Overwrites the users at `rows`, for sessions that end and begin anew."""
        at = _place(rows)
        self.carried_BC[at], self.still_BX[at], self.words_BT[at] = other.carried_BC, other.still_BX, other.words_BT


def _place(rows: slice | IntArray) -> slice | Tensor:
    return rows if isinstance(rows, slice) else torch.from_numpy(np.asarray(rows))


@torch.no_grad()
def started(net: RecurrentNet, users: UserTensors) -> LiveState:
    """The state of users after their histories."""
    # All parts of the user's vectors that no event changes; they are added to what the carried state gives at each
    # turn.
    still = net.still(users)[:, : SHOWN_HEADS * (net.width + 1)]  # the heads of click and conversion stand first
    return LiveState(net.carry(users), still.contiguous(), net.words(users).contiguous())


@torch.no_grad()
def advanced(net: RecurrentNet, state: LiveState, items: IntArray, feedback: IntArray) -> LiveState:
    """The state after one event a user (B,), or after the events of a slate in order (B, K)."""
    items_BK, codes_BK = _events(net, state, items, feedback)
    carried_BC = state.carried_BC
    for k in range(items_BK.shape[1]):
        carried_BC = net.advance(carried_BC, items_BK[:, k], codes_BK[:, k])
    return LiveState(carried_BC, state.still_BX, state.words_BT)


def _events(net: RecurrentNet, state: LiveState, items: IntArray, feedback: IntArray) -> tuple[Tensor, Tensor]:
    items, feedback = np.asarray(items), np.asarray(feedback)
    if items.shape != feedback.shape or items.ndim not in (1, 2) or len(items) != len(state):
        raise DataError(
            f"Items of shape {items.shape} and feedback of shape {feedback.shape} do not fit {len(state)} users."
        )
    require_indices(items, net.items_side.count)
    if feedback.size and (feedback.min() < 0 or feedback.max() >= len(CODES)):
        raise DataError(f"Feedback code {feedback.max()} is unknown; use {CODES}.")
    # An empty place is no event, whatever feedback its row holds.
    codes = np.where(items < 0, 0, feedback)
    pair = (torch.from_numpy(np.maximum(items, 0).astype(np.int64)), torch.from_numpy(codes.astype(np.int64)))
    return (pair[0][:, None], pair[1][:, None]) if items.ndim == 1 else pair


@torch.no_grad()
def live_logits(net: RecurrentNet, state: LiveState, items_BK: IntArray) -> FloatArray:
    """Logits of click and conversion of the items: (B, K, 2)."""
    items_BK = np.asarray(items_BK)
    if items_BK.ndim != 2 or len(items_BK) != len(state):
        raise DataError(f"Items of shape {items_BK.shape} do not fit {len(state)} users; give one row a user.")
    require_indices(items_BK, net.items_side.count)
    # Places of -1 are computed as item 0 and thrown away by the caller: rows of one length are faster than a mask.
    item_BK = torch.from_numpy(np.maximum(items_BK, 0).astype(np.int64))
    read_B2X = _read(net, state)
    rows_BX = torch.cat([read_B2X[..., : net.width].flatten(1), LIKENESS_SCALE * state.words_BT], dim=1)
    if net.items_side.count <= _TABLE_ITEMS:
        found_BKX = net.live_table(_item_rows)[item_BK.ravel()].reshape(*item_BK.shape, -1)
    else:
        distinct, place = torch.unique(item_BK, return_inverse=True)
        found_BKX = _item_rows(net, distinct)[place]
    width = net.width * SHOWN_HEADS
    bias_BK2, scale_2 = found_BKX[..., -SHOWN_HEADS:], net.likeness[:SHOWN_HEADS]
    # logit_h = (read_h + still_h) . v_h(item) + offset_h + b_h(item) + likeness_h * LIKENESS_SCALE * profile .
    # text(item), from one product a pair: the first `width` columns are both heads' vectors, the rest is the text.
    product_BKX = found_BKX[..., :-SHOWN_HEADS] * rows_BX[:, None]
    own_BK2 = product_BKX[..., :width].reshape(*item_BK.shape, SHOWN_HEADS, net.width).sum(-1)
    like_BK2 = product_BKX[..., width:].sum(-1, keepdim=True) * scale_2
    offset_B12 = read_B2X[:, None, :, net.width]
    logits: FloatArray = (own_BK2 + like_BK2 + bias_BK2 + offset_B12).double().numpy()
    return logits


def _read(net: RecurrentNet, state: LiveState) -> Tensor:
    """Vector and offset of each user and head: (B, 2, D + 1)."""
    size = SHOWN_HEADS * (net.width + 1)  # heads stand first, so that the rest need not be computed
    weight, bias = net.read.weight[:size], net.read.bias[:size]
    moved_BX = torch.addmm(bias, state.carried_BC[:, : net.hidden], weight.T)
    return (moved_BX + state.still_BX).reshape(-1, SHOWN_HEADS, net.width + 1)


def _item_rows(net: RecurrentNet, item_M: Tensor) -> Tensor:
    """Vectors of both heads, text, biases of both heads: (M, 2 D + TEXT + 2)."""
    side = net.items_side
    item_NF: Tensor = side.item_NF  # type: ignore[assignment]
    vectors = side.vectors(item_M)[:, : SHOWN_HEADS * net.width]
    return torch.cat([vectors, item_NF[item_M][:, :TEXT], side.biases(item_M)[:, :SHOWN_HEADS]], dim=1)
