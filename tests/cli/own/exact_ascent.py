"""An algorithm of another package: ascent on the expected reward of a whole small catalogue, without draws."""

from dataclasses import dataclass

import numpy as np
import torch

from llmrec.config import RolloutSettings, UpdateSettings
from llmrec.errors import ConfigError
from llmrec.pipeline.algorithms import AlgorithmSpec, Learning, register
from llmrec.pipeline.algorithms.reward import run_reward
from llmrec.pipeline.algorithms.rollouts import check_states, rollout_states
from llmrec.pipeline.sft import warm_start
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.training.improvement import Improved, trainable


@dataclass(frozen=True, kw_only=True)
class AscentSettings(UpdateSettings):
    steps: int = 4
    states: int = 8
    save_every: int = 2


def improve_exactly(config, data, policy, simulators, checkpointing):
    settings, start = config.improvement, warm_start(config, data, policy)
    reward = run_reward(config, data, simulators, policy)
    known = rollout_states(config, data, RolloutSettings(steps=settings.steps, prompts=settings.states))
    model = trainable(start, settings)
    trained = LanguagePolicy(model, start.tokenizer, start.catalogue, start.renderer, start.repeat)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=settings.learning_rate)
    curve = []
    for step in range(settings.steps):
        states = known.states[step * settings.states :][: settings.states]
        items_BN = np.tile(np.arange(data.dataset.n_items), (len(states), 1))
        prob_BN = trained.log_prob(states, torch.from_numpy(items_BN)).exp()
        expected = (prob_BN * torch.from_numpy(reward(states, items_BN).total_BK)).sum(1).mean()
        optimiser.zero_grad()
        (-expected).backward()
        optimiser.step()
        curve.append({"step": float(step + 1), "reward": expected.item()})
        if (step + 1) % settings.save_every == 0:
            checkpointing.on_checkpoint(step + 1, model.eval())
    return Improved(model.eval(), curve, 0.0)


def check_ascent(config, processes):
    if config.improvement.steps < 1 or processes > 1:
        raise ConfigError("Key 'exact_ascent.steps' must be 1 or more, on one process.")


register(
    AlgorithmSpec(
        "exact_ascent",
        AscentSettings,
        "exact ascent",
        Learning("expected rewards", improve_exactly, check_ascent, check_states),
        phrase="exact ascent of another package",
    )
)
