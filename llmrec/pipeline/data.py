"""The data stage: a generated world, an imported data set or a saved one, its split, and what its check knows.

Remarks of the check are said as lines before the first stage; what stops a run is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmrec.config import RunConfig
from llmrec.dataset.authorship import check_texts
from llmrec.dataset.check import Finding, check, check_links, check_signals
from llmrec.dataset.importers import IMPORTERS, import_dataset
from llmrec.dataset.linking import Funnel
from llmrec.dataset.split import PARTS, Part, Split, check_fractions, make_split
from llmrec.dataset.store import Dataset
from llmrec.dataset.withheld import Withheld, check_withheld, withhold
from llmrec.errors import ConfigError, DataError
from llmrec.files import entries, read_json, write_json
from llmrec.pipeline.recipes import worldly
from llmrec.pipeline.work import Work, is_first, say
from llmrec.printing import one_line
from llmrec.storage import resolve, shown
from llmrec.text.cards import check_cards

if TYPE_CHECKING:
    from llmrec.dataset.world.world import World

FILES = "source.json"
"""In the stage of an imported data set: the files that it was read from."""

_LONGEST = 400


@dataclass(frozen=True, slots=True)
class RunData:
    """The data set of a run, its split and, for a generated world, its truth.

    Where items are withheld, data set, split and world hold no event of theirs; `withheld` does.
    """

    dataset: Dataset
    split: Split
    world: World | None = None
    withheld: Withheld | None = None


def check_source(config: RunConfig) -> None:
    """Refuses, before anything is made, a source that is missing or not read, and numbers that cannot be.

    Raises:
        ConfigError: a key below `data` or `text`.
    """
    data = config.data
    if data.dataset == "world" and data.source is not None:
        raise ConfigError(worldly(data.source))
    if data.dataset != "world":
        if data.dataset not in ("folder", *IMPORTERS):
            raise ConfigError(
                f"Data set {data.dataset!r} (data.dataset) is unknown; choose world, folder (what `llmrec data "
                f"import` wrote) or an importer: {', '.join(IMPORTERS)}."
            )
        if data.source is None:
            raise ConfigError(f"Data set {data.dataset!r} needs a source; give --source with its folder or file.")
        if not Path(data.source).exists():
            raise ConfigError(f"The source {data.source} does not exist; give a folder or file that does.")
    if data.split == "time":
        check_fractions(data.valid_fraction, data.test_fraction, "data.")
    if data.link_window < 0:
        raise ConfigError(f"Key 'data.link_window' is {data.link_window}, but it must be 0 or more seconds.")
    for key, value in (("data.history_events", data.history_events), ("text.max_tokens", config.text.max_tokens)):
        if value < 1:
            raise ConfigError(f"Key {key!r} is {value}, but it must be at least 1.")
    check_withheld(data.withheld)
    check_cards(config.text.card, config.text.max_tokens)


def open_data(config: RunConfig, work: Work) -> RunData:
    """Makes or finds the data set of the run in the working folder, splits it and says what is odd about it.

    Raises:
        DataError: the source cannot be read, or cannot be trained on (see `check_data`).
    """
    from llmrec.dataset.world.world import WORLD_FORMAT, World, generate_world

    kind = config.data.dataset
    if kind == "world":
        key = {"world": config.tree()["world"], "seed": config.seed, "format": WORLD_FORMAT}

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
    check_texts(dataset, split, withheld=bool(data.withheld.test))
    withheld = None
    if data.withheld.test:
        dataset, split, withheld = withhold(dataset, split, data.withheld, config.seed)
        if world is not None:
            world = world.with_dataset(dataset)
    check_data(config, dataset, split)
    return RunData(dataset, split, world, withheld)


def check_data(config: RunConfig, dataset: Dataset, split: Split) -> None:
    """Prints a line for each warning of `check` and for how feedback hangs together.

    Conversions that no click leads to are an error only where the reward counts conversions.

    Raises:
        DataError: the data set, or its training part, cannot be trained on.
    """
    window = config.data.link_window
    training = Funnel.of(dataset, split.train, window)
    look = check if is_first() else check_signals  # errors, which all processes must see, are of the signals alone
    findings = look(dataset, link_window=window)
    findings += [f for f in check_links(training, "of the training part ") if f.severity == "error"]
    errors = [f for f in findings if f.severity == "error" and _stops(config, f)]
    for finding in findings:
        if finding.severity != "info" and finding not in errors:
            say(
                one_line(
                    f"warning: {finding.rule}, {finding.count:,} in {finding.table}: {finding.meaning}.", _LONGEST
                )
            )
    if errors:
        mend = " (or give --set reward.conversion=0)" if errors[0].rule == "unlinked-conversions" else ""
        raise DataError(f"{dataset.manifest.name!r} cannot be trained on: {errors[0].meaning}{mend}.")
    say(f"feedback of the training part: {training}.", style="dim")


def _stops(config: RunConfig, finding: Finding) -> bool:
    return finding.rule != "unlinked-conversions" or config.reward.conversion != 0


def funnels(config: RunConfig, dataset: Dataset, split: Split) -> dict[Part, Funnel]:
    """How far the feedback of each part of the split hangs together."""
    return {part: Funnel.of(dataset, split.part(part), config.data.link_window) for part in PARTS}
