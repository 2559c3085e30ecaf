"""What a table is measured on: a data set, its split, and the two moments at which systems are fitted.

Settings are chosen by fitting on the training part and ranking the validation rows. The chosen settings are then
fitted anew on everything before the test period (or stay as they are, `Protocol.refit`) and rank the test rows, once.
No event of the test period trains.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from llmrec.config import RunConfig
from llmrec.config_tree import Overrides
from llmrec.dataset.examples import Examples, examples
from llmrec.dataset.importers import import_dataset
from llmrec.dataset.split import PARTS, Part, make_split
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, DataError
from llmrec.pipeline.data import RunData
from llmrec.pipeline.recipes import recipes_root
from llmrec.pipeline.work import Work
from llmrec.text.wording import SECONDS_A_DAY

FOLDER = "folder"
SplitName = Literal["time", "leave-last-out", "given"]
Moment = Literal["before", "after"]
"""The validation rows, or the test rows: what is fitted knows what comes before them."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one data set becomes a table.

    Attributes:
        name: by which the command line calls it.
        importer: a key of `IMPORTERS`; `options` are its keyword arguments.
        split: which events are the training, validation and test part.
        history_events: how many interactions a state keeps.
        valid_rows: a uniform sample of so many validation rows decides settings; None takes all.
        test_rows: the same for the rows that are reported.
        recipe: of the language-model policy, in `train/recipes`; "" stands for the default settings.
        pretrained: the recipe of a pretrained model, where the table is asked for one; "" where there is none.
        profiles: whether users have profiles, which the recipe then shows in the state.
        note: one sentence for below the table.
        folder: of the original files, where it is not called as the protocol.
        span: seconds within which events have no order: times are those of the beginnings of spans, and a state holds
            what lies in earlier ones. 1 takes the times as they are.
        refit: whether what ranks the test rows is fitted anew on the validation part, too; without, it is what was
            fitted on the training part alone, which costs half (a policy that takes hours is trained once).
    """

    name: str
    importer: str
    options: tuple[tuple[str, str], ...] = ()
    split: SplitName = "time"
    history_events: int = 20
    valid_rows: int | None = None
    test_rows: int | None = None
    recipe: str = ""
    pretrained: str = ""
    profiles: bool = False
    note: str = ""
    folder: str = ""
    span: int = 1
    refit: bool = True

    @property
    def recipe_file(self) -> Path | None:
        """The file of the recipe; None where there is none, so that defaults serve."""
        return _file_of(self.recipe)

    @property
    def pretrained_file(self) -> Path | None:
        """The file of a pretrained model's recipe; None where there is none."""
        return _file_of(self.pretrained)


def _file_of(recipe: str) -> Path | None:
    return recipes_root() / f"{recipe}.yaml" if recipe else None


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="amazon-industrial",
            importer="amazon-minionerec",
            split="given",
            history_events=10,
            recipe="table-amazon-industrial",
            pretrained="smollm2-135m-amazon",
            note="The published rows, a day's events in the order of the file; repeats may be recommended.",
        ),
        Protocol(
            name="amazon-industrial-days",
            importer="amazon-minionerec",
            split="given",
            history_events=10,
            recipe="table-amazon-industrial",
            note="The published targets after what was bought on earlier days: a day has no order; repeats may be "
            "recommended.",
            folder="amazon-industrial",
            span=SECONDS_A_DAY,
        ),
        Protocol(
            name="movielens-100k",
            importer="movielens",
            valid_rows=2000,
            test_rows=4000,
            recipe="table-movielens-100k",
            pretrained="smollm2-135m-movielens",
            profiles=True,
            note="Global time cut 70/10/20; films that a user has rated are not recommended again.",
        ),
        Protocol(
            name="complete-journey",
            importer="complete-journey",
            options=(("level", "type"),),
            valid_rows=2000,
            test_rows=4000,
            recipe="table-complete-journey",
            profiles=True,
            note="Product types; global time cut 70/10/20; repeats may be recommended.",
        ),
    )
}


def protocol_of(name: str, split: SplitName | None = None) -> Protocol:
    """The protocol called `name`, or that of any saved data set (folder) under `split` (time by default).

    Raises:
        ConfigError: there is none, or it has a split of its own.
    """
    if name == FOLDER:
        note = f"A saved data set, split by {split or 'time'}; the policy has the default settings."
        return Protocol(name=name, importer=FOLDER, split=split or "time", note=note)
    if name not in PROTOCOLS:
        raise ConfigError(f"There is no table of {name!r}; choose one of {', '.join(PROTOCOLS)} or {FOLDER}.")
    if split is not None:
        raise ConfigError(f"The table of {name!r} has the split {PROTOCOLS[name].split}; leave --split out.")
    return PROTOCOLS[name]


@dataclass(frozen=True, slots=True)
class TableData:
    """An open table.

    `before` is the data with the training part as it is, and ranks `valid`; `after` counts the validation part into
    the training part (where the protocol fits anew), and ranks `test`. `folder` holds the imported data set. With
    `finished_only` what is not finished is refused and never made.
    """

    protocol: Protocol
    before: RunData
    after: RunData
    valid: Examples
    test: Examples
    folder: Path
    finished_only: bool = False

    @property
    def dataset(self) -> Dataset:
        """The data set."""
        return self.before.dataset

    def rows(self, moment: Moment) -> tuple[RunData, Examples]:
        """What is learnt from, and what is then ranked."""
        return (self.before, self.valid) if moment == "before" else (self.after, self.test)

    def fitting(self, moment: Moment) -> Moment:
        """The first moment at which the same is learnt from: `before` for both where nothing is fitted anew."""
        return moment if self.protocol.refit else "before"

    def work(self, folder: Path) -> Work:
        """Stages of the table in `folder`."""
        return Work(folder, finished_only=self.finished_only)

    def config(self, overrides: Overrides | None = None, seed: int = 0, recipe: Path | None = None) -> RunConfig:
        """The run of a language-model policy on this data set: a recipe (the protocol's) with overrides."""
        protocol = self.protocol
        own = {
            "data.dataset": "folder",
            "data.source": self.folder,
            "data.split": protocol.split,
            "data.history_events": protocol.history_events,
            "seed": seed,
        }
        return RunConfig.read(recipe or protocol.recipe_file, {**own, **(overrides or {})})


def open_table(
    protocol: Protocol, source: Path | None, out: Path, limit: int | None = None, *, finished_only: bool = False
) -> TableData:
    """Imports the data set (once) and makes its rows.

    Args:
        protocol: what is measured.
        source: folder of the original files (or of the saved data set); by default LLMREC_DATA/NAME.
        out: the imported data set is kept here.
        limit: at most so many validation and test rows, for a quick look.
        finished_only: make nothing, now and later: what is not finished in `out` is refused.

    Raises:
        DataError: no files, or a part without rows.
    """
    place = source or _default_source(protocol.folder or protocol.name)
    key = {"importer": protocol.importer, "options": protocol.options, "source": str(place.resolve())}

    def build(folder: Path, _: Path) -> None:
        found = (
            Dataset.load(place)
            if protocol.importer == FOLDER
            else import_dataset(protocol.importer, place, **dict(protocol.options))
        )
        found.save(folder / "dataset")

    folder = Work(out, finished_only=finished_only).stage("data", key, build) / "dataset"
    dataset = Dataset.load(folder)
    split = make_split(dataset, protocol.split)
    valid, test = (
        examples(dataset, split, part, history_events=protocol.history_events, limit=_least(rows, limit))
        for part, rows in _limits(protocol)
    )
    for part, found in (("validation", valid), ("test", test)):
        if not len(found):
            raise DataError(f"The {part} part of {protocol.name} has no row to rank; give the whole data set.")
    if protocol.span > 1:
        valid, test = (_coarsely(found, protocol.span) for found in (valid, test))
        events = _spans(dataset.events, protocol.span)
        dataset = Dataset(dataset.items, dataset.users, events, dataset.manifest, dataset.rows)
        train, late, last = (_spans(split.part(part), protocol.span) for part in PARTS)
        split = dataclasses.replace(split, train=train, valid=late, test=last)
    before = RunData(dataset, split)
    whole = dataclasses.replace(split, train=split.until("valid")) if protocol.refit else split
    after = dataclasses.replace(before, split=whole)
    return TableData(protocol, before, after, valid, test, folder, finished_only)


def _spans(events: pl.DataFrame, span: int) -> pl.DataFrame:
    """The events at the beginnings of their spans, without an order of their own."""
    coarse = events.with_columns(pl.col("time") // span * span)
    return coarse.with_columns(pl.lit(None, pl.Int64).alias("order")) if "order" in events.columns else coarse


def _coarsely(found: Examples, span: int) -> Examples:
    """The examples with what their states hold of earlier spans; items of one span stand by item index."""
    rows = []
    for example in found.rows:
        state, time = example.state, example.state.time
        if time is not None:
            moment = time // span * span
            past = [dataclasses.replace(i, time=i.time // span * span) for i in state.history if i.time < moment]
            past.sort(key=lambda i: (i.time, i.item))
            state = dataclasses.replace(state, history=tuple(past), time=moment)
        rows.append(dataclasses.replace(example, state=state))
    return Examples(rows, found.seen, found.dropped_repeats)


def _limits(protocol: Protocol) -> tuple[tuple[Part, int | None], ...]:
    return ("valid", protocol.valid_rows), ("test", protocol.test_rows)


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _default_source(name: str) -> Path:
    root = os.environ.get("LLMREC_DATA")
    if not root:
        raise DataError(f"Give the folder of the original files of {name} as --source, or set LLMREC_DATA.")
    return Path(root) / name
