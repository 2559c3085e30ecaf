"""Semantic and atomic identifiers: items in words of their own."""

from llmrec.catalogue.identifiers.make import (
    Usage,
    add_items,
    build_catalogue,
    item_vectors,
    make_identifiers,
    usage,
    word_vectors,
)
from llmrec.catalogue.identifiers.scheme import Identifiers, described

__all__ = [
    "Identifiers",
    "Usage",
    "add_items",
    "build_catalogue",
    "described",
    "item_vectors",
    "make_identifiers",
    "usage",
    "word_vectors",
]
