"""Where sessions start, whom they meet, and what their slates earn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import ChoiceSettings, DynamicsSettings, EnvironmentSettings, SessionSettings
from llmrec.policy.admissible import Admissible
from llmrec.policy.filtered import padded
from llmrec.rewards import Term, combine, is_causal
from llmrec.seeding import stream_seed
from llmrec.simulator.choice import make_choice
from llmrec.simulator.ensemble import slate_doubt
from llmrec.simulator.environments.play import Play, PlayedTurn
from llmrec.simulator.environments.population import Population
from llmrec.training.obeyed import Closed, Obeyed
from llmrec.training.state_source import StateSource
from llmrec.types import BoolArray, Feedback, FloatArray, IntArray, Reward, State


class Members(Protocol):
    """Tells what each member of an ensemble expects; `llmrec.simulator.ensemble.Ensemble` is one."""

    def by_member(self, states: Sequence[State], items_BK: IntArray) -> tuple[FloatArray, FloatArray]:
        """P(click) and P(click and conversion), both (E, B, K)."""
        ...


@dataclass(frozen=True, slots=True)
class SessionReward:
    """The reward of a turn's slates: weighted terms, each place for itself.

    Attributes:
        terms: clicks, conversions and whatever else is weighed.
        sampled: what users did in place of what was to be expected in the state they were in. Their state moves by
            what they did in either case.
        pessimism: so many standard deviations of the slate's value over the members of `ensemble` are taken off what
            was to be expected (`simulator.ensemble.slate_doubt`); not with `sampled`. Members speak of items that are
            looked at, so each one's P(click) is first brought to that of its place (`PlayedTurn.look_AK`).
        ensemble: whose members disagree, in the text state and without dynamics.
        click: worth of a click in the slate's value; `conversion` that of a conversion.
    """

    terms: tuple[Term, ...]
    sampled: bool = False
    pessimism: float = 0.0
    ensemble: Members | None = None
    click: float = 1.0
    conversion: float = 3.0

    def __call__(self, states: Sequence[State], items_AK: IntArray, played: PlayedTurn) -> Reward:
        """Rewards (A, K) of the slates `items_AK` that were shown in `states`."""
        feedback = played.drawn if self.sampled else played.expected
        if self.pessimism and self.ensemble is not None and not self.sampled:
            # At a place that nobody reaches there is nothing to doubt.
            look_AK = 1.0 if played.look_AK is None else played.look_AK
            click_EAK, joint_EAK = (look_AK * part_EAK for part_EAK in self.ensemble.by_member(states, items_AK))
            doubt = slate_doubt(click_EAK, joint_EAK, click=self.click, conversion=self.conversion, slate=True)
            feedback = Feedback(
                feedback.click_BK - self.pessimism * doubt.click_BK,
                feedback.conversion_BK - self.pessimism * doubt.conversion_BK,
            )
        return combine(self.terms, states, items_AK, feedback)


@dataclass(frozen=True, slots=True)
class SessionUsers:
    """Who is met in sessions, and how they behave.

    Attributes:
        population: the users.
        users: rows of the population where sessions may start.
        seen: items that each of them has seen beside those in the state; none is drawn where repeats are excluded.
        reward: of a turn.
        choice: how they choose within a slate.
        dynamics: how they change from turn to turn.
    """

    population: Population
    users: IntArray
    seen: Sequence[IntArray]
    reward: SessionReward
    choice: ChoiceSettings
    dynamics: DynamicsSettings


def is_causal_in_place(meeting: SessionUsers, places: int) -> bool:
    """Whether what a place earns depends on the places above it and on its own alone (always so for one place)."""
    choice = make_choice(meeting.choice, places)
    return places == 1 or (choice.causal and all(is_causal(term) for term in meeting.reward.terms))


class SessionSource(StateSource):
    """The sessions of rollouts: one for each row, named by rollout and place.

    Slates come from streams named by (rollout, place, turn), users' luck from (rollout, user): how many processes
    share the work changes neither.

    Args:
        meeting: who is met.
        session: sizes of a session.
        repeat: whether items that were seen before or in the session may be drawn.
        renderer: state to prompt.
        catalogue: the items.
        tokenizer: gives the padding token.
        seed: the run's seed.
        rules: what every slate obeys; None for none.
    """

    def __init__(
        self,
        meeting: SessionUsers,
        session: SessionSettings,
        repeat: str,
        renderer: Any,
        catalogue: Catalogue,
        tokenizer: Any,
        seed: int,
        rules: Obeyed | None = None,
    ) -> None:
        # where sessions start; what is shown later is in the environment's own states
        states = [meeting.population.state(int(user)) for user in meeting.users]
        seen: Sequence[IntArray] | None = list(meeting.seen) if repeat == "exclude" else None
        self.bounds: list[Admissible] | None = None
        """What bounds the slates of each user; None where nothing bounds anybody's: Plackett-Luce slates then."""
        if rules is not None:
            asked = rules.asked(states, session.slate)
            seen = Closed(asked, rules.attributes, seen)
            if any(one.bounds_slate for one in asked):
                self.bounds = Admissible.of_each(asked, rules.attributes, session.slate)
        super().__init__(states, seen, renderer, catalogue, tokenizer, seed)
        self.meeting, self.session, self.reward = meeting, session, meeting.reward
        self.turns, self.slate = session.turns, session.slate
        self.causal = is_causal_in_place(meeting, session.slate)
        self._plays: dict[int, Play] = {}

    def begin(self, rows: Sequence[dict[str, Any]]) -> Play:
        """The sessions of the rows, which are of one rollout, at their first turn."""
        count = len(rows)
        # an environment of so many users is made once: its arrays are large, and `begin` starts them anew
        if count not in self._plays:
            sizes = EnvironmentSettings(
                slate_size=self.slate, turns=self.turns, remembered_turns=self.session.remembered_turns
            )
            given = {"choice": self.meeting.choice, "dynamics": self.meeting.dynamics}
            self._plays[count] = Play(self.meeting.population, count, sizes, **given)  # type: ignore[arg-type]
        users = self.meeting.users[[row["state"] for row in rows]]
        # luck by (rollout, user): two policies, or two numbers of processes, meet the same user on the same day
        self._plays[count].begin(stream_seed(self.seed, "session", "luck", rows[0]["rollout"]), users)
        return self._plays[count]

    def keys(self, rows: Sequence[dict[str, Any]], turn: int) -> Tensor:
        """Keys of the slates that are drawn for the rows at `turn`: (B,) int64."""
        named = [stream_seed(self.seed, "session", "slate", row["rollout"], row["place"], turn) for row in rows]
        return torch.tensor(named, dtype=torch.long)

    def taken(
        self,
        rows: Sequence[dict[str, Any]],
        shown: Sequence[IntArray],
        states: Sequence[State],
        device: torch.device,
    ) -> Tensor | None:
        """Items that may not be drawn, (B, E) padded with -1: seen before or shown in the session; None: all may."""
        if self.seen is None:
            return None
        if isinstance(self.seen, Closed):
            passes_N = self.seen.passes_N
            lists = [np.flatnonzero(passes_N & ~open_N) for open_N in self.opened(rows, shown, states)]
        else:
            lists = [
                # what was shown and not clicked counts too, which the text state may have forgotten
                # (`remembered_turns`)
                np.unique(np.concatenate([self.seen[row["state"]], items, state.seen()]).astype(np.int64))
                for row, items, state in zip(rows, shown, states, strict=True)
            ]
        return torch.from_numpy(padded(lists)).to(device)

    def opened(
        self, rows: Sequence[dict[str, Any]], shown: Sequence[IntArray], states: Sequence[State]
    ) -> list[BoolArray]:
        """The items that rules, and what was seen or shown, leave for a slate of each of the rows: (N,) each."""
        assert isinstance(self.seen, Closed)
        made = []
        for row, items, state in zip(rows, shown, states, strict=True):
            open_N = self.seen.open_N(row["state"])
            if self.seen.seen_S is not None:
                open_N[items] = False
                open_N[list(state.seen())] = False
            made.append(open_N)
        return made
