"""What answers: a policy with its items, and what stands in for it. Never changed, only replaced by another."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from llmrec.policy.kept import KeptPrompts
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.recommender import Recommender
from llmrec.rules import write_rules
from llmrec.service.fallback import Fallback


@dataclass(frozen=True)
class Deployed:
    """One policy over one catalogue.

    Attributes:
        recommender: reads requests and writes answers.
        kept: prompts that were read before, by users; the worker's alone.
        fallback: answers where the policy cannot in time.
        version: of the policy; 0 is the run's own.
        catalogue: of the items; 0 is the run's own.
    """

    recommender: Recommender
    fallback: Fallback
    kept: KeptPrompts
    version: int = 0
    catalogue: int = 0

    @property
    def policy(self) -> LanguagePolicy:
        """pi."""
        return self.recommender.bundle.policy

    @cached_property
    def rules_hash(self) -> str:
        """By which rules are known in answers: the first twelve digits of the SHA-256 of `rules.write_rules`."""
        return hashlib.sha256(write_rules(self.recommender.rules).encode()).hexdigest()[:12]

    @cached_property
    def item_ids(self) -> list[str]:
        """In item-index order."""
        return list(self.policy.catalogue.item_ids)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Item id to item index."""
        return {item_id: row for row, item_id in enumerate(self.item_ids)}
