"""Recommended items with their reasons: effects of parts, a sentence, and what would undo the recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmrec.errors import RequestError
from llmrec.explain.counterfactual import MOST_SETS, Counterfactual, counterfactuals
from llmrec.explain.effects import Effect, Joint, Whole, attribute
from llmrec.explain.parts import Parted
from llmrec.explain.scores import Meaning, explained
from llmrec.explain.sentences import Sentences, Unsaid
from llmrec.types import IntArray, Item, Ranker, State


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one item is recommended.

    Attributes:
        item_id: the item.
        log_score: its score in the whole state.
        meaning: what the score is.
        effects: of each part, the largest first.
        wholes: of all parts of a kind together.
        joint: of the two largest, where they are more or less than their sum.
        sentence: the reason in words; it names parts whose effects are among the largest and nothing else.
        counterfactual: the history items without which the item leaves the top K; None where that was not asked.
        without: that in words; empty where there is nothing to say.
    """

    item_id: str
    log_score: float
    meaning: Meaning
    effects: tuple[Effect, ...]
    wholes: tuple[Whole, ...]
    joint: Joint | None
    sentence: str
    counterfactual: Counterfactual | None = None
    without: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists; texts are as they are in the data, the sentences apart."""
        return asdict(self)


class Explainer:
    """Explains what a recommender recommends.

    Args:
        ranker: a policy, a mixture, or a recommender with a `distribution`.
        items: the catalogue in item-index order.
        domain: of the words of sentences.
        language: "en" or "zh".
        most_sets: bound on the sets that are tried one and all for a counterfactual; 0 leaves counterfactuals out.
        unsaid: what sentences do not name; by default whatever holds a harmful word.
    """

    def __init__(
        self,
        ranker: Ranker,
        items: Sequence[Item],
        *,
        domain: str,
        language: str,
        most_sets: int = MOST_SETS,
        unsaid: Unsaid | None = None,
    ) -> None:
        self.ranker, self.items, self.most_sets = ranker, items, most_sets
        self.sentences = Sentences(domain, language, unsaid)

    def explain(
        self,
        state: State,
        items_G: Sequence[int],
        *,
        k: int,
        seen: IntArray | None = None,
        **options: Any,
    ) -> tuple[Explanation, ...]:
        """Why each of G items is recommended to a state.

        Args:
            state: the state.
            items_G: item indices, each once.
            k: places of the slate that counterfactuals are about.
            seen: what the user has seen beside the state.
            options: those of the recommendation: `filters`, `exclude_seen`, `exact`.

        Raises:
            RequestError: a recommender without probabilities, an item twice or outside the catalogue.
        """
        wrong = [item for item in items_G if not 0 <= item < len(self.items)]
        if wrong or len(set(items_G)) < len(items_G):
            raise RequestError(
                f"Items {list(items_G)[:10]} cannot be explained; name items of the catalogue of {len(self.items)}, "
                "each once."
            )
        scores = explained(self.ranker, state, seen, **options)
        parted = Parted(state, self.items, scores.card_fields)
        found = attribute(scores, parted, items_G)
        undone: dict[int, Counterfactual] = {}
        if self.most_sets:
            nats = {item: one.nats_P for item, one in zip(items_G, found, strict=True)}
            undone = counterfactuals(scores, parted, nats, k, most_sets=self.most_sets)
        return tuple(
            Explanation(
                self.items[item].item_id,
                one.log_score,
                scores.meaning,
                one.effects,
                one.wholes,
                one.joint,
                self.sentences.reason(one),
                undone.get(item),
                self.sentences.without(undone[item]) if item in undone else "",
            )
            for item, one in zip(items_G, found, strict=True)
        )
