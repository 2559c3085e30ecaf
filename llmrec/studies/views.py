"""Systems that see states and items as a perturbation shows them.

Language-model policies read the view through their prompts; model, catalogue and the tokens of answers stay. Systems
that know items by index alone see the states only. Content-based ones are fitted anew to the changed texts
(`Refitted`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import polars as pl

from llmrec.dataset.store import Dataset
from llmrec.files import write_text
from llmrec.pipeline.systems import Policy
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Mixture, Scorer
from llmrec.rules import Ruled
from llmrec.text.perturb import View
from llmrec.text.render import StateRenderer
from llmrec.text.templates import shipped_sources
from llmrec.types import FloatArray, IntArray, Item, Slate, State


@runtime_checkable
class Perturbable(Protocol):
    """A system that knows itself what to do with a view."""

    def under(self, view: View) -> Any:
        """The system that sees the items as the view has them."""
        ...


class Refitted:
    """A content-based system, fitted anew where item texts change.

    Args:
        fit: makes the system from a data set; called once with the given one.
        dataset: the data set as it is.
    """

    def __init__(self, fit: Callable[[Dataset], Any], dataset: Dataset) -> None:
        self.fit, self.dataset, self.system = fit, dataset, fit(dataset)

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        """The k best items of each state."""
        slates: list[Slate] = self.system.recommend(states, k, seen=seen)
        return slates

    def under(self, view: View) -> Any:
        """Fitted to the view's texts, or as it is where none changed; a policy in it words the view."""
        changed = with_texts(self.dataset, view.items)
        return under(self.system if changed is self.dataset else self.fit(changed), view)


class RefittedScores(Refitted):
    """The scores of a content-based system as a part of a mixture, fitted anew where item texts change.

    Args:
        fit: makes the scores from a data set.
        dataset: the data set as it is.
    """

    def __init__(self, fit: Callable[[Dataset], Scorer], dataset: Dataset) -> None:
        super().__init__(fit, dataset)

    def __call__(self, states: Sequence[State]) -> FloatArray:
        """Scores of all items, (B, N)."""
        scores_BN: FloatArray = self.system(states)
        return scores_BN


def under(system: Any, view: View) -> Any:
    """The system, or the part of a mixture, as the view lets it see the items.

    Policies word the view's items, alone or in a mixture. What has a method `under` is asked; anything else knows no
    text. Rules stay about the items as they are.
    """
    if isinstance(system, Perturbable):
        return system.under(view)
    if isinstance(system, LanguagePolicy):
        return reworded(system, view)
    if isinstance(system, Policy):
        return Policy(reworded(system.policy, view), system.beams)
    if isinstance(system, Ruled):
        return system.around(under(system.ranker, view))
    if isinstance(system, Mixture):
        return system.changed(parts=[under(part, view) for part in system.parts])
    return system


def reworded(policy: LanguagePolicy, view: View) -> LanguagePolicy:
    """The policy with the view's texts in its prompts; model, catalogue and the tokens of answers are the same."""
    renderer = policy.renderer
    if not isinstance(renderer, StateRenderer) or (view.wording is None and view.items is renderer.wording.items):
        return policy
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "prompts"
        renderer.save(folder)
        if view.wording is not None:
            for name, source in shipped_sources(renderer.language, view.wording).items():
                write_text(folder / name, source)
        identifiers = renderer.encoder.identifiers.texts or None
        seen = StateRenderer.load(folder, view.items, policy.tokenizer, identifiers)
    return LanguagePolicy(policy.model, policy.tokenizer, policy.catalogue, seen, policy.repeat)


def with_texts(dataset: Dataset, items: Sequence[Item]) -> Dataset:
    """The data set with the titles and descriptions of `items`; itself where none changed."""
    titles, descriptions = [item.title for item in items], [item.description for item in items]
    if titles == dataset.items["title"].to_list() and descriptions == dataset.items["description"].to_list():
        return dataset
    frame = dataset.items.with_columns(pl.Series("title", titles), pl.Series("description", descriptions))
    return Dataset(frame, dataset.users, dataset.events, dataset.manifest, dataset.rows)
