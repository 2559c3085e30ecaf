"""The data stage: a generated world, an imported data set or a saved one, and its split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmrec.config import RunConfig
from llmrec.dataset.importers import import_dataset
from llmrec.dataset.split import Split, make_split
from llmrec.dataset.store import Dataset
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
    """Makes or finds the data set of the run in the working folder and splits it.

    Raises:
        DataError: the source cannot be read.
    """
    from llmrec.dataset.world.world import World, generate_world

    kind = config.data.dataset
    if kind == "world":
        key = {"world": config.tree()["world"], "seed": config.seed}

        def generate(out: Path, _: Path) -> None:
            generate_world(config.world, config.seed).save(out / "world")

        world = World.load(work.stage("data", key, generate) / "world")
        return RunData(world.dataset, _split(config, world.dataset), world)
    assert config.data.source is not None  # pipeline.run.check_config
    source = Path(config.data.source)
    if kind == "folder":
        dataset = Dataset.load(source)
        return RunData(dataset, _split(config, dataset))
    key = {"import": kind, "source": str(source.resolve())}
    folder = work.stage("data", key, lambda out, _: import_dataset(kind, source).save(out / "dataset"))
    dataset = Dataset.load(folder / "dataset")
    return RunData(dataset, _split(config, dataset))


def _split(config: RunConfig, dataset: Dataset) -> Split:
    data = config.data
    return make_split(dataset, data.split, data.valid_fraction, data.test_fraction)
