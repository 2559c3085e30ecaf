"""The output head, computed only for the tokens that are needed.

A sliced head must do again what the model's own forward does after its linear layer: bias, logit scale and soft cap.
What it does is read off the configuration and then checked once against the model's own logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmrec.errors import RunError
from llmrec.policy.engine import Engine
from llmrec.policy.modes import base_model, decoder_of, device_of, flags, require_whole, trial
from llmrec.seeding import torch_stream


def take_rows(values: Tensor, place: Tensor) -> Tensor:
    """`values[place]` by rows; on a CPU faster than indexing, in the backward pass too."""
    return values.index_select(0, place)


class HeadRows:
    """Rows of an output head's weight, those that PEFT trains token by token among them."""

    def __init__(self, module: Any) -> None:
        adapter = getattr(module, "token_adapter", None)
        self.linear = module if adapter is None else adapter.base_layer
        self.trained: list[tuple[list[int], Tensor]] = []
        if adapter is not None and not (adapter.merged or adapter.disable_adapters):
            names = adapter.active_adapters
            self.trained = [(adapter.token_indices[n], adapter.trainable_tokens_delta[n]) for n in names]

    def weight(self, token_R: Tensor) -> Tensor:
        """(R, H), differentiable in whatever is trained."""
        rows = take_rows(self.linear.weight, token_R)
        for tokens, values in self.trained:
            # PEFT keeps trained rows apart from the frozen weight and puts them in at a forward of the module, which
            # is never called here
            known, order = torch.tensor(tokens, device=token_R.device).sort()
            place = torch.searchsorted(known, token_R.long()).clamp_(max=len(known) - 1)
            there = known[place] == token_R
            rows = torch.where(there.unsqueeze(1), take_rows(values, order[place]).to(rows), rows)
        return rows

    def bias(self, token_R: Tensor) -> Tensor | None:
        """(R,) or None."""
        return None if self.linear.bias is None else self.linear.bias[token_R]


class Head:
    """The output head of one causal language model; make it anew for each use, it holds no copy of weights."""

    def __init__(self, model: Any) -> None:
        self.model = base_model(model)
        self.module = self.model.get_output_embeddings()
        self.rows = HeadRows(self.module)
        self.scale, self.cap = _scale_and_cap(self.model)

    @property
    def is_plain(self) -> bool:
        """Whether rows of the weight can be taken (no LoRA, hook or shard on the head)."""
        module = self.rows.linear
        # a hook (of LoRA, quantisation or offloading) may change what the forward gives; its rows alone would not
        # tell
        hooked = module._forward_hooks or module._forward_pre_hooks if isinstance(module, nn.Module) else True
        return type(module) is nn.Linear and not hooked and module.weight.dim() == 2 and type(module.weight) in _PLAIN

    def logits(self, hidden_UH: Tensor, token_R: Tensor) -> Tensor:
        """Logits of tokens `token_R` at each hidden state: (U, R), float32 (float64 for a float64 model)."""
        if self.is_plain:
            weight = self.rows.weight(token_R)
            out = nn.functional.linear(hidden_UH.to(weight), weight, self.rows.bias(token_R))
        else:
            # all of the vocabulary, since only the module knows what it computes
            out = self.module(hidden_UH)[:, token_R]
        return self._finish(out)

    def all_logits(self, hidden_UH: Tensor) -> Tensor:
        """Logits of all tokens of the model: (U, V), float32 (float64 for a float64 model)."""
        weight = self.rows.linear.weight if self.is_plain else None
        return self._finish(self.module(hidden_UH if weight is None else hidden_UH.to(weight)))

    def edge_logits(self, hidden_UH: Tensor, state_E: Tensor, token_E: Tensor) -> Tensor:
        """Logit of token `token_E[e]` at hidden state `state_E[e]`: (E,), one dot product an edge."""
        if not self.is_plain:
            return self._finish(self.module(hidden_UH)[state_E, token_E])
        # A matrix product in bfloat16 keeps its sums in float32. Written out as here, each term would be rounded to
        # bfloat16 before it is added.
        wide = torch.promote_types(hidden_UH.dtype, torch.float32)
        out = (take_rows(hidden_UH, state_E).to(wide) * self.rows.weight(token_E).to(wide)).sum(-1)
        bias = self.rows.bias(token_E)
        return self._finish(out if bias is None else out + bias.to(wide))

    def _finish(self, logits: Tensor) -> Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.scale != 1.0:
            logits = logits * self.scale
        # the soft cap of Gemma, after the scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


_PLAIN = (nn.Parameter, Tensor)


def checked_head(model: Any) -> Head:
    """The head of `model`, compared once with the logits of the model's own forward.

    Raises:
        RunError: they differ, so the model does something to its logits that this library does not know; or the
            model's weights are sharded.
    """
    if isinstance(model, Engine):
        head: Head = model.head()
        return head
    require_whole(model)
    head = Head(model)
    known = flags(head.model)
    # what may change after a trial: an adapter put on or off, a changed configuration
    key = f"head {type(head.module).__name__} {head.scale} {head.cap} {len(head.rows.trained)}"
    if key not in known:
        known[key] = _agrees(head)
    if not known[key]:
        raise RunError(
            f"The output head of {type(head.model).__name__} changes its logits in a way that llmrec does not know; "
            "use another model or report this one."
        )
    return head


def _agrees(head: Head) -> bool:
    model = head.model
    device = device_of(model)
    rows = model.get_input_embeddings().weight.shape[0] or model.config.get_text_config().vocab_size
    ids = torch.randint(rows, (1, 6), generator=torch_stream(0, "policy", "head")).to(device)
    token_R = torch.randint(rows, (min(rows, 64),), generator=torch_stream(1, "policy", "head")).to(device)
    with trial(model):
        out = model(input_ids=ids, use_cache=False)
        hidden = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
        theirs, ours = out.logits[0, :, token_R].float(), head.logits(hidden[0], token_R).float()
    if not bool(torch.isfinite(theirs).all()):
        return True  # broken weights are told apart from an unknown head where the logits are used
    # relative to the norm of all logits: a wrong scale or cap is off by far more, and rounding by far less
    tolerance = 1e-3 if out.logits.dtype in (torch.float32, torch.float64) else 0.05
    return float((theirs - ours).norm()) <= tolerance * float(theirs.norm()) + 1e-6


def _scale_and_cap(model: Any) -> tuple[float, float | None]:
    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name)), cap
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0, cap
    return (float(scaling) if config.model_type == "hyperclovax" else 1.0 / float(scaling)), cap
