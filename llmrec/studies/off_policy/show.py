"""The trials' figures as tables and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmrec.studies.off_policy.coverage import BOUNDS

SHOWN = ("IPS", "SNIPS", "DR")


def coverage_table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: pairs by overlap and refused logs, and coverage and RMSE of each estimator."""
    names = list(results[0]["estimators"])
    heads = [f"{name}: coverage" + (" · RMSE" if "rmse" in results[0]["estimators"][name] else "") for name in names]
    rows = [["logs of → value of", "n_eff", "largest share", "refused", *heads]]
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
    return f"{_markdown(rows)}\n\n{note}"


def estimate_table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: for each direction the target's own mean, each estimate, and the overlap; clicks in percent."""
    names = list(results[0]["estimates"])
    rows = [["logs of → value of", "its own log", *names, "n_eff", "largest share"]]
    for result in results:
        estimates = [result["estimates"][name] for name in names]
        weights = result["weights"]
        rows.append(
            [
                result["pair"],
                _percent(result["own_log"]["mean"], result["own_log"]),
                *(_percent(estimate["value"], estimate["interval"]) for estimate in estimates),
                f"{weights['effective_samples']:.0f}",
                f"{weights['max_share']:.1%}",
            ]
        )
    slates = [["clicks of a whole slate", "its own log", "item-position IPS"]]
    for result in results:
        own, found = result["own_log_item_position"], result["item_position_ips"]
        slates.append([result["pair"], _percent(own["value"], own), _percent(found["value"], found)])
    refusals = [f"{result['pair']}: {result['refusal']}" for result in results if result["refusal"]]
    return "\n\n".join([_markdown(rows), _markdown(slates), *refusals])


def _percent(value: float, interval: Mapping[str, Any] | None) -> str:
    shown = f"{100 * value:.2f}"
    return shown if interval is None else f"{shown} ({100 * interval['low']:.2f} to {100 * interval['high']:.2f})"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(rows[0]) - 1), *lines[1:]])


def plot_overlap(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Coverage and RMSE (in IPS's) against effective samples, one point a pair and reward."""
    from matplotlib.figure import Figure

    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, marker in zip(SHOWN, "os^", strict=True):
        effective = [result["effective_samples"] for result in results]
        coverage = [result["estimators"][name]["coverage"] for result in results]
        rmse = [result["estimators"][name]["rmse"] / result["estimators"]["IPS"]["rmse"] for result in results]
        left.scatter(effective, coverage, marker=marker, label=name, alpha=0.8)
        right.scatter(effective, rmse, marker=marker, label=name, alpha=0.8)
    left.axhspan(*BOUNDS, color="0.9", zorder=0)
    left.axhline(0.95, color="0.6", linewidth=1)
    left.set_ylabel("coverage of the 95% interval")
    right.set_ylabel("RMSE / RMSE of IPS")
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_xlabel("effective samples (median)")
        axis.legend(frameon=False)
    figure.savefig(path, dpi=150)
