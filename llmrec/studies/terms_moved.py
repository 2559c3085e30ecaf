"""What each term of the reward moves: a short training with it, against the same training without it.

One nano policy a seed is warm-started in a small generated world. From that start every side is trained by PPO on the
same states with the same luck: with clicks and conversions alone, and with one term more. Terms of single items are
learnt from independent draws, terms of slates from slates of one turn. A term's weight makes it count as much as
clicks and conversions: its spread over what the warm start would show in a state is theirs.

What is measured is exact: the expectation of each term under pi over all items, or its value on the lists that would
be deployed. The feedback in these figures is the judge's, which no training has seen. The worlds have no ratings and
no seconds, so that those of the items are planted.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from llmrec.config import CreditSettings, PPOSettings, RewardSettings, RunConfig, SessionSettings
from llmrec.config.reward import COMPARING_TERMS, LIST_LEVEL_TERMS, REWARD_TERMS
from llmrec.config_tree import Overrides
from llmrec.dataset.examples import Examples
from llmrec.evaluation.ranking import ranking_metrics
from llmrec.pipeline.sft import targets
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.modes import evaluating
from llmrec.policy.normalised import catalogue_log_probs
from llmrec.progress import console, track
from llmrec.rewards import RewardContext, RewardFunction, RewardTerm, combine, is_list_level, make_terms
from llmrec.seeding import numpy_stream
from llmrec.simulator.environments.learned_users import LearnedUsers
from llmrec.simulator.feedback import expected_feedback
from llmrec.studies.answer import Answer, Sheet, forest, signed
from llmrec.studies.study import Pooled, Prepared, SeedRows, Study, over_seeds
from llmrec.training.improvement import Checkpointing, WarmStart
from llmrec.training.on_policy import train_on_policy
from llmrec.training.session_source import SessionReward, SessionUsers
from llmrec.training.sessions import train_sessions
from llmrec.types import Feedback, FloatArray, IntArray, State

SMALL: Overrides = {
    "world.users": 300,
    "world.items": 48,
    "world.slates_per_user": 8,
    "data.history_events": 8,
    "text.max_tokens": 128,
    "text.profile": False,
    "model.nano_hidden": 64,
    "model.nano_layers": 2,
    "model.nano_vocabulary": 1000,
    "model.nano_pretrain_sequences": 1024,
    "sft.examples": 1500,
    "sft.epochs": 2,
    "simulator.members": 1,
    "gate.exam": "warn",
}
PLACES, LIST = 5, 10
BATCH = 32
BY_DRAWS, BY_SLATES = "draws", "slates"
DOUBLED, CREDIT = "doubled", "next_item, credit"
NDCG, JUDGED, TRUE, ENTROPY, TOP = "NDCG@10", "judged value", "true value", "entropy", "top share"
ELSE = (NDCG, JUDGED, TRUE, ENTROPY, TOP)
"""What may move beside."""
SLATES = (*sorted(LIST_LEVEL_TERMS), "next_item_rank")
"""Terms that are learnt from slates."""


@dataclass(frozen=True)
class Sizes:
    """How much is trained and measured: rollouts, states of one, draws of a state, and states that are asked."""

    steps: int = 8
    prompts: int = 16
    draws: int = 8
    asked: int = 100


@dataclass(frozen=True)
class Side:
    """A training: `terms` beside clicks and conversions, and what it is held against; `figure` is to rise by it."""

    name: str
    base: str
    figure: str
    terms: Mapping[str, float] = field(default_factory=dict)
    slates: bool = False
    scale: float = 1.0
    credit: bool = False


def terms_moved(
    *,
    out: Path,
    seeds: Sequence[int],
    only: Sequence[str] = (),
    steps: int = Sizes.steps,
    asked: int = Sizes.asked,
    overrides: Overrides | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Trains all sides under each seed and returns the figures.

    Args:
        out: stages and answer are kept here.
        seeds: of worlds and trainings.
        only: names of terms; all by default.
        steps: rollouts of a training.
        asked: test events and states of rollouts that figures are taken at.
        overrides: values by key.
        json_file: the figures are also written here.

    Raises:
        LLMRecError: settings that cannot be used.
    """
    sizes = Sizes(steps=steps, asked=asked)
    chosen = tuple(name for name in REWARD_TERMS if not only or name in only)

    def measure(seed: int) -> SeedRows:
        prepared = Prepared.of(RunConfig.read(None, {**SMALL, "seed": seed, **(overrides or {})}), out / f"{seed}")
        lab = Lab.of(prepared, sizes)
        key = {"config": prepared.config.tree(), "sizes": dataclasses.asdict(sizes), "data": prepared.data_hash}
        sides = lab.sides(chosen)
        # each side is a stage, so that what is done stays done
        rows = {side.name: lab.measured(side, key) for side in track(sides, "trainings")}
        people = {name: lab.people(name) for name in rows[BY_DRAWS]}
        facts = {"sides": [dataclasses.asdict(side) for side in sides]}
        return SeedRows(seed, prepared.data_hash, rows, people, facts)

    return Study(tuple(seeds), measure, _answer).run(out, json_file)


class Planted:
    """Ratings or seconds that were given to the items by chance, whoever asks."""

    def __init__(self, value_N: FloatArray) -> None:
        self.value_N = value_N

    def expected_value(self, states: Sequence[State], items_BK: IntArray) -> FloatArray:
        """Those of the items, (B, K)."""
        return self.value_N[items_BK]


@dataclass(frozen=True)
class Lab:
    """The warm start of a seed, where it is trained, and where it is asked.

    Attributes:
        train: choices of the training period, where rollouts start.
        asked: the first of them, whose next items a figure asks for.
        test: choices of the test period.
    """

    prepared: Prepared
    sizes: Sizes
    policy: LanguagePolicy
    context: RewardContext
    train: Examples
    asked: Examples
    test: Examples

    @classmethod
    def of(cls, prepared: Prepared, sizes: Sizes) -> Lab:
        """From finished stages."""
        config, data = prepared.config, prepared.data
        policy, seed = prepared.policy(), config.seed
        train = targets(config, data, "train", sizes.steps * sizes.prompts)
        test, many = targets(config, data, "test", sizes.asked), data.dataset.n_items
        planted = numpy_stream(seed, "terms moved", "planted")
        context = RewardContext.of(
            data.dataset,
            data.split.train,
            targets=train.rows,
            ratings=Planted(planted.uniform(1, 5, many)),
            seconds=Planted(planted.uniform(60, 600, many)),
            rating_range=(1.0, 5.0),
            catalogue=policy.catalogue,
        )
        asked = Examples(train.rows[: sizes.asked], train.seen[: sizes.asked])
        return cls(prepared, sizes, policy, context, train, asked, test)

    # Sides and their weights.

    def sides(self, names: Sequence[str]) -> list[Side]:
        """What is trained for these terms; a term's weight makes its spread that of clicks and conversions."""
        found = [Side(BY_DRAWS, BY_DRAWS, TRUE)]
        if set(names) & set(SLATES):
            found.append(Side(BY_SLATES, BY_SLATES, TRUE, slates=True))
        log_BN = self.log_probs(self.policy.model, self._states(self.asked))
        for name in names:
            if name in COMPARING_TERMS:
                found += [
                    Side(DOUBLED, BY_DRAWS, TOP, scale=2.0),
                    Side(name, BY_DRAWS, TOP, {name: 1.0}),
                ]
                continue
            weight, slates = self._weight(name, log_BN), name in SLATES
            found.append(Side(name, BY_SLATES if slates else BY_DRAWS, name, {name: weight}, slates))
            if name == "next_item":
                found.append(Side(CREDIT, name, name, {name: weight}, credit=True))
        return found

    def _weight(self, name: str, log_BN: FloatArray) -> float:
        slates = name in SLATES
        states, reward = self._states(self.asked), self.reward({name: 1.0}, slates)
        if slates:
            # ordered draws without replacement: the largest of log pi and Gumbel noise (Vieira 2014)
            noise = numpy_stream(self.prepared.config.seed, "terms moved", "slates")
            shape = (8, *log_BN.shape)
            shown_DBK = np.argsort(-(log_BN + noise.gumbel(size=shape)), axis=-1)[..., :PLACES]
            found = [reward(states, items_BK) for items_BK in shown_DBK]
            term_DB = np.stack([one.terms[name].sum(1) for one in found])
            plain_DB = np.stack([one.total_BK.sum(1) for one in found]) - term_DB
            spread = [float(np.sqrt(value_DB.var(axis=0).mean())) for value_DB in (plain_DB, term_DB)]
        else:
            one = reward(states, self._everything(states))
            chance_BN, spread = np.exp(log_BN), []
            for value_BN in (one.total_BK - one.terms[name], one.terms[name]):
                mean_B1 = (chance_BN * value_BN).sum(1, keepdims=True)
                spread.append(float(np.sqrt((chance_BN * (value_BN - mean_B1) ** 2).sum(1).mean())))
        return float(f"{spread[0] / spread[1]:.2g}") if spread[1] > 0 else 1.0

    def reward(self, terms: Mapping[str, float], slates: bool, scale: float = 1.0) -> RewardFunction:
        """Clicks and conversions of the reward's simulator, and these terms."""
        config = self.prepared.config.reward
        settings = dataclasses.replace(
            config, click=scale * config.click, conversion=scale * config.conversion, terms=dict(terms)
        )
        made = make_terms(settings, self._context(slates))
        return RewardFunction(self.prepared.simulators.reward, settings, 0, made, slate=slates)

    def _alone(self, name: str, slates: bool) -> tuple[RewardTerm, ...]:
        made = make_terms(RewardSettings(terms={name: 1.0}), self._context(slates))
        return cast(tuple[RewardTerm, ...], made)

    def _context(self, slates: bool) -> RewardContext:
        return dataclasses.replace(self.context, slate_size=PLACES if slates else 1)

    # Trainings.

    def trained(self, side: Side) -> Any:
        """The model after a training of this side, from a copy of the warm start."""
        config, sizes = self.prepared.config, self.sizes
        console.print(f"  {side.name}: {json.dumps(dict(side.terms))}")
        model = copy.deepcopy(self.policy.model)
        start = WarmStart(
            model, self.policy.tokenizer, self.policy.catalogue, self.policy.renderer, "allow", config.seed
        )
        settings = PPOSettings(
            steps=sizes.steps,
            prompts=sizes.prompts,
            draws=1 if side.slates else sizes.draws,
            save_every=sizes.steps,
            weights="full",
            learning_rate=1e-3,
            gae_lambda=0.0 if side.credit else 1.0,
            credit=CreditSettings(potential="expected" if side.credit else "none"),
        )
        reward, states = self.reward(side.terms, side.slates, side.scale), self._states(self.train)
        nothing = [np.array([], dtype=np.int64)] * len(states)
        with tempfile.TemporaryDirectory() as folder:
            keep = Checkpointing(Path(folder))
            if not side.slates:
                return train_on_policy(start, states, nothing, reward, settings, keep).model
            meeting = SessionUsers(
                LearnedUsers(self.prepared.simulators.reward, states, self.prepared.data.dataset),
                np.arange(len(states)),
                nothing,
                SessionReward(reward.terms),
                config.choice,
                config.dynamics,
            )
            session = SessionSettings(turns=1, slate=PLACES, gamma=0.0)
            return train_sessions(start, meeting, settings, session, keep).model

    # Figures.

    def measured(self, side: Side, key: Mapping[str, Any]) -> dict[str, FloatArray]:
        """The figures of a side, from its stage if that is finished."""

        def build(folder: Path, _: Path) -> None:
            np.savez(folder / "rows.npz", **self.figures(self.trained(side)))  # type: ignore[arg-type]

        name = side.name.replace(", ", "-")
        folder = self.prepared.work.stage(f"moved-{name}", {**key, "side": dataclasses.asdict(side)}, build)
        with np.load(folder / "rows.npz", allow_pickle=False) as found:
            return {figure: found[figure] for figure in found.files}

    def figures(self, model: Any) -> dict[str, FloatArray]:
        """Every figure by name, one a state (B,)."""
        found: dict[str, FloatArray] = {}
        self._of_known(model, found)
        states = self._states(self.test)
        log_BN = self.log_probs(model, states)
        chance_BN, list_BK = np.exp(log_BN), np.argsort(-log_BN, axis=1, kind="stable")[:, :LIST]
        every_BN, top_BK = self._everything(states), list_BK[:, :PLACES]
        for slates in (False, True):
            for name in REWARD_TERMS:
                if name in COMPARING_TERMS or (name in SLATES) != slates or name.startswith("next_item"):
                    continue
                (term,) = self._alone(name, slates)
                shown = top_BK if is_list_level(term) else every_BN
                value_BK = combine([term], states, shown, self._expected(states, shown)).terms[name]
                found[name] = value_BK.sum(1) if is_list_level(term) else (chance_BN * value_BK).sum(1)
        chosen = [example.target for example in self.test.rows]
        found[NDCG] = ranking_metrics(list_BK, chosen, k=(LIST,)).per_row[f"NDCG@{LIST}"]
        config, world = self.prepared.config.reward, self.prepared.data.world
        assert world is not None
        feedback = self._expected(states, top_BK)
        found[JUDGED] = (config.click * feedback.click_BK + config.conversion * feedback.conversion_BK).mean(1)
        value_BN = world.value_BN([str(s.user_id) for s in states], config.click, config.conversion)
        found[TRUE] = np.take_along_axis(value_BN, top_BK, axis=1).mean(1)
        found[ENTROPY], found[TOP] = -(chance_BN * log_BN).sum(1), chance_BN.max(1)
        return found

    def _of_known(self, model: Any, found: dict[str, FloatArray]) -> None:
        """The chance of the logged next item where rollouts start, and its gain by place on the list there."""
        log_BN = self.log_probs(model, self._states(self.asked))
        next_B = np.array([example.target for example in self.asked.rows])
        found["next_item"] = np.exp(log_BN[np.arange(len(next_B)), next_B])
        top_BK = np.argsort(-log_BN, axis=1, kind="stable")[:, :PLACES]
        found["next_item_rank"] = ranking_metrics(top_BK, next_B, k=(PLACES,)).per_row[f"NDCG@{PLACES}"]

    def people(self, figure: str) -> list[str]:
        """Whose rows a figure has."""
        rows = self.asked if figure.startswith("next_item") else self.test
        return [f"{self.prepared.config.seed} {example.state.user_id}" for example in rows.rows]

    @torch.no_grad()
    def log_probs(self, model: Any, states: Sequence[State]) -> FloatArray:
        """log pi of all items, (B, N)."""
        parts = []
        with evaluating(model):
            for first in range(0, len(states), BATCH):
                ids, mask = self.policy.encode(states[first : first + BATCH])
                parts.append(catalogue_log_probs(model, ids, mask, self.policy.index, "local"))
        log_BN: FloatArray = torch.cat(parts).cpu().numpy()
        return log_BN

    def _expected(self, states: Sequence[State], items_BK: IntArray) -> Feedback:
        return expected_feedback(self.prepared.simulators.judge.predict(states, items_BK))

    def _everything(self, states: Sequence[State]) -> IntArray:
        return np.tile(np.arange(self.prepared.data.dataset.n_items), (len(states), 1))

    @staticmethod
    def _states(examples: Examples) -> list[State]:
        return [example.state for example in examples.rows]


def _change(found: Pooled, side: str, base: str, figure: str) -> dict[str, Any]:
    """The change of a figure: over seeds where there are two or more, else over users."""
    by_seed = (np.array(found.means(side, figure)) - np.array(found.means(base, figure))).tolist()
    users = dataclasses.asdict(found.difference(side, base, figure))
    return {**(over_seeds(by_seed) if len(by_seed) > 1 else {"by_seed": by_seed, **users}), "over users": users}


def _answer(found: Pooled) -> Answer:
    """Each term beside the same training without it."""
    sides = [Side(**given) for given in found.seeds[0].facts["sides"]]
    weights = {
        side.name: [dict(s["terms"]) for one in found.seeds for s in one.facts["sides"] if s["name"] == side.name]
        for side in sides
    }
    figures: dict[str, Any] = {}
    rows, sentences, drawn = [], [], {}
    for side in sides:
        if side.name == side.base:
            means = ", ".join(f"{name} {np.mean(found.means(side.name, name)):.4f}" for name in ELSE)
            sentences.append(f"Without a term, by {side.name}: {means}.")
            continue
        own = _change(found, side.name, side.base, side.figure)
        beside = {
            name: _change(found, side.name, side.base, name) for name in ELSE if name in found.measures(side.name)
        }
        spread = float(np.std(found.rows(side.base, side.figure))) or 1.0
        given = [weight for one in weights[side.name] for weight in one.values()]
        figures[side.name] = {
            "weights": given,
            "against": side.base,
            "figure": side.figure,
            "without": found.means(side.base, side.figure),
            "with": found.means(side.name, side.figure),
            "change": own,
            "in deviations": {k: own[k] / spread for k in ("mean", "low", "high")},
            "beside": beside,
        }
        rows.append(
            [
                side.name,
                ", ".join(f"{weight:g}" for weight in given) or "-",
                f"{side.figure}{'' if side.base in (BY_DRAWS, BY_SLATES) else f', less {side.base}'}",
                f"{np.mean(found.means(side.base, side.figure)):.4g}",
                signed(own, 3),
                *(signed(beside[name], 3) for name in ELSE),
            ]
        )
        drawn[side.name] = {"its figure, in deviations over states": figures[side.name]["in deviations"]}
        drawn[side.name] |= {name: beside[name] for name in (NDCG, JUDGED, ENTROPY)}
        moved = "moves" if own["low"] > 0 else "lowers" if own["high"] < 0 else "does not certainly move"
        sentences.append(f"{side.name} {moved} {side.figure}: {signed(own)}.")
    columns = ["term", "weight by seed", "figure", "without", "change", *ELSE]
    note = "Changes with 95% intervals over seeds (Student's t), over users where there is one seed."
    title = f"What each term moves, {len(found.seeds)} seed(s)"
    return Answer(
        "What the terms of the reward move",
        {"terms": figures, "sides": [dataclasses.asdict(side) for side in sides]},
        (Sheet(title, columns, rows, note),),
        sentences,
        {"moved": forest("What each term moves", drawn)},
    )
