"""The turn of N users in arrays, on which both environments stand.

One turn of a block of users: the population says how attractive each place is, the dynamics shift that by the user's
present state, the choice model draws clicks, conversions follow where the budget allows, the dynamics move the user
on, and the record takes down what could be seen. Users never meet one another, so blocks may run on several threads
and users may be split over processes without any change of the result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from llmrec.config import DynamicsSettings, EnvironmentSettings
from llmrec.errors import ConfigError, DataError, RequestError
from llmrec.seeding import numpy_stream, stream_seed
from llmrec.simulator.choice import Choice
from llmrec.simulator.dynamics import DRAWS, Dynamics, UserState
from llmrec.simulator.environments.population import Float32Array, Population, check_features, check_response
from llmrec.simulator.environments.record import DAY_S, TURN_S, LazyStates, Record
from llmrec.simulator.feedback import keyed_uniforms, split_mix
from llmrec.types import BoolArray, Feedback, FloatArray, IntArray, State

_STRIDE = (1 << 33) + 9  # between the episodes of one place in the sequence of all visits; more than any N
# Leading bits of the square roots of 2 and 3: constants that nobody chose, which split one user's key into streams
# for clicks, conversions and what follows the turn.
_TURN_SALT = np.uint64(0x6A09E667F3BCC909)
_CONVERSION_SALT = np.uint64(0xBB67AE8584CAA73B)


class Term(Protocol):
    """A named, weighted part of the reward, such as those of `llmrec.rewards`."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def weight(self) -> float: ...  # noqa: D102
    def __call__(self, states: Sequence[State], items_BK: IntArray, feedback: Feedback) -> FloatArray: ...  # noqa: D102


@dataclass(slots=True)
class Turned:
    """What a turn brought N users; rows of users who did not play are false and 0.

    Attributes:
        items_NK: What was shown: the action with repeats replaced by -1.
        click_NK: Clicks; `conversion_NK` conversions; `count_N2` how many of both.
        gone_N: The user left for good with this turn.
        days_N: Days that the user stayed away after this turn before coming back.
    """

    items_NK: IntArray
    click_NK: BoolArray
    conversion_NK: BoolArray
    count_N2: npt.NDArray[np.int32]
    gone_N: BoolArray
    days_N: Float32Array


class Engine:
    """N places, each held by one user at a time.

    Args:
        population: Who is met.
        count: N.
        settings: Sizes of an episode.
        choice: The choice model of a slate.
        dynamics: Transitions.
        offset: Number of the first place; a run over places 0..9 equals two over 0..4 and 5..9.

    Raises:
        ConfigError: A size that makes no sense.
        DataError: Features that are not finite.
    """

    def __init__(
        self,
        population: Population,
        count: int,
        settings: EnvironmentSettings,
        choice: Choice,
        dynamics: DynamicsSettings,
        offset: int = 0,
    ) -> None:
        _check(settings, count, len(population.items), offset)
        check_features(population.feature_NF, len(population.items), "the item features")
        users = len(population.profile_UP)
        check_features(population.profile_UP, users, "the profile features")
        self.population, self.count, self.settings, self.choice = population, count, settings, choice
        self.dynamics, self.offset, self.users_total = Dynamics(dynamics, population.items), offset, users
        self._places = np.arange(offset, offset + count, dtype=np.int64)
        # A stride that shares a divisor with the number of users would lead a place to a part of them only.
        self._stride = next(s for s in itertools.count(_STRIDE, 2) if math.gcd(s, users) == 1)
        self.user_N, self.episode_N = np.zeros(count, dtype=np.int64), np.full(count, -1, dtype=np.int64)
        self.key_N = np.zeros(count, dtype=np.uint64)
        self.record = Record(count, population, settings)
        self.people: UserState | None = None
        self.hidden: Any = None
        self.moment = 0
        self._pool = ThreadPoolExecutor(settings.threads) if settings.threads > 1 else None
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Begins the sequence of visits of run `seed` anew: order of users, and everybody's luck."""
        # One permutation for the whole sequence: visit p meets user order[p mod U], at whatever place.
        self._order_U = numpy_stream(seed, "environment", "order").permutation(self.users_total)
        self._luck = np.uint64(stream_seed(seed, "environment", "luck"))
        self.episode_N[:] = -1

    def restart(self, rows: IntArray, user_B: IntArray | None = None) -> None:
        """Begins the next episode at the places `rows`, with the next users of the sequence or with `user_B`.

        Place g meets in its episode e the visit p = g + e * stride of an endless sequence in which the users take
        turns in the seed's order; who is met, and that visit's luck, depend on nothing else.
        """
        self.moment += 1
        self.episode_N[rows] += 1
        # Places are numbered over all processes (`offset`), so a place's visits do not depend on how users are split.
        visit_B = self._places[rows] + self.episode_N[rows] * self._stride
        if user_B is None:
            user_B = self._order_U[visit_B % self.users_total]
        else:
            # A user met by name has the luck of the episode's number, whatever place meets them: systems are compared
            # user by user.
            visit_B = self.episode_N[rows] * self.users_total
        self.user_N[rows] = user_B
        with np.errstate(over="ignore"):
            # Wrapping around 2^64 is meant. The luck of a visit is that of the user and of how often the sequence has
            # gone round.
            own_B = split_mix(self._luck + user_B.astype(np.uint64))
            self.key_N[rows] = split_mix(own_B + (visit_B // self.users_total).astype(np.uint64))
        hidden = self.population.begin(user_B)
        people = self.dynamics.fresh(len(rows), **self._home(user_B))
        if len(rows) == self.count:
            self.hidden, self.people = hidden, people
        else:
            assert self.people is not None
            self.people.put(rows, people)
            if hidden is not None:
                self.hidden.put(rows, hidden)
        self.record.restart(rows if len(rows) < self.count else slice(0, self.count), user_B)

    def _home(self, user_B: IntArray) -> dict[str, Any]:
        if not self.dynamics.settings.drift.enabled:
            return {}
        home_BD = self.population.home_BD(user_B)
        if home_BD is None:
            raise ConfigError("dynamics.drift is on, but these users have no known interests; switch it off.")
        return {"interest_BD": home_BD}

    def turn(
        self, actions_NK: npt.ArrayLike, play_N: BoolArray | None = None, *, others_restart: bool = False
    ) -> Turned:
        """One turn of all users, or of those of `play_N`, with the slates `actions_NK`.

        With `others_restart` the caller restarts the places that do not play right after, so what becomes of them
        here is of no account.

        -1 leaves a place empty. An item that stands in a slate twice is shown at the first of its places; the
        others stay empty.

        Raises:
            RequestError: A slate of the wrong shape, or an item index outside the catalogue.
        """
        items_NK = self._items(actions_NK)
        shape = items_NK.shape
        turned = Turned(
            np.empty(shape, dtype=np.int64),
            np.zeros(shape, dtype=np.bool_),
            np.zeros(shape, dtype=np.bool_),
            np.zeros((self.count, 2), dtype=np.int32),
            np.zeros(self.count, dtype=np.bool_),
            np.zeros(self.count, dtype=np.float32),
        )
        self.moment += 1

        def block(rows: slice) -> None:
            if play_N is None or play_N[rows].all():
                self._turn(rows, items_NK[rows], turned)
                return
            playing = rows.start + np.flatnonzero(play_N[rows])
            idle = rows.start + np.flatnonzero(~play_N[rows])
            # Rows picked by index are copied twice; where most play it is cheaper to play all and to undo the few,
            # which begin anew right after.
            if others_restart and len(playing) > len(idle):
                self._turn_of_most(rows, idle, items_NK, turned)
            else:
                turned.items_NK[rows] = -1
                self._turn(playing, items_NK[playing], turned)

        self.each_block(block)
        return turned

    def expected(self, actions_NK: npt.ArrayLike) -> Feedback:
        """What is expected of these slates, were they shown now: nothing changes.

        P(click at place k) by the choice model, and that times P(conversion | click), both (N, K) in the users'
        present state. Earlier places of a slate spend no budget here. Raises as `turn`.
        """
        return self.outlook(actions_NK)[0]

    def outlook(self, actions_NK: npt.ArrayLike) -> tuple[Feedback, FloatArray]:
        """`expected`, and P(click at place k) over the attraction of its item, (N, K): 0 where nothing attracts.

        That ratio is P(place looked at) where users look at places (position, cascade), and what competition leaves
        of an attraction under the multinomial logit.
        """
        items_NK = self._items(actions_NK)
        click_NK, buy_NK, look_NK = (np.zeros(items_NK.shape) for _ in range(3))

        def block(rows: slice) -> None:
            assert self.people is not None
            items_BK = without_repeats(items_NK[rows])
            people, user_B, time_B = self.people.take(rows), self.user_N[rows], self.time_N(rows)
            hidden = None if self.hidden is None else self.hidden.take(rows)
            looked_BK, buys_BK = self._probabilities(people, hidden, user_B, items_BK, time_B)
            # Conversions are independent given a click, so the expectation of both is the product.
            click_NK[rows] = self.choice.expected(looked_BK, self._satisfaction(items_BK))
            buy_NK[rows] = click_NK[rows] * buys_BK
            np.divide(click_NK[rows], looked_BK, out=look_NK[rows], where=looked_BK > 0)

        self.each_block(block)
        return Feedback(click_NK, buy_NK), look_NK

    def doubted(self, actions_NK: npt.ArrayLike) -> tuple[FloatArray, FloatArray] | None:
        """`expected` by each of R replicates of the population's model, clicks and conversions, (R, N, K) both.

        None for a population that knows nothing of its own error.
        """
        assert self.people is not None
        doubted = getattr(self.population, "doubted", None)
        items_NK = without_repeats(self._items(actions_NK))
        found = None if doubted is None else doubted(self.hidden, items_NK)
        if found is None:
            return None
        shown_NK, satisfied_NK = items_NK >= 0, self._satisfaction(items_NK)
        clicks, buys = [], []
        for click_NK, buy_NK in zip(*found, strict=True):
            if self.dynamics.transitions:
                click_NK, buy_NK = self.dynamics.modulate(self.people, items_NK, click_NK, buy_NK)
            clicks.append(self.choice.expected(click_NK * shown_NK, satisfied_NK))
            buys.append(clicks[-1] * buy_NK * shown_NK)
        return np.stack(clicks), np.stack(buys)

    def each_block(self, work: Callable[[slice], None]) -> None:
        """Calls `work` for one slice of users after another, or several at once on the threads."""
        size = self.settings.block
        blocks = [slice(low, min(low + size, self.count)) for low in range(0, self.count, size)]
        if self._pool is None or len(blocks) == 1:
            for rows in blocks:
                work(rows)
        else:
            list(self._pool.map(work, blocks))

    def _turn_of_most(self, rows: slice, idle: IntArray, items_NK: IntArray, turned: Turned) -> None:
        """A whole block, in which `idle` get empty slates: cheaper than picking the others out."""
        assert self.people is not None
        items_BK = items_NK[rows].copy()
        items_BK[idle - rows.start] = -1
        self.people.active_B[idle] = True
        self._turn(rows, items_BK, turned)
        turned.gone_N[idle], turned.days_N[idle] = False, 0

    def _turn(self, rows: slice | IntArray, items_BK: IntArray, turned: Turned) -> None:
        assert self.people is not None
        items_BK = without_repeats(items_BK)
        if not len(items_BK):
            return
        people, user_B, time_B = self.people.take(rows), self.user_N[rows], self.time_N(rows)
        hidden = None if self.hidden is None else self.hidden.take(rows)
        click_BK, buy_BK = self._probabilities(people, hidden, user_B, items_BK, time_B)
        key_B, turn_B, places = self.key_N[rows], self.record.turn_B[rows], items_BK.shape[1]
        luck_BKn = keyed_uniforms(key_B, turn_B, places, self.choice.draws)
        clicked_BK = self.choice.sample(click_BK, self._satisfaction(items_BK), luck_BKn)
        # Uniforms of their own for conversions: their number must not depend on how many draws the choice model
        # takes.
        buys_BK = keyed_uniforms(key_B ^ _CONVERSION_SALT, turn_B, places, 1)[..., 0] < buy_BK
        # Wished first and then cut by the budget, place by place: what is bought above leaves less for below.
        bought_BK = self.dynamics.afford(people, items_BK, clicked_BK & buys_BK)
        fate_B2 = keyed_uniforms(key_B ^ _TURN_SALT, turn_B, 1, DRAWS)[:, 0]
        outcome = self.dynamics.step(people, items_BK, clicked_BK, bought_BK, fate_B2)
        self.population.observe(hidden, items_BK, clicked_BK, bought_BK)
        turned.count_N2[rows] = self.record.turn(rows, items_BK, clicked_BK, bought_BK, time_B)
        if not isinstance(rows, slice):
            self.people.put(rows, people)
            if hidden is not None:
                self.hidden.put(rows, hidden)
        turned.items_NK[rows], turned.click_NK[rows], turned.conversion_NK[rows] = items_BK, clicked_BK, bought_BK
        turned.gone_N[rows], turned.days_N[rows] = outcome.gone_B, outcome.days_B

    def _probabilities(
        self, people: UserState, hidden: Any, user_B: IntArray, items_BK: IntArray, time_B: IntArray
    ) -> tuple[Any, Any]:
        """P(click | looked at) and P(conversion | click) in the users' present state; 0 at empty places."""
        click_BK, buy_BK = self.population.respond(hidden, user_B, items_BK, time_B)
        check_response(click_BK, buy_BK, items_BK.shape)
        if self.dynamics.transitions:
            return self.dynamics.modulate(people, items_BK, click_BK, buy_BK)
        shown_BK = items_BK >= 0
        return click_BK * shown_BK, buy_BK * shown_BK

    def _satisfaction(self, items_BK: IntArray) -> Float32Array:
        return self.population.items.quality_N.take(items_BK, mode="clip")

    def time_N(self, rows: slice | IntArray) -> IntArray:
        """The present moment of the users at `rows`, in seconds."""
        assert self.people is not None
        # Time runs by turns within a visit and by days between visits; demand that moves with the calendar sees both.
        away_B = (self.people.days_B[rows] * DAY_S).astype(np.int64)
        time_B: IntArray = self.population.start + away_B + self.record.turn_B[rows].astype(np.int64) * TURN_S
        return time_B

    def lazy_states(self, *, before_turn: bool = False) -> LazyStates:
        """The text states of this moment, or of the moment before the turn that was just played."""
        return LazyStates(lambda row: self._state(row, before_turn), self.count, self.moment, lambda: self.moment)

    def _state(self, row: int, before_turn: bool) -> State:
        time = int(self.time_N(np.array([row]))[0])
        return self.record.state(row, int(self.user_N[row]), time, before_turn=before_turn)

    def _items(self, actions_NK: npt.ArrayLike) -> IntArray:
        items_NK, wanted = np.asarray(actions_NK), (self.count, self.settings.slate_size)
        if items_NK.shape != wanted or items_NK.dtype.kind not in "iu":
            raise RequestError(
                f"An action of shape {items_NK.shape} and type {items_NK.dtype} is no batch of slates; give whole "
                f"numbers of shape {wanted}."
            )
        items = len(self.population.items)
        if items_NK.min() < -1 or items_NK.max() >= items:
            row, place = (int(k) for k in np.argwhere((items_NK < -1) | (items_NK >= items))[0])
            raise RequestError(
                f"The slate of user {row} has item index {items_NK[row, place]} at place {place}; give one of "
                f"0..{items - 1}, or -1 to leave the place empty."
            )
        return items_NK.astype(np.int64, copy=False)

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def without_repeats(items_BK: IntArray) -> IntArray:
    """The slates with every further place of an item set to -1."""
    # One comparison of whole columns for each pair of places: K^2 / 2 passes without a loop over users.
    items_KB = np.ascontiguousarray(items_BK.T.astype(np.int32))  # comparing whole places is fast, rows are not
    again_KB = np.zeros(items_KB.shape, dtype=np.bool_)
    for place in range(1, len(items_KB)):
        np.logical_or.reduce(items_KB[:place] == items_KB[place], axis=0, out=again_KB[place])
    if not again_KB.any():
        return items_BK
    return np.where(again_KB.T, -1, items_BK)


def _check(settings: EnvironmentSettings, count: int, items: int, offset: int) -> None:
    for key in ("slate_size", "turns", "remembered_turns", "block", "threads"):
        if getattr(settings, key) < 1:
            raise ConfigError(f"Key 'environment.{key}' is {getattr(settings, key)}, but it must be 1 or more.")
    if not 0 <= settings.decay <= 1:
        raise ConfigError(f"Key 'environment.decay' is {settings.decay}, but it must lie in 0..1.")
    if settings.slate_size > items:
        raise ConfigError(
            f"Key 'environment.slate_size' is {settings.slate_size}, but the catalogue has {items} items; lower it."
        )
    if count < 1 or offset < 0:
        raise ConfigError(f"{count} users from number {offset} are none; give 1 or more, from number 0 or more.")


def total_reward(
    settings: EnvironmentSettings, terms: Sequence[Term] | None, states: Sequence[State], turned: Turned
) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Reward of each user and its named, unweighted terms, summed over the slate: shapes (N,).

    Without `terms` it is click * clicks + conversion * conversions; with them `states` are there to be asked for.
    """
    if terms is None:
        clicks_N, conversions_N = turned.count_N2.astype(np.float64).T
        total = settings.click * clicks_N + settings.conversion * conversions_N
        return total, {"click": clicks_N, "conversion": conversions_N}
    feedback = Feedback(turned.click_NK.astype(np.float64), turned.conversion_NK.astype(np.float64))
    total_N, named = np.zeros(len(turned.gone_N)), dict[str, FloatArray]()
    for term in terms:
        # Terms may give anything at an empty place; nobody was shown anything there.
        value_NK = np.where(turned.items_NK >= 0, term(states, turned.items_NK, feedback), 0.0)
        if not np.isfinite(value_NK).all():
            raise DataError(f"Reward {term.name!r} is not finite; check the function that computes it.")
        named[term.name] = value_NK.sum(axis=1)
        total_N += term.weight * named[term.name]
    return total_N, named
