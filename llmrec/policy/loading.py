"""Any causal language model, by Hub id or path, in and out of memory. Safetensors only; no remote code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from llmrec.config import ModelConfig
from llmrec.errors import ConfigError, RunError

CHECKPOINTING = "_llmrec_gradient_checkpointing"
"""Attribute of a loaded model: what `ModelConfig.gradient_checkpointing` says."""
Quantization = Literal["none", "4bit"]

transformers_logging.disable_progress_bar()  # ours show the stages; a bar a file drowns them


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU that has it and float32 elsewhere."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def pick_device() -> torch.device:
    """The GPU of this process if there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """The tokenizer of `name` (Hub id or folder), padding on the left, with a pad and an end token."""
    tokenizer = _or_run_error(AutoTokenizer.from_pretrained, name, revision, "tokenizer")
    tokenizer.padding_side = "left"
    if tokenizer.eos_token_id is None:
        raise RunError(f"The tokenizer of {name!r} has no end token (eos_token); set one and save it again.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_causal_lm(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: torch.device | None = None,
    quantization: Quantization = "none",
) -> Any:
    """A causal language model by Hub id or folder, in evaluation mode on `device`.

    Args:
        name: Hub id or folder.
        revision: of a Hub repository.
        dtype: see `pick_dtype`; with 4 bits, what is computed in.
        device: by default `pick_device()`.
        quantization: "4bit" keeps linear layers but the head in 4 bits (NF4, its scales quantised too).

    Raises:
        ConfigError: 4 bits without bitsandbytes.
        RunError: the model is missing, private, of another kind, or has no safetensors weights.
    """
    device = device or pick_device()
    chosen = pick_dtype(dtype, device)
    more = {} if quantization == "none" else {"quantization_config": _four_bits(chosen), "device_map": {"": device}}
    model = _or_run_error(
        AutoModelForCausalLM.from_pretrained, name, revision, "model", dtype=chosen, use_safetensors=True, **more
    )
    return (model if quantization == "4bit" else model.to(device)).eval()


def load_configured(
    settings: ModelConfig, name: str, *, revision: str | None = None, quantization: Quantization = "none"
) -> Any:
    """`load_causal_lm` for training, as `settings` say; the model remembers whether activations are recomputed."""
    model = load_causal_lm(name, revision=revision, dtype=settings.dtype, quantization=quantization)
    setattr(model, CHECKPOINTING, settings.gradient_checkpointing)
    return model


def check_quantization(settings: ModelConfig) -> None:
    """Raises `ConfigError` where 4 bits are asked for and cannot be had; cheap."""
    if settings.quantization == "none":
        return
    _require_bitsandbytes()
    if not torch.cuda.is_available():  # on CPUs with AVX-512 its kernels for inference drop gradients in silence
        raise ConfigError(
            "Key 'model.quantization' is '4bit', which trains on a GPU only; there is none here, so set "
            "model.quantization: none."
        )


def _require_bitsandbytes() -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "Key 'model.quantization' is '4bit', but bitsandbytes is not installed; install it "
            "(pip install llmrec[quantization]) or set model.quantization: none."
        )


def _four_bits(dtype: torch.dtype) -> Any:
    _require_bitsandbytes()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _or_run_error(load: Any, name: str, revision: str | None, what: str, **options: Any) -> Any:
    if _looks_like_path(name) and not Path(name).is_dir():
        raise RunError(f"{name} is not a folder; give a folder with a saved {what} or a Hub id such as USER/NAME.")
    try:
        return load(name, revision=revision, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:240]
        where = f" at revision {revision!r}" if revision else ""
        raise RunError(
            f"The {what} {name!r}{where} cannot be loaded; check the id, your access (hf auth login) and that it is "
            f"a causal language model in safetensors ({reason})."
        ) from error


def _looks_like_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).exists()


def save_causal_lm(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes full weights (safetensors) and tokenizer into `folder`, which exists and is the caller's to rename."""
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
