"""A policy that chooses among a retriever's candidates: what text finds first, what the policy knows second."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from llmrec.catalogue.filters import Filters
from llmrec.policy.filtered import one_each
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Mixture
from llmrec.types import IntArray, Ranker, Slate, State


class Retrieved:
    """Ranks the nearest items of a retriever by a policy; a `types.Ranker`.

    Args:
        policy: ranks; a policy or a mixture with one, which knows the attributes of its items.
        retriever: finds; anything that recommends, such as `baselines.EmbeddingProfile`.
        candidates: how many items it finds for each state. Fewer are nearer; all of them are the policy itself.
    """

    def __init__(self, policy: LanguagePolicy | Mixture, retriever: Ranker, candidates: int) -> None:
        self.policy, self.retriever, self.candidates = policy, retriever, candidates
        owner = policy if isinstance(policy, LanguagePolicy) else policy.policies[0]
        self.item_ids = list(owner.catalogue.item_ids)

    def recommend(
        self,
        states: Sequence[State],
        k: int,
        *,
        seen: Sequence[IntArray] | None = None,
        filters: Filters | Sequence[Filters] | None = None,
        **options: Any,
    ) -> list[Slate]:
        """The k best candidates of each state; `options` and errors are the policy's.

        What filters leave out is not found anew: a filter takes items from the candidates.
        """
        found = self.retriever.recommend(states, min(self.candidates, len(self.item_ids)), seen=seen)
        wishes = one_each(filters, len(states)) or [Filters()] * len(states)
        narrowed = [self._narrowed(wish, slate) for wish, slate in zip(wishes, found, strict=True)]
        return self.policy.recommend(states, k, seen=seen, filters=narrowed, **options)

    def _narrowed(self, wish: Filters, slate: Slate) -> Filters:
        ids = [self.item_ids[item] for item in slate.items_K]
        if wish.candidates is not None:
            own = set(wish.candidates)
            ids = [item_id for item_id in ids if item_id in own]
        return dataclasses.replace(wish, candidates=tuple(ids))
