"""A generated world: a data set with text, and the truth behind it that real data never tells.

`generate_world` draws users, items and a log of slates; `World` answers what any user would do with any item.
Policies, simulators and baselines see only `World.dataset`; the truth is for judging them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from llmrec.config import WorldConfig
from llmrec.config_tree import from_tree
from llmrec.dataset.store import FILES, Dataset
from llmrec.dataset.world import wording_en, wording_zh
from llmrec.dataset.world.informed import Informed, Worth
from llmrec.dataset.world.log import draw_feedback, draw_slates, events_table
from llmrec.dataset.world.scenario import END, Scenario
from llmrec.dataset.world.shown import ShownLog, phase_tilts
from llmrec.dataset.world.slates import DENSE_ITEMS, contenders
from llmrec.dataset.world.truth import (
    WorldParameters,
    WorldTruth,
    click_logit,
    conversion_logit,
    draw_truth,
    logging_policy_BN,
    sigmoid,
)
from llmrec.dataset.world.truth import value as true_value
from llmrec.dataset.world.wording import DomainWords, People, ProfileReader, entries, items_table, users_table
from llmrec.errors import ConfigError, RequestError, RunError
from llmrec.files import matching, new_folder, read_json, write_json
from llmrec.progress import Bar
from llmrec.seeding import numpy_stream
from llmrec.types import FloatArray, IntArray, State

LANGUAGES: dict[str, tuple[People, dict[str, DomainWords]]] = {
    "en": (wording_en.PEOPLE, wording_en.DOMAINS),
    "zh": (wording_zh.PEOPLE, wording_zh.DOMAINS),
}
_CELLS = 4_000_000  # (user, item) values held at a time while the optimum is sought
WORLD = "world.json"
WORLD_FORMAT = "llmrec-world-2"
"""Files of the first format may hold interests in a wrong order (from some 2,700 users on), so they are refused."""
_OURS = matching(WORLD, "truth.safetensors", *(f"dataset/{name}" for name in FILES))
_LEAST_ITEMS = 3  # two items have no correlation but 1 or -1


class OptimalItems(NamedTuple):
    """The true best items of each user, best first, and their true values, both of shape (B, K)."""

    items_BK: IntArray
    value_BK: FloatArray


class InformedItems(NamedTuple):
    """The best items for a recommender that must infer the interests, best first, both of shape (B, K).

    `value_BK` are posterior means of the items' true values; `error_B` the Monte-Carlo standard error of their mean
    over the K places, `effective_B` how many particles the posterior's weighted ones are worth.
    """

    items_BK: IntArray
    value_BK: FloatArray
    error_B: FloatArray
    effective_B: FloatArray


class World:
    """A data set and its truth. Every user and item of the data set may be asked about, shown or not."""

    def __init__(
        self,
        dataset: Dataset,
        truth: WorldTruth,
        config: WorldConfig,
        seed: int,
        parameters: WorldParameters | None = None,
    ) -> None:
        self.dataset, self.truth, self.config, self.seed = dataset, truth, config, seed
        self.parameters = parameters or WorldParameters()
        self.scenario = Scenario.draw(config.scenario, dataset.users.height, dataset.n_items, seed)
        self._row = {user_id: row for row, user_id in enumerate(dataset.users["user_id"].to_list())}

    def with_dataset(self, dataset: Dataset) -> World:
        """The same truth beside another log of the same users and items."""
        return World(dataset, self.truth, self.config, self.seed, self.parameters)

    def expected_click_BN(self, user_ids: Sequence[str], time: int = END) -> FloatArray:
        """True P(click | shown and looked at) of every item, shape (B, N).

        `time` (seconds) matters in scenarios where demand moves; by default it is the end of the log, which is what
        a policy learned from the log meets.
        """
        return self._click(self._rows(user_ids)[:, None], self._items(), time)

    def expected_conversion_BN(self, user_ids: Sequence[str]) -> FloatArray:
        """True P(conversion | click) of every item, shape (B, N)."""
        return sigmoid(conversion_logit(self.truth, self.parameters, self._rows(user_ids)[:, None], self._items()))

    def value_BN(
        self, user_ids: Sequence[str], click: float = 1.0, conversion: float = 3.0, time: int = END
    ) -> FloatArray:
        """True expected reward of showing each item: click * P(click) + conversion * P(click and conversion)."""
        return self._value(self._rows(user_ids)[:, None], self._items(), click, conversion, time)

    def value_of_BK(
        self,
        user_ids: Sequence[str],
        items_BK: IntArray,
        click: float = 1.0,
        conversion: float = 3.0,
        time: int = END,
    ) -> FloatArray:
        """`value_BN` at the item indices `items_BK` only: the true value of slates, shape (B, K)."""
        return self._value(self._rows(user_ids)[:, None], items_BK, click, conversion, time)

    def optimum(
        self, user_ids: Sequence[str], k: int, click: float = 1.0, conversion: float = 3.0, time: int = END
    ) -> OptimalItems:
        """The k items of greatest true value for each user; raises `RequestError` where k is not in 1..N."""
        self._check_k(k)
        n = self.dataset.n_items
        # Only where no weight is negative: then more appeal or quality is never worth less.
        few_C = contenders(self.truth, k) if n > DENSE_ITEMS and min(click, conversion) >= 0 else self._items()
        chunk = max(1, _CELLS // few_C.size)
        parts = []
        for low in range(0, len(user_ids), chunk):
            rows_B1 = self._rows(user_ids[low : low + chunk])[:, None]
            value_BC = self._value(rows_B1, few_C, click, conversion, time)
            parts.append(few_C[np.argsort(-value_BC, axis=1, kind="stable")[:, :k]])
        items_BK = np.concatenate(parts) if parts else np.zeros((0, k), dtype=np.int64)
        return OptimalItems(items_BK, self.value_of_BK(user_ids, items_BK, click, conversion, time))

    def informed_optimum(
        self,
        states: Sequence[State],
        k: int,
        click: float = 1.0,
        conversion: float = 3.0,
        time: int = END,
        *,
        particles: int = 256,
        least: float = 100.0,
    ) -> InformedItems:
        """The k items of greatest expected value given what each state shows of its user, not the user's truth.

        Item truths, parameters and the making of the log are known; favourites, floors, buying styles and what was
        shown and not chosen are integrated over their exact posterior (see `informed`, docs/world.md). Nobody who
        sees only states can expect more. The draws of a state depend on nothing but the state and the world's seed.

        Args:
            states: Of users of this world: profile, and the user's newest logged choices before `State.time`.
            k: Items for each.
            click: Worth of a click.
            conversion: Worth of a conversion.
            time: Moment (seconds) at which the items are valued.
            particles: Drawn for a state in each round.
            least: Rounds are added, to 16 at most, until the particles are worth so many equally weighted ones.

        Raises:
            RequestError: k is not in 1..N, a catalogue of more than 20,000 items, or a state that this world's log
                has not made.
        """
        self._check_k(k)
        if self.dataset.n_items > DENSE_ITEMS:
            raise RequestError(
                f"What can be known is worked out for catalogues of up to {DENSE_ITEMS} items, and this world has "
                f"{self.dataset.n_items}; ask a smaller world."
            )
        worth = Worth(click, conversion, time)
        shape = (len(states), k)
        found = InformedItems(np.zeros(shape, dtype=np.int64), np.zeros(shape), *np.zeros((2, len(states))))
        with Bar("What can be known", len(states)) as bar:
            for row, state in enumerate(states):
                stream = numpy_stream(self.seed, "world", "informed", state.user_id, state.time, len(state.history))
                slates = self._log.slates(state)
                expected = self._informed.expect(
                    state.profile, slates, worth, stream, particles=particles, least=least
                )
                best_K = np.argsort(-expected.mean_N, kind="stable")[:k]
                found.items_BK[row], found.value_BK[row] = best_K, expected.mean_N[best_K]
                found.error_B[row], found.effective_B[row] = expected.error(best_K), expected.effective
                bar.advance(1)
        return found

    @cached_property
    def _log(self) -> ShownLog:
        return ShownLog(self.dataset)

    @cached_property
    def _informed(self) -> Informed:
        people, domains = LANGUAGES[self.config.language]
        reader = ProfileReader(domains[self.config.domain], people)
        tilts = phase_tilts(self._log, self.scenario, self.parameters.logging_appeal * self.truth.appeal_N)
        sizes = self.config.slate_size, self.config.position_bias
        return Informed(self.truth, self.parameters, self.scenario, reader, tilts, *sizes)

    def _check_k(self, k: int) -> None:
        n = self.dataset.n_items
        if not 1 <= k <= n:
            raise RequestError(f"k is {k}, but the catalogue has {n} items; choose k between 1 and {n}.")

    def _click(self, user: IntArray, item: IntArray, time: int) -> FloatArray:
        logit = click_logit(self.truth, self.parameters, user, item)
        return sigmoid(logit + self.scenario.offset(time, self.truth.topic_N[item]))

    def _value(self, user: IntArray, item: IntArray, click: float, conversion: float, time: int) -> FloatArray:
        offset = self.scenario.offset(time, self.truth.topic_N[item])
        return true_value(self.truth, self.parameters, user, item, click, conversion, offset)

    def logging_policy_BN(self, user_ids: Sequence[str]) -> FloatArray:
        """mu(item | user) of the first position of a logged slate, shape (B, N); rows sum to 1.

        Under "cold-start" and "popularity-loop" it is what mu would be without them; the log records what was.
        """
        return logging_policy_BN(self.truth, self.parameters, self._rows(user_ids))

    def save(self, folder: Path) -> None:
        """Writes data set, truth and configuration to `folder`, whole or not at all."""
        with new_folder(folder, mark=WORLD, ours=_OURS) as work:
            self.dataset.save(work / "dataset")
            save_file(self.truth.arrays(), work / "truth.safetensors")
            facts = {
                "format": WORLD_FORMAT,
                "seed": self.seed,
                "content_hash": self.dataset.manifest.content_hash,
                "config": dataclasses.asdict(self.config),
                "parameters": dataclasses.asdict(self.parameters),
            }
            write_json(work / WORLD, facts)

    @classmethod
    def load(cls, folder: Path) -> World:
        """Reads a saved world; raises `RunError` where the folder is not one, `DataError` for a broken data set."""
        facts = read_json(folder / WORLD)
        if not isinstance(facts, dict) or facts.get("format") != WORLD_FORMAT:
            raise RunError(f"{folder / 'world.json'} is not of the format {WORLD_FORMAT}; generate the world anew.")
        dataset = Dataset.load(folder / "dataset")
        if facts.get("content_hash") != dataset.manifest.content_hash:
            raise RunError(f"{folder} holds the truth of another data set; generate the world anew.")
        origin = str(folder / WORLD)
        try:
            config = from_tree(WorldConfig, facts["config"], origin)
            parameters = from_tree(WorldParameters, facts["parameters"], origin)
            seed = int(facts["seed"])
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise RunError(f"{origin} is damaged ({error}); generate the world anew.") from None
        truth = _load_truth(folder / "truth.safetensors", dataset)
        return cls(dataset, truth, config, seed, parameters)

    def _rows(self, user_ids: Sequence[str]) -> IntArray:
        try:
            return np.array([self._row[user_id] for user_id in user_ids], dtype=np.int64)
        except KeyError as error:
            raise RequestError(f"User {error} is not a user of this world; take one of its users table.") from None

    def _items(self) -> IntArray:
        return np.arange(self.dataset.n_items)


def _load_truth(path: Path, dataset: Dataset) -> WorldTruth:
    try:
        truth = WorldTruth(**load_file(path))
    except Exception as error:  # safetensors raises its own untyped errors
        raise RunError(f"{path} is not the truth of a world ({error}); generate the world anew.") from None
    if (len(truth.topic_interest_UT), len(truth.topic_N)) != (dataset.users.height, dataset.n_items):
        raise RunError(f"{path} is the truth of a world of another size; generate the world anew.")
    return truth


def generate_world(config: WorldConfig, seed: int, parameters: WorldParameters | None = None) -> World:
    """Generates the world of `config` and `seed`; the same arguments give the same content hash.

    Args:
        config: Domain, language, sizes and position bias.
        seed: Run seed; items, users, their wording, times, slates and feedback each have a stream of their own.
        parameters: Scales of the truth; the frozen defaults unless an experiment says otherwise.

    Raises:
        ConfigError: A size that cannot be met.
    """
    _check(config)
    parameters = parameters or WorldParameters()
    people, domains = LANGUAGES[config.language]
    wording = domains[config.domain]
    scenario = Scenario.draw(config.scenario, config.users, config.items, seed)
    _check_offer(config, scenario)
    truth = scenario.applied(draw_truth(config.users, config.items, parameters, seed))
    # Every part has a stream of its own, so another number of slates changes no item and no user.
    items = items_table(truth, wording, people, numpy_stream(seed, "world", "item wording"))
    items = scenario.reworded(items, [name for name, _ in entries(wording.topics)])
    users = scenario.profiles(users_table(truth, wording, people, numpy_stream(seed, "world", "user wording")))
    sizes = (config.users, config.slates_per_user, config.slate_size)
    slates = draw_slates(truth, parameters, *sizes, seed, scenario)
    click_MK, conversion_MK = draw_feedback(truth, parameters, slates, config.position_bias, seed, scenario)
    events = events_table(slates, click_MK, conversion_MK, users["user_id"], items["item_id"], items["price"])
    dataset = Dataset.build(
        items,
        users,
        events,
        name="-".join(["world", config.domain, config.language, *_scenario_name(config), str(seed)]),
        domain=config.domain,
        language=config.language,
        source=f"generated by llmrec, seed {seed}",
        terms="Generated data, free of any rights.",
        repeat="allow",
        click="click",
        conversion="conversion",
        currency=people.currency if wording.price else "",
    )
    return World(dataset, truth, config, seed, parameters)


def _scenario_name(config: WorldConfig) -> list[str]:
    return [] if config.scenario.kind == "none" else [config.scenario.kind]


def _check_offer(config: WorldConfig, scenario: Scenario) -> None:
    offered = config.items - int(scenario.item_N.sum())
    if config.scenario.kind == "cold-start" and offered < config.slate_size:
        raise ConfigError(
            f"Key 'world.scenario.share' is {config.scenario.share}, which leaves {offered} items before the launch, "
            f"but a slate shows {config.slate_size} (world.slate_size); lower the share or add items."
        )


def _check(config: WorldConfig) -> None:
    for key in ("users", "items", "slates_per_user", "slate_size"):
        if getattr(config, key) < 1:
            raise ConfigError(f"Key 'world.{key}' is {getattr(config, key)}, but it must be 1 or more.")
    least = max(_LEAST_ITEMS, config.slate_size)
    if config.items < least:
        raise ConfigError(
            f"Key 'world.items' is {config.items}, but a slate shows {config.slate_size} different items"
            f" (world.slate_size); set world.items to {least} or more."
        )
    if not 0 <= config.position_bias <= 5:
        raise ConfigError(f"Key 'world.position_bias' is {config.position_bias}, but it must lie in 0..5.")
    if config.language not in LANGUAGES or config.domain not in LANGUAGES[config.language][1]:
        raise ConfigError(f"There is no world {config.domain!r} in language {config.language!r}.")
