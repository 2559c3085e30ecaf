"""All algorithms side by side: one warm start a seed, each algorithm from it, all measured on the same rows.

For every seed the data set, base model, SFT and simulators are made once. Each algorithm is a stage of its own (its
promoted and its last checkpoint are both measured), and so are its measurements: a study that was stopped goes on.
Differences to SFT are paired: the same users and events for all systems, pooled over seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from llmrec.config import Algorithm, RunConfig
from llmrec.errors import RequestError
from llmrec.evaluation.facts import PeakMemory, machine_facts, package_versions
from llmrec.evaluation.significance import noninferiority_bound, paired_bootstrap, t_interval
from llmrec.files import read_json, write_json
from llmrec.pipeline.algorithms.reward import run_reward
from llmrec.pipeline.base_model import base_model
from llmrec.pipeline.data import RunData, open_data
from llmrec.pipeline.improve import ImprovedStage, improve_stage
from llmrec.pipeline.measure import Arena, SystemFigures, make_arena, measure_run
from llmrec.pipeline.recipes import recipes_root, with_defaults
from llmrec.pipeline.result import OPTIMUM, RERANKED, SFT, label, last_label
from llmrec.pipeline.run import check_config
from llmrec.pipeline.sft import SFTStage, improved_policy, sft_policy, sft_stage
from llmrec.pipeline.simulation import Simulators, simulator_stage
from llmrec.pipeline.systems import OptimumRanker, Policy, Reranked
from llmrec.pipeline.work import Work
from llmrec.progress import console
from llmrec.screen import Screen
from llmrec.types import FloatArray, Ranker

FIRST = ("value@1", "value")
"""What judges say of the top item, and of a place of the whole slate."""


@dataclass
class Rows:
    """Figures of one system by row, pooled over seeds: events for NDCG, users for values."""

    ndcg: list[FloatArray] = field(default_factory=list)
    values: dict[str, list[FloatArray]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    promoted: list[bool] = field(default_factory=list)


@dataclass
class Study:
    """All systems' rows, and who they are of."""

    dataset: str
    seeds: list[int] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    systems: dict[str, Rows] = field(default_factory=dict)

    def rows(self, system: str) -> Rows:
        """Those of a system, empty at first."""
        return self.systems.setdefault(system, Rows())


def run_study(
    config_of: Callable[[Algorithm, int], RunConfig],
    algorithms: Sequence[Algorithm],
    seeds: Sequence[int],
    out: Path,
    json_file: Path | None = None,
    *,
    start_seed: int | None = None,
) -> dict[str, Any]:
    """Runs (or takes up again) the study, prints its table and returns its figures.

    Args:
        config_of: the whole configuration of an algorithm under a seed; algorithms differ in their section alone.
        algorithms: which ones.
        seeds: of data (where it is generated), models and training; of the improvement alone with `start_seed`.
        out: one working folder a seed lies below it.
        json_file: where the figures go too.
        start_seed: one warm start for all seeds, that of this one.

    Raises:
        RequestError: no algorithm or no seed.
    """
    if not algorithms or not seeds:
        raise RequestError("A study needs at least one algorithm and one seed.")
    study = Study(config_of(algorithms[0], seeds[0]).data.dataset)
    for seed in seeds:
        console.print(f"seed {seed}", style="bold")
        first = seed if start_seed is None else start_seed
        _one_seed(study, config_of, algorithms, seed, Work(out / f"seed-{first}"))
    figures = figures_of(study)
    Screen(width=150).print(table_of(study, figures))
    if json_file is not None:
        write_json(json_file, figures)
    return figures


def _one_seed(
    study: Study,
    config_of: Callable[[Algorithm, int], RunConfig],
    algorithms: Sequence[Algorithm],
    seed: int,
    work: Work,
) -> None:
    config = config_of(algorithms[0], seed)
    check_config(config)
    data = open_data(config, work)
    sft = sft_stage(config, data, base_model(config, data, work), work)
    simulators = simulator_stage(config, data, work)
    arena = make_arena(config, data, simulators.judge)
    study.seeds.append(seed)
    study.hashes.append(data.dataset.manifest.content_hash)
    # repeats of one warm start meet the same people: one cluster each, or the interval would be too narrow
    study.events += [f"{config.seed}/{e.state.user_id}" for e in arena.examples]
    study.users += [f"{config.seed}/{s.user_id}" for s in arena.states]
    place = _Place(config, seed, data, sft, simulators, arena, work)
    for name, measured in place.measured("start", _starting).items():
        _add(study.rows(name), measured)
    for algorithm in algorithms:
        _one_algorithm(study, place, config_of(algorithm, seed), algorithm)


@dataclass(frozen=True)
class _Place:
    """Where one seed's systems are measured."""

    config: RunConfig
    seed: int
    data: RunData
    sft: SFTStage
    simulators: Simulators
    arena: Arena
    work: Work

    def measured(
        self, name: str, systems: Callable[[_Place], Mapping[str, Ranker]], more: Sequence[object] = ()
    ) -> dict[str, dict[str, FloatArray]]:
        """The rows of some systems, from the finished stage if there is one."""
        key = [read_json(self.sft.folder / "stage.json")["key"], self.config.tree()["evaluation"], *more]

        def build(out: Path, _: Path) -> None:
            write_json(out / "rows.json", _plain(measure_run(self.config, self.arena, systems(self))))

        rows = read_json(self.work.stage(f"measured-{name}", key, build) / "rows.json")
        return {system: {k: np.array(v) for k, v in row.items()} for system, row in rows.items()}


def _starting(place: _Place) -> dict[str, Ranker]:
    """What every algorithm is held against."""
    policy = sft_policy(place.config, place.data, place.sft)
    start = Policy(policy, place.config.evaluation.beams)
    reward = run_reward(place.config, place.data, place.simulators, policy).for_ranking()
    systems: dict[str, Ranker] = {SFT: start, RERANKED: Reranked(start, reward, place.data.dataset.n_items)}
    if place.data.world is not None:
        systems[OPTIMUM] = OptimumRanker(place.data.world, place.config.reward.click, place.config.reward.conversion)
    return systems


def _one_algorithm(study: Study, place: _Place, config: RunConfig, algorithm: Algorithm) -> None:
    check_config(config)
    name = f"{algorithm}" if config.improvement_seed is None else f"{algorithm}-{place.seed}"
    spent = place.work.folder / f"{name}.spent.json"
    before, memory = time.process_time(), PeakMemory()
    stage = improve_stage(config, place.data, place.sft, place.simulators, place.work, name=name)
    if time.process_time() - before > 1 or not spent.is_file():  # else the stage was done before
        write_json(spent, {"seconds": time.process_time() - before, "bytes": memory.bytes})
    cost, folders = read_json(spent), _folders(stage, algorithm)

    def systems(_: _Place) -> dict[str, Ranker]:
        return {
            system: Policy(improved_policy(config, place.data, place.sft, folder), config.evaluation.beams)
            for system, folder in folders.items()
        }

    rows = place.measured(name, systems, [read_json(stage.folder / "stage.json")["key"]])
    kept = rows.get(label(algorithm))
    if kept is None:  # refused: what is deployed is SFT itself
        kept = place.measured("start", _starting)[SFT]
    last = rows.get(last_label(algorithm), kept)
    for system, measured in ((label(algorithm), kept), (last_label(algorithm), last)):
        target = study.rows(system)
        _add(target, measured)
        target.seconds.append(cost["seconds"])
        target.bytes.append(cost["bytes"])
        target.promoted.append(stage.promoted is not None)


def _folders(stage: ImprovedStage, algorithm: Algorithm) -> dict[str, Path]:
    """What there is to measure: the promoted checkpoint, and the last where it is another."""
    found = {} if stage.promoted is None else {label(algorithm): stage.promoted}
    return found if stage.promoted == stage.last else {**found, last_label(algorithm): stage.last}


def _plain(measured: SystemFigures) -> dict[str, dict[str, list[float]]]:
    rows: dict[str, dict[str, list[float]]] = {}
    for system, row in measured.ranking.items():
        rows[system] = {"NDCG@10": np.asarray(row["NDCG@10"]).tolist()}
        for judge, deployed in measured.deployed.items():
            for metric in FIRST:
                rows[system][f"{judge} {metric}"] = np.asarray(deployed[system][metric]).tolist()
    return rows


def _add(rows: Rows, measured: Mapping[str, FloatArray]) -> None:
    for name, values in measured.items():
        if name == "NDCG@10":
            rows.ndcg.append(values)
        else:
            rows.values.setdefault(name, []).append(values)


def figures_of(study: Study) -> dict[str, Any]:
    """Means, paired differences to SFT over all seeds, shares of the headroom, seconds and memory."""
    start = study.systems[SFT]
    systems = {}
    for name, rows in study.systems.items():
        ndcg = np.concatenate(rows.ndcg)
        figures: dict[str, Any] = {"NDCG@10": float(ndcg.mean()), "values": {}}
        if name != SFT:
            figures["NDCG@10 relative"] = asdict(
                noninferiority_bound(ndcg, np.concatenate(start.ndcg), users=study.events)
            )
        for metric, values in rows.values.items():
            figures["values"][metric] = _compared(study, name, metric, values)
        if rows.seconds:
            figures |= {"seconds": rows.seconds, "bytes": rows.bytes, "promoted": rows.promoted}
        systems[name] = figures
    return {
        "dataset": study.dataset,
        "seeds": study.seeds,
        "dataset_hashes": study.hashes,
        "machine": machine_facts(),
        "versions": package_versions(),
        "events": len(study.events),
        "users": len(study.users),
        "systems": systems,
    }


def _compared(study: Study, name: str, metric: str, values: Sequence[FloatArray]) -> dict[str, Any]:
    pooled, before = np.concatenate(values), study.systems[SFT].values[metric]
    found: dict[str, Any] = {"mean": float(pooled.mean()), "by_seed": [float(v.mean()) for v in values]}
    if name == SFT:
        return found
    found["minus SFT"] = asdict(paired_bootstrap(pooled, np.concatenate(before), users=study.users))
    best = study.systems[OPTIMUM].values.get(metric) if OPTIMUM in study.systems else None
    if best is not None and metric.startswith("truth"):
        triples = zip(values, before, best, strict=True)
        shares = [float((v.mean() - b.mean()) / (o.mean() - b.mean())) for v, b, o in triples]
        found["headroom closed"] = {"by_seed": shares}
        if len(shares) > 1:
            found["headroom closed"] |= asdict(t_interval(shares))
    return found


def table_of(study: Study, figures: Mapping[str, Any]) -> Any:
    """One line a system."""
    judge = "truth" if any(name.startswith("truth") for name in study.systems[SFT].values) else "judge"
    title = f"{study.dataset}: {len(study.seeds)} seed(s), {figures['users']} users, {figures['events']} events"
    table = Table(title=title, title_justify="left")
    value = f"{'true' if judge == 'truth' else 'judged'} value, slate"
    for name in ("system", value, "less SFT (95%)", "top item", "NDCG@10", "relative (bound)", "CPU s", "peak MiB"):
        table.add_column(name, justify="left" if name == "system" else "right", no_wrap=True)
    for name, row in figures["systems"].items():
        slate, first = row["values"][f"{judge} value"], row["values"][f"{judge} value@1"]
        gain, bound = slate.get("minus SFT"), row.get("NDCG@10 relative")
        table.add_row(
            name,
            f"{slate['mean']:.4f}",
            "" if gain is None else f"{gain['mean']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})",
            f"{first['mean']:.4f}",
            f"{row['NDCG@10']:.4f}",
            "" if bound is None else f"{100 * bound['relative']:+.1f}% ({100 * bound['low']:+.1f}%)",
            f"{np.mean(row['seconds']):.0f}" if "seconds" in row else "",
            f"{np.max(row['bytes']) / 2**20:.0f}" if "bytes" in row else "",
        )
    return table


def study_config(
    dataset: str, source: str | None, overrides: Sequence[str], start_seed: int | None = None
) -> Callable[[Algorithm, int], RunConfig]:
    """Configurations by algorithm and seed, from train/recipes/study-DATASET.yaml.

    Raises:
        RequestError: there is no recipe of that study.
    """
    place = recipes_root() / f"study-{dataset}.yaml"
    if not place.is_file():
        known = ", ".join(sorted(p.stem.removeprefix("study-") for p in recipes_root().glob("study-*.yaml")))
        raise RequestError(f"There is no study of {dataset!r}; known ones: {known}.")
    given = [] if source is None else [("data.source", source)]

    def config_of(algorithm: Algorithm, seed: int) -> RunConfig:
        seeded = [f"seed={seed}"] if start_seed is None else [f"seed={start_seed}", f"improvement_seed={seed}"]
        return with_defaults(place, [f"algorithm={algorithm}", *seeded, *given, *overrides])

    return config_of
