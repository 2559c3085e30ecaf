"""Systems on held-out events of a data set: baselines fitted before them, and trained runs as they are.

A run may meet data that it was not made with. Its items and the data's are matched by their ids: a state tells it
only of items that it knows, and what it does not know it cannot recommend; both are counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.baselines.registry import BASELINES, BaselineSpec, baseline
from llmrec.config import DataConfig, RunConfig
from llmrec.dataset.examples import Examples, examples
from llmrec.dataset.split import Split, make_split, split_at
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError, RequestError
from llmrec.evaluation.facts import machine_facts, package_versions
from llmrec.evaluation.leaks import check_leaks
from llmrec.evaluation.offline import Ranking, rank_systems
from llmrec.progress import console
from llmrec.screen import results
from llmrec.types import IntArray, Ranker, Slate, State

ALL = "all"


@dataclass(frozen=True)
class HeldOut:
    """What was measured: the table, and facts beside it."""

    table: Ranking
    facts: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return {**self.facts, **self.table.to_json()}

    def show(self) -> None:
        """The tables as wide as a terminal likes them."""
        screen, table = results(), self.table
        same_as_hr = ("NDCG@1", "MRR@1")
        screen.print(table.select([m for m in table.metrics if m not in same_as_hr]).to_rich())
        top = max(int(metric.partition("@")[2]) for metric in table.metrics if metric.startswith("HR@"))
        for name, further in table.further().items():
            shown = [m for m in further.metrics if m.endswith(f"@{top}")] if name == "sets" else further.metrics
            screen.print(further.select(shown).to_rich())


class Matched:
    """A ranker of a run's own items among those of a data set, by ids.

    Args:
        policy: over the run's items.
        ids: of the run's items.
        dataset: whose item indices come and go.
    """

    def __init__(self, policy: Ranker, ids: Sequence[str], dataset: Dataset) -> None:
        self.policy = policy
        own = {item: index for index, item in enumerate(ids)}
        self._own_N = np.array([own.get(item, -1) for item in dataset.items["item_id"]], dtype=np.int64)
        self._of_own = {int(index): item for item, index in enumerate(self._own_N) if index >= 0}
        # what the data set does not have must not stand in a list
        self._strange = np.array([index for index in own.values() if index not in self._of_own], dtype=np.int64)

    @property
    def unknown(self) -> int:
        """Items of the data set that the run does not know."""
        return int((self._own_N < 0).sum())

    @property
    def same(self) -> bool:
        """Whether both have the same items in the same order."""
        return not len(self._strange) and bool((self._own_N == np.arange(len(self._own_N))).all())

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        """The k best items that both know, in the data set's indices; fewer where fewer are known."""
        kept = [self._told(state) for state in states]
        hidden = seen if seen is not None else [np.empty(0, dtype=np.int64)] * len(states)
        own = [np.concatenate([self._indices(one), self._strange]) for one in hidden]
        found = self.policy.recommend(kept, min(k, max(len(self._of_own), 1)), seen=own)
        return [
            Slate(tuple(self._of_own[i] for i in slate.items_K), slate.log_probs_K)
            if all(i in self._of_own for i in slate.items_K)
            else self._without(slate)
            for slate in found
        ]

    def _without(self, slate: Slate) -> Slate:
        pairs = zip(slate.items_K, slate.log_probs_K, strict=True)
        kept = [(self._of_own[item], score) for item, score in pairs if item in self._of_own]
        return Slate(tuple(item for item, _ in kept), tuple(score for _, score in kept))

    def _indices(self, items: IntArray) -> IntArray:
        own: IntArray = self._own_N[np.asarray(items, dtype=np.int64)]
        return own[own >= 0]

    def _told(self, state: State) -> State:
        history, session = (
            tuple(dataclasses.replace(e, item=int(self._own_N[e.item])) for e in told if self._own_N[e.item] >= 0)
            for told in (state.history, state.session)
        )
        return dataclasses.replace(state, history=history, session=session)


def held_out(
    dataset: Dataset,
    *,
    data: Path,
    runs: Sequence[str] = (),
    systems: Sequence[str] = ("popularity", "covisitation"),
    split: str = "time",
    since: int | None = None,
    reference: str = "popularity",
    test_events: int | None = 2000,
    history_events: int = 20,
    k: Sequence[int] | None = None,
    defaults: bool = False,
    seed: int = 0,
    rules: Path | None = None,
) -> HeldOut:
    """Ranks the whole catalogue at held-out events by baselines and runs.

    Args:
        dataset: of the events.
        data: its folder.
        runs: folders or Hub ids of trained runs.
        systems: baselines by name, or ALL.
        split: "time", "leave-last-out" or "given".
        since: seconds; the test is all from then on, whatever the split of a run was.
        reference: what the others are compared with.
        test_events: a uniform sample of so many; None takes all.
        history_events: interactions that a state tells of.
        k: cut-offs; by default 1, 5 and 10.
        defaults: baselines as they are by default; nothing is selected on the validation events.
        seed: of samples, fits and intervals.
        rules: a file of rules that the runs' lists obey in place of their own.

    Raises:
        ConfigError: rules that cannot be read, contradict one another or name what no item has.
        RequestError: an unknown reference, or a run that was trained on another split of these data.
        DataError: a leak, or no event to rank.
    """
    specs = _specs(systems)
    if reference not in [*(spec.name for spec in specs), *runs]:
        raise RequestError(f"--reference {reference!r} is no system of this table; name it by --baseline, too.")
    if since is None:
        for name in runs:
            _check_run(Path(name), split)
    cut = cut_of(dataset, split, since)
    kept: dict[str, Any] = {"history_events": history_events, "limit": test_events, "seed": seed}
    valid, test = examples(dataset, cut, "valid", **kept), examples(dataset, cut, "test", **kept)
    for part in (valid, test):
        check_leaks(dataset, cut.train, part, cut.name)
    found: dict[str, Ranker] = {spec.name: _fitted(spec, dataset, cut, valid, defaults, seed) for spec in specs}
    unknown: dict[str, int] = {}
    for name in runs:
        found[name], unknown[name] = _policy(name, data, dataset, rules)
    table = rank_systems(found, test, dataset, k=k, reference=reference, seed=seed, train=cut.train, split=cut.name)
    facts = {
        "dataset": dataset.manifest.name,
        "dataset_hash": dataset.manifest.content_hash,
        "split": {"name": cut.name, **cut.counts},
        "rows": {"valid": len(valid), "test": len(test), "dropped repeats": test.dropped_repeats},
        "unknown items": unknown,
        "seed": seed,
        "machine": machine_facts(),
        "versions": package_versions(),
    }
    return HeldOut(table, facts)


def cut_of(dataset: Dataset, split: str, since: int | None) -> Split:
    """The data set's parts by the name of a split, or with all from `since` on (seconds) as the test.

    Raises:
        DataError: nothing before or from then on.
    """
    return make_split(dataset, split) if since is None else _since(dataset, since)  # type: ignore[arg-type]


def _since(dataset: Dataset, since: int) -> Split:
    """All from `since` on as the test, the last tenth of what was before as the validation part."""
    before = dataset.events.filter(dataset.events["time"] < since)["time"]
    cut = split_at(dataset.events, since if before.is_empty() else int(before.quantile(0.9) or 0), since)
    for part, events in (("before", cut.train), ("from then on", cut.test)):
        if events.is_empty():
            raise DataError(f"There is no event {part} ({since} seconds); choose another moment for --since.")
    return cut


def _specs(names: Sequence[str]) -> list[BaselineSpec]:
    """What the registry says of the systems; ALL is every one whose packages are installed."""
    if list(names) == [ALL]:
        return [spec for spec in BASELINES.values() if spec.available]
    specs = [baseline(name) for name in dict.fromkeys(names)]
    for spec in specs:
        spec.require()
    return specs


def _check_run(folder: Path, split: str) -> None:
    """Refuses a run whose training part is not the one of this table."""
    path = folder / "config.yaml"
    if not path.is_file():
        return
    data, default = RunConfig.read(path).data, DataConfig()
    fractions = (data.valid_fraction, data.test_fraction) != (default.valid_fraction, default.test_fraction)
    if data.split != split or (split == "time" and fractions):
        made = f"{data.split} ({data.valid_fraction:g} valid, {data.test_fraction:g} test)"
        asked = f"{split} ({default.valid_fraction:g} valid, {default.test_fraction:g} test)"
        raise RequestError(
            f"{path} says that the run was trained on the split {made}, so it may have learnt what it would be "
            f"tested on under {asked}; choose its split or train a run on this one."
        )


def _policy(name: str, data: Path, dataset: Dataset, rules: Path | None) -> tuple[Ranker, int]:
    """The policy of a run over the data set's items, under its rules, and how many items it does not know."""
    from llmrec.recommender import Recommender  # here: tables of baselines alone load no model code
    from llmrec.rules import Ruled

    recommender = Recommender.load(name, data=data, rules=rules)
    bundle = recommender.bundle
    policy: Ranker = bundle.policy
    if recommender.book is not None:
        policy = Ruled(policy, recommender.book, bundle.items, may_be_empty=True)
    matched = Matched(policy, bundle.policy.catalogue.item_ids, dataset)
    if matched.same:
        return policy, 0
    if matched.unknown == dataset.n_items:
        raise DataError(
            f"{name} knows no item of {dataset.manifest.name!r}; add them (llmrec items), or check the ids."
        )
    console.print(
        f"{name}: {matched.unknown} of {dataset.n_items} items are new to it and cannot be recommended by it "
        "(llmrec items adds them).",
        style="dim",
    )
    return matched, matched.unknown


def _fitted(spec: BaselineSpec, dataset: Dataset, split: Split, valid: Examples, defaults: bool, seed: int) -> Ranker:
    """A baseline with the settings that rank the validation events best."""
    chosen = None if defaults else spec.chosen(dataset, split.train, valid, seed=seed)
    if chosen is None:
        return spec.fitted(dataset, split.train, seed=seed)
    left = f", {len(chosen.untried)} of {len(spec.grid)} settings left out for time" if chosen.untried else ""
    console.print(f"{spec.name}: {chosen.settings} (validation NDCG@{chosen.k} {chosen.ndcg:.4f}{left})", style="dim")
    return spec.make(chosen.settings, seed).fit(dataset, split.train)
