"""Real data in blocks of time: is it better to go on, to train anew, or to count anew?

The last events are cut into blocks of equally many. Before each, what was learnt from all earlier events is asked for
the choices of the block: the policy of the first block, which stays as it is; the same adapter, gone on with block by
block (supervised, held to where it was); a warm start trained anew on everything; and co-visitation counted anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmrec.baselines.registry import baseline
from llmrec.config import ContinuedSFTSettings, LoraSettings, RunConfig
from llmrec.config_tree import Overrides
from llmrec.dataset.examples import Examples, examples
from llmrec.dataset.split import Split
from llmrec.errors import ConfigError, DataError
from llmrec.files import read_json, write_json
from llmrec.pipeline.base_model import base_model
from llmrec.pipeline.data import RunData, open_data
from llmrec.pipeline.recipes import with_defaults
from llmrec.pipeline.run import check_config
from llmrec.pipeline.sft import lessons_of, sft_policy, sft_stage, warm_start
from llmrec.pipeline.work import Work
from llmrec.policy.adapters import load_adapter_onto
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.studies.answer import Answer, Sheet, signed
from llmrec.studies.study import Pooled, SeedRows, Study
from llmrec.training.anchor import Anchor
from llmrec.training.continued import continue_sft
from llmrec.training.improvement import Checkpointing
from llmrec.training.lora import adapter_of, load_adapter, make_lora
from llmrec.types import FloatArray, Ranker

FROZEN, GONE_ON, ANEW, COUNTS, COUNTS_OLD = (
    *("frozen", "gone on with", "trained anew", "co-visitation, counted anew", "co-visitation, as it was"),
)
LM = (FROZEN, GONE_ON, ANEW)
K = 10
SHARE = 0.5
"""Of the events that come before the first block."""
PULL = 0.01


def block_study(
    seeds: Sequence[int],
    out: Path,
    overrides: Overrides,
    dataset: str,
    source: str | None,
    blocks: int,
    rows: int,
    json_file: Path | None,
) -> dict[str, Any]:
    """Asks every block and returns the figures."""
    if blocks < 1 or rows < 1:
        raise ConfigError(f"There are {blocks} blocks of {rows} rows; take at least one of each.")

    def measure(seed: int) -> SeedRows:
        own: dict[str, Any] = {"data.dataset": dataset, "seed": seed}
        own |= {} if source is None else {"data.source": source}
        config = with_defaults(None, {**own, **overrides})
        check_config(config)
        work = Work(out / f"{dataset}-{seed}")
        return _Blocks(config, open_data(config, work), work, blocks, rows).measured()

    return Study(seeds, measure, answer_of, unit="seed").run(out, json_file)


@dataclass(frozen=True)
class _Blocks:
    config: RunConfig
    whole: RunData
    work: Work
    blocks: int
    rows: int

    def measured(self) -> SeedRows:
        """NDCG@10 of every choice that is asked, of all sides."""
        found: dict[str, dict[str, FloatArray]] = {}
        users: dict[str, Sequence[str]] = {}
        seconds: dict[str, float] = dict.fromkeys((GONE_ON, ANEW), 0.0)
        config = self.config
        cuts = self._cuts()
        first = self._data(cuts, 0)
        base = base_model(config, first, self.work)
        stage = sft_stage(config, first, base, self.work)
        seconds[FROZEN] = stage.cpu_seconds
        old: Any = baseline("covisitation-fixed").fitted(first.dataset, first.split.train)
        before: Path | None = None
        for block in range(self.blocks):
            data, asked = self._data(cuts, block), self._asked(cuts, block)
            anew = stage
            if block:
                work = Work(self.work.folder / f"anew-{block}")
                anew = sft_stage(config, data, base, work)
                seconds[ANEW] += anew.cpu_seconds
                before, took = self._gone_on(block, cuts, first, stage, before)
                seconds[GONE_ON] += took
            sides: dict[str, Ranker] = {
                FROZEN: sft_policy(config, first, stage),
                GONE_ON: self._policy(first, stage, before),
                ANEW: sft_policy(config, data, anew),
                COUNTS: baseline("covisitation-fixed").fitted(data.dataset, data.split.train),
                COUNTS_OLD: old,
            }
            name = f"block {block + 1}"
            users[name] = [f"{config.seed} {example.state.user_id}" for example in asked]
            for side, ranker in sides.items():
                found.setdefault(side, {})[name] = self._ndcg(side, block, ranker, asked)
        facts = {"cpu_seconds": seconds, "events": self.whole.dataset.events.height, "cuts": cuts}
        return SeedRows(config.seed, self.whole.dataset.manifest.content_hash, found, users, facts)

    def _cuts(self) -> list[int]:
        """Moments: the first block begins at the first of them, the last one ends before the last."""
        times = np.sort(self.whole.dataset.events["time"].to_numpy())
        places = np.linspace(SHARE * len(times), len(times), self.blocks + 1).astype(np.int64)
        cuts = [int(times[place]) for place in places[:-1]] + [int(times[-1]) + 1]
        if len(set(cuts)) < len(cuts):
            raise DataError("Too many events share one moment to be cut into so many blocks; take fewer blocks.")
        return cuts

    def _data(self, cuts: Sequence[int], block: int) -> RunData:
        """What is known when a block begins."""
        events, time = self.whole.dataset.events, pl.col("time")
        known = self.whole.dataset.with_events(events.filter(time < cuts[block]))
        none = known.events.clear()
        return dataclasses.replace(self.whole, dataset=known, split=Split(known.events, none, none, "time"))

    def _asked(self, cuts: Sequence[int], block: int) -> Examples:
        events, time = self.whole.dataset.events, pl.col("time")
        train, test = (
            events.filter(time < cuts[block]),
            events.filter(time.is_between(cuts[block], cuts[block + 1], "left")),
        )
        split = Split(train, train.clear(), test, "time", cuts[block], cuts[block])
        config = self.config
        return examples(
            self.whole.dataset,
            split,
            "test",
            signal=config.sft.target,
            history_events=config.data.history_events,
            limit=self.rows,
            seed=config.seed,
        )

    def _gone_on(
        self, block: int, cuts: Sequence[int], first: RunData, stage: Any, before: Path | None
    ) -> tuple[Path, float]:
        """The adapter after the events of the block before, and the seconds it took."""
        config, data = self.config, self._data(cuts, block)
        events = data.dataset.events
        lessons = lessons_of(config, data)
        # the newest choices alone: their states remember everything
        fresh = [e for e in lessons.examples if (e.state.time or 0) >= cuts[block - 1]]
        lessons = dataclasses.replace(lessons, examples=fresh, timelines=None)
        share = min(1.0, len(fresh) / max(1, len(lessons_of(config, first).examples)))
        plan = ContinuedSFTSettings(share=1.0, learning_rate=config.sft.learning_rate / 4, lora=LoraSettings(rank=16))
        key = [config.tree()["sft"], dataclasses.asdict(plan), PULL, events.height, cuts[: block + 1], str(before)]

        def build(place: Path, scratch: Path) -> None:
            start = warm_start(config, first, sft_policy(config, first, stage))
            start = dataclasses.replace(start, seed=config.seed + block)
            if before is None:
                fresh_one = adapter_of(make_lora(sft_policy(config, first, stage).model, plan.lora, seed=start.seed))
                anchor = Anchor(fresh_one, PULL)
            else:
                anchor = Anchor(load_adapter(before / "adapter"), PULL)
            given = dataclasses.replace(start, anchor=anchor)
            made = continue_sft(given, lessons, config.sft, plan, Checkpointing(scratch / "trainer"))
            adapter_of(made.model).save(place / "adapter")
            write_json(place / "cost.json", {"cpu_seconds": made.cpu_seconds, "examples": len(fresh), "share": share})

        place = self.work.stage(f"gone-on-{block}", key, build)
        return place, float(read_json(place / "cost.json")["cpu_seconds"])

    def _policy(self, first: RunData, stage: Any, adapter: Path | None) -> LanguagePolicy:
        policy = sft_policy(self.config, first, stage)
        if adapter is None:
            return policy
        model = load_adapter_onto(policy.model, adapter / "adapter", policy.tokenizer).merge_and_unload().eval()
        return LanguagePolicy(model, policy.tokenizer, policy.catalogue, policy.renderer, policy.repeat)

    def _ndcg(self, side: str, block: int, ranker: Ranker, asked: Examples) -> FloatArray:
        """NDCG@10 of each choice among all items; kept, as models take long to ask."""
        key = [self.config.tree(), side, block, self.blocks, self.rows, self.whole.dataset.manifest.content_hash]

        def build(place: Path, scratch: Path) -> None:
            del scratch
            lists = ranker.recommend([e.state for e in asked], K, seen=asked.seen)
            rank = [
                one.items_K.index(e.target) if e.target in one.items_K else None
                for one, e in zip(lists, asked, strict=True)
            ]
            write_json(place / "ndcg.json", [0.0 if r is None else 1 / float(np.log2(r + 2)) for r in rank])

        name = f"asked-{block}-{side.replace(' ', '-').replace(',', '')}"
        return np.array(read_json(self.work.stage(name, key, build) / "ndcg.json"))


def answer_of(pooled: Pooled) -> Answer:
    """A table by block, and who is ahead of whom."""
    names = pooled.measures(FROZEN)
    rows, found = [], {}
    for side in pooled.sides:
        means = {name: float(pooled.rows(side, name).mean()) for name in names}
        later = names[1:]
        cpu = [one.facts["cpu_seconds"].get(side, 0.0) for one in pooled.seeds]
        found[side] = {"blocks": means, "cpu_seconds": cpu}
        rows.append(
            [
                side,
                *(f"{means[n]:.4f}" for n in names),
                f"{np.mean([means[n] for n in later] or [0.0]):.4f}",
                f"{np.mean(cpu):.0f}",
            ]
        )
    joined = _joined(pooled, names[1:])
    differences = {}
    sentences = []
    if joined is not None:
        for side, other in (
            (GONE_ON, FROZEN),
            (ANEW, FROZEN),
            (ANEW, GONE_ON),
            (COUNTS, GONE_ON),
            (COUNTS, COUNTS_OLD),
        ):
            gain = joined.difference(side, other, "all", samples=1000, seed=0)
            differences[f"{side} less {other}"] = dataclasses.asdict(gain)
            sentences.append(f"{side} less {other}, blocks 2 to {len(names)}: {signed(gain)} NDCG@{K}.")
    heads = ["", *names, "mean of 2 and later", "CPU s"]
    figures = {"sides": found, "differences": differences, "facts": [dict(one.facts) for one in pooled.seeds]}
    return Answer("Blocks of time", figures, [Sheet(f"NDCG@{K} of the next choice", heads, rows)], sentences)


def _joined(pooled: Pooled, names: Sequence[str]) -> Pooled | None:
    """The rows of several blocks as one measure; a user's rows of all of them are one cluster."""
    if not names:
        return None
    made = []
    for one in pooled.seeds:
        rows: dict[str, Mapping[str, FloatArray]] = {
            side: {"all": np.concatenate([own[name] for name in names])} for side, own in one.rows.items()
        }
        users = {"all": [user for name in names for user in one.users[name]]}
        made.append(dataclasses.replace(one, rows=rows, users=users))
    return Pooled(made)
