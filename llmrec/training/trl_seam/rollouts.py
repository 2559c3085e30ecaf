"""Rollouts under the constrained policy: what every trainer here draws, scores, rewards and logs in TRL's place.

A rollout is G items of each state, drawn under pi_F (legal tokens only, seen items masked) with the sampler's own
log-probabilities as the old ones; one prompt with its G items is one packed row. The reference is the policy before
reinforcement learning: the adapter switched off, or a frozen copy. Rewards go through TRL's own `_calculate_rewards`.

Groups whose draws all earned the same reward teach a group-relative method nothing. They are drawn anew for other
states, a bounded number of times, from streams named by rollout, place and attempt: as with everything drawn here the
number of processes changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather
from peft import PeftModel
from torch import Tensor

from llmrec.errors import ConfigError, RunError
from llmrec.policy.decoding import Samples, sample_items
from llmrec.policy.forward import Also, answer_through_forward, ask_through_forward, with_scoring
from llmrec.policy.modes import Noise, still
from llmrec.policy.scoring import TokenScores
from llmrec.training.advantages import mean_and_variance, moments
from llmrec.training.controls import Controls, Guard
from llmrec.training.rehearsal import Rehearsal
from llmrec.training.state_source import Rows, ScoreRequest, StateSource
from llmrec.training.trl_seam.asked import predicted, predictions
from llmrec.training.trl_seam.quiet import GuardedTrainer, frozen_copy, without_adapter
from llmrec.training.trl_seam.sharding import whole_weights


@dataclass(frozen=True, slots=True)
class Drawn:
    """One process's share of a rollout.

    Attributes:
        rows: the data set's rows, each G times in succession, as TRL's sampler repeats them.
        request: what was asked and drawn: B prompts with G items each.
        log_prob_BGL: the sampler's log-probabilities; 0 at forced tokens.
        given_WF: what each of F reward functions gave to each draw of all processes, in their order; NaN for None.
        reward_BG: their weighted sum, normalised where the settings ask for it.
    """

    rows: Rows
    request: ScoreRequest
    log_prob_BGL: Tensor
    given_WF: Tensor
    reward_BG: Tensor


class RolloutTrainer(GuardedTrainer):
    """Mixin before a trainer of TRL that learns from draws (`GRPOTrainer`, `RLOOTrainer`).

    Args:
        model: a PEFT model with one fresh adapter (the reference is the model without it) or a plain one (the
            reference is a copy).
        source: the states, their prompts, filters and random numbers; rows come from `source.plan`.
        args: TRL's configuration. `per_device_train_batch_size` counts items and is a multiple of `num_generations`.
        controls: the coefficients and what moves them.
        rehearsal: what else is learnt in each optimiser step; None for nothing.
        rest: as for TRL's trainer. Reward functions also get the fields `state`, `item`, `rollout` and `place`.
    """

    also: Also | None = None
    keeps_reference = True
    """Whether the policy as it was is kept; learning from targets alone has no use for it."""
    noise: Noise = "none"
    """What the model does at random in an update."""
    _gathered_state: dict[str, Any] | None = None
    _reward_unit = 1.0
    """What this rollout's rewards were divided by. `kl_coefficient` and `entropy_coefficient` are in units of the
    rewards as they were given, so that whatever divides those divides these too."""
    _reward_shift = 0.0
    """What was taken off them before."""

    def __init__(
        self,
        model: Any,
        source: StateSource,
        args: Any,
        controls: Controls,
        *,
        rehearsal: Rehearsal | None = None,
        **rest: Any,
    ) -> None:
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        # Copied before TRL's constructor hangs anything on the model. Under LoRA no copy is needed: the reference is
        # the same weights with the adapter switched off.
        copied = self.keeps_reference and not isinstance(model, PeftModel)
        self._reference = frozen_copy(base) if copied else None
        trained = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad]
        super().__init__(model=model, args=args, **rest)  # type: ignore[call-arg]  # TRL's trainer comes next
        if getattr(base, "is_loaded_in_4bit", False):  # TRL rounds what is trained to bfloat16, the critic too
            for parameter, whole in trained:
                parameter.data = whole.to(parameter.device)
        if "ref" in getattr(model, "peft_config", {}):  # TRL's copy of a fresh adapter, which is nothing but the base
            model.delete_adapter("ref")
        if rehearsal is not None and self._deepspeed():
            raise ConfigError(
                "Key 'rehearsal.coefficient' asks for a second backward pass in a step, which DeepSpeed does not "
                "make; set it to 0, or launch with FSDP or DDP."
            )
        self.base, self.source, self.controls, self.rehearsal = base, source, controls, rehearsal
        self.guard = Guard(controls.settings.skip_grad_norm, controls.settings.max_skipped)
        self.index = source.index.to(self.accelerator.device)
        self._buffered_inputs = None
        # on the base model, before `train` wraps it: what wraps it has to see one ordinary forward
        with_scoring(base, self.also)

    # Scores.

    def _answer(self, model: Any, request: ScoreRequest) -> tuple[TokenScores, dict[str, Tensor]]:
        """Scores under the policy, through whatever wraps it, and what `also` makes of them.

        The scorer is the policy that draws: without dropout, whatever the model was made with.
        """
        # at every call, since transformers sets the training mode anew before every step
        still(self.base, self.noise)
        return answer_through_forward(model, request)

    @torch.no_grad()
    def _reference_scores(self, request: ScoreRequest) -> TokenScores:
        """Scores under the policy as it was before reinforcement learning."""
        if self._reference is not None:
            return request.score(self._reference.to(request.prompt_ids_BP.device))
        with without_adapter(self):
            return answer_through_forward(self.model, replace(request, with_more=False))[0]

    # The update.

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """TRL's own; what is rehearsed has gone forward and backward before."""
        if self.rehearsal is not None:
            # apart, so that one of the two is in memory; gradients meet, and are averaged over processes once
            with self.accelerator.no_sync(model):
                self._rehearse(model, self.rehearsal)
        loss: Tensor = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        return loss

    def _rehearse(self, model: Any, rehearsal: Rehearsal) -> None:
        """Adds the gradient of rho times the loss of this step's rows, in the units of the advantages."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        # by optimiser steps and not by calls: a resumed training rehearses what the uninterrupted one does
        batch = rehearsal.batch(self.state.global_step, process, processes)
        batch = {name: column.to(self.accelerator.device) for name, column in batch.items()}
        still(self.base, self.noise)
        total: Tensor = ask_through_forward(model, predictions(batch, self.index, shared=False))["loss"]
        count = self._sum(predicted(batch).double()).clamp(min=1)
        # DDP and FSDP average gradients over processes; the count is of all of them already
        nats = total * processes / count.to(total.dtype)
        self._metrics["train"]["rehearsal_loss"].append(self._mean(float(nats.detach())))
        self.accelerator.backward(rehearsal.coefficient * nats / self._advantage_unit())

    def _advantage_unit(self) -> float:
        """What a reward of 1 is divided by until it is an advantage."""
        return self._reward_unit

    # The rollout.

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """The minibatch of this step, from the running rollout or, where that is used up, from a new one."""
        steps = self.args.steps_per_generation
        # TRL's own schedule: it repeats the rows of a rollout for each of its optimiser steps, and only the first of
        # them draws. The buffer is empty after resuming, at a rollout's boundary, too.
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            # drawing calls the decoder and the head apart, past the forward for which FSDP2 and ZeRO-3 gather weights
            with whole_weights(self.model_wrapped):
                self._buffered_inputs = self._roll_out(generation_batch)
        return self._buffered_inputs[self._step % steps]

    def _roll_out(self, inputs: Rows) -> Sequence[Any]:
        """The minibatches of a new rollout."""
        raise NotImplementedError

    @torch.no_grad()
    def _draw(self, inputs: Rows) -> Drawn:
        """G items for each state of this process, with their rewards."""
        drawn = self._once(inputs)
        # before groups are replaced: what the policy earns, not what was chosen to be learnt from
        self._log_rewards(drawn)
        most = self.controls.settings.resample
        for attempt in range(1, most + 1):
            flat = self._flat(drawn)
            # A reward function may gather over processes, and so does TRL: all of them ask equally often, for equally
            # many.
            again = int(self._most(len(flat)))
            if not again:
                break
            drawn = self._replaced(drawn, flat, again, attempt)
        self._log_groups(drawn)
        self._normalise(drawn)
        # what functions logged of draws that were replaced; TRL would report it with the next batch
        self._pending_metrics.clear()
        self._pending_extra_logs.clear()
        return drawn

    def _once(self, inputs: Rows, attempt: int = 0) -> Drawn:
        # TRL's sampler hands each row over G times, as its own trainers want it; a prompt is read once here
        rows = inputs[:: self.num_generations]
        request, samples = self._sample(rows, self.num_generations, attempt)
        given_WF = self._given(inputs, request, samples.items_BG)
        request = replace(request, items_BG=samples.items_BG)
        return Drawn(inputs, request, samples.token_log_prob_BGL, given_WF, self._own(given_WF, samples.items_BG))

    def _sample(self, rows: Rows, draws: int, attempt: int = 0) -> tuple[ScoreRequest, Samples]:
        """What is asked of the rows' states, no items yet, and G independent draws for each from pi_F."""
        device = self.index.device
        request = self.source.request(rows, self.index, device)
        return request, sample_items(
            self.base,
            request.prompt_ids_BP,
            request.prompt_mask_BP,
            draws,
            self.index,
            uniform_BGL=self.source.uniforms(rows, draws, attempt).to(device),
            exclude=request.allowed,
        )

    def _given(self, inputs: Rows, request: ScoreRequest, items_BG: Tensor) -> Tensor:
        """What the reward functions give, (W, F) over all processes, by TRL's own `_calculate_rewards`."""
        items = items_BG.flatten().tolist()
        pairs = zip(request.prompt_ids_BP, request.prompt_mask_BP, strict=True)
        prompts = self._tokenizer.batch_decode([line[keep.bool()] for line, keep in pairs])
        texts = [text for text in prompts for _ in range(self.num_generations)]
        rows = [{**row, "item": item} for row, item in zip(inputs, items, strict=True)]
        catalogue = self.source.catalogue
        titles, tokens = [catalogue.titles[i] for i in items], [catalogue.token_ids(i) for i in items]
        given: Tensor = self._calculate_rewards_of_trl(rows, texts, titles, tokens)
        # None (NaN) of one function is silence, and of all of them a draw of which nothing is known. TRL only warns.
        if not bool(torch.isfinite(given).any(dim=1).all()):
            raise RunError("No reward function gave a finite reward for some item; check the reward functions.")
        return given

    def _calculate_rewards_of_trl(self, *arguments: Any) -> Tensor:
        given: Tensor = super()._calculate_rewards(*arguments)  # type: ignore[misc]
        return given

    def _own(self, given_WF: Tensor, items_BG: Tensor) -> Tensor:
        """This process's rewards, (B, G)."""
        total_W: Tensor = (given_WF * self.reward_weights.to(given_WF.device)).nansum(dim=1)
        # TRL has gathered the rewards in the order of the processes, each with equally many
        first = self.accelerator.process_index * items_BG.numel()
        return total_W[first : first + items_BG.numel()].view(items_BG.shape)

    # Groups without spread.

    @staticmethod
    def _flat(drawn: Drawn) -> list[int]:
        """Groups of this process whose draws all earned the same."""
        reward_BG = drawn.reward_BG
        spread_B = reward_BG.amax(1) - reward_BG.amin(1)
        # relative: rewards are float32 sums, whose last digits differ between equal ones
        least = 1e-6 * reward_BG.abs().amax(1).clamp(min=1e-6)
        return [int(b) for b in torch.nonzero(spread_B <= least).flatten()]

    def _replaced(self, drawn: Drawn, flat: list[int], again: int, attempt: int) -> Drawn:
        """`drawn` with its flat groups drawn anew for other states; all processes draw `again` groups together."""
        draws = self.num_generations
        places = (flat + [0] * again)[:again]  # a process with fewer flat groups draws some that are thrown away
        rows = [self.source.another(drawn.rows[place * draws], attempt) for place in places]
        new = self._once([row for row in rows for _ in range(draws)], attempt)
        # the new states' prompts may be longer, and their users may have seen more
        wider = _padded_together(drawn.request, new.request)
        at = torch.tensor(flat, dtype=torch.long, device=drawn.reward_BG.device)
        kept = slice(0, len(flat))
        tensors = {}
        for name in ("prompt_ids_BP", "prompt_mask_BP", "items_BG"):
            tensors[name] = getattr(wider[0], name).clone()
            tensors[name][at] = getattr(wider[1], name)[kept]
        exclude = wider[0].exclude
        if exclude is not None:
            exclude = exclude.clone()
            exclude[at] = wider[1].exclude[kept]
        log_prob, reward = drawn.log_prob_BGL.clone(), drawn.reward_BG.clone()
        log_prob[at], reward[at] = new.log_prob_BGL[kept], new.reward_BG[kept]
        lines = list(drawn.rows)
        for n, place in enumerate(flat):
            lines[place * draws : (place + 1) * draws] = new.rows[n * draws : (n + 1) * draws]
        return Drawn(
            lines,
            replace(drawn.request, **tensors, exclude=exclude),
            log_prob,
            self._merged(drawn, new, flat),
            reward,
        )

    def _merged(self, drawn: Drawn, new: Drawn, flat: list[int]) -> Tensor:
        """The reward functions' values of all processes after the replacement."""
        items, again = drawn.request.items_BG.numel(), new.request.items_BG.numel()
        me, draws = self.accelerator.process_index, self.num_generations
        own = drawn.given_WF[me * items : (me + 1) * items].clone().view(-1, draws, drawn.given_WF.shape[1])
        fresh = new.given_WF[me * again : (me + 1) * again].view(-1, draws, drawn.given_WF.shape[1])
        own[flat] = fresh[: len(flat)]
        return self._gathered(own.flatten(0, 1))

    # What is logged, and what moves the coefficients.

    def _log_groups(self, drawn: Drawn) -> None:
        flat, groups = self._total(float(len(self._flat(drawn)))), self._total(float(len(drawn.reward_BG)))
        self._metrics["train"]["flat_groups"].append(flat / groups)
        if self.num_generations > 1:
            self.controls.after_groups(int(flat), int(groups))
        else:
            self._count_flat(drawn.reward_BG)

    def _count_flat(self, reward: Tensor) -> None:
        """Counts a rollout in which nothing differs, where states have no groups of draws."""
        sums = self._sums(reward)
        mean, variance = (float(value) for value in mean_and_variance(sums))
        self.controls.after_groups(int(variance <= 1e-12 * max(mean * mean, 1e-12)), 1)

    def _normalise(self, drawn: Drawn) -> None:
        """Shifts and scales the rewards in place, by moments over all processes, and keeps the scale."""
        self._reward_shift, self._reward_unit = self.controls.normalised(*self._sums(drawn.reward_BG).tolist())
        # In place, as `Drawn` is frozen. A shift moves no advantage that is relative to others or to a critic; the
        # scale does, so it is kept for KL and entropy.
        drawn.reward_BG.sub_(self._reward_shift).div_(self._reward_unit)

    def _log_rewards(self, drawn: Drawn) -> None:
        """Logs what the policy's draws earned, before any group of them is replaced or normalised."""
        metrics, given_WF = self._metrics["train"], drawn.given_WF
        metrics["reward"].append(float((given_WF * self.reward_weights.to(given_WF.device)).nansum(1).mean()))
        for name, column in zip(self.reward_func_names, given_WF.T, strict=True):
            metrics[f"rewards/{name}/mean"].append(float(column.nanmean()))
        for name, values in sorted(self._pending_metrics.items()):
            metrics[name].append(self._mean(sum(values) / len(values)))
        self._pending_metrics.clear()

    def _move_controls(self, drawn: Drawn, reference: Sequence[TokenScores]) -> None:
        """Logs KL to the reference and entropy of the rollout, nats an item, and moves the coefficients by them.

        Both are means over the draws: of log pi - log pi_ref, and of -log pi.
        """
        log_prob_BG = drawn.log_prob_BGL.sum(-1)
        ratio = log_prob_BG - torch.cat([scores.item_log_prob_BG for scores in reference]).to(log_prob_BG)
        self._moved(self._mean(float(ratio.mean())), self._mean(-float(log_prob_BG.mean())))

    def _moved(self, kl: float, entropy: float) -> None:
        """Logs what a rollout's KL and entropy were, and under which coefficients; then moves these."""
        controls, metrics = self.controls, self._metrics["train"]
        metrics["rollout_kl"].append(kl)
        metrics["rollout_entropy"].append(entropy)
        metrics["kl_coefficient"].append(controls.kl_coefficient)
        metrics["entropy_coefficient"].append(controls.entropy_coefficient)
        controls.after_rollout(kl, entropy)

    # Over all processes.

    def _sums(self, value: Tensor) -> Tensor:
        """Number, sum and sum of squares of all numbers: (3,) float64."""
        return self._sum(moments(value, torch.ones_like(value, dtype=torch.bool)))

    def _sum(self, value: Tensor) -> Tensor:
        total: Tensor = self.accelerator.reduce(value, "sum")
        return total

    def _total(self, value: float) -> float:
        return float(self._sum(torch.tensor([value], dtype=torch.float64, device=self.accelerator.device)))

    def _mean(self, value: float) -> float:
        return self._total(value) / float(self.accelerator.num_processes)

    def _most(self, value: int) -> int:
        return int(self._gathered(torch.tensor([value], device=self.accelerator.device)).max())

    @staticmethod
    def _gathered(value: Tensor) -> Tensor:
        found: Tensor = gather(value)
        return found

    # Checkpoints: the adapter (or all weights) and, apart from it, what else a training carries.

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        self._gathered_state = state_dict
        if not isinstance(self.accelerator.unwrap_model(self.model), PeftModel):
            # The critic hangs on the model while it trains, but is no part of it: a checkpoint must load into a plain
            # one.
            given = self.base.state_dict() if state_dict is None else state_dict
            state_dict = {k: v for k, v in given.items() if not k.startswith("critic.")}
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self._save_more(Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
        self._load_more(Path(resume_from_checkpoint))

    def _state_of(self, name: str) -> dict[str, Tensor]:
        """The weights of a module that hangs on the base model; whole ones, while a checkpoint is saved."""
        if self._gathered_state is None:
            return dict(getattr(self.base, name).state_dict())
        found = {}
        for key, tensor in self._gathered_state.items():
            # names carry the prefixes of whatever wraps the model, so only their ends are told apart
            _, mark, inner = f".{key}".partition(f".{name}.")
            if mark:
                found[inner] = tensor
        return found

    def _save_more(self, folder: Path) -> None:
        self.controls.save(folder)

    def _load_more(self, folder: Path) -> None:
        self.controls.load(folder)


def _padded_together(first: ScoreRequest, second: ScoreRequest) -> tuple[ScoreRequest, ScoreRequest]:
    """Both with prompts (on the left) and exclusions (on the right) as wide as the wider of the two."""
    width = max(first.prompt_ids_BP.shape[1], second.prompt_ids_BP.shape[1])
    given = (first, second)
    many = max((r.exclude.shape[1] for r in given if r.exclude is not None), default=0)
    pad = torch.nn.functional.pad
    made = []
    for request in given:
        left = (width - request.prompt_ids_BP.shape[1], 0)
        exclude = request.exclude
        if exclude is not None:
            exclude = pad(exclude, (0, many - exclude.shape[1]), value=-1)
        made.append(
            replace(
                request,
                prompt_ids_BP=pad(request.prompt_ids_BP, left),
                prompt_mask_BP=pad(request.prompt_mask_BP, left),
                exclude=exclude,
            )
        )
    return made[0], made[1]
