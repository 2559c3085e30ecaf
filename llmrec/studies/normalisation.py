"""Local against global normalisation over a small catalogue, for SFT and for RL, all of it exact.

One nano model a seed, pretrained on the item texts, is trained from the same start on the same batches under each
normalisation of `policy.normalised`, and ranks the test events by the distribution it was trained with. The one that
was trained as a language model ("vocabulary") is also ranked by pi, as it would be deployed. In generated worlds the
expected true value is then raised by its exact gradient (all items are summed over, none is drawn), less the KL to
the start, under the local and the global distribution.

There is no sampling, no tuning by side and no beam: what differs is the normalisation alone.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from llmrec.config import RunConfig
from llmrec.config_tree import Overrides
from llmrec.dataset.importers import import_dataset
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.dataset.world.world import World, generate_world
from llmrec.evaluation.ranking import ranking_metrics
from llmrec.pipeline.base_model import base_model
from llmrec.pipeline.before import base_policy
from llmrec.pipeline.data import RunData
from llmrec.pipeline.sft import targets
from llmrec.pipeline.work import Work
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.modes import evaluating
from llmrec.policy.normalised import NORMALISATIONS, Normalisation, catalogue_log_probs
from llmrec.progress import track
from llmrec.seeding import numpy_stream
from llmrec.studies.answer import Answer
from llmrec.studies.study import Pooled, SeedRows, Study, over_seeds
from llmrec.types import FloatArray, State

SMALL: Overrides = {
    "world.users": 300,
    "world.items": 48,
    "data.history_events": 8,
    "text.max_tokens": 128,
    "text.profile": False,
    "model.nano_hidden": 64,
    "model.nano_layers": 2,
    "model.nano_vocabulary": 1000,
    "model.nano_pretrain_sequences": 1024,
}
RATE, RL_RATE, KL = 2e-3, 1e-3, 0.1
BY_PI = "vocabulary, ranked by pi"
RL: tuple[Normalisation, ...] = ("local", "global")


@dataclass(frozen=True)
class Sizes:
    """How much is trained and measured: steps of SFT and RL, states a step, and test events."""

    steps: int = 80
    rl_steps: int = 30
    batch: int = 32
    test_events: int = 400


def compare_normalisations(
    *,
    out: Path,
    seeds: Sequence[int],
    source: str | None = None,
    items: int = 48,
    steps: int = Sizes.steps,
    rl_steps: int = Sizes.rl_steps,
    test_events: int = Sizes.test_events,
    overrides: Overrides | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Trains all sides under each seed and returns the figures.

    Args:
        out: stages and answer are kept here.
        seeds: of worlds (or of models, where `source` is given).
        source: folder of MovieLens-100K, whose most chosen films are then the catalogue; generated worlds otherwise.
        items: of the catalogue.
        steps: of SFT.
        rl_steps: of RL, in worlds.
        test_events: ranked at most.
        overrides: values by key.
        json_file: the figures are also written here.
    """
    sizes = Sizes(steps, rl_steps, test_events=test_events)

    def measure(seed: int) -> SeedRows:
        given: dict[str, Any] = {**SMALL, "world.items": items, "seed": seed, **(overrides or {})}
        config = RunConfig.read(None, given)
        dataset, world = _data(config, source, items)
        data, work = RunData(dataset, make_split(dataset, "time"), world), Work(out / f"seed-{seed}")
        key = {"config": config.tree(), "sizes": dataclasses.asdict(sizes), "data": dataset.manifest.content_hash}

        def build(folder: Path, _: Path) -> None:
            found = _measured(config, data, base_policy(config, data, base_model(config, data, work)), sizes)
            flat = {f"{side}|{name}": values for side, row in found.rows.items() for name, values in row.items()}
            np.savez(folder / "rows.npz", users=np.array(next(iter(found.users.values()))), **flat)  # type: ignore[arg-type]

        return _kept(work.stage("measured", key, build), seed, dataset.manifest.content_hash)

    return Study(tuple(seeds), measure, _answer).run(out, json_file)


def _kept(folder: Path, seed: int, data_hash: str) -> SeedRows:
    """The rows of a finished seed."""
    rows: dict[str, dict[str, FloatArray]] = {}
    with np.load(folder / "rows.npz", allow_pickle=False) as found:
        users = found["users"].tolist()
        for name in found.files:
            side, _, measure = name.partition("|")
            if measure:
                rows.setdefault(side, {})[measure] = found[name]
    return SeedRows(seed, data_hash, rows, dict.fromkeys(next(iter(rows.values())), users))


def _data(config: RunConfig, source: str | None, items: int) -> tuple[Dataset, World | None]:
    if source is None:
        world = generate_world(config.world, config.seed)
        return world.dataset, world
    return most_chosen(import_dataset("movielens", Path(source)), items), None


def most_chosen(dataset: Dataset, items: int) -> Dataset:
    """The data set of its `items` most frequent items alone."""
    item = pl.col("item_id").cast(pl.String)
    counts = dataset.events.select(item).group_by("item_id").len()
    kept = item.is_in(counts.sort("len", "item_id", descending=[True, False]).head(items)["item_id"].to_list())
    facts = ("name", "domain", "language", "source", "terms", "repeat", "click", "conversion", "proxy")
    named = {name: getattr(dataset.manifest, name) for name in facts}
    events = dataset.events.with_columns(item, pl.col("user_id").cast(pl.String)).filter(kept)
    return Dataset.build(dataset.items.filter(kept), dataset.users, events, **named)


class _Lab:
    """States as prompts, and the seen items that nobody is shown."""

    def __init__(self, policy: LanguagePolicy) -> None:
        self.policy, self.index = policy, policy.index

    def log_probs(self, model: Any, states: Sequence[State], normalisation: Normalisation) -> Tensor:
        """(B, N)."""
        ids, mask = self.policy.encode(states)
        return catalogue_log_probs(model, ids, mask, self.index, normalisation)

    @torch.no_grad()
    def all(self, model: Any, states: Sequence[State], normalisation: Normalisation) -> FloatArray:
        """log-probabilities of many states in evaluation mode, (B, N)."""
        with evaluating(model):
            parts = [self.log_probs(model, states[i : i + 32], normalisation) for i in range(0, len(states), 32)]
        found_BN: FloatArray = torch.cat(parts).cpu().numpy()
        return found_BN


def _fit(model: Any, steps: int, rate: float, loss: Callable[[int], Tensor], what: str) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    for step in track(range(steps), what):
        optimiser.zero_grad()
        loss(step).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()


def _measured(config: RunConfig, data: RunData, policy: LanguagePolicy, sizes: Sizes) -> SeedRows:
    """SFT under every normalisation, RL on top under two, and the figures of all on the test events."""
    lab, repeat = _Lab(policy), data.dataset.manifest.repeat
    train = targets(config, data, "train", sizes.steps * sizes.batch)
    test = targets(config, data, "test", sizes.test_events)
    order = numpy_stream(config.seed, "normalisation").permutation(sizes.steps * sizes.batch) % len(train)
    batches = order.reshape(sizes.steps, sizes.batch)
    rows: dict[str, dict[str, FloatArray]] = {}
    chosen_B = np.array([e.target for e in test])
    states = [e.state for e in test]
    value_BN = None
    if data.world is not None:
        value_BN = data.world.value_BN(
            [str(s.user_id) for s in states], config.reward.click, config.reward.conversion
        )

    def record(side: str, model: Any, normalisation: Normalisation) -> None:
        log_BN = lab.all(model, states, normalisation)
        if repeat == "exclude":
            for b, seen in enumerate(test.seen):
                log_BN[b, seen] = -np.inf
        left_B = np.log(np.exp(log_BN).sum(1))
        loss_B = left_B - log_BN[np.arange(len(log_BN)), chosen_B]
        top_BK = np.argsort(-log_BN, axis=1, kind="stable")[:, :10]
        found = ranking_metrics(top_BK, chosen_B, k=(10,)).per_row
        rows[side] = {"loss": loss_B, "HR@10": found["HR@10"], "NDCG@10": found["NDCG@10"]}
        if value_BN is not None:
            rows[side]["value"] = np.take_along_axis(value_BN, top_BK, 1).mean(1)

    for normalisation in NORMALISATIONS:
        model = copy.deepcopy(policy.model).train()
        if normalisation != "vocabulary":
            record(f"{normalisation}, before SFT", model, normalisation)

        def loss(step: int, model: Any = model, own: Normalisation = normalisation) -> Tensor:
            batch = [train[int(r)] for r in batches[step]]
            log_BN = lab.log_probs(model, [e.state for e in batch], own)
            return -log_BN[torch.arange(len(batch)), torch.tensor([e.target for e in batch])].mean()

        _fit(model, sizes.steps, RATE, loss, f"SFT, {normalisation}")
        record(normalisation, model, normalisation)
        if normalisation == "vocabulary":
            record(BY_PI, model, "local")
        if normalisation in RL and data.world is not None and sizes.rl_steps:
            _improve(config, data.world, lab, model, [e.state for e in train], batches, normalisation, sizes)
            record(f"{normalisation}, RL", model, normalisation)
    users = (
        [f"{config.seed} {s.user_id}" for s in states] if data.world is not None else [str(s.user_id) for s in states]
    )
    measures = next(iter(rows.values()))
    return SeedRows(config.seed, data.dataset.manifest.content_hash, rows, dict.fromkeys(measures, users))


def _improve(
    config: RunConfig,
    world: World,
    lab: _Lab,
    model: Any,
    states: Sequence[State],
    batches: Any,
    normalisation: Normalisation,
    sizes: Sizes,
) -> None:
    """Raises the expected true value of the drawn item, less the KL to the start, by the exact gradient."""
    start = copy.deepcopy(model).eval()

    def loss(step: int) -> Tensor:
        batch = [states[int(r)] for r in batches[step % len(batches)]]
        value_BN = torch.from_numpy(
            world.value_BN([str(s.user_id) for s in batch], config.reward.click, config.reward.conversion)
        )
        log_BN = lab.log_probs(model, batch, normalisation)
        with torch.no_grad():
            before_BN = lab.log_probs(start, batch, normalisation)
        gain_B = (log_BN.exp() * (value_BN - KL * (log_BN - before_BN))).sum(1)
        return -gain_B.mean()

    _fit(model, sizes.rl_steps, RL_RATE, loss, f"RL, {normalisation}")


def _answer(found: Pooled) -> Answer:
    """All sides against the local normalisation, over rows and over seeds."""
    measures = list(found.seeds[0].rows["local"])
    title = f"{len(found.rows('local', 'loss'))} test events of {len(found.seeds)} seeds, all sides against local"
    table = found.comparison(title, measures, "local", lower_is_better=("loss",))
    pairs = [("global", "local"), ("likelihood", "local"), ("vocabulary", "local"), (BY_PI, "local")]
    if "local, RL" in found.sides:
        pairs.append(("global, RL", "local, RL"))
    figures: dict[str, Any] = {"table": table.to_json(), "seeds": {}}
    sentences = []
    for side, base in pairs:
        for measure in ("loss", "NDCG@10", *(("value",) if "value" in measures else ())):
            gap = found.difference(side, base, measure)
            by_seed = np.array(found.means(side, measure)) - np.array(found.means(base, measure))
            figures["seeds"][f"{side} less {base}: {measure}"] = over_seeds(by_seed.tolist())
            sentences.append(
                f"{side} less {base}, {measure}: {gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f}) over users"
            )
    return Answer("Local and global normalisation", figures, (table,), sentences)
