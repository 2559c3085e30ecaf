"""What the networks over a history share: events as vectors, the profile, and how both become a user's vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmrec.simulator.factorised import LIKENESS_SCALE, UserTensors
from llmrec.simulator.features import TEXT, FeatureSpace
from llmrec.simulator.networks.parts import HEADS, VECTOR_PRIOR, ItemSide, TwoSided
from llmrec.simulator.sequence import CODES


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
        words = LIKENESS_SCALE * self.likeness[:, None] * user_SX[..., None, -TEXT:]
        return torch.cat([super().user_rows(user_SX[..., :-TEXT]), words], dim=-1)

    def penalty(self) -> Tensor:
        """Minus the log prior of the item side and of the events' free vectors."""
        return super().penalty() + VECTOR_PRIOR * self.events.free.weight.square().sum()
