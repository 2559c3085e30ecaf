"""How well do behaviour models know users? Real logs, model by model; or a generated world, whose truth is known.

    LLMREC_DATA=FOLDER python eval/simulator_fit.py --out runs/fit --json figures.json
    python eval/simulator_fit.py --data movielens-100k --models item-mean,gru --out runs/fit
    python eval/simulator_fit.py --data world --seed 123 --json figures.json

Cells (data set, model) that are finished under --out are not computed again, so the table may be made in pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from llmrec.config import SimulatorSettings, WorldConfig
from llmrec.dataset.impressions import impressions
from llmrec.dataset.split import make_split
from llmrec.dataset.world.world import generate_world
from llmrec.evaluation.drawing import save_svg
from llmrec.evaluation.plots import Reliability, reliability_figure
from llmrec.files import write_json
from llmrec.progress import Bar
from llmrec.simulator.ensemble import fit_reward_and_judge
from llmrec.simulator.metrics import auc, fit_report, value_agreement
from llmrec.studies.simulators import MODELS, SIGNALS, SOURCES, SimulatorStudy, selected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=",".join(SOURCES), help="data sets divided by commas, or world")
    parser.add_argument("--models", default=",".join(MODELS), help="models divided by commas")
    parser.add_argument("--out", type=Path, default=Path("runs/simulator_fit"), help="folder of the finished cells")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no further cell after so many minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--users", type=int, default=WorldConfig().users, help="of the world")
    parser.add_argument("--items", type=int, default=WorldConfig().items, help="of the world")
    parser.add_argument("--states", type=int, default=1000, help="latest test states of the world to compare")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures = world_figures(options) if options.data == "world" else table_figures(options)
    if options.json:
        write_json(options.json, figures)


def table_figures(options: argparse.Namespace) -> dict[str, Any]:
    root = Path(os.environ.get("LLMREC_DATA", Path(__file__).parents[2] / "shared" / "data"))
    studies = [SimulatorStudy(name, root, options.out, options.seed) for name in options.data.split(",")]
    models = options.models.split(",")
    cells: dict[str, list[dict[str, Any]]] = {study.name: [] for study in studies}
    start = time.perf_counter()
    with Bar("Cells (data set, model)", len(studies) * len(models), every_s=5.0) as bar:
        for study in studies:
            for model in models:
                if time.perf_counter() - start < 60 * options.minutes:
                    cells[study.name].append(study.cell(model))
                bar.advance(note=f"{study.name} {model}")
    figures: dict[str, Any] = {"seed": options.seed, "cells": cells, "selected": {}}
    for name, row in cells.items():
        print(table(name, row))
        if len(row) == len(models) > 1:
            figures["selected"][name] = verdict(selected(row))
            print(f"{name}, selected on validation: {in_words(figures['selected'][name])}\n")
            plot(selected(row), options.out / f"{name}.svg")
    return figures


def table(name: str, cells: list[dict[str, Any]]) -> str:
    lines = [f"{name} | AUC, log loss, ECE of click | of click and conversion | gain in click log loss (95%)"]
    for cell in cells:
        shown = [cell["test"][signal] for signal in SIGNALS]
        gain = shown[0]["log_loss_gain"]
        numbers = " | ".join(
            f"{f['auc']:.4f} {f['log_loss']:.4f} {f['calibration_error']:.4f}" for f in shown if f["auc"] is not None
        )
        lines.append(f"{cell['model']:12} | {numbers} | {gain['mean']:.4f} ({gain['low']:.4f} to {gain['high']:.4f})")
    return "\n".join(lines)


def in_words(found: dict[str, Any]) -> str:
    """What `verdict` found, as a sentence."""
    gain = found["funnel"]
    arms = f"; arms of the other half: p = {found['arms_p_value']:.3f}" if "arms_p_value" in found else ""
    beats = "beats" if found["beats_item_mean"] else "does not beat"
    return (
        f"{found['model']} {beats} the item mean by {gain['mean']:.4f} in the log loss of an impression's outcome "
        f"(95%: {gain['low']:.4f} to {gain['high']:.4f}){arms}"
    )


def plot(cell: dict[str, Any], path: Path) -> None:
    """Reliability of clicks by user activity and item popularity, one panel a bucket."""
    panels = {
        f"{what.replace('_', ' ')}: {bucket}": Reliability.of(found["reliability"])
        for what, buckets in cell["buckets"].items()
        for bucket, found in buckets.items()
    }
    save_svg(path, reliability_figure(panels))


def verdict(cell: dict[str, Any]) -> dict[str, Any]:
    found = {"model": cell["model"], "beats_item_mean": cell["test"]["funnel_gain"]["low"] > 0}
    found |= {signal: cell["test"][signal]["log_loss_gain"] for signal in SIGNALS}
    found["funnel"] = cell["test"]["funnel_gain"]
    return found | ({"arms_p_value": cell["arms"]["p_value"]} if "arms" in cell else {})


def world_figures(options: argparse.Namespace) -> dict[str, Any]:
    """Reward ensemble and judge beside the truth of a generated world."""
    world = generate_world(WorldConfig(users=options.users, items=options.items), seed=options.seed)
    split = make_split(world.dataset, "time")
    train, valid, test = (impressions(world.dataset, split, part) for part in ("train", "valid", "test"))
    start = time.perf_counter()
    reward, judge = fit_reward_and_judge(
        world.dataset, train, seed=options.seed, settings=SimulatorSettings(), valid=valid
    )
    figures: dict[str, Any] = {"fit_seconds": time.perf_counter() - start}
    users = [str(state.user_id) for state in test.states]
    click = world.expected_click_BN(users)[test.state_row_M, test.item_M]
    convert = world.expected_conversion_BN(users)[test.state_row_M, test.item_M]
    figures["truth"] = {"click_auc": auc(test.click_M, click), "joint_auc": auc(test.conversion_M, click * convert)}
    states = test.states[-options.states :]
    value_BN = world.value_BN(users[-options.states :])
    for name, model in (("reward", reward), ("judge", judge)):
        figures[name] = fit_report(model, test, train=train, seed=options.seed)
        figures[name]["value"] = value_agreement(model, states, value_BN, click=1.0, conversion=3.0)
    print(json.dumps(figures, indent=2))
    return figures


if __name__ == "__main__":
    main()
