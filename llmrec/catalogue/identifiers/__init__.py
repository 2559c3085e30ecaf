"""Semantic and atomic identifiers: items in words of their own."""

from llmrec.catalogue.identifiers.make import add_items, build_catalogue, make_identifiers
from llmrec.catalogue.identifiers.scheme import Identifiers, described
from llmrec.catalogue.identifiers.usage import Usage, usage

__all__ = ["Identifiers", "Usage", "add_items", "build_catalogue", "described", "make_identifiers", "usage"]
