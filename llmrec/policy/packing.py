"""Hidden states at (user, prefix) pairs, in two ways that give the same numbers.

*Plain*: one row for each longest prefix, the prompt repeated in each; right for any causal architecture.
*Packed*: one row a user, its prompt once and then every needed prefix node once as a slot; needs `sharing`.

A pair's hidden state is the one that predicts the next token after the user's prompt and the node's tokens.
Rows are padded on the right, so that in a causal model padding can never reach a token.

Keys of a packed row are the prompt's tokens, then *slots*, each a node of the prefix tree. A slot sees its prompt,
its ancestors and itself; ancestry is read off the nodes' row ranges, so no bookkeeping of beams is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmrec.catalogue.index import PrefixIndex
from llmrec.errors import CatalogueError, RequestError
from llmrec.policy.block_attention import by_blocks
from llmrec.policy.loading import positions
from llmrec.policy.modes import base_model, decoder_of, dtype_of, embedding_of


@dataclass(frozen=True)
class Prompts:
    """Prompts padded on the right: token ids (0 at padding) and token counts."""

    ids_BP: Tensor
    length_B: Tensor

    @property
    def valid_BP(self) -> Tensor:
        """Which places hold a token."""
        return torch.arange(self.ids_BP.shape[1], device=self.ids_BP.device) < self.length_B.unsqueeze(1)

    def rows(self, row_U: Tensor) -> Prompts:
        """The prompts of some users."""
        return Prompts(self.ids_BP[row_U], self.length_B[row_U])


def padded_prompts(rows: Sequence[Sequence[int]], tokenizer: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask (B, P) int64 of prompts, padded on the left."""
    width, pad = max(map(len, rows)), tokenizer.pad_token_id or 0
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    length = torch.tensor([len(row) for row in rows]).unsqueeze(1)
    return ids.to(device), (torch.arange(width) >= width - length).long().to(device)


def align(prompt_ids_BP: Tensor, prompt_mask_BP: Tensor) -> Prompts:
    """Moves the tokens of each prompt to the left of its row and cuts the padding that all rows share.

    Raises:
        RequestError: a prompt has no token.
    """
    valid = prompt_mask_BP.bool()
    length = valid.sum(-1)
    if not bool((length > 0).all()):
        raise RequestError("A prompt is empty; every prompt needs at least one token.")
    # stable: tokens keep their order, whatever side the padding was on
    order = torch.argsort((~valid).to(torch.int8), dim=-1, stable=True)[:, : int(length.max())]
    ids = prompt_ids_BP.gather(1, order)
    return Prompts(ids.masked_fill(~valid.gather(1, order), 0), length)


def require_room(model: Any, prompts: Prompts, index: PrefixIndex) -> None:
    """Whether the model can read these prompts and write these items.

    Raises:
        RequestError: prompt and item together are longer than the model has positions for.
        CatalogueError: a token of an item or a prompt is none of the model's.
    """
    _require_tokens(model, prompts, index)
    most = positions(base_model(model).config)
    longest = prompts.ids_BP.shape[1]
    if most is not None and longest + index.max_length - 1 > most:
        raise RequestError(
            f"A prompt of {longest} tokens and an item of {index.max_length} are more than the {most} that the model "
            "reads; lower text.max_tokens."
        )


def _require_tokens(model: Any, prompts: Prompts, index: PrefixIndex) -> None:
    rows = embedding_of(model).shape[0] or base_model(model).config.get_text_config().vocab_size  # empty under ZeRO-3
    for what, largest in (("Items", index.largest_token), ("Prompts", int(prompts.ids_BP.max()))):
        if largest >= rows:
            raise CatalogueError(
                f"{what} hold token {largest}, but the model has {rows} tokens; load the catalogue and the "
                "tokenizer that were saved with the model."
            )


def run_decoder(model: Any, **inputs: Any) -> Tensor:
    """Last hidden states (rows, places, H) of the decoder, with nothing taken from a generation configuration."""
    out: Tensor = decoder_of(model)(**inputs).last_hidden_state
    return out


@dataclass(frozen=True)
class Slots:
    """Nodes of each user in one row: (B, S), -1 at padding, sorted; and where a pair's node is."""

    node_BS: Tensor
    key_X: Tensor
    start_B: Tensor
    n_nodes: int

    @classmethod
    def of(
        cls, index: PrefixIndex, user_U: Tensor, node_U: Tensor, users: int, done_X: Tensor | None = None
    ) -> Slots:
        """Slots for the pairs' nodes and all their ancestors (the root has none), without those in `done_X`."""
        # The first item below a node leads through all of its ancestors, so its row of the path table lists them.
        low, _ = index.range_of(node_U)
        path_UL = index.path_NL[low].long()
        on_way = torch.arange(path_UL.shape[1], device=node_U.device) < index.depth_M[node_U].unsqueeze(1)
        # sorted by user, then node, which is what places are found by later
        keys = torch.unique((user_U.unsqueeze(1) * index.n_nodes + path_UL)[on_way])
        if done_X is not None:
            keys = keys[~torch.isin(keys, done_X)]
        user, node = keys // index.n_nodes, keys % index.n_nodes
        count = torch.bincount(user, minlength=users)
        start = count.cumsum(0) - count
        width = int(count.max()) if len(keys) else 0
        slots = torch.full((users, width), -1, dtype=torch.long, device=node_U.device)
        slots[user, torch.arange(len(keys), device=node_U.device) - start[user]] = node
        return cls(slots, keys, start, index.n_nodes)

    def place(self, user_U: Tensor, node_U: Tensor) -> Tensor:
        """Place in its row of each pair's node, which must be there."""
        return torch.searchsorted(self.key_X, user_U * self.n_nodes + node_U) - self.start_B[user_U]

    def tokens(self, index: PrefixIndex) -> Tensor:
        """Token ids to feed: (B, S)."""
        return index.token_M[self.node_BS.clamp(min=0)].long().clamp(min=0)

    def positions(self, index: PrefixIndex, prompts: Prompts) -> Tensor:
        """Positions of the slots: (B, S)."""
        # A slot stands right behind the prompt at its depth, wherever it lies in the row: siblings have equal
        # positions, as in the rows that they stand for. Positions of padding are anything valid.
        return prompts.length_B.unsqueeze(1) + index.depth_M[self.node_BS.clamp(min=0)].long().clamp(min=1) - 1


def packed_hidden(model: Any, prompts: Prompts, index: PrefixIndex, user_U: Tensor, node_U: Tensor) -> Tensor:
    """Hidden states (U, H) of pairs by one forward with one row a user; differentiable."""
    inner = base_model(model)
    users, width = prompts.ids_BP.shape
    slots = Slots.of(index, user_U, node_U, users)
    ids = torch.cat([prompts.ids_BP, slots.tokens(index)], 1)
    prompt_positions = torch.arange(width, device=ids.device).expand(users, width)
    positions = torch.cat([prompt_positions, slots.positions(index, prompts)], 1)
    # Three blocks: the prompt sees itself causally, slots see all of the prompt, and slots their ancestors. The
    # prompt sees no slot, so its states are those of the prompt alone.
    seen = ids.new_zeros((users, ids.shape[1], ids.shape[1]), dtype=torch.bool)
    valid = prompts.valid_BP
    causal = torch.ones((width, width), dtype=torch.bool, device=ids.device).tril()
    seen[:, :width, :width] = causal & valid.unsqueeze(1)
    seen[:, width:, :width] = valid.unsqueeze(1)
    seen[:, width:, width:] = ancestry(index, slots.node_BS, slots.node_BS)
    mask = for_model(inner, seen, positions, positions, dtype_of(inner))
    with by_blocks(inner, ids.shape[1]):
        hidden = run_decoder(inner, input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    # the root's next token is predicted by the prompt's last token, which is no slot
    place = torch.where(node_U == 0, prompts.length_B[user_U] - 1, width)
    deeper = node_U > 0
    place = place.masked_scatter(deeper, width + slots.place(user_U[deeper], node_U[deeper]))
    return hidden[user_U, place]


def plain_hidden(model: Any, prompts: Prompts, index: PrefixIndex, user_U: Tensor, node_U: Tensor) -> Tensor:
    """Hidden states (U, H) of pairs by one forward with a row for each longest prefix; differentiable."""
    order, row_U = _longest(index, user_U, node_U)
    user_R, node_R = user_U[order], node_U[order]
    own = prompts.rows(user_R)
    low, _ = index.range_of(node_R)
    depth = index.depth_M[node_R].long()
    path = index.path_NL[low][:, : int(depth.max())].long()
    width = own.ids_BP.shape[1]
    ids = torch.nn.functional.pad(own.ids_BP, (0, path.shape[1]))
    row, level = torch.nonzero(torch.arange(path.shape[1], device=ids.device) < depth.unsqueeze(1), as_tuple=True)
    ids[row, own.length_B[row] + level] = index.token_M[path[row, level]].long()
    ids = ids[:, : min(int((own.length_B + depth).max()), width + path.shape[1])]
    # No mask: padding is on the right, where a causal model does not look. This is what makes the path right for any
    # architecture, recurrent ones included.
    hidden = run_decoder(model, input_ids=ids, use_cache=False)
    return hidden[row_U, prompts.length_B[user_U] - 1 + index.depth_M[node_U].long()]


def _longest(index: PrefixIndex, user_U: Tensor, node_U: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs that begin no other pair of their user, and for every pair the place there of one that it begins."""
    low, high = index.range_of(node_U)
    depth = index.depth_M[node_U].long()
    # Each node before the nodes below it, and these before the next range: of a chain of prefixes the last one ends
    # it.
    key = (user_U * (index.n_items + 1) + low) * (index.max_length + 1) + depth
    order = torch.argsort(key)  # by user, then first row, then depth: a walk through each user's tree
    user, low, high = user_U[order], low[order], high[order]
    ends = torch.ones_like(user, dtype=torch.bool)
    ends[:-1] = (user[1:] != user[:-1]) | (low[1:] >= high[:-1])
    row = torch.empty_like(user)
    row[order] = ends.cumsum(0) - ends.long()  # the next end in the walk lies below the pair
    return order[ends], row


def ancestry(index: PrefixIndex, query_BQ: Tensor, key_BS: Tensor) -> Tensor:
    """Whether node key (-1: padding) is an ancestor of node query or the same: (B, Q, S) bool."""
    low_q, high_q = (x.unsqueeze(2) for x in index.range_of(query_BQ.clamp(min=0)))
    low_k, high_k = (x.unsqueeze(1) for x in index.range_of(key_BS.clamp(min=0)))
    depth_q = index.depth_M[query_BQ.clamp(min=0)].unsqueeze(2)
    depth_k = index.depth_M[key_BS.clamp(min=0)].unsqueeze(1)
    # A node is an ancestor where its range of rows holds the other's. Depth breaks the tie of nodes with equal
    # ranges, one of which is a forced continuation of the other.
    inside = (low_k <= low_q) & (high_q <= high_k) & (depth_k <= depth_q)
    return inside & (key_BS >= 0).unsqueeze(1)


def window_of(model: Any) -> int | None:
    """Width of the sliding window of any layer, in tokens; None where every layer sees everything."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    width = getattr(config, "sliding_window", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    if kinds is None and getattr(config, "use_sliding_window", True) is False:
        return None
    return width


def for_model(model: Any, seen_BQS: Tensor, position_BQ: Tensor, position_BS: Tensor, dtype: torch.dtype) -> Any:
    """The mask in the form that `model` takes: 4-D bool (sdpa) or additive (eager), by layer kind where windowed.

    Args:
        model: a Hugging Face causal language model.
        seen_BQS: which keys a query sees, before any window.
        position_BQ: positions of the queries.
        position_BS: positions of the keys; a window counts positions, never slots.
        dtype: floating type of an additive mask.
    """
    config = model.config.get_text_config()
    full = _formed(config, seen_BQS, dtype)
    window = window_of(model)
    if window is None:
        return full
    near = position_BQ.unsqueeze(2) - position_BS.unsqueeze(1) < window
    sliding = _formed(config, seen_BQS & near, dtype)
    if getattr(config, "layer_types", None) is None:
        return sliding
    return {"full_attention": full, "sliding_attention": sliding}


def _formed(config: Any, seen_BQS: Tensor, dtype: torch.dtype) -> Tensor:
    mask = seen_BQS.unsqueeze(1)
    if config._attn_implementation == "sdpa":
        return mask
    # eager attention takes its softmax in float32, where the least float64 would be -inf
    least = max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, least)
