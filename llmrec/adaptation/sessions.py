"""What somebody new, or a new place, gives to learn from: the slates of a few users and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from llmrec.config import OffPolicySettings, WeightingSettings
from llmrec.dataset.impressions import Impressions, impressions
from llmrec.dataset.split import Split
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError
from llmrec.training.logged import LoggedSlates, logged_slates
from llmrec.training.weighting import weighted_examples
from llmrec.types import Example, FloatArray, IntArray


@dataclass(frozen=True)
class Sessions:
    """Slates of some users.

    Attributes:
        log: what was shown, one state a slate, and what was clicked and bought.
        click: worth of a click.
        conversion: worth of a conversion beside its click.
    """

    log: Impressions
    click: float = 1.0
    conversion: float = 3.0

    def __len__(self) -> int:
        return len(self.log.states)

    @property
    def reward_M(self) -> FloatArray:
        """What each impression earned."""
        earned_M = self.click * self.log.click_M + self.conversion * self.log.conversion_M
        return np.asarray(earned_M, dtype=np.float64)

    @property
    def users(self) -> list[str]:
        """Whose slates they are, each once, in order of first sight; slates of nobody known are left out."""
        return list(dict.fromkeys(user for user in self.log.user_ids if user is not None))

    def of(self, users: Sequence[str]) -> Sessions:
        """The slates of these users alone."""
        wanted = set(users)
        return self.at([row for row, user in enumerate(self.log.user_ids) if user in wanted])

    def at(self, rows: Sequence[int]) -> Sessions:
        """The slates at these rows of `log.states`, in that order."""
        log, new_of = self.log, np.full(len(self.log.states), -1, dtype=np.int64)
        new_of[list(rows)] = np.arange(len(rows))
        kept_M = new_of[log.state_row_M] >= 0
        # by slate in the order that was asked for, places in theirs
        order = np.flatnonzero(kept_M)[np.argsort(new_of[log.state_row_M[kept_M]], kind="stable")]
        return Sessions(
            Impressions(
                [log.states[row] for row in rows],
                new_of[log.state_row_M[order]],
                log.item_M[order],
                log.click_M[order],
                log.conversion_M[order],
                log.position_M[order],
                log.propensity_M[order],
                [log.seen[row] for row in rows],
            ),
            self.click,
            self.conversion,
        )

    def choices(self, group_N: IntArray, seed: int) -> list[Example]:
        """What was clicked, drawn in proportion to what it earned over how likely it was shown.

        That is reward-weighted regression (Peters and Schaal 2007): a policy that imitates these choices ranks by
        expected reward. Where propensities were not logged a choice counts what it earned.

        Raises:
            DataError: nothing was clicked, or nothing earned anything.
        """
        known = bool(np.isfinite(self.log.propensity_M).all())
        weighting = WeightingSettings(kind="both" if known else "value")
        return weighted_examples(
            self.log,
            weighting,
            len(self.log),
            target="click",
            click=self.click,
            conversion=self.conversion,
            group_N=group_N,
            seed=seed,
        )

    def slates(self, settings: OffPolicySettings, group_N: IntArray, seed: int) -> LoggedSlates:
        """The same as rows of off-policy learning; see `training.logged.logged_slates`."""
        return logged_slates(self.log, self.reward_M, settings, group_N, seed=seed)


def logged(dataset: Dataset, events: pl.DataFrame, history_events: int = 20) -> Sessions:
    """All slates of `events`, a part of the data set's, with what came of them.

    Where no impressions are logged a choice is a slate of one item. States tell of earlier events among `events`
    alone, the newest `history_events` of them.
    """
    split = Split(events, events.clear(), events.clear(), "given")
    return Sessions(impressions(dataset, split, "train", history_events=history_events, negatives=0))


def joined(parts: Sequence[Sessions]) -> Sessions:
    """The slates of all parts, one part behind the other.

    Raises:
        DataError: there is none.
    """
    if not parts:
        raise DataError("There are no sessions to join; give some.")
    shift = np.cumsum([0, *(len(part) for part in parts)])
    logs = [part.log for part in parts]
    fields = ("item_M", "click_M", "conversion_M", "position_M", "propensity_M")
    item_M, click_M, conversion_M, position_M, propensity_M = (
        np.concatenate([getattr(log, name) for log in logs]) for name in fields
    )
    log = Impressions(
        [state for one in logs for state in one.states],
        np.concatenate([one.state_row_M + start for one, start in zip(logs, shift[:-1], strict=True)]),
        item_M,
        click_M,
        conversion_M,
        position_M,
        propensity_M,
        [seen for one in logs for seen in one.seen],
    )
    return Sessions(log, parts[0].click, parts[0].conversion)
