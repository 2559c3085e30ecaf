"""Where the time of a training goes, on the device that is there: a GPU, or the CPU with CUDA_VISIBLE_DEVICES="".

    python eval/benchmark_device.py MODEL --dataset movielens --source FOLDER --json FILE
    python eval/benchmark_device.py MODEL --dataset movielens --source FOLDER --parts sft --batches 32 64 128

MODEL is a Hub id or a folder. Everything runs through what a run calls, on the data set's own prompts and titles:
  rows    prompts rendered and tokenised for SFT, rows a second (no device)
  sft     SFT of all weights and by LoRA: rows and tokens a second for each size of a batch
  decode  the ten best items, 20 beams: states a second for each number of states at once
  ppo     rollouts with LoRA, a made-up reward that costs nothing: seconds each, by prompts of a rollout
A time is the difference between a longer and a shorter training of the same kind, so that what happens once is left
out. *busy* is the share of that time in which a kernel ran on the GPU, by torch's profiler in a run of its own; its
costliest operators are kept in FILE.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmrec.cli.guard import guarded

PARTS = ("rows", "sft", "decode", "ppo")


@dataclass
class DeviceRun:
    """The data of a run, its prompts and its model, loaded anew for each measurement."""

    options: argparse.Namespace
    config: Any
    data: Any
    scratch: Path
    numbers: Iterator[int]

    def model(self) -> Any:
        """The model's tokenizer and weights."""
        from llmrec.policy.loading import load_configured, load_tokenizer

        name = self.config.model.name
        return load_tokenizer(name), load_configured(self.config.model, name)

    def policy(self) -> Any:
        """The model as a policy over the items."""
        from llmrec.pipeline.item_tokens import name_items
        from llmrec.policy.language_policy import LanguagePolicy

        tokenizer, model = self.model()
        named = name_items(self.config, self.data, model, tokenizer)
        repeat = self.data.dataset.manifest.repeat
        return LanguagePolicy(model, tokenizer, named.catalogue, named.renderer, repeat)

    def out(self) -> Path:
        """A new folder."""
        return self.scratch / f"training-{next(self.numbers)}"


def profiled(work: Callable[[], object]) -> tuple[dict[str, Any], float]:
    """The costliest operators of `work`, in seconds, and the share of its time in which the GPU was busy."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    with profile(activities=kinds) as record:
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    rows = [row for row in record.key_averages() if row.key]
    on_gpu = [row for row in rows if str(row.device_type).endswith("CUDA")]
    busy = sum(row.self_device_time_total for row in on_gpu) / 1e6
    found = {
        "seconds": seconds,
        "busy seconds": busy,
        "kernels": _top(on_gpu, lambda row: row.self_device_time_total),
        "host": _top([row for row in rows if row not in on_gpu], lambda row: row.self_cpu_time_total),
    }
    return found, busy / seconds


def _top(rows: list[Any], key: Callable[[Any], float], count: int = 14) -> list[dict[str, Any]]:
    best = sorted(rows, key=key, reverse=True)[:count]
    return [{"name": row.key[:110], "seconds": key(row) / 1e6, "calls": row.count} for row in best]


def timed(work: Callable[[int], object], short: int, long: int) -> tuple[float, float]:
    """Seconds of one more unit of `work`, and the most memory of the GPU in GiB; the first call warms up."""
    import torch

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.empty_cache()
    work(short)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    taken = []
    for units in (short, long):
        start = time.perf_counter()
        work(units)
        if gpu:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**30 if gpu else 0.0
    return (taken[1] - taken[0]) / (long - short), peak


def measure_rows(bench: DeviceRun) -> list[dict[str, Any]]:
    from llmrec.pipeline.sft import targets
    from llmrec.training.sft_data import build_rows

    policy = bench.policy()
    examples = targets(bench.config, bench.data, "train", bench.options.rows).rows
    settings = replace(bench.config.sft, examples=bench.options.rows, epochs=1.0)
    start = time.perf_counter()
    items = bench.data.dataset.item_list
    rows = build_rows(
        examples, items, policy.catalogue, policy.renderer, policy.tokenizer, settings, seed=bench.config.seed
    )
    seconds = time.perf_counter() - start
    tokens = sum(len(row.input_ids) for row in rows) / len(rows)
    answer = sum(row.answer for row in rows) / len(rows)
    return [{"rows": len(rows), "tokens a row": tokens, "of the answer": answer, "rows/s": len(rows) / seconds}]


def measure_sft(bench: DeviceRun) -> list[dict[str, Any]]:
    from llmrec.pipeline.sft import targets
    from llmrec.seeding import numpy_stream
    from llmrec.training.lora import make_lora
    from llmrec.training.sft import FitPlan, fit_rows
    from llmrec.training.sft_data import RowEncoder, by_length

    options, found = bench.options, []
    policy = bench.policy()
    encoder = RowEncoder(bench.data.dataset.item_list, policy.catalogue, policy.renderer, policy.tokenizer)
    most = max(options.batches) * options.long
    examples = targets(bench.config, bench.data, "train", most).rows
    rows = encoder.next_items((examples * (1 + most // len(examples)))[:most])
    for weights, batch in itertools.product(options.weights, options.batches):
        tokenizer, model = bench.model()
        trained = make_lora(model, bench.config.sft.lora) if weights == "lora" else model
        ordered = by_length(rows[: batch * options.long], batch, numpy_stream(0, "bench"))
        plan = FitPlan("SFT", batch, 1e-5, 0.0, 10_000)

        def fit(steps: int) -> None:
            some = ordered[: steps * batch]  # noqa: B023
            fit_rows(trained, tokenizer, some, plan, seed=0, out=bench.out(), resume=False, report_to=())  # noqa: B023

        seconds, peak = timed(fit, options.short, options.long)
        tokens = sum(len(row.input_ids) for row in ordered) / len(ordered)
        row = {"weights": weights, "batch": batch, "seconds a step": seconds, "rows/s": batch / seconds}
        row |= {"tokens/s": batch * tokens / seconds, "GPU GiB": peak}
        if options.profile:
            row["profile"], row["busy"] = profiled(lambda: fit(2))
        found.append(row)
        say(row)
    return found


def measure_decode(bench: DeviceRun) -> list[dict[str, Any]]:
    from llmrec.pipeline.sft import targets

    policy, found = bench.policy(), []
    most = max(bench.options.at_once)
    rows = targets(bench.config, bench.data, "test", most)
    states, seen = [e.state for e in rows], rows.seen
    tokens = policy.renderer.token_ids_many(states)
    for size in bench.options.at_once:

        def decode(number: int) -> None:
            size_of = min(size, number)  # noqa: B023
            policy.recommend(states[:number], 10, beams=20, seen=seen[:number], batch_size=size_of)

        decode(size)
        start = time.perf_counter()
        decode(most)
        seconds = time.perf_counter() - start
        row: dict[str, Any] = {"at once": size, "states/s": most / seconds}
        row["tokens a prompt"] = sum(map(len, tokens)) / len(tokens)
        if bench.options.profile:
            row["profile"], row["busy"] = profiled(lambda: decode(size))  # noqa: B023
        found.append(row)
        say(row)
    return found


def measure_ppo(bench: DeviceRun) -> list[dict[str, Any]]:
    import numpy as np

    from llmrec.pipeline.algorithms.rollouts import rollout_states
    from llmrec.pipeline.sft import warm_start
    from llmrec.training.improvement import Checkpointing
    from llmrec.training.on_policy import train_on_policy
    from llmrec.types import Reward

    options, found = bench.options, []

    def reward(states: Any, items_BK: Any) -> Reward:
        del states
        return Reward((np.asarray(items_BK) % 7 == 0).astype(np.float64))

    for prompts in options.prompts:
        policy = bench.policy()

        def improve(steps: int) -> None:
            settings = replace(bench.config.improvement, steps=steps, prompts=prompts, save_every=10_000)  # noqa: B023
            starts = rollout_states(bench.config, bench.data, settings)
            start = warm_start(bench.config, bench.data, policy)  # noqa: B023
            ran = train_on_policy(start, starts.states, starts.seen, reward, settings, Checkpointing(bench.out()))
            policy.model = ran.model.unload() if hasattr(ran.model, "unload") else ran.model  # noqa: B023

        seconds, peak = timed(improve, options.short_rollouts, options.long_rollouts)
        draws = bench.config.improvement.draws
        row: dict[str, Any] = {"prompts": prompts, "draws": draws, "seconds a rollout": seconds}
        row |= {"items/s": prompts * draws / seconds, "GPU GiB": peak}
        if options.profile:
            row["profile"], row["busy"] = profiled(lambda: improve(1))
        found.append(row)
        say(row)
    return found


def say(row: dict[str, Any]) -> None:
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
    print(", ".join(f"{key} {value}" for key, value in shown.items() if key != "profile"), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hub id (USER/NAME) or a folder with a causal language model")
    parser.add_argument("--dataset", default="movielens")
    parser.add_argument("--source", help="the data set's folder; a generated world needs none")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a configuration key")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rows", type=int, default=8000, help="examples whose rows are made")
    parser.add_argument("--weights", nargs="+", choices=("full", "lora"), default=("full", "lora"))
    parser.add_argument("--batches", nargs="+", type=int, default=(32, 128), help="rows of a step of SFT")
    parser.add_argument("--short", type=int, default=8, help="steps of the shorter SFT")
    parser.add_argument("--long", type=int, default=32, help="steps of the longer one")
    parser.add_argument("--at-once", nargs="+", type=int, default=(64, 256, 512), help="states decoded at once")
    parser.add_argument("--prompts", nargs="+", type=int, default=(32, 128), help="prompts of a rollout")
    parser.add_argument("--short-rollouts", type=int, default=3)
    parser.add_argument("--long-rollouts", type=int, default=9)
    parser.add_argument("--profile", action="store_true", help="one more run of each under torch's profiler")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


@guarded
def main() -> None:
    options = parse()
    from llmrec.config import RunConfig
    from llmrec.evaluation.facts import machine_facts, package_versions
    from llmrec.files import write_json
    from llmrec.pipeline.data import open_data
    from llmrec.pipeline.recipes import overrides_of
    from llmrec.pipeline.work import Work

    given = {"data.dataset": options.dataset, "data.source": options.source, "model.name": options.model}
    config = RunConfig.read(None, overrides_of(given, options.set))
    measures = {"rows": measure_rows, "sft": measure_sft, "decode": measure_decode, "ppo": measure_ppo}
    figures: dict[str, Any] = {"machine": machine_facts(), "versions": package_versions()}
    with tempfile.TemporaryDirectory() as folder:
        data = open_data(config, Work(Path(folder) / "work"))
        bench = DeviceRun(options, config, data, Path(folder), itertools.count())
        for part in options.parts:
            print(part, flush=True)
            figures[part] = measures[part](bench)
            if part == "rows":
                say(figures[part][0])
            if options.json:
                write_json(options.json, figures)


if __name__ == "__main__":
    main()
