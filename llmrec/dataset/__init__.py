"""Items, users and events as checked tables: storing, importing, splitting, cleaning, and worlds with known truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmrec.dataset.store import Dataset, Manifest, Signal

__all__ = ["Dataset", "Manifest", "Signal"]


def __getattr__(name: str) -> object:
    """Loads the store on first use, so that commands that need no table start fast."""
    if name in __all__:
        from llmrec.dataset import store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
