"""Slates as actions: what a turn of sessions leaves behind, and minibatches of slots made from it.

A turn's action is K items in order without replacement (Plackett-Luce); each slot is one step with its own ratio,
log P(item k | items before it) = log pi(i_k) - log(1 - sum over j < k of pi(i_j)).

KL to the reference and entropy are those of a single draw of pi at the turn's state, not of the slate: exact over the
legal children at the prefixes of the slate's items, and weighted over its items so that they estimate what
independent draws would (Kool et al. 2019, weights p / q(kappa), here normalised to sum 1: one item alone weighs 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmrec.policy.scoring import TokenScores
from llmrec.policy.without_replacement import slot_log_probs
from llmrec.training.rollout import ScoreRequest


@dataclass(frozen=True, slots=True)
class TurnSlates:
    """One turn of a process's sessions that still went on: R rows.

    Attributes:
        session_R: which of the process's sessions each row belongs to.
        turn_R: the number of the turn in it.
        prompt_ids_RP: the prompts, padded on the left; `prompt_mask_RP` 1 at tokens.
        exclude_RE: items that could not be drawn (F), padded with -1; None allows all.
        items_RK: what was drawn and shown.
        log_prob_RK: log pi_F of single draws, by the sampler.
        weight_RK: weights of the items in a mean over single draws; each row sums to 1.
        reward_RK: reward of each place.
    """

    session_R: Tensor
    turn_R: Tensor
    prompt_ids_RP: Tensor
    prompt_mask_RP: Tensor
    exclude_RE: Tensor | None
    items_RK: Tensor
    log_prob_RK: Tensor
    weight_RK: Tensor
    reward_RK: Tensor

    def rows(self, keep_R: Tensor) -> TurnSlates:
        """Some of the rows (bool)."""
        given = {name: getattr(self, name) for name in self.__slots__}
        kept: dict[str, Any] = {name: None if value is None else value[keep_R] for name, value in given.items()}
        return TurnSlates(**kept)


def together(turns: Sequence[TurnSlates]) -> TurnSlates:
    """The rows of all turns, prompts padded on the left and exclusions on the right to the widest."""
    width = max(t.prompt_ids_RP.shape[1] for t in turns)
    many = max((t.exclude_RE.shape[1] for t in turns if t.exclude_RE is not None), default=0)
    columns: dict[str, list[Any]] = {}
    for turn in turns:
        left = (width - turn.prompt_ids_RP.shape[1], 0)
        for name in TurnSlates.__slots__:
            value = getattr(turn, name)
            if name.startswith("prompt"):
                value = torch.nn.functional.pad(value, left)
            elif name == "exclude_RE" and value is not None:
                value = torch.nn.functional.pad(value, (0, many - value.shape[1]), value=-1)
            columns.setdefault(name, []).append(value)
    joined: dict[str, Any] = {name: None if v[0] is None else torch.cat(v) for name, v in columns.items()}
    return TurnSlates(**joined)


@dataclass(frozen=True, slots=True)
class SlotBatch:
    """One optimiser step's share of a rollout of sessions: whole sessions, R turns of K slots.

    Values and returns have one more column than there are slots: what comes after the slate. `whole_R` marks slates
    that hold every allowed item; `slots` is what the loss is divided by: the slots of as many
    sessions that nobody leaves early, a constant.
    """

    request: ScoreRequest
    whole_R: Tensor
    weight_RK: Tensor
    old_slot_RK: Tensor
    value_RS: Tensor
    return_RS: Tensor
    advantage_RK: Tensor
    reference: TokenScores
    slots: int


def slots_of(log_prob_RK: Tensor, whole_R: Tensor) -> Tensor:
    """log P(item k | items before it), (R, K), differentiable."""
    return slot_log_probs(log_prob_RK, whole_R)


def normalised(weight_RK: Tensor) -> Tensor:
    """Weights of `Ordered.weight_BK` with rows that sum to 1."""
    return weight_RK / weight_RK.sum(1, keepdim=True)


def whole(items: int, slate: int, exclude_RE: Tensor | None, rows: int, device: torch.device) -> Tensor:
    """Which rows leave no allowed item out of a slate of so many places, in a catalogue of `items`."""
    if exclude_RE is None:
        return torch.full((rows,), slate == items, dtype=torch.bool, device=device)
    return (exclude_RE >= 0).sum(1) + slate == items
