"""Estimates held against known values on real data: which data and logs, and the tables and plot of the answer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from llmrec.dataset.importers import import_dataset
from llmrec.errors import ConfigError
from llmrec.studies.answer import Answer, Sheet
from llmrec.studies.off_policy.coverage import BOUNDS
from llmrec.studies.off_policy.hillstrom import REWARDS, HillstromWorld, run_hillstrom
from llmrec.studies.off_policy.jester import PAIRS, JesterWorld, run_jester
from llmrec.studies.off_policy.open_bandit import run_open_bandit

DataName = Literal["jester", "hillstrom", "open-bandit"]
SHOWN = ("IPS", "SNIPS", "DR")
PAIR = "logs of → value of"


def run_off_policy(
    dataset: DataName,
    source: Path,
    out: Path,
    *,
    logs: int = 1000,
    pairs: Sequence[int] | None = None,
    rewards: Sequence[str] | None = None,
    bootstrap: bool = False,
    seed: int = 0,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Measures, prints the tables and returns their figures.

    Args:
        dataset: whose truth is known, or measured in another half or log.
        source: the data's folder.
        out: folder of the answer.
        logs: logs (jester) or splits (hillstrom).
        pairs: numbers of pairs of jester; all by default.
        rewards: of hillstrom; visit and conversion by default.
        bootstrap: jester: measure bootstrap-t intervals too.
        seed: of logs and splits.
        json_file: the figures are also written here.

    Raises:
        ConfigError: fewer than two logs, or a pair that there is not.
    """
    if logs < 2:
        raise ConfigError(f"--logs is {logs}; coverage needs at least 2.")
    began, busy = time.monotonic(), time.process_time()
    if dataset == "open-bandit":
        results = run_open_bandit(source, seed=seed)
        content_hash = " ".join(dict.fromkeys(h for result in results for h in result["content_hashes"]))
    else:
        data = import_dataset(dataset, source)
        content_hash = data.manifest.content_hash
        if dataset == "hillstrom":
            world = HillstromWorld.of(source)
            results = run_hillstrom(world, logs=logs, seed=seed, rewards=rewards or REWARDS[:2])
        else:
            chosen = _pairs(pairs)
            results = run_jester(JesterWorld.of(data), logs=logs, seed=seed, pairs=chosen, resampled=bootstrap)
    figures = {
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(time.process_time() - busy, 1),
        "results": results,
    }
    return answer_of(dataset, results, figures).finish(out, json_file, seed=seed, content_hash=content_hash)


def _pairs(numbers: Sequence[int] | None) -> Sequence[tuple[str, str]]:
    wrong = [n for n in numbers or () if not 0 <= n < len(PAIRS)]
    if wrong:
        raise ConfigError(f"--pairs names {wrong[0]}; the pairs are 0 to {len(PAIRS) - 1}.")
    return PAIRS if numbers is None else [PAIRS[n] for n in numbers]


def answer_of(dataset: DataName, results: Sequence[dict[str, Any]], figures: Mapping[str, Any]) -> Answer:
    """Coverage and error by pair, or estimates beside the other log's own mean."""
    title = f"Off-policy estimates on {dataset}"
    if dataset == "open-bandit":
        refusals = [f"{result['pair']}: {result['refusal']}" for result in results if result["refusal"]]
        return Answer(title, figures, estimate_sheets(results), refusals)
    plots = {"overlap": overlap_figure(results)} if dataset == "jester" else {}
    return Answer(title, figures, (coverage_sheet(results),), plots=plots)


def coverage_sheet(results: Sequence[dict[str, Any]]) -> Sheet:
    """Pairs by overlap and refused logs, and coverage and RMSE of each estimator."""
    names = list(results[0]["estimators"])
    heads = [f"{name}: coverage" + (" · RMSE" if "rmse" in results[0]["estimators"][name] else "") for name in names]
    rows = []
    for result in results:
        row = [result["pair"], f"{result['effective_samples']:.0f}", f"{result['max_share']:.1%}"]
        row.append(f"{result['refused']:.0%}")
        for name in names:
            figures = result["estimators"][name]
            mark = "" if figures["within_bounds"] else " !"
            error = f" · {figures['rmse']:.3g}" if "rmse" in figures else ""
            row.append(f"{figures['coverage']:.1%}{mark}{error}")
        rows.append(row)
    note = f"Nominal coverage 95%, {results[0]['logs']} logs each; ! lies outside {BOUNDS[0]:.1%} to {BOUNDS[1]:.1%}."
    return Sheet("Coverage", (PAIR, "n_eff", "largest share", "refused", *heads), rows, note)


def estimate_sheets(results: Sequence[dict[str, Any]]) -> tuple[Sheet, Sheet]:
    """For each direction the target's own mean, each estimate, and the overlap; clicks in percent."""
    names = list(results[0]["estimates"])
    rows, slates = [], []
    for result in results:
        estimates = [result["estimates"][name] for name in names]
        own = _percent(result["own_log"]["mean"], result["own_log"])
        weights = result["weights"]
        overlap = (f"{weights['effective_samples']:.0f}", f"{weights['max_share']:.1%}")
        rows.append((result["pair"], own, *(_percent(e["value"], e["interval"]) for e in estimates), *overlap))
        both = (result["own_log_item_position"], result["item_position_ips"])
        slates.append((result["pair"], *(_percent(found["value"], found) for found in both)))
    return (
        Sheet("Clicks of an impression (%)", (PAIR, "its own log", *names, "n_eff", "largest share"), rows),
        Sheet("Clicks of a whole slate (%)", (PAIR, "its own log", "item-position IPS"), slates),
    )


def _percent(value: float, interval: Mapping[str, Any] | None) -> str:
    shown = f"{100 * value:.2f}"
    return shown if interval is None else f"{shown} ({100 * interval['low']:.2f} to {100 * interval['high']:.2f})"


def overlap_figure(results: Sequence[dict[str, Any]]) -> str:
    """Coverage and RMSE (in IPS's) against effective samples, one point a pair and reward."""
    from llmrec.evaluation.drawing import GRID, MUTED, SERIES, panels, style, to_svg

    with style():
        figure, (left, right) = panels(2, height=3.2)
        effective = [result["effective_samples"] for result in results]
        for name, colour, marker in zip(SHOWN, SERIES, "os^", strict=True):
            coverage = [result["estimators"][name]["coverage"] for result in results]
            rmse = [result["estimators"][name]["rmse"] / result["estimators"]["IPS"]["rmse"] for result in results]
            left.scatter(effective, coverage, color=colour, marker=marker, label=name)
            right.scatter(effective, rmse, color=colour, marker=marker, label=name)
        left.axhspan(*BOUNDS, color=GRID, zorder=0)
        left.axhline(0.95, color=MUTED, linewidth=1)
        for axis, title in ((left, "Coverage of the 95% interval"), (right, "RMSE / RMSE of IPS")):
            axis.set(xscale="log", xlabel="effective samples (median)", title=title)
            axis.legend()
        return to_svg(figure, "Coverage and RMSE by effective samples")
