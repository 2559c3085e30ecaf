"""PPO brought back to TRL's users, on `trl.GRPOTrainer`, which lost its own in TRL 1.13.

What it changes against `trl.GRPOTrainer`, whose reward functions, PEFT models, logging, checkpoints and launchers it
keeps, beside what `rollouts` says of rollouts:

- a critic and generalised advantage estimation in place of group-relative advantages; the critic runs inside the
  wrapped forward (called outside of it, it breaks DDP);
- the loss is summed over choice points and divided by the number of items: no bias by title length;
- the KL term is exact, and in units of the reward: J = E[r] - beta KL(pi || pi_ref) + c H, whose optimum is
  pi ~ (pi_ref^beta exp(r))^(1 / (beta + c)). Where advantages are whitened the whole of J is divided by their
  deviation, not the reward alone.

Against PPO of the paper: the bound on KL(old || new) skips the backward pass of the step that breaks it and of the
rest of the rollout, on all processes together (a zeroed loss would still move parameters under Adam).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import trl
from torch import Tensor

from llmrec.errors import ConfigError
from llmrec.policy.decoding import beam_search
from llmrec.policy.modes import evaluating
from llmrec.policy.scoring import TokenScores, exact_kl_BGL, score_items
from llmrec.training.advantages import gae, mean_and_variance, moments, whiten
from llmrec.training.controls import Controls
from llmrec.training.credit import Candidates, prefix_values
from llmrec.training.critic import load_critic, save_critic
from llmrec.training.losses import clipped_policy_loss, clipped_value_loss, moved_kl, over_items
from llmrec.training.state_source import Rows, ScoreRequest, StateSource
from llmrec.training.trl_seam.rollouts import Drawn, RolloutTrainer
from llmrec.training.trl_seam.sharding import load_whole

CriticInput = Literal["reference", "policy", "shared"]


@dataclass
class PPOConfig(trl.GRPOConfig):  # type: ignore[misc]  # trl is untyped
    """`trl.GRPOConfig` with what PPO needs; `num_generations` (G) may be 1.

    `critic_input` are the hidden states that the critic reads: of the reference (fixed features, and no forward of
    their own: the KL needs them anyway), of the policy (no gradient into it), or shared with the policy (the value
    loss trains the policy's layers too).
    """

    value_clip: float = 0.2
    """In the critic's units: standard deviations of the first rollout's rewards."""
    value_coefficient: float = 0.5
    target_kl: float | None = None
    gamma: float = 1.0
    gae_lambda: float = 1.0
    whiten: bool = True
    critic_input: CriticInput = "reference"
    candidates: int = 0
    """Items of a state whose rewards make the potential of prefixes (`training.credit`); 0 for none."""

    def __post_init__(self) -> None:
        draws: int = getattr(self, "num_generations")  # noqa: B009  # a field that trl declares
        # TRL also asks that G divides the batch, so it is shown one that does, for as long as it checks.
        if draws == 1:  # group-relative advantages need two draws, a critic does not
            self.num_generations = self.per_device_train_batch_size * (self.steps_per_generation or 1)
        super().__post_init__()
        self.num_generations = draws


@dataclass(frozen=True, slots=True)
class Minibatch:
    """One optimiser step's share of a rollout: whole groups, B prompts with G items each.

    `old_log_prob_BGL` is the sampler's own, `value_BGL` the critic's at the rollout, `reference` the scores of the
    warm-started policy. Values and returns are of what the potential `potential_BGL` of the prefixes leaves (0 for
    none).
    """

    request: ScoreRequest
    choice_BGL: Tensor
    old_log_prob_BGL: Tensor
    value_BGL: Tensor
    advantage_BGL: Tensor
    return_BGL: Tensor
    reference: TokenScores
    potential_BGL: Tensor


class StopRollout(Exception):
    """The policy has moved as far from its rollout as `target_kl` allows; raised on all processes together."""


class PPOTrainer(RolloutTrainer, trl.GRPOTrainer):  # type: ignore[misc]  # trl is untyped
    """PPO with a critic over a closed catalogue; see `RolloutTrainer`.

    A `critic` must hang on the base model of `model`.
    """

    def __init__(self, model: Any, source: StateSource, args: PPOConfig, controls: Controls, **rest: Any) -> None:
        super().__init__(model, source, args, controls, **rest)
        self._stopped, self._unit = False, 1.0
        if args.candidates and not any(hasattr(function, "candidates") for function in self.reward_funcs):
            raise ConfigError(
                "Key 'credit.potential' asks what items would earn that were not drawn, which no reward function "
                "here can tell; set it to none, or give a reward of states and items."
            )

    def also(self, request: Any, scores: TokenScores) -> dict[str, Tensor]:
        """The critic's values, inside the wrapped forward."""
        if not request.with_more:
            return {}
        features = scores.hidden_BGLH if request.features_BGLH is None else request.features_BGLH
        if self.args.critic_input == "policy":
            # "shared" lets the value loss into the policy's layers; "policy" only reads them
            features = features.detach()
        return {"value_BGL": self.base.critic(features)}

    # The rollout.

    @torch.no_grad()
    def _roll_out(self, inputs: Rows) -> Sequence[Minibatch]:
        """Draws, rewards, values and advantages of a new rollout, split into minibatches."""
        self._stopped = False
        drawn = self._draw(inputs)
        potential_BGL = self._potential(drawn)
        # Once: units that moved with the rewards would move the values that older rollouts were fitted to.
        if not bool(self.base.critic.ready):
            self.base.critic.set_units(self._sums(drawn.reward_BG - potential_BGL[..., 0]).unsqueeze(1))
        number = self.args.steps_per_generation
        parts = [
            self._minibatch(*part)
            for part in zip(
                drawn.request.split(number),
                drawn.log_prob_BGL.chunk(number),
                drawn.reward_BG.chunk(number),
                potential_BGL.chunk(number),
                strict=True,
            )
        ]
        self._log_explained(
            [(p.return_BGL + p.potential_BGL, p.value_BGL + p.potential_BGL, p.choice_BGL) for p in parts]
        )
        self._move_controls(drawn, [part.reference for part in parts])
        advantages = self._whitened([p.advantage_BGL for p in parts], [p.choice_BGL for p in parts])
        return [replace(part, advantage_BGL=advantage) for part, advantage in zip(parts, advantages, strict=True)]

    def _potential(self, drawn: Drawn) -> Tensor:
        """What the prefix before each token is expected to earn, (B, G, L), in units of the rewards; 0 for none."""
        request = drawn.request
        if not self.args.candidates:
            return drawn.reward_BG.new_zeros((*request.items_BG.shape, self.index.max_length))
        at, function = next((n, f) for n, f in enumerate(self.reward_funcs) if hasattr(f, "candidates"))
        rows = drawn.rows[:: self.num_generations]
        known = self._candidates(request)
        given = function.candidates(
            [row["state"] for row in rows], known.items_BM.cpu().numpy(), int(rows[0]["rollout"])
        )
        worth_BM = float(self.reward_weights[at]) * torch.from_numpy(given).to(known.log_prob_BM.device)
        # as the draws' own rewards were shifted and scaled
        value_BM = (worth_BM - self._reward_shift) / self._reward_unit
        return prefix_values(self.index, known, value_BM, request.items_BG).to(drawn.reward_BG.dtype)

    def _candidates(self, request: ScoreRequest) -> Candidates:
        """The best items of each state under the policy that has just drawn, all of a small catalogue."""
        ids, mask, many = request.prompt_ids_BP, request.prompt_mask_BP, self.args.candidates
        allowed = request.allowed
        if self.index.n_items <= many:
            items_BM = torch.arange(self.index.n_items, device=ids.device).expand(len(ids), -1)
            there_BM = torch.ones_like(items_BM, dtype=torch.bool)
        else:
            items_BM, log_prob_BM = beam_search(self.base, ids, mask, many, self.index, exclude=allowed)
            there_BM = items_BM >= 0
            # some other item where there are fewer, which counts for nothing
            items_BM = torch.where(there_BM, items_BM, items_BM.amax(1, keepdim=True))
            if allowed is None:
                return Candidates(items_BM, log_prob_BM)
        # under pi_F, which the draws are from, and not by the likelihood of which the best were found
        with evaluating(self.base):
            scores = score_items(self.base, ids, mask, items_BM, self.index, exclude=allowed)
        return Candidates(items_BM, scores.exact_BG.masked_fill(~there_BM, -torch.inf))

    def _whitened(self, parts: list[Tensor], where: list[Tensor]) -> list[Tensor]:
        """Advantages as they are learned from; keeps what a reward of 1 has become, in `_unit`."""
        scale = 1.0
        if self.args.whiten:
            parts, scale = whiten(parts, where, self._sum)
        # J is divided as a whole. Were only the rewards divided, beta and c would count for more the flatter the
        # rewards are.
        self._unit = self._reward_unit * scale
        self._metrics["train"]["advantage_unit"].append(self._unit)
        return parts

    def _penalty(self, kl: Tensor, entropy: Tensor) -> Tensor:
        """beta KL - c H in the units of the advantages."""
        controls = self.controls
        return (controls.kl_coefficient * kl - controls.entropy_coefficient * entropy) / self._advantage_unit()

    def _advantage_unit(self) -> float:
        return self._unit

    def _minibatch(
        self, request: ScoreRequest, old_log_prob_BGL: Tensor, reward_BG: Tensor, potential_BGL: Tensor
    ) -> Minibatch:
        reference = self._reference_scores(request)
        if self.args.critic_input == "reference":
            request = replace(request, features_BGLH=reference.hidden_BGLH)
            # past the wrapped forward, which is safe without gradients and with whole weights
            value = self.base.critic(request.features_BGLH)
        else:
            with evaluating(self.base):
                value = self._answer(self.model, request)[1]["value_BGL"]
        choice = reference.choice_BGL
        advantage, returns = self._advantage(reward_BG, value + potential_BGL, choice)
        # what the critic is to learn is what the potential does not know
        returns = torch.where(choice, returns - potential_BGL, returns)
        return Minibatch(request, choice, old_log_prob_BGL, value, advantage, returns, reference, potential_BGL)

    def _advantage(self, reward_BG: Tensor, value_BGL: Tensor, choice_BGL: Tensor) -> tuple[Tensor, Tensor]:
        return gae(reward_BG, value_BGL, choice_BGL, gamma=self.args.gamma, lam=self.args.gae_lambda)

    def _log_explained(self, parts: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Explained variance 1 - Var(R - V) / Var(R) of parts (R, V, where), before the update."""
        sums = [torch.stack([moments(ret - value, where), moments(ret, where)]) for ret, value, where in parts]
        left, whole = (mean_and_variance(pair)[1] for pair in self._sum(torch.stack(sums).sum(0)))
        explained = 1.0 - float(left / whole) if float(whole) > 0 else 0.0
        self._metrics["train"]["explained_variance"].append(explained)

    # The update.

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One optimiser step's forward and backward; neither once the rollout is stopped by `target_kl`."""
        try:
            first = self._step % (self.args.steps_per_generation * self.num_iterations) == 0
            # All processes stop together (`_log_update`), so none waits for another one's gradients.
            if self._stopped and not first:
                raise StopRollout
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        except StopRollout:
            self._stopped = True
            # TRL counts after its own step, which the exception has cut short. No gradient is left behind, that of a
            # rehearsal neither: the optimiser finds none and moves nothing, where a gradient of 0 would let Adam's
            # momentum move the weights.
            model.zero_grad(set_to_none=True)
            self._step += 1
            return torch.zeros((), device=self.accelerator.device)
        return loss

    def _compute_loss(self, model: Any, inputs: Minibatch) -> Tensor:
        """Policy loss + value loss + beta KL - entropy bonus, summed over choice points, a mean over items.

        The KL is exact, the sum over legal children of pi log(pi / pi_ref) at the prefixes that the rollout visited,
        and so is the entropy; which prefixes are visited has its share in their gradient (`over_items`). Values count
        in the critic's units.
        """
        batch, number = inputs, inputs.request.items_BG.numel()
        scores, more = self._answer(model, batch.request)
        choice = batch.choice_BGL
        policy, outside = self._policy_loss(scores, batch)
        value = self._value_loss(more["value_BGL"], batch.value_BGL, batch.return_BGL, choice)
        kl = over_items(exact_kl_BGL(scores, batch.reference), scores.log_prob_BGL).sum()
        entropy = over_items(scores.entropy_BGL, scores.log_prob_BGL).sum()
        sums = [policy, value, kl, entropy, moved_kl(scores.log_prob_BGL, batch.old_log_prob_BGL, choice)]
        return self._in_all(sums, number, outside / choice.sum().clamp(min=1))

    def _value_loss(self, value: Tensor, old_value: Tensor, returns: Tensor, where: Tensor) -> Tensor:
        """The critic's loss in its own units, summed over `where`."""
        unit = self.base.critic.scale
        return clipped_value_loss(value / unit, old_value / unit, returns / unit, where, self.args.value_clip)

    def _in_all(self, sums: Sequence[Tensor], number: int, outside: Tensor) -> Tensor:
        """The loss, and the log, of `number` items or slots from sums: policy, critic, KL, entropy, moved KL."""
        policy, value, kl, entropy, _ = sums
        named = dict(zip(("policy_loss", "value_loss", "kl", "entropy", "moved_kl"), sums, strict=True))
        self._log_update(named, number, outside)
        loss: Tensor = (policy + self.args.value_coefficient * value + self._penalty(kl, entropy)) / number
        return loss

    def _policy_loss(self, scores: TokenScores, batch: Minibatch) -> tuple[Tensor, Tensor]:
        """The policy's loss, summed over choice points, and how many of them were clipped."""
        return clipped_policy_loss(
            scores.log_prob_BGL, batch.old_log_prob_BGL, batch.advantage_BGL, batch.choice_BGL, self.args.epsilon
        )

    def _log_update(self, sums: dict[str, Tensor], number: int, outside: Tensor) -> None:
        """Logs means an item over all processes; stops the rollout where the bound on the moved KL is broken."""
        values = torch.stack([*(v.detach().float() / number for v in sums.values()), outside.float()])
        # The mean over processes is the same number on all of them, and so is what follows from it.
        *means, clipped = self.accelerator.reduce(values, "mean").tolist()
        named = dict(zip(sums, means, strict=True))
        bound = self.args.target_kl
        stop = bound is not None and named["moved_kl"] > bound
        for name, mean in (*named.items(), ("clip_fraction", clipped), ("kl_stop", float(stop))):
            self._metrics["train"][name].append(mean)
        if stop:
            raise StopRollout

    # Checkpoints.

    def _save_more(self, folder: Path) -> None:
        super()._save_more(folder)
        save_critic(self._state_of("critic"), folder)

    def _load_more(self, folder: Path) -> None:
        super()._load_more(folder)
        load_critic(self.base.critic, folder, load_whole)
