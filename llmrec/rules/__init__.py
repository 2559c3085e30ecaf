"""Rules that hold with certainty: never to whom, from which age, at most and at least how many, forbidden words.

book = RuleBook.of(read_rules(Path("rules.yaml")), items)
slates = Ruled(ranker, book, items).recommend(states, 10)
"""

from llmrec.rules.book import Exposure, RuleBook
from llmrec.rules.reading import parse_rules, read_rules, rule_trees, write_rules
from llmrec.rules.ruled import Ruled
from llmrec.rules.types import AtLeast, AtMost, ForbiddenWords, ItemSet, MinimumAge, Never, People, Price, Rule

__all__ = [
    "AtLeast",
    "AtMost",
    "Exposure",
    "ForbiddenWords",
    "ItemSet",
    "MinimumAge",
    "Never",
    "People",
    "Price",
    "Rule",
    "RuleBook",
    "Ruled",
    "parse_rules",
    "read_rules",
    "rule_trees",
    "write_rules",
]
