"""Items come and go in a finished run: the model stays as it is, only what it may answer changes.

    bundle = read_bundle(Path("runs/shop"))
    bundle = change_items(bundle, add=[Item("n1", "Cork Yoga Block")], remove=["i17"])
    save_changed(bundle, Path("runs/shop-autumn"))

Items that stay keep their tokens, so at a token choice whose alternatives are the same nothing changes at all. A new
item is scored by what the model knows of its words (titles), or of the items that share its codes (semantic
identifiers). The figures of `metrics.json` are those of the run as it was trained.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from llmrec.catalogue.catalogue import TITLE, Catalogue
from llmrec.catalogue.encode import display_title
from llmrec.catalogue.filters import Attributes
from llmrec.catalogue.identifiers import Identifiers, add_items
from llmrec.config import RunConfig
from llmrec.dataset.schema import SCHEMAS
from llmrec.dataset.validate import validate_items
from llmrec.errors import CatalogueError, RunError
from llmrec.export import CARD, Bundle
from llmrec.files import check_writable, new_folder, sha256_of, write_json
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mean_hidden import TextEncoder
from llmrec.storage import resolve
from llmrec.text.render import StateRenderer
from llmrec.types import Item
from llmrec.written import LIST, handed_on, write_list

WRITTEN_ANEW = ("catalogue", "identifiers", "items.parquet", CARD, LIST)


@dataclass(frozen=True, slots=True)
class _Change:
    """What stays (rising item indices), what goes and what comes."""

    kept_n: npt.NDArray[np.int64]
    gone: tuple[str, ...]
    new: tuple[Item, ...]


def change_items(bundle: Bundle, *, add: Sequence[Item] = (), remove: Collection[str] = ()) -> Bundle:
    """The bundle with other items: first `remove` go, then `add` come, behind those that stay; nothing is trained.

    Kept items keep their tokens and their order. An item in both is replaced. Under semantic identifiers a new item
    gets codes beside the known items with the likest content, by the run's own settings. Where the policy knows a
    stock, items that stay keep theirs and new ones are out of stock until stock is told anew. Weights, model and
    tokenizer are the same objects; `bundle` itself stays as it is.

    Args:
        bundle: a run folder in memory; its files must still be there.
        add: new items.
        remove: ids of items to take out.

    Raises:
        CatalogueError: an id that is there already or given twice, an id to remove that is unknown, no item that
            would be left, an item without a title, an addition under the atomic scheme, or no tie word left.
        ConfigError: the settings by which new items are embedded cannot be used.
        DataError: a text of a new item that is too long or no text, or the vectors that embed new items
            (`identifiers.source`) cannot be used.
        RunError: the run folder is not whole.
    """
    if not add and not remove:
        return bundle
    change = _checked(bundle, add, remove)
    items = [*(bundle.items[n] for n in change.kept_n), *change.new]
    policy, identifiers = bundle.policy, _renamed(bundle, change)
    named = None if identifiers is None else identifiers.texts()
    renderer = StateRenderer.load(bundle.folder / "prompts", items, policy.tokenizer, named)
    catalogue = _relisted(bundle, change, renderer, identifiers)
    changed = LanguagePolicy(policy.model, policy.tokenizer, catalogue, renderer, policy.repeat)
    if policy.filters is not None:
        changed.set_attributes(_attributes(policy.filters.attributes, items))
    facts = _facts(bundle, change, catalogue, identifiers)
    return Bundle(bundle.folder, facts, changed, items, identifiers)


def repriced(bundle: Bundle, prices: Mapping[str, float | None]) -> Bundle:
    """The bundle with other prices of some items, by id; stock stays. `bundle` itself stays as it is.

    Raises:
        CatalogueError: an id that the catalogue does not have.
    """
    known = {item.item_id for item in bundle.items}
    for item_id in prices:
        if item_id not in known:
            raise CatalogueError(f"Item {item_id!r} cannot be priced: the catalogue has no such item.")
    items = [replace(i, price=prices[i.item_id]) if i.item_id in prices else i for i in bundle.items]
    policy, named = bundle.policy, None if bundle.identifiers is None else bundle.identifiers.texts()
    renderer = StateRenderer.load(bundle.folder / "prompts", items, policy.tokenizer, named)
    changed = LanguagePolicy(policy.model, policy.tokenizer, policy.catalogue, renderer, policy.repeat)
    attributes = Attributes.of(items) if policy.filters is None else _attributes(policy.filters.attributes, items)
    changed.set_attributes(attributes)
    return Bundle(bundle.folder, bundle.facts, changed, items, bundle.identifiers)


def save_changed(bundle: Bundle, out: Path, write_weights: Callable[[Path], None] | None = None) -> None:
    """Writes a changed bundle as a run folder of its own, whole or not at all.

    Catalogue, identifiers, items and `llmrec.json` are the bundle's; the other files of a run are copied from
    `bundle.folder`, and a person's own beside them are not. `write_weights` writes other weights into the new folder.

    Raises:
        RunError: `out` exists, lies within the run folder, or cannot be written.
    """
    check_free(bundle.folder, out)
    try:
        with new_folder(out) as folder:
            for name in handed_on(bundle.folder):
                if name.split("/")[0] not in WRITTEN_ANEW:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(bundle.folder / name, folder / name)
            bundle.policy.catalogue.save(folder / "catalogue")
            if bundle.identifiers is not None:
                bundle.identifiers.save(folder / "identifiers")
            items_frame(bundle.items).write_parquet(folder / "items.parquet")
            write_json(folder / CARD, bundle.facts)
            if write_weights is not None:
                write_weights(folder)
            write_list(folder)
    except OSError as error:
        raise RunError(
            f"{out} cannot be written ({' '.join(str(error).split())[:120]}); name another place."
        ) from None


def check_free(run: Path, out: Path) -> None:
    """Raises `RunError` where `out` exists, lies within the folder `run` or cannot be made."""
    place = resolve(out)
    if place.exists() or out.is_symlink():
        raise RunError(f"{out} exists already; name a new folder for the changed run.")
    if place.is_relative_to(resolve(run)):
        raise RunError(f"{out} lies within the run folder {run}; name a folder beside it.")
    check_writable(place)


def items_frame(items: Sequence[Item]) -> pl.DataFrame:
    """Items as the rows of an items table; `export.items_from_frame` reads them back."""
    rows = [(i.item_id, i.title, i.description, list(i.categories), i.brand, i.price) for i in items]
    return pl.DataFrame(rows, schema=SCHEMAS["items"], orient="row")


def hash_of_ids(item_ids: Sequence[str]) -> str:
    """SHA-256 of item ids in their order."""
    return sha256_of(*item_ids)


def _checked(bundle: Bundle, add: Sequence[Item], remove: Collection[str]) -> _Change:
    place_of = {item.item_id: n for n, item in enumerate(bundle.items)}
    gone = tuple(dict.fromkeys(remove))
    for item_id in gone:
        if item_id not in place_of:
            raise CatalogueError(f"Item {item_id!r} cannot be removed: the catalogue has no such item.")
    if len(gone) == len(place_of):
        raise CatalogueError("All items would be removed; a catalogue needs at least one item that stays.")
    known = place_of.keys() - set(gone)
    for item in add:
        if not item.item_id:
            raise CatalogueError(f"The new item {item.title[:60]!r} has an empty id; give it one.")
        if item.item_id in known:
            raise CatalogueError(
                f"Item {item.item_id!r} is in the catalogue already; give the new item another id, or remove the old."
            )
        if not display_title(item.title):
            raise CatalogueError(f"The new item {item.item_id!r} has no title; give it one.")
    twice = _first_repeated(add)
    if twice is not None:
        raise CatalogueError(f"Item {twice!r} is to be added twice; give each new item an id of its own.")
    if add:
        validate_items(items_frame(add))
    # rising, so that items which stay keep their order and with it every tie
    kept = np.delete(np.arange(len(place_of)), [place_of[item_id] for item_id in gone])
    return _Change(kept, gone, tuple(add))


def _first_repeated(items: Sequence[Item]) -> str | None:
    seen: set[str] = set()
    for item in items:
        if item.item_id in seen:
            return item.item_id
        seen.add(item.item_id)
    return None


def _renamed(bundle: Bundle, change: _Change) -> Identifiers | None:
    """The identifiers of the changed items; None where items are written by their titles."""
    if bundle.identifiers is None:
        return None
    left = bundle.identifiers.removed(change.kept_n)
    if not change.new:
        return left
    if left.scheme == "atomic":
        raise CatalogueError(
            f"Item {change.new[0].item_id!r} cannot be added: the run writes items by identifiers.scheme: atomic, "
            "where a new item needs a new word and training; train anew with titles or semantic identifiers."
        )
    config = RunConfig.read(bundle.folder / "config.yaml")
    items = [bundle.items[n] for n in change.kept_n]
    encode = TextEncoder(bundle.policy.model, bundle.policy.tokenizer)
    return add_items(left, config.identifiers, items, change.new, seed=config.seed, encode=encode)


def _relisted(bundle: Bundle, change: _Change, renderer: StateRenderer, identifiers: Identifiers | None) -> Catalogue:
    """The catalogue of the changed items, by linear changes of the one that is there."""
    catalogue, tokenizer = bundle.policy.catalogue.removed(change.gone), bundle.policy.tokenizer
    ids = [item.item_id for item in change.new]
    titles = [renderer.wording.item_title(item) for item in change.new]
    if catalogue.scheme == TITLE:
        return catalogue.added(ids, titles, tokenizer)
    assert identifiers is not None
    return catalogue.with_sequences(ids, titles, identifiers.tokens(tokenizer)[len(change.kept_n) :], tokenizer)


def _attributes(known: Attributes, items: Sequence[Item]) -> Attributes:
    if known.stock_N is None:
        return Attributes.of(items)
    stocked = [id_ for i in items if (id_ := i.item_id) in known.item_index and known.stock_N[known.item_index[id_]]]
    return Attributes.of(items, stocked)


def _facts(bundle: Bundle, change: _Change, catalogue: Catalogue, identifiers: Identifiers | None) -> dict[str, Any]:
    before = bundle.facts.get("assortment", {})
    assortment = {
        "added": before.get("added", 0) + len(change.new),
        "removed": before.get("removed", 0) + len(change.gone),
        # of the items before the first change of all: by it the data set of the run is known again
        "first_items": before.get("first_items") or hash_of_ids(bundle.policy.catalogue.item_ids),
    }
    named = {} if identifiers is None else {"identifiers": identifiers.content_hash}
    return {**bundle.facts, "catalogue": catalogue.content_hash, **named, "assortment": assortment}
