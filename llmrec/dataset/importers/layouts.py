"""Public data sets in the layouts that people have them in: mappings of own tables, one file a data set.

A file under data/layouts holds `about` and `variants`, each a mapping (see `mapping`) in which "|" divides what a
file or a column may be called, and `optional` marks a file that may be absent.

Which layout lies in a folder is told by its files' names, so that a source alone is enough (`recognise`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from llmrec.bounded import SETTINGS, Unpacked, parse_yaml, read_document
from llmrec.dataset.download import recipes_folder
from llmrec.dataset.importers.amazon import is_amazon
from llmrec.dataset.importers.mapping import TABLES
from llmrec.dataset.importers.reading import ReadOptions
from llmrec.dataset.importers.reading.files import PARQUET
from llmrec.dataset.importers.table import import_table
from llmrec.dataset.schema import REQUIRED
from llmrec.dataset.store import MANIFEST, Dataset
from llmrec.errors import DataError
from llmrec.printing import short_line
from llmrec.storage import resolve, shown

Tree = dict[str, Any]
_HEAD = 1 << 16  # bytes of the first line in which columns are looked for
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


@cache
def layout_names() -> tuple[str, ...]:
    """The names of the data sets, in order."""
    return tuple(sorted(path.stem for path in (recipes_folder() / "layouts").glob("*.yaml")))


def import_layout(name: str, source: Path, *, reading: ReadOptions | None = None) -> Dataset:
    """Imports the public data set `name` from its files.

    Args:
        name: One of `layout_names`.
        source: The folder of the files, or the file of events.
        reading: How the files are written, before what the layout says.

    Raises:
        DataError: The files are not there, or cannot be used.
    """
    return import_table(source, layout_tree(name, source), reading=reading)


def layout_tree(name: str, source: Path) -> Tree:
    """The mapping of the public data set `name` for the files that lie at `source`, with whole paths.

    Raises:
        DataError: Files are missing; the sentence names those of the variant that is nearest.
    """
    missing: list[list[str]] = []
    for variant in _variants(name):
        for folder in _folders(source):
            tree, lacking = _placed(variant, folder, source if source.is_file() else None)
            if not lacking:
                return {"name": name, **tree}
            missing.append(lacking)
    nearest = min(missing, key=len)
    names = "; ".join(text.replace("|", " or ") for text in dict.fromkeys(nearest))
    folder = source if source.is_dir() else source.parent
    there = ", ".join(short_line(p.name) for p in sorted(folder.iterdir())[:12])
    raise DataError(f"{source} does not hold the {name} data: it lacks {names} (it has: {there or 'nothing'}).")


def fits_layout(name: str, folder: Path) -> bool:
    """Whether the files of the public data set `name` lie in `folder`, with the columns that they need."""
    placed = (_placed(variant, folder, None) for variant in _variants(name))
    return any(not lacking and _has_columns(tree) for tree, lacking in placed)


def _has_columns(tree: Tree) -> bool:
    """Whether what a table cannot do without stands in the first line of its file, where that holds names."""
    for table, spec in ((name, spec) for name in TABLES for spec in tree.get(name, [])[:1]):
        written = {**tree.get("reading", {}), **spec.get("reading", {})}
        first = None if written.get("header") == "no" else _first_line(Path(spec["file"]))
        wanted = [spec["columns"][n][0] for n in REQUIRED[table] if n in spec["columns"]]
        made = (spec.get("explode") or {}).get("into", [])
        if first is not None and not all(_stands(name, first) for name in wanted if name not in made):
            return False
    return True


@cache
def _variants(name: str) -> tuple[Tree, ...]:
    path = recipes_folder() / "layouts" / f"{name}.yaml"
    return tuple(parse_yaml(read_document(path, SETTINGS), texts=True)["variants"])


def _folders(source: Path) -> Iterator[Path]:
    """The folder itself, then those in it: archives often unpack into one of their own."""
    if source.is_file():
        yield source.parent
        return
    inner = sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith("."))
    yield from (source, *inner[:50], *(p / "data" for p in inner[:50] if (p / "data").is_dir()))


def _placed(variant: Tree, folder: Path, log: Path | None) -> tuple[Tree, list[str]]:
    """The mapping with the files and columns that are there, and the files that are not.

    Args:
        variant: A mapping with alternatives.
        folder: Where its files are looked for.
        log: A file that stands for that of the events, whatever it is called.
    """
    tree, lacking = dict(variant), []
    events = _files(variant, "events")[0]["file"]
    for table in TABLES:
        placed = []
        for spec in _files(variant, table):
            path = log if log is not None and spec["file"] == events else _find(folder, spec["file"])
            if path is not None:
                placed.append(_resolved(spec, path, table))
            elif not spec.get("optional"):
                lacking.append(spec["file"])
        tree.pop(table, None)
        if placed:
            tree[table] = placed
    if not lacking and not any("time" in spec["columns"] for spec in tree["events"]):
        tree.setdefault("order", "file")
    return tree, lacking


def _files(variant: Tree, table: str) -> list[Tree]:
    found = variant.get(table, [])
    return found if isinstance(found, list) else [found]


def _find(folder: Path, names: str) -> Path | None:
    """The first of the alternatives that is there, also gzipped; a pattern that several files fit stays one."""
    for name in names.split("|"):
        for wanted in (name, f"{name}.gz"):
            found = sorted(p for p in folder.glob(wanted) if p.is_file())
            if found:
                return found[0] if len(found) == 1 else folder / wanted
    return None


def _resolved(spec: Tree, path: Path, table: str) -> Tree:
    """One file of a mapping with the names that its columns have in it; of alternatives none may be there."""
    made = {**spec, "file": str(path.resolve())}
    made.pop("optional", None)
    first = _first_line(path)
    columns = {}
    for ours, wanted in spec.get("columns", {}).items():
        several = wanted if isinstance(wanted, list) else [wanted]
        found = [name for name in (_named(text, first) for text in several) if name is not None]
        if found:
            columns[ours] = found
        elif ours in REQUIRED[table] and ours != "time":
            columns[ours] = [text.split("|")[0] for text in several]
    made["columns"] = columns
    if "only" in spec:
        made["only"] = {_named(name, first) or name: pattern for name, pattern in spec["only"].items()}
    return made


def _named(text: str, first: str | None) -> str | None:
    """The alternative that stands in the first line; a name without alternatives is taken as it is."""
    names = text.split("|")
    if len(names) == 1 or first is None:
        return names[0]
    return next((name for name in names if _stands(name, first)), None)


def _stands(name: str, first: str) -> bool:
    return re.search(rf"(?<![\w ]){re.escape(name)}(?![\w ])", first) is not None


def _first_line(path: Path) -> str | None:
    """The first line of a text file, as far as names of columns can be told in it; None for other files."""
    if path.name.lower().endswith(PARQUET):
        return None
    if not path.is_file():
        path = min(path.parent.glob(path.name))
    with path.open("rb") as file:
        try:
            line = next(Unpacked(file, held=False).lines(_HEAD), b"")
        except (ValueError, OSError) as error:
            raise DataError(f"{path} cannot be read: {error}.") from None
    return line.decode("latin-1")


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
