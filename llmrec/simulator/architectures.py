"""The architectures of behaviour models by name, and their fresh networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch

from llmrec.errors import ConfigError
from llmrec.seeding import stream_seed
from llmrec.simulator.crossed import CrossedNet
from llmrec.simulator.factorised import FactorisedNet, UserTensors
from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.fitting import Net
from llmrec.simulator.networks.dense import LogisticNet, MLPNet
from llmrec.simulator.networks.history import HistoryNet
from llmrec.simulator.networks.recurrent import GRUNet, LSTMNet
from llmrec.simulator.networks.windowed import CaserNet, TransformerNet
from llmrec.types import State

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
JUDGE_ARCHITECTURE: Architecture = "crossed"


def require_architecture(name: str) -> None:
    """Raises `ConfigError` for an unknown name."""
    if name not in ARCHITECTURES:
        raise ConfigError(f"Unknown architecture {name!r}; choose one of {', '.join(ARCHITECTURES)}.")


def fresh_net(architecture: str, space: FeatureSpace, seed: int) -> Net:
    """A network with initial weights of the stream "weights"; torch's global state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "simulator", "weights"))
        return ARCHITECTURES[architecture](space)


def encoded(net: Net, space: FeatureSpace, states: Sequence[State]) -> UserTensors:
    """States as this network reads them: with their histories in order only where it asks for them."""
    if isinstance(net, HistoryNet):
        return UserTensors.of(space.encode(states, histories=True, window=net.window), space)
    return UserTensors.of(space.encode(states), space)
