"""The checks of a pretrained model that train: LoRA in SFT and PPO, saving and loading an adapter, added tokens."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from llmrec.config import LoraSettings, PPOSettings, SFTSettings
from llmrec.model_check.trial import SEED, WORLD, CheckedModel, CheckOutcome, Figure, largest
from llmrec.policy.loading import load_causal_lm, load_tokenizer, save_causal_lm
from llmrec.policy.modes import device_of
from llmrec.training.arguments import quiet
from llmrec.training.improvement import Checkpointing, WarmStart
from llmrec.training.lora import Adapter, adapter_of, make_lora
from llmrec.training.on_policy import train_on_policy
from llmrec.training.row_fitting import FitPlan, fit_rows
from llmrec.training.sft import uses_lora
from llmrec.training.sft_data import build_rows
from llmrec.types import IntArray, Reward, State

LORA = LoraSettings(rank=8, alpha=16)
SFT = SFTSettings(examples=8, epochs=1, batch_size=8, mixture={"next_item": 1.0}, history_dropout=0.0, lora=LORA)
PPO = PPOSettings(steps=1, prompts=4, draws=8, minibatches=1, save_every=1, lora=LORA)
NEW_TOKENS = 4


def lora_sft(trial: CheckedModel) -> CheckOutcome:
    """One SFT step moves the adapter and nothing else."""
    before, tokenizer = _prints(trial.model), trial.tokenizer
    learnt = (trial.examples[: SFT.examples], trial.dataset.item_list, trial.catalogue, trial.renderer, tokenizer)
    rows = build_rows(*learnt, SFT, seed=SEED)
    plan = FitPlan("SFT", SFT.batch_size, SFT.learning_rate, 0.0, SFT.save_every)
    trained = make_lora(trial.model, SFT.lora, seed=SEED)
    out = trial.scratch / "sft"
    curve = fit_rows(trained, tokenizer, rows, plan, seed=SEED, out=out, resume=False, report_to=()).curve
    moved, frozen = _moved(adapter_of(trained)), _prints(trained) == before
    trained.unload()
    loss = curve[-1]["loss"]
    sentence = f"One step (loss {loss:.3f}) moved {moved} adapter matrices; {_weights(frozen)}."
    figures: dict[str, Figure] = {"loss": loss, "adapter_matrices_moved": moved, "base_unchanged": frozen}
    return CheckOutcome(moved > 0 and frozen and math.isfinite(loss), sentence, figures)


def lora_ppo(trial: CheckedModel) -> CheckOutcome:
    """One PPO step on a made-up reward moves the adapter and nothing else."""
    before, plain_BN = _prints(trial.model), trial.log_probs(trial.model)
    states = [example.state for example in trial.examples]
    seen = [np.zeros(0, dtype=np.int64) for _ in states]
    start = WarmStart(trial.model, trial.tokenizer, trial.catalogue, trial.renderer, "allow", SEED)
    checkpointing = Checkpointing(trial.scratch / "ppo", resume=False)
    result = train_on_policy(start, states, seen, _made_up_reward, PPO, checkpointing)
    adapter, frozen = adapter_of(result.model), _prints(result.model) == before
    tuned_BN = trial.log_probs(result.model)
    result.model.unload()
    trial.tuned = (adapter, tuned_BN)
    moved, change, row = _moved(adapter), largest(tuned_BN, plain_BN), result.curve[-1]
    sentence = (
        f"One rollout (reward {row['reward']:.3f}, KL {row['kl']:.1e}) moved {moved} adapter matrices and log pi by "
        f"up to {change:.1e}; {_weights(frozen)}."
    )
    figures: dict[str, Figure] = {
        "reward": row["reward"],
        "kl": row["kl"],
        "adapter_matrices_moved": moved,
        "log_prob_change": change,
        "base_unchanged": frozen,
    }
    return CheckOutcome(moved > 0 and frozen and change > 0, sentence, figures)


def _made_up_reward(states: Sequence[State], items_BK: IntArray, /) -> Reward:
    """A reward that differs by item, from 0 to 1."""
    value_BK = items_BK / (WORLD.items - 1)
    return Reward(value_BK, {"item": value_BK})


def save_and_reload(trial: CheckedModel) -> CheckOutcome:
    """The adapter of the PPO step, saved and loaded or merged, gives the same log pi."""
    if trial.tuned is None:
        return CheckOutcome(False, "There is no adapter to save, because the PPO step failed.", {})
    adapter, tuned_BN = trial.tuned
    folder = trial.scratch / "adapter"
    adapter.save(folder)
    loaded = PeftModel.from_pretrained(trial.model, str(folder)).eval()
    apart = largest(trial.log_probs(loaded), tuned_BN)
    merged = loaded.merge_and_unload()
    trial.forget()  # its weights hold the adapter now
    joined = largest(trial.log_probs(merged), tuned_BN)
    sentence = f"log pi of the saved adapter differs by {apart:.1e} when loaded, by {joined:.1e} when merged."
    figures: dict[str, Figure] = {"reloaded_error": apart, "merged_error": joined, "tolerance": trial.tolerance}
    return CheckOutcome(apart <= trial.tolerance / 10 and joined <= trial.tolerance, sentence, figures)


def all_weights(trial: CheckedModel) -> CheckOutcome:
    """What is written where no adapter is: the model's settings, and below 50 M parameters its weights too."""
    model, folder = trial.model, trial.scratch / "weights"
    folder.mkdir()
    if uses_lora(model, SFTSettings()):
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        return CheckOutcome(
            True, "Its settings are saved; runs train an adapter on a model of this size.", {"saved": False}
        )
    before = trial.log_probs(model)
    save_causal_lm(model, trial.tokenizer, folder)
    load_tokenizer(str(folder))
    error = largest(trial.log_probs(load_causal_lm(str(folder), whole=True)), before)
    figures: dict[str, Figure] = {"saved": True, "reloaded_error": error, "tolerance": trial.tolerance}
    return CheckOutcome(
        error <= trial.tolerance, f"log pi of all weights, saved and loaded, differs by {error:.1e}.", figures
    )


def added_tokens(trial: CheckedModel) -> CheckOutcome:
    """New tokens by PEFT's `trainable_token_indices`, without which new rows never train under LoRA."""
    model, old = trial.model, trial.renderer.token_ids(trial.states[0])
    new = _add_rows(model, trial.tokenizer)
    names = {id(module): name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    embed, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = embed.weight is head.weight
    wanted = {names[id(module)]: new for module in ([embed] if tied else [embed, head])}
    trial.forget()  # its embeddings are wider now
    with quiet():
        config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", trainable_token_indices=wanted)
        trained = get_peft_model(model, config)
    ids = torch.tensor([[*old, *new, *new]], device=device_of(model))
    before = model.get_input_embeddings()(ids).detach().clone()
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    trained(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    optimizer.step()
    moved_L = (model.get_input_embeddings()(ids).detach() != before).any(-1)[0]
    others, changed = int(moved_L[: len(old)].sum()), int(moved_L[len(old) :].sum()) // 2
    sentence = f"One step changed {changed} of {NEW_TOKENS} new rows and {others} of {len(set(old))} old ones in use."
    figures: dict[str, Figure] = {"new_rows_changed": changed, "old_rows_changed": others, "tied_embeddings": tied}
    return CheckOutcome(changed == NEW_TOKENS and others == 0, sentence, figures)


def _add_rows(model: Any, tokenizer: Any) -> list[int]:
    """Adds tokens to a copy of the tokenizer and rows to the model; returns the new ids.

    Many models have more rows than tokens: those are used first, and rows are never taken away.
    """
    tokenizer, names = copy.deepcopy(tokenizer), [f"<llmrec_{n}>" for n in range(NEW_TOKENS)]
    tokenizer.add_tokens(names)
    rows = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(max(rows, len(tokenizer)), mean_resizing=False)
    return [int(i) for i in tokenizer.convert_tokens_to_ids(names)]


def _weights(frozen: bool) -> str:
    return "no weight of the model changed" if frozen else "weights of the model changed too"


def _prints(model: Any) -> dict[str, int]:
    """For each weight that is no adapter's the sum of its bits, read as whole numbers; keeps no copy of weights."""
    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): int(
            p.detach().contiguous().view(kinds[p.element_size()]).sum(dtype=torch.int64)
        )
        for name, p in model.named_parameters()
        if "lora_" not in name
    }


def _moved(adapter: Adapter) -> int:
    """Matrices B, which start at 0, that are 0 no longer."""
    return sum(bool(tensor.any()) for name, tensor in adapter.tensors.items() if "lora_B" in name)
