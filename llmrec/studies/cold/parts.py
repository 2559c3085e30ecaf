"""What systems say of every item, as features that a conditional logit can weigh (`llmrec.log_linear`).

Every system is treated alike, alone or with others: to what it says of an item at a state come what it says of the
item on the average over states (a part of what it says is about the item alone: a title that a language model likes,
a text that is near all others), and whether the item is new. The coefficients are fitted on validation rows. So a
system that never saw an item may stand behind those that it saw by no fault of its own, and none is held against
another with less care.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.baselines.base import BATCH, ScoreRecommender
from llmrec.baselines.popularity import Popularity
from llmrec.baselines.registry import BaselineSpec
from llmrec.baselines.ties import expected_gain, ndcg_gain, target_places
from llmrec.dataset.examples import Examples
from llmrec.errors import RequestError
from llmrec.files import read_json, sha256_of, write_json
from llmrec.log_linear import fit_logit, logit_scores
from llmrec.pipeline.data import RunData
from llmrec.pipeline.work import Work
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.likelihood_ranker import LikelihoodRanker
from llmrec.progress import console
from llmrec.types import BoolArray, FloatArray, Slate, State
from llmrec.vectors.sentences import VARIABLE

K = 10
FLOOR = 0.01
"""Chances of an even share that a system gives to what it gives nothing, so that a logarithm can be taken."""

Features = Callable[[Sequence[State]], list[FloatArray]]
"""What is said of all items at each state: arrays (B, N) in float32, the first of which is the system's own order."""


@dataclass(frozen=True)
class Part:
    """A system that can stand alone or among others.

    Attributes:
        name: in the tables.
        features: what it says.
        facts: its settings, once it was asked.
        key: what decides what it says, where that is worth keeping; None asks it anew.
    """

    name: str
    features: Features
    facts: dict[str, Any] = field(default_factory=dict)
    key: Any = None

    def said(self, examples: Examples, work: Work, what: str) -> list[FloatArray]:
        """Its features at the examples' states, found in the stage `what` of `work` where they were asked for before.

        A language model reads a state for seconds, and a study is stopped more easily than it is made. A baseline is
        fitted when it is first asked, so what is kept costs no fit either.
        """
        states = [example.state for example in examples]
        if self.key is None:
            return self.features(states)
        key = {"part": self.key, "states": sha256_of(repr(states))}

        def ask(out: Path, _: Path) -> None:
            np.savez(out / "said.npz", *self.features(states))
            write_json(out / "facts.json", self.facts)

        folder = work.stage(re.sub(r"[^a-z0-9]+", "-", f"said {what} {self.name}".lower()), key, ask)
        self.facts.update(read_json(folder / "facts.json"))
        with np.load(folder / "said.npz", allow_pickle=False) as found:
            return [found[name] for name in found.files]


def popularity_part(data: RunData, seed: int) -> Part:
    """The logarithm of counts; the same for all states."""
    count_N = Popularity(seed=seed).fit(data.dataset, data.split.train).count_N
    log_N = np.log(count_N + FLOOR).astype(np.float32)
    return Part("popularity", lambda states: [np.tile(log_N, (len(states), 1))])


def baseline_part(spec: BaselineSpec, data: RunData, valid: Examples, seed: int, *, budget: float = 1.0) -> Part:
    """A baseline with the settings that rank `valid` best after learning from the training part.

    Raises:
        RequestError: its packages are not installed, or it does not score all items.
    """
    spec.require()
    facts: dict[str, Any] = {}

    @functools.cache
    def fitted() -> ScoreRecommender:
        train = data.split.train
        found = spec.chosen(data.dataset, train, valid, seed=seed, budget=budget)
        settings = spec.settings if found is None else found.settings
        facts["settings"] = str(settings)
        model = spec.make(settings, seed).fit(data.dataset, train)
        if not isinstance(model, ScoreRecommender):
            raise RequestError(
                f"Baseline {spec.name!r} has no scores of all items, so it cannot stand in this study."
            )
        return model

    chosen_from = [repr(spec.settings), repr(spec.grid), budget, sha256_of(repr(valid.rows))]
    learnt = [data.dataset.manifest.content_hash, data.split.train.height, seed, os.environ.get(VARIABLE)]
    return Part(spec.name, lambda states: said_by(fitted(), states), facts, [spec.name, chosen_from, learnt])


def said_by(model: ScoreRecommender, states: Sequence[State]) -> list[FloatArray]:
    """Scores as features: log-probabilities as they are, other numbers in standard deviations of the row.

    Weights are both: proportions, of which the logarithm is taken, and numbers. Which serves better is fitted.
    """
    parts: list[list[FloatArray]] = []
    for start in range(0, len(states), BATCH):
        batch = states[start : start + BATCH]
        score_BN = np.asarray(model.score(batch), dtype=np.float64)
        numbers_BN = score_BN - score_BN.mean(axis=1, keepdims=True)
        numbers_BN /= np.maximum(numbers_BN.std(axis=1, keepdims=True), 1e-12)
        if model.meaning == "log-probabilities":
            parts.append([score_BN.astype(np.float32)])
        elif model.meaning == "numbers":
            parts.append([numbers_BN.astype(np.float32)])
        else:
            share_BN = model.distribution(batch)
            log_BN = np.log(share_BN + FLOOR / score_BN.shape[1])
            parts.append([log_BN.astype(np.float32), numbers_BN.astype(np.float32)])
    return [np.concatenate(found) for found in zip(*parts, strict=True)]


def policy_part(name: str, policy: LanguagePolicy, key: Any = None, *, listed: int | None = None) -> Part:
    """A language model: log pi of every item, and the likelihood of its text in the whole vocabulary.

    Training pushes pi to what it saw; a text may still be likely after a state. What serves is fitted. With `listed`
    only that many items are read, the best of pi: the others share evenly what pi leaves them, which costs a tenth
    where a catalogue is large, and there is no likelihood. Either way a prompt is read once, whoever asks it.
    """
    ranker = LikelihoodRanker(policy)

    def whole(states: Sequence[State]) -> list[FloatArray]:
        likelihood_BN, pi_BN = ranker.with_pi(states)
        return [pi_BN.astype(np.float32), likelihood_BN.astype(np.float32)]

    def best(states: Sequence[State]) -> list[FloatArray]:
        n_items = len(policy.catalogue)
        slates = policy.recommend(states, min(listed or n_items, n_items), exclude_seen=False)
        return [np.stack([_listed(slate, n_items) for slate in slates])]

    return Part(name, _each_once(policy, whole if listed is None else best), key=[key, listed] if listed else key)


def _listed(slate: Slate, n_items: int) -> FloatArray:
    """log pi of all items, (N,), those that are not on the list at their even share of what is left to them."""
    log_prob_K = np.array(slate.log_probs_K, dtype=np.float64)
    left = max(1.0 - float(np.exp(log_prob_K).sum()), 1e-9) / max(n_items - len(log_prob_K), 1)
    log_N = np.full(n_items, min(np.log(left), float(log_prob_K[-1])), dtype=np.float32)
    log_N[list(slate.items_K)] = log_prob_K
    return log_N


def _each_once(policy: LanguagePolicy, features: Features) -> Features:
    """The same features, every prompt read once: people of whom the same is known are the same to a model."""

    def ask(states: Sequence[State]) -> list[FloatArray]:
        prompts = [tuple(policy.renderer.token_ids(state)) for state in states]
        first = {prompt: row for row, prompt in reversed(list(enumerate(prompts)))}
        asked = sorted(first.values())
        place = {prompts[row]: place for place, row in enumerate(asked)}
        back_B = [place[prompt] for prompt in prompts]
        return [x_BN[back_B] for x_BN in features([states[row] for row in asked])]

    return ask


def likelihood_part(name: str, policy: LanguagePolicy, tokens: int | None = None, key: Any = None) -> Part:
    """A model before any training: likelihood, less that without a state, is its own order.

    `tokens` of an item are read at a state, see `LikelihoodRanker`.
    """
    ranker = LikelihoodRanker(policy, tokens=tokens)

    def features(states: Sequence[State]) -> list[FloatArray]:
        return [(ranker.likelihood(states) - ranker.prior_N).astype(np.float32)]

    return Part(name, features, key=key)


@dataclass(frozen=True)
class Asked:
    """Rows with what each part says of them.

    Attributes:
        examples: the rows.
        open_BN: what each user may get: neither what is hidden from all, nor what the user had where repeats are
            excluded.
        features: by part.
    """

    examples: Examples
    open_BN: BoolArray
    features: Mapping[str, list[FloatArray]]

    @classmethod
    def of(cls, examples: Examples, parts: Sequence[Part], data: RunData, work: Work, what: str) -> Asked:
        """Asks all parts; `what` names the rows."""
        open_BN = np.ones((len(examples), data.dataset.n_items), dtype=bool)
        if data.dataset.manifest.repeat == "exclude":
            for row, seen in enumerate(examples.seen):
                open_BN[row, seen] = False
        said: dict[str, list[FloatArray]] = {}
        for part in parts:
            console.print(f"  asking {part.name}: {len(examples)} states ({what})", style="dim")
            said[part.name] = part.said(examples, work, what)
        return cls(examples, open_BN, said)

    @property
    def targets_B(self) -> Any:
        """What was chosen."""
        return np.array([example.target for example in self.examples], dtype=np.int64)

    @property
    def users(self) -> list[str]:
        """Whose rows they are."""
        return [str(example.state.user_id) for example in self.examples]

    def gains(self, score_BN: FloatArray, among_N: BoolArray | None = None) -> dict[str, FloatArray]:
        """NDCG and HR of each row at `K`, equal scores at their expectation; `among_N`: the only items that count."""
        shown_BN = self.open_BN if among_N is None else self.open_BN & among_N
        places = target_places(np.where(shown_BN, score_BN, -np.inf), self.targets_B)
        kinds = {f"NDCG@{K}": ndcg_gain(K), f"HR@{K}": np.ones(K)}
        return {name: expected_gain(*places, gain_K) for name, gain_K in kinds.items()}


@dataclass(frozen=True)
class Weighed:
    """Parts under one conditional logit that was fitted on validation rows.

    Attributes:
        parts: names.
        shared: features that all states share, such as whether an item is new, each (N,).
        average: of each part's features over the rows of the fit, each (N,).
        coefficients: in the order of `inputs`.
    """

    parts: tuple[str, ...]
    shared: tuple[FloatArray, ...]
    average: Mapping[str, list[FloatArray]]
    coefficients: FloatArray

    @classmethod
    def fit(
        cls, parts: Sequence[str], asked: Asked, weights_B: FloatArray, shared: Sequence[FloatArray] = ()
    ) -> Weighed:
        """Fits the coefficients; rows count by their weights."""
        average = {part: [x_BN.mean(axis=0) for x_BN in asked.features[part]] for part in parts}
        empty = cls(tuple(parts), tuple(shared), average, np.empty(0))
        found = fit_logit(empty.inputs(asked), asked.targets_B, asked.open_BN, weights_B)
        return cls(tuple(parts), tuple(shared), average, found)

    def inputs(self, asked: Asked) -> list[FloatArray]:
        """Everything that is weighed, for these rows."""
        own = [x for part in self.parts for x in asked.features[part]]
        return [*own, *(x for part in self.parts for x in self.average[part]), *self.shared]

    def score(self, asked: Asked) -> FloatArray:
        """Of all items, (B, N)."""
        return logit_scores(self.inputs(asked), self.coefficients)
