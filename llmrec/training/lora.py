"""LoRA adapters (Hu et al. 2021): made, taken out, merged, and two of them joined into one exactly.

After supervised fine-tuning with LoRA the weights are W + s1 B1 A1; PPO adds s2 B2 A2 on top. What is handed on is
one adapter for W, of rank r1 + r2: B = [s1 B1, s2 B2] and A = [A1; A2], so that B A is the sum.

LoRA leaves embeddings and output head frozen, but tokens that were added to the tokenizer must learn theirs. PEFT's
`trainable_token_indices` trains those rows whole; they are part of the adapter and replace the base model's rows, so
of two adapters the later one's rows hold. PPO starts from weights that hold them already and leaves them as SFT left
them: its reference is then the policy with the adapter switched off, to the bit.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from llmrec.config import LoraSettings
from llmrec.errors import ConfigError, RunError
from llmrec.policy.adapters import token_rows_key
from llmrec.seeding import stream_seed
from llmrec.training.arguments import quiet
from llmrec.training.fused_lora import fuse

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter apart from its model: its configuration and its tensors under PEFT's names."""

    config: LoraConfig
    tensors: dict[str, torch.Tensor]

    def save(self, folder: Path) -> None:
        """Writes `adapter_config.json` and `adapter_model.safetensors`, which `PeftModel.from_pretrained` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(str(folder))
        tensors = {name: tensor.contiguous().cpu() for name, tensor in self.tensors.items()}
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def check_lora(settings: LoraSettings, section: str) -> None:
    """Raises `ConfigError` for a rank or scaling below 1, or a dropout outside [0, 1)."""
    for key in ("rank", "alpha"):
        if getattr(settings, key) < 1:
            raise ConfigError(f"Key '{section}.{key}' is {getattr(settings, key)}, but it must be at least 1.")
    if not 0 <= settings.dropout < 1:
        raise ConfigError(f"Key '{section}.dropout' is {settings.dropout}; it must be in [0, 1).")


def make_lora(
    model: Any,
    settings: LoraSettings,
    name: str = DEFAULT,
    *,
    seed: int = 0,
    new_tokens: Sequence[int] = (),
) -> PeftModel:
    """Puts a fresh adapter called `name` on every linear layer of the backbone (not on the output head).

    The adapter starts as the identity (B = 0); A is drawn from a named stream of `seed`, and nothing else of
    torch's random state is touched. All weights of `model` are frozen.

    Args:
        model: a plain causal language model.
        settings: rank, scaling and dropout.
        name: PEFT's name of the adapter.
        seed: the run's seed.
        new_tokens: token ids whose rows of the input embedding, and of an untied output head, are trained too.

    Raises:
        RunError: `new_tokens` for an output head with a bias, which PEFT would drop.
    """
    layers = token_layers(model) if len(new_tokens) else []
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        trainable_token_indices={layer: [int(token) for token in new_tokens] for layer in layers} or None,
    )
    # PEFT draws A from torch's global generator: seeded for this adapter alone, and put back
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(stream_seed(seed, "lora", name))
        return fuse(get_peft_model(model, config, adapter_name=name))


def token_layers(model: Any) -> list[str]:
    """Names of the layers that hold a row for each token: the input embedding, and the output head if it is untied.

    Raises:
        RunError: the head has a bias.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise RunError(
            f"The output head of {type(model).__name__} has a bias, so new tokens cannot be trained with LoRA; set "
            "sft.weights: full, or identifiers.scheme: title."
        )
    # tied weights are one layer: trained in both places, the two deltas would be added to the same rows
    wanted = [embedding] if head.weight is embedding.weight else [embedding, head]
    # by identity: what the layers are called differs from architecture to architecture
    names = {id(module): name for name, module in model.named_modules()}
    return [names[id(module)] for module in wanted]


def adapter_of(model: PeftModel, name: str = DEFAULT) -> Adapter:
    """A copy of adapter `name` of `model`."""
    tensors = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    config = copy.deepcopy(model.peft_config[name])
    config.inference_mode = True
    return Adapter(config, {key: tensor.detach().clone() for key, tensor in tensors.items()})


def put_adapter(model: PeftModel, adapter: Adapter) -> PeftModel:
    """Writes the weights of `adapter` into the adapter of `model`, which has its rank; the same model.

    Raises:
        RunError: the adapter was made for another model.
    """
    try:
        told = set_peft_model_state_dict(model, dict(adapter.tensors), adapter_name=DEFAULT)
    except RuntimeError:  # torch: sizes that do not fit
        told = None
    if told is None or any("lora_" in key for key in (*told.missing_keys, *told.unexpected_keys)):
        raise RunError("The adapter was made for another model; take one of this model, or begin with a new one.")
    return model


def merge(model: PeftModel) -> Any:
    """Adds the adapter into the weights and returns the plain model, in evaluation mode. `model` is used up."""
    return model.merge_and_unload().eval()


def combine_adapters(first: Adapter, second: Adapter) -> Adapter:
    """One adapter that changes the weights exactly as `first` and then `second` do ("cat" in PEFT's terms).

    Its rank is the sum of the ranks and its scaling 1. Rows of tokens are those of `second` where it has them, else
    those of `first`.

    Raises:
        RunError: the adapters do not adapt the same layers.
    """
    matrices = [{name for name in adapter.tensors if "lora_" in name} for adapter in (first, second)]
    if matrices[0] != matrices[1]:
        odd = sorted(matrices[0] ^ matrices[1])[0]
        raise RunError(f"The two adapters cannot be joined: only one of them adapts {odd!r}.")
    tensors = {name: _joined(name, (first, second), (1.0, 1.0)) for name in first.tensors if "lora_" in name}
    config = copy.deepcopy(first.config)
    # scaling is alpha / r = 1, as both scalings stand in B already
    config.r = config.lora_alpha = first.config.r + second.config.r
    indices: dict[str, list[int]] = {}
    for layer in {**_indices(first), **_indices(second)}:
        indices[layer], tensors[token_rows_key(layer)] = _joined_rows(layer, first, second)
    config.trainable_token_indices = indices or None
    return Adapter(config, tensors)


def weigh_adapters(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """One adapter that changes the weights by the weighted sum of what all of them do.

    Its rank is the sum of the ranks and its scaling 1: B = [w1 s1 B1, w2 s2 B2, ...] and A = [A1; A2; ...], so that
    B A = w1 s1 B1 A1 + w2 s2 B2 A2 + ...

    Raises:
        RunError: no adapter, not one weight for each, other layers, or rows of tokens, which are no sums.
    """
    if not adapters or len(adapters) != len(weights):
        raise RunError(f"There are {len(adapters)} adapters and {len(weights)} weights; give one weight for each.")
    if any(_indices(adapter) for adapter in adapters):
        raise RunError("An adapter with rows of new tokens cannot be weighed; take adapters without any.")
    names = list(adapters[0].tensors)
    if any(set(adapter.tensors) != set(names) for adapter in adapters):
        raise RunError("Adapters of different layers cannot be weighed; make all of them for one model.")
    tensors = {name: _joined(name, adapters, weights) for name in names}
    config = copy.deepcopy(adapters[0].config)
    config.r = config.lora_alpha = sum(adapter.config.r for adapter in adapters)
    return Adapter(config, tensors)


def _indices(adapter: Adapter) -> dict[str, list[int]]:
    """Token ids that have rows of their own, by layer."""
    return dict(adapter.config.trainable_token_indices or {})


def _joined_rows(layer: str, first: Adapter, second: Adapter) -> tuple[list[int], torch.Tensor]:
    have = [a for a in (first, second) if layer in _indices(a)]
    if len(have) == 1:
        return _indices(have[0])[layer], have[0].tensors[token_rows_key(layer)]
    old, new = (torch.tensor(_indices(adapter)[layer]) for adapter in have)
    # rows are replaced and not added up, so the later adapter's hold
    kept = ~torch.isin(old, new)
    rows = [adapter.tensors[token_rows_key(layer)] for adapter in have]
    return torch.cat([old[kept], new]).tolist(), torch.cat([rows[0][kept.to(rows[0].device)], rows[1]])


def _joined(name: str, adapters: Sequence[Adapter], weights: Sequence[float]) -> torch.Tensor:
    parts = [adapter.tensors[name] for adapter in adapters]
    if "lora_A" in name:
        return torch.cat(parts, dim=0)
    # [w1 s1 B1, w2 s2 B2] [A1; A2] = w1 s1 B1 A1 + w2 s2 B2 A2
    scaled = [part * (weight * _scaling(a)) for part, weight, a in zip(parts, weights, adapters, strict=True)]
    return torch.cat(scaled, dim=1)


def _scaling(adapter: Adapter) -> float:
    return float(adapter.config.lora_alpha / adapter.config.r)


def load_adapter(folder: Path) -> Adapter:
    """What `Adapter.save` (or PEFT's `save_pretrained`) wrote into `folder`."""
    config = LoraConfig.from_pretrained(str(folder))
    config.inference_mode = True
    return Adapter(config, load_file(folder / "adapter_model.safetensors"))
