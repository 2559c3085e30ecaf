"""Items as token sequences: the closed catalogue and the tree of its prefixes."""

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.index import Exclusion, PrefixIndex

__all__ = ["Catalogue", "Exclusion", "PrefixIndex"]
