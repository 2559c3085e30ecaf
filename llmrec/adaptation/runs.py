"""Adaptation of finished runs: a data set of first sessions makes a run folder of a new one.

    bundle = read_bundle(Path("runs/shop"))
    adapt_run(bundle, Dataset.load(Path("new-shop")), InnerSettings(steps=10), Path("runs/new-shop"))

A data set with other items brings its own catalogue (`assortment`); the wording of states stays the run's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.adaptation.inner import InnerSettings
from llmrec.adaptation.meta import MetaSettings, meta_train
from llmrec.adaptation.sessions import logged
from llmrec.adaptation.tasks import TASK_KINDS, Place, TaskKind, Tasks
from llmrec.adaptation.ways import FewSteps, adapter_in, plain_model
from llmrec.assortment import change_items, check_free, save_changed
from llmrec.dataset.impressions import Impressions
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, DataError, RunError
from llmrec.export import Bundle
from llmrec.files import new_folder
from llmrec.policy.loading import save_causal_lm
from llmrec.training.lora import Adapter, combine_adapters, load_adapter, merge
from llmrec.training.propensities import item_groups
from llmrec.types import IntArray, Interaction, State


@dataclass(frozen=True, kw_only=True)
class MetaConfig:
    """The configuration file of a meta-training: the tasks, and how an adapter learns over them."""

    kind: TaskKind = "domain"
    """What is new in a task: domain, catalogue, group or user."""
    support: int = 5
    """Users (of kind user: slates) that a task adapts to."""
    query: int = 15
    """Users (slates) that ask."""
    seed: int = 0
    meta: MetaSettings = field(default_factory=MetaSettings)

    def check(self) -> None:
        """Raises `ConfigError` for what cannot work."""
        if self.kind not in TASK_KINDS or self.kind == "group":
            raise ConfigError(f"Key 'kind' is {self.kind!r}; choose domain, catalogue or user.")
        if self.support < 1 or self.query < 1:
            raise ConfigError("Keys 'support' and 'query' must be 1 or more.")
        self.meta.check()


def adapt_run(
    bundle: Bundle,
    dataset: Dataset,
    settings: InnerSettings,
    out: Path,
    *,
    start: Adapter | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes a run folder whose policy is the bundle's, adapted to the sessions of `dataset`.

    Args:
        bundle: a run folder in memory; it stays as it is.
        dataset: the sessions; its items are the new run's.
        settings: the inner steps.
        out: the new run folder; it appears whole or not at all.
        start: a meta-trained adapter; None begins a fresh one.
        seed: of the adapter and of the order of rows.

    Returns:
        What was done: slates, users, choices, steps and whether an adapter was started from.

    Raises:
        DataError: sessions that teach nothing.
        CatalogueError: items that cannot be taken in.
        RunError: `out` exists, an adapter of another model, or a model whose adapter cannot be merged.
    """
    settings.check()
    check_free(bundle.folder, out)
    changed = with_items(bundle, dataset)
    place = place_of(changed, dataset)
    require_choices(place)
    with tempfile.TemporaryDirectory() as scratch:
        steps = FewSteps(place, settings, Path(scratch) / "inner", start, seed)
        adapted = steps.adapt(changed.policy, place.sessions)
    adapter = adapter_in(adapted)
    assert adapter is not None
    facts = {
        "slates": len(place.sessions),
        "users": len(place.sessions.users),
        "choices": int((place.sessions.log.click_M > 0).sum()),
        "steps": settings.steps,
        "learns": settings.learns,
        "from": "a fresh adapter" if start is None else "a given adapter",
        "sessions": dataset.manifest.content_hash,
    }
    full = bundle.facts["weights"] == "full"

    def write_weights(folder: Path) -> None:
        if full:
            save_causal_lm(merge(adapted.model), adapted.tokenizer, folder)
        else:
            # both as one of the summed rank: the base model stays a name
            before = load_adapter(bundle.folder)
            both = combine_adapters(before, adapter)
            both.config.base_model_name_or_path = before.config.base_model_name_or_path
            both.config.revision = before.config.revision
            both.save(folder)

    save_changed(replace(changed, facts={**changed.facts, "adapted": facts}), out, write_weights)
    return facts


def meta_run(bundle: Bundle, datasets: Sequence[Dataset], config: MetaConfig, out: Path, scratch: Path) -> None:
    """Meta-trains an adapter of the bundle's model over tasks of these data sets; writes it into the folder `out`.

    Raises:
        ConfigError: settings that cannot work.
        DataError: a data set with too few users or nothing to learn from.
    """
    config.check()
    places = [place_of(with_items(bundle, dataset), dataset) for dataset in datasets]
    for place in places:
        require_choices(place)
    tasks = Tasks(places, config.kind, config.support, config.query, config.seed)
    model = plain_model(bundle.policy)
    made = meta_train(model, bundle.policy.tokenizer, tasks, config.meta, seed=config.seed, scratch=scratch)
    made.adapter.config.base_model_name_or_path = bundle.facts["base"] or bundle.folder.name
    with new_folder(out, mark="adapter_config.json") as folder:
        made.adapter.save(folder)


def require_choices(place: Place) -> None:
    """Raises `DataError` where nobody chose anything in the place's sessions."""
    if not len(place.sessions) or not (place.sessions.log.click_M > 0).any():
        raise DataError(f"Nobody chose anything in the sessions of {place.name!r}, so there is nothing to adapt to.")


def with_items(bundle: Bundle, dataset: Dataset) -> Bundle:
    """The bundle with the items of `dataset` in place of its own; the same one where they are the same."""
    own = {item.item_id: item for item in bundle.items}
    new = [item for item in dataset.item_list if item.item_id not in own]
    gone = own.keys() - set(dataset.item_index)
    # those that come first: a catalogue is never without items
    return change_items(change_items(bundle, add=new), remove=[item for item in own if item in gone])


def place_of(bundle: Bundle, dataset: Dataset) -> Place:
    """The bundle's catalogue and wording with the sessions of `dataset`, whose items it has."""
    sessions = logged(dataset, dataset.events, bundle.facts["history_events"])
    row_of = {item.item_id: row for row, item in enumerate(bundle.items)}
    index = np.array([row_of[item.item_id] for item in dataset.item_list], dtype=np.int64)
    policy = bundle.policy
    return Place(
        dataset.manifest.name,
        policy.catalogue,
        policy.renderer,
        policy.repeat,
        replace(sessions, log=renumbered(sessions.log, index)),
        item_groups(bundle.items),
        bundle.items,
    )


def renumbered(log: Impressions, index: IntArray) -> Impressions:
    """The log with item n called `index[n]`, in states, lists and slates."""

    def moved(events: tuple[Interaction, ...]) -> tuple[Interaction, ...]:
        return tuple(replace(event, item=int(index[event.item])) for event in events)

    def told(state: State) -> State:
        return replace(state, history=moved(state.history), session=moved(state.session))

    return replace(
        log,
        states=[told(state) for state in log.states],
        item_M=index[log.item_M],
        seen=[index[items] if len(items) else items for items in log.seen],
    )


def read_start(folder: Path) -> Adapter:
    """The adapter in `folder`.

    Raises:
        RunError: there is none.
    """
    if not (folder / "adapter_config.json").is_file():
        raise RunError(f"{folder} holds no adapter (adapter_config.json); give a folder that meta-training made.")
    return load_adapter(folder)
