"""What a month came to: rewards, recoveries, what became of bad versions, costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmrec.studies.answer import Answer, Sheet
from llmrec.studies.online.month import AFTER, BEFORE, END, FROZEN, INFORMED, UPDATED, Month
from llmrec.studies.study import Pooled, over_seeds

RECOVERED = 0.9
"""Share of the informed optimum at which an arm is back."""


def recovery(by_day: Mapping[str, Sequence[float]], arm: str, month: Month) -> dict[str, Any]:
    """When an arm is back at 90% of the informed optimum: items shown since the shift, or how far it came.

    By the mean of three days, so that one lucky day is none.
    """
    half = month.days // 2
    share_D = np.array(by_day[arm][half:]) / np.array(by_day[INFORMED][half:])
    three_D = np.convolve(share_D, np.ones(3) / 3, mode="valid")
    there = np.flatnonzero(three_D >= RECOVERED)
    shown = None if not len(there) else int((there[0] + 3) * month.visits * month.places)
    return {"interactions": shown, "share": float(share_D[-5:].mean()), "first": float(share_D[:3].mean())}


def answer_of(pooled: Pooled, month: Month) -> Answer:
    """Rewards, recoveries, what became of bad versions, costs."""
    arms = (*month.played, INFORMED)
    facts = [one.facts for one in pooled.seeds]
    found: dict[str, Any] = {"arms": {}, "seeds": {}}
    rows = []
    for arm in arms:
        means = {part: pooled.means(arm, part) for part in (BEFORE, AFTER, END)}
        back = [recovery(one["by_day"], arm, month) for one in facts]
        cost = [one[arm]["cpu_seconds"] if arm in one else 0.0 for one in facts]
        entry: dict[str, Any] = {part: over_seeds(value) for part, value in means.items()}
        entry |= {
            "recovery": back,
            "cpu_seconds": over_seeds(cost),
            "share": over_seeds([one["share"] for one in back]),
        }
        if arm not in (FROZEN, INFORMED):
            gains = [a - b for a, b in zip(means[AFTER], pooled.means(FROZEN, AFTER), strict=True)]
            rows_gain = pooled.difference(arm, FROZEN, AFTER, samples=1000, seed=0)
            entry["gain"] = {"over seeds": over_seeds(gains), "over slates": dataclasses.asdict(rows_gain)}
        found["arms"][arm] = entry
        times = [one["interactions"] for one in back]
        said = ", ".join("never" if one is None else f"{one:,}" for one in times)
        cells = [f"{np.mean(means[part]):.4f}" for part in (BEFORE, AFTER, END)]
        rows.append([arm, *cells, _interval([one["share"] for one in back], 3), said, f"{np.mean(cost):.0f}"])
    title = "True value a place of what was served"
    heads = [
        "",
        BEFORE,
        AFTER,
        f"{END} (5)",
        "share of the informed optimum, last 5 days",
        "items until 90%",
        "CPU s",
    ]
    tables = [Sheet(title, heads, rows, "Items until 90%: shown since the shift, one figure a seed.")]
    found["seeds"] = {
        one.seed: {"by_day": one.facts["by_day"], **{arm: _plain(one.facts[arm]) for arm in month.learning}}
        for one in pooled.seeds
    }
    sentences = [_said(one.seed, arm, one.facts[arm]) for one in pooled.seeds for arm in month.learning]
    plots = {f"world-{one.seed}": one.facts[UPDATED]["svg"] for one in pooled.seeds}
    return Answer("A month with a shift of demand", found, tables, sentences, plots)


def _plain(told: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in told.items() if key != "svg"}


def _interval(values: Sequence[float], digits: int) -> str:
    told = over_seeds(values)
    if "low" not in told:
        return f"{values[0]:.{digits}f}"
    return f"{told['mean']:.{digits}f} ({told['low']:.{digits}f} to {told['high']:.{digits}f})"


def _said(seed: int, arm: str, told: Mapping[str, Any]) -> str:
    bad = told["bad"]
    passed = [name for name in ("noise", "turned") if bad[name]["promoted"]]
    gate = "neither bad version passed the gate" if not passed else f"{' and '.join(passed)} passed the gate"
    back = (
        f"the one promoted without it was taken back on day {bad['day']} after {bad['slates']} slates, and made "
        f"{bad['served three days later']} slates from the third day on"
        if bad["taken back"]
        else f"the one promoted without it was not taken back ({bad['slates']} slates)"
    )
    return (
        f"World {seed}, {arm}: {told['promoted']} updates promoted, {told['refused']} refused, "
        f"{told['taken back']} taken back; alarms on days {told['alarms']}; {gate}; {back}."
    )
