"""How well behaviour models know users: real logs model by model, or a generated world whose truth is known."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmrec.config import SimulatorSettings, WorldConfig
from llmrec.dataset.impressions import impressions
from llmrec.dataset.split import Part, make_split
from llmrec.dataset.world.world import World, generate_world
from llmrec.progress import Bar
from llmrec.simulator.ensemble import fit_reward_and_judge
from llmrec.simulator.metrics import auc, fit_report, value_agreement
from llmrec.studies.answer import Answer, Sheet
from llmrec.studies.simulator_exam import WORLD, run_exam
from llmrec.studies.simulators import MODELS, SIGNALS, SOURCES, SimulatorCells, selected

FIGURES = ("auc", "log_loss", "calibration_error")


def run_simulator_fit(
    out: Path,
    *,
    data: str | None = None,
    models: str | None = None,
    minutes: float = float("inf"),
    seed: int = 0,
    users: int = WorldConfig().users,
    items: int = WorldConfig().items,
    states: int = 1000,
    json_file: Path | None = None,
    exam: bool = False,
    seeds: Sequence[int] = (0,),
    part: Part = "test",
    events: int = 1000,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fits what is not finished in `out`, prints the tables and returns their figures.

    Args:
        out: folder of cells and answer.
        data: names of data sets of `simulators.SOURCES` below the folder LLMREC_DATA, divided by commas, or "world";
            all by default.
        models: names of `simulators.MODELS`, divided by commas; all by default.
        minutes: begin no further cell after so many.
        seed: of models, samples and bootstrap, and of the world.
        users: of the world.
        items: of the world.
        states: latest test states of the world that are compared with its truth.
        json_file: the figures are also written here.
        exam: examine simulators (`simulator_exam`) in place of the above: `data` are sources and the demo's world,
            `models` rows of its table.
        seeds: of the examination: its choices, and fits of the simulators.
        part: whose choices the examination asks about.
        events: how many of them.
        overrides: of the examination's configurations.
    """
    if exam:
        names = [*SOURCES, WORLD] if data is None else data.split(",")
        rows = None if models is None else models.split(";")
        return run_exam(out, names, rows, seeds, json_file=json_file, part=part, events=events, overrides=overrides)
    if data == "world":
        world = generate_world(WorldConfig(users=users, items=items), seed=seed)
        answer, hashes = world_answer(world, seed, states), {data: world.dataset.manifest.content_hash}
    else:
        names = list(SOURCES) if data is None else data.split(",")
        chosen = list(MODELS) if models is None else models.split(",")
        cells = _cells(names, chosen, out, minutes, seed)
        answer = cells_answer(cells, chosen)
        hashes = {name: row[0]["content_hash"] for name, row in cells.items() if row}
    return answer.finish(out, json_file, seed=seed, dataset_hashes=hashes)


def _cells(
    names: Sequence[str], models: Sequence[str], out: Path, minutes: float, seed: int
) -> dict[str, list[dict[str, Any]]]:
    root = Path(os.environ.get("LLMREC_DATA", "data"))
    parts = [SimulatorCells(name, root, out, seed) for name in names]
    cells: dict[str, list[dict[str, Any]]] = {part.name: [] for part in parts}
    start = time.perf_counter()
    with Bar("Cells (data set, model)", len(parts) * len(models), every_s=5.0) as bar:
        for part in parts:
            for model in models:
                if time.perf_counter() - start < 60 * minutes:
                    cells[part.name].append(part.cell(model))
                bar.advance(note=f"{part.name} {model}")
    return cells


def cells_answer(cells: Mapping[str, list[dict[str, Any]]], models: Sequence[str]) -> Answer:
    """A table for each data set and, where all models are there, the one that validation chooses."""
    best = {name: selected(row) for name, row in cells.items() if len(row) == len(models) > 1}
    verdicts = {name: verdict(cell) for name, cell in best.items()}
    sentences = [f"{name}, selected on validation: {in_words(found)}" for name, found in verdicts.items()]
    plots = {f"reliability of {name}": reliability_plot(cell) for name, cell in best.items()}
    sheets = [_sheet(name, row) for name, row in cells.items()]
    return Answer("Behaviour models", {"cells": cells, "selected": verdicts}, sheets, sentences, plots)


def _sheet(name: str, cells: Sequence[dict[str, Any]]) -> Sheet:
    rows = []
    for cell in cells:
        gain = cell["test"]["click"]["log_loss_gain"]
        signals = (_figures(cell["test"][signal]) for signal in SIGNALS)
        rows.append((cell["model"], *signals, f"{gain['mean']:.4f} ({gain['low']:.4f} to {gain['high']:.4f})"))
    said = "AUC, log loss, ECE of"
    heads = ("model", f"{said} click", f"{said} click and conversion", "gain in click log loss (95%)")
    return Sheet(name, heads, rows)


def _figures(found: Mapping[str, Any]) -> str:
    return "–" if found["auc"] is None else " ".join(f"{found[name]:.4f}" for name in FIGURES)


def in_words(found: Mapping[str, Any]) -> str:
    """What `verdict` found, as a sentence."""
    gain = found["funnel"]
    arms = f"; arms of the other half: p = {found['arms_p_value']:.3f}" if "arms_p_value" in found else ""
    beats = "beats" if found["beats_item_mean"] else "does not beat"
    return (
        f"{found['model']} {beats} the item mean by {gain['mean']:.4f} in the log loss of an impression's outcome "
        f"(95%: {gain['low']:.4f} to {gain['high']:.4f}){arms}"
    )


def verdict(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the selected model beats the yardstick, with the gains in log loss."""
    found = {"model": cell["model"], "beats_item_mean": cell["test"]["funnel_gain"]["low"] > 0}
    found |= {signal: cell["test"][signal]["log_loss_gain"] for signal in SIGNALS}
    found["funnel"] = cell["test"]["funnel_gain"]
    return found | ({"arms_p_value": cell["arms"]["p_value"]} if "arms" in cell else {})


def reliability_plot(cell: Mapping[str, Any]) -> str:
    """Reliability of clicks by user activity and item popularity, one panel a bucket, as SVG."""
    from llmrec.evaluation.plots import Reliability, reliability_figure

    panels = {
        f"{what.replace('_', ' ')}: {bucket}": Reliability.of(found["reliability"])
        for what, buckets in cell["buckets"].items()
        for bucket, found in buckets.items()
    }
    return reliability_figure(panels)


def world_answer(world: World, seed: int, states: int) -> Answer:
    """Reward ensemble and judge beside the truth of a generated world."""
    split = make_split(world.dataset, "time")
    train, valid, test = (impressions(world.dataset, split, part) for part in ("train", "valid", "test"))
    start = time.perf_counter()
    reward, judge = fit_reward_and_judge(world.dataset, train, seed=seed, settings=SimulatorSettings(), valid=valid)
    figures: dict[str, Any] = {"fit_seconds": time.perf_counter() - start}
    users = [str(state.user_id) for state in test.states]
    click = world.expected_click_BN(users)[test.state_row_M, test.item_M]
    convert = world.expected_conversion_BN(users)[test.state_row_M, test.item_M]
    figures["truth"] = {"click_auc": auc(test.click_M, click), "joint_auc": auc(test.conversion_M, click * convert)}
    value_BN = world.value_BN(users[-states:])
    for name, model in (("reward", reward), ("judge", judge)):
        figures[name] = fit_report(model, test, train=train, seed=seed)
        figures[name]["value"] = value_agreement(model, test.states[-states:], value_BN, click=1.0, conversion=3.0)
    return Answer("Behaviour models of a generated world", figures, (_world_sheet(figures),))


def _world_sheet(figures: Mapping[str, Any]) -> Sheet:
    truth = figures["truth"]
    rows: list[Sequence[str]] = [("truth", f"{truth['click_auc']:.4f}", f"{truth['joint_auc']:.4f}", "", "")]
    for name in ("reward", "judge"):
        found, value = figures[name], figures[name]["value"]
        best = [f"{value[f'top{k}']:.4f} of {value[f'best{k}']:.4f}" for k in (1, 10)]
        rows.append((name, *(_figures(found[signal]) for signal in SIGNALS), *best))
    said = "AUC, log loss, ECE of"
    heads = ("model", f"{said} click", f"{said} click and conversion", "true value of its top item", "of its top ten")
    return Sheet("Reward and judge on the test period", heads, rows)
