"""Networks of the behaviour models: the architectures by name, what all of them answer, and fresh ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor

from llmrec.errors import ConfigError
from llmrec.seeding import stream_seed
from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.networks.crossed import CrossedNet
from llmrec.simulator.networks.dense import LogisticNet, MLPNet
from llmrec.simulator.networks.factorised import FactorisedNet, UserTensors
from llmrec.simulator.networks.history import CaserNet, HistoryNet, TransformerNet
from llmrec.simulator.networks.recurrent import GRUNet, LSTMNet
from llmrec.types import State


class Net(Protocol):
    """What the fitting asks of an architecture (a `torch.nn.Module`)."""

    def users(self, users: UserTensors) -> Tensor: ...  # noqa: D102
    def pairs(self, user_SX: Tensor, row_M: Tensor, item_M: Tensor) -> Tensor: ...  # noqa: D102
    def grid(self, user_SX: Tensor) -> Tensor: ...  # noqa: D102
    def penalty(self) -> Tensor: ...  # noqa: D102
    def parameters(self) -> Iterator[torch.nn.Parameter]: ...  # noqa: D102
    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...  # noqa: D102


Architecture = Literal["factorised", "crossed", "logistic", "mlp", "caser", "gru", "lstm", "transformer"]
_Builder = Callable[[FeatureSpace], Net]
ARCHITECTURES: dict[str, _Builder] = {
    name: cast(_Builder, net)
    for name, net in {
        "factorised": FactorisedNet,
        "crossed": CrossedNet,
        "logistic": LogisticNet,
        "mlp": MLPNet,
        "caser": CaserNet,
        "gru": GRUNet,
        "lstm": LSTMNet,
        "transformer": TransformerNet,
    }.items()
}
VALUED = frozenset(ARCHITECTURES) - {"factorised", "crossed"}
"""Architectures with a head for expected values (and one for ESCM²'s imputation)."""
REWARD_ARCHITECTURE: Architecture = "factorised"


def require_architecture(name: str) -> None:
    """Raises `ConfigError` for an unknown name."""
    if name not in ARCHITECTURES:
        raise ConfigError(f"Unknown architecture {name!r}; choose one of {', '.join(ARCHITECTURES)}.")


def fresh_net(architecture: str, space: FeatureSpace, seed: int) -> Net:
    """A network with initial weights of the stream "weights"; torch's global state is left alone."""
    # Initial weights have a stream of their own; drawing them must not move the stream of a training that goes on
    # beside.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "simulator", "weights"))
        return ARCHITECTURES[architecture](space)


def encoded(net: Net, space: FeatureSpace, states: Sequence[State]) -> UserTensors:
    """States as this network reads them: with their histories in order only where it asks for them."""
    if isinstance(net, HistoryNet):
        return UserTensors.of(space.encode(states, histories=True, window=net.window), space)
    return UserTensors.of(space.encode(states), space)
