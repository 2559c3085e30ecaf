"""Q-learning and SARSA over clusters of states, for many users at a time.

    Q-learning:  Q(s, a) += alpha (r + gamma max over legal a' of Q(s', a') - Q(s, a))      (Watkins 1989)
    SARSA:       Q(s, a) += alpha (r + gamma Q(s', a') - Q(s, a)), a' the action taken next (Rummery, Niranjan 1994)

with alpha = learning_rate / n(s, a) ** decay and nothing after a session's last turn. Where several users meet one
cell in a turn, it moves by the sum of their errors, never further than their mean.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.agents.agent import FACTS, Agent, Trained
from llmrec.agents.clusters import Actions, Centres, Discretiser, best_legal, draw_legal, visited
from llmrec.agents.features import Float32Array, StateFeatures
from llmrec.agents.meeting import Meeting, Observed
from llmrec.agents.settings import TabularSettings
from llmrec.errors import ConfigError, RequestError
from llmrec.files import write_json
from llmrec.progress import Bar
from llmrec.seeding import numpy_stream, stream_seed
from llmrec.types import FloatArray, IntArray

TABULAR = "tabular"
_SHRINK = 20.0  # showings of an item at which its own mean weighs as much as its group's
_STRETCHES = 20


class TabularAgent(Agent):
    """A table of Q-values as a recommender.

    Where actions are groups of items, an item is worth Q(s, its group) plus what it earned above the mean of its
    group, shrunk towards 0 where it was seldom shown.

    Attributes:
        value_SA: the table; `visit_SA` how often each cell was met.
        earned_N: rewards that each item got in total; `shown_N` how often it was shown.
    """

    def __init__(
        self,
        features: StateFeatures,
        discretise: Discretiser,
        actions: Actions,
        settings: TabularSettings,
        repeat: str = "allow",
        seed: int = 0,
    ) -> None:
        n_items = len(actions.group_N)
        super().__init__(features, n_items, repeat, seed)
        self.discretise, self.actions, self.settings = discretise, actions, settings
        self.value_SA = np.full((discretise.rows, actions.count), settings.initial, dtype=np.float64)
        self.visit_SA = np.zeros(self.value_SA.shape, dtype=np.int64)
        self.earned_N, self.shown_N = np.zeros(n_items), np.zeros(n_items)
        self.trained: Trained | None = None

    def values(self, feature_BD: Float32Array) -> FloatArray:
        """Q of each item, (B, N)."""
        value_BN: FloatArray = self.value_SA[self.discretise(feature_BD)][:, self.actions.group_N]
        return value_BN if self.actions.single else value_BN + self._above_group()

    def _above_group(self) -> FloatArray:
        group_N, count = self.actions.group_N, self.actions.count
        earned_A = np.bincount(group_N, self.earned_N, count)
        mean_N = (earned_A / np.maximum(np.bincount(group_N, self.shown_N, count), 1.0))[group_N]
        # shrinkage as by a prior of _SHRINK showings at the group's mean
        above_N: FloatArray = (self.earned_N - mean_N * self.shown_N) / (self.shown_N + _SHRINK)
        return above_N

    def update(self, row_B: IntArray, action_B: IntArray, target_B: FloatArray) -> None:
        """Moves the cells (row, action) towards their targets; several rows may name one cell."""
        cell_B = row_B * self.actions.count + action_B
        cell_C, place_B, times_C = np.unique(cell_B, return_inverse=True, return_counts=True)
        value_F, visit_F = self.value_SA.reshape(-1), self.visit_SA.reshape(-1)
        visit_F[cell_C] += times_C
        error_C = np.bincount(place_B, target_B - value_F[cell_B], len(cell_C))
        rate_C = self.settings.learning_rate / visit_F[cell_C] ** self.settings.decay
        # The sum of errors times the rate, which for many users at one cell would overshoot: at most their mean is
        # taken.
        value_F[cell_C] += np.minimum(rate_C, 1.0 / times_C) * error_C

    def _save(self, folder: Path) -> None:
        if not isinstance(self.discretise, Centres):
            raise RequestError("Only an agent whose states are clusters can be saved; this one was given a function.")
        np.savez(
            folder / "table.npz",
            value=self.value_SA,
            visit=self.visit_SA,
            group=self.actions.group_N,
            centre=self.discretise.centre_CD,
            earned=self.earned_N,
            shown=self.shown_N,
        )
        write_json(
            folder / FACTS,
            {"kind": TABULAR, "settings": self.settings.tree(), "repeat": self.repeat, "seed": self.seed},
        )

    @classmethod
    def restore(cls, features: StateFeatures, facts: dict[str, Any], arrays: dict[str, Any]) -> TabularAgent:
        """The agent that `save` wrote; see `agents.load_agent`."""
        settings = TabularSettings(**facts["settings"])
        agent = cls(
            features, Centres(arrays["centre"]), Actions(arrays["group"]), settings, facts["repeat"], facts["seed"]
        )
        agent.value_SA, agent.visit_SA = arrays["value"], arrays["visit"]
        agent.earned_N, agent.shown_N = arrays["earned"], arrays["shown"]
        return agent


def train_tabular(
    meeting: Meeting,
    features: StateFeatures,
    settings: TabularSettings,
    *,
    item_NE: npt.ArrayLike | None = None,
    discretise: Discretiser | None = None,
    repeat: str = "allow",
    seed: int = 0,
) -> TabularAgent:
    """Learns a table from `meeting`.

    Args:
        meeting: users and rewards; `meeting.count` of them at a time.
        features: what `meeting` observes with, kept for deployment.
        settings: of the algorithm.
        item_NE: items as vectors, for `settings.item_clusters`.
        discretise: rows of the table; by default clusters of states met at random.
        repeat: "exclude" where seen items must not be recommended.
        seed: run seed.

    Raises:
        ConfigError: clusters of items without their vectors.
        RequestError: a user who has seen the whole catalogue.
    """
    if discretise is None:
        discretise = Centres.fit(visited(meeting, seed), settings.clusters, seed, "states")
    agent = TabularAgent(features, discretise, _actions(meeting, settings, item_NE, seed), settings, repeat, seed)
    agent.trained = _Learning(meeting, agent).run()
    return agent


def _actions(meeting: Meeting, settings: TabularSettings, item_NE: npt.ArrayLike | None, seed: int) -> Actions:
    if settings.item_clusters is None:
        return Actions.items(meeting.n_items)
    if item_NE is None:
        raise ConfigError("Key 'agents.item_clusters' is set, but no item embeddings were given; pass item_NE.")
    return Actions.groups(item_NE, settings.item_clusters, seed)


class _Learning:
    """The loop of both algorithms."""

    def __init__(self, meeting: Meeting, agent: TabularAgent) -> None:
        self.meeting, self.agent, self.settings = meeting, agent, agent.settings
        self.random = numpy_stream(agent.seed, "agents", agent.settings.algorithm)

    def run(self) -> Trained:
        meeting, settings, agent = self.meeting, self.settings, self.agent
        start, cpu, done, rewards = time.monotonic(), time.process_time(), 0, []
        observed = meeting.begin(stream_seed(agent.seed, "agents", "training"))
        row_B = agent.discretise(observed.feature_BD)
        action_B = self._choose(row_B, observed, 0.0)
        with Bar(f"Training {settings.algorithm}", settings.transitions) as bar:
            while done < settings.transitions and not self._late(start):
                items_B = agent.actions.items_B(action_B, observed.legal_BN(meeting.n_items), self.random)
                turn = meeting.turn(items_B)
                np.add.at(agent.earned_N, items_B, turn.reward_B)
                np.add.at(agent.shown_N, items_B, 1)
                done += meeting.count
                next_B = agent.discretise(turn.next.feature_BD)
                share = done / settings.transitions
                # SARSA's target is the action that will be taken, so it is chosen before the update; Q-learning
                # chooses after it, by the table that it has just moved.
                ahead_B = None if settings.algorithm == "q-learning" else self._choose(next_B, turn.next, share)
                # `next` is another session's first state where this one is over
                future_B = np.where(turn.over_B, 0.0, self._future(next_B, turn.next, ahead_B))
                agent.update(row_B, action_B, turn.reward_B + settings.gamma * future_B)
                action_B = self._choose(next_B, turn.next, share) if ahead_B is None else ahead_B
                row_B, observed = next_B, turn.next
                rewards.append(float(turn.reward_B.mean()))
                bar.advance(meeting.count, f"reward {rewards[-1]:.3f}")
        out_of_time = done < settings.transitions
        return Trained(done, time.process_time() - cpu, stretches(rewards, meeting.count), out_of_time)

    def _late(self, start: float) -> bool:
        limit = self.settings.seconds
        return limit is not None and time.monotonic() - start >= limit

    def _choose(self, row_B: IntArray, observed: Observed, share: float) -> IntArray:
        """Epsilon-greedy among the legal actions."""
        legal_BA = self.agent.actions.legal_BA(observed.legal_BN(self.meeting.n_items))
        best_B = best_legal(self.agent.value_SA[row_B], legal_BA, self.random)
        explores_B = self.random.random(len(row_B)) < self.settings.epsilon_at(share)
        return np.where(explores_B, draw_legal(legal_BA, self.random), best_B)

    def _future(self, row_B: IntArray, observed: Observed, ahead_B: IntArray | None) -> FloatArray:
        value_BA = self.agent.value_SA[row_B]
        if ahead_B is not None:
            taken_B: FloatArray = value_BA[np.arange(len(row_B)), ahead_B]
            return taken_B
        legal_BA = self.agent.actions.legal_BA(observed.legal_BN(self.meeting.n_items))
        best_B: FloatArray = np.where(legal_BA, value_BA, -np.inf).max(axis=1)
        return best_B


def stretches(rewards: list[float], each: int) -> tuple[dict[str, float], ...]:
    """Mean rewards of up to 20 equal stretches of a training; `each` transitions stand behind every number."""
    parts = np.array_split(np.array(rewards), min(_STRETCHES, max(1, len(rewards))))
    ends = np.cumsum([len(part) for part in parts]) * each
    return tuple(
        {"transitions": float(end), "reward": float(part.mean())}
        for end, part in zip(ends, parts, strict=True)
        if len(part)
    )
