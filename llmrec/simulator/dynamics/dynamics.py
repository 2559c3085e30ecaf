"""All transitions together: users before a turn become users after it.

    dynamics = Dynamics(config.dynamics, ItemTable.of(category_N, quality_N=..., price_N=..., vector_ND=...))
    users = dynamics.fresh(1_000_000, interest_BD=...)
    click_BK, conversion_BK = dynamics.modulate(users, item_BK, base_click_BK, base_conversion_BK)
    outcome = dynamics.step(users, item_BK, clicked_BK, converted_BK, uniforms_B2)

Randomness is only in the uniforms that are passed in. There is no loop over users: blocks of a few thousand keep the
arrays in the cache, and transitions never see a user who is not active.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llmrec.config import DynamicsSettings
from llmrec.errors import ConfigError, DataError
from llmrec.simulator.dynamics.loyalty import Budget, ComingBack, Patience, Trust, afford
from llmrec.simulator.dynamics.modulate import modulate
from llmrec.simulator.dynamics.state import Float32Array, ItemTable, UserState, fresh_users
from llmrec.simulator.dynamics.tastes import InterestDrift, NoveltySeeking, Satiation
from llmrec.simulator.dynamics.turn import Turn
from llmrec.simulator.log import require_indices
from llmrec.types import BoolArray

DRAWS = 2
"""Uniforms that a user needs each turn: whether to leave, and when to come back."""
_BLOCK = 4096
_PROBABILITIES = ("rate", "decay", "recovery", "learning", "forgetting", "gain", "loss", "threshold")
_OPEN = ("leave_full", "leave_empty", "hazard_unsatisfied", "hazard_satisfied")
_NOT_NEGATIVE = ("conversion", "clicked", "shown", "income", "pressure")


class Transition(Protocol):
    """One named rule of change, in place."""

    name: str

    def apply(self, users: UserState, turn: Turn) -> None: ...  # noqa: D102
    def rest(self, users: UserState, turns_B: Float32Array) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class TurnOutcome:
    """What a turn did to the visits; false and 0 for users who were not active.

    Attributes:
        left_B: The visit ended with this turn.
        gone_B: The user never comes back, and is not active any more: the episode has terminated.
        days_B: Days until the next visit, which the users who come back have already lived through (float32).
    """

    left_B: BoolArray
    gone_B: BoolArray
    days_B: Float32Array


class Dynamics:
    """The switched-on transitions over a catalogue.

    Raises:
        ConfigError: A rate or a probability outside its range.
    """

    def __init__(self, settings: DynamicsSettings, items: ItemTable) -> None:
        _check(settings)
        self.settings, self.items = settings, items
        self.patience = Patience(settings.patience) if settings.patience.enabled else None
        self.comeback = ComingBack(settings.comeback) if settings.comeback.enabled else None
        built: list[tuple[bool, Transition | None]] = [
            (settings.drift.enabled, InterestDrift(settings.drift)),
            (settings.satiation.enabled, Satiation(settings.satiation)),
            (settings.novelty.enabled, NoveltySeeking(settings.novelty)),
            (settings.trust.enabled, Trust(settings.trust)),
            (settings.budget.enabled, Budget(settings.budget, settings.comeback.turns_per_day)),
            (settings.patience.enabled, self.patience),
            (settings.comeback.enabled, self.comeback),
        ]
        self.transitions = tuple(t for on, t in built if on and t is not None)

    def fresh(self, count: int, **starts: Any) -> UserState:
        """`count` users at the start; `starts` as in `fresh_users` (interest_BD, budget_B, trust_B, patience_B)."""
        return fresh_users(count, self.settings, categories=self.items.categories, **starts)

    def modulate(
        self,
        users: UserState,
        item_BK: npt.NDArray[np.integer],
        click_BK: npt.NDArray[np.floating],
        conversion_BK: npt.NDArray[np.floating],
    ) -> tuple[Float32Array, Float32Array]:
        """Probabilities in the users' present state; see `modulate.modulate`."""
        return modulate(users, self.settings, self.items, item_BK, click_BK, conversion_BK)

    def afford(
        self, users: UserState, item_BK: npt.NDArray[np.integer], conversion_BK: npt.NDArray[np.generic]
    ) -> BoolArray:
        """The wished conversions that budgets cover; see `loyalty.afford`."""
        return afford(users, self.items, item_BK, conversion_BK)

    def step(
        self,
        users: UserState,
        item_BK: npt.NDArray[np.integer],
        click_BK: npt.NDArray[np.generic],
        conversion_BK: npt.NDArray[np.generic],
        uniforms_B2: npt.NDArray[np.floating],
    ) -> TurnOutcome:
        """One turn of all active users, in place.

        Args:
            users: B users; changed.
            item_BK: Item indices shown, -1 for an empty place (clicks there are ignored).
            click_BK: Clicks, 0 or 1.
            conversion_BK: Conversions, 0 or 1 and 1 only where the click is (`afford` first where budgets are on).
            uniforms_B2: Numbers in [0, 1), the user's own in this turn.

        Raises:
            DataError: Shapes that do not fit the users or one another.
        """
        self._check_shapes(users, item_BK, click_BK, conversion_BK, uniforms_B2)
        require_indices(item_BK, len(self.items))
        total = len(users)
        left_B, gone_B = np.zeros(total, dtype=np.bool_), np.zeros(total, dtype=np.bool_)
        days_B = np.zeros(total, dtype=np.float32)
        # Transitions write their arrays several times; blocks that fit the cache make a turn of a million users bound
        # by arithmetic.
        for low in range(0, total, _BLOCK):
            rows: Any = slice(low, min(low + _BLOCK, total))
            active_B = users.active_B[rows]
            whole = bool(active_B.all())
            if not whole:
                rows = low + np.flatnonzero(active_B)
                if not len(rows):
                    continue
            block = users.take(rows)
            given = (a[rows] for a in (item_BK, click_BK, conversion_BK, uniforms_B2))
            left_B[rows], gone_B[rows], days_B[rows] = self._step_block(block, *given)
            if not whole:
                users.put(rows, block)
        return TurnOutcome(left_B, gone_B, days_B)

    def _step_block(
        self, users: UserState, item_BK: Any, click_BK: Any, conversion_BK: Any, uniforms_B2: Any
    ) -> tuple[BoolArray, BoolArray, Float32Array]:
        """A block of users who are all active."""
        if item_BK.size and item_BK.min() < 0:
            # An empty place would otherwise index the last item.
            click_BK = (click_BK > 0) & (item_BK >= 0)
        turn = Turn.of(self.items, item_BK, click_BK, conversion_BK, uniforms_B2)
        users.turn_B += 1
        users.last_item_B[turn.row_P] = turn.item_P  # the lowest clicked rank is written last
        for transition in self.transitions:
            transition.apply(users, turn)
        days_B = np.zeros(len(users), dtype=np.float32)
        if self.patience is None:
            return np.zeros(len(users), dtype=np.bool_), np.zeros(len(users), dtype=np.bool_), days_B
        left_B = self.patience.leaves(users, turn)
        # Without the return switched on, whoever leaves is gone.
        gone_B = left_B.copy()
        if self.comeback is not None and left_B.any():
            self._come_back(users, turn, gone_B, days_B)
        users.active_B &= ~gone_B
        return left_B, gone_B, days_B

    def _come_back(self, users: UserState, turn: Turn, gone_B: BoolArray, days_B: Float32Array) -> None:
        """Who of the leaving returns lives through the days away at once and begins a visit; the others are gone."""
        assert self.comeback is not None
        assert users.satisfaction_B is not None
        # Who leaves is decided, when and whether they return is drawn from the second uniform of the turn,
        # satisfaction ruling both.
        leaving = np.flatnonzero(gone_B)
        days = self.comeback.days_away(users.satisfaction_B.take(leaving), turn.uniforms_B2[leaving, 1])
        back = np.flatnonzero(np.isfinite(days))
        rows, gap = leaving[back], days[back].astype(np.float32)
        away = users.take(rows)
        gone_B[rows] = False
        days_B[rows] = gap
        away.days_B += gap
        away.visit_B += 1
        # Days away in units of turns, as rates are by turn.
        turns = (gap * self.settings.comeback.turns_per_day).astype(np.float32)
        for transition in self.transitions:
            transition.rest(away, turns)
        users.put(rows, away)

    def _check_shapes(self, users: UserState, item_BK: Any, click_BK: Any, conversion_BK: Any, uniforms: Any) -> None:
        for name, array in (("clicks", click_BK), ("conversions", conversion_BK)):
            if array.shape != item_BK.shape:
                raise DataError(f"Items have shape {item_BK.shape} but {name} {array.shape}; they must be equal.")
        if item_BK.ndim != 2 or len(item_BK) != len(users) or uniforms.shape != (len(users), DRAWS):
            raise DataError(
                f"Slates of shape {item_BK.shape} and uniforms of shape {uniforms.shape} do not fit {len(users)} "
                f"users; give one slate and {DRAWS} uniforms a user."
            )


def _check(settings: DynamicsSettings) -> None:
    for section in fields(settings):
        part = getattr(settings, section.name)
        for key in fields(part):
            value, name = getattr(part, key.name), f"dynamics.{section.name}.{key.name}"
            # One rule by the key's name for all sections: "initial" is a share everywhere but in money.
            unit = key.name in _PROBABILITIES or (key.name == "initial" and section.name != "budget")
            if unit and not 0 <= value <= 1:
                raise ConfigError(f"Key {name!r} is {value}, but it must lie in 0..1.")
            if key.name in _OPEN and not 0 < value < 1:
                raise ConfigError(f"Key {name!r} is {value}, but it must lie between 0 and 1 and be neither.")
            if key.name in (*_NOT_NEGATIVE, "initial") and value < 0:
                raise ConfigError(f"Key {name!r} is {value}, but it must be 0 or more.")
    if settings.comeback.max_days < 1 or settings.comeback.turns_per_day <= 0:
        raise ConfigError("dynamics.comeback needs max_days of 1 or more and turns_per_day above 0.")
