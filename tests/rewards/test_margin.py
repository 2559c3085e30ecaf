"""What a margin does to what is climbed, by enumeration of all draws of a state."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from llmrec.config import RunConfig
from llmrec.errors import ConfigError
from llmrec.pipeline.algorithms import check_algorithm
from llmrec.rewards import MarginReward
from tests.overrides import given

VALUE = torch.tensor([0.1, 0.9, 0.4], dtype=torch.float64)
LOGITS = torch.tensor([0.3, -0.4, 0.8], dtype=torch.float64)
DRAWS, WEIGHT = 3, 0.7
ALL_XG = torch.tensor(list(itertools.product(range(3), repeat=DRAWS)))
"""Every row of draws."""


def rewards() -> torch.Tensor:
    """v + w m of every row, (X, G)."""
    value_XG = VALUE[ALL_XG]
    margin_XG = MarginReward().compare(ALL_XG.numpy(), value_XG.numpy())
    return value_XG + WEIGHT * torch.from_numpy(margin_XG)


def expected(advantage_XG: torch.Tensor) -> torch.Tensor:
    """The expectation of the mean over draws of A grad log pi, by the logits."""
    logits = LOGITS.clone().requires_grad_()
    log_pi = logits.log_softmax(0)
    chance_X = log_pi.detach().exp()[ALL_XG].prod(1)
    (found,) = torch.autograd.grad((chance_X * (advantage_XG * log_pi[ALL_XG]).mean(1)).sum(), logits)
    return found


def gradient(of) -> torch.Tensor:
    logits = LOGITS.clone().requires_grad_()
    (found,) = torch.autograd.grad(of(logits.softmax(0)), logits)
    return found


def best_of(draws: int):
    """The expectation of the best value among so many draws, as a function of pi."""
    rows = torch.tensor(list(itertools.product(range(3), repeat=draws)))
    return lambda pi: (pi[rows].prod(1) * VALUE[rows].amax(1)).sum()


@pytest.mark.parametrize("baseline", [0.0, 0.37])
def test_without_a_baseline_of_the_group_a_margin_is_a_scale(baseline):
    """PPO's critic and REINFORCE's baselines know nothing of the other draws."""
    found = expected(rewards() - baseline)
    torch.testing.assert_close(found, (1 + WEIGHT) * gradient(lambda pi: (pi * VALUE).sum()))


def test_under_the_mean_of_the_siblings_the_best_of_all_but_one_is_climbed_too():
    reward_XG = rewards()
    others_XG = (reward_XG.sum(1, keepdim=True) - reward_XG) / (DRAWS - 1)
    wanted = gradient(lambda pi: (1 + WEIGHT) * (pi * VALUE).sum() + WEIGHT / (DRAWS - 1) * best_of(DRAWS - 1)(pi))
    torch.testing.assert_close(expected(reward_XG - others_XG), wanted)
    whole = expected(reward_XG - reward_XG.mean(1, keepdim=True))  # GRPO's: the same over G / (G - 1)
    torch.testing.assert_close(whole, wanted * (DRAWS - 1) / DRAWS)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["session.slate=3", "ppo.draws=1"], "'reward.terms.margin' compares independent draws of a state"),
        (["session.turns=3", "ppo.draws=1"], "by which ppo learns nothing here; .* without sessions"),
        (["algorithm=best_of_n"], "by which best_of_n learns nothing here; remove the term, or take ppo, reinforce"),
        (["algorithm=off_policy"], "by which off_policy learns nothing here"),
        (["algorithm=rlhf"], "by which rlhf learns nothing here"),
        (["ppo.draws=1"], "'ppo.draws' is 1; give 2 or more"),
    ],
)
def test_it_is_refused_where_no_draws_are_compared(texts, said):
    with pytest.raises(ConfigError, match=said):
        check_algorithm(RunConfig.read(None, given("reward.terms.margin=0.5", *texts)))


@pytest.mark.parametrize("algorithm", ["ppo", "reinforce", "grpo", "rloo"])
def test_it_is_taken_by_all_that_draw_groups(algorithm):
    check_algorithm(RunConfig.read(None, given("reward.terms.margin=0.5", f"algorithm={algorithm}")))


def test_the_example_of_the_docstring():
    items = np.arange(3)[None]
    found = MarginReward().compare(items, np.array([[0.5, 0.2, 0.4]]))
    np.testing.assert_allclose(found, [[0.1, -0.3, -0.1]], atol=1e-12)
