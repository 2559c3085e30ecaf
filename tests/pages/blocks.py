"""The fenced blocks of the pages, in order, and the reasons of those that cannot run here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
SHELL = ("", "bash", "sh", "shell", "console")
PYTHON = ("python", "py")
_FENCED = re.compile(
    r"(?ms)^(?:<!-- not run: (?P<reason>[^>\n]+) -->\n)?^ *```(?P<kind>[^\n`]*)\n(?P<text>.*?)^ *```"
)


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is that of its first row. `reason` says why it is not run, "" where it is."""

    page: str
    line: int
    kind: str
    text: str
    reason: str


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *kinds: str) -> list[Block]:
    """Blocks of these languages; "" is none. `<!-- not run: REASON -->` on the line before keeps one from being run."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page_name(page),
            text.count("\n", 0, match.start("text")) + 1,
            match["kind"].strip(),
            match["text"],
            (match["reason"] or "").strip(),
        )
        for match in _FENCED.finditer(text)
        if match["kind"].strip() in kinds
    ]
