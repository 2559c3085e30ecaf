"""A distribution of tasks: somewhere or somebody new, some sessions to adapt to, others to be judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from llmrec.adaptation.sessions import Sessions
from llmrec.catalogue.catalogue import Catalogue
from llmrec.errors import DataError
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.seeding import numpy_stream
from llmrec.training.improvement import WarmStart
from llmrec.types import IntArray

TaskKind = Literal["domain", "catalogue", "group", "user"]
"""What is new in a task: a domain with its words, other items of a known domain, a group of people, one person."""
TASK_KINDS: tuple[TaskKind, ...] = ("domain", "catalogue", "group", "user")


@dataclass(frozen=True)
class Place:
    """Where sessions take place: a catalogue with its wording, and the log that tasks are cut from.

    The model is not a part of it: one model serves all places.

    Attributes:
        name: of the place, in what is printed.
        catalogue: its items, in the tokens of the model's tokenizer.
        renderer: its states to prompts.
        repeat: whether items that a user has seen may be shown.
        sessions: its log; empty where only the catalogue is known.
        group_N: each item's group, for propensities that are fitted.
        items: the items' entries.
        group_of: of users that belong to a group of people, which one.
    """

    name: str
    catalogue: Catalogue
    renderer: Any
    repeat: Literal["allow", "exclude"]
    sessions: Sessions
    group_N: IntArray
    items: Sequence[Any] = ()
    group_of: Mapping[str, str] = field(default_factory=dict)

    def policy(self, model: Any, tokenizer: Any) -> LanguagePolicy:
        """The model as a policy of this place."""
        return LanguagePolicy(model, tokenizer, self.catalogue, self.renderer, self.repeat)

    def start(self, model: Any, tokenizer: Any, seed: int) -> WarmStart:
        """The model as trainings of this place start from it."""
        return WarmStart(model, tokenizer, self.catalogue, self.renderer, self.repeat, seed)


@dataclass(frozen=True)
class Task:
    """One draw of the distribution.

    Attributes:
        name: place and what was drawn.
        kind: what is new.
        place: where.
        support: what is adapted to.
        query: what the adapted policy is asked about; other slates than `support`, and but for kind "user" of other
            people.
    """

    name: str
    kind: TaskKind
    place: Place
    support: Sessions
    query: Sessions


@dataclass(frozen=True)
class Tasks:
    """The distribution: a place drawn uniformly, then people in it.

    "domain" and "catalogue" draw any people of a place, which is itself what is new; "group" people of one group;
    "user" one person, whose first slates are adapted to and whose later ones ask.

    Attributes:
        places: where.
        kind: what is new in a task.
        support: users whose sessions are adapted to; of kind "user" their slates.
        query: users (slates) that ask.
        seed: of the draws.
    """

    places: Sequence[Place]
    kind: TaskKind = "domain"
    support: int = 5
    query: int = 15
    seed: int = 0

    def draw(self, step: int, number: int) -> list[Task]:
        """The tasks of an outer step; the same for the same seed and step, whatever was drawn before.

        Places come in turns of a random order, so that a step with as many tasks as places has one of each.

        Raises:
            DataError: no place, or one with too few people who were shown anything.
        """
        if not self.places:
            raise DataError("A distribution of tasks needs a place; give one or more.")
        stream = numpy_stream(self.seed, "adaptation", "tasks", step)
        order = [int(p) for _ in range(-(-number // len(self.places))) for p in stream.permutation(len(self.places))]
        return [self._drawn(self.places[place], stream) for place in order[:number]]

    def _drawn(self, place: Place, stream: np.random.Generator) -> Task:
        if self.kind == "user":
            return self._of_user(place, stream)
        people, name = place.sessions.users, place.name
        if self.kind == "group":
            groups = _groups(place, self.support + 1)
            name = sorted(groups)[int(stream.integers(len(groups)))]
            people = groups[name]
            name = f"{place.name}, {name}"
        if len(people) <= self.support:
            raise DataError(
                f"{place.name!r} has {len(people)} users with sessions, but a task adapts to {self.support} and asks "
                "others; give more sessions, or adapt to fewer."
            )
        chosen = [people[p] for p in stream.permutation(len(people))[: self.support + self.query]]
        support, query = chosen[: self.support], chosen[self.support :]
        return Task(name, self.kind, place, place.sessions.of(support), place.sessions.of(query))

    def _of_user(self, place: Place, stream: np.random.Generator) -> Task:
        rows_of: dict[str, list[int]] = {}
        for row, user in enumerate(place.sessions.log.user_ids):
            if user is not None:
                rows_of.setdefault(user, []).append(row)
        people = [user for user, rows in rows_of.items() if len(rows) > self.support]
        if not people:
            raise DataError(
                f"Nobody in {place.name!r} was shown more than {self.support} slates; adapt to fewer of a user."
            )
        user = people[int(stream.integers(len(people)))]
        # slates are in order of time
        rows = rows_of[user][: self.support + self.query]
        first, later = place.sessions.at(rows[: self.support]), place.sessions.at(rows[self.support :])
        return Task(f"{place.name}, user {user}", "user", place, first, later)


def _groups(place: Place, least: int) -> dict[str, list[str]]:
    """People of the place by group, groups of fewer than `least` left out."""
    found: dict[str, list[str]] = {}
    for user in place.sessions.users:
        if user in place.group_of:
            found.setdefault(place.group_of[user], []).append(user)
    found = {name: people for name, people in found.items() if len(people) >= least}
    if not found:
        raise DataError(f"{place.name!r} has no group of {least} users with sessions; tell who belongs together.")
    return found
