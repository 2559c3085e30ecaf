"""Small things that every use of a loaded model needs: unwrap it, put it in evaluation mode, remember trials."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from llmrec.errors import RunError

FLAGS = "_llmrec_trials"


def base_model(model: Any) -> Any:
    """The Hugging Face model inside a PEFT model (adapters stay active in its layers), or `model` itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_of(model: Any) -> Any:
    """The part of the model that ends in the hidden states which the output head reads."""
    inner = base_model(model)
    decoder = inner.get_decoder()
    # some architectures give themselves for their decoder
    return inner.model if decoder is inner and hasattr(inner, "model") else decoder


def embedding_of(model: Any) -> Tensor:
    """The input embedding's weight as it is stored (PEFT's view of it with trained rows would be a copy)."""
    layer = base_model(model).get_input_embeddings()
    weight: Tensor = getattr(layer, "original_module", layer).weight
    return weight


def device_of(model: Any) -> torch.device:
    """Where input ids go."""
    return embedding_of(model).device


def dtype_of(model: Any) -> torch.dtype:
    """What the model computes in."""
    return embedding_of(model).dtype


def flags(model: Any) -> dict[str, bool]:
    """Outcomes of trials made on this model, kept on the model itself."""
    if not hasattr(model, FLAGS):
        setattr(model, FLAGS, {})
    known: dict[str, bool] = getattr(model, FLAGS)
    return known


@contextlib.contextmanager
def trial(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients or autocast, so that a trial tells of the model and not of its caller."""
    with torch.no_grad(), torch.autocast(device_of(model).type, enabled=False), evaluating(model):
        yield


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode (no dropout, no gradient checkpointing) inside, each module's own mode again after."""
    # `model.eval()` and `model.train()` would set all modules alike, and forget which were frozen on purpose
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


Noise = Literal["none", "adapters", "all"]
"""What a model may do at random in training: nothing, dropout of what adapters read, or all that it is made for."""
_RATES = ("drop", "jitter")


def still(model: Any, noise: Noise = "none") -> None:
    """Takes noise off a model in training mode, with gradients: dropout, layer drop, jitter of routers.

    Modules are put into evaluation mode, whatever they do at random (also functions that ask `self.training`, such as
    the attention of Llama or all of OPT), until somebody sets the training mode anew, as a trainer does before every
    step: call it between that and the forward. The outermost module keeps its mode, which trainers read, and so do
    modules that compute activations anew in the backward pass, which transformers does in training mode alone: their
    own rates, and those of the configuration that they read, are set to 0 and stay so.

    Args:
        model: a Hugging Face or PEFT model, not wrapped.
        noise: what is left on.
    """
    if noise == "all":
        return
    base = base_model(model)
    for name, module in base.named_modules():
        # trainers read the outermost mode to tell a training from an evaluation
        if module is base or (noise == "adapters" and ".lora_dropout" in f".{name}"):
            continue
        # transformers computes activations anew in training mode alone, so the mode must stay and the rates must go
        if getattr(module, "gradient_checkpointing", False):
            for holder in (module, getattr(module, "config", None)):
                _set_rates_to_zero(holder)
        else:
            module.training = False


def _set_rates_to_zero(holder: Any) -> None:
    for key, value in list(vars(holder).items()) if holder is not None else []:
        if isinstance(value, float) and value > 0 and any(word in key for word in _RATES):
            setattr(holder, key, 0.0)


_inside: ContextVar[bool] = ContextVar("inside the forward of a wrapped model", default=False)


@contextlib.contextmanager
def inside_forward() -> Iterator[None]:
    """Says that a wrapper (FSDP2, ZeRO-3) gathers weights meanwhile."""
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


def require_whole(model: Any) -> None:
    """Raises `RunError` where the model's weights are sharded and nobody gathers them."""
    weight = embedding_of(model)
    # FSDP2 keeps shards as DTensors, ZeRO-3 leaves an empty tensor behind
    if not _inside.get() and (isinstance(weight, DTensor) or not weight.numel()):
        raise RunError(
            "The model's weights are sharded; call llmrec.policy.forward.score_through_forward, which scores items "
            "inside the wrapped forward."
        )
