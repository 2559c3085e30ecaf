"""Slates that are drawn from a policy place by place, with the exact probability of every place, under any filters.

Where a request's filters are of single items a slate is a draw without replacement from pi_F (Plackett-Luce), by
Gumbel top-k. Where the slate as a whole is bounded (caps, floors, a maximum per category) the items that may stand at
a place hang on those above it: each place is then one draw from pi_F with F what is open there (`admissible`), and

    P(i at place k | state, items above) = pi_F_k(i | state),    F_k = what the items above leave open.

Both are distributions over slates that obey, and sum to 1 over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmrec.catalogue.allowed import ItemFilter
from llmrec.catalogue.filters import Filters
from llmrec.catalogue.index import PrefixIndex
from llmrec.policy.admissible import Admissible
from llmrec.policy.decoding import check_k, sample_items, walker_of
from llmrec.policy.filtered import FilteredCatalogue, padded, passing
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.modes import evaluating
from llmrec.policy.without_replacement import sample_without_replacement, slot_log_probs
from llmrec.seeding import numpy_stream
from llmrec.types import BoolArray, IntArray, Slate, State


@torch.no_grad()
def draw_slates(
    policy: LanguagePolicy,
    states: Sequence[State],
    k: int,
    keys: Sequence[int],
    *,
    seen: Sequence[IntArray] | None = None,
    exclude_seen: bool | None = None,
    filters: Filters | Sequence[Filters] | None = None,
    temperature: float = 1.0,
) -> list[Slate]:
    """A slate of at most k items for each state.

    A slate depends on its state, key and filter, on nothing else in the batch.

    Args:
        policy: what is drawn from.
        states: who is served.
        k: places.
        keys: one a state, of 63 bits; equal keys draw with equal luck.
        seen: items each user has seen beside those in the state.
        exclude_seen: leave out seen items; by default as the policy's `repeat` says.
        filters: one for all states, or one for each; they may bound the slate.
        temperature: divides the logits.

    Returns:
        Slates whose `log_probs_K` are log P(item at its place | state, items above).

    Raises:
        RequestError: a filter that leaves nothing or is unknown, k outside the catalogue's size, or a temperature
            not above 0.
    """
    check_k(k, len(policy.catalogue))
    asked = policy.asked(states, seen, exclude_seen, filters)
    made = [Slate((), ())] * len(states)
    for part, ids, mask in policy.batches(states, None, asked.groups_B):
        batch = _Batch(policy, asked, part, ids, mask, [keys[b] for b in part], k, temperature)
        bounded = bool(asked.wishes_B) and asked.wishes_B[part[0]].bounds_slate
        for b, slate in zip(part, _bounded(batch) if bounded else _plain(batch), strict=True):
            made[b] = slate
    return made


@dataclass(frozen=True)
class _Batch:
    """States that are drawn for together: the rows `part` of what was `asked`, their prompts and keys."""

    policy: LanguagePolicy
    asked: FilteredCatalogue
    part: list[int]
    ids: Tensor
    mask: Tensor
    keys: Sequence[int]
    k: int
    temperature: float


def _plain(batch: _Batch) -> list[Slate]:
    drawn = sample_without_replacement(
        batch.policy.model,
        batch.ids,
        batch.mask,
        batch.k,
        batch.policy.index,
        keys_B=torch.tensor(batch.keys, dtype=torch.long),
        exclude=batch.asked.allowed(batch.part),
        temperature=batch.temperature,
    )
    # whole: the slate holds all that may be shown, so its last place was certain
    whole_B = torch.isneginf(drawn.threshold_B)
    slot_BK = slot_log_probs(drawn.log_prob_BK, whole_B).clamp(max=0.0)
    kept_B = (drawn.items_BK >= 0).sum(1).tolist()
    rows = zip(drawn.items_BK.tolist(), slot_BK.tolist(), kept_B, strict=True)
    return [Slate(tuple(items[:kept]), tuple(log_probs[:kept])) for items, log_probs, kept in rows]


def _bounded(batch: _Batch) -> list[Slate]:
    """Place by place; each prompt is read once."""
    batch.asked.allowed(batch.part)  # refuses what leaves a state nothing
    drawn = draw_in_places(
        batch.policy.model,
        batch.ids,
        batch.mask,
        batch.policy.index,
        _rules(batch),
        _opened(batch),
        batch.keys,
        temperature=batch.temperature,
    )
    return drawn.slates


@dataclass(frozen=True, slots=True)
class Placed:
    """Slates of B prompts that were drawn place by place.

    Attributes:
        slates: what was drawn, with log P(item at its place | state, items above).
        closed_BK: by prompt and place that was filled, the items that could not be drawn there, but for those that
            are closed to all.
    """

    slates: list[Slate]
    closed_BK: list[list[IntArray]]


@torch.no_grad()
def draw_in_places(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    index: PrefixIndex,
    rules: Sequence[Admissible],
    opened: Sequence[BoolArray],
    keys: Sequence[int],
    *,
    dense: ItemFilter | None = None,
    passes_N: BoolArray | None = None,
    temperature: float = 1.0,
) -> Placed:
    """A slate for each prompt under what bounds it; each prompt is read once.

    Args:
        model: a Hugging Face or PEFT causal language model.
        ids: token ids (B, P).
        mask: 1 at tokens.
        index: the catalogue's prefix index, where the model is.
        rules: what bounds each prompt's slate, all of equally many places.
        opened: the items that each may be shown at all, (N,) bool.
        keys: one a prompt, of 63 bits; equal keys draw with equal luck.
        dense: closes items to all prompts, which `opened` does not hold then.
        passes_N: the items that it lets through.
        temperature: divides the logits.
    """
    rows, k, length = len(ids), rules[0].places, index.max_length
    items: list[list[int]] = [[] for _ in range(rows)]
    log_probs: list[list[float]] = [[] for _ in range(rows)]
    shut: list[list[IntArray]] = [[] for _ in range(rows)]
    luck_BKL = np.stack([numpy_stream(key, "policy", "drawn slate").random((k, length)) for key in keys])
    with evaluating(model):
        walker = walker_of(model, ids, mask, index)
        for place in range(k):
            next_BN = np.stack([rules[r].next_N(items[r], opened[r]) for r in range(rows)])
            goes_on_B = [bool(row.any()) for row in next_BN]
            if not any(goes_on_B):
                break
            # whoever's slate is complete draws along and is not heard: prompts of a batch are read together
            closed_BN = ~next_BN & np.array(goes_on_B)[:, None]
            closed = [np.flatnonzero(row if passes_N is None else row & passes_N) for row in closed_BN]
            exclude = torch.from_numpy(padded(closed))
            drawn = sample_items(
                model,
                ids,
                mask,
                1,
                index,
                uniform_BGL=torch.from_numpy(luck_BKL[:, place : place + 1]),
                exclude=exclude if dense is None else index.allowed(exclude, dense=dense),
                temperature=temperature,
                walker=walker,
            )
            walker.forget()
            item_B = drawn.items_BG[:, 0].tolist()
            log_prob_B = drawn.token_log_prob_BGL[:, 0].double().sum(1).clamp(max=0.0).tolist()
            for row in np.flatnonzero(goes_on_B).tolist():
                items[row].append(item_B[row])
                log_probs[row].append(log_prob_B[row])
                shut[row].append(closed[row])
    made = [Slate(tuple(own), tuple(values)) for own, values in zip(items, log_probs, strict=True)]
    return Placed(made, shut)


def _opened(batch: _Batch) -> list[BoolArray]:
    """The items that each state may be shown at all, (N,) each."""
    assert batch.policy.filters is not None
    open_BN = passing(batch.policy.filters.attributes, batch.asked.filters(batch.part))
    if batch.asked.exclude_BE is not None:
        for row, b in enumerate(batch.part):
            hidden = batch.asked.exclude_BE[b]
            open_BN[row, hidden[hidden >= 0].numpy()] = False
    return list(open_BN)


def _rules(batch: _Batch) -> list[Admissible]:
    """What bounds each state's slate; states with equal bounds share it."""
    assert batch.policy.filters is not None
    return Admissible.of_each(batch.asked.filters(batch.part), batch.policy.filters.attributes, batch.k)
