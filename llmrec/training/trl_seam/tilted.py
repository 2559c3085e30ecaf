"""Distillation of the optimum of reward and KL term in transformers' training loop.

Targets are of the policy as it was, so they stand still: they are made chunk by chunk when one of a chunk's states
first comes, and a training that was killed makes the same ones again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmrec.config import TiltedSettings
from llmrec.errors import RunError
from llmrec.policy.decoding import beam_search
from llmrec.training.controls import Controls
from llmrec.training.state_source import Rows, ScoreRequest, StateSource
from llmrec.training.trl_seam.plain import PolicyTrainer
from llmrec.training.trl_seam.quiet import without_adapter
from llmrec.types import FloatArray, IntArray, State

Worth = Callable[[Sequence[State], IntArray], FloatArray]
"""What each of K items (-1: none) is expected to earn at each of B states: (B, K)."""
CHUNK = 32
"""States whose targets are made together."""
WHOLE = 1e-6
"""Probability beside the list below which there is nothing beside it."""


@dataclass(frozen=True, slots=True)
class Target:
    """The warm start's best items of a state, as many as are left; `probability_K` sums to what they had together."""

    items_K: IntArray
    probability_K: FloatArray
    reward_K: FloatArray


def tilted(log_prob_K: FloatArray, reward_K: FloatArray, beta: float, bonus: float = 0.0) -> FloatArray:
    """(pi^beta exp(r))^(1 / (beta + bonus)) over a list, (K,), scaled to what the list has under pi."""
    log_K = (beta * log_prob_K + reward_K) / (beta + bonus)
    share_K: FloatArray = np.exp(log_K - log_K.max())
    found_K: FloatArray = share_K * (min(float(np.exp(log_prob_K).sum()), 1.0) / share_K.sum())
    return found_K


def partition_kl(log_prob_BK: Tensor, target_BK: Tensor) -> Tensor:
    """KL(target || pi) over the items of a list and all the others as one: (B,), in nats.

    The target has 0 at places without an item; what it lacks of 1 is the others'.
    """
    there_BK = target_BK > 0
    rest_B = 1.0 - target_BK.sum(1)
    listed_B = torch.where(there_BK, log_prob_BK, -math.inf).logsumexp(1)
    some_B = rest_B > WHOLE
    # the clamp: rounding can bring a list's probability to 1, where the logarithm of the rest has no gradient
    log_rest_B = torch.log1p(-listed_B.clamp(max=math.log1p(-WHOLE)).exp())
    own_BK = target_BK * (target_BK.clamp(min=1e-30).log() - log_prob_BK)
    other_B = rest_B * (rest_B.clamp(min=WHOLE).log() - log_rest_B)
    return torch.where(there_BK, own_BK, 0.0).sum(1) + torch.where(some_B, other_B, 0.0)


class TiltedTrainer(PolicyTrainer):
    """Learns the targets of `source`'s states; `worth` is the reward."""

    def __init__(
        self,
        model: Any,
        source: StateSource,
        args: Any,
        controls: Controls,
        *,
        worth: Worth,
        settings: TiltedSettings,
        **rest: Any,
    ) -> None:
        super().__init__(model, source, args, controls, **rest)
        self.worth, self.settings = worth, settings
        self.depth = min(settings.depth, self.index.n_items)
        self._targets: dict[int, Target] = {}

    def _prepared(self, rows: Rows) -> tuple[ScoreRequest, Tensor, Tensor]:
        """The rows' lists as what is scored, with the targets' probabilities and the rewards, (B, K) each."""
        found = [self._target(row["state"]) for row in rows]
        width = max(len(target.items_K) for target in found)
        items_BK = np.stack([_filled(t.items_K, width, t.items_K[0]) for t in found])
        tables = [[t.probability_K for t in found], [t.reward_K for t in found]]
        device = self.index.device
        target_BK, reward_BK = (
            torch.from_numpy(np.stack([_filled(x_K, width, 0.0) for x_K in table])).to(device, torch.float32)
            for table in tables
        )
        request = self.source.request(rows, self.index, device)
        return replace(request, items_BG=torch.from_numpy(items_BK).to(device)), target_BK, reward_BK

    def _loss(self, model: Any, prepared: tuple[ScoreRequest, Tensor, Tensor]) -> Tensor:
        """KL(target || pi), a mean over the rows."""
        request, target_BK, reward_BK = prepared
        scores, _ = self._answer(model, request)
        log_prob_BK = scores.item_log_prob_BG.float()
        loss = partition_kl(log_prob_BK, target_BK).mean()
        # among the lists: what is beside them has no reward here
        own_BK = torch.where(target_BK > 0, log_prob_BK.detach(), -math.inf).softmax(1)
        best_BK = target_BK / target_BK.sum(1, keepdim=True)
        earned = {"reward": own_BK, "best": best_BK}
        self._note({"target_kl": loss} | {n: (p_BK * reward_BK).sum(1).mean() for n, p_BK in earned.items()})
        return loss

    def _target(self, state: int) -> Target:
        if state not in self._targets:
            first = state // CHUNK * CHUNK
            chunk = range(first, min(first + CHUNK, len(self.source.states)))
            self._targets.update(zip(chunk, self._made(chunk), strict=True))
        return self._targets[state]

    def _made(self, chunk: Sequence[int]) -> list[Target]:
        request = self.source.request([{"state": state} for state in chunk], self.index, self.index.device)
        items_BK, log_prob_BK = self._best(request)
        reward_BK = self.worth([self.source.states[state] for state in chunk], items_BK)
        if not np.isfinite(np.where(items_BK >= 0, reward_BK, 0.0)).all():
            raise RunError("The reward of some item is not finite, so there is no optimum; check the reward model.")
        made = []
        for items_K, log_prob_K, reward_K in zip(items_BK, log_prob_BK, reward_BK, strict=True):
            kept = items_K >= 0
            beta, bonus = self.settings.kl_coefficient, self.settings.entropy_coefficient
            target_K = tilted(log_prob_K[kept], reward_K[kept], beta, bonus)
            made.append(Target(items_K[kept], target_K, reward_K[kept]))
        return made

    def _best(self, request: ScoreRequest) -> tuple[IntArray, FloatArray]:
        """The best items under the policy as it was, and log pi_F: (B, K), -1 and -inf where fewer are allowed."""
        prompts, allowed = (request.prompt_ids_BP, request.prompt_mask_BP), request.allowed
        if self._reference is not None:
            model = self._reference.to(request.prompt_ids_BP.device)
            items_BK, log_prob_BK = beam_search(model, *prompts, self.depth, self.index, exclude=allowed)
        else:
            with without_adapter(self):
                items_BK, log_prob_BK = beam_search(self.base, *prompts, self.depth, self.index, exclude=allowed)
        there_BK = items_BK >= 0
        if allowed is not None:
            # under pi_F, which is learnt, and not by the likelihood of which the best were found: what cannot be
            # shown has no share that would lie beside the list
            some_BK = torch.where(there_BK, items_BK, items_BK.amax(1, keepdim=True))
            log_prob_BK = self._reference_scores(replace(request, items_BG=some_BK)).exact_BG
        log_prob_BK = log_prob_BK.double().masked_fill(~there_BK, -torch.inf)
        return items_BK.cpu().numpy(), log_prob_BK.cpu().numpy()


def _filled(x_K: Any, width: int, filler: Any) -> Any:
    """`x_K` to the width, `filler` behind it."""
    return np.concatenate([x_K, np.full(width - len(x_K), filler, dtype=x_K.dtype)])
