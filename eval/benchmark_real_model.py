"""A real model's training and decoding on a CPU, against TRL as it comes and against the model's own work.

    python eval/benchmark_real_model.py MODEL --dataset movielens --source FOLDER --json FILE --markdown FILE
    python eval/benchmark_real_model.py tiny --dataset world --rounds 1

MODEL is a Hub id or a folder; `tiny` is made on the spot. Prompts and titles are the data set's own. All sides of a
part read the same examples with the same LoRA (rank 16 on all linear layers), AdamW, float32 and one thread. They run
in turn; a figure is CPU time of the process, and the first step of each training is left out.
  sft     one optimiser step of B examples.
            llmrec     as in a run, one row an example: its trainer, optimiser and log with it
            trl        `trl.SFTTrainer` with PEFT, loss on the answer alone, no checkpointing, B rows at once
            raw        forward and backward of PEFT's model on the same rows, head for labelled columns alone; no
                       trainer, no optimiser
  ppo     one step: B prompts, G draws each, reward, one update, reference scored for the KL.
            llmrec     PPO: constrained draws, critic, exact KL
            trl        `trl.GRPOTrainer` with PEFT: `generate` over B * G rows, of the mean length of a title
            raw        forward and backward of PEFT's model on B rows, each a prompt and one title
  decode  the k best items of each state.
            llmrec     `recommend` with k beams
            generate   transformers' beam search with `prefix_allowed_tokens_fn` of the catalogue, k beams
            raw        one forward of the prompts
Tokens a second count every side's work in the same tokens, those of one row an example (a prompt, for PPO and
decoding), whatever a side feeds: a side that reads less is faster. `--layers` keeps the model's first layers only,
which shortens everything alike; shares of the head grow.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from benchmark_device import DeviceRun
from rl_step_sides import Clock, Trainers, Words, step_ends

from llmrec.cli.guard import guarded

PARTS = ("sft", "ppo", "decode")
TINY = "tiny"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = os.environ.get("LLMREC_PRETRAINED")
    parser.add_argument("model", nargs="?", default=given, help="a Hub id, a folder, or tiny; else LLMREC_PRETRAINED")
    parser.add_argument("--dataset", default="movielens")
    parser.add_argument("--source", help="the data set's folder; a generated world needs none")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a configuration key")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--layers", type=int, help="keep the first layers of the model only")
    parser.add_argument("--batch", type=int, default=8, help="examples of a step of SFT")
    parser.add_argument("--states", type=int, default=4, help="states decoded")
    parser.add_argument("--prompts", type=int, default=4, help="B of a step of PPO")
    parser.add_argument("--draws", type=int, default=4, help="G")
    parser.add_argument("--k", type=int, default=50, help="items wanted in decoding, and beams")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", nargs="+", default=[], metavar="SIDE", help="sides to leave out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    return parser.parse_args(arguments)


class RealModel(DeviceRun):
    """A model in a folder of its own, cut to `--layers`, and the data set's examples as prompts."""

    def examples(self, count: int) -> list[Any]:
        """The first training examples, `count` of them."""
        from llmrec.pipeline.sft import targets

        rows = targets(self.config, self.data, "train", count).rows
        return list((rows * (1 + count // len(rows)))[:count])

    def rows(self, policy: Any, count: int) -> list[Any]:
        """Rows of SFT, one an example."""
        from llmrec.training.sft_data import RowEncoder

        encoder = RowEncoder(self.data.dataset.item_list, policy.catalogue, policy.renderer, policy.tokenizer)
        return encoder.next_items(self.examples(count))


def prepare(options: argparse.Namespace, folder: Path) -> RealModel:
    """The data set, and the model as every side loads it."""
    from llmrec.config import RunConfig
    from llmrec.pipeline.data import open_data
    from llmrec.pipeline.recipes import overrides_of
    from llmrec.pipeline.work import Work
    from llmrec.policy.loading import load_causal_lm, load_tokenizer, save_causal_lm

    given = {"data.dataset": options.dataset, "data.source": options.source, "model.name": str(folder / "model")}
    config = RunConfig.read(None, overrides_of(given, ["model.dtype=float32", *options.set]))
    data = open_data(config, Work(folder / "work"))
    (folder / "model").mkdir()
    if options.model == TINY:
        tokenizer, model = tiny(data)
    else:
        tokenizer, model = load_tokenizer(options.model), load_causal_lm(options.model, dtype="float32")
        if options.layers:
            decoder = model.get_decoder()
            decoder.layers = decoder.layers[: options.layers]
            model.config.num_hidden_layers = options.layers
            if getattr(model.config, "layer_types", None):
                model.config.layer_types = model.config.layer_types[: options.layers]
    save_causal_lm(model, tokenizer, folder / "model")
    return RealModel(options, config, data, folder, itertools.count())


def tiny(data: Any) -> tuple[Any, Any]:
    """A model that knows nothing, for a try of the script."""
    from llmrec.config import ModelConfig
    from llmrec.policy.nano import make_nano, train_tokenizer

    texts = [item.title for item in data.dataset.item_list]
    tokenizer = train_tokenizer([*texts, "Profile: History: (clicked) Next product:"], 600)
    return tokenizer, make_nano(tokenizer, ModelConfig(nano_hidden=32, nano_layers=1), 0)


def measure_sft(bench: RealModel) -> dict[str, Any]:
    """Seconds a step of each side, of the same rows."""
    import llmrec.training.sft as module
    from llmrec.training.lora import make_lora

    options, lora, policy = bench.options, bench.config.sft.lora, bench.policy()
    rows = bench.rows(policy, 2 * options.batch)
    rows.sort(key=lambda row: len(row.input_ids))  # as a run does: a batch holds rows of about one length
    clock = Clock()

    def ours() -> float:
        tokenizer, model = bench.model()
        trained = make_lora(model, lora)
        plan = module.FitPlan("SFT", options.batch, 1e-5, 0.0, 10_000)
        with timed_trainer(module, "SFTTrainer", clock):
            module.fit_rows(trained, tokenizer, rows, plan, seed=0, out=bench.out(), resume=False, report_to=())
        return last_step(clock)

    def stock() -> float:
        from transformers import PrinterCallback

        tokenizer, model = bench.model()
        trainer = stock_sft(model, tokenizer, rows, lora, options.batch, bench.out())
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(step_ends(clock))
        clock.cut()
        trainer.train()
        return last_step(clock)

    def raw() -> float:
        model = plain_lora(bench.model()[1], lora)
        forward_backward(model, [rows[0]])
        clock.cut()
        forward_backward(model, rows[options.batch :])
        clock.cut()
        return last_step(clock)

    tokens = sum(len(row.input_ids) for row in rows[options.batch :])
    return measured({"llmrec": ours, "trl": stock, "raw": raw}, options, tokens, options.batch)


def measure_ppo(bench: RealModel) -> dict[str, Any]:
    """Seconds a step of each side, of the same prompts."""
    options = bench.options
    trainers = RealTrainers(bench)

    def whole(side: str) -> float:
        return float(sum(trainers.run(side, 1)["steps"][-1].values()))

    def raw() -> float:
        rows = bench.rows(trainers.policy, options.prompts)
        model = plain_lora(bench.model()[1], bench.config.sft.lora)
        forward_backward(model, rows[:1])
        clock = Clock()
        forward_backward(model, rows)
        clock.cut()
        return last_step(clock)

    sides = {"llmrec": lambda: whole("ppo"), "trl": lambda: whole("trl"), "raw": raw}
    lengths = [len(trainers.tokenizer(state.profile)["input_ids"]) for state in trainers.states]
    tokens = round(statistics.mean(lengths) * options.prompts)
    return measured(sides, options, tokens, options.prompts * options.draws)


def measure_decode(bench: RealModel) -> dict[str, Any]:
    """Seconds a batch of states of each side."""
    import torch
    from speed import clock

    options, policy = bench.options, bench.policy()
    states = [example.state for example in bench.examples(options.states)]
    prompts = policy.renderer.token_ids_many(states)
    k = min(options.k, len(policy.catalogue))
    index = policy.catalogue.index
    rows = [policy.catalogue.token_ids(item) for item in range(len(policy.catalogue))]
    children: dict[tuple[int, ...], set[int]] = {}
    for row in rows:
        for length in range(len(row)):
            children.setdefault(tuple(row[:length]), set()).add(row[length])
    ended = [int(policy.tokenizer.eos_token_id)]

    def once(work: Callable[[], object]) -> float:
        start = clock("cpu")
        with torch.no_grad():
            work()
        return clock("cpu") - start

    def ours() -> object:
        return policy.recommend(states, k, beams=k, exclude_seen=False)

    def generate() -> object:
        for prompt in prompts:  # k beams of each fill a batch of their own

            def follow(_: int, ids: Any, start: int = len(prompt)) -> list[int]:
                return sorted(children.get(tuple(ids[start:].tolist()), ended))

            ids = torch.tensor([prompt])
            kept = policy.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                num_beams=k,
                num_return_sequences=k,
                do_sample=False,
                max_new_tokens=int(index.max_length) + 1,
                length_penalty=0.0,
                eos_token_id=ended,
                pad_token_id=policy.tokenizer.pad_token_id,
                prefix_allowed_tokens_fn=follow,
            )
        return kept

    def raw() -> object:
        return [policy.model(input_ids=torch.tensor([prompt]), logits_to_keep=1) for prompt in prompts]

    ours()  # trials of the loaded model are made once
    works = {"llmrec": ours, "generate": generate, "raw": raw}
    sides = {name: lambda work=work: once(work) for name, work in works.items()}
    return measured(sides, options, sum(map(len, prompts)), len(states))


def measured(sides: dict[str, Callable[[], float]], options: argparse.Namespace, tokens: int, examples: int) -> Any:
    """Seconds in every round, medians, tokens and examples a second, and ratios to llmrec's side round by round."""
    import speed

    kept = {name: side for name, side in sides.items() if name not in options.without}
    seconds = speed.in_turn(kept, options.rounds, warm_up=0)
    found: dict[str, Any] = {"tokens": tokens, "examples": examples, "sides": {}}
    for name, each in seconds.items():
        median = statistics.median(each)
        row = {"seconds": each, "tokens/s": tokens / median, "examples/s": examples / median}
        if name != "llmrec" and "llmrec" in seconds:
            ratios = [a / b for a, b in zip(each, seconds["llmrec"], strict=True)]
            row["times llmrec"] = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        found["sides"][name] = row
    return found


class RealTrainers(Trainers):
    """The sides of a step of reinforcement learning on a real model's weights, prompts and titles."""

    def __init__(self, bench: RealModel) -> None:
        from llmrec.types import State

        self.policy = policy = bench.policy()
        self.bench, self.folder, self.clock = bench, bench.scratch, Clock()
        self.tokenizer, self.catalogue = policy.tokenizer, policy.catalogue
        self.options = argparse.Namespace(**vars(bench.options), lora=True, rows=8)
        self.legal = {tuple(self.catalogue.token_ids(item)) for item in range(len(self.catalogue))}
        self.length = round(statistics.mean(map(len, self.legal)))
        prompts = policy.renderer.token_ids_many([e.state for e in bench.examples(2 * bench.options.prompts)])
        self.states = [State(f"u{place}", self.tokenizer.decode(ids)) for place, ids in enumerate(prompts)]
        self.seen_prompts, self.seen_items = [], []

    def reward(self, *, prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        """In [0, 1], by the tokens."""
        self.seen_prompts.append(prompts)
        self.seen_items += [tuple(ids) in self.legal for ids in completion_ids]
        return [sum((place + 3) * token for place, token in enumerate(ids)) % 97 / 96 for ids in completion_ids]

    def load(self) -> Any:
        """The weights that every side starts from."""
        return self.bench.model()[1]

    def source(self) -> Any:
        """The states, whose profile is the prompt as it was rendered."""
        from llmrec.training.state_source import StateSource

        words = PlainWords(self.tokenizer)
        return StateSource(self.states, None, words, self.catalogue, self.tokenizer, seed=0)


class PlainWords(Words):
    """Prompts that hold their special tokens already."""

    def token_ids_many(self, states: Sequence[Any]) -> list[list[int]]:
        """Token ids of each state."""
        texts = [state.profile for state in states]
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids


@contextlib.contextmanager
def timed_trainer(module: Any, name: str, clock: Clock) -> Iterator[None]:
    """Lets a trainer that `module` makes cut its steps."""
    plain = getattr(module, name)

    class Timed(plain):  # type: ignore[misc,valid-type]
        def train(self, *args: Any, **kwargs: Any) -> Any:
            self.add_callback(step_ends(clock))
            clock.cut()
            return super().train(*args, **kwargs)

    setattr(module, name, Timed)
    try:
        yield
    finally:
        setattr(module, name, plain)


def last_step(clock: Clock) -> float:
    """CPU seconds of the last step that was cut."""
    return sum(clock.steps[-1].values())


def lora_config(lora: Any) -> Any:
    """PEFT's configuration of the adapter that llmrec trains."""
    from peft import LoraConfig

    given = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    return LoraConfig(**given, target_modules="all-linear", task_type="CAUSAL_LM")


def plain_lora(model: Any, lora: Any) -> Any:
    """PEFT's model as it comes, in training mode."""
    from peft import get_peft_model

    return get_peft_model(model, lora_config(lora)).train()


def forward_backward(model: Any, rows: Sequence[Any]) -> None:
    """Loss of the answers and its gradient, of all rows at once, padded on the right."""
    import torch

    width = max(len(row.input_ids) for row in rows)
    ids = torch.tensor([[*row.input_ids, *[0] * (width - len(row.input_ids))] for row in rows])
    labels = torch.tensor([[*row.labels(), *[-100] * (width - len(row.input_ids))] for row in rows])[:, 1:]
    columns = (labels != -100).any(0).nonzero().squeeze(1)
    logits = model(input_ids=ids, logits_to_keep=columns, use_cache=False).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, columns].flatten()).backward()
    model.zero_grad()


def stock_sft(model: Any, tokenizer: Any, rows: Sequence[Any], lora: Any, batch: int, out: Path) -> Any:
    """`trl.SFTTrainer` on rows that are tokenised already, in their order."""
    import trl
    from datasets import Dataset

    masks = [[int(label != -100) for label in row.labels()] for row in rows]
    data = Dataset.from_dict({"input_ids": [list(row.input_ids) for row in rows], "completion_mask": masks})
    arguments = trl.SFTConfig(
        output_dir=str(out),
        max_steps=len(rows) // batch,
        per_device_train_batch_size=batch,
        learning_rate=1e-5,
        max_length=None,
        completion_only_loss=True,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    peft_config = lora_config(lora)
    return trl.SFTTrainer(
        model, args=arguments, train_dataset=data, processing_class=tokenizer, peft_config=peft_config
    )


def table(figures: dict[str, Any]) -> str:
    """One row a side, in Markdown."""
    lines = ["| part | side | CPU s (median) | tokens/s | examples/s | times llmrec's time (rounds) |"]
    lines.append("|---|---|---:|---:|---:|---|")
    for part in PARTS:
        for name, row in figures.get(part, {}).get("sides", {}).items():
            against = row.get("times llmrec")
            said = f"{against['median']:.2f} ({against['least']:.2f} to {against['most']:.2f})" if against else ""
            cells = [f"{statistics.median(row['seconds']):.2f}", f"{row['tokens/s']:.0f}", f"{row['examples/s']:.2f}"]
            lines.append(f"| {part} | {name} | {' | '.join(cells)} | {said} |")
    return "\n".join(lines) + "\n"


@guarded
def main() -> None:
    options = parse()
    import speed
    import torch

    from llmrec.errors import RequestError
    from llmrec.files import write_text
    from llmrec.screen import results
    from llmrec.training.arguments import quiet

    if not options.model:
        raise RequestError("No model is named; give a folder or a Hub id, or set LLMREC_PRETRAINED.")
    torch.set_num_threads(options.threads)
    measures = {"sft": measure_sft, "ppo": measure_ppo, "decode": measure_decode}
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, quiet():
        bench = prepare(options, Path(folder))
        for part in options.parts:
            figures[part] = measures[part](bench)
            results().print(table({part: figures[part]}), soft_wrap=True)
    if options.markdown:
        write_text(options.markdown, table(figures))
    speed.keep(options, figures)


if __name__ == "__main__":
    main()
