"""The data stage: a generated world, an imported data set or a saved one, and its split."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmrec.config import RunConfig
from llmrec.dataset.importers import import_dataset
from llmrec.dataset.split import Split, make_split
from llmrec.dataset.store import Dataset
from llmrec.files import entries, read_json, write_json
from llmrec.pipeline.data_check import check_data
from llmrec.pipeline.work import Work, say
from llmrec.storage import resolve, shown

if TYPE_CHECKING:
    from llmrec.dataset.world.world import World

FILES = "source.json"
"""In the stage of an imported data set: the files that it was read from."""


@dataclass(frozen=True, slots=True)
class RunData:
    """The data set of a run, its split and, for a generated world, its truth."""

    dataset: Dataset
    split: Split
    world: World | None = None


def open_data(config: RunConfig, work: Work) -> RunData:
    """Makes or finds the data set of the run in the working folder, splits it and says what is odd about it.

    Raises:
        DataError: the source cannot be read, or cannot be trained on (see `check_data`).
    """
    from llmrec.dataset.world.world import World, generate_world

    kind = config.data.dataset
    if kind == "world":
        key = {"world": config.tree()["world"], "seed": config.seed}

        def generate(out: Path, _: Path) -> None:
            generate_world(config.world, config.seed).save(out / "world")

        world = World.load(work.stage("data", key, generate) / "world")
        return _checked(config, world.dataset, world)
    assert config.data.source is not None  # pipeline.run.check_config
    source = Path(config.data.source)
    if kind == "folder":
        dataset = Dataset.load(source)
        return _checked(config, dataset)

    def read(out: Path, _: Path) -> None:
        import_dataset(kind, source).save(out / "dataset")
        write_json(out / FILES, _files_of(source))

    folder = work.stage("data", {"import": kind, "source": str(resolve(source))}, read)
    changed = _changed(source, folder / FILES)
    if changed:
        say(
            f"{shown(source)} has changed since it was imported ({shown(changed)}); the import of then is used. "
            f"Remove {shown(folder)} to import it again."
        )
    dataset = Dataset.load(folder / "dataset")
    return _checked(config, dataset)


def _files_of(source: Path) -> dict[str, list[int]]:
    """Sizes and times of change of the files at `source`, by their paths within it; runs may lie there too."""
    place = resolve(source)
    names = entries(place) if place.is_dir() else ["."]
    own = [name for name in names if not re.search(r"(^|/)\.[^/]|\.work/", name)]
    states = {name: (place / name).lstat() for name in own}
    return {name: [state.st_size, state.st_mtime_ns] for name, state in states.items()}


def _changed(source: Path, kept: Path) -> str | None:
    """The first file that is not as it was read; a file that came since does not count, it may be anything."""
    if not kept.is_file() or not source.exists():
        return None
    there = _files_of(source)
    return next((name for name, state in read_json(kept).items() if there.get(name) != state), None)


def _checked(config: RunConfig, dataset: Dataset, world: World | None = None) -> RunData:
    data = config.data
    split = make_split(dataset, data.split, data.valid_fraction, data.test_fraction)
    check_data(config, dataset, split)
    return RunData(dataset, split, world)
