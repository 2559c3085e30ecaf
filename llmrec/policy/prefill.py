"""Hidden states of prefixes step by step: each prompt is read once, each prefix node once.

Beams and draws of a user are query positions of *one* row (tree attention); nothing in the cache is copied per beam
or reordered, and a pruned beam's slots are masked out because they are no ancestors of a living one.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from llmrec.catalogue.index import PrefixIndex
from llmrec.policy.modes import base_model, dtype_of
from llmrec.policy.packing import Prompts, Slots, ancestry, for_model, plain_hidden, run_decoder


class Prefill(Protocol):
    """Gives hidden states at (user, node) pairs, asked level by level from the root down."""

    def hidden(self, user_U: Tensor, node_U: Tensor) -> Tensor:
        """Hidden states (U, H) that predict the token after each pair; a pair is asked for once."""
        ...

    def forget(self) -> None:
        """Drops all prefixes and keeps the prompts: what comes next sees none of what was read."""
        ...


class PlainPrefill:
    """Runs whole sequences anew at each step: slow, and right for any causal architecture."""

    def __init__(self, model: Any, prompts: Prompts, index: PrefixIndex) -> None:
        self.model, self.prompts, self.index = model, prompts, index

    def hidden(self, user_U: Tensor, node_U: Tensor) -> Tensor:
        """See `Prefill`."""
        return plain_hidden(self.model, self.prompts, self.index, user_U, node_U)

    def forget(self) -> None:
        """See `Prefill`: nothing is kept anyway."""


class SharedPrefill:
    """Tree attention over one cache a user; for models where `supports_sharing` holds."""

    def __init__(self, model: Any, prompts: Prompts, index: PrefixIndex) -> None:
        self.model, self.prompts, self.index = base_model(model), prompts, index
        # without a configuration every layer keeps all keys; one built with it drops keys of sliding layers
        self.cache = DynamicCache()
        positions = torch.arange(prompts.ids_BP.shape[1], device=prompts.ids_BP.device).expand_as(prompts.ids_BP)
        hidden = run_decoder(
            self.model,
            input_ids=prompts.ids_BP,
            attention_mask=self._mask(prompts.ids_BP.new_zeros((len(prompts.ids_BP), 0)), positions),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        users = torch.arange(len(prompts.length_B), device=hidden.device)
        self.root_BH = hidden[users, prompts.length_B - 1]
        self._start()

    def _start(self) -> None:
        """No slot yet."""
        ids_BP = self.prompts.ids_BP
        self.node_BS = ids_BP.new_zeros((len(ids_BP), 0))
        self.position_BS = torch.arange(ids_BP.shape[1], device=ids_BP.device).expand_as(ids_BP)
        self.done_X = ids_BP.new_zeros(0)

    def forget(self) -> None:
        """See `Prefill`."""
        if self.node_BS.shape[1]:
            self.cache.crop(-self.node_BS.shape[1])
        self._start()

    def hidden(self, user_U: Tensor, node_U: Tensor) -> Tensor:
        """See `Prefill`."""
        out = self.root_BH[user_U]
        deeper = node_U > 0
        if not bool(deeper.any()):
            return out
        # forced tokens between two choices were skipped and have no key yet: they are fed now, together with the node
        slots = Slots.of(self.index, user_U, node_U, len(self.root_BH), self.done_X)
        positions = slots.positions(self.index, self.prompts)
        # The cache only grows. A slot of a beam that was dropped stays in it and is nobody's ancestor, which is
        # cheaper than moving keys of every layer.
        self.node_BS = torch.cat([self.node_BS, slots.node_BS], 1)
        self.position_BS = torch.cat([self.position_BS, positions], 1)
        self.done_X = torch.cat([self.done_X, slots.key_X])
        fed = run_decoder(
            self.model,
            input_ids=slots.tokens(self.index),
            attention_mask=self._mask(slots.node_BS, positions),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        user, node = user_U[deeper], node_U[deeper]
        out = out.clone()
        out[deeper] = fed[user, slots.place(user, node)]
        return out

    def _mask(self, query_BQ: Tensor, position_BQ: Tensor) -> Any:
        """Queries that are slots see prompt and ancestors; with no slot yet, the prompt sees itself."""
        valid = self.prompts.valid_BP
        if query_BQ.shape[1]:
            prompt = valid.unsqueeze(1).expand(-1, query_BQ.shape[1], -1)
            seen = torch.cat([prompt, ancestry(self.index, query_BQ, self.node_BS)], -1)
            keys = self.position_BS
        else:
            seen, keys = valid.unsqueeze(1) & (position_BQ.unsqueeze(2) >= position_BQ.unsqueeze(1)), position_BQ
        # a padded slot sees its prompt, so no row of the mask is empty
        return for_model(self.model, seen, position_BQ, keys, dtype_of(self.model))
