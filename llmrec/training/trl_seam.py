"""The only module that touches TRL's internals: PPO brought back to TRL's users, and SFT's cheap output head.

What `PPOTrainer` changes against `trl.GRPOTrainer`, whose reward functions, PEFT models, logging, checkpoints and
launchers it keeps:

- items are drawn and scored under the constrained policy pi_F (legal tokens only, seen items masked), old
  log-probabilities are the sampler's own, and one prompt with its G items is one packed row;
- a critic and generalised advantage estimation in place of group-relative advantages; the critic runs inside the
  wrapped forward (called outside of it, it breaks DDP);
- the loss is summed over choice points and divided by the number of items: no bias by title length;
- the reference is the policy before PPO: the adapter switched off (or a frozen copy), and the KL term is exact.

Against PPO of the paper: the bound on KL(old || new) skips the backward pass of the step that breaks it and of the
rest of the rollout, on all processes together (a zeroed loss would still move parameters under Adam).

`tests/training/test_contract.py` pins the source of every method of TRL that is overridden or relied upon here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import trl
from accelerate.utils import gather
from peft import PeftModel
from torch import Tensor
from torch.nn import functional

from llmrec.errors import RunError
from llmrec.policy.decoding import sample_items
from llmrec.policy.modes import evaluating
from llmrec.policy.scoring import TokenScores, exact_kl_BGL
from llmrec.training.advantages import gae, mean_and_variance, moments, whiten
from llmrec.training.critic import load_critic, save_critic
from llmrec.training.losses import clipped_policy_loss, clipped_value_loss, moved_kl
from llmrec.training.rollout import Minibatch, ScoreRequest, StateSource

IGNORED = -100
CriticInput = Literal["reference", "policy", "shared"]


class QuietTrainer:
    """Mixin for TRL's trainers: no telemetry, no model card and no tokenizer in every checkpoint."""

    def _send_telemetry(self) -> None:
        return

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Writes nothing: the run's own card is made from its metrics."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        trainer: Any = self
        unwrapped = trainer.accelerator.unwrap_model(trainer.model)
        # PEFT would look the base model up on the Hub, and keep all of an embedding that was widened
        more = {"save_embedding_layers": False} if isinstance(unwrapped, PeftModel) else {}
        folder, first = output_dir or trainer.args.output_dir, trainer.args.should_save
        unwrapped.save_pretrained(folder, state_dict=state_dict, is_main_process=first, **more)


class SFTTrainer(QuietTrainer, trl.SFTTrainer):  # type: ignore[misc]  # trl is untyped
    """`trl.SFTTrainer` that asks the model's own head for the labelled columns of the batch alone.

    TRL's fused head runs over every position on a CPU (over the labelled ones only with Triton). With answers of a
    few tokens behind prompts of a hundred, the head is otherwise half of a small model's work.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Cross-entropy summed over labelled tokens, divided by their number in the whole optimiser step."""
        labels_BL = inputs["labels"][:, 1:]
        columns = (labels_BL != IGNORED).any(dim=0).nonzero().squeeze(1)
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            logits_to_keep=columns,
            use_cache=False,
        )
        labels = labels_BL[:, columns].flatten()
        logits = outputs.logits.flatten(0, 1).float()
        loss = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        count = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        loss = loss / torch.as_tensor(count, device=loss.device).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return loss


@dataclass
class PPOConfig(trl.GRPOConfig):  # type: ignore[misc]  # trl is untyped
    """`trl.GRPOConfig` with what PPO needs; `num_generations` (G) may be 1.

    `critic_input` are the hidden states that the critic reads: of the reference (fixed features, and no forward of
    their own: the KL needs them anyway), of the policy (no gradient into it), or shared with the policy (the value
    loss trains the policy's layers too).
    """

    value_clip: float = 0.2
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.0
    kl_coefficient: float = 0.02
    target_kl: float | None = None
    gamma: float = 1.0
    gae_lambda: float = 1.0
    whiten: bool = True
    critic_input: CriticInput = "reference"

    def __post_init__(self) -> None:
        draws: int = getattr(self, "num_generations")  # noqa: B009  # a field that trl declares
        if draws == 1:  # group-relative advantages need two draws, a critic does not
            self.num_generations = self.per_device_train_batch_size * (self.steps_per_generation or 1)
        super().__post_init__()
        self.num_generations = draws


class StopRollout(Exception):
    """The policy has moved as far from its rollout as `target_kl` allows; raised on all processes together."""


class PPOTrainer(QuietTrainer, trl.GRPOTrainer):  # type: ignore[misc]  # trl is untyped
    """PPO with a critic over a closed catalogue.

    Args:
        model: a PEFT model with one fresh adapter (the reference is the model without it) or a plain one (the
            reference is a copy). A `critic` must hang on its base model.
        source: the states, their prompts, filters and random numbers; rows come from `source.plan`.
        args: a `PPOConfig`. `per_device_train_batch_size` counts items and is a multiple of `num_generations`.
        rest: as for `trl.GRPOTrainer`. Reward functions also get the fields `state`, `item`, `rollout` and `place`.
    """

    def __init__(self, model: Any, source: StateSource, args: PPOConfig, **rest: Any) -> None:
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        self._reference = None if isinstance(model, PeftModel) else frozen_copy(base)
        super().__init__(model=model, args=args, **rest)
        self.base, self.source = base, source
        self.index = source.index.to(self.accelerator.device)
        self._stopped = False
        self._buffered_inputs: list[Minibatch] | None = None
        patch_forward(base, self._policy_and_value)

    # What the wrapped forward computes when it is given a request instead of token ids.

    def _policy_and_value(self, request: ScoreRequest) -> dict[str, Any]:
        scores = request.score(self.base, self.index)
        features = scores.hidden_BGLH if request.features_BGLH is None else request.features_BGLH
        if self.args.critic_input == "policy":
            features = features.detach()
        return {"scores": scores, "value_BGL": self.base.critic(features)}

    @torch.no_grad()
    def _reference_scores(self, request: ScoreRequest) -> TokenScores:
        if self._reference is not None:
            return request.score(self._reference.to(request.ids_BP.device), self.index)
        adapters = self.accelerator.unwrap_model(self.model).base_model
        adapters.disable_adapter_layers()  # `disable_adapter` first takes stock of the whole model: 30 ms a call
        try:
            with evaluating(self.base):
                return request.score(self.base, self.index)
        finally:
            adapters.enable_adapter_layers()

    # The rollout.

    def _prepare_inputs(self, generation_batch: Any) -> Minibatch:
        """The minibatch of this step, from the running rollout or, where that is used up, from a new one."""
        if self._step % (self.args.steps_per_generation * self.num_iterations) == 0 or self._buffered_inputs is None:
            self._buffered_inputs = self._generate_and_score_completions(generation_batch)
            self._stopped = False
        minibatch: Minibatch = self._buffered_inputs[self._step % self.args.steps_per_generation]
        return minibatch

    @torch.no_grad()
    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> list[Minibatch]:
        """Draws G items for each state of this process, rewards them and splits them into minibatches.

        `inputs` holds each row G times in succession, as TRL's sampler repeats them.
        """
        draws, device = self.num_generations, self.accelerator.device
        rows = inputs[::draws]
        ids, mask = self.source.prompts(rows, device)
        exclude = self.source.exclusions(rows, device)
        uniform = self.source.uniforms(rows, draws).to(device)
        samples = sample_items(self.base, ids, mask, draws, self.index, uniform_BGL=uniform, exclude=exclude)
        reward_BG = self._rewards(inputs, ids, mask, samples.items_BG)
        request = ScoreRequest(ids, mask, samples.items_BG, exclude)
        parts = [
            self._minibatch(*part)
            for part in zip(
                request.split(self.args.steps_per_generation),
                samples.token_log_prob_BGL.chunk(self.args.steps_per_generation),
                reward_BG.chunk(self.args.steps_per_generation),
                strict=True,
            )
        ]
        self._log_rollout(parts)
        if not self.args.whiten:
            return parts
        advantages = whiten([p.advantage_BGL for p in parts], [p.choice_BGL for p in parts], self._sum)
        return [replace(part, advantage_BGL=advantage) for part, advantage in zip(parts, advantages, strict=True)]

    def _rewards(self, inputs: list[dict[str, Any]], ids_BP: Tensor, mask_BP: Tensor, items_BG: Tensor) -> Tensor:
        """Weighted sum of the reward functions, (B, G), by TRL's own `_calculate_rewards`."""
        items = items_BG.flatten().tolist()
        lines = [line[keep.bool()] for line, keep in zip(ids_BP, mask_BP, strict=True)]
        texts = [text for text in self._tokenizer.batch_decode(lines) for _ in range(self.num_generations)]
        rows = [{**row, "item": item} for row, item in zip(inputs, items, strict=True)]
        catalogue = self.source.catalogue
        completions = [catalogue.titles[item] for item in items]
        given = self._calculate_rewards(rows, texts, completions, [catalogue.token_ids(item) for item in items])
        if not bool(torch.isfinite(given).any(dim=1).all()):
            raise RunError("No reward function gave a finite reward for some item; check the reward functions.")
        total: Tensor = (given * self.reward_weights.to(given.device)).nansum(dim=1)
        own = self.accelerator.process_index * len(items)
        metrics = self._metrics["train"]
        metrics["reward"].append(float(total.mean()))
        for name, column in zip(self.reward_func_names, given.T, strict=True):
            metrics[f"rewards/{name}/mean"].append(float(column.nanmean()))
        for name, values in sorted(self._pending_metrics.items()):
            metrics[name].append(self._mean(sum(values) / len(values)))
        self._pending_metrics.clear()
        self._pending_extra_logs.clear()
        return total[own : own + len(items)].view(items_BG.shape)

    def _minibatch(self, request: ScoreRequest, old_log_prob_BGL: Tensor, reward_BG: Tensor) -> Minibatch:
        reference = self._reference_scores(request)
        if self.args.critic_input == "reference":
            request = replace(request, features_BGLH=reference.hidden_BGLH)
            value = self.base.critic(request.features_BGLH)
        else:
            with evaluating(self.base):
                value = self._policy_and_value(request)["value_BGL"]
        gamma, lam = self.args.gamma, self.args.gae_lambda
        advantage, returns = gae(reward_BG, value, reference.choice_BGL, gamma=gamma, lam=lam)
        return Minibatch(request, reference.choice_BGL, old_log_prob_BGL, value, advantage, returns, reference)

    def _log_rollout(self, parts: Sequence[Minibatch]) -> None:
        """Explained variance 1 - Var(R - V) / Var(R) over the whole rollout, before the update."""
        errors = [moments(part.return_BGL - part.value_BGL, part.choice_BGL) for part in parts]
        returns = [moments(part.return_BGL, part.choice_BGL) for part in parts]
        sums = self._sum(torch.stack([torch.stack(errors).sum(0), torch.stack(returns).sum(0)]))
        _, left = mean_and_variance(sums[0])
        _, whole = mean_and_variance(sums[1])
        explained = 1.0 - float(left / whole) if float(whole) > 0 else 0.0
        self._metrics["train"]["explained_variance"].append(explained)

    # The update.

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One optimiser step's forward and backward; neither once the rollout is stopped by `target_kl`."""
        try:
            first = self._step % (self.args.steps_per_generation * self.num_iterations) == 0
            if self._stopped and not first:
                raise StopRollout
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        except StopRollout:
            self._stopped = True
            self._step += 1
            return torch.zeros((), device=self.accelerator.device)
        return loss

    def _compute_loss(self, model: Any, inputs: Minibatch) -> Tensor:
        """Clipped policy loss + value loss + beta KL - entropy bonus, summed over choice points, a mean over items.

        The KL is exact: sum over legal children of pi log(pi / pi_ref) at the prefixes the rollout visited. Its
        gradient is taken at fixed prefixes; the score-function term (through which prefixes are visited) is dropped.
        """
        args, batch, number = self.args, inputs, inputs.request.items_BG.numel()
        out = model(ppo=batch.request)
        scores: TokenScores = out["scores"]
        log_prob, old, choice = scores.log_prob_BGL, batch.old_log_prob_BGL, batch.choice_BGL
        policy, outside = clipped_policy_loss(log_prob, old, batch.advantage_BGL, choice, args.epsilon)
        value = clipped_value_loss(out["value_BGL"], batch.value_BGL, batch.return_BGL, choice, args.value_clip)
        kl, entropy = exact_kl_BGL(scores, batch.reference).sum(), scores.entropy_BGL.sum()
        penalty = args.kl_coefficient * kl - args.entropy_coefficient * entropy
        loss: Tensor = (policy + args.value_coefficient * value + penalty) / number
        sums = [policy, value, kl, entropy, moved_kl(log_prob, old, choice)]
        named = dict(zip(("policy_loss", "value_loss", "kl", "entropy", "moved_kl"), sums, strict=True))
        self._log_update(named, number, outside / choice.sum().clamp(min=1), loss)
        return loss

    def _log_update(self, sums: dict[str, Tensor], number: int, outside: Tensor, loss: Tensor) -> None:
        """Logs means an item over all processes; stops the rollout where the bound on the moved KL is broken."""
        values = torch.stack(
            [*(v.detach().float() / number for v in sums.values()), outside.float(), loss.detach().float()]
        )
        *means, clipped, total = self.accelerator.reduce(values, "mean").tolist()
        named = dict(zip(sums, means, strict=True))
        if not math.isfinite(total):
            raise RunError("The PPO loss is not finite; lower ppo.learning_rate, or check the reward.")
        bound = self.args.target_kl
        stop = bound is not None and named["moved_kl"] > bound
        for name, mean in (*named.items(), ("clip_fraction", clipped), ("kl_stop", float(stop))):
            self._metrics["train"][name].append(mean)
        if stop:
            raise StopRollout

    def _sum(self, value: Tensor) -> Tensor:
        total: Tensor = self.accelerator.reduce(value, "sum")
        return total

    def _mean(self, value: float) -> float:
        return float(gather(torch.tensor([value], device=self.accelerator.device)).mean())

    # Checkpoints: the adapter (or all weights) and, apart from it, the critic.

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if state_dict is None and not isinstance(self.accelerator.unwrap_model(self.model), PeftModel):
            state_dict = {k: v for k, v in self.base.state_dict().items() if not k.startswith("critic.")}
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            save_critic(self.base.critic, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_critic(self.base.critic, Path(resume_from_checkpoint))


def patch_forward(base: Any, compute: Callable[[ScoreRequest], dict[str, Any]]) -> None:
    """Lets `base(ppo=request)` return `compute(request)`, through whatever wraps `base`; all else stays as it was.

    This is the seam that TRL itself uses for its fused head.
    """
    inner = base.forward

    def forward(*args: Any, ppo: ScoreRequest | None = None, **rest: Any) -> Any:
        return inner(*args, **rest) if ppo is None else compute(ppo)

    base.forward = forward


def frozen_copy(base: Any) -> Any:
    """A copy of `base` without its critic, in evaluation mode, that asks for no gradient."""
    critic = base.__dict__["_modules"].pop("critic", None)
    try:
        return copy.deepcopy(base).eval().requires_grad_(False)
    finally:
        if critic is not None:
            base.critic = critic


def forget_patches(model: torch.nn.Module) -> None:
    """Takes off the forward that TRL hangs on the model's instance, so that the model is plain again."""
    model.__dict__.pop("forward", None)
