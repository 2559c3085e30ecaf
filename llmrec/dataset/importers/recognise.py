"""Which data set lies in a folder: told by its files' names, so that a source alone is enough."""

from __future__ import annotations

from pathlib import Path

from llmrec.dataset.importers.amazon import is_amazon
from llmrec.dataset.importers.layouts import fits_layout, layout_names
from llmrec.dataset.store import MANIFEST
from llmrec.errors import DataError
from llmrec.storage import resolve, shown

LAYOUTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "movielens": (("u.data", "u.item"), ("ratings.dat", "movies.dat"), ("ratings.csv*", "movies.csv*")),
    "amazon-minionerec": (("items.jsonl*", "users.jsonl*", "train.csv*", "test.csv*"),),
    "complete-journey": (("transactions.csv*", "products.csv*"), ("transactions_sample.csv*", "products.csv*")),
    "hillstrom": (("hillstrom.csv*",), ("Kevin_Hillstrom_MineThatData*.csv*",)),
    "coat": (("train.ascii*", "test.ascii*"),),
    "jester": (("ratings.csv*", "jokes.json"),),
    "open-bandit": (("item_context.csv",), ("random/all/item_context.csv",), ("bts/all/item_context.csv",)),
    "table": (("mapping.yaml",), *((f"events.{ending}",) for ending in ("csv*", "tsv*", "parquet", "jsonl*"))),
}
"""Names of files (patterns of `Path.glob`) by which a layout is known; any one line of names is enough."""


def recognise(source: Path) -> tuple[str, Path]:
    """What `data.dataset` is for the data at `source`, and the place to read.

    Returns:
        "folder" and the data set's folder for what llmrec has saved (a world's data set lies within it), else the
        name of an importer and `source`.

    Raises:
        DataError: nothing is there, or nothing known, or several layouts at once.
    """
    place = resolve(source)
    if not place.exists():
        raise DataError(f"The source {shown(source)} does not exist; give a folder or file that does.")
    if place.is_file():
        if place.suffix in (".yaml", ".yml"):
            return "table", source
        raise DataError(
            f"{shown(source)} is a file of unknown layout; say what it is with --dataset (table: own data)."
        )
    for saved, inner in ((place, source), (place / "dataset", source / "dataset")):
        if (saved / MANIFEST).is_file():
            return "folder", inner
    found = [kind for kind, layouts in LAYOUTS.items() if any(_has(place, names) for names in layouts)]
    public = [name for name in layout_names() if fits_layout(name, place)]
    if public:  # a table called events may be theirs
        found = [kind for kind in found if kind != "table"] + public
    if not found and is_amazon(place):
        found = ["amazon"]
    if len(found) == 1:
        return found[0], source
    what = f"may be {' or '.join(found)}" if found else "holds no data of a known layout"
    raise DataError(f"{shown(source)} {what}; say what it is with --dataset (table: own data with a mapping.yaml).")


def _has(folder: Path, names: tuple[str, ...]) -> bool:
    return all(any(path.is_file() for path in folder.glob(name)) for name in names)
