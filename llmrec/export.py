"""The run folder: everything that a stranger needs to recommend, and no user's rows.

llmrec.json   what it is: format, domain, language, repeats, wording, base model, data set's name and hash
config.json + model.safetensors, or adapter_config.json + adapter_model.safetensors; the tokenizer's files
quantised.safetensors, decoder.onnx + head.safetensors, model.gguf     in their place, by `llmrec export`
catalogue/ items.parquet prompts/     the items, as tokens and as text, and the wording of states
identifiers/                          what items are called, where they are written in words of their own
config.yaml metrics.json README.md    how it was made, what it scored, the model card
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
import yaml

from llmrec.bounded import check_parquet, read_parquet
from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.encode import display_title
from llmrec.catalogue.identifiers import Identifiers
from llmrec.config import RunConfig
from llmrec.dataset.manifest import Signal
from llmrec.dataset.schema import cast_table
from llmrec.dataset.store import Dataset, Manifest
from llmrec.dataset.validate import validate_items
from llmrec.errors import CatalogueError, DataError, RunError
from llmrec.files import read_json, write_json, write_text
from llmrec.policy import onnx_model, quantised
from llmrec.policy.adapters import load_adapter_onto
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.loading import check_vocabulary, is_local, load_causal_lm, load_tokenizer, save_causal_lm
from llmrec.policy.saved import check_documents, check_sizes
from llmrec.printing import one_line, short_line
from llmrec.progress import console
from llmrec.storage import shown
from llmrec.text.render import StateRenderer
from llmrec.types import Item
from llmrec.version import __version__
from llmrec.written import LIST, check_written, intact

if TYPE_CHECKING:
    from llmrec.training.lora import Adapter

FORMATS = (1, 2, 3)
"""2 is 1 with identifiers, 3 has weights in another form, which an older llmrec would not look for."""
CONVERTED = ("int8", "int4", "onnx", "gguf")
"""Forms of weights that `llmrec export` writes."""
GGUF_FILE = "model.gguf"
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
    lineage: Mapping[str, Any] | None = None,
    rewarded: bool = True,
) -> None:
    """Writes the run folder's files into `folder`, which exists; the caller renames it into place.

    `identifiers` are those that the policy's catalogue was built from; None where items are written by their titles.
    `lineage` says which run was gone on with, where one was. `rewarded` says whether the policy learnt from the
    reward, or is the warm start.
    """
    if weights.adapter is None:
        save_causal_lm(weights.model, policy.tokenizer, folder)
    else:
        # PEFT put in the path that the model was loaded from here, which is of no use to anybody else
        base = weights.base or ""
        weights.adapter.config.base_model_name_or_path = Path(base).name if is_local(base) else base
        weights.adapter.config.revision = weights.revision
        weights.adapter.save(folder)
        policy.tokenizer.save_pretrained(folder)
    policy.catalogue.save(folder / "catalogue")
    if identifiers is not None:
        identifiers.save(folder / "identifiers")
    assert isinstance(policy.renderer, StateRenderer)
    policy.renderer.save(folder / "prompts")
    dataset.items.write_parquet(folder / "items.parquet")
    facts = _facts(weights, dataset.manifest, config, policy, identifiers) | _stated(config, rewarded)
    write_json(folder / CARD, facts if lineage is None else {**facts, "lineage": dict(lineage)})
    write_json(folder / "metrics.json", dict(metrics))
    write_text(folder / "config.yaml", yaml.safe_dump(config.tree(), sort_keys=False, allow_unicode=True))
    write_text(folder / "README.md", card)


def _facts(
    weights: Weights, manifest: Manifest, config: RunConfig, policy: LanguagePolicy, identifiers: Identifiers | None
) -> dict[str, Any]:
    assert isinstance(policy.renderer, StateRenderer)
    named = {} if identifiers is None else {"scheme": identifiers.scheme, "identifiers": identifiers.content_hash}
    return {
        "format": FORMATS[0] if identifiers is None else FORMATS[1],
        "llmrec": __version__,
        "domain": manifest.domain,
        "language": policy.renderer.language,
        "repeat": manifest.repeat,
        "liked": Signal.parse(manifest.click).kind,
        "history_events": config.data.history_events,
        "weights": "full" if weights.adapter is None else "adapter",
        "base": weights.base,
        "base_revision": weights.revision,
        "catalogue": policy.catalogue.content_hash,
        **named,
        "dataset": {"name": manifest.name, "content_hash": manifest.content_hash, "proxy": manifest.proxy},
    }


def _stated(config: RunConfig, rewarded: bool) -> dict[str, Any]:
    """The terms whose weights a state may ask for, and whether the policy was rewarded for following them."""
    names = list(config.reward.stated)
    return {"stated": {"terms": names, "rewarded": rewarded}} if names else {}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A run folder in memory."""

    folder: Path
    facts: dict[str, Any]
    policy: LanguagePolicy
    items: list[Item]
    identifiers: Identifiers | None = None


def read_bundle(folder: Path, engine: Callable[[Path], Any] | None = None) -> Bundle:
    """Loads a run folder; nothing in it is trusted.

    Args:
        folder: the run folder.
        engine: gives what stands for the model (`policy.engine.Engine`), in place of the weights, which are not read.

    Raises:
        RunError: `folder` is not a run folder, was written by a newer version, is damaged, holds a file that was
            changed since it was written, or its parts do not fit together.
        ConfigError: a template that cannot be used.
    """
    facts = _read_written(folder)
    tokenizer, model = _read_model(folder, facts, engine)
    catalogue = _read_catalogue(folder, facts, tokenizer)
    items = _read_items(folder / "items.parquet", catalogue)
    with intact(folder / "identifiers"):
        identifiers = _read_identifiers(folder, facts)
        named = None if identifiers is None else identifiers.texts()
    if named is not None and len(named) != len(items):
        raise RunError(f"{folder / 'identifiers'} names {len(named)} items of {len(items)}; fetch the folder again.")
    with intact(folder / "prompts"):
        renderer = StateRenderer.load(folder / "prompts", items, tokenizer, named)
    _check_titles(folder, catalogue, renderer)
    with intact(folder):
        policy = LanguagePolicy(model, tokenizer, catalogue, renderer, facts["repeat"])
    return Bundle(folder, facts, policy, items, identifiers)


def read_items(folder: Path) -> tuple[Catalogue, list[Item]]:
    """Catalogue and items of a run folder alone: for an engine that has loaded the model itself.

    Raises:
        RunError: see `read_bundle`.
    """
    catalogue = _read_catalogue(folder, _read_written(folder))
    return catalogue, _read_items(folder / "items.parquet", catalogue)


def _read_written(folder: Path) -> dict[str, Any]:
    """llmrec.json, of a folder whose files are as they were written."""
    facts = read_facts(folder)
    # before anything is parsed: what was changed since it was written is not even opened
    if not check_written(folder):
        console.print(
            f"{shown(folder)} has no {LIST}: whether its files are as they were is not known.",
            style="dim",
            soft_wrap=True,
        )
    return facts


def _read_catalogue(folder: Path, facts: dict[str, Any], tokenizer: Any = None) -> Catalogue:
    """The catalogue, which must be the one that llmrec.json names, and fit the tokenizer where one is given."""
    with intact(folder / "catalogue"):
        catalogue = Catalogue.load(folder / "catalogue")
    if tokenizer is not None:
        try:
            catalogue.check_tokenizer(tokenizer)
        except CatalogueError as error:
            raise RunError(f"{folder / 'catalogue'} does not fit the tokenizer beside it: {error}") from None
    if catalogue.content_hash != facts["catalogue"]:
        raise RunError(f"{folder / 'catalogue'} is not the catalogue that {CARD} names; fetch the run folder again.")
    return catalogue


def _read_model(folder: Path, facts: dict[str, Any], engine: Callable[[Path], Any] | None) -> tuple[Any, Any]:
    """Tokenizer and model, an adapter merged where that rounds nothing."""
    check_documents(folder)
    form = facts["weights"]
    if form in _SIZED:
        check_sizes(folder, _SIZED[form])
    with intact(folder / "tokenizer.json"):
        tokenizer = load_tokenizer(str(folder))
    if engine is not None:
        model = engine(folder)
    elif form == "adapter":
        base = load_causal_lm(facts["base"], revision=facts["base_revision"])
        with intact(folder / "adapter_config.json"):
            model = load_adapter_onto(base, folder, tokenizer)
            if base.dtype == torch.float32:  # in bfloat16 merging rounds log pi by up to 0.1
                model = model.merge_and_unload().eval()
    elif form == "gguf":
        model = load_causal_lm(str(folder / GGUF_FILE))
    elif form == "onnx":
        with intact(folder / onnx_model.FILE):
            model = onnx_model.load_onnx(folder)
    elif form == "full":
        with intact(folder / "config.json"):
            model = load_causal_lm(str(folder), whole=True)
    else:
        with intact(folder / quantised.FILE):
            model = quantised.load_quantised(folder)
    check_vocabulary(str(folder), tokenizer, len(model.get_input_embeddings().weight))
    return tokenizer, model


_SIZED = {"full": "model*.safetensors", "int8": quantised.FILE, "int4": quantised.FILE}
"""Where the sizes of weights stand that a configuration is held against."""


def _read_items(path: Path, catalogue: Catalogue) -> list[Item]:
    """The items, which must be those of the catalogue in its order."""
    try:
        check_parquet(path, rows=len(catalogue))
        frame = cast_table(read_parquet(path), "items")
    except FileNotFoundError:
        raise RunError(f"{path} does not exist; fetch the run folder again.") from None
    except (ValueError, OSError, DataError) as error:
        raise RunError(f"{path} cannot be used: {one_line(error, 200)}; fetch the run folder again.") from None
    # Rows are item indices: one row in another place would show every later answer under a wrong title.
    if list(catalogue.item_ids) != frame["item_id"].to_list() or frame["title"].null_count():
        raise RunError(f"{path} does not hold the items of the catalogue beside it; fetch the run folder again.")
    validate_items(frame)
    return items_from_frame(frame)


def _check_titles(folder: Path, catalogue: Catalogue, renderer: StateRenderer) -> None:
    """Refuses titles of the table that are not those of the catalogue: an answer would name another item."""
    for shown_title, title in zip(catalogue.titles, renderer.titles, strict=True):
        own = display_title(title)
        if shown_title != own and not shown_title.startswith(f"{own} ("):
            raise RunError(
                f"{folder / 'items.parquet'} has the title {short_line(own)!r} where the catalogue has "
                f"{short_line(shown_title)!r}; fetch the run folder again."
            )


def _read_identifiers(folder: Path, facts: dict[str, Any]) -> Identifiers | None:
    if "identifiers" not in facts:
        return None
    identifiers = Identifiers.load(folder / "identifiers")
    if identifiers.content_hash != facts["identifiers"]:
        raise RunError(f"{folder / 'identifiers'} are not those that {CARD} names; fetch the run folder again.")
    return identifiers


def read_facts(folder: Path) -> dict[str, Any]:
    """The contents of llmrec.json, checked.

    Raises:
        RunError: there is none, it is of another format, or a key is missing or of a wrong kind.
    """
    if not (folder / CARD).is_file():
        raise RunError(f"{folder} is not a run folder ({CARD} is missing); give a folder that `llmrec run` made.")
    facts: Any = read_json(folder / CARD)
    number = facts.get("format") if isinstance(facts, dict) else None
    if not isinstance(number, int) or number not in FORMATS:
        known = " or ".join(map(str, FORMATS))
        raise RunError(f"{folder / CARD} is not of format {known}; use the llmrec version that wrote it.")
    for key, fits in _FACTS.items():
        if not fits(facts.get(key)):
            raise RunError(f"Key {key!r} in {folder / CARD} is missing or of a wrong kind; fetch the folder again.")
    if facts["weights"] == "adapter" and not isinstance(facts["base"], str):
        raise RunError(f"Key 'base' in {folder / CARD} names no model for the adapter; fetch the folder again.")
    return dict(facts)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _may_be_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def _is_stated(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("rewarded"), bool):
        return False
    terms = value.get("terms")
    return isinstance(terms, list) and bool(terms) and all(map(_is_text, terms))


_FACTS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("domain", "language", "liked", "catalogue"), _is_text),
    "repeat": ("allow", "exclude").__contains__,
    "weights": ("full", "adapter", *CONVERTED).__contains__,
    "base": _may_be_text,
    "base_revision": _may_be_text,
    "history_events": _is_count,
    "stated": lambda value: value is None or _is_stated(value),
    "identifiers": _may_be_text,
    **dict.fromkeys(("assortment", "lineage"), lambda value: value is None or isinstance(value, dict)),
    "dataset": lambda value: isinstance(value, dict) and isinstance(value.get("name"), str),
}
"""What each key of llmrec.json must be; `identifiers`, `stated` and `assortment` may be absent."""


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
