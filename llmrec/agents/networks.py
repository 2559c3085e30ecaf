"""Networks of stable-baselines3 whose actions are items: values and logits are inner products with item vectors.

A state network gives a vector u(s); an item's value is u(s) . W e + b with the item's embedding e (tuned or not) and
a bias b of its own, so that hundreds or thousands of items share what is learned of one another. Items that a user
has seen get `NEVER`, which no maximum takes and no softmax draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from llmrec.agents.features import Float32Array
from llmrec.errors import ConfigError
from llmrec.types import IntArray

try:
    from stable_baselines3.common.distributions import CategoricalDistribution
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
    from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
except ImportError:
    raise ConfigError(
        "Deep agents need stable-baselines3, which is not installed: pip install llmrec[agents]."
    ) from None

NEVER = -1e9
"""Value or logit of an item that may not be shown; finite, as 0 times an infinity is no number."""
FEATURE, SEEN = "feature", "seen"


def observation_space(width: int, seen: int, n_items: int) -> spaces.Dict:
    """Features (D,) and seen items (S,), -1 where there is none."""
    return spaces.Dict(
        {
            FEATURE: spaces.Box(-np.inf, np.inf, (width,), np.float32),
            SEEN: spaces.Box(-1, n_items - 1, (seen,), np.int32),
        }
    )


def as_observation(feature_BD: Float32Array, seen_BS: IntArray, width: int) -> dict[str, Any]:
    """Arrays of `observation_space`; lists of seen items are filled up to `width` with -1."""
    seen_BW = np.full((len(seen_BS), width), -1, dtype=np.int32)
    seen_BW[:, : seen_BS.shape[1]] = seen_BS
    return {FEATURE: feature_BD, SEEN: seen_BW}


def without_seen(value_BN: torch.Tensor, seen_BS: torch.Tensor) -> torch.Tensor:
    """`value_BN` with `NEVER` at each row's seen items."""
    index_BS = seen_BS.long()
    n_items = value_BN.shape[1]
    # -1 goes to one column more, which is cut off again: `scatter_` takes no negative index
    index_BS = torch.where(index_BS < 0, torch.full_like(index_BS, n_items), index_BS)
    hidden_BN = torch.zeros(len(value_BN), n_items + 1, dtype=torch.bool, device=value_BN.device)
    hidden_BN.scatter_(1, index_BS, True)
    return value_BN.masked_fill(hidden_BN[:, :n_items], NEVER)


class FeatureColumn(BaseFeaturesExtractor):  # type: ignore[misc]
    """The features of an observation, as they are."""

    def __init__(self, observation_space: spaces.Dict) -> None:
        super().__init__(observation_space, int(observation_space[FEATURE].shape[0]))

    def forward(self, observation: dict[str, torch.Tensor]) -> torch.Tensor:
        """(B, D)."""
        return observation[FEATURE]


class ItemHead(nn.Module):
    """u (B, H) to u . W e + b for every item, (B, N)."""

    def __init__(self, hidden: int, item_NE: Float32Array, tuned: bool) -> None:
        super().__init__()
        item = torch.as_tensor(np.array(item_NE, dtype=np.float32))
        self.item_NE = nn.Parameter(item) if tuned else nn.Buffer(item)
        self.project = nn.Linear(hidden, item.shape[1], bias=False)
        # popularity of its own, which the inner product need not spend a dimension on
        self.bias_N = nn.Parameter(torch.zeros(len(item)))

    def forward(self, latent_BH: torch.Tensor) -> torch.Tensor:
        """Values or logits of all items."""
        out_BN: torch.Tensor = self.project(latent_BH) @ self.item_NE.T + self.bias_N
        return out_BN


class ItemValues(nn.Module):
    """Q(s, .): an item head over a trunk, or with `dueling` V(s) + A(s, .) - mean of A(s, .) over all items."""

    def __init__(self, width: int, hidden: Sequence[int], item_NE: Float32Array, tuned: bool, dueling: bool) -> None:
        super().__init__()
        trunk = create_mlp(width, -1, list(hidden), nn.ReLU)
        self.trunk = nn.Sequential(*trunk)
        self.head = ItemHead(hidden[-1], item_NE, tuned)
        self.level = nn.Linear(hidden[-1], 1) if dueling else None

    def forward(self, feature_BD: torch.Tensor) -> torch.Tensor:
        """(B, N)."""
        latent_BH = self.trunk(feature_BD)
        out_BN: torch.Tensor = self.head(latent_BH)
        if self.level is None:
            return out_BN
        # Wang et al. 2016, equation 9: less the mean, since V + A alone leaves a constant undetermined between them
        joined_BN: torch.Tensor = self.level(latent_BH) + out_BN - out_BN.mean(dim=1, keepdim=True)
        return joined_BN


class ItemQNetwork(QNetwork):  # type: ignore[misc]
    """stable-baselines3's Q-network with values over items; seen ones have `NEVER`."""

    def __init__(self, *args: Any, item_NE: Float32Array, tuned: bool, dueling: bool, **more: Any) -> None:
        super().__init__(*args, **more)
        self.q_net = ItemValues(self.features_dim, self.net_arch, item_NE, tuned, dueling)

    def forward(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Q of all items, (B, N)."""
        return without_seen(self.q_net(obs[FEATURE].float()), obs[SEEN])


class ItemDQNPolicy(DQNPolicy):  # type: ignore[misc]
    """A Q-network and its target network over items."""

    def __init__(
        self, *args: Any, item_NE: Float32Array, tuned: bool = True, dueling: bool = False, **more: Any
    ) -> None:
        self.own: dict[str, Any] = {"item_NE": item_NE, "tuned": tuned, "dueling": dueling}
        super().__init__(*args, features_extractor_class=FeatureColumn, **more)

    def make_q_net(self) -> ItemQNetwork:
        """One of the two networks."""
        # each network its own extractor, as stable-baselines3 makes them
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        network: ItemQNetwork = ItemQNetwork(**arguments, **self.own).to(self.device)
        return network

    def item_values(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Q of all items, (B, N)."""
        values_BN: torch.Tensor = self.q_net(obs)
        return values_BN


class ItemActorCritic(ActorCriticPolicy):  # type: ignore[misc]
    """Actor and critic; the actor draws among the items that were not seen, in proportion to exp(logit)."""

    def __init__(self, *args: Any, item_NE: Float32Array, tuned: bool = True, **more: Any) -> None:
        self.own = (item_NE, tuned)
        super().__init__(*args, features_extractor_class=FeatureColumn, **more)

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        self.action_net = ItemHead(self.mlp_extractor.latent_dim_pi, *self.own)
        self.action_net.project.weight.data.mul_(0.1)  # near the uniform policy, as the head it takes the place of
        # made anew, since the optimiser of `super` holds the head that was replaced
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _logits(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        latent_BH = self.mlp_extractor.forward_actor(obs[FEATURE].float())
        return without_seen(self.action_net(latent_BH), obs[SEEN])

    def get_distribution(self, obs: dict[str, torch.Tensor]) -> CategoricalDistribution:
        """pi(. | s) over the items."""
        return self.action_dist.proba_distribution(action_logits=self._logits(obs))

    def predict_values(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        """V(s), (B, 1)."""
        value_B1: torch.Tensor = self.value_net(self.mlp_extractor.forward_critic(obs[FEATURE].float()))
        return value_B1

    def forward(self, obs: dict[str, torch.Tensor], deterministic: bool = False) -> tuple[torch.Tensor, ...]:
        """Items, values and log-probabilities."""
        distribution = self.get_distribution(obs)
        action_B = distribution.get_actions(deterministic=deterministic)
        return action_B, self.predict_values(obs), distribution.log_prob(action_B)

    def evaluate_actions(self, obs: dict[str, torch.Tensor], actions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Values, log-probabilities of `actions`, entropies."""
        distribution = self.get_distribution(obs)
        return self.predict_values(obs), distribution.log_prob(actions), distribution.entropy()

    def item_values(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        """log pi of all items, (B, N)."""
        return torch.log_softmax(self._logits(obs), dim=1)
