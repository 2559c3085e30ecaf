"""The run folder: everything that a stranger needs to recommend, and no user's rows.

llmrec.json   what it is: format, domain, language, repeats, wording, base model, data set's name and hash
config.json + model.safetensors, or adapter_config.json + adapter_model.safetensors; the tokenizer's files
catalogue/ items.parquet prompts/     the items, as tokens and as text, and the wording of states
identifiers/                          what items are called, where they are written in words of their own
config.yaml metrics.json README.md    how it was made, what it scored, the model card
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
import yaml

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.identifiers import Identifiers
from llmrec.config import RunConfig
from llmrec.dataset.signals import Signal
from llmrec.dataset.store import Dataset, Manifest
from llmrec.errors import RunError
from llmrec.files import read_json, write_json, write_text
from llmrec.policy.adapters import load_adapter_onto
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.loading import load_causal_lm, load_tokenizer, save_causal_lm
from llmrec.text.render import StateRenderer
from llmrec.types import Item
from llmrec.version import __version__

if TYPE_CHECKING:
    from llmrec.training.lora import Adapter

FORMATS = (1, 2)
"""2 is 1 with identifiers, which an older llmrec would not look for."""
CARD = "llmrec.json"


@dataclass(frozen=True, slots=True)
class Weights:
    """What is exported: a plain model (`adapter` None), or an adapter on the Hub model `base` at `revision`."""

    model: Any
    adapter: Adapter | None = None
    base: str | None = None
    revision: str | None = None


def write_bundle(
    folder: Path,
    *,
    weights: Weights,
    policy: LanguagePolicy,
    dataset: Dataset,
    config: RunConfig,
    metrics: Mapping[str, Any],
    card: str,
    identifiers: Identifiers | None = None,
) -> None:
    """Writes the run folder's files into `folder`, which exists; the caller renames it into place.

    `identifiers` are those that the policy's catalogue was built from; None where items are written by their titles.
    """
    if weights.adapter is None:
        save_causal_lm(weights.model, policy.tokenizer, folder)
    else:
        weights.adapter.config.base_model_name_or_path = weights.base
        weights.adapter.config.revision = weights.revision
        weights.adapter.save(folder)
        policy.tokenizer.save_pretrained(folder)
    policy.catalogue.save(folder / "catalogue")
    if identifiers is not None:
        identifiers.save(folder / "identifiers")
    assert isinstance(policy.renderer, StateRenderer)
    policy.renderer.save(folder / "prompts")
    dataset.items.write_parquet(folder / "items.parquet")
    write_json(folder / CARD, _facts(weights, dataset.manifest, config, policy.catalogue, identifiers))
    write_json(folder / "metrics.json", dict(metrics))
    write_text(folder / "config.yaml", yaml.safe_dump(config.tree(), sort_keys=False, allow_unicode=True))
    write_text(folder / "README.md", card)


def _facts(
    weights: Weights, manifest: Manifest, config: RunConfig, catalogue: Catalogue, identifiers: Identifiers | None
) -> dict[str, Any]:
    named = {} if identifiers is None else {"scheme": identifiers.scheme, "identifiers": identifiers.content_hash}
    return {
        "format": FORMATS[0] if identifiers is None else FORMATS[1],
        "llmrec": __version__,
        "domain": manifest.domain,
        "language": config.text.language or manifest.language,
        "repeat": manifest.repeat,
        "liked": Signal.parse(manifest.click).kind,
        "history_events": config.data.history_events,
        "weights": "full" if weights.adapter is None else "adapter",
        "base": weights.base,
        "base_revision": weights.revision,
        "catalogue": catalogue.content_hash,
        **named,
        "dataset": {"name": manifest.name, "content_hash": manifest.content_hash, "proxy": manifest.proxy},
    }


@dataclass(frozen=True, slots=True)
class Bundle:
    """A run folder in memory."""

    folder: Path
    facts: dict[str, Any]
    policy: LanguagePolicy
    items: list[Item]
    identifiers: Identifiers | None = None


def read_bundle(folder: Path) -> Bundle:
    """Loads a run folder.

    Raises:
        RunError: `folder` is not a run folder, was written by a newer version, or its parts do not fit together.
    """
    facts = read_facts(folder)
    tokenizer = load_tokenizer(str(folder))
    if facts["weights"] == "full":
        model = load_causal_lm(str(folder), whole=True)
    else:
        base = load_causal_lm(facts["base"], revision=facts["base_revision"])
        model = load_adapter_onto(base, folder, tokenizer)
        if base.dtype == torch.float32:  # in bfloat16 merging rounds log pi by up to 0.1
            model = model.merge_and_unload().eval()
    catalogue = Catalogue.load(folder / "catalogue")
    catalogue.check_tokenizer(tokenizer)
    if catalogue.content_hash != facts["catalogue"]:
        raise RunError(f"{folder / 'catalogue'} is not the catalogue that {CARD} names; fetch the run folder again.")
    items = items_from_frame(pl.read_parquet(folder / "items.parquet"))
    identifiers = _read_identifiers(folder, facts)
    named = None if identifiers is None else identifiers.texts()
    renderer = StateRenderer.load(folder / "prompts", items, tokenizer, named)
    policy = LanguagePolicy(model, tokenizer, catalogue, renderer, facts["repeat"])
    return Bundle(folder, facts, policy, items, identifiers)


def _read_identifiers(folder: Path, facts: dict[str, Any]) -> Identifiers | None:
    if "identifiers" not in facts:
        return None
    identifiers = Identifiers.load(folder / "identifiers")
    if identifiers.content_hash != facts["identifiers"]:
        raise RunError(f"{folder / 'identifiers'} are not those that {CARD} names; fetch the run folder again.")
    return identifiers


def read_facts(folder: Path) -> dict[str, Any]:
    """The contents of llmrec.json, checked."""
    if not (folder / CARD).is_file():
        raise RunError(f"{folder} is not a run folder ({CARD} is missing); give a folder that `llmrec run` made.")
    facts = read_json(folder / CARD)
    if not isinstance(facts, dict) or facts.get("format") not in FORMATS:
        known = " or ".join(map(str, FORMATS))
        raise RunError(f"{folder / CARD} is not of format {known}; use the llmrec version that wrote it.")
    return facts


def items_from_frame(frame: pl.DataFrame) -> list[Item]:
    """The rows of an items table as `Item`s, in item-index order."""
    return [
        Item(
            row["item_id"],
            row["title"],
            row["description"],
            tuple(row["categories"] or ()),
            row["brand"],
            row["price"],
        )
        for row in frame.iter_rows(named=True)
    ]
