"""What a page of one or several runs shows, put together for the templates."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmrec.evaluation.reporting.contents import RewardModelFacts
from llmrec.evaluation.reporting.figures import Figure, draw
from llmrec.evaluation.reporting.reported_run import ReportedRun, listed
from llmrec.evaluation.reporting.side_by_side import Joined, config_changes_of, config_differences, join, main_tables
from llmrec.evaluation.table import Comparison
from llmrec.printing import lines

Cells = dict[str, list[str]]
"""Rows of a table of words: a name, and a cell for each run."""


@dataclass(frozen=True)
class DataPart:
    """A data set with the runs that used it ("" for all of them)."""

    runs: str
    facts: Mapping[str, str]
    proxy: str


@dataclass(frozen=True)
class Page:
    """The contents of a page; `commands` are those that made it, after those of its runs."""

    runs: Sequence[ReportedRun]
    commands_of_page: Sequence[str] = ()

    @property
    def many(self) -> bool:
        """Whether there are several runs."""
        return len(self.runs) > 1

    @property
    def names(self) -> list[str]:
        """The runs' names."""
        return [run.name for run in self.runs]

    @property
    def title(self) -> str:
        """The heading."""
        return self.runs[0].report.title if not self.many else f"{len(self.runs)} runs side by side"

    @property
    def subtitle(self) -> str:
        """What stands below the heading."""
        return listed(self.names) if self.many else self.runs[0].report.date

    @property
    def private(self) -> bool:
        """Whether a user's history is shown."""
        return any(run.report.slates for run in self.runs)

    @cached_property
    def joined(self) -> list[Joined]:
        """All tables."""
        return join(self.runs)

    @cached_property
    def main(self) -> list[Comparison]:
        """The tables that a person looks at first."""
        return main_tables(self.joined)

    @cached_property
    def figures(self) -> list[Figure]:
        """All figures."""
        return draw(self.runs, self.joined)

    def part(self, part: str, run: str = "") -> list[Figure]:
        """The figures of a part of the page, of one run."""
        return [figure for figure in self.figures if figure.part == part and figure.run == run]

    def has(self, part: str) -> bool:
        """Whether anything stands in a part of the page."""
        reports = [run.report for run in self.runs]
        there = {
            "gate": any(r.gate is not None for r in reports),
            "simulator": any(r.simulator or r.exam for r in reports),
            "slates": self.private,
            "verdict": any(r.verdict is not None for r in reports),
            "comparison": bool(self.joined),
        }
        return there.get(part, False) or any(figure.part == part for figure in self.figures)

    @property
    def drawn_visits(self) -> str:
        """What the marks beside the items of slates mean; "" where no slate has any."""
        said = {run.report.visits for run in self.runs if run.report.slates and run.report.visits}
        return " ".join(sorted(said))

    @property
    def sections(self) -> list[tuple[str, str]]:
        """Anchors and headings, for the list of contents."""
        found = [
            ("short", "In short", self.has("verdict")),
            ("slates", "Slates", self.has("slates")),
            ("verdict", "The verdict in figures", self.has("verdict")),
            ("comparison", "Comparison", self.has("comparison")),
            ("worse", "What got worse", self.has("comparison")),
            ("gate", "Trust gate", self.has("gate")),
            ("training", "Training", self.has("training")),
            ("simulator", "Simulated users", self.has("simulator")),
            ("run", "What was run", True),
            ("configuration", "Configuration", True),
            ("machine", "Time and machine", True),
            ("limits", "Limits", bool(self.notes)),
            ("absent", "Not shown", bool(self.absent)),
            ("reproduce", "How to reproduce", True),
        ]
        return [(anchor, heading) for anchor, heading, there in found if there]

    @property
    def overview(self) -> Cells:
        """What was run, a column for each run."""
        return self._rows(
            {
                "ended": lambda run: run.report.date,
                "data": lambda run: run.report.data.name,
                "content hash": lambda run: run.report.data.content_hash[:16],
                "model": lambda run: run.report.model,
                "algorithm": lambda run: run.report.algorithm,
                "handed on": lambda run: run.report.handed_on,
                "seed": lambda run: ", ".join(f"{seed}" for seed in run.report.seeds.values()),
                "time": lambda run: duration(sum(run.report.seconds.values())) if run.report.seconds else "",
                "peak memory": lambda run: run.report.machine.get("peak memory", ""),
            }
        )

    def _rows(self, cells: Mapping[str, Callable[[ReportedRun], str]]) -> Cells:
        rows = {name: [cell(run) for run in self.runs] for name, cell in cells.items()}
        return {name: [text or "–" for text in row] for name, row in rows.items() if any(row)}

    def _union(self, facts: Callable[[ReportedRun], Mapping[str, str]]) -> Cells:
        names = dict.fromkeys(name for run in self.runs for name in facts(run))
        return {name: [facts(run).get(name, "–") for run in self.runs] for name in names}

    @property
    def seconds(self) -> Cells:
        """Time of each stage."""
        return self._union(lambda run: {stage: duration(s) for stage, s in run.report.seconds.items()})

    @property
    def machine(self) -> Cells:
        """Facts of the machine."""
        return self._union(lambda run: run.report.machine)

    @property
    def versions(self) -> Cells:
        """Versions of packages."""
        return self._union(lambda run: run.report.versions)

    @property
    def differences(self) -> Cells:
        """Configuration in which the runs differ."""
        return {key: [value(v) for v in row] for key, row in config_differences(self.runs).items()}

    @property
    def changes(self) -> Cells:
        """Configuration that differs from the defaults, which stand in the first column."""
        return {key: [value(v) for v in row] for key, row in config_changes_of(self.runs).items()}

    @property
    def data(self) -> list[DataPart]:
        """Each data set once, as it was split."""
        found: dict[tuple[str, str], list[ReportedRun]] = {}
        for run in self.runs:
            found.setdefault((run.report.data.content_hash, run.report.data.split), []).append(run)
        return [_data(runs, "" if len(found) == 1 else listed([run.name for run in runs])) for runs in found.values()]

    @property
    def notes(self) -> list[str]:
        """What limits the results."""
        return list(dict.fromkeys(note for run in self.runs for note in run.report.notes))

    @property
    def absent(self) -> list[str]:
        """What is not shown, and why."""
        return list(dict.fromkeys(said for run in self.runs for said in run.absent))

    @property
    def commands(self) -> list[str]:
        """Commands that make the runs and the page again."""
        return list(dict.fromkeys([c for run in self.runs for c in run.report.reproduce] + [*self.commands_of_page]))


def _data(runs: Sequence[ReportedRun], names: str) -> DataPart:
    data = runs[0].report.data
    facts = {
        "name": f"{data.name} ({data.domain})" if data.domain else data.name,
        "counts": ", ".join(f"{name} {count:,}" for name, count in data.counts.items()),
        "split": data.split,
        "click": data.click,
        "conversion": data.conversion,
        "feedback": data.feedback,
        "repeats": data.repeat,
        "import": data.imported,
        "content hash": data.content_hash,
        "source": data.source,
        "terms": data.terms,
    }
    return DataPart(names, {name: fact for name, fact in facts.items() if fact}, data.proxy)


def value(given: Any) -> str:
    """A configuration value: text as it is, anything else as JSON."""
    return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def figure(number: float | None) -> str:
    """Counts with thousands apart, other numbers with four places, a dash for none."""
    if number is None:
        return "–"
    if float(number).is_integer() and abs(number) >= 2:
        return f"{int(number):,}".replace("-", "−")
    return f"{number:.4f}".replace("-", "−")


def fenced(text: str) -> str:
    """A code block of Markdown whose fence the text cannot close."""
    fence, shown = "```", lines(text)
    while fence in shown:
        fence += "`"
    return f"{fence}\n{shown}\n{fence}"


def agreement(model: RewardModelFacts) -> str:
    """How often a learned reward model orders held-out preferences as the users did."""
    found = model.agreement
    if found is None:
        return ""
    return (
        f"The reward model agrees with {found.mean:.1%} ({100 * found.level:.0f}% interval {found.low:.1%} to "
        f"{found.high:.1%}) of {model.pairs:,} held-out preferences; chance is 50%."
    )
