"""What came of it: shares with their intervals, in tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmrec.errors import RequestError
from llmrec.evaluation.significance import wilson_bounds
from llmrec.studies.answer import Answer, Sheet
from llmrec.studies.gate_error.bench import RULES, SIDES
from llmrec.studies.gate_error.trainings import CHECKPOINTS, PATHS
from llmrec.studies.study import Pooled


def answer_of(found: Pooled) -> Answer:
    """Shares with Wilson's intervals, each people a world of its own."""
    asked = [one for shop in found.seeds for one in shop.facts["peoples"]]
    nulls = [null for one in asked for null in one["nulls"]]
    if not nulls:
        raise RequestError("No training gained nothing here; give more shops or larger ones.")
    groups = {"all": nulls} | {path: [null for null in nulls if null["path"] == path] for path in PATHS}
    ruled = {
        rule.name: {
            group: _share([null["promoted"][rule.name] is not None for null in own])
            for group, own in groups.items()
            if own
        }
        for rule in RULES
    }
    called = _share([null["improved"] for null in nulls])
    powers, coverage = _powers([row for one in asked for row in one["power"]], ruled), _coverage(asked)
    figures = {
        "worlds": len(asked),
        "nulls": {"trainings": len(nulls), "promoted": ruled, "called_improved": called},
        "power": powers,
        "coverage": coverage,
    }
    sentences = [
        f"Of {len(nulls)} trainings that gained nothing, called improved on the test period: {_percents(called)}."
    ]
    sheets = [_null_sheet(ruled, len(nulls)), *_power_sheets(powers), _coverage_sheet(coverage, len(asked))]
    plots = {"power": _power_plot(powers), "coverage": _coverage_plot(asked)}
    return Answer("How often the gate errs", figures, sheets, sentences, plots={k: v for k, v in plots.items() if v})


def _share(hits: Sequence[bool]) -> dict[str, Any]:
    """A share with Wilson's interval."""
    rate, count = np.array([np.mean(hits)]), np.array([float(len(hits))])
    low, high = wilson_bounds(rate, count)
    return {"mean": float(rate[0]), "low": float(low[0]), "high": float(high[0]), "of": len(hits)}


def _percents(share: Mapping[str, Any]) -> str:
    return "{:.1f}% ({:.1f} to {:.1f})".format(*(100 * share[name] for name in ("mean", "low", "high")))


def _powers(rows: Sequence[Mapping[str, Any]], ruled: Mapping[str, Any]) -> list[dict[str, Any]]:
    cases = dict.fromkeys((row["path"], row["rule"], row["part"], row["gain"]) for row in rows)
    made = []
    for case in cases:
        own = [row for row in rows if (row["path"], row["rule"], row["part"], row["gain"]) == case]
        path, rule, part, gain = case
        share = _share([row["promoted"] for row in own])
        users = float(np.mean([row["users"] for row in own]))
        made.append({"path": path, "rule": rule, "part": part, "users": users, "gain": gain, "promoted": share})
    whole = max((row["part"] for row in made), default=1.0)
    nulls = [
        {"path": row[0], "rule": row[1], "part": whole, "gain": 0.0, "promoted": ruled[row[1]][row[0]]}
        for row in dict.fromkeys((row["path"], row["rule"]) for row in made)
        if row[0] in ruled[row[1]]
    ]
    return [*nulls, *made]


def _coverage(asked: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By policy and by what the interval holds: how often the true gain lies in it, and how far off its middle is."""
    made: dict[str, Any] = {}
    for name in dict.fromkeys(policy for one in asked for policy in one["coverage"]):
        own = [one["coverage"][name] for one in asked if name in one["coverage"]]
        true_W = np.array([row["true"] for row in own])
        made[name] = {"true": float(true_W.mean()), "sides": {}}
        for side in own[0]["judged"]:
            mean_W, _, spread_W, low_W, high_W = np.array([row["judged"][side] for row in own]).T
            made[name]["sides"][side] = {
                "covered": _share(((low_W <= true_W) & (true_W <= high_W)).tolist()),
                "symmetric": _share((np.abs(mean_W - true_W) <= 1.96 * spread_W).tolist()),
                "below": float((high_W < true_W).mean()),
                "above": float((low_W > true_W).mean()),
                "judged": float(mean_W.mean()),
                "error": float(np.sqrt(((mean_W - true_W) ** 2).mean())),
                "width": float((high_W - low_W).mean()),
            }
    return made


def _null_sheet(ruled: Mapping[str, Any], trainings: int) -> Sheet:
    rows = [(rule, *(_percents(share) for share in own.values())) for rule, own in ruled.items()]
    title = f"Promotions in {trainings} trainings of {CHECKPOINTS} checkpoints that gained nothing (Wilson's 95%)"
    groups = next(iter(ruled.values()))
    return Sheet(title, ("rule", *(name if name == "all" else f"helped by {name}" for name in groups)), rows)


def _power_sheets(powers: Sequence[Mapping[str, Any]]) -> list[Sheet]:
    sheets = []
    for path, rule in dict.fromkeys((row["path"], row["rule"]) for row in powers):
        own = [row for row in powers if (row["path"], row["rule"]) == (path, rule)]
        parts = sorted({row["part"] for row in own})
        users = {row["part"]: row["users"] for row in own if "users" in row}
        cell = {(row["gain"], row["part"]): _percents(row["promoted"]) for row in own}
        rows = [
            (f"{100 * gain:g}%", *(cell.get((gain, part), "") for part in parts))
            for gain in sorted({row["gain"] for row in own})
        ]
        heads = ("true gain", *(f"{users[part]:.0f} users" for part in parts))
        sheets.append(Sheet(f"Promoted: {rule}, helped by {path}", heads, rows))
    return sheets


def _coverage_sheet(coverage: Mapping[str, Any], worlds: int) -> Sheet:
    rows = []
    for name, own in coverage.items():
        cells = [f"{100 * own['true']:+.1f}%"]
        for found in own["sides"].values():
            cells.append(f"{100 * found['judged']:+.1f}% ± {50 * found['width']:.1f}: {_percents(found['covered'])}")
        rows.append((name, *cells))
    sides = next(iter(coverage.values()))["sides"] if coverage else ()
    note = "Mean judged gain, half the interval's mean width, and how often the true gain lies in it (Wilson's 95%)."
    title = f"Coverage of 95% intervals of the gain, {worlds} worlds, in percent of the start's true value"
    return Sheet(title, ("policy", "true gain", *sides), rows, note)


def _power_plot(powers: Sequence[Mapping[str, Any]]) -> str:
    from llmrec.evaluation.plots import curve_figure

    parts = sorted({row["part"] for row in powers})
    wanted, points = [], []
    for path, rule in dict.fromkeys((row["path"], row["rule"]) for row in powers):
        own = [row for row in powers if (row["path"], row["rule"]) == (path, rule)]
        users = {row["part"]: f"{row['users']:.0f} users" for row in own if "users" in row}
        names = {part: f"{path}, {rule}/{users[part]}" for part in parts if part in users}
        wanted.append((f"{rule}: {path}", tuple(names.values())))
        points += [
            {"step": 100 * row["gain"], names[row["part"]]: row["promoted"]["mean"]}
            for row in sorted(own, key=lambda row: float(row["gain"]))
        ]
    return curve_figure(points, wanted, label="Share promoted", xlabel="true gain, %")


def _coverage_plot(asked: Sequence[Mapping[str, Any]]) -> str:
    from llmrec.evaluation.plots import coverage_figure

    shown = {}
    for name in dict.fromkeys(policy for one in asked for policy in one["coverage"]):
        own = [one["coverage"][name] for one in asked if name in one["coverage"]]
        for side in SIDES:
            limits = np.array([[row["judged"][side][3], row["judged"][side][4], row["true"]] for row in own])
            shown[f"{name}, {side}"] = 100 * (limits[:, :2] - limits[:, 2:])
    return coverage_figure(shown, xlabel="judged less true gain, %")
