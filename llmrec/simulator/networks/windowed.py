"""Architectures "caser" (Tang and Wang 2018) and "transformer" (Vaswani et al. 2017), over the latest events."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmrec.simulator.factorised import UserTensors
from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.networks.history import HistoryNet

WINDOW = 16


class CaserNet(HistoryNet):
    """Convolutions over the matrix (events, dimensions) of the latest events.

    Horizontal filters of 2, 3 and 4 events, each kept at its strongest place, see unions of events in order;
    vertical filters are weighted sums over places (Tang and Wang 2018, section 3). Missing events are zero rows
    before the first one.
    """

    window = WINDOW
    heights = (2, 3, 4)

    def __init__(self, space: FeatureSpace, *, filters: int = 8, vertical: int = 4) -> None:
        super().__init__(space, events=32, reading=32)
        self.across = nn.ModuleList(nn.Conv1d(32, filters, height) for height in self.heights)
        self.down = nn.Linear(WINDOW, vertical, bias=False)
        self.join = nn.Linear(filters * len(self.heights) + vertical * 32, 32)

    def reading(self, users: UserTensors) -> Tensor:
        """ReLU of the joined filters; exactly zero for an empty history: (S, 32)."""
        vectors_SLE, real_SL = self.event_vectors(users)
        # the latest event stands at the last place, so that a vertical filter knows how long ago each was
        offset_S = real_SL.shape[1] - real_SL.sum(dim=1)
        place_SL = (torch.arange(real_SL.shape[1]) - offset_S[:, None]).clamp(min=0)
        late_SL = torch.arange(real_SL.shape[1]) >= offset_S[:, None]
        vectors_SLE = torch.gather(vectors_SLE, 1, place_SL[:, :, None].expand_as(vectors_SLE))
        events_SEL = (vectors_SLE * late_SL[:, :, None]).transpose(1, 2)
        strongest = [torch.relu(filters(events_SEL)).amax(dim=2) for filters in self.across]
        joined = torch.cat([*strongest, self.down(events_SEL).flatten(1)], dim=1)
        return torch.relu(self.join(joined)) * real_SL.any(dim=1)[:, None]


class TransformerNet(HistoryNet):
    """One causal block of attention over the latest events, read at the last one.

    Places are counted back from the last event, so that a longer history does not renumber the recent past.
    """

    window = WINDOW

    def __init__(self, space: FeatureSpace, *, heads: int = 2, layers: int = 1) -> None:
        super().__init__(space, events=32, reading=32)
        self.place = nn.Embedding(WINDOW, 32)
        nn.init.normal_(self.place.weight, std=0.1)
        layer = nn.TransformerEncoderLayer(
            32, heads, dim_feedforward=64, dropout=0.0, batch_first=True, norm_first=True, activation="gelu"
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def reading(self, users: UserTensors) -> Tensor:
        """The block's answer at the last event; zeros without one: (S, 32)."""
        vectors_SLE, real_SL = self.event_vectors(users)
        length_S, steps = real_SL.sum(dim=1), real_SL.shape[1]
        back_SL = (length_S[:, None] - 1 - torch.arange(steps)).clamp(min=0)
        future_LL = torch.ones(steps, steps, dtype=torch.bool).triu(1)  # padding stands last, so it is future too
        read_SLE = self.encoder(vectors_SLE + self.place(back_SL), mask=future_LL, is_causal=True)
        last_S = (length_S - 1).clamp(min=0)
        return read_SLE[torch.arange(len(last_S)), last_S] * (length_S > 0)[:, None]  # type: ignore[no-any-return]
