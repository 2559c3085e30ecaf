"""The sides of `benchmark_rl_step.py`: trainers on the same weights, prompts and reward, whose parts are timed."""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OURS, STOCK = ("ppo", "grpo"), ("trl", "constrained")
SIDES = (*OURS, *STOCK)
ROLLOUT, SCORING, REWARD, UPDATE, REST = PARTS = ("rollout", "scoring", "reward", "update", "rest")
LENGTH, RATE, BETA = 4, 1e-5, 0.02


class Clock:
    """CPU seconds of the process by part of the step; what runs inside another part is taken out of that one."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.open, self.spent, self.last = [REST], defaultdict[str, float](float), time.process_time()

    def book(self) -> None:
        """Charges the time since the last call to the part that is open."""
        now = time.process_time()
        self.spent[self.open[-1]] += now - self.last
        self.last = now

    def enter(self, part: str) -> None:
        """Opens `part`. The scores of an update are part of the update."""
        self.book()
        self.open.append(UPDATE if (self.open[-1], part) == (UPDATE, SCORING) else part)

    def leave(self) -> None:
        """Closes the part that is open."""
        self.book()
        self.open.pop()

    def cut(self) -> None:
        """Ends a step."""
        self.book()
        self.steps.append({part: self.spent[part] for part in PARTS})
        self.spent.clear()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, charged to `part`."""

        @functools.wraps(function)
        def wrapper(*args: Any, **named: Any) -> Any:
            self.enter(part)
            try:
                return function(*args, **named)
            finally:
                self.leave()

        return wrapper


class Trainers:
    """What all sides share: weights in a folder, tokenizer, states, catalogue, reward."""

    length = LENGTH

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        import speed
        import torch

        from llmrec.catalogue.catalogue import Catalogue
        from llmrec.types import State

        torch.set_num_threads(options.threads)
        self.options, self.folder, self.clock = options, folder, Clock()
        model = speed.make_model(options.shape)
        model.save_pretrained(folder / "base")
        vocabulary = model.config.vocab_size
        self.tokenizer = word_tokenizer(vocabulary)
        self.tokens_NL = speed.four_codes(options.items, vocabulary)
        names = [f"i{item}" for item in range(options.items)]
        self.catalogue = Catalogue.from_sequences(names, names, self.tokens_NL, 0, scheme="semantic")
        self.legal = set(map(tuple, self.tokens_NL.tolist()))
        ids, _ = speed.make_prompts(8 * options.prompts, options.prompt, vocabulary)
        self.states = [State(f"u{row}", self.tokenizer.decode(line)) for row, line in enumerate(ids)]
        self.seen_prompts: list[list[str]] = []
        self.seen_items: list[bool] = []

    def reward(self, *, prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        """In [0, 1], by the four tokens; notes what the trainer was given and has drawn."""
        items = [tuple(ids[:LENGTH]) for ids in completion_ids]
        self.seen_prompts.append(prompts)
        self.seen_items += [item in self.legal for item in items]
        return [(31 * a + 17 * b + 7 * c + d) % 97 / 96 for a, b, c, d in items]

    def load(self) -> Any:
        """The base model, as every side starts from it."""
        import torch
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.folder / "base", dtype=torch.float32)

    def source(self) -> Any:
        """The states of llmrec's sides."""
        from llmrec.training.state_source import StateSource

        return StateSource(self.states, None, Words(self.tokenizer), self.catalogue, self.tokenizer, seed=0)

    def trainer(self, side: str, steps: int) -> Any:
        """A fresh trainer whose parts are timed."""
        from transformers import PrinterCallback

        trainer = self.ours(side, steps) if side in OURS else self.stock(side, steps)
        named = {"training_step": UPDATE, "_prepare_inputs": REST}
        if side in OURS:
            named |= {"_calculate_rewards_of_trl": REWARD, "_reference_scores": SCORING}
        else:
            scores = "_get_per_token_logps_and_entropies"
            named |= {"_calculate_rewards": REWARD, "_generate": ROLLOUT, scores: SCORING}
        for name, part in named.items():
            setattr(trainer, name, self.clock.timed(part, getattr(trainer, name)))
        trainer.args.save_strategy = "no"  # else a checkpoint is written after the last step
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(step_ends(self.clock))
        return trainer

    def ours(self, side: str, steps: int) -> Any:
        """llmrec's trainer, with the settings of a run: one update a rollout of B prompts with G draws."""
        from llmrec import config
        from llmrec.training.lora import make_lora
        from llmrec.training.on_policy import make_trainer

        settings = {"ppo": config.PPOSettings, "grpo": config.GRPOSettings}[side](
            steps=steps,
            prompts=self.options.prompts,
            draws=self.options.draws,
            minibatches=1,
            learning_rate=RATE,
            kl_coefficient=BETA,
            weights="lora" if self.options.lora else "full",
        )
        model, source = self.load(), self.source()
        source.prompts = self.clock.timed(ROLLOUT, source.prompts)
        model = make_lora(model, settings.lora) if self.options.lora else model
        return make_trainer(model, source, [self.reward], settings, out=self.folder / "ours")

    def stock(self, side: str, steps: int) -> Any:
        """`trl.GRPOTrainer` on the prompts that llmrec's sides read, in their order."""
        import trl
        from datasets import Dataset
        from peft import LoraConfig

        plan = self.source().plan(steps, self.options.prompts, 1, 1)
        lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = trl.GRPOTrainer(
            self.load(),
            reward_funcs=[self.reward],
            args=stock_arguments(self.options, steps, self.folder, self.length),
            train_dataset=Dataset.from_dict({"prompt": [self.states[row].profile for row in plan["state"]]}),
            processing_class=self.tokenizer,
            peft_config=lora if self.options.lora else None,
        )
        if side == "constrained":
            trainer.model.generate = functools.partial(trainer.model.generate, prefix_allowed_tokens_fn=self.follow)
        return trainer

    @functools.cached_property
    def children(self) -> dict[tuple[int, ...], list[int]]:
        """The legal next tokens of every prefix."""
        import speed

        return speed.legal_tokens(self.tokens_NL)

    def follow(self, _: int, ids: Any) -> list[int]:
        """What may follow a row, as `prefix_allowed_tokens_fn` is asked."""
        return self.children[tuple(ids[self.options.prompt :].tolist())]

    def run(self, side: str, steps: int) -> dict[str, Any]:
        """Seconds of each measured step by part, prompts of each step, and the share of draws that are items."""
        from llmrec.training.arguments import quiet

        self.clock.steps, self.seen_prompts, self.seen_items = [], [], []
        with quiet(), timed_drawing(self.clock):
            trainer = self.trainer(side, steps + 1)
            self.clock.spent.clear()
            trainer.train()
        rows = [list(step[:: self.options.draws]) for step in self.seen_prompts]
        return {"steps": self.clock.steps[1:], "prompts": rows, "legal": statistics.mean(self.seen_items)}


class Words:
    """Renders a state as its profile: prompts of the benchmark are plain text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def token_ids_many(self, states: Sequence[Any]) -> list[list[int]]:
        """Token ids of each state."""
        ids: list[list[int]] = self.tokenizer([state.profile for state in states])["input_ids"]
        return ids


def word_tokenizer(vocabulary: int) -> Any:
    """One word a token: "w17" is 17. Token 0 ends and pads, and occurs in no prompt."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({f"w{token}": token for token in range(vocabulary)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="w0", pad_token="w0", padding_side="left")


def stock_arguments(options: argparse.Namespace, steps: int, folder: Path, length: int = LENGTH) -> Any:
    """TRL's settings, fair to both: no autocast, no checkpointing, `length` tokens, the order of the data set."""
    import trl

    whole = options.prompts * options.draws
    rows = max(rows for rows in range(1, min(options.rows, whole) + 1) if whole % rows == 0)
    return trl.GRPOConfig(
        output_dir=str(folder / "stock"),
        max_steps=steps,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=whole // rows,
        num_generations=options.draws,
        max_completion_length=length,
        generation_kwargs={"min_new_tokens": length},
        beta=BETA,
        learning_rate=RATE,
        shuffle_dataset=False,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def step_ends(clock: Clock) -> Any:
    """A callback that cuts steps, and charges the optimiser to the update."""
    from transformers import TrainerCallback

    class StepEnds(TrainerCallback):  # type: ignore[misc]  # untyped base
        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            clock.enter(UPDATE)

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            clock.leave()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.cut()

    return StepEnds()


@contextmanager
def timed_drawing(clock: Clock) -> Iterator[None]:
    """Times llmrec's drawing wherever its trainers have imported it."""
    import llmrec.training.on_policy  # noqa: F401  # loads the trainers
    from llmrec.policy.decoding import sample_items

    modules = [module for name, module in sys.modules.items() if name.startswith("llmrec.training")]
    users = [module for module in modules if getattr(module, "sample_items", None) is sample_items]
    for module in users:
        setattr(module, "sample_items", clock.timed(ROLLOUT, sample_items))  # noqa: B010
    try:
        yield
    finally:
        for module in users:
            setattr(module, "sample_items", sample_items)  # noqa: B010
