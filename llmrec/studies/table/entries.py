"""The rows of a table: what can be fitted twice (to choose settings, and for the test rows) and answers with lists.

A finished answer is kept under a key of everything that decides it, so that the same command goes on where it stopped
and a new row costs only itself.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from llmrec.baselines.base import FittableRanker, KeptRanker
from llmrec.baselines.interpolation import Interpolation
from llmrec.baselines.registry import BASELINES, MODEL, BaselineSpec
from llmrec.dataset.store import Dataset
from llmrec.errors import RequestError
from llmrec.evaluation.ranking import slates_to_items
from llmrec.files import read_json, sha256_of, write_json
from llmrec.pipeline.work import Unfinished, Work
from llmrec.studies.table.protocol import Moment, TableData
from llmrec.studies.views import Refitted
from llmrec.types import IntArray, Ranker

TOP = 20
"""Places that are kept of each list."""
VERSION = 1
"""Of what is kept; a higher one makes all rows anew."""
DECIDES_FIT = ("data", "version", "split", "span", MODEL)
"""What of a baseline's key decides what a baseline is fitted to."""
READ_TEXT = frozenset(
    {
        "covisitation",
        "covisitation-fixed",
        "interpolation",
        "interpolation-untimed",
        "content",
        "embeddings",
        "linucb",
        "thompson",
        "sasrec-text",
    }
)
"""Baselines that learn from item texts."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one system said on the test rows.

    Attributes:
        items_BK: item indices, best first, -1 where a list is shorter.
        facts: what it cost and how it was chosen; `settings`, `cpu_seconds` and what else there is to say.
    """

    items_BK: IntArray
    facts: dict[str, Any]


class Entry(Protocol):
    """A row of the table."""

    @property
    def name(self) -> str:
        """By which the table calls it."""
        ...

    @property
    def description(self) -> str:
        """One line."""
        ...

    @property
    def random(self) -> bool:
        """Whether it is measured under several seeds."""
        ...

    def stage(self, seed: int) -> str:
        """Where a seed's answer is kept."""
        ...

    def answer(self, bench: TableData, seed: int, work: Work) -> Answer:
        """The lists of the test rows under one seed; finished parts are found in `work`."""
        ...

    def recommender(self, bench: TableData, seed: int, work: Work) -> Ranker:
        """What gives those lists; what reads item texts is fitted anew where a view changes them."""
        ...

    def settled(self, facts: Mapping[str, Any]) -> Entry:
        """The entry with no choice left but what a kept answer says was chosen, whatever the budget was."""
        ...


class BySeed:
    """An answer a seed, and nothing chosen but what its own stages keep."""

    def stage(self, seed: int) -> str:
        """Where a seed's answer is kept."""
        return f"seed-{seed}"

    def settled(self, facts: Mapping[str, Any]) -> Self:
        """The entry as it is."""
        del facts
        return self


def bench_key(bench: TableData) -> dict[str, Any]:
    """What decides every answer beside the system itself."""
    protocol = dataclasses.asdict(bench.protocol)
    rows = {"valid": len(bench.valid), "test": len(bench.test)}
    kept = {name: protocol[name] for name in ("split", "history_events")}
    kept |= {"span": bench.protocol.span} if bench.protocol.span > 1 else {}
    kept |= {} if bench.protocol.refit else {"refit": False}
    return {"data": bench.dataset.manifest.content_hash, "version": VERSION, **kept, **rows}


def width(bench: TableData) -> int:
    """How many places are asked for."""
    return min(TOP, bench.dataset.n_items)


def answered(
    bench: TableData, work: Work, stage: str, key: dict[str, Any], fit: Callable[[], tuple[Ranker, dict[str, Any]]]
) -> Answer:
    """The answer that is kept in `stage` under `key`; else that of the ranker which `fit` makes.

    `fit` also says how the ranker was chosen; the CPU seconds of both halves are added to that, to those of what was
    fitted in an earlier command (`cpu_seconds`) where it says some.
    """

    def make() -> Answer:
        start = time.process_time()
        system, facts = fit()
        fitted = time.process_time()
        slates = system.recommend([e.state for e in bench.test], width(bench), seen=bench.test.seen)
        earlier = facts.get("cpu_seconds", {}).get("fit", 0.0)
        seconds = {"fit": earlier + fitted - start, "recommend": time.process_time() - fitted}
        return Answer(slates_to_items(slates, width(bench)), {**facts, "cpu_seconds": seconds})

    return found_or_made(work, stage, key, make)


def found_or_made(work: Work, stage: str, key: dict[str, Any], make: Callable[[], Answer]) -> Answer:
    """The answer that is kept in `stage` under `key`; else the one that `make` gives, which is kept there."""

    def build(folder: Path, _: Path) -> None:
        made = make()
        np.save(folder / "items.npy", made.items_BK.astype(np.int32))
        write_json(folder / "facts.json", made.facts)

    return kept(work.stage(stage, key, build))


def kept(folder: Path) -> Answer:
    """What `found_or_made` keeps in a stage's folder."""
    return Answer(np.load(folder / "items.npy").astype(np.int64), read_json(folder / "facts.json"))


@dataclass(frozen=True)
class BaselineEntry(BySeed):
    """A baseline of the registry: settings chosen once on the validation rows, then fitted for every seed.

    Attributes:
        spec: the registry's description.
        budget: the spec's time budget times this.
    """

    spec: BaselineSpec
    budget: float = 1.0

    @property
    def name(self) -> str:
        """As in the registry."""
        return self.spec.name

    @property
    def description(self) -> str:
        """As in the registry."""
        return self.spec.description

    @property
    def random(self) -> bool:
        """Whether seeds differ."""
        return self.spec.random

    @property
    def reads_text(self) -> bool:
        """Whether it learns from item texts."""
        return self.name in READ_TEXT

    def answer(self, bench: TableData, seed: int, work: Work) -> Answer:
        """Fits the chosen settings on everything before the test period and ranks its rows."""
        chosen = self.chosen(bench, work)
        key = {**self._key(bench), "chosen": chosen["settings"], "seed": seed}

        def fit() -> tuple[Ranker, dict[str, Any]]:
            model, earlier = self._found(bench, "after", seed, self.settings_of(chosen), work)
            return model, {**chosen, "cpu_seconds": {"fit": earlier}}

        return answered(bench, work, self.stage(seed), key, fit)

    def recommender(self, bench: TableData, seed: int, work: Work) -> Ranker:
        """The chosen settings, fitted on everything before the test period."""
        settings = self.settings_of(self.chosen(bench, work))
        model = self.fitted(bench, "after", seed, settings, work)
        return Refitted(self.refitting(bench, "after", model, settings), bench.dataset) if self.reads_text else model

    def settled(self, facts: Mapping[str, Any]) -> Self:
        """The entry with the settings of a kept answer and no choice left, whatever budget they were chosen in."""
        spec = dataclasses.replace(self.spec, settings=self.settings_of(facts), grid=())
        return dataclasses.replace(self, spec=spec)

    def fitted(self, bench: TableData, moment: Moment, seed: int, settings: Any, work: Work) -> FittableRanker:
        """Fitted on what comes before the validation rows (`before`) or before the test rows (`after`).

        What takes minutes, a network, is kept in `work`, the row's folder, and found there again.
        """
        return self._found(bench, moment, seed, settings, work)[0]

    def _found(
        self, bench: TableData, moment: Moment, seed: int, settings: Any, work: Work
    ) -> tuple[FittableRanker, float]:
        """The fitted recommender, and the CPU seconds that an earlier command took for it."""
        model, events = self.spec.make(settings, seed), bench.rows(moment)[0].split.train
        made = False

        def build(folder: Path, _: Path) -> None:
            nonlocal made
            start, made = time.process_time(), True
            assert isinstance(model, KeptRanker)
            model.fit(bench.dataset, events).save(folder)
            write_json(folder / "spent.json", {"cpu_seconds": time.process_time() - start})

        if isinstance(model, KeptRanker):
            decides = {name: value for name, value in self._key(bench).items() if name in DECIDES_FIT}
            moment, settings = bench.fitting(moment), plain(settings)
            name = f"fitted-{moment}-{seed}-{sha256_of(json.dumps(settings))[:8]}"
            key = {**decides, "baseline": self.name, "settings": settings, "moment": moment, "seed": seed}
            with suppress(Unfinished):  # of a table that is only read: fitted below, and not kept
                folder = work.stage(name, key, build)
                if made:
                    return model, 0.0
                spent = read_json(folder / "spent.json")["cpu_seconds"]
                return model.load(folder, bench.dataset, events), float(spent)
        return model.fit(bench.dataset, events), 0.0

    def refitting(
        self, bench: TableData, moment: Moment, first: FittableRanker, settings: Any
    ) -> Callable[[Dataset], Any]:
        """Fits to a data set with other texts, by the settings of `first`, which is fitted to them as they are."""
        events = bench.rows(moment)[0].split.train

        def fit(dataset: Dataset) -> FittableRanker:
            if dataset is bench.dataset:
                return first
            if isinstance(first, Interpolation):  # it chooses settings of co-visitation as it is fitted
                again = Interpolation(first.covisitation.settings, timed=first.timed, seed=first.seed)
                return again.fit(dataset, events)
            return self.spec.make(settings, getattr(first, "seed", 0)).fit(dataset, events)

        return fit

    def chosen(self, bench: TableData, work: Work) -> dict[str, Any]:
        """The settings that are best on the validation rows, as plain values, and what choosing them took."""
        if not self.spec.grid or not len(bench.valid):
            return {"settings": plain(self.spec.settings), "valid_ndcg": None}
        grid = [plain(option) for option in self.spec.grid]
        key = {**self._key(bench), "grid": grid, "budget": self.budget_seconds}

        def build(folder: Path, _: Path) -> None:
            start = time.process_time()
            found = self.spec.chosen(bench.dataset, bench.before.split.train, bench.valid, budget=self.budget)
            assert found is not None
            trials = [{"settings": plain(t.settings), "ndcg": t.ndcg, "seconds": t.seconds} for t in found.trials]
            record = {
                "settings": plain(found.settings),
                "valid_ndcg": found.ndcg,
                "tried": len(found.trials) - len(found.untried),
                "grid": len(found.trials),
                "select_cpu_seconds": time.process_time() - start,
            }
            write_json(folder / "selection.json", record | {"trials": trials})

        record = dict(read_json(work.stage("selection", key, build) / "selection.json"))
        record.pop("trials")
        return record

    def _key(self, bench: TableData) -> dict[str, Any]:
        """What decides its lists beside settings and seed: the bench, and the model that it reads texts with."""
        return {**bench_key(bench), **self.spec.named}

    @property
    def budget_seconds(self) -> float:
        """Seconds that choosing may take."""
        return self.spec.budget_seconds * self.budget

    def settings_of(self, chosen: Mapping[str, Any]) -> Any:
        """The chosen settings as the object that the registry knows."""
        for option in (*self.spec.grid, self.spec.settings):
            if plain(option) == chosen["settings"]:
                return option
        raise RequestError(f"The kept settings of {self.name} are none of its grid; remove its folder.")


def baseline_entries(budget: float = 1.0) -> dict[str, Entry]:
    """All baselines whose packages are installed, by name."""
    return {name: BaselineEntry(spec, budget) for name, spec in BASELINES.items() if spec.available}


def plain(settings: Any) -> Any:
    """Settings as JSON would give them back."""
    return None if settings is None else json.loads(json.dumps(dataclasses.asdict(settings)))
