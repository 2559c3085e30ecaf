"""log pi of the same items behind many prompts that begin alike: what a state says without one part of it or another.

A state without its third item shares with the whole one all that stands before it. Prompts are merged into forests
(`forest.Forest`), a few to a packed row, and each prompt's items follow as slots that see their own prompt alone. So
all variants are read in one pass, what they share once in a row, and every number is that of the prompt by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmrec.catalogue.index import PrefixIndex
from llmrec.policy.forest import Forest
from llmrec.policy.modes import base_model, device_of, dtype_of, evaluating
from llmrec.policy.packing import Prompts, Slots, ancestry, for_model, padded_prompts, run_decoder
from llmrec.policy.scoring import score_items
from llmrec.policy.sharing import supports_sharing
from llmrec.types import FloatArray, IntArray

ROW_TOKENS = 512
"""Tokens of a packed row: a longer one shares more, and every token of it is held against every other."""
PASS_TOKENS = 1 << 16
"""Tokens of prompts in one pass: bounds the memory."""


def variant_log_probs(
    model: Any, tokenizer: Any, index: PrefixIndex, rows: Sequence[Sequence[int]], items_G: Sequence[int]
) -> FloatArray:
    """log pi(item | prompt) of G items behind each of V prompts, in evaluation mode: (V, G) float64.

    Equal prompts are read once.

    Args:
        model: a Hugging Face or PEFT causal language model.
        tokenizer: its tokenizer.
        index: the catalogue's prefix index.
        rows: token ids of the prompts.
        items_G: item indices.

    Raises:
        RequestError, CatalogueError, RunError: as `score_items`.
    """
    keys = [tuple(row) for row in rows]
    distinct = sorted(set(keys))  # neighbours begin alike, also in passes of their own
    found: dict[tuple[int, ...], FloatArray] = {}
    with torch.no_grad(), evaluating(model):
        for part in _passes(distinct):
            ids, mask = padded_prompts(part, tokenizer, device_of(model))
            shared = supports_sharing(model, ids.shape[1] + index.max_length)
            items_VG = torch.tensor([list(items_G)] * len(part))
            scores = score_items(model, ids, mask, items_VG, index, path=alike_hidden if shared else "plain")
            found.update(zip(part, scores.exact_BG.double().cpu().numpy(), strict=True))
    return np.stack([found[key] for key in keys])


def _passes(rows: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    passes: list[list[tuple[int, ...]]] = [[]]
    tokens = 0
    for row in rows:
        if passes[-1] and tokens + len(row) > PASS_TOKENS:
            passes.append([])
            tokens = 0
        passes[-1].append(row)
        tokens += len(row)
    return passes


@dataclass(frozen=True)
class _Layout:
    """Packed rows: R rows of a forest of prompts, P places wide, and S slots behind it.

    Attributes:
        ids_RP, depth_RP, end_RP: the forests; padding ends before it begins, so nothing sees it.
        node_RS, owner_RS: each slot's node and prompt, -1 at padding.
        row_B, leaf_B, first_B: each prompt's row, the place of its last token, and that of its first slot.
    """

    ids_RP: IntArray
    depth_RP: IntArray
    end_RP: IntArray
    node_RS: IntArray
    owner_RS: IntArray
    row_B: IntArray
    leaf_B: IntArray
    first_B: IntArray

    @classmethod
    def of(cls, prompts: Sequence[tuple[int, ...]], slots: Sequence[IntArray]) -> _Layout:
        rows = _rows(prompts, [len(own) for own in slots])
        forests = [Forest.of([prompts[b] for b in row]) for row in rows]
        taken = [np.concatenate([slots[b] for b in row]) for row in rows]
        shape, slot_shape = (len(rows), max(map(len, forests))), (len(rows), max(map(len, taken)))
        ids, depth, end = (np.zeros(shape, dtype=np.int64) for _ in range(3))
        node, owner = (np.full(slot_shape, -1, dtype=np.int64) for _ in range(2))
        row_B, leaf_B, first_B = (np.zeros(len(prompts), dtype=np.int64) for _ in range(3))
        for r, (row, forest, own) in enumerate(zip(rows, forests, taken, strict=True)):
            ids[r, : len(forest)], depth[r, : len(forest)] = forest.ids_L, forest.depth_L
            end[r, : len(forest)] = forest.end_L
            node[r, : len(own)] = own
            owner[r, : len(own)] = np.repeat(row, [len(slots[b]) for b in row])
            row_B[row], leaf_B[row] = r, [places[-1] for places in forest.places]
            first_B[row] = np.cumsum([0, *(len(slots[b]) for b in row[:-1])])
        return cls(ids, depth, end, node, owner, row_B, leaf_B, first_B)


def _rows(prompts: Sequence[tuple[int, ...]], slots: Sequence[int]) -> list[list[int]]:
    """Prompts row by row; neighbours in their order, which share the most, lie in one row."""
    rows: list[list[int]] = []
    tokens = 0
    for b in sorted(range(len(prompts)), key=lambda b: prompts[b]):
        own = len(prompts[b]) + slots[b]
        shared = _shared(prompts[rows[-1][-1]], prompts[b]) if rows else 0
        if not rows or tokens + own - shared > ROW_TOKENS:
            rows.append([])
            tokens = shared = 0
        rows[-1].append(b)
        tokens += own - shared
    return rows


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def alike_hidden(model: Any, prompts: Prompts, index: PrefixIndex, user_U: Tensor, node_U: Tensor) -> Tensor:
    """Hidden states (U, H) of pairs, as `packed_hidden`, where prompts begin alike; differentiable.

    Args:
        model: one that `supports_sharing`.
        prompts: the prompts.
        index: the catalogue's prefix index.
        user_U, node_U: pairs of prompt and prefix.
    """
    inner, device = base_model(model), prompts.ids_BP.device
    length = prompts.length_B.tolist()
    texts = [tuple(row[:n]) for row, n in zip(prompts.ids_BP.tolist(), length, strict=True)]
    slots = Slots.of(index, user_U, node_U, len(texts))
    layout = _Layout.of(texts, [row[row >= 0] for row in slots.node_BS.cpu().numpy()])
    ids, depth, end, node, owner, row_B, leaf_B, first_B = (
        torch.from_numpy(getattr(layout, name)).to(device) for name in layout.__dataclass_fields__
    )
    width = ids.shape[1]
    token = index.token_M[node.clamp(min=0)].long().clamp(min=0)
    # right behind its own prompt at the node's depth, wherever the slot lies in the row
    behind = prompts.length_B[owner.clamp(min=0)] + index.depth_M[node.clamp(min=0)].long().clamp(min=1) - 1
    positions = torch.cat([depth, behind], 1)
    # A prompt's token sees what comes before it in its forest, a slot what its prompt's last token sees.
    place = torch.arange(width, device=device)
    anchor = torch.cat([place.expand_as(ids), leaf_B[owner.clamp(min=0)]], 1).unsqueeze(2)
    seen = ids.new_zeros((len(ids), anchor.shape[1], anchor.shape[1]), dtype=torch.bool)
    seen[:, :, :width] = (place <= anchor) & (anchor < end.unsqueeze(1))
    # padding sees something, so that no row of the mask is empty
    seen[:, :, 0] |= ~seen[:, :, :width].any(2)
    same = owner.unsqueeze(2) == owner.unsqueeze(1)
    seen[:, width:, width:] = same & ancestry(index, node, node)
    mask = for_model(inner, seen, positions, positions, dtype_of(inner))
    hidden = run_decoder(
        inner,
        input_ids=torch.cat([ids, token], 1),
        attention_mask=mask,
        position_ids=positions,
        use_cache=False,
    )
    # the root's next token is predicted by the prompt's last token, which is no slot
    deeper = node_U > 0
    at = leaf_B[user_U].clone()
    at[deeper] = width + first_B[user_U[deeper]] + slots.place(user_U[deeper], node_U[deeper])
    return hidden[row_B[user_U], at]
