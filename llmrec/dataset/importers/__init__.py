"""Importers: public or own data sets from files at hand: a module each, or a mapping under data/layouts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from llmrec.dataset.importers.amazon import import_amazon
from llmrec.dataset.importers.coat import import_coat
from llmrec.dataset.importers.complete_journey import import_complete_journey
from llmrec.dataset.importers.hillstrom import import_hillstrom
from llmrec.dataset.importers.jester import import_jester
from llmrec.dataset.importers.layouts import import_layout, layout_names
from llmrec.dataset.importers.minionerec import import_minionerec
from llmrec.dataset.importers.movielens import import_movielens
from llmrec.dataset.importers.open_bandit import import_open_bandit
from llmrec.dataset.importers.table import import_table
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, DataError

__all__ = [
    "IMPORTERS",
    "import_amazon",
    "import_coat",
    "import_complete_journey",
    "import_dataset",
    "import_hillstrom",
    "import_jester",
    "import_layout",
    "import_minionerec",
    "import_movielens",
    "import_open_bandit",
    "import_table",
]

IMPORTERS: dict[str, Callable[..., Dataset]] = {
    "movielens": import_movielens,
    "amazon": import_amazon,
    "amazon-minionerec": import_minionerec,
    "complete-journey": import_complete_journey,
    "hillstrom": import_hillstrom,
    "coat": import_coat,
    "jester": import_jester,
    "open-bandit": import_open_bandit,
    "table": import_table,
    **{name: partial(import_layout, name) for name in layout_names()},
}


def import_dataset(kind: str, source: Path | str, **options: Any) -> Dataset:
    """Imports the files at `source` (a folder or file) by the importer called `kind`.

    Args:
        kind: A key of `IMPORTERS`.
        source: Where the files are.
        options: Passed on to the importer; see its own arguments.

    Raises:
        ConfigError: `kind` is unknown.
        DataError: The files are missing or cannot be used.
    """
    if kind not in IMPORTERS:
        raise ConfigError(f"Importer {kind!r} is unknown; choose one of {', '.join(IMPORTERS)}.")
    return IMPORTERS[kind](check_source(kind, source), **options)


def check_source(kind: str, source: Path | str) -> Path:
    """The path of the files of a data set; raises `DataError` where there is nothing."""
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist; give the folder or file that holds the {kind} data.")
    return path
