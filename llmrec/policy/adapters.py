"""A saved LoRA adapter put onto its base model, with the rows of tokens that the base model does not know."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from llmrec.errors import RunError

WEIGHTS = "adapter_model.safetensors"


def token_rows_key(layer: str) -> str:
    """PEFT's name, in an adapter's file, of the trained token rows of layer `layer` ("model.embed_tokens")."""
    return f"base_model.model.{layer}.token_adapter.trainable_tokens_delta"


def load_adapter_onto(model: Any, folder: Path, tokenizer: Any) -> Any:
    """Puts the adapter saved in `folder` onto the plain `model` and returns the PEFT model, in evaluation mode.

    Rows of new tokens are written into `model` itself, which first gets as many rows as `tokenizer` (the one saved
    with the adapter) has tokens: embeddings and output head are then plain layers, as fast as any, and all that is
    left to merge are LoRA's matrices.

    Raises:
        RunError: no adapter in `folder`, or one that does not fit model and tokenizer.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    config = LoraConfig.from_pretrained(str(folder))
    # PEFT would keep the rows apart and put them in at every forward; a plain embedding is faster and can be merged.
    indices, config.trainable_token_indices = dict(config.trainable_token_indices or {}), None
    config.inference_mode = True
    try:
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError:
        raise RunError(f"{folder / WEIGHTS} does not exist; fetch or make the folder again.") from None
    except SafetensorError as error:
        raise RunError(f"{folder / WEIGHTS} cannot be read ({error}); fetch or make the folder again.") from None
    if indices:
        widen(model, len(tokenizer))
    for layer, ids in indices.items():
        rows = tensors.pop(token_rows_key(layer), None)
        _write_rows(model, layer, ids, rows, folder)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT asks the model for an attribute that transformers has renamed
        adapted = get_peft_model(model, config)  # draws matrices that the saved ones replace at once
    missing = [key for key in set_peft_model_state_dict(adapted, tensors).missing_keys if "lora_" in key]
    if missing:
        raise RunError(f"The adapter in {folder} lacks {missing[0]!r}; it was made for another model.")
    return adapted.eval()


def widen(model: Any, tokens: int) -> None:
    """Gives `model` at least `tokens` rows; many models have more than their tokenizer has tokens, and keep them."""
    if model.get_input_embeddings().weight.shape[0] < tokens:
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(tokens, mean_resizing=False)


@torch.no_grad()
def _write_rows(model: Any, layer: str, ids: list[int], rows: Any, folder: Path) -> None:
    weight = model.get_submodule(layer).weight
    if rows is None or rows.shape != (len(ids), weight.shape[1]) or max(ids) >= len(weight):
        raise RunError(
            f"The adapter in {folder} does not fit: its rows of new tokens for {layer!r} are missing or of another "
            "shape than model and tokenizer; fetch or make the folder again."
        )
    weight[torch.tensor(ids, device=weight.device)] = rows.to(weight)
