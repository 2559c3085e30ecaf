"""The figures of a report, each an `<svg>` element: training curves, reliability, comparison of systems."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from llmrec.evaluation.drawing import BLUE, GRID, INK, MUTED, ORANGE, SERIES, columns_for, panels, style, to_svg
from llmrec.evaluation.significance import wilson_bounds
from llmrec.evaluation.table import Cell, Comparison
from llmrec.types import FloatArray

Curve = Sequence[Mapping[str, float]]
"""One entry a logging step: "step" and any figures."""

PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Reward", ("reward",)),
    ("Reward terms", ("reward/*",)),
    ("KL from the SFT policy (nats)", ("rollout_kl | kl",)),
    ("Entropy (nats)", ("rollout_entropy | entropy",)),
    ("Loss", ("policy_loss | loss",)),
    ("Value loss", ("value_loss",)),
    ("Implied rewards (nats)", ("rewards/chosen", "rewards/rejected")),
    ("Pairs in order (share)", ("rewards/accuracies | accuracy",)),
    ("Clipped ratios (share)", ("clip_fraction",)),
    ("Groups without spread (share)", ("flat_groups",)),
    ("Rehearsed tasks (nats)", ("rehearsal_loss",)),
    ("Turns of a session", ("turns",)),
    ("Users who left (share)", ("left",)),
    ("Simulators at checkpoints", ("gate/*",)),
    ("Held-out events at checkpoints", ("ranking/*",)),
)
"""What is drawn of an improvement, whatever the trainer: a key, the first of several (a | b), or all below (a/*)."""


WATCHED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Reward", ("reward",)),
    ("Simulators at checkpoints", ("gate/reward simulator", "gate/judge")),
    ("NDCG@5 at checkpoints", ("ranking/NDCG@5",)),
    ("KL from the SFT policy (nats)", ("rollout_kl",)),
    ("Entropy (nats)", ("rollout_entropy",)),
    ("Groups without spread (share)", ("flat_groups",)),
)
"""What to look at first in a training; see docs/recipe.md."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """Predicted against observed rates in bins of nearly equal count: shapes (J,); `count_J` events in each.

    `low_J` and `high_J` bound the observed rate (95%); without them Wilson's interval takes events as independent.
    """

    predicted_J: FloatArray
    observed_J: FloatArray
    count_J: FloatArray
    low_J: FloatArray | None = None
    high_J: FloatArray | None = None

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, float]]) -> Reliability:
        """From `simulator.binning.bins_of`."""
        names = [name for name in ("predicted", "observed", "count", "low", "high") if name in rows[0]]
        return cls(*(np.array([row[name] for row in rows]) for name in names))

    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """The interval of each bin's observed rate."""
        if self.low_J is None or self.high_J is None:
            return wilson_bounds(self.observed_J, self.count_J)
        return self.low_J, self.high_J


def loss_figure(curve: Curve, key: str = "loss", title: str = "SFT loss (nats per answer token)") -> str:
    """The loss over the optimiser's steps."""
    return curve_figure(curve, ((title, (key,)),), label=title, width=6.4)


def improvement_figure(curve: Curve, algorithm: str) -> str:
    """Reward, its terms, KL, entropy, losses and accuracy; panels without data are left out."""
    present = list(dict.fromkeys(key for entry in curve for key in entry))
    wanted = [(title, tuple(k for key in keys for k in _matching(key, present))) for title, keys in PANELS]
    xlabel = "rollout" if "reward" in present else "step"
    return curve_figure(curve, wanted, label=f"{algorithm} training curves", xlabel=xlabel)


def _matching(wanted: str, present: Sequence[str]) -> list[str]:
    if wanted.endswith("/*"):
        return [key for key in present if key.startswith(wanted[:-1])]
    return [key for key in wanted.split(" | ") if key in present][:1]


def gate_figure(table: Comparison) -> str:
    """Differences to the reference with their paired intervals, one panel a measure."""
    rows = {system: row for system, row in table.cells.items() if system != table.reference}
    cells = {
        system: {m: Cell(c.difference.mean, c.difference) for m, c in row.items() if c.difference is not None}
        for system, row in rows.items()
    }
    base = {metric: Cell(0.0) for row in cells.values() for metric in row}
    reference = table.reference or "reference"
    return comparison_figure(Comparison(table.title, {reference: base} | cells, reference, labels=table.labels))


def curve_figure(
    curve: Curve,
    wanted: Sequence[tuple[str, tuple[str, ...]]],
    *,
    label: str,
    xlabel: str = "step",
    width: float = 9.6,
) -> str:
    """One panel for each (title, keys) of `wanted` that the curve has; "" where it has none."""
    found = [(title, [k for k in keys if any(k in e for e in curve)]) for title, keys in wanted]
    found = [(title, keys) for title, keys in found if keys]
    if not found:
        return ""
    with style():
        columns = columns_for(len(found))
        figure, axes = panels(len(found), columns, width=width)
        for axis, (title, keys) in zip(axes, found, strict=True):
            looks = itertools.product(("solid", "dashed", "dotted"), SERIES)
            for (dashes, colour), key in zip(itertools.cycle(looks), keys, strict=False):
                _line(axis, curve, key, colour, dashes)
            axis.set_title(title)
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axis.yaxis.set_major_locator(MaxNLocator(5))
            if len(keys) > 1:
                legend_above(axis)
        for axis in axes[-columns:]:
            axis.set_xlabel(xlabel)
        return to_svg(figure, label)


LEGEND_LETTERS = 46
"""So many letters of 8.5 points fit beside one another in a panel; a line and its gaps take some five."""


def legend_above(axis: Axes) -> None:
    """Names the lines in a band of their own above them, whatever course they take."""
    handles, labels = axis.get_legend_handles_labels()
    lengths = [len(text) + 5 for text in labels]
    columns = len(labels) if sum(lengths) <= LEGEND_LETTERS else max(1, LEGEND_LETTERS // max(lengths, default=1))
    share = min(0.09 * -(-len(labels) // columns), 0.6)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + (high - low) * share / (1 - share))
    gaps = {
        "borderaxespad": 0.1,
        "handlelength": 1.4,
        "columnspacing": 1.0,
        "handletextpad": 0.4,
        "labelspacing": 0.2,
    }
    axis.legend(handles, labels, fontsize=8.5, loc="upper left", ncols=columns, **gaps)


def _line(axis: Axes, curve: Curve, key: str, colour: str, dashes: str) -> None:
    label = key.rpartition("/")[2]
    points = [(e["step"], e[key]) for e in curve if key in e and "step" in e and np.isfinite(e[key])]
    if not points:
        return
    x, y = np.array(points, dtype=np.float64).T
    window = len(x) // 12
    if window < 3:
        axis.plot(x, y, color=colour, linestyle=dashes, label=label, marker="o", markersize=2.5)
        return
    # Noise stays visible, pale, behind the running mean of its last points.
    axis.plot(x, y, color=colour, alpha=0.28, linewidth=0.8)
    total = np.concatenate(([0.0], np.cumsum(y)))
    low = np.maximum(np.arange(1, len(y) + 1) - window, 0)
    high = np.arange(1, len(y) + 1)
    axis.plot(x, (total[high] - total[low]) / (high - low), color=colour, linestyle=dashes, label=label)


def reliability_figure(bins: Mapping[str, Reliability]) -> str:
    """Reliability diagrams, one panel a signal: observed rate (95% interval) over predicted probability."""
    if not bins:
        return ""
    with style():
        columns = columns_for(len(bins))
        figure, axes = panels(len(bins), columns, width=min(9.6, 3.7 * columns), height=3.2)
        for axis, (title, found) in zip(axes, bins.items(), strict=True):
            low_J, high_J = found.bounds()
            top = float(min(1.0, 1.08 * max(found.predicted_J.max(), high_J.max(), 1e-3)))
            axis.plot([0, top], [0, top], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            axis.vlines(found.predicted_J, low_J, high_J, color=BLUE, linewidth=1.2, alpha=0.6)
            axis.plot(
                found.predicted_J, found.observed_J, color=BLUE, marker="o", markersize=4, linewidth=1, clip_on=False
            )
            axis.set(xlim=(0, top), ylim=(0, top), xlabel="predicted", ylabel="observed", title=title)
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_formatter(PercentFormatter(1.0, decimals=0 if top > 0.05 else 1))
                side.set_major_locator(MaxNLocator(5))
        return to_svg(figure, "Reliability of the simulator: " + ", ".join(bins))


def coverage_figure(limits: Mapping[str, FloatArray], *, xlabel: str) -> str:
    """Intervals less the truth, (W, 2) a panel, in order of their middles: those that miss 0 stand out."""
    if not limits:
        return ""
    with style():
        columns = min(2, columns_for(len(limits)))
        figure, axes = panels(len(limits), columns, height=2.6)
        for axis, (title, limit_W2) in zip(axes, limits.items(), strict=True):
            limit_W2 = limit_W2[np.argsort(limit_W2.mean(axis=1), kind="stable")]
            missed_W = (limit_W2[:, 0] > 0) | (limit_W2[:, 1] < 0)
            for chosen_W, colour in ((~missed_W, BLUE), (missed_W, ORANGE)):
                rows = np.flatnonzero(chosen_W)
                axis.hlines(rows, limit_W2[rows, 0], limit_W2[rows, 1], color=colour, linewidth=0.9)
            axis.axvline(0.0, color=MUTED, linewidth=0.8)
            axis.set(title=f"{title}: {100 * (1 - missed_W.mean()):.0f}%", yticks=[])
        for axis in axes[-columns:]:
            axis.set_xlabel(xlabel)
        return to_svg(figure, "Intervals less the truth: " + ", ".join(limits))


def comparison_figure(comparison: Comparison, metrics: Sequence[str] | None = None) -> str:
    """A forest plot: every system's mean with its interval, one panel a metric; the reference is a dashed line."""
    shown = [m for m in (metrics or comparison.metrics) if m in comparison.metrics]
    if not shown:
        return ""
    with style():
        columns = columns_for(len(shown))
        figure, axes = panels(len(shown), columns, height=0.75 + 0.25 * len(comparison.systems))
        for place, (axis, metric) in enumerate(zip(axes, shown, strict=True)):
            _forest(axis, comparison, metric, names=place % columns == 0)
        return to_svg(figure, comparison.title)


def _forest(axis: Axes, comparison: Comparison, metric: str, *, names: bool) -> None:
    scale = 100.0 if metric in comparison.percent else 1.0
    for row, system in enumerate(comparison.systems):
        cell = comparison.cells[system].get(metric)
        if cell is None:
            continue
        colour = INK if system == comparison.reference else BLUE
        if cell.interval is not None:
            axis.hlines(row, scale * cell.interval.low, scale * cell.interval.high, color=colour, linewidth=1.6)
        axis.plot(scale * cell.mean, row, "o", color=colour, markersize=4.5)
        if system == comparison.reference:
            axis.axvline(scale * cell.mean, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    axis.set_yticks(range(len(comparison.systems)), [_short(s) for s in comparison.systems] if names else [])
    axis.tick_params(axis="y", labelcolor=INK)
    axis.set_ylim(len(comparison.systems) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")
    axis.spines["left"].set_color(GRID)
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.set_title(comparison.label(metric) + (" (%)" if scale == 100.0 else ""))


def _short(text: str, limit: int = 34) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
