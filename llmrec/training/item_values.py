"""One number for an item in a state, read off a sequence classification model: the reward model's forward.

The model reads the prompt and the whole item, its end token included, and its head `score` values the last hidden
state, as transformers does. Packed, a prompt is read once for all of its items; `plain` reads one row an item, with
the same numbers and gradients.

The base model's forward learns one more keyword, as in `llmrec.policy.forward`, so that DDP, FSDP2 and ZeRO-3 see an
ordinary call: `model(valuing=request)` answers `{"value_BG": ...}`.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from llmrec.errors import RequestError, RunError
from llmrec.policy.forward import ScoringRequest
from llmrec.policy.loading import positions
from llmrec.policy.modes import base_model, device_of, dtype_of, inside_forward
from llmrec.policy.packing import align, packed_hidden, plain_hidden, require_room
from llmrec.policy.sharing import supports_sharing
from llmrec.seeding import torch_stream

HEAD = "score"


def valuing_model(policy: Any, seed: int) -> Any:
    """A sequence classification model with one output on a copy of the policy's backbone.

    Its head is drawn from a named stream with variance 1 / (H + 1) (Stiennon et al. 2020). A smaller head, or one of
    zeros, would give the backbone next to no gradient at first, and measurably slows learning.

    Args:
        policy: a plain causal language model; it is left as it is.
        seed: the run's seed.

    Raises:
        RunError: transformers has no such model for the policy's architecture.
    """
    config = copy.deepcopy(policy.config)
    config.num_labels = 1
    try:
        with torch.random.fork_rng(devices=[]):
            model = AutoModelForSequenceClassification.from_config(config, dtype=dtype_of(policy))
        # strict: a backbone of another shape or with other parts is an error and not a half-random reward model
        model.base_model.load_state_dict(policy.base_model.state_dict())
        weight = getattr(model, HEAD).weight
    except (ValueError, RuntimeError, AttributeError) as error:
        raise RunError(
            f"No reward model can be built on {type(policy).__name__} ({' '.join(str(error).split())[:200]}); take a "
            "model that transformers has for sequence classification, such as Qwen3."
        ) from None
    with torch.no_grad():
        # on the CPU: a GPU's generator would give other numbers
        drawn = torch.randn(weight.shape, generator=torch_stream(seed, "reward model", "head"))
        weight.copy_(drawn / (weight.shape[1] + 1) ** 0.5)
    # packing needs an attention that takes our masks, which `from_config` would choose anew
    model.config._attn_implementation = policy.config._attn_implementation
    return model.to(device_of(policy)).eval()


def value_items(model: Any, request: ScoringRequest) -> Tensor:
    """Values (B, G) of the request's items, float32 (float64 for a float64 model); differentiable.

    Each distinct item of a state is read once. Exclusions and temperature have no meaning here.

    Raises:
        RequestError: an item is none of the catalogue's, a prompt is empty, or prompt and item are longer than the
            model can read.
    """
    base, device = base_model(model), device_of(model)
    index, items_BG = request.index.to(device), request.items_BG.to(device)
    prompts = align(request.prompt_ids_BP.to(device), request.prompt_mask_BP.to(device))
    require_room(base, prompts, index)
    _require_last(base, prompts.ids_BP.shape[1] + index.max_length)
    _, after_BGL = index.prefixes(items_BG)
    # the node behind the last token: the whole item, as sequence classification pools the last position
    leaf_BG = after_BGL.gather(-1, (after_BGL >= 0).sum(-1, keepdim=True) - 1).squeeze(-1)
    users_BG = torch.arange(len(items_BG), device=device).unsqueeze(1).expand_as(leaf_BG)
    # drawn items repeat, the more so the better the policy knows what it wants
    key_U, place = torch.unique(users_BG * index.n_nodes + leaf_BG, return_inverse=True)
    packed = supports_sharing(base) if request.path == "auto" else request.path == "packed"
    user_U, node_U = key_U // index.n_nodes, key_U % index.n_nodes
    hidden_UH = (packed_hidden if packed else plain_hidden)(base, prompts, index, user_U, node_U)
    value_U: Tensor = getattr(base, HEAD)(hidden_UH).squeeze(-1)
    return value_U.to(torch.promote_types(value_U.dtype, torch.float32))[place]


def _require_last(base: Any, length: int) -> None:
    """Scoring leaves an item's last token out, valuing reads it."""
    most = positions(base.config)
    if most is not None and length > most:
        raise RequestError(
            f"A prompt and an item of {length} tokens are more than the {most} that the reward model reads; lower "
            "text.max_tokens."
        )


def with_valuing(model: Any) -> Any:
    """Lets `model(valuing=request)` value items; every other call is as before. Returns the same model.

    Whether prompts can be shared is tried here, before the model is wrapped. `forget_scoring` takes the keyword off.
    """
    base = base_model(model)
    # tried now: inside the wrapped forward a trial's own calls would meet the wrapper's hooks
    inner, shared = base.forward, supports_sharing(base)

    @functools.wraps(inner)
    def forward(*args: Any, valuing: ScoringRequest | None = None, **rest: Any) -> Any:
        if valuing is None:
            return inner(*args, **rest)
        chosen = replace(valuing, path="packed" if shared else "plain") if valuing.path == "auto" else valuing
        with inside_forward():
            return {"value_BG": value_items(base, chosen)}

    base.forward = forward
    return model
