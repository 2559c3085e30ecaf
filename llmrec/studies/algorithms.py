"""All algorithms side by side: one warm start a seed, each algorithm from it, all measured on the same rows.

For every seed the data set, base model, SFT and simulators are made once. Each algorithm is a stage of its own (its
promoted and its last checkpoint are both measured), and so are its measurements: a study that was stopped goes on.
Differences to SFT are paired: the same users and events for all systems, pooled over seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import Algorithm, RunConfig
from llmrec.config_tree import Overrides
from llmrec.errors import RequestError
from llmrec.evaluation.facts import PeakMemory
from llmrec.files import read_json, write_json
from llmrec.pipeline.controls import ALL, CONTROLS, Cost, controls_of
from llmrec.pipeline.improve import ImprovedStage, improve_stage
from llmrec.pipeline.measure import Arena, SystemFigures, evaluation_key, measure_run
from llmrec.pipeline.recipes import recipes_root, with_defaults
from llmrec.pipeline.result import RERANKED, SFT, label, last_label
from llmrec.pipeline.run import check_config
from llmrec.pipeline.systems import INFORMED, OPTIMUM, best_known
from llmrec.pipeline.work import stage_key
from llmrec.studies.answer import Answer, Sheet, forest, signed
from llmrec.studies.shop import saved_shop
from llmrec.studies.study import Pooled, Prepared, SeedRows, Study, over_seeds
from llmrec.types import FloatArray, Ranker

FIRST = ("value@1", "value")
"""What judges say of the top item, and of a place of the whole slate."""
NDCG = "NDCG@10"
SHOP = "shop"
"""The data set that is made for each seed, as a newcomer's log (`studies.shop`), where no source is named."""
Rows = dict[str, dict[str, FloatArray]]
"""By system and measure."""


def run_algorithms(
    seeds: Sequence[int],
    out: Path,
    overrides: Overrides | None = None,
    *,
    algorithms: Sequence[Algorithm],
    dataset: str = "world",
    source: str | None = None,
    start_seed: int | None = None,
    controls: Sequence[str] = (ALL,),
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Runs (or takes up again) the study, prints its table and returns its figures.

    Args:
        seeds: of data (where it is generated), models and training; of the improvement alone with `start_seed`.
        out: one working folder a seed lies below it.
        overrides: values by key for all algorithms.
        algorithms: which ones.
        dataset: of a recipe train/recipes/study-DATASET.yaml.
        source: the data set's folder.
        start_seed: one warm start for all seeds, that of this one.
        controls: what the first algorithm is held against (`pipeline.controls`), by name; one that is among the
            algorithms is that row.
        json_file: where the figures go too.

    Raises:
        RequestError: no algorithm or no seed, or no such study.
        ConfigError: no such control, or one without a meaning for the first algorithm.
    """
    if not algorithms:
        raise RequestError("A study needs at least one algorithm.")
    config_of = study_config(dataset, source, overrides or {}, start_seed, out / "shops")
    held = controls_of(config_of(algorithms[0], seeds[0]), controls) if seeds else {}
    names = [name for name in held if name not in algorithms]

    def measure(seed: int) -> SeedRows:
        place = out / f"seed-{seed if start_seed is None else start_seed}"
        return _measured(config_of, algorithms, names, seed, place)

    def answer(found: Pooled) -> Answer:
        first = algorithms[0]
        labels = [control.label(config_of(first, seeds[0])) for control in held.values()]
        return answer_of(found, dataset, first=label(first), controls=[RERANKED, *labels])

    return Study(seeds, measure, answer, unit="seed").run(out, json_file)


def _measured(
    config_of: Callable[[Algorithm, int], RunConfig],
    algorithms: Sequence[Algorithm],
    controls: Sequence[str],
    seed: int,
    folder: Path,
) -> SeedRows:
    ready = Prepared.of(config_of(algorithms[0], seed), folder)
    arena, start = ready.arena(), ready.config.seed
    rows = _rows(ready, arena, "start", lambda: _starting(ready))
    costs: dict[str, Any] = {}
    stages: list[ImprovedStage] = []
    for algorithm in algorithms:
        own, cost, stage = _one_algorithm(ready, arena, config_of(algorithm, seed), seed, rows[SFT])
        rows |= own
        costs |= dict.fromkeys(own, cost)
        stages.append(stage)
    first = config_of(algorithms[0], seed)
    for name in controls:
        control = CONTROLS[name]
        changed = control.changed(first, Cost.of(stages[0], ready.sft))
        names = (control.label(first), f"{control.label(first)} (last)")
        own, cost, _ = _one_algorithm(
            ready, arena, changed, seed, rows[SFT], names=names, stage_name=f"control-{algorithms[0]}-{name}"
        )
        rows |= own
        costs |= dict.fromkeys(own, cost)
    # repeats of one warm start meet the same people: one cluster each, or the interval would be too narrow
    users = {measure: [f"{start}/{state.user_id}" for state in arena.states] for measure in rows[SFT]}
    users[NDCG] = [f"{start}/{example.state.user_id}" for example in arena.examples]
    return SeedRows(seed, ready.data_hash, rows, users, costs)


def _rows(
    ready: Prepared,
    arena: Arena,
    name: str,
    systems: Callable[[], Mapping[str, Ranker]],
    more: Sequence[object] = (),
) -> Rows:
    """The rows of some systems, from the finished stage if there is one."""
    config = ready.config
    ruled = [config.tree()["rules"]] if config.rules else []
    key = [stage_key(ready.sft.folder), evaluation_key(config), *ruled, *more]

    def build(out: Path, _: Path) -> None:
        write_json(out / "rows.json", _plain(measure_run(config, arena, systems())))

    rows = read_json(ready.work.stage(f"measured-{name}", key, build) / "rows.json")
    return {system: {k: np.array(v) for k, v in row.items()} for system, row in rows.items()}


def _starting(ready: Prepared) -> dict[str, Ranker]:
    """What every algorithm is held against."""
    reward = ready.config.reward
    return ready.starting() | best_known(ready.data.world, reward.click, reward.conversion)


def _one_algorithm(
    ready: Prepared,
    arena: Arena,
    config: RunConfig,
    seed: int,
    sft: dict[str, FloatArray],
    *,
    names: tuple[str, str] | None = None,
    stage_name: str | None = None,
) -> tuple[Rows, dict[str, Any], ImprovedStage]:
    """Rows of the promoted and the last checkpoint under their `names`, what the stage cost, and the stage."""
    check_config(config)
    kept_name, last_name = names or (label(config.algorithm), last_label(config.algorithm))
    base = stage_name or config.algorithm
    name = base if config.improvement_seed is None else f"{base}-{seed}"
    spent = ready.work.folder / f"{name}.spent.json"
    before, memory = time.process_time(), PeakMemory()
    stage = improve_stage(config, ready.data, ready.sft, ready.simulators, ready.work, name=name)
    if time.process_time() - before > 1 or not spent.is_file():  # else the stage was done before
        write_json(spent, {"seconds": time.process_time() - before, "bytes": memory.bytes})

    def systems() -> dict[str, Ranker]:
        own = replace(ready, config=config)
        return {system: own.ranker(folder) for system, folder in _folders(stage, kept_name, last_name).items()}

    rows = _rows(ready, arena, name, systems, [stage_key(stage.folder)])
    kept = rows.get(kept_name, sft)  # refused: what is deployed is SFT itself
    cost = read_json(spent) | {"promoted": stage.promoted is not None, "training_seconds": stage.cpu_seconds}
    return {kept_name: kept, last_name: rows.get(last_name, kept)}, cost, stage


def _folders(stage: ImprovedStage, kept: str, last: str) -> dict[str, Path]:
    """What there is to measure: the promoted checkpoint, and the last where it is another."""
    found = {} if stage.promoted is None else {kept: stage.promoted}
    return found if stage.promoted == stage.last else {**found, last: stage.last}


def _plain(measured: SystemFigures) -> dict[str, dict[str, list[float]]]:
    rows: dict[str, dict[str, list[float]]] = {}
    for system, row in measured.ranking.items():
        rows[system] = {NDCG: np.asarray(row[NDCG]).tolist()}
        for judge, deployed in measured.deployed.items():
            for metric in FIRST:
                rows[system][f"{judge} {metric}"] = np.asarray(deployed[system][metric]).tolist()
    return rows


def answer_of(found: Pooled, dataset: str, *, first: str = "", controls: Sequence[str] = ()) -> Answer:
    """Means, paired differences to SFT over all seeds, shares of the headroom, seconds and memory.

    Beside them the system `first` less each of `controls`, as the gate hands both on and as both ended.
    """
    systems = {name: _figures(found, name) for name in found.sides}
    values = [measure for measure in found.measures(SFT) if measure != NDCG]
    figures = {
        "dataset": dataset,
        "events": len(found.users(NDCG) or ()),
        "users": len(found.users(values[0]) or ()),
        "systems": systems,
    }
    judge = "truth" if any(measure.startswith("truth") for measure in values) else "judge"
    gains = {
        name: {f"{judge} {metric}": row["values"][f"{judge} {metric}"]["minus SFT"] for metric in FIRST}
        for name, row in systems.items()
        if name != SFT
    }
    plots = {"gains": forest("Value over SFT", gains)}
    tables = [_sheet(figures, judge, len(found.seeds))]
    held = _against(found, first, controls, judge)
    if held:
        figures["against controls"] = held
        tables.append(_control_sheet(first, held))
    return Answer(f"Algorithms on {dataset}", figures, tables, plots=plots)


def _against(found: Pooled, first: str, controls: Sequence[str], judge: str) -> dict[str, Any]:
    """By control the differences of `first` to it: of what the gate hands on, and of both last checkpoints."""
    answer: dict[str, Any] = {}
    for control in controls:
        if control not in found.sides:
            continue
        last = f"{control} (last)" if f"{control} (last)" in found.sides else control
        for way, ours, theirs in (("handed on", first, control), ("last", f"{first} (last)", last)):
            answer.setdefault(control, {})[way] = {
                measure: asdict(found.difference(ours, theirs, measure))
                for measure in (f"{judge} value", f"{judge} value@1", NDCG)
            }
    return answer


def _control_sheet(first: str, held: Mapping[str, Any]) -> Sheet:
    rows = []
    for control, ways in held.items():
        for way, differences in ways.items():
            rows.append((f"{control}, {way}", *(signed(one) for one in differences.values())))
    note = "Handed on: what the gate promoted, else SFT. Last: both as they ended. Above 0 is for the algorithm."
    return Sheet(f"{first} less its controls (paired 95%)", ("control", "slate", "top item", NDCG), rows, note)


def _figures(found: Pooled, name: str) -> dict[str, Any]:
    figures: dict[str, Any] = {NDCG: float(found.rows(name, NDCG).mean())}
    figures["values"] = {m: _compared(found, name, m) for m in found.measures(name) if m != NDCG}
    if name != SFT:
        figures[f"{NDCG} relative"] = asdict(found.relative(name, SFT, NDCG))
    costs = [one.facts[name] for one in found.seeds if name in one.facts]
    return figures | {key: [cost[key] for cost in costs] for key in ("seconds", "bytes", "promoted") if costs}


def _compared(found: Pooled, name: str, measure: str) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "mean": float(found.rows(name, measure).mean()),
        "by_seed": found.means(name, measure),
    }
    if name != SFT:
        figures["minus SFT"] = asdict(found.difference(name, SFT, measure))
        for best, words in ((OPTIMUM, "headroom closed"), (INFORMED, "informed headroom closed")):
            if best in found.sides and measure.startswith("truth"):
                figures[words] = over_seeds(found.closed(name, SFT, best, measure))
    return figures


def _sheet(figures: Mapping[str, Any], judge: str, seeds: int) -> Sheet:
    """One line a system."""
    rows = []
    for name, row in figures["systems"].items():
        slate, first = row["values"][f"{judge} value"], row["values"][f"{judge} value@1"]
        gain, bound = slate.get("minus SFT"), row.get(f"{NDCG} relative")
        rows.append(
            (
                name,
                f"{slate['mean']:.4f}",
                "" if gain is None else signed(gain),
                f"{first['mean']:.4f}",
                f"{row[NDCG]:.4f}",
                "" if bound is None else f"{100 * bound['relative']:+.1f}% ({100 * bound['low']:+.1f}%)",
                f"{np.mean(row['seconds']):.0f}" if "seconds" in row else "",
                f"{np.max(row['bytes']) / 2**20:.0f}" if "bytes" in row else "",
            )
        )
    value = f"{'true' if judge == 'truth' else 'judged'} value, slate"
    heads = ("system", value, "less SFT (95%)", "top item", NDCG, "relative (bound)", "CPU s", "peak MiB")
    title = f"{figures['dataset']}: {seeds} seed(s), {figures['users']} users, {figures['events']} events"
    return Sheet(title, heads, rows)


def study_config(
    dataset: str,
    source: str | Path | None,
    overrides: Overrides,
    start_seed: int | None = None,
    shops: Path = Path("shops"),
) -> Callable[[Algorithm, int], RunConfig]:
    """Configurations by algorithm and seed, from train/recipes/study-DATASET.yaml.

    Shops without a `source` are made when they are asked for, and kept in the folder `shops`.

    Raises:
        RequestError: there is no recipe of that study.
    """
    place = recipes_root() / f"study-{dataset}.yaml"
    if not place.is_file():
        known = ", ".join(sorted(p.stem.removeprefix("study-") for p in recipes_root().glob("study-*.yaml")))
        raise RequestError(f"There is no study of {dataset!r}; known ones: {known}.")

    def config_of(algorithm: Algorithm, seed: int) -> RunConfig:
        seeded = {"seed": seed} if start_seed is None else {"seed": start_seed, "improvement_seed": seed}
        place_of_data = source
        if source is None and dataset == SHOP:
            place_of_data = saved_shop(shops, seeded["seed"])
        given = {} if place_of_data is None else {"data.source": str(place_of_data)}
        return with_defaults(place, {"algorithm": algorithm, **seeded, **given, **overrides})

    return config_of
