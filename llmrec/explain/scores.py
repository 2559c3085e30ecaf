"""How recommenders are asked what an item is worth without a part of the state, and what the answer means.

- A policy's score is log pi(item | state) over the whole catalogue. pi sums to 1, so a difference is exactly how much
  likelier the part makes the item, and no constant is free in it.
- A mixture's is log p of the mixed probabilities, given that nothing hidden is chosen where it is so conditioned.
- Any recommender with a `distribution` (the baselines) has the log of the item's share of it. Where a share is 0 it
  counts as `LEAST`: such an effect says "everything", not how much.

What is hidden as seen, and what filters take away, stays as it is in the whole state: a part that is left out is no
longer known to the recommender, but the person still has the item.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

from llmrec.errors import RequestError
from llmrec.explain.parts import Variant
from llmrec.policy.filtered import hidden_items
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Distributed, Mixture
from llmrec.policy.variants import variant_log_probs
from llmrec.types import FloatArray, IntArray, Ranker, Slate, State

Meaning = Literal["log pi", "log p of the mixture", "log share"]
LEAST = 1e-12


class Explained(Protocol):
    """A recommender that answers about states without some of their parts."""

    @property
    def meaning(self) -> Meaning:
        """What its scores are."""
        ...

    @property
    def card_fields(self) -> tuple[str, ...]:
        """What it reads of an item in a state beside its title, where that can be left out."""
        ...

    def log_scores(self, variants: Sequence[Variant], items_G: Sequence[int]) -> FloatArray:
        """Logarithms of probabilities of the items, (V, G)."""
        ...

    def slates(self, variants: Sequence[Variant], k: int) -> list[Slate]:
        """What it would recommend; what was hidden in the whole state stays hidden."""
        ...


class _Asked:
    """A ranker with the options of a request."""

    card_fields: tuple[str, ...] = ()

    def __init__(self, ranker: Ranker, state: State, seen: IntArray | None, options: dict[str, Any]) -> None:
        self.ranker, self.options = ranker, options
        (self.hidden,) = hidden_items([state], None if seen is None else [seen])

    def slates(self, variants: Sequence[Variant], k: int) -> list[Slate]:
        """See `Explained`."""
        states = [variant.state for variant in variants]
        return self.ranker.recommend(states, k, seen=[self.hidden] * len(states), **self.options)


class PolicyScores(_Asked):
    """log pi, all variants in one packed pass."""

    meaning: Meaning = "log pi"

    def __init__(self, policy: LanguagePolicy, state: State, seen: IntArray | None, options: dict[str, Any]) -> None:
        super().__init__(policy, state, seen, options)
        self.policy = policy
        self.card_fields = tuple(getattr(policy.renderer, "card_fields", ()))

    def log_scores(self, variants: Sequence[Variant], items_G: Sequence[int]) -> FloatArray:
        """See `Explained`."""
        policy = self.policy
        return variant_log_probs(policy.model, policy.tokenizer, policy.index, self.rows(variants), items_G)

    def slates(self, variants: Sequence[Variant], k: int) -> list[Slate]:
        """See `Explained`; states that read alike are asked for once."""
        keys = [tuple(row) for row in self.rows(variants)]
        first = dict(zip(reversed(keys), reversed(variants), strict=True))
        found = dict(zip(first, super().slates(list(first.values()), k), strict=True))
        return [found[key] for key in keys]

    def rows(self, variants: Sequence[Variant]) -> list[list[int]]:
        """Prompt tokens of each variant."""
        rows: list[list[int]] = [[]] * len(variants)
        groups: dict[frozenset[str], list[int]] = {}
        for n, variant in enumerate(variants):
            groups.setdefault(variant.fields, []).append(n)
        for fields, numbers in groups.items():
            renderer: Any = self.policy.renderer
            renderer = renderer.without(fields) if fields else renderer
            states = [variants[n].state for n in numbers]
            many: Any = getattr(renderer, "token_ids_many", None)
            made = many(states) if many is not None else [renderer.token_ids(state) for state in states]
            for n, row in zip(numbers, made, strict=True):
                rows[n] = row
        return rows


class MixtureScores(_Asked):
    """log p of a mixture."""

    meaning: Meaning = "log p of the mixture"

    def __init__(self, mixture: Mixture, state: State, seen: IntArray | None, options: dict[str, Any]) -> None:
        super().__init__(mixture, state, seen, options)
        self.mixture = mixture
        asked = options.get("exclude_seen")
        hide = mixture.items.repeat == "exclude" if asked is None else asked
        self.given = self.hidden if hide and mixture.conditioned else self.hidden[:0]

    def log_scores(self, variants: Sequence[Variant], items_G: Sequence[int]) -> FloatArray:
        """See `Explained`."""
        states = [variant.state for variant in variants]
        items_VG = np.tile(np.asarray(items_G, dtype=np.int64), (len(states), 1))
        given_VE = np.tile(self.given, (len(states), 1))
        return _log(self.mixture.probabilities(states, items_VG, given_VE))


class ShareScores(_Asked):
    """The log of an item's share of a recommender's distribution."""

    meaning: Meaning = "log share"

    def __init__(self, ranker: Any, state: State, seen: IntArray | None, options: dict[str, Any]) -> None:
        super().__init__(ranker, state, seen, options)
        self.model: Distributed = ranker

    def slates(self, variants: Sequence[Variant], k: int) -> list[Slate]:
        """See `Explained`; one at a time, since the order of equal scores may hang on the place in a batch."""
        return [slate for variant in variants for slate in super(ShareScores, self).slates([variant], k)]

    def log_scores(self, variants: Sequence[Variant], items_G: Sequence[int]) -> FloatArray:
        """See `Explained`."""
        share_VN = self.model.distribution([variant.state for variant in variants])
        return _log(np.asarray(share_VN)[:, list(items_G)])


def _log(p: FloatArray) -> FloatArray:
    found: FloatArray = np.log(np.clip(p, LEAST, 1.0))
    return found


def explained(ranker: Ranker, state: State, seen: IntArray | None = None, **options: Any) -> Explained:
    """A recommender as one that can be asked about parts of `state`.

    Args:
        ranker: a policy, a mixture, or a recommender with a `distribution`.
        state: the whole state.
        seen: what the user has seen beside it.
        options: of its `recommend`: `filters`, `exclude_seen`, `exact`.

    Raises:
        RequestError: one that gives no score for a single item.
    """
    if isinstance(ranker, LanguagePolicy):
        return PolicyScores(ranker, state, seen, options)
    if isinstance(ranker, Mixture):
        return MixtureScores(ranker, state, seen, options)
    if hasattr(ranker, "distribution"):
        return ShareScores(ranker, state, seen, options)
    name = type(ranker).__name__
    raise RequestError(
        f"A {name} gives no probability of a single item, so there are no reasons to tell; explain a policy, a "
        "mixture or a baseline."
    )
