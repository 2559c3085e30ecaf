"""Hidden states of prefixes step by step: each prompt is read once, each prefix node once.

Beams and draws of a user are query positions of *one* row (tree attention); nothing in the cache is copied per beam
or reordered, and a pruned beam's slots are masked out because they are no ancestors of a living one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from llmrec.catalogue.index import PrefixIndex
from llmrec.policy.at_once import rows_at_once
from llmrec.policy.kept import Kept, KeptPrompts, Layers
from llmrec.policy.modes import base_model, dtype_of
from llmrec.policy.packing import Prompts, Slots, ancestry, for_model, plain_hidden, run_decoder

Known = tuple[Kept | None, int]
"""What was read of a prompt, and how many of its first tokens that are."""
FORWARD = {"cpu": 64}
"""So many more tokens are read in the time of one more call of the model; measured for small models on a processor,
and set high enough elsewhere."""
_ELSEWHERE = 4096


def read_apart(new_B: Sequence[int], device: str) -> list[list[int]]:
    """Which prompts of a batch are read before the others, given how many tokens of each are new.

    Rows of a batch are padded to the longest, so a few long ones make all of them long.

    Args:
        new_B: tokens to read of each prompt, at least 1.
        device: kind of the model's device.

    Returns:
        Places of prompts that are read together, groups of like length, the longest first; none where another call of
        the model costs more than the padding.
    """
    order = sorted(range(len(new_B)), key=lambda b: -new_B[b])
    long, call = [new_B[b] for b in order], FORWARD.get(device, _ELSEWHERE)
    # cost of reading the n longest apart, and where the last group of these begins
    apart: list[tuple[int, int]] = [(0, 0)]
    for n in range(1, len(long)):
        apart.append(min((apart[at][0] + (n - at) * (long[at] - 1) + call, at) for at in range(n)))
    end = min(range(len(long)), key=lambda n: apart[n][0] + len(long) * long[n])
    groups: list[list[int]] = []
    while end:
        begin = apart[end][1]
        groups.insert(0, order[begin:end])
        end = begin
    return groups


def _common(known: Sequence[Known], length_B: Tensor) -> Tensor:
    return length_B.new_tensor([common for _, common in known]) if known else torch.zeros_like(length_B)


class Prefill(Protocol):
    """Gives hidden states at (user, node) pairs, asked level by level from the root down."""

    def hidden(self, user_U: Tensor, node_U: Tensor) -> Tensor:
        """Hidden states (U, H) that predict the token after each pair; a pair is asked for once."""
        ...

    def forget(self) -> None:
        """Drops all prefixes and keeps the prompts: what comes next sees none of what was read."""
        ...


class PlainPrefill:
    """Runs whole sequences anew at each step: slow, and right for any causal architecture.

    As many at once as fit the memory (`at_once.rows_at_once`), so that neither users nor beams decide what it takes.
    """

    def __init__(self, model: Any, prompts: Prompts, index: PrefixIndex) -> None:
        self.model, self.prompts, self.index = model, prompts, index
        self.rows = rows_at_once(model, prompts.ids_BP.shape[1] + index.max_length)

    def hidden(self, user_U: Tensor, node_U: Tensor) -> Tensor:
        """See `Prefill`."""
        parts = zip(torch.split(user_U, self.rows), torch.split(node_U, self.rows), strict=True)
        return torch.cat([plain_hidden(self.model, self.prompts, self.index, user, node) for user, node in parts])

    def forget(self) -> None:
        """See `Prefill`: nothing is kept anyway."""


class SharedPrefill:
    """Tree attention over one cache a user; for models where `supports_sharing` holds.

    Args:
        model: a Hugging Face or PEFT causal language model.
        prompts: to read.
        index: the catalogue's prefix index.
        kept: prompts that were read before by the same model; what they have in common is not read again.
        names: of the prompts there, one each.
        known: what was read of each prompt, where no prompts are kept.

    Attributes:
        cached_B: tokens of each prompt that were kept.
    """

    def __init__(
        self,
        model: Any,
        prompts: Prompts,
        index: PrefixIndex,
        kept: KeptPrompts | None = None,
        names: Sequence[Hashable] = (),
        *,
        known: Sequence[Known] = (),
    ) -> None:
        self.model, self.prompts, self.index = base_model(model), prompts, index
        # without a configuration every layer keeps all keys; one built with it drops keys of sliding layers
        self.cache = DynamicCache()
        ids_BP, length_B = prompts.ids_BP, prompts.length_B
        rows = (
            [ids[:n] for ids, n in zip(ids_BP.tolist(), length_B.tolist(), strict=True)] if kept is not None else []
        )
        if kept is not None:
            known = [kept.find(name, row) for name, row in zip(names, rows, strict=True)]
        self.cached_B = start_B = _common(known, length_B)
        if kept is not None:
            for apart in read_apart((length_B - start_B).tolist(), ids_BP.device.type):
                known = self._known_then(known, rows, apart)
            start_B = _common(known, length_B)
        before = int(start_B.max())
        # Keys of a row: what was kept, padded to `before`, then what is read now, from where its own prompt parts.
        new = int((length_B - start_B).max())
        place_BN = start_B.unsqueeze(1) + torch.arange(new, device=ids_BP.device)
        there_BN = place_BN < length_B.unsqueeze(1)
        place_BN = place_BN.clamp(max=ids_BP.shape[1] - 1)  # a position that the model has, also at padding
        old_BW = torch.arange(before, device=ids_BP.device).expand(len(ids_BP), before)
        self.place_BK = torch.cat([old_BW, place_BN], 1)
        self.valid_BK = torch.cat([old_BW < start_B.unsqueeze(1), there_BN], 1)
        if before:
            self._restore(known, before)
        self._start()
        hidden = run_decoder(
            self.model,
            input_ids=ids_BP.gather(1, place_BN).masked_fill(~there_BN, 0),
            attention_mask=self._mask(ids_BP.new_zeros((len(ids_BP), 0)), place_BN),
            position_ids=place_BN,
            past_key_values=self.cache,
            use_cache=True,
        )
        users = torch.arange(len(length_B), device=hidden.device)
        self.root_BH = hidden[users, length_B - start_B - 1]
        if kept is not None:
            for b, (name, row) in enumerate(zip(names, rows, strict=True)):
                if not kept.holds(name, row):
                    kept.keep(name, Kept(tuple(row), self._read(b)))

    def _known_then(
        self, known: Sequence[Known], rows: Sequence[Sequence[int]], apart: Sequence[int]
    ) -> Sequence[Known]:
        """What is known of the prompts when those in `apart` are read, all but their last tokens."""
        part = self.prompts.ids_BP.new_tensor(apart)
        prompts = Prompts(self.prompts.ids_BP[part], self.prompts.length_B[part] - 1)
        read = SharedPrefill(self.model, prompts, self.index, known=[known[b] for b in apart])
        found = list(known)
        for place, b in enumerate(apart):
            found[b] = Kept(tuple(rows[b][:-1]), read._read(place)), len(rows[b]) - 1
        return found

    def _restore(self, known: Sequence[Known], before: int) -> None:
        """Puts what was kept of each prompt at the left of the cache."""
        first = next(kept for kept, _ in known if kept is not None)
        for layer, (key, value) in enumerate(first.layers):
            both = [x.new_zeros((len(known), x.shape[0], before, x.shape[2])) for x in (key, value)]
            for b, (kept, common) in enumerate(known):
                if kept is not None:
                    for whole, own in zip(both, kept.layers[layer], strict=True):
                        whole[b, :, :common] = own[:, :common]
            self.cache.update(both[0], both[1], layer)

    def _read(self, b: int) -> Layers:
        """Keys and values of one prompt, without padding."""
        valid = self.valid_BK[b]
        return [(layer.keys[b][:, valid], layer.values[b][:, valid]) for layer in self.cache.layers]

    def _start(self) -> None:
        """No slot yet."""
        ids_BP = self.prompts.ids_BP
        self.node_BS = ids_BP.new_zeros((len(ids_BP), 0))
        self.position_BS = self.place_BK
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
        valid = self.valid_BK
        if query_BQ.shape[1]:
            prompt = valid.unsqueeze(1).expand(-1, query_BQ.shape[1], -1)
            seen, keys = torch.cat([prompt, ancestry(self.index, query_BQ, self.node_BS)], -1), self.position_BS
        else:
            keys = self.place_BK
            seen = valid.unsqueeze(1) & (position_BQ.unsqueeze(2) >= keys.unsqueeze(1))
        # a padded slot sees its prompt, so no row of the mask is empty
        return for_model(self.model, seen, position_BQ, keys, dtype_of(self.model))
