"""Users as behaviour models learned them from a log: carried state where the models are recurrent, else histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from llmrec.dataset.world.scenario import END
from llmrec.errors import DataError
from llmrec.simulator.behaviour import BehaviourModel, Catalogued, items_of
from llmrec.simulator.dynamics import ItemTable
from llmrec.simulator.ensemble import Ensemble, mean_prediction
from llmrec.simulator.environments.population import Float32Array
from llmrec.simulator.features import TEXT
from llmrec.simulator.judge import Judge
from llmrec.simulator.networks.recurrent import LiveState, RecurrentNet
from llmrec.simulator.sequence import CODES
from llmrec.types import FloatArray, IntArray, Interaction, State

_KEPT = 40
_SAMPLE = 64
_CHUNK = 4096


@dataclass(slots=True)
class Carried:
    """What each recurrent member carries of B users."""

    parts: list[LiveState]

    def take(self, rows: Any) -> Carried:
        """The users at `rows`: views for a slice."""
        return Carried([part.take(rows) for part in self.parts])

    def put(self, rows: Any, other: Carried) -> None:
        """Overwrites the users at `rows`."""
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            mine.put(rows, theirs)


@dataclass(slots=True)
class KnownStates:
    """States of B users, each with what was chosen in the episode behind its history."""

    state_B: npt.NDArray[np.object_]

    def take(self, rows: Any) -> KnownStates:
        """The users at `rows`."""
        return KnownStates(self.state_B[rows])

    def put(self, rows: Any, other: KnownStates) -> None:
        """Overwrites the users at `rows`."""
        self.state_B[rows] = other.state_B


class LearnedUsers:
    """A population that behaves as an ensemble (or one model) predicts.

    Like the histories that the models were fitted on, what they remember of an episode is what the user chose: a
    click, or a conversion. "gru" and "lstm" carry that in a vector (about one step of the network a turn); other
    architectures read each user's history anew, which is slow.

    Dynamics: the category is an item's first one, and quality the rank (0..1) of its mean predicted P(conversion |
    click), as a log tells no other satisfaction. Interests are not known, so the drift of `DynamicsSettings` must be
    off; the models themselves react to what is consumed.

    Args:
        model: An ensemble or a behaviour model.
        states: One state for each user, as the episodes begin.
        catalogue: The data set (or the items) of the model.
        quality_N: Satisfaction by item in 0..1 instead of the one above.
    """

    def __init__(
        self,
        model: Ensemble | BehaviourModel,
        states: Sequence[State],
        catalogue: Sequence[Any] | Catalogued,
        quality_N: npt.ArrayLike | None = None,
    ) -> None:
        self.members = _behaviour_models(model)
        if not len(states):
            raise DataError("There is no user to meet; give one state or more.")
        # Episodes begin where the log ends: the models know nothing of later.
        self.start = max((s.time for s in states if s.time is not None), default=END)
        self._states = np.empty(len(states), dtype=object)
        self._states[:] = list(states)
        space, items = self.members[0].space, items_of(catalogue)
        self.feature_NF: Float32Array = space.item_NF.astype(np.float32)
        dense_SF = space.encode(states).dense_SF
        self.profile_UP: Float32Array = np.ascontiguousarray(dense_SF[:, : space.profile_text.dimension + TEXT])
        # Items without a category share one of their own.
        kinds = {name: k for k, name in enumerate(dict.fromkeys(i.categories[0] for i in items if i.categories))}
        self.items = ItemTable.of(
            [kinds[i.categories[0]] if i.categories else len(kinds) for i in items],
            quality_N=self._ranked_quality() if quality_N is None else quality_N,
            price_N=[i.price or 0.0 for i in items],
            categories=len(kinds) + 1,
        )
        self.carries = all(isinstance(member.net, RecurrentNet) for member in self.members)
        self._first = self._carried() if self.carries else None
        self._past = self._clicked()

    def begin(self, user_B: IntArray) -> Carried | KnownStates:
        """The users' memories at the start of an episode."""
        if self._first is None:
            return KnownStates(self._states[user_B])
        return self._first.take(user_B)

    def home_BD(self, user_B: IntArray) -> None:
        """None: interests are not known."""
        return

    def respond(
        self, hidden: Carried | KnownStates, user_B: IntArray, items_BK: IntArray, time_B: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """P(click | looked at) and P(conversion | click), shapes (B, K)."""
        if isinstance(hidden, Carried):
            pairs = zip(self.members, hidden.parts, strict=True)
            predictions = [member.predict_from(part, items_BK) for member, part in pairs]
        else:
            states = hidden.state_B.tolist()
            predictions = [member.predict(states, items_BK) for member in self.members]
        mean = predictions[0] if len(predictions) == 1 else mean_prediction(predictions)
        return mean.click_BK, mean.conversion_BK

    def doubted(self, hidden: Carried | KnownStates, items_BK: IntArray) -> tuple[FloatArray, FloatArray] | None:
        """What each of R replicates of a judge would respond, (R, B, K) both; None for models that have none."""
        judge = self.members[0]
        if len(self.members) > 1 or not isinstance(judge, Judge) or isinstance(hidden, Carried):
            return None
        _, drawn = judge.with_replicates(hidden.state_B.tolist(), items_BK)
        click_RBK, joint_RBK = drawn.click_RBK, drawn.joint_RBK
        return click_RBK, np.divide(joint_RBK, click_RBK, out=np.zeros_like(joint_RBK), where=click_RBK > 0)

    def observe(self, hidden: Carried | KnownStates, items_BK: IntArray, click_BK: Any, conversion_BK: Any) -> None:
        """Adds what was chosen to the memories, in order of the slate."""
        row_P, place_P = np.nonzero(click_BK)
        item_P, bought_P = items_BK[row_P, place_P], conversion_BK[row_P, place_P]
        if isinstance(hidden, KnownStates):
            for row, item, bought in zip(row_P.tolist(), item_P.tolist(), bought_P.tolist(), strict=True):
                hidden.state_B[row] = _after(hidden.state_B[row], item, bought)
            return
        code_P = np.where(bought_P, CODES["conversion"], CODES["click"])
        # Recurrent cells take one event at a time; the first click of all users is one step of the network, then the
        # second.
        nth_P = np.arange(len(row_P)) - np.searchsorted(row_P, row_P)  # the user's first click, second, ...
        for nth in range(int(nth_P.max(initial=-1)) + 1):
            now = np.flatnonzero(nth_P == nth)
            for member, part in zip(self.members, hidden.parts, strict=True):
                part.put(row_P[now], member.step(part.take(row_P[now]), item_P[now], code_P[now]))

    def past(self, user_B: IntArray) -> tuple[Float32Array, Float32Array]:
        """Features of what stands in the users' histories as chosen, and how much that is."""
        return self._past[0][user_B], self._past[1][user_B]

    def state(self, user: int) -> State:
        """The state that the user began with."""
        found: State = self._states[user]
        return found

    def _carried(self) -> Carried:
        """What the members carry of every user, some states at a time."""
        parts = []
        for member in self.members:
            found = [
                member.initial_state(self._states[low : low + _CHUNK].tolist())
                for low in range(0, len(self._states), _CHUNK)
            ]
            arrays = ([getattr(f, name) for f in found] for name in ("carried_BC", "still_BX", "words_BT"))
            parts.append(LiveState(*(torch.cat(array) for array in arrays)))
        return Carried(parts)

    def _ranked_quality(self) -> FloatArray:
        # An even sample of the users is enough for an order of items.
        some = self._states[:: max(1, len(self._states) // _SAMPLE)][:_SAMPLE].tolist()
        mean_N = np.mean([m.predict_all(some).conversion_BK.mean(axis=0) for m in self.members], axis=0)
        # Ranks and not probabilities: the dynamics read quality on 0..1, and conversion rates may all lie near 0.
        rank_N: FloatArray = np.argsort(np.argsort(mean_N, kind="stable"), kind="stable") / max(1, len(mean_N) - 1)
        return rank_N

    def _clicked(self) -> tuple[Float32Array, Float32Array]:
        chosen = [[i.item for i in state.history if i.feedback != "impression"] for state in self._states]
        count_U = np.array([len(items) for items in chosen])
        flat_P = np.array([item for items in chosen for item in items], dtype=np.int64)
        start_U1 = np.concatenate([[0], np.cumsum(count_U)])
        ones_P, shape = np.ones(len(flat_P), dtype=np.float32), (len(chosen), len(self.feature_NF))
        # One CSR row a user, a one for each chosen item: the product sums features without a loop.
        sum_UF = sparse.csr_array((ones_P, flat_P, start_U1), shape=shape) @ self.feature_NF
        return np.asarray(sum_UF, dtype=np.float32), count_U.astype(np.float32)


def _behaviour_models(model: Ensemble | BehaviourModel) -> tuple[BehaviourModel, ...]:
    given = model.members if isinstance(model, Ensemble) else (model,)
    found = tuple(member for member in given if isinstance(member, BehaviourModel))
    if len(found) < len(given):
        odd = next(type(member).__name__ for member in given if not isinstance(member, BehaviourModel))
        raise DataError(f"Learned users need fitted behaviour models, not {odd}; give those of fit_ensemble.")
    return found


def _after(state: State, item: int, bought: bool) -> State:
    event = Interaction(item, "conversion" if bought else "click", state.time or 0)
    return State(
        state.user_id, state.profile, state.history, (*state.session, event)[-_KEPT:], state.context, state.time
    )
