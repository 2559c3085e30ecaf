"""Architectures "gru" (Cho et al. 2014) and "lstm" (Hochreiter and Schmidhuber 1997) over all of a history.

They keep their reading of the past in a vector of fixed length, so an environment can feed one event at a time: the
result is that of reading the whole history again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llmrec.simulator.factorised import UserTensors
from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.networks.history import HistoryNet


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
