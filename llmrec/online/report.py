"""What a stretch of online learning has come to: reward by day and version, and every decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import RewardSettings
from llmrec.files import write_json, write_text
from llmrec.online.cycle import Decision, slate_reward
from llmrec.online.events import Logged
from llmrec.types import FloatArray

_DAY = 86_400
MARKS: Mapping[str, tuple[str, str]] = {
    "promoted": ("^", "promoted"),
    "refused": ("x", "refused"),
    "taken back": ("v", "taken back"),
    "alarm": ("|", "alarm"),
    "changed": ("D", "changed by hand"),
}


@dataclass(frozen=True)
class Days:
    """Slates by the day of the log on which they were served, counted from its first.

    Attributes:
        reward_D: what they earned a place, on the average; NaN on a day without slates.
        slates_D: how many there were.
        versions_D: how many by each version.
        value_D: what they were truly worth, where a simulation knows.
    """

    reward_D: FloatArray
    slates_D: Sequence[int]
    versions_D: Sequence[Mapping[int, int]]
    value_D: FloatArray | None = None


def by_day(
    slates: Sequence[Logged], reward: RewardSettings, start: int, value_M: Sequence[float] | FloatArray | None = None
) -> Days:
    """Slates by day since `start` (seconds); `value_M` is what each is truly worth."""
    days = 1 + max(((one.time - start) // _DAY for one in slates), default=-1)
    rows: list[list[int]] = [[] for _ in range(days)]
    for row, one in enumerate(slates):
        rows[(one.time - start) // _DAY].append(row)
    earned_M = np.array([slate_reward(one, reward) for one in slates])

    def mean(value_M: FloatArray) -> FloatArray:
        return np.array([value_M[own].mean() if own else np.nan for own in rows])

    versions = [dict(sorted(Counter(slates[row].served.version for row in own).items())) for own in rows]
    known = None if value_M is None else mean(np.asarray(value_M))
    return Days(mean(earned_M), [len(own) for own in rows], versions, known)


def figures(days: Days, decisions: Sequence[Decision], start: int) -> dict[str, Any]:
    """Everything, for JSON."""
    found = {"reward": days.reward_D.tolist(), "slates": list(days.slates_D)}
    if days.value_D is not None:
        found["value"] = days.value_D.tolist()
    versions = [{str(version): count for version, count in counted.items()} for counted in days.versions_D]
    told = [{"day": day_of(one, start), **asdict(one)} for one in decisions]
    return {"by_day": {**found, "versions": versions}, "decisions": told}


def day_of(decision: Decision, start: int) -> float:
    """The day of a decision, counted from 0."""
    return round((decision.time - start) / _DAY, 2)


def lines(days: Days, decisions: Sequence[Decision], start: int) -> list[str]:
    """Markdown: a table of days, and the decisions below it."""
    known = days.value_D is not None
    made = ["| day | slates | versions | reward a place |" + (" true value |" if known else "")]
    made.append("|---:|---:|---|---:|" + ("---:|" if known else ""))
    for day, (reward, count, versions) in enumerate(zip(days.reward_D, days.slates_D, days.versions_D, strict=True)):
        who = ", ".join(f"{version}: {n}" for version, n in versions.items())
        value = "" if days.value_D is None else f" {days.value_D[day]:.4f} |"
        made.append(f"| {day + 1} | {count} | {who} | {reward:.4f} |{value}")
    said = [f"- day {day_of(one, start) + 1:.0f}, {sentence(one)}" for one in decisions]
    return [*made, "", *said]


def sentence(decision: Decision) -> str:
    """A decision in words."""
    about = f"version {decision.version}" if decision.version else "no version"
    return f"{about} {decision.kind}: {decision.reason or 'no reason was given'}"


def draw(days: Days, decisions: Sequence[Decision], start: int, title: str) -> str:
    """Reward of what was served by day, with the versions and what was decided of them: SVG."""
    # matplotlib takes a second to import
    from llmrec.evaluation.drawing import BLUE, MUTED, ORANGE, panels, style, to_svg

    with style():
        figure, (axis,) = panels(1, 1, width=9.6, height=3.2)
        x = np.arange(1, len(days.reward_D) + 1)
        colour = BLUE if days.value_D is None else MUTED
        axis.plot(x, days.reward_D, label="reward as it was logged", color=colour, marker="o", markersize=2.5)
        if days.value_D is not None:
            axis.plot(x, days.value_D, color=BLUE, label="true value of what was served")
        low, high = axis.get_ylim()
        axis.set_ylim(low - 0.12 * (high - low), high)
        told: set[str] = set()
        for one in decisions:
            if one.kind not in MARKS:
                continue
            marker, name = MARKS[one.kind]
            at = day_of(one, start) + 1
            if one.kind in ("promoted", "taken back", "changed"):
                axis.axvline(at, color=MUTED, linewidth=0.6, linestyle="dotted")
                axis.annotate(str(one.version), (at, low), fontsize=7, color=MUTED, ha="center")
            label = None if name in told else name
            axis.plot([at], [low - 0.08 * (high - low)], marker=marker, color=ORANGE, linestyle="", label=label)
            told.add(name)
        axis.set_title(title, pad=22)
        axis.set_xlabel("day")
        axis.locator_params(axis="x", integer=True)
        # above the axes, where no line of the plot runs through it
        axis.legend(fontsize=8, ncols=6, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2)
        return to_svg(figure, title)


def write(
    out: Path, days: Days, decisions: Sequence[Decision], start: int, *, title: str, facts: Mapping[str, Any]
) -> None:
    """Writes `report.json`, `report.md` and `report.svg` into `out`."""
    from llmrec.evaluation.drawing import save_svg

    write_json(out / "report.json", {**facts, **figures(days, decisions, start)})
    told = [f"- {name}: {value}" for name, value in facts.items() if not isinstance(value, Mapping)]
    page = [f"# {title}", "", *told, "", "![Reward by day](report.svg)", "", *lines(days, decisions, start)]
    write_text(out / "report.md", "\n".join(page) + "\n")
    save_svg(out / "report.svg", draw(days, decisions, start, title))
