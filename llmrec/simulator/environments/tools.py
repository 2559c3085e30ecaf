"""Simulated users for agents that call tools: TRL's `environment_factory`.

    factory = ToolEnvironments("shop", slate_size=3, turns=4)
    GRPOTrainer(model, args=args, train_dataset=Dataset.from_list(factory.rows(100, seed=0)),
                environment_factory=factory)

The agent searches the catalogue and shows slates by title; the user of the row clicks, buys and may leave. What the
visit earned is the reward. Rows name their visit, so that all draws of a group meet the same user with the same luck.
Other than the constrained policy such an agent may name what does not exist, which shows nothing and earns nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from llmrec.errors import RequestError
from llmrec.printing import short_line
from llmrec.simulator.environments.domains import make_single
from llmrec.simulator.environments.population import Population
from llmrec.simulator.environments.single import RecEnv
from llmrec.text.escape import clean_text
from llmrec.types import Interaction, Item, State

TITLE_CHARACTERS = 120
PROFILE_CHARACTERS = 400
FOUND = 10
_WORD = re.compile(r"\w+")
_DID = {"impression": "passed over", "click": "clicked", "cart": "put into the cart", "conversion": "bought"}

TASK = (
    "You choose what a visitor sees. Use search_items to find titles and show_items to show up to {places} of them "
    "at a time, at most {turns} times. Please the visitor: a click earns {click:g}, a purchase {conversion:g} more."
)


class ToolEnvironment:
    """One visit of one simulated user; TRL makes one for each rollout and calls `reset` before it.

    Methods without an underscore, but for `reset` and `get_reward`, are the agent's tools.
    """

    def __init__(self, env: RecEnv, titles: Sequence[str], words: Sequence[frozenset[str]]) -> None:
        self._env, self._titles, self._words = env, titles, words
        self._row_of = {title.casefold(): row for row, title in reversed(list(enumerate(titles)))}
        self._earned, self._over, self._begun = 0.0, True, False

    def reset(self, **row: Any) -> str:
        """Begins the visit that the row names and tells of its user.

        Args:
            **row: columns of a row of `ToolEnvironments.rows`: `seed` and `user` are read.

        Raises:
            RequestError: the row names no visit.
        """
        if not isinstance(row.get("seed"), int) or not isinstance(row.get("user"), int):
            raise RequestError(
                "The row names no visit; train on ToolEnvironments.rows, which have whole numbers as seed and user."
            )
        _, info = self._env.reset(seed=row["seed"], options={"user": row["user"]})
        self._earned, self._over, self._begun = 0.0, False, True
        return f"\n\n{self._told(info['state']())}"

    def search_items(self, words: str) -> str:
        """Finds items of the catalogue.

        Args:
            words: What titles, descriptions and categories should speak of, for example "yoga mat".

        Returns:
            Titles, one a line, the best matches first.
        """
        asked = set(_WORD.findall(str(words).casefold()))
        found = [(len(asked & known), row) for row, known in enumerate(self._words) if asked & known]
        best = sorted(found, key=lambda one: (-one[0], one[1]))[:FOUND]
        return "\n".join(self._titles[row] for _, row in best) or "Nothing in the catalogue speaks of that."

    def show_items(self, titles: list[str]) -> str:
        """Shows the visitor a list of items and tells what the visitor did.

        Args:
            titles: Titles as search_items writes them, the best one first.

        Returns:
            What was clicked and bought, and whether the visitor is still there.
        """
        if self._over:
            return "The visit is over."
        asked = [titles] if isinstance(titles, str) else [str(title) for title in titles]
        known = [title for title in asked if title.strip().casefold() in self._row_of]
        unknown = [title for title in asked if title not in known]
        lost = "".join(f"There is no item {short_line(title)!r}. " for title in unknown[:3])
        if not known:
            return f"{lost}Nothing was shown; use titles that search_items found."
        places = self._env.settings.slate_size
        rows = list(dict.fromkeys(self._row_of[title.strip().casefold()] for title in known))[:places]
        _, reward, left, cut, info = self._env.step(rows + [-1] * (places - len(rows)))
        self._earned += reward
        self._over = left or cut
        said = (
            "The visitor left." if left else "That was the last list of this visit." if cut else "The visitor stays."
        )
        shown = info["state"]().session[-len(rows) :] if not left else ()
        return f"{lost}{self._lines(shown) or _earned(reward)}\n{said}"

    def get_reward(self) -> float:
        """What clicks and purchases of the visit have earned."""
        if not self._begun:
            raise RequestError("No visit has begun; call reset before get_reward.")
        return self._earned

    def _told(self, state: State) -> str:
        profile = clean_text(state.profile, PROFILE_CHARACTERS)
        lines = self._lines(state.history[-FOUND:])
        return "\n".join(part for part in (profile and f"Visitor: {profile}", lines and f"Before:\n{lines}") if part)

    def _lines(self, events: Sequence[Interaction]) -> str:
        return "\n".join(f"- {self._titles[e.item]}: {_DID.get(e.feedback, e.feedback)}" for e in events)


def _earned(reward: float) -> str:
    return f"It earned {reward:g}."


class ToolEnvironments:
    """The factory: visits of one population, each environment with a state of its own.

    Args:
        domain: of a generated world, with the arguments of `gymnasium.make("llmrec/Shop-v0", ...)`.
        population: in its place, people of your own (`LearnedUsers`, ...).
        catalogue: their items, whose texts are searched and shown; a generated world has its own.
        options: `slate_size`, `turns`, `settings`, `choice`, `dynamics`, `terms`, and those of the world.
    """

    def __init__(
        self,
        domain: str = "shop",
        *,
        population: Population | None = None,
        catalogue: Sequence[Item] | None = None,
        **options: Any,
    ) -> None:
        self._domain, self._options = domain, dict(options)
        if population is not None:
            self._options["population"] = population
        first = self._made()
        self.population, self.settings = first.population, first.settings
        items = catalogue
        if items is None:
            world = getattr(self.population, "world", None)
            if world is None:
                raise RequestError("These people have no catalogue of texts with them; give its items by catalogue=.")
            items = world.dataset.item_list
        if len(items) != len(self.population.feature_NF):
            raise RequestError(
                f"There are {len(items)} items, and the people know {len(self.population.feature_NF)}; give these."
            )
        cleaned = [clean_text(item.title, TITLE_CHARACTERS) for item in items]
        often = Counter(title.casefold() for title in cleaned)
        # two items of one title are told apart, as a title is all that an agent has of them
        self._titles = [
            title if often[title.casefold()] == 1 else f"{title} ({clean_text(item.item_id, 40)})"
            for title, item in zip(cleaned, items, strict=True)
        ]
        self._words = [
            frozenset(_WORD.findall(" ".join((item.title, item.description, *item.categories)).casefold()))
            for item in items
        ]

    def _made(self) -> RecEnv:
        return make_single(self._domain, **self._options)

    def __call__(self) -> ToolEnvironment:
        """A fresh environment."""
        return ToolEnvironment(self._made(), self._titles, self._words)

    @property
    def task(self) -> str:
        """What the agent is told to do."""
        given = self.settings
        return TASK.format(places=given.slate_size, turns=given.turns, click=given.click, conversion=given.conversion)

    def rows(self, number: int, *, seed: int) -> list[dict[str, Any]]:
        """Visits to train on: `prompt` (a conversation), `seed` and `user`; users take turns.

        Raises:
            RequestError: no visit is asked for.
        """
        if number < 1:
            raise RequestError(f"{number} visits leave nothing to train on; ask for 1 or more.")
        message = [{"role": "user", "content": self.task}]
        users = len(self.population.profile_UP)
        return [{"prompt": message, "seed": seed + n, "user": n % users} for n in range(number)]
