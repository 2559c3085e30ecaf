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
from llmrec.policy.ensemble import EnsemblePolicy
from llmrec.policy.fusion import FusedPolicy
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import MixturePolicy
from llmrec.text.perturb import View
from llmrec.text.render import StateRenderer
from llmrec.text.templates import shipped_sources
from llmrec.types import IntArray, Item, Ranker, Slate, State


@runtime_checkable
class Perturbable(Protocol):
    """A system that knows itself what to do with a view."""

    def under(self, view: View) -> Ranker:
        """The system that sees the items as the view has them."""
        ...


class Refitted:
    """A content-based system, fitted anew where item texts change.

    Args:
        fit: makes the system from a data set; called once with the given one.
        dataset: the data set as it is.
    """

    def __init__(self, fit: Callable[[Dataset], Ranker], dataset: Dataset) -> None:
        self.fit, self.dataset, self.system = fit, dataset, fit(dataset)

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        """The k best items of each state."""
        return self.system.recommend(states, k, seen=seen)

    def under(self, view: View) -> Ranker:
        """Fitted to the view's texts, or as it is where none changed; a policy in it words the view."""
        changed = with_texts(self.dataset, view.items)
        return under(self.system if changed is self.dataset else self.fit(changed), view)


def under(system: Ranker, view: View) -> Ranker:
    """The system as the view lets it see the items.

    Policies, alone or in an ensemble or mixture, word the view's items. In a mixture the second score stays as it
    is. A system with a method `under` is asked; any other knows no text.
    """
    if isinstance(system, Perturbable):
        return system.under(view)
    if isinstance(system, LanguagePolicy):
        return reworded(system, view)
    if isinstance(system, Policy):
        return Policy(reworded(system.policy, view), system.beams)
    if isinstance(system, EnsemblePolicy):
        return EnsemblePolicy([reworded(member, view) for member in system.members], depth=system.depth)
    if isinstance(system, FusedPolicy):
        policy: Any = under(system.policy, view)
        return FusedPolicy(policy, system.scorer, system.weight, depth=system.depth)
    if isinstance(system, MixturePolicy):
        parts: list[Any] = [under(part, view) for part in system.policies]
        more: dict[str, Any] = {"depth": system.depth, "items": system.items}
        return MixturePolicy(parts, system.scorers, system.weights_GP, system.group, **more)
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
