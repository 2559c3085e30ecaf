"""The finished table as files: JSON with everything, and a page of Markdown to read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmrec.evaluation.facts import machine_facts, package_versions
from llmrec.files import write_json, write_text
from llmrec.studies.table.board import Leaderboard
from llmrec.studies.table.protocol import TableData

COLUMNS = ("HR@5", "HR@10", "NDCG@5", "NDCG@10", "MRR@10", "coverage@20", "judge")
"""Of the page, where they were measured; the JSON has all."""
SHORT = ("HR@10", "NDCG@10", "coverage@20", "judge")
"""Of the terminal, where long names of systems need the room."""


def write(board: Leaderboard, bench: TableData, out: Path, command: str) -> None:
    """`table.json` and `table.md` in `out`."""
    manifest = bench.dataset.manifest
    rows = {"train": bench.before.split.train.height, "before test": bench.after.split.train.height}
    facts: dict[str, Any] = {
        "command": command,
        "data": {"name": manifest.name, "hash": manifest.content_hash, "proxy": manifest.proxy},
        "rows": rows | {"valid": len(bench.valid), "test": len(bench.test)},
        "machine": machine_facts(),
        "versions": package_versions(),
    }
    tree = {"main": board.main.to_json(), "further": board.further.to_json(), "systems": board.facts}
    write_json(out / "table.json", facts | tree | {"claims": board.claims, "failed": board.failed})
    columns = [m for m in COLUMNS if m in board.main.metrics]
    parts = [
        f"# {bench.protocol.name}",
        f"`{command}`; data hash {manifest.content_hash[:12]}; {rows['before test']} events "
        f"{'before the test period' if bench.protocol.refit else 'of the training part, for all rows'}. "
        f"{board.further.note}".strip(),
        board.main.select(columns).to_markdown(),
        *(f"- {claim}: {found['sentence']}" for claim, found in board.claims.items()),
        *(
            ["## Rows", "\n".join(f"- {n}: {said}." for n, said in board.described.items())]
            if board.described
            else []
        ),
        *(f"## {name}\n\n{table.to_markdown(intervals=False)}" for name, table in board.further.further().items()),
        "## Settings and cost",
        _cost(board.facts),
        *(f"- {name} left out: {reason}" for name, reason in board.failed.items()),
    ]
    write_text(out / "table.md", "\n\n".join(parts) + "\n")


def _cost(facts: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "| system | seeds | sd of NDCG over seeds | CPU s: choose / fit / recommend | settings |",
        "|---|---:|---:|---|---|",
    ]
    for name, fact in facts.items():
        seconds = fact.get("cpu_seconds", {})
        spent = (fact.get("select_cpu_seconds"), seconds.get("fit"), seconds.get("recommend"))
        cells = " / ".join("–" if s is None else f"{s:.0f}" for s in spent)
        spread = "–" if fact["seed_sd"] is None else f"{fact['seed_sd']:.4f}"
        tried = f" (best of {fact['tried']} of {fact['grid']} tried)" if "tried" in fact else ""
        lines.append(f"| {name} | {fact['seeds']} | {spread} | {cells} | {_short(fact.get('settings'))}{tried} |")
    return "\n".join(lines)


def _short(settings: Any) -> str:
    if isinstance(settings, Mapping):
        return ", ".join(f"{k} {v}" for k, v in settings.items() if k != "valid_curve")
    return "" if settings is None else str(settings)
