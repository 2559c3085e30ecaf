"""The algorithms that improve a warm-started policy, each a line of one registry; see docs/algorithms.md.

Whatever the rest of the package has to know of an algorithm (how it learns, what is refused, what it is called) is
read from its `AlgorithmSpec`. Those of other packages come by `register`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from llmrec.config import (
    SHIPPED,
    Algorithm,
    BestOfNSettings,
    ContinuedSFTSettings,
    GRPOSettings,
    OffPolicySettings,
    PPOSettings,
    PreferenceSettings,
    ReinforceSettings,
    RLHFSettings,
    RLOOSettings,
    RolloutSettings,
    RunConfig,
    SDPOSettings,
    TiltedSettings,
    UpdateSettings,
    register_section,
)
from llmrec.config.reward import COMPARING_TERMS, check_reward
from llmrec.errors import ConfigError
from llmrec.pipeline.algorithms.continued import (
    check_continued_data,
    check_continued_settings,
    improve_continued,
    without_reward,
)
from llmrec.pipeline.algorithms.logs import check_log_settings, check_logged, improve_from_log, simulator_of_log
from llmrec.pipeline.algorithms.preferences import (
    check_pairs,
    check_preference_settings,
    check_rlhf_data,
    check_rlhf_settings,
    improve_preferences,
    improve_rlhf,
)
from llmrec.pipeline.algorithms.rollouts import (
    check_best_of_n_settings,
    check_rollout_settings,
    check_states,
    check_tilted_settings,
    improve_best_of_n,
    improve_rollouts,
    improve_tilted,
)
from llmrec.pipeline.algorithms.sessions import check_session_data, check_session_settings, improve_sessions
from llmrec.pipeline.data import RunData
from llmrec.pipeline.ruled import asked_of_training
from llmrec.pipeline.simulation import Simulators
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.rewards.custom import load_custom
from llmrec.training.improvement import Checkpointing, Improved
from llmrec.training.obeyed import require_no_floor

REWARDED = "The reward came from a simulator of users ({simulator})."


@dataclass(frozen=True, slots=True)
class Learning:
    """One way to learn.

    Attributes:
        source: what is learned from.
        improve: improves a policy that was loaded for it, in place or under an adapter.
        check: refuses, before anything is made, settings that cannot work with so many processes.
        check_data: refuses, before anything is trained, data (or a sample of so many states) that teach nothing.
        simulator: of the section's settings: a sentence on what the reward's simulator, {simulator}, is used for.
        draws: of the section's settings: how many items a training draws.
        obeys: which rules draws can obey: those about single items, all of them, or none where nothing is drawn.
    """

    source: str
    improve: Callable[[RunConfig, RunData, LanguagePolicy, Simulators, Checkpointing], Improved]
    check: Callable[[RunConfig, int], None]
    check_data: Callable[[RunConfig, RunData, int | None], None]
    simulator: Callable[[Any], str] = lambda _: REWARDED
    draws: Callable[[Any], int] = lambda _: 0
    obeys: Literal["items", "slates", "nothing"] = "nothing"


@dataclass(frozen=True, slots=True)
class AlgorithmSpec:
    """What is to be known of an algorithm.

    Attributes:
        name: in the configuration, and of its section.
        settings: the section's class.
        label: the name in tables.
        learning: how it learns.
        in_sessions: how it learns from sessions; None where it does not.
        phrase: the name in a sentence, where that is another.
    """

    name: Algorithm
    settings: type[UpdateSettings]
    label: str
    learning: Learning
    in_sessions: Learning | None = None
    phrase: str = ""


ALGORITHMS: dict[Algorithm, AlgorithmSpec] = {}
"""By name."""


def register(spec: AlgorithmSpec) -> None:
    """Makes an algorithm known; one that was registered before under that name is replaced, unless it is llmrec's.

    Raises:
        ConfigError: the name is taken by llmrec, or none that can be written in a configuration.
    """
    taken = {*ALGORITHMS.keys() & {*SHIPPED}, *(entry.name for entry in dataclasses.fields(RunConfig))}
    if spec.name in taken or not spec.name.isidentifier():
        raise ConfigError(f"The algorithm's name {spec.name!r} is taken or no identifier; give it another.")
    register_section(spec.name, spec.settings)
    ALGORITHMS[spec.name] = spec


ROLLOUTS = Learning(
    "draws and a reward",
    improve_rollouts,
    check_rollout_settings,
    check_states,
    draws=lambda settings: settings.steps * settings.prompts * settings.draws,
    obeys="items",
)
SESSIONS = Learning(
    "sessions", improve_sessions, check_session_settings, check_session_data, draws=ROLLOUTS.draws, obeys="slates"
)
BEST_OF_N = Learning(
    "draws and a reward",
    improve_best_of_n,
    check_best_of_n_settings,
    check_states,
    draws=lambda settings: settings.rounds * settings.prompts * settings.draws,
    obeys="items",
)
TILTED = Learning(
    "a reward",
    improve_tilted,
    check_tilted_settings,
    check_states,
    draws=lambda settings: settings.states * settings.depth,
    obeys="items",
)
PREFERENCES = Learning(
    "clicked against shown", improve_preferences, check_preference_settings, check_pairs, simulator_of_log
)
REWARD_MODEL = Learning(
    "a reward model learned from clicked against shown",
    improve_rlhf,
    check_rlhf_settings,
    check_rlhf_data,
    lambda _: "The reward is a model learned from logged preferences; a simulator ({simulator}) values checkpoints.",
    ROLLOUTS.draws,
    obeys="items",
)
SHUFFLED = (ROLLOUTS, BEST_OF_N, TILTED)
"""What learns from rewards that can be dealt out wrongly."""
CONTINUED = Learning(
    "logged choices", improve_continued, check_continued_settings, check_continued_data, without_reward
)
LOG = Learning("logged slates", improve_from_log, check_log_settings, check_logged, simulator_of_log, obeys="items")

HEARD = (*SHUFFLED, CONTINUED)
"""What learns in states that ask for weights, or (more of the warm start's lessons) is a control of what does."""

for _spec in (
    AlgorithmSpec("ppo", PPOSettings, "PPO", ROLLOUTS, SESSIONS),
    AlgorithmSpec("reinforce", ReinforceSettings, "REINFORCE", ROLLOUTS, SESSIONS),
    AlgorithmSpec("grpo", GRPOSettings, "GRPO", ROLLOUTS),
    AlgorithmSpec("rloo", RLOOSettings, "RLOO", ROLLOUTS),
    AlgorithmSpec("dpo", PreferenceSettings, "DPO", PREFERENCES),
    AlgorithmSpec("sdpo", SDPOSettings, "S-DPO", PREFERENCES),
    AlgorithmSpec("rlhf", RLHFSettings, "RLHF", REWARD_MODEL, phrase="PPO against a learned reward model (RLHF)"),
    AlgorithmSpec(
        "off_policy", OffPolicySettings, "off-policy", LOG, phrase="off-policy learning from logged slates"
    ),
    AlgorithmSpec("best_of_n", BestOfNSettings, "best-of-n", BEST_OF_N, phrase="best-of-n distillation"),
    AlgorithmSpec("tilted", TiltedSettings, "tilted SFT", TILTED, phrase="distillation of the tilted warm start"),
    AlgorithmSpec(
        "continued_sft", ContinuedSFTSettings, "SFT continued", CONTINUED, phrase="more of its warm start's lessons"
    ),
):
    register(_spec)


def learning_of(config: RunConfig) -> Learning:
    """How the algorithm of a run learns in it.

    Raises:
        ConfigError: sessions, for an algorithm that does not learn from them.
    """
    spec = ALGORITHMS[config.algorithm]
    if config.session.plain:
        return spec.learning
    if spec.in_sessions is None:
        able = [name for name, other in ALGORITHMS.items() if other.in_sessions is not None]
        raise ConfigError(
            f"Keys 'session.turns' and 'session.slate' ask for sessions, which {spec.name} does not learn from; set "
            f"algorithm to {' or '.join(able)}, or both keys to 1."
        )
    return spec.in_sessions


def improve(
    config: RunConfig, data: RunData, policy: LanguagePolicy, simulators: Simulators, checkpointing: Checkpointing
) -> Improved:
    """Improves `policy` (freshly loaded; it is trained in place or under an adapter) by `config.algorithm`."""
    if config.improvement_seed is not None:
        config = dataclasses.replace(config, seed=config.improvement_seed)
    return learning_of(config).improve(config, data, policy, simulators, checkpointing)


def check_algorithm_on(config: RunConfig, data: RunData, limit: int | None) -> None:
    """Refuses, before anything is trained, data (or a sample of `limit` states) that the algorithm cannot use.

    Raises:
        LLMRecError: there is nothing to learn from, or slates are larger than the catalogue.
    """
    learning_of(config).check_data(config, data, limit)


def check_algorithm(config: RunConfig) -> None:
    """Refuses, before anything is made, settings of the algorithm that cannot work.

    Raises:
        ConfigError: a setting, by itself or with the processes that the launcher announced.
    """
    check_reward(config.reward, config.session.slate)
    for function in config.reward.custom:
        load_custom(function)
    learning = learning_of(config)
    if config.reward.shuffle != "none" and learning not in SHUFFLED:
        able = [name for name, spec in ALGORITHMS.items() if spec.learning in SHUFFLED]
        raise ConfigError(
            f"Key 'reward.shuffle' deals out the rewards of single draws, which {config.algorithm} does not learn "
            f"from here; set it to none, or take {', '.join(able)} without sessions."
        )
    if config.reward.stated and learning not in HEARD:
        able = [name for name, spec in ALGORITHMS.items() if spec.learning in HEARD]
        raise ConfigError(
            f"Key 'reward.stated' lets states ask for weights, which {config.algorithm} does not hear here; leave it "
            f"out, or take {', '.join(able)} without sessions."
        )
    if learning.obeys == "items":
        require_no_floor(asked_of_training(config), config.algorithm)
    _check_comparing(config, learning)
    learning.check(config, int(os.environ.get("WORLD_SIZE", "1")))


def _check_comparing(config: RunConfig, learning: Learning) -> None:
    """Refuses terms that compare the draws of a state where nothing is learnt from such draws."""
    for name in sorted(COMPARING_TERMS & set(config.reward.terms)):
        if learning is not ROLLOUTS:
            able = [known for known, spec in ALGORITHMS.items() if spec.learning is ROLLOUTS]
            raise ConfigError(
                f"Key 'reward.terms.{name}' compares what the draws of a state earn, by which {config.algorithm} "
                f"learns nothing here; remove the term, or take {', '.join(able)} without sessions."
            )
        settings = config.improvement
        assert isinstance(settings, RolloutSettings)
        if settings.draws < 2:
            raise ConfigError(
                f"Key 'reward.terms.{name}' compares the draws of a state, but '{config.algorithm}.draws' is "
                f"{settings.draws}; give 2 or more, or remove the term."
            )
