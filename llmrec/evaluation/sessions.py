"""Systems in simulated sessions: what users do over several turns, and stay for, under common random numbers.

A system that sees one step ahead is judged here by what its slates do to the turns after them. Every system meets the
same users with the same luck; the value of a turn is what was to be expected of the slate in the user's state, so two
systems differ by their slates and by where these lead, not by the draws of single clicks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrec.config import ChoiceSettings, DynamicsSettings, EnvironmentSettings
from llmrec.errors import RequestError
from llmrec.evaluation.ranking import slates_to_items
from llmrec.evaluation.significance import UserFigures
from llmrec.progress import Bar
from llmrec.seeding import stream_seed
from llmrec.simulator.environments.engine import without_repeats
from llmrec.simulator.environments.play import Play
from llmrec.simulator.environments.population import Population
from llmrec.types import FloatArray, IntArray, Ranker

_COLUMNS = (
    "value_B",
    "click_B",
    "conversion_B",
    "turns_B",
    "left_B",
    "first_B",
    "shown_B",
    "revenue_B",
    "visits_B",
)
_CELLS = 1_000_000
"""(user, item) values held at a time."""


@dataclass(frozen=True, slots=True)
class SessionFigures(UserFigures):
    """What each user's session came to, shapes (B,).

    Attributes:
        value_B: sum over turns of gamma ** turn times the weighted clicks and conversions of the slate.
        click_B: clicks of the session, not discounted; `conversion_B` conversions.
        turns_B: turns played.
        left_B: 1 where the user left for good before the turns were used up.
        first_B: the value of the first turn alone, which is all that one-step ranking looks at.
        users_B: names the user of each row.
        shown_B: impressions of the session: places that were not empty.
        revenue_B: prices of what was bought, in the data set's currency; None where no item has a price.
        visits_B: visits begun, 1 where the user did not leave and come back.
        regret_BT: expected value of the best slate in the user's state less that of the slate shown, turn by turn, 0
            after the user left (`best_values`); None where it was not asked for.
        replica_RB: `value_B` by each replicate of a judge whom the users behave as, (R, B); None where there is none.
            They value the turns that were played: that a replicate would have led elsewhere is left out.
        turn_BT: value of each turn, not discounted, 0 after the user left.
    """

    value_B: FloatArray
    click_B: FloatArray
    conversion_B: FloatArray
    turns_B: FloatArray
    left_B: FloatArray
    first_B: FloatArray
    users_B: tuple[str, ...]
    shown_B: FloatArray
    revenue_B: FloatArray | None
    visits_B: FloatArray
    regret_BT: FloatArray | None = None
    replica_RB: FloatArray | None = None
    turn_BT: FloatArray | None = None

    @property
    def replicas(self) -> dict[str, FloatArray]:
        """The session's value by each replicate, (R, B)."""
        return {} if self.replica_RB is None else {"value": self.replica_RB}

    @property
    def retained_B(self) -> FloatArray:
        """1 where the user stayed to the end of the session or came back for a second visit, else 0."""
        back_B = self.visits_B > 1
        return np.asarray(np.where(back_B, 1.0, 1.0 - self.left_B))

    @property
    def per_user(self) -> dict[str, FloatArray]:
        """The measures by their names in tables and JSON."""
        return {
            "value": self.value_B,
            "clicks": self.click_B,
            "conversions": self.conversion_B,
            "turns": self.turns_B,
            "left": self.left_B,
            "first_turn": self.first_B,
        }


def simulate_sessions(
    system: Ranker,
    population: Population,
    user_N: IntArray,
    sizes: EnvironmentSettings,
    *,
    choice: ChoiceSettings | None = None,
    dynamics: DynamicsSettings | None = None,
    seen: Sequence[IntArray] | None = None,
    seed: int = 0,
    gamma: float = 1.0,
    sampled: bool = False,
    regret: bool = False,
    doubt: bool = False,
    batch: int = 512,
) -> SessionFigures:
    """Plays one session of each user with what `system` would deploy.

    Args:
        system: asked at every turn for `sizes.slate_size` items of the state with the session so far.
        population: who is met; must not be the users that the system was trained on.
        user_N: rows of the population.
        sizes: places, turns, remembered turns, and the weights `click` and `conversion` of the value.
        choice: how users choose within a slate.
        dynamics: how they change from turn to turn.
        seen: what each of the users has seen beside their state.
        seed: of the luck; the same for systems that are compared.
        gamma: discount between turns.
        sampled: counts what users did in place of what was to be expected.
        regret: also asks the population for the best slate of every turn, over the whole catalogue.
        doubt: also asks the replicates of a judge, where the users behave as one.
        batch: sessions played side by side.

    Raises:
        RequestError: no user, or lists of seen items that do not fit.
    """
    user_N = np.asarray(user_N, dtype=np.int64)
    if not len(user_N) or (seen is not None and len(seen) != len(user_N)):
        raise RequestError(f"{len(user_N)} users need at least one session, and one list of seen items each.")
    price_N = population.items.price_N.astype(np.float64)
    parts, lost, doubts = [], [], []
    with Bar("Playing sessions", len(user_N)) as bar:
        for low in range(0, len(user_N), batch):
            rows = user_N[low : low + batch]
            play = Play(population, len(rows), sizes, choice=choice, dynamics=dynamics)
            # One stream for all batches and systems: a user's luck depends on the user, not on the batch.
            play.begin(stream_seed(seed, "evaluation", "sessions"), rows)
            before = [np.zeros(0, dtype=np.int64)] * len(rows) if seen is None else list(seen[low : low + batch])
            lost_BT = np.zeros((len(rows), sizes.turns)) if regret else None
            doubted: list[FloatArray] | None = [] if doubt else None
            parts.append(_played(system, play, before, gamma, sampled, price_N, lost_BT, doubted))
            doubts += [] if not doubted else [np.sum(doubted, axis=0)]
            lost.append(lost_BT)
            bar.advance(len(rows))
    columns: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if not price_N.any():
        columns["revenue_B"] = None
    names = [population.state(int(user)).user_id for user in user_N]
    return SessionFigures(
        **columns,
        users_B=tuple(name if name is not None else f"\0{row}" for row, name in enumerate(names)),
        regret_BT=np.concatenate([part for part in lost if part is not None]) if regret else None,
        replica_RB=np.concatenate(doubts, axis=1) if doubts else None,
    )


def _played(
    system: Ranker,
    play: Play,
    seen: Sequence[IntArray],
    gamma: float,
    sampled: bool,
    price_N: FloatArray,
    lost_BT: FloatArray | None,
    doubted: list[FloatArray] | None,
) -> dict[str, FloatArray]:
    """The columns of `SessionFigures` for the sessions of `play`, each (B,).

    `lost_BT` is filled with the regret, `doubted` with the value of each turn by each replicate, (R, B).
    """
    sizes = play.settings
    found: dict[str, FloatArray] = {name: np.zeros(len(play.row_A)) for name in _COLUMNS}
    found["turn_BT"] = np.zeros((len(play.row_A), sizes.turns))
    turn = 0
    while play.goes_on:
        # A text state tells the last turns only; what was shown before that is excluded by this list.
        known = [np.union1d(seen[row], shown) for row, shown in zip(play.row_A, play.shown(), strict=True)]
        slates = system.recommend(play.states(), sizes.slate_size, seen=known)
        items_AK = without_repeats(slates_to_items(slates, sizes.slate_size))
        # Before the turn is played, in the state that the slate is chosen in.
        best_A = None if lost_BT is None else best_values(play)
        by_replicate = None if doubted is None else play.doubted(items_AK)
        if doubted is not None and by_replicate is not None:
            click_RB, buy_RB = (one.sum(axis=2) for one in by_replicate)
            doubted.append(gamma**turn * (sizes.click * click_RB + sizes.conversion * buy_RB))
        done = play.turn(items_AK)
        # Expectations have the draws' noise taken out (Rao-Blackwell) for the turn at hand; which state follows is
        # still drawn.
        rows, feedback = done.row_A, done.drawn if sampled else done.expected
        clicks, buys = feedback.click_BK.sum(1), feedback.conversion_BK.sum(1)
        value = sizes.click * clicks + sizes.conversion * buys
        found["value_B"][rows] += gamma**turn * value
        found["turn_BT"][rows, turn] = value
        found["click_B"][rows] += clicks
        found["conversion_B"][rows] += buys
        found["turns_B"][rows] += 1.0
        found["left_B"][rows] += done.left_A
        # What one-step training maximises, beside what it leads to.
        found["first_B"][rows] += value * (turn == 0)
        found["shown_B"][rows] += (items_AK >= 0).sum(axis=1)
        found["revenue_B"][rows] += (feedback.conversion_BK * price_N[items_AK] * (items_AK >= 0)).sum(axis=1)
        assert play.env.engine.people is not None
        found["visits_B"][rows] = play.env.engine.people.visit_B[rows]
        if lost_BT is not None and best_A is not None:
            expected = sizes.click * done.expected.click_BK + sizes.conversion * done.expected.conversion_BK
            lost_BT[rows, turn] = best_A - expected.sum(axis=1)
        turn += 1
    return found


def best_values(play: Play) -> FloatArray:
    """Expected value of the best slate that each user who is there could be shown now, shape (A,).

    The value is that of `simulate_sessions`, click * clicks + conversion * conversions, by the population's own
    probabilities in the user's present state; nothing is played. It looks at this turn alone: in a population that
    satiates or loses trust, another slate may be worth more in the long run. Items are ranked by their value when
    looked at, which is the best order for independent and position-based clicks (rearrangement inequality, as
    examination falls with rank); under the other choice models the answer is the value of that slate, a lower bound.
    """
    sizes, engine = play.settings, play.env.engine
    actions_NK = np.full((play.env.num_envs, sizes.slate_size), -1, dtype=np.int64)
    actions_NK[play.row_A] = _best_slates(play)
    expected = engine.expected(actions_NK)
    # The slate's value as users look at it, place by place: the same measure that `_played` takes of the slate shown.
    value_NK = sizes.click * expected.click_BK + sizes.conversion * expected.conversion_BK
    values_A: FloatArray = value_NK[play.row_A].sum(axis=1)
    return values_A


def _best_slates(play: Play) -> IntArray:
    """The K items of highest value of each user who is there, best first: (A, K)."""
    sizes, engine = play.settings, play.env.engine
    assert engine.people is not None
    population, items = engine.population, len(engine.population.items)
    size, parts = max(1, _CELLS // items), []
    for low in range(0, len(play.row_A), size):
        rows = play.row_A[low : low + size]
        # Every item of the catalogue is asked for as if it were shown, some users at a time.
        items_BN = np.tile(np.arange(items), (len(rows), 1))
        hidden = None if engine.hidden is None else engine.hidden.take(rows)
        click_BN, buy_BN = population.respond(hidden, engine.user_N[rows], items_BN, engine.time_N(rows))
        click_BN, buy_BN = engine.dynamics.modulate(engine.people.take(rows), items_BN, click_BN, buy_BN)
        value_BN = sizes.click * click_BN + sizes.conversion * click_BN * buy_BN
        # Ranked as if each were looked at for certain; how places are looked at does not depend on the item under the
        # models for which this is the optimum.
        parts.append(np.argsort(-value_BN, axis=1, kind="stable")[:, : sizes.slate_size])
    return np.concatenate(parts).astype(np.int64)
