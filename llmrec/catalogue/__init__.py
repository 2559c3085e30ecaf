"""Items as token sequences: the closed catalogue and the tree of its prefixes."""

from llmrec.catalogue.allowed import Allowed, ItemFilter
from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.filters import Attributes, Filters
from llmrec.catalogue.index import PrefixIndex

__all__ = ["Allowed", "Attributes", "Catalogue", "Filters", "ItemFilter", "PrefixIndex"]
