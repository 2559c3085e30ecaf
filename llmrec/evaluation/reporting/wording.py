"""How values, durations and figures are written."""

from __future__ import annotations

import json
from typing import Any

from llmrec.evaluation.reporting.contents import RewardModelFacts
from llmrec.printing import lines


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
