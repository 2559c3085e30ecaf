"""Settings of the classic agents, refused by name where they cannot work."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from llmrec.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RLSettings:
    """What all agents share.

    `transitions` is the budget of (state, item, reward) steps over all users; `users` are met side by side; `seconds`
    ends the training early, at a cost: a run that was cut off by the clock cannot be repeated to the bit.
    """

    transitions: int = 50_000
    users: int = 32
    gamma: float = 0.95
    seconds: float | None = None

    def __post_init__(self) -> None:
        self._at_least(1, "transitions", "users")
        self._share("gamma")
        if self.seconds is not None and not self.seconds > 0:
            raise ConfigError(f"Key 'agents.seconds' is {self.seconds}, but it must be above 0 or null.")

    def tree(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def _at_least(self, least: float, *keys: str) -> None:
        for key in keys:
            if not getattr(self, key) >= least:
                raise ConfigError(f"Key 'agents.{key}' is {getattr(self, key)}, but it must be {least} or more.")

    def _share(self, *keys: str) -> None:
        for key in keys:
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(f"Key 'agents.{key}' is {getattr(self, key)}, but it must lie in 0..1.")

    def _positive(self, *keys: str) -> None:
        for key in keys:
            if not getattr(self, key) > 0:
                raise ConfigError(f"Key 'agents.{key}' is {getattr(self, key)}, but it must be above 0.")


@dataclass(frozen=True, kw_only=True)
class ExploringSettings(RLSettings):
    """Epsilon-greedy exploration: from `epsilon` down in a line to `epsilon_end` over the share `exploration`."""

    epsilon: float = 1.0
    epsilon_end: float = 0.05
    exploration: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._share("epsilon", "epsilon_end", "exploration")

    def epsilon_at(self, done: float) -> float:
        """P(a random item) when the share `done` of the budget is used up."""
        if done >= self.exploration:
            return self.epsilon_end
        return self.epsilon + (self.epsilon_end - self.epsilon) * done / self.exploration


@dataclass(frozen=True, kw_only=True)
class TabularSettings(ExploringSettings):
    """Q-learning (Watkins 1989) and SARSA (Rummery and Niranjan 1994) over clusters of states.

    A cell that was met n times moves by `learning_rate` / n ** `decay` of its error: `decay` 1 takes means, above 0.5
    meets the conditions of Robbins and Monro, 0 never settles but follows what changes.
    """

    algorithm: Literal["q-learning", "sarsa"] = "q-learning"
    clusters: int = 50
    """Of states, by k-means over their features."""
    item_clusters: int | None = None
    """Actions: clusters of items by k-means over their embeddings; None takes every item for an action."""
    learning_rate: float = 1.0
    decay: float = 0.6
    initial: float = 0.0
    """Every cell at first; above what rewards reach it drives exploration by itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.algorithm not in ("q-learning", "sarsa"):
            raise ConfigError(f"Key 'agents.algorithm' is {self.algorithm!r}; choose q-learning or sarsa.")
        self._at_least(1, "clusters", *(("item_clusters",) if self.item_clusters is not None else ()))
        self._positive("learning_rate")
        self._share("learning_rate", "decay")


@dataclass(frozen=True, kw_only=True)
class DeepSettings(RLSettings):
    """Networks over items: a state network's vector times the items' embeddings, plus a bias an item."""

    hidden: tuple[int, ...] = (128, 128)
    learning_rate: float = 1e-3
    tuned_items: bool = True
    """Whether the items' embeddings are trained from where they start; False leaves them as they are."""
    max_grad_norm: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(f"Key 'agents.hidden' is {self.hidden}, but it must hold widths of 1 or more.")
        self._positive("learning_rate", "max_grad_norm")


@dataclass(frozen=True, kw_only=True)
class DQNSettings(DeepSettings, ExploringSettings):
    """Deep Q-network (Mnih et al. 2015), with `double` (van Hasselt et al. 2016) and `dueling` (Wang et al. 2016)."""

    double: bool = False
    dueling: bool = False
    batch_size: int = 128
    buffer: int = 20_000
    learning_starts: int = 1_000
    """Transitions of random items before the first update."""
    updates: int = 2
    """Gradient steps after each step of all users."""
    target_every: int = 1_000
    """Transitions between copies to the target network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "batch_size", "updates", "target_every")
        self._at_least(0, "learning_starts")
        if self.buffer < max(self.batch_size, self.users):
            raise ConfigError(f"Key 'agents.buffer' is {self.buffer}, less than a batch or a step of all users.")


@dataclass(frozen=True, kw_only=True)
class PolicyGradientSettings(DeepSettings):
    """Advantage actor-critic (Mnih et al. 2016).

    With `gae_lambda` 1 and `steps` the length of a session the advantage is the return less the value, and nothing is
    bootstrapped: REINFORCE with a learned baseline (Williams 1992; Sutton and Barto 2018, section 13.4).
    """

    steps: int = 1
    """Turns of every user before an update."""
    gae_lambda: float = 1.0
    entropy: float = 0.01
    value: float = 0.5
    normalised: bool = False
    """Whether advantages are divided by their standard deviation in each batch."""
    max_grad_norm: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "steps")
        self._at_least(0, "entropy", "value")
        self._share("gae_lambda")
