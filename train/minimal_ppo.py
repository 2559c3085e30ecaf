"""PPO for a recommender, whole in one file: `python train/minimal_ppo.py`. Read it first, then copy it.

A language model is a policy pi(item | state) over a closed catalogue: its softmax runs over *legal* next tokens
alone, so that pi sums to 1 over the items. A round draws items, asks simulated users what they earn, and climbs

    J = E[r] - beta KL(pi || pi_ref) + c H(pi)

by PPO's clipped ratio (Schulman et al. 2017). `train/ppo.py` makes the same updates through TRL, with LoRA, many
GPUs, checkpoints and sessions around them, from a policy fine-tuned on logged choices; this one starts blank.

Axes: B states, G independent draws for each, L tokens of an item. Steps of the episode are *choice points*: tokens
with more than one legal continuation. A forced token has probability 1; nothing is decided there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmrec.catalogue import Catalogue
from llmrec.config import ModelConfig, PPOSettings, RewardSettings, SimulatorSettings, WorldConfig
from llmrec.dataset.impressions import impressions
from llmrec.dataset.split import make_split
from llmrec.dataset.world import generate_world
from llmrec.policy.decoding import sample_items
from llmrec.policy.forward import ScoringRequest
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.nano import make_nano, train_tokenizer
from llmrec.policy.scoring import TokenScores, exact_kl_BGL
from llmrec.progress import Bar
from llmrec.rewards import RewardFunction
from llmrec.seeding import numpy_stream
from llmrec.simulator.behaviour import fit_behaviour
from llmrec.text.render import StateRenderer
from llmrec.training.critic import Critic
from llmrec.training.losses import over_items
from llmrec.types import IntArray, Reward, State

SEED = 0
SETTINGS = PPOSettings(steps=40, prompts=32, draws=8, iterations=2, learning_rate=6e-3, kl_coefficient=0.01)
WIDTH = 64  # of the nano model


@dataclass(frozen=True)
class Rollout:
    """What an update learns from; all of it was computed when the items were drawn and carries no gradient."""

    asked: ScoringRequest
    old_log_prob_BGL: Tensor
    reference: TokenScores
    value_BGL: Tensor
    advantage_BGL: Tensor
    return_BGL: Tensor
    unit: float
    reward: float


@torch.no_grad()
def roll_out(
    policy: LanguagePolicy,
    reference: Any,
    critic: Critic,
    states: list[State],
    seen: list[IntArray],
    reward: Callable[[list[State], IntArray], Reward],
    uniform_BGL: Tensor,
    settings: PPOSettings,
) -> Rollout:
    """Draws G items for each state, has them rewarded and works out which choice deserves the credit."""
    # pi_F: seen items are masked *before* a token is drawn. The update scores under the same F, or the ratio of new
    # to old probability would not start at 1. A draw is a function of its prompt and of its numbers in [0, 1).
    (ids, mask), hidden, index = policy.encode(states), policy.exclude(states, seen), policy.index
    draws = sample_items(policy.model, ids, mask, settings.draws, index, uniform_BGL=uniform_BGL, exclude=hidden)
    reward_BG = torch.from_numpy(reward(states, draws.items_BG.numpy()).total_BK)
    asked = ScoringRequest(ids, mask, draws.items_BG, index, hidden)
    known = asked.score(reference)
    choice = known.choice_BGL

    # The critic reads the reference's hidden states, which stand still while the policy moves. Its units are those of
    # the first rollout's rewards, so that clipping and weight of its loss suit rewards of any size.
    if not critic.ready:
        critic.set_units(torch.stack([torch.ones_like(reward_BG), reward_BG, reward_BG**2]).sum((1, 2)).unsqueeze(1))
    value = critic(known.hidden_BGLH)

    advantage = gae(reward_BG.to(value), value, choice, settings.gamma, settings.gae_lambda)
    returns = torch.where(choice, advantage + value, 0.0)
    mean, unit = 0.0, 1.0
    if settings.whiten:  # a steady size of step; `unit` is what a reward of 1 has become
        credit = advantage[choice].double()
        mean, unit = float(credit.mean()), float(credit.std(correction=0)) or 1.0
    advantage = torch.where(choice, (advantage - mean) / unit, 0.0)
    return Rollout(asked, draws.token_log_prob_BGL, known, value, advantage, returns, unit, float(reward_BG.mean()))


def gae(reward_BG: Tensor, value_BGL: Tensor, choice_BGL: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016) over an item's choice points.

    delta_l = r_l + gamma V_(l+1) - V_l,  A_l = delta_l + gamma lambda A_(l+1); the reward falls on the last choice.
    """
    advantage = torch.zeros_like(value_BGL)
    arriving, next_value, next_advantage = reward_BG, torch.zeros_like(reward_BG), torch.zeros_like(reward_BG)
    for place in reversed(range(value_BGL.shape[-1])):
        step, value = choice_BGL[..., place], value_BGL[..., place]
        here = arriving + gamma * next_value - value + gamma * lam * next_advantage
        advantage[..., place] = torch.where(step, here, 0.0)
        # forced tokens are passed over: neither gamma nor lambda acts where nothing was decided
        next_advantage, next_value = torch.where(step, here, next_advantage), torch.where(step, value, next_value)
        arriving = torch.where(step, 0.0, arriving)
    return advantage


def loss_of(policy: Any, critic: Critic, rollout: Rollout, settings: PPOSettings) -> Tensor:
    """-J in units of the advantages, and the critic's error: sums over choice points, divided by the items."""
    scores, choice = rollout.asked.score(policy), rollout.reference.choice_BGL
    ratio = torch.where(choice, scores.log_prob_BGL - rollout.old_log_prob_BGL, 0.0).exp()
    clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    # the smaller of both: what a ratio outside of the clip has already gained brings no gradient any more
    gain = torch.minimum(ratio * rollout.advantage_BGL, clipped * rollout.advantage_BGL)

    # the larger of both errors: a value may not move farther than the clip in one rollout
    value = critic(rollout.reference.hidden_BGLH)
    moved = ((value - rollout.value_BGL) / critic.scale).clamp(-settings.value_clip, settings.value_clip)
    near = rollout.value_BGL + moved * critic.scale
    error = 0.5 * torch.maximum(*(((v - rollout.return_BGL) / critic.scale) ** 2 for v in (value, near)))

    # Both are exact at the prefixes that were drawn: sums over legal tokens, no estimate from the token drawn. Which
    # prefixes are met is the policy's doing too; `over_items` gives that its share of the gradient.
    kl = over_items(exact_kl_BGL(scores, rollout.reference), scores.log_prob_BGL).sum()
    entropy = over_items(scores.entropy_BGL, scores.log_prob_BGL).sum()
    # divided by what divides the advantages: beta and c stay in units of the reward
    penalty = (settings.kl_coefficient * kl - settings.entropy_coefficient * entropy) / rollout.unit
    # Sums, and not means over tokens, which would weigh an item by the length of its title.
    summed = penalty - torch.where(choice, gain, 0.0).sum()
    summed = summed + settings.value_coefficient * torch.where(choice, error, 0.0).sum()
    return summed / rollout.asked.items_BG.numel()


def update(
    policy: Any, critic: Critic, rollout: Rollout, optimiser: torch.optim.Optimizer, settings: PPOSettings
) -> None:
    """One optimiser step on the whole rollout."""
    optimiser.zero_grad()
    loss_of(policy, critic, rollout, settings).backward()
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    torch.nn.utils.clip_grad_norm_(weights, settings.max_grad_norm)
    optimiser.step()


def main() -> None:
    """A shop of 24 things, users simulated from its log, and a policy that learns from them what is wanted."""
    world = generate_world(WorldConfig(users=800, items=24, slate_size=8), SEED)
    shop, items = world.dataset, world.dataset.item_list
    log = impressions(shop, make_split(shop), "train", history_events=0, seed=SEED)
    users = fit_behaviour(shop, log, seed=SEED, settings=SimulatorSettings(learning_rate=1e-2))
    reward = RewardFunction(users, RewardSettings(), SEED)  # P(click) + 3 P(click and conversion), as they expect it

    texts = [f"{item.title} {item.description}" for item in items] + shop.users["profile"].to_list()
    tokenizer = train_tokenizer(texts, 2000)
    renderer = StateRenderer(items, tokenizer, domain="shop", language="en", max_tokens=96)
    ids, titles = shop.items["item_id"].to_list(), [item.title for item in items]
    catalogue = Catalogue.from_titles(ids, titles, tokenizer, answer_prefix=renderer.answer_prefix)
    model = make_nano(tokenizer, ModelConfig(nano_hidden=WIDTH, nano_layers=2), SEED).eval()  # no dropout, ever
    policy = LanguagePolicy(model, tokenizer, catalogue, renderer)
    reference, critic = copy.deepcopy(model), Critic(WIDTH, seed=SEED)
    optimiser = torch.optim.AdamW([*model.parameters(), *critic.parameters()], SETTINGS.learning_rate, weight_decay=0)

    def true_value(rows: IntArray) -> float:
        """What the item that the policy would show is worth in truth, which nobody who learns is told."""
        states, seen = [log.states[row] for row in rows], [log.seen[row] for row in rows]
        shown = np.array([slate.items_K for slate in policy.recommend(states, 1, seen=seen)])
        return float(world.value_of_BK([state.user_id or "" for state in states], shown).mean())

    some = numpy_stream(SEED, "minimal ppo", "judged").choice(len(log.states), 200, replace=False)
    before = true_value(some)
    with Bar("PPO", SETTINGS.steps, every_s=2.0) as bar:
        for step in range(SETTINGS.steps):
            # a stream a round: whatever else draws numbers, round 7 is always round 7
            stream = numpy_stream(SEED, "minimal ppo", "rollout", step)
            rows = stream.integers(len(log.states), size=SETTINGS.prompts)
            states, seen = [log.states[row] for row in rows], [log.seen[row] for row in rows]
            uniform = torch.from_numpy(stream.random((len(rows), SETTINGS.draws, policy.index.max_length)))
            rollout = roll_out(policy, reference, critic, states, seen, reward, uniform, SETTINGS)
            for _ in range(SETTINGS.iterations):
                update(model, critic, rollout, optimiser, SETTINGS)
            bar.advance(note=f"reward {rollout.reward:.3f}, true value {true_value(some[:50]):.3f}")
    value_BN = world.value_BN([log.states[row].user_id or "" for row in some])
    best = np.mean([np.delete(value_N, log.seen[row]).max() for value_N, row in zip(value_BN, some, strict=True)])
    print(f"True value of the item shown: {before:.3f} before, {true_value(some):.3f} after, {best:.3f} at best.")


if __name__ == "__main__":
    main()
