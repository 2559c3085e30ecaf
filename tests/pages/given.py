"""What the pages speak of before they show code: a log and what follows from it, each made when it is first asked for.

One small generated shop stands behind all pages. Some of its users and items are called as pages call theirs, and the
runs that pages name (`runs/mine`, ...) hold an untrained nano model on it, so that only what the code does is tried.
"""

from __future__ import annotations

import itertools
import json
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from llmrec.adaptation.runs import place_of
from llmrec.baselines import Popularity
from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import LoraSettings, ModelConfig, RunConfig, SimulatorSettings, WorldConfig
from llmrec.dataset.examples import examples
from llmrec.dataset.impressions import impressions
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.dataset.world import generate_world
from llmrec.export import Weights, read_bundle, write_bundle
from llmrec.files import new_folder
from llmrec.online.events import LoggedState, Outcome, Served
from llmrec.online.explore import WithoutReplacement
from llmrec.online.log import EventLog, EventReader
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.nano import make_nano, train_tokenizer
from llmrec.recommender import Recommender
from llmrec.rewards import RewardContext, reward_function
from llmrec.simulator.behaviour import fit_behaviour
from llmrec.simulator.ensemble import Ensemble
from llmrec.text.render import StateRenderer
from llmrec.training.improvement import WarmStart
from llmrec.training.lora import adapter_of, make_lora
from tests.vectors.sentence_model import write_sentence_model

RUNS = ("runs/mine", "runs/ml", "runs/shop", "runs/demo")
USERS = {"u00000": "42", "u00001": "user-1", "u00002": "u17"}
TITLES = {0: "Fargo (1996)", 1: "Seven (a.k.a. Se7en) (1995)", 2: "kettle red"}
RULES = "rules:\n  - never: {categories: [coffee], price: {high: 20}}\n  - at_most: 2\n    per: category\n"
GRAPH = "head,relation,tail\ni00003,made_of,oak\ni00004,made_of,oak\ni00005,goes_with,i00004\n"

ROWS = 800
"""Of the log with propensities."""


class Given:
    """Its attributes are the names that blocks may read without having made them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._world = generate_world(WorldConfig(users=60, items=60, slates_per_user=6), seed=1)

    def lay_out(self, runs: tuple[str, ...] = RUNS) -> None:
        """Writes the runs and files that pages name."""
        _write_run(self._folder / "runs" / "first", self)
        for name in runs:
            shutil.copytree(self._folder / "runs" / "first", self._folder / name)
            shutil.copytree(self._folder / "mydata", self._folder / f"{name}.work" / "data" / "dataset")
        (self._folder / "FOLDER").mkdir()
        write_sentence_model(self._folder / "FOLDER", ["kettle", "red", "picture", "frame"])
        (self._folder / "rules.yaml").write_text(RULES)
        (self._folder / "graph.csv").write_text(GRAPH)

    # the data set
    @cached_property
    def dataset(self) -> Dataset:
        made = self._world.dataset
        titles = pl.Series([TITLES.get(row, title) for row, title in enumerate(made.items["title"])])
        return Dataset.build(
            made.items.with_columns(title=titles),
            made.users.with_columns(pl.col("user_id").replace(USERS)),
            made.events.with_columns(pl.col("user_id").replace(USERS)),
            name="shop",
            domain="shop",
            click="click",
            conversion="conversion",
            repeat="allow",
        )

    @cached_property
    def events_df(self) -> pl.DataFrame:
        return self.dataset.events.select("user_id", "item_id", "kind", "time").filter(pl.col("kind") != "impression")

    @property
    def items_df(self) -> pl.DataFrame:
        return self.dataset.items

    @property
    def users_df(self) -> pl.DataFrame:
        return self.dataset.users

    @cached_property
    def split(self) -> Any:
        return make_split(self.dataset)

    @property
    def events(self) -> pl.DataFrame:
        return self.split.train

    @property
    def items(self) -> Any:
        return self.dataset.item_list

    @cached_property
    def item_lists(self) -> list[list[int]]:
        chosen = self.events.filter(pl.col("kind") == "click")
        rows = chosen.with_columns(row=pl.col("item_id").replace_strict(self.dataset.item_index))
        return rows.group_by("user_id", maintain_order=True).agg("row")["row"].to_list()

    @cached_property
    def shown_N(self) -> np.ndarray:
        shown = self.events.filter(pl.col("kind") == "impression")["item_id"].replace_strict(self.dataset.item_index)
        return np.bincount(shown.to_numpy(), minlength=self.dataset.n_items)

    @cached_property
    def valid(self) -> Any:
        return examples(self.dataset, self.split, "valid")

    @cached_property
    def states(self) -> list[Any]:
        return [example.state for example in examples(self.dataset, self.split, "train")[:32]]

    @cached_property
    def history(self) -> Any:
        return next(state.history for state in self.states if len(state.history) > 1)

    @cached_property
    def seen(self) -> list[np.ndarray]:
        return [np.array([], dtype=np.int64) for _ in self.states]

    @cached_property
    def items_BK(self) -> np.ndarray:
        return np.random.default_rng(0).integers(self.dataset.n_items, size=(len(self.states), 4))

    # the policy
    @cached_property
    def _bundle(self) -> Any:
        return Recommender.load(self._folder / "runs" / "first").bundle

    @property
    def policy(self) -> LanguagePolicy:
        return self._bundle.policy

    @property
    def model(self) -> Any:
        return self.policy.model

    @property
    def tokenizer(self) -> Any:
        return self.policy.tokenizer

    @property
    def catalogue(self) -> Catalogue:
        return self.policy.catalogue

    @property
    def renderer(self) -> StateRenderer:
        return self.policy.renderer

    @cached_property
    def warm_start(self) -> Any:
        def start() -> WarmStart:
            policy = read_bundle(self._folder / "runs" / "first").policy
            return WarmStart(policy.model, policy.tokenizer, policy.catalogue, policy.renderer, policy.repeat, 0)

        return start

    @cached_property
    def any_ranker(self) -> Any:
        return Popularity().fit(self.dataset, self.events)

    # simulated users and rewards
    @cached_property
    def config(self) -> RunConfig:
        return RunConfig()

    @cached_property
    def ensemble(self) -> Ensemble:
        settings, log = SimulatorSettings(epochs=1), impressions(self.dataset, self.split, "train")
        return Ensemble([fit_behaviour(self.dataset, log, seed=seed, settings=settings) for seed in range(2)])

    @cached_property
    def reward(self) -> Any:
        context = RewardContext.of(self.dataset, self.split.train, slate_size=10)
        return reward_function(self.config.reward, self.ensemble, context, seed=0)

    @cached_property
    def rewards(self) -> np.ndarray:
        return np.linspace(0, 1, len(self.states))

    @property
    def embeddings(self) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(300, 8))

    # a log of what was served
    @property
    def names(self) -> list[str]:
        return [f"s{number}" for number in range(len(self.states))]

    @cached_property
    def served_log(self) -> EventReader:
        path = self._folder / "served.sqlite"
        ids = self.catalogue.item_ids
        made = WithoutReplacement(self.policy, seed=2).propose(self.states, 3, self.names)
        clock = itertools.count(1_700_000_000, 10)
        with EventLog(path, window_s=15, clock=lambda: next(clock)) as log:
            for name, state, slate in zip(self.names, self.states, made, strict=True):
                shown = tuple(ids[item] for item in slate.items_K)
                log.serve([Served(name, state.user_id, shown, slate.propensity_K, 1, "", LoggedState.of(state, ids))])
                log.receive([Outcome(name, shown[0], "click")])
        return EventReader(path)

    # a log with propensities, of four items
    @cached_property
    def _bandit(self) -> tuple[Any, ...]:
        random = np.random.default_rng(0)
        logging_N = np.array([0.4, 0.3, 0.2, 0.1])
        item_M = random.choice(4, size=ROWS, p=logging_N)
        return item_M, logging_N[item_M], (random.random(ROWS) < 0.2 + 0.15 * item_M).astype(float), random

    @property
    def item_M(self) -> np.ndarray:
        return self._bandit[0]

    @property
    def propensity_M(self) -> np.ndarray:
        return self._bandit[1]

    @property
    def reward_M(self) -> np.ndarray:
        return self._bandit[2]

    @property
    def n_items(self) -> int:
        return 4

    @cached_property
    def states_MF(self) -> np.ndarray:
        return self._bandit[3].normal(size=(ROWS, 3))

    @property
    def items_ND(self) -> np.ndarray:
        return np.eye(4)

    @property
    def user_ids(self) -> list[str]:
        return [f"u{row // 4}" for row in range(ROWS)]

    @property
    def pi_MN(self) -> np.ndarray:
        return np.tile([0.1, 0.2, 0.3, 0.4], (ROWS, 1))

    @property
    def sft_MN(self) -> np.ndarray:
        return np.tile([0.25, 0.25, 0.25, 0.25], (ROWS, 1))

    # people to adapt to
    @cached_property
    def place(self) -> Any:
        return place_of(self._bundle, self.dataset)

    @property
    def sessions(self) -> Any:
        return self.place.sessions

    @cached_property
    def adapters(self) -> dict[str, Any]:
        made = {}
        for seed, name in enumerate(("kitchen", "garden")):
            model = read_bundle(self._folder / "runs" / "first").policy.model
            made[name] = adapter_of(make_lora(model, LoraSettings(rank=2), seed=seed))
        return made

    @property
    def meta_adapter(self) -> Any:
        return self.adapters["kitchen"]

    @property
    def scratch(self) -> Path:
        return self._folder / "scratch"

    @property
    def out(self) -> Path:
        return self._folder / "out"


def _write_run(place: Path, given: Given) -> None:
    """A run folder, and `mydata`, without training."""
    torch.set_num_threads(1)
    dataset = given.dataset
    dataset.save(given._folder / "mydata")
    titles = dataset.items["title"].to_list()
    tokenizer = train_tokenizer([*titles * 3, "Profile: History: (clicked) (bought) Next product: Likes"], 500)
    model = make_nano(tokenizer, ModelConfig(nano_hidden=32, nano_layers=1), seed=0).eval()
    renderer = StateRenderer(dataset.item_list, tokenizer, domain="shop", language="en", max_tokens=160)
    ids = dataset.items["item_id"].to_list()
    catalogue = Catalogue.from_titles(ids, renderer.titles, tokenizer, answer_prefix=renderer.answer_prefix)
    policy = LanguagePolicy(model, tokenizer, catalogue, renderer, "allow")
    place.parent.mkdir(parents=True, exist_ok=True)
    config = RunConfig.read(None, {"reward.stated": ["click", "conversion", "revenue"]})
    parts = {"policy": policy, "dataset": dataset, "config": config, "card": "# shop\n", "metrics": {}}
    with new_folder(place) as folder:
        write_bundle(folder, weights=Weights(model), **parts)
    assert json.loads((place / "llmrec.json").read_text())["weights"] == "full"
