"""Hillstrom's experiment: a value measured by one random half of the customers against estimates from the other half.

All 64,000 customers got one of three arms with probability 1/3 whatever their profile. Half A says what a policy is
worth: the mean reward of the customers whose arm is the one that the policy would have chosen, which is unbiased and
has a standard error. Half B is thinned to a log of a profile-dependent policy mu: a customer of arm a stays with
probability mu(a | profile) / max mu, after which arms come with probability mu and profiles as before. Estimates from
that log are held against A with both errors: over random splits the difference of the halves has the variance of two
independent samples, for the halves of a fixed sample are negatively correlated by just what the draw without
replacement saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmrec.dataset.importers.hillstrom import ARMS, PUBLISHED_AS
from llmrec.dataset.importers.reading import need_file, number, read_csv_rows
from llmrec.errors import DataError
from llmrec.evaluation.off_policy.log import BanditLog
from llmrec.progress import Bar
from llmrec.seeding import numpy_stream
from llmrec.studies.off_policy.coverage import Tally, estimates, outcome_model
from llmrec.types import BoolArray, FloatArray, IntArray

MENS, WOMENS, NONE = range(3)
REWARDS = ("visit", "conversion", "spend")
POLICIES = ("men's e-mail to all", "e-mail by goods")


@dataclass(frozen=True)
class HillstromWorld:
    """The experiment's customers: B rows.

    Attributes:
        arm_B: 0 men's e-mail, 1 women's, 2 none.
        reward: by name, (B,) each.
        state_BF: profile as numbers and indicators.
        mens_B: bought men's goods in the last year.
        new_B: a new customer.
    """

    arm_B: IntArray
    reward: dict[str, FloatArray]
    state_BF: FloatArray
    mens_B: BoolArray
    new_B: BoolArray

    @classmethod
    def of(cls, source: Path) -> HillstromWorld:
        """Reads the experiment's file, or the folder that holds it.

        Raises:
            DataError: a column or file is missing, or a line is broken.
        """
        path = source if source.is_file() else need_file(source, "hillstrom.csv.gz", "hillstrom.csv", PUBLISHED_AS)
        rows = []
        columns = ("segment", "channel", "zip_code", "mens", *REWARDS)
        for line, row in read_csv_rows(path, columns, description=f"Reading {path.name}"):
            if row["segment"] not in ARMS:
                raise DataError(f"{path}, line {line} lacks a known segment; is it this data?")
            kept = ("recency", "history", "mens", "womens", "newbie", *REWARDS)
            rows.append({**row, **{key: number(row[key], path, line, key) for key in kept}})
        table = pl.DataFrame(rows)
        arms = list(ARMS)
        kinds = table.select("channel", "zip_code").to_dummies(drop_first=True)
        numbers = table.select("recency", pl.col("history").log(), "mens", "womens", "newbie")
        return cls(
            np.array([arms.index(segment) for segment in table["segment"]]),
            {name: table[name].to_numpy() for name in REWARDS},
            np.column_stack([numbers.to_numpy(), kinds.to_numpy()]).astype(np.float64),
            table["mens"].to_numpy() == 1,
            table["newbie"].to_numpy() == 1,
        )

    def logging(self) -> FloatArray:
        """The thinned log's policy, by what a customer bought and whether new: (B, 3), each at least 0.15."""
        mu_B3 = np.where(self.mens_B[:, None], (0.2, 0.5, 0.3), (0.5, 0.3, 0.2))
        found: FloatArray = np.where(self.new_B[:, None], 0.5 * mu_B3 + 0.5 * np.array((0.1, 0.3, 0.6)), mu_B3)
        return found

    def choice(self, policy: str) -> IntArray:
        """The arm that a policy of `POLICIES` gives each customer, (B,)."""
        if policy == POLICIES[0]:
            return np.full(len(self.arm_B), MENS)
        return np.where(self.mens_B, MENS, WOMENS)


def run_hillstrom(
    world: HillstromWorld,
    *,
    logs: int,
    seed: int = 0,
    rewards: Sequence[str] = REWARDS[:2],
    policies: Sequence[str] = POLICIES,
) -> list[dict[str, Any]]:
    """Coverage, RMSE and bias of IPS, SNIPS and DR over `logs` splits for each policy and reward."""
    mu_B3 = world.logging()
    tallies = {(policy, reward): Tally(f"{policy}, {reward}") for policy in policies for reward in rewards}
    truths: dict[tuple[str, str], list[float]] = {key: [] for key in tallies}
    with Bar("Hillstrom splits", logs) as bar:
        for trial in range(logs):
            rng = numpy_stream(seed, "off-policy", "hillstrom", trial)
            half_B = rng.permutation(len(world.arm_B)) < len(world.arm_B) // 2
            staying_B = rng.random(len(half_B)) < mu_B3[np.arange(len(half_B)), world.arm_B] / mu_B3.max()
            rows = np.flatnonzero(~half_B & staying_B)
            for reward in rewards:
                log = _log(world, rows, mu_B3, reward)
                fitted = outcome_model(log, trial)
                for policy in policies:
                    choice_B = world.choice(policy)
                    value, error = _truth(world, half_B, choice_B, reward)
                    truths[policy, reward].append(value)
                    pi_M3 = np.eye(3)[choice_B[rows]]
                    counted = estimates(log, pi_M3, fitted)
                    tallies[policy, reward].add(*counted, truth=value, truth_error=error)
            bar.advance()
    return [
        tally.summary() | {"truth": float(np.mean(truths[key])), "policy": key[0], "reward": key[1]}
        for key, tally in tallies.items()
    ]


def _log(world: HillstromWorld, rows: IntArray, mu_B3: FloatArray, reward: str) -> BanditLog:
    arm_M = world.arm_B[rows]
    return BanditLog(
        arm_M,
        mu_B3[rows, arm_M],
        world.reward[reward][rows],
        3,
        states_MF=world.state_BF[rows],
        items_ND=np.eye(3),
    )


def _truth(world: HillstromWorld, half_B: BoolArray, choice_B: IntArray, reward: str) -> tuple[float, float]:
    """Mean reward of half A's customers who got what the policy chooses, and its standard error."""
    met_R = world.reward[reward][half_B & (world.arm_B == choice_B)]
    return float(met_R.mean()), float(met_R.std(ddof=1) / np.sqrt(len(met_R)))
