"""The data stage: a generated world, an imported data set or a saved one, and its split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmrec.config import RunConfig
from llmrec.dataset.importers import import_dataset
from llmrec.dataset.split import Split, make_split
from llmrec.dataset.store import Dataset
from llmrec.pipeline.data_check import check_data
from llmrec.pipeline.work import Work

if TYPE_CHECKING:
    from llmrec.dataset.world.world import World


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
    key = {"import": kind, "source": str(source.resolve())}
    folder = work.stage("data", key, lambda out, _: import_dataset(kind, source).save(out / "dataset"))
    dataset = Dataset.load(folder / "dataset")
    return _checked(config, dataset)


def _checked(config: RunConfig, dataset: Dataset, world: World | None = None) -> RunData:
    data = config.data
    split = make_split(dataset, data.split, data.valid_fraction, data.test_fraction)
    check_data(config, dataset, split)
    return RunData(dataset, split, world)
