"""Rehearsal: what the warm start can do beside ranking is kept while a reward moves the policy.

Reinforcement learning visits users' states alone. A KL term there holds nothing elsewhere: what else was learnt (to
answer "I liked A" with what is like A, to describe an item) is overwritten. So a share of each optimiser step goes to
the warm start's own tasks, as in PPO-ptx (Ouyang et al. 2022, "Training language models to follow instructions with
human feedback", equation 2):

    J = E[r] - beta KL + c H - rho E[-log p(answer | prompt)],

the last mean over tokens of texts and over choices of items, the latter among legal tokens, since that is the policy
that answers. rho is in units of the reward a nat, as beta is, whatever divides the advantages. (Losses of TRL that
weigh an item by more than its advantage, as CISPO does, weigh it against rho by as much.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from llmrec.catalogue.index import PrefixIndex
from llmrec.config import RehearsalSettings
from llmrec.errors import ConfigError
from llmrec.training.arguments import world_size
from llmrec.training.packed import Packed, collate, pack
from llmrec.training.sft_data import SFTRow

MOST = 4096
"""Rows that are made at most; a longer training goes over them again."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Rows to be rehearsed, by optimiser step; after the last of them the first come again.

    Attributes:
        packed: the rows of each step, dealt out to the processes.
        coefficient: rho.
    """

    packed: Packed
    coefficient: float

    @classmethod
    def of(cls, rows: Sequence[SFTRow], settings: RehearsalSettings, index: PrefixIndex) -> Rehearsal:
        """Steps of `settings.rows` rows, shared by the processes at hand; items are choices by `index`."""
        steps = [[[row] for row in rows[at : at + settings.rows]] for at in range(0, len(rows), settings.rows)]
        # whole steps alone, where there is one: a few rows left over would weigh as much as a step of them
        steps = [step for step in steps if len(step) == settings.rows] or steps
        return cls(pack(steps, world_size(), index=index, shared=False), settings.coefficient)

    def batch(self, step: int, process: int, processes: int) -> dict[str, Tensor]:
        """What a process learns in an optimiser step."""
        return collate([self.packed.data[step % self.packed.steps * processes + process]])


def wanted_rows(settings: RehearsalSettings, steps: int) -> int:
    """Rows for so many optimiser steps, `MOST` at most; 0 where nothing is rehearsed."""
    return min(steps * settings.rows, max(MOST, settings.rows)) if settings.coefficient else 0


def check_rehearsal(settings: RehearsalSettings, section: str) -> None:
    """Raises `ConfigError` for what cannot be rehearsed."""
    if settings.coefficient < 0:
        raise ConfigError(f"Key '{section}.coefficient' is {settings.coefficient}; it must be 0 or more.")
    if settings.rows < 1:
        raise ConfigError(f"Key '{section}.rows' is {settings.rows}; it must be 1 or more.")
