"""Networks over a history: events as vectors, the profile, and how both become a user's vectors.

Architectures "caser" (Tang and Wang 2018) and "transformer" (Vaswani et al. 2017) read the latest events; those that
carry a state from event to event are in `recurrent`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmrec.simulator.features import TEXT, FeatureSpace
from llmrec.simulator.networks.factorised import LIKENESS_SCALE, UserTensors
from llmrec.simulator.networks.parts import HEADS, VECTOR_PRIOR, ItemSide, TwoSided
from llmrec.simulator.sequence import CODES

WINDOW = 16


class Events(nn.Module):
    """An event as a vector: text and other features of its item plus a free vector, turned by its feedback."""

    def __init__(self, space: FeatureSpace, width: int) -> None:
        super().__init__()
        known = len(space.known)
        self.known = known
        self.features = nn.Linear(space.item_NF.shape[1], width, bias=False)
        self.free = nn.Embedding(known + 1, width, padding_idx=known)
        self.scale = nn.Embedding(len(CODES), width)
        self.shift = nn.Embedding(len(CODES), width)
        nn.init.normal_(self.free.weight, std=0.1)
        nn.init.ones_(self.scale.weight)
        nn.init.normal_(self.shift.weight, std=0.1)
        self.free.weight.data[known] = 0

    def forward(self, side: ItemSide, item: Tensor, code: Tensor) -> Tensor:
        """Vectors of events (any shape): (..., width); an item that came after fitting has no free part."""
        item_NF: Tensor = side.item_NF  # type: ignore[assignment]
        known_N: Tensor = side.known_N  # type: ignore[assignment]
        vector = self.features(item_NF[item]) + self.free(known_N[item])
        # A feedback turns the item's vector (scale) and moves it (shift), so that a click and a skip of one item may
        # say opposite things without a vector for every pair.
        return vector * self.scale(code) + self.shift(code)  # type: ignore[no-any-return]


class HistoryNet(TwoSided):
    """Base of the sequence architectures: users = W [reading of the history, profile text] + likeness of the profile.

    The profile is what does not change in a session, so an environment computes it once (`still`), and from then on
    only the reading of the history moves.
    """

    reads_history = True
    window: int | None = None
    """Events that are read; None reads them all."""

    def __init__(self, space: FeatureSpace, *, width: int = 16, events: int = 32, reading: int = 32) -> None:
        super().__init__(space, width)
        self.events = Events(space, events)
        self.profile = space.profile_text.dimension + TEXT
        self.read = nn.Linear(reading, HEADS * (width + 1))
        self.person = nn.Linear(self.profile + 1, HEADS * (width + 1))
        self.likeness = nn.Parameter(torch.zeros(HEADS))
        self.missing = space.user_width - 1  # the column that says that there is no profile

    def still(self, users: UserTensors) -> Tensor:
        """The share of profile and context: (S, HEADS * (D + 1))."""
        words_SP = users.dense_SF[:, : self.profile]
        flag_S1 = users.dense_SF[:, self.missing :]
        return self.person(torch.cat([words_SP, flag_S1], dim=1))  # type: ignore[no-any-return]

    def reading(self, users: UserTensors) -> Tensor:
        """The history of each state as a vector: (S, reading)."""
        raise TypeError(f"{type(self).__name__} must say how it reads a history.")

    def users(self, users: UserTensors) -> Tensor:
        """Vector and offset of each state and head, then the profile in the items' text space."""
        return torch.cat([self.still(users) + self.read(self.reading(users)), self.words(users)], dim=1)

    def words(self, users: UserTensors) -> Tensor:
        """The profile in the space of the items' texts: (S, TEXT)."""
        return users.dense_SF[:, self.profile - TEXT : self.profile]

    def event_vectors(self, users: UserTensors) -> tuple[Tensor, Tensor]:
        """Vectors (S, L, width) of the events and which of them are real (S, L)."""
        assert users.item_SL is not None
        assert users.code_SL is not None
        return self.events(self.items_side, users.item_SL, users.code_SL), users.code_SL > 0

    def item_table(self, item_M: Tensor) -> Tensor:
        """Vector, 1, bias and text of items: (..., HEADS, D + 2 + TEXT)."""
        item_NF: Tensor = self.items_side.item_NF  # type: ignore[assignment]
        text = item_NF[item_M][..., None, :TEXT].expand(*item_M.shape, HEADS, TEXT)
        return torch.cat([super().item_table(item_M), text], dim=-1)

    def user_rows(self, user_SX: Tensor) -> Tensor:
        """Users in the space of `item_table`."""
        # The likeness of profile and item text as further columns of the inner product, with one learnt weight a
        # head.
        words = LIKENESS_SCALE * self.likeness[:, None] * user_SX[..., None, -TEXT:]
        return torch.cat([super().user_rows(user_SX[..., :-TEXT]), words], dim=-1)

    def penalty(self) -> Tensor:
        """Minus the log prior of the item side and of the events' free vectors."""
        return super().penalty() + VECTOR_PRIOR * self.events.free.weight.square().sum()


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
