"""Parts of a mixture that answer from memory what they were asked before: several fits over the same states cost one.

States, and what their users have seen, are known by identity: the fits go over the very same objects, and comparing
histories would cost as much as scoring.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmrec.policy.filtered import padded
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Scorer
from llmrec.types import FloatArray, Slate, State


def remembered(scorer: Scorer) -> Scorer:
    """The scorer with what it said of each batch of states."""
    said: dict[tuple[int, ...], FloatArray] = {}

    def score(states: Sequence[State]) -> FloatArray:
        place = tuple(id(state) for state in states)
        if place not in said:
            said[place] = scorer(states)
        return said[place]

    return score


class RememberedPolicy(LanguagePolicy):
    """The policy with the lists that it gave and the items that it scored; without gradients."""

    def __init__(self, policy: LanguagePolicy) -> None:
        vars(self).update(vars(policy))
        self._lists: dict[tuple[Any, ...], list[Slate]] = {}
        self._values: dict[int, dict[int, float]] = {}
        self._held: list[object] = []
        """What identities are of: it must not go while they are in use."""

    def recommend(self, states: Sequence[State], k: int, **options: Any) -> list[Slate]:
        """As the policy's."""
        seen = options.get("seen")
        plain = {name: value for name, value in options.items() if name != "seen"}
        key = (tuple(map(id, states)), None if seen is None else tuple(map(id, seen)), k, repr(plain))
        if key not in self._lists:
            self._lists[key] = super().recommend(states, k, **options)
            self._held += [*states, *(seen or ())]
        return self._lists[key]

    @torch.no_grad()
    def log_prob(self, states: Sequence[State], items_BG: Tensor, **options: Any) -> Tensor:
        """As the policy's over the whole catalogue; with options the policy is asked each time."""
        if options:
            return super().log_prob(states, items_BG, **options)
        self._held += states
        known = [self._values.setdefault(id(state), {}) for state in states]
        asked = items_BG.tolist()
        new = [np.array(sorted(set(row) - own.keys()), np.int64) for row, own in zip(asked, known, strict=True)]
        rows = [b for b, items in enumerate(new) if len(items)]
        if rows:
            wanted_BX = torch.from_numpy(padded([new[b] for b in rows]).clip(min=0))
            found = super().log_prob([states[b] for b in rows], wanted_BX).double().tolist()
            for b, values in zip(rows, found, strict=True):
                known[b].update(zip(new[b].tolist(), values, strict=False))  # behind the items stands padding
        return torch.tensor([[own[item] for item in row] for row, own in zip(asked, known, strict=True)]).double()
