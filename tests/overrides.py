"""Overrides as tests write them."""

from __future__ import annotations

from typing import Any

from llmrec.config import RunConfig
from llmrec.config_tree import parse_overrides


def given(*texts: str) -> dict[str, Any]:
    """Texts `key=value`, as behind --set."""
    return parse_overrides(texts, RunConfig)
