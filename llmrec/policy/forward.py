"""Scoring inside the model's own forward, so that whatever wraps the model sees an ordinary call.

DDP counts on its forward to know that a backward will follow; FSDP2 and ZeRO-3 hold shards of the weights and gather
them in hooks around it. Log-probabilities taken past the wrapper would hang, crash or miss gradients. So the base
model's forward learns one more keyword, and the caller goes through the wrapper:

    model = accelerator.prepare(with_scoring(model))
    scores = score_through_forward(model, ScoringRequest(ids, mask, items, index))
"""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from types import MethodType
from typing import Any, Protocol

import torch
from torch import Tensor

from llmrec.catalogue.allowed import ItemFilter
from llmrec.catalogue.index import PrefixIndex
from llmrec.errors import RunError
from llmrec.policy.edges import Edges
from llmrec.policy.heads import checked_head
from llmrec.policy.modes import base_model, flags, inside_forward
from llmrec.policy.scoring import Path, TokenScores, score_items
from llmrec.policy.sharing import supports_sharing

_TAUGHT, _TRIED = "_llmrec_scoring", "tried inside the forward"
Also = Callable[["ScoringRequest", TokenScores], dict[str, Tensor]]
"""What the model's own modules make of a request and its scores inside the forward, by name (a critic's values)."""


class Request(Protocol):
    """What a model that was taught can be asked."""

    def answer(self, model: Any, also: Also | None, /) -> dict[str, Any]:
        """Tensors by name, from the base model inside of its wrapper's forward."""
        ...


@dataclass(frozen=True)
class ScoringRequest:
    """The arguments of `score_items`.

    `exclude` is (B, E), or (B, G, E) where every item has its own. `dense` closes items to all prompts, beside it.
    """

    prompt_ids_BP: Tensor
    prompt_mask_BP: Tensor
    items_BG: Tensor
    index: PrefixIndex
    exclude: Any = None
    temperature: float = 1.0
    path: Path = "auto"
    dense: ItemFilter | None = None

    @property
    def each(self) -> bool:
        """Whether every item is scored under its own pi_F."""
        return isinstance(self.exclude, Tensor) and self.exclude.dim() == 3

    @property
    def allowed(self) -> Any:
        """What is left to draw and to score among, for each prompt, or (`each`) for each of its items."""
        rows = self.exclude.flatten(0, 1) if self.each else self.exclude
        return rows if self.dense is None else self.index.allowed(rows, dense=self.dense)

    def score(self, model: Any) -> TokenScores:
        """The scores under `model`, which must be whole, or inside of its wrapper's forward."""
        return score_items(
            model,
            self.prompt_ids_BP,
            self.prompt_mask_BP,
            self.items_BG,
            self.index,
            exclude=self.allowed,
            each=self.each,
            temperature=self.temperature,
            path=self.path,
        )

    def answer(self, model: Any, also: Also | None, /) -> dict[str, Any]:
        """The fields of the scores, and what `also` makes of them."""
        scores = self.score(model)
        more = {} if also is None else also(self, scores)
        # FSDP2 hangs its backward hooks on the tensors that it finds in an answer by torch's pytree, which looks into
        # dictionaries and tuples and into no dataclass of ours.
        parts = {field.name: getattr(scores, field.name) for field in fields(scores)}
        edges = parts.pop("edges")
        return {**parts, "also": more, "edges": {field.name: getattr(edges, field.name) for field in fields(edges)}}


def with_scoring(model: Any, also: Also | None = None) -> Any:
    """Lets `model(scoring=request)` score items; every other call is as before. Returns the same model.

    Call it before the model is wrapped (DDP, FSDP2, `accelerator.prepare`). A deep copy made later has to be taught
    again.

    Args:
        model: a Hugging Face or PEFT causal language model.
        also: what else each call computes, see `answer_through_forward`; None leaves a model that was taught before
            as it is.
    """
    base = base_model(model)
    if _is_taught(base) and also is None:
        return model
    # a copied model brings along a forward that belongs to the original
    taught = vars(base).get(_TAUGHT)
    if taught is not None and taught[1] == id(base):
        inner = taught[2]
    else:
        # a copy's own entry leads to the original's forward, so its class is asked for the method
        inner = MethodType(type(base).forward, base) if taught is not None else base.forward

    # transformers and PEFT read the signature to tell which columns of a batch the model takes
    @functools.wraps(inner)
    def forward(*args: Any, scoring: Request | None = None, **rest: Any) -> Any:
        return inner(*args, **rest) if scoring is None else _answer(base, scoring, also)

    # with the identity of the model, since a deep copy brings the entry along and is not taught by it
    vars(base)[_TAUGHT] = (forward, id(base), inner)
    base.forward = forward
    return model


def forget_scoring(model: Any) -> None:
    """Takes off every forward that was hung on the base model's instance, so that the model is plain again."""
    base = base_model(model)
    for name in (_TAUGHT, "forward"):
        vars(base).pop(name, None)


def _is_taught(base: Any) -> bool:
    return bool(vars(base).get(_TAUGHT, (None, 0))[1] == id(base))


def score_through_forward(model: Any, request: ScoringRequest) -> TokenScores:
    """Scores through `model(...)`, differentiably: the way to train under DDP, FSDP2 and ZeRO.

    Each call is one forward of the wrapper, on all processes alike. The first makes one more, without gradients, for
    the trials that `score_items` makes of a model it does not know.

    Args:
        model: what `with_scoring` was given, or a wrapper of it.
        request: this process's prompts and items.

    Raises:
        RunError: the model was not taught.
    """
    return answer_through_forward(model, request)[0]


def answer_through_forward(model: Any, request: ScoringRequest) -> tuple[TokenScores, dict[str, Tensor]]:
    """The scores, and what `also` of `with_scoring` made of them, from one call of the wrapper.

    Raises:
        RunError: the model was not taught.
    """
    parts = ask_through_forward(model, request)
    more = parts.pop("also")
    return TokenScores(**{**parts, "edges": Edges(**parts["edges"])}), more


def ask_through_forward(model: Any, request: Request) -> dict[str, Any]:
    """What the request makes of the model, from one call of the wrapper.

    Raises:
        RunError: the model was not taught.
    """
    base = _unwrapped(model)
    if not _is_taught(base):
        raise RunError("The model's forward cannot score items; call with_scoring(model) before it is wrapped.")
    # The trials call the model several times, which a wrapper counts as forwards without a backward: they have a call
    # of their own, without gradients, in which every process makes the same ones.
    if _TRIED not in flags(base):
        with torch.no_grad():
            model(scoring=request)
    answer: dict[str, Any] = model(scoring=request)
    return answer


def _answer(base: Any, scoring: Request, also: Also | None) -> dict[str, Any]:
    """Tensors by name: wrappers look through dictionaries for what has a gradient, not through our classes."""
    known = flags(base)
    with inside_forward(), _without_hooks(base):
        if _TRIED not in known:
            checked_head(base)
            # without and with the sliding window
            for length in (1, None):  # on every process, whatever lengths its prompts have
                supports_sharing(base, length)
            known[_TRIED] = True
            return {}
        return scoring.answer(base, also)


@contextlib.contextmanager
def _without_hooks(base: Any) -> Iterator[None]:
    """A trial calls the model again; FSDP2's hook after that call would scatter weights that are still needed."""
    kept = base._forward_pre_hooks, base._forward_hooks
    base._forward_pre_hooks, base._forward_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        base._forward_pre_hooks, base._forward_hooks = kept


def _unwrapped(model: Any) -> Any:
    """The base model below DDP, `torch.compile` and PEFT (FSDP2 changes a model in place)."""
    while True:
        inner = getattr(model, "module", None) or getattr(model, "_orig_mod", None)
        if not isinstance(inner, torch.nn.Module):
            return base_model(model)
        model = inner
