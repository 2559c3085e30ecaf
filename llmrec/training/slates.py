"""Slates as actions: what a turn of sessions leaves behind, minibatches of slots from it, and whose credit it is.

A turn's action is K items in order without replacement (Plackett-Luce); each slot is one step with its own ratio,
log P(item k | items before it) = log pi(i_k) - log(1 - sum over j < k of pi(i_j)).

KL to the reference and entropy are those of a single draw of pi at the turn's state, not of the slate: exact over the
legal children at the prefixes of the slate's items, and weighted over its items so that they estimate what
independent draws would (Kool et al. 2019, weights p / q(kappa), here normalised to sum 1: one item alone weighs 1).

Credit is GAE over the slots of all slates, and over the turns between them. The gradient of what a slate earns is
E[sum over k of R grad log P(i_k | i_1 .. i_k-1)], R the reward of all of its places. Rewards r_j of places j < k may
be left out of slot k's credit (Sutton et al. 1999, "Policy Gradient Methods for Reinforcement Learning with Function
Approximation") only if E[r_j | i_1 .. i_j] does not depend on what stands below j: with users who read from the top,
and with places that do not meet. Where all places compete (multinomial logit) R is every slot's credit: the slate's
reward then falls on its last slot, after all choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llmrec.policy.drawn_slates import Placed
from llmrec.policy.filtered import padded
from llmrec.policy.scoring import TokenScores
from llmrec.policy.without_replacement import slot_log_probs
from llmrec.training.advantages import gae_steps
from llmrec.training.state_source import ScoreRequest


@dataclass(frozen=True, slots=True)
class TurnSlates:
    """One turn of a process's sessions that still went on: R rows.

    Attributes:
        session_R: which of the process's sessions each row belongs to.
        turn_R: the number of the turn in it.
        prompt_ids_RP: the prompts, padded on the left; `prompt_mask_RP` 1 at tokens.
        exclude_RE: items that could not be drawn (F), padded with -1; None allows all. Where slates are bounded each
            place has its own: (R, K, E).
        items_RK: what was drawn and shown; -1 at places that bounds left empty.
        log_prob_RK: log pi_F of single draws, by the sampler; 0 at empty places.
        weight_RK: weights of the items in a mean over single draws; each row sums to 1. Where slates are bounded each
            place is a single draw and weighs 1 / K, empty ones 0.
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
    many = max((t.exclude_RE.shape[-1] for t in turns if t.exclude_RE is not None), default=0)
    columns: dict[str, list[Any]] = {}
    for turn in turns:
        left = (width - turn.prompt_ids_RP.shape[1], 0)
        for name in TurnSlates.__slots__:
            value = getattr(turn, name)
            if name.startswith("prompt"):
                # on the left: prompts end where the answer begins
                value = torch.nn.functional.pad(value, left)
            elif name == "exclude_RE" and value is not None:
                value = torch.nn.functional.pad(value, (0, many - value.shape[-1]), value=-1)
            columns.setdefault(name, []).append(value)
    joined: dict[str, Any] = {name: None if v[0] is None else torch.cat(v) for name, v in columns.items()}
    return TurnSlates(**joined)


@dataclass(frozen=True, slots=True)
class SlotBatch:
    """One optimiser step's share of a rollout of sessions: whole sessions, R turns of K slots.

    Values and returns have one more column than there are slots: what comes after the slate. `whole_R` marks slates
    that hold every allowed item, `there_RK` places that hold an item; `slots` is what the loss is divided by: the
    slots of as many sessions that nobody leaves early, a constant.
    """

    request: ScoreRequest
    whole_R: Tensor
    there_RK: Tensor
    weight_RK: Tensor
    old_slot_RK: Tensor
    value_RS: Tensor
    return_RS: Tensor
    advantage_RK: Tensor
    reference: TokenScores
    slots: int


def placed(drawn: Placed, slate: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Slates that were drawn place by place, as a turn keeps them.

    Returns:
        Exclusions of each place (R, K, E), items, log-probabilities (float64) and weights, (R, K) each. An empty
        place has the exclusions of the first one, under which some item can be scored.
    """
    exclude_XE, items_RK, log_prob_RK = [], [], []
    for one, closed in zip(drawn.slates, drawn.closed_BK, strict=True):
        empty = slate - len(one.items_K)
        exclude_XE += [*closed, *closed[:1] * empty]
        items_RK.append([*one.items_K, *[-1] * empty])
        log_prob_RK.append([*one.log_probs_K, *[0.0] * empty])
    closed_XE = padded(exclude_XE)
    exclude = torch.from_numpy(closed_XE).view(len(items_RK), slate, closed_XE.shape[1]).to(device)
    items = torch.tensor(items_RK, device=device)
    return exclude, items, torch.tensor(log_prob_RK, dtype=torch.float64, device=device), (items >= 0).float() / slate


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
    # exclusions are distinct items, so their number tells what is left
    return (exclude_RE >= 0).sum(1) + slate == items


Credit = Literal["slate", "item"]


@dataclass(frozen=True, slots=True)
class Steps:
    """Sessions laid out step by step: N sessions of T turns, S = K + 1 steps a turn, its slots and the slate's end.

    At the end of a slate nothing is chosen and nothing earned; its value is that of the turns to come, and so parts
    what a slate earned from where it led.

    Attributes:
        reward: of each step, (N, T, S); 0 at the ends.
        value: V before it.
        step: bool, the turns that were played.
        last_N: V after the last turn; 0 for users who left.
        gamma: discount between turns; within a slate nothing is discounted.
    """

    reward: Tensor
    value: Tensor
    step: Tensor
    last_N: Tensor
    gamma: float

    @classmethod
    def of(cls, slates: list[TurnSlates], sessions: int, turns: int, gamma: float, *, causal: bool) -> Steps:
        """Rewards of all rows at their places, values still 0; at the slate's last one if they are not `causal`.

        Args:
            slates: what was shown and earned.
            sessions: N.
            turns: T.
            gamma: discount between turns.
            causal: whether the reward of a place depends on the places above it and on its own alone.
        """
        first = slates[0].reward_RK
        shape = (sessions, turns, first.shape[1] + 1)
        reward, value, last = first.new_zeros(shape), first.new_zeros(shape), first.new_zeros(sessions)
        step = torch.zeros(shape, dtype=torch.bool, device=first.device)
        for part in slates:
            # Credit runs from a slot on. Moved to the last place, a reward that depends on all of the slate reaches
            # all slots.
            earned_RK = part.reward_RK if causal else at_the_last(part.reward_RK)
            reward[part.session_R, part.turn_R, :-1] = earned_RK
            step[part.session_R, part.turn_R] = True
        return cls(reward, value, step, last, gamma)

    def at(self, turns: TurnSlates, values: Tensor) -> Tensor:
        """Of `values` (N, T, ...) those of the rows of `turns`: (R, ...)."""
        return values[turns.session_R, turns.turn_R]

    def gae(self, lam: float) -> tuple[Tensor, Tensor]:
        """Advantages and returns of all steps, (N, T, S); `lam` stands between turns, 1 within a slate."""
        sessions, turns, places = self.reward.shape
        # 1 within a slate: its places are chosen at one moment. Only the step from a slate's end to the next turn
        # costs.
        discount, trace = self.reward.new_ones((2, turns, places))
        discount[:, -1], trace[:, -1] = self.gamma, lam
        flat = (sessions, turns * places)
        advantage, returns = gae_steps(
            self.reward.view(flat),
            self.value.view(flat),
            self.step.view(flat),
            discount_BS=discount.view(1, -1).expand(flat),
            trace_BS=trace.view(1, -1).expand(flat),
            last_value_B=self.last_N,
        )
        return advantage.view_as(self.reward), returns.view_as(self.reward)

    def return_sums(self) -> Tensor:
        """Number, sum and sum of squares of the undisturbed returns (V = 0) at each of the S steps: (3, S)."""
        _, returns = self.gae(1.0)
        # the critic's units come from returns that no critic has touched
        found, where = returns.double(), self.step
        return torch.stack([(found**power * where).sum((0, 1)) for power in (0, 1, 2)])


def at_the_last(reward_RK: Tensor) -> Tensor:
    """The rewards of each row added up at its last place, 0 before."""
    return torch.nn.functional.pad(reward_RK.sum(1, keepdim=True), (reward_RK.shape[1] - 1, 0))


def of_slots(advantage_NTS: Tensor, credit: Credit) -> Tensor:
    """Advantages of the slots, (N, T, K), from those of all steps.

    "slate": of everything from the slot on. "item": the slot's own error r_k + V_{k+1} - V_k and the advantage of the
    slate's end, without the errors of the slots below it; it has no meaning where rewards are not causal in place.
    """
    # Within a slate gamma = lambda = 1, so A_k = delta_k + A_(k+1): A_k - A_(k+1) is the slot's own error.
    slots, end = advantage_NTS[..., :-1], advantage_NTS[..., -1:]
    return slots if credit == "slate" else slots - advantage_NTS[..., 1:] + end
