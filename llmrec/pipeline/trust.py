"""Who rewards and who judges: what is refused beforehand, and the sentence that every report says about it."""

from __future__ import annotations

from llmrec.config import RunConfig
from llmrec.errors import ConfigError
from llmrec.pipeline.algorithms import learning_of
from llmrec.pipeline.simulation import Simulators


def check_trust(config: RunConfig) -> None:
    """Refuses, before anything is made, a judge that is none, and settings of the gate that cannot work.

    Raises:
        ConfigError: reward and judge would share architecture or users, or a setting is out of range.
    """
    simulator, gate = config.simulator, config.gate
    if simulator.reward_architecture == simulator.judge_architecture:
        raise ConfigError(
            "Keys 'simulator.reward_architecture' and 'simulator.judge_architecture' are both "
            f"{simulator.judge_architecture!r}; a judge must be of another architecture than the reward."
        )
    if not 0 < simulator.judge_user_share < 1:
        raise ConfigError(
            f"Key 'simulator.judge_user_share' is {simulator.judge_user_share}; it must lie between 0 and 1, so that "
            "reward and judge are fitted on different users."
        )
    if config.reward.pessimism and simulator.members < 2:
        raise ConfigError(
            f"Key 'reward.pessimism' is {config.reward.pessimism}, but one member never disagrees; set "
            "'simulator.members' to 2 or more."
        )
    _check_gate(config)
    if gate.patience is not None and gate.patience < 1:
        raise ConfigError(f"Key 'gate.patience' is {gate.patience}; it must be 1 or more, or null for no early end.")


def _check_gate(config: RunConfig) -> None:
    for key in ("users", "events", "slate"):
        if getattr(config.gate, key) < 1:
            raise ConfigError(f"Key 'gate.{key}' is {getattr(config.gate, key)}, but it must be at least 1.")
    for key in ("ndcg_tolerance", "pessimism", "effective_samples"):
        if not getattr(config.gate, key) >= 0:
            raise ConfigError(f"Key 'gate.{key}' is {getattr(config.gate, key)}, but it must be 0 or more.")
    if not config.gate.weight_cap > 0:
        raise ConfigError(f"Key 'gate.weight_cap' is {config.gate.weight_cap}, but it must be above 0.")


def who_judges(config: RunConfig, simulators: Simulators) -> str:
    """A sentence on where the reward came from and what judges: other users, another architecture and seed."""
    members = simulators.reward.members
    reward = f"{len(members)} × {config.simulator.reward_architecture}, fitted on {_users(members[0])}"
    judge = f"{config.simulator.judge_architecture}, fitted on {_users(simulators.judge)}"
    source = learning_of(config).simulator(config.improvement).format(simulator=reward)
    return f"{source} The judge is another model with another seed ({judge}), and never a reward."


def _users(model: object) -> str:
    """How many users a behaviour model was fitted on, none of which the other was."""
    users = getattr(model, "facts", {}).get("users")
    return "users of its own" if users is None else f"{users:,} users of its own"
