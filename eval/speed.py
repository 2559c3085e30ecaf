"""What the benchmarks have in common: random models of real shapes, made-up catalogues, fair clocks.

Sides are run in turn in one process, so that what the machine does meanwhile falls on all of them alike. On a CPU
the clock is the process's CPU time (one thread unless told otherwise), on a GPU it is synchronised wall time.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from llmrec.catalogue import PrefixIndex
from llmrec.evaluation.facts import machine_facts, package_versions
from llmrec.files import write_json
from llmrec.screen import results
from llmrec.seeding import numpy_stream, stream_seed

CODES = 256
Shape = tuple[type, type, dict[str, Any]]
"""Classes of configuration and model, and the sizes."""


def qwen2(vocabulary: int, hidden: int, inner: int, layers: int, heads: int, key_values: int, **more: int) -> Shape:
    """A shape of Qwen2's kind."""
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_values,
    }
    return Qwen2Config, Qwen2ForCausalLM, sizes | more


def qwen3(*sizes: int, head: int) -> Shape:
    """The same of Qwen3's, whose heads have a size of their own."""
    return Qwen3Config, Qwen3ForCausalLM, qwen2(*sizes, head_dim=head)[2]


SHAPES = {
    "small": qwen3(32_000, 256, 1024, 6, 4, 2, head=64),
    "qwen2.5-0.5b": qwen2(151_936, 896, 4864, 24, 14, 2),
    "qwen3-0.6b": qwen3(151_936, 1024, 3072, 28, 16, 8, head=128),
    "qwen3-1.7b": qwen3(151_936, 2048, 6144, 28, 16, 8, head=128),
}


def parser(text: str | None, *, updates: bool = False) -> argparse.ArgumentParser:
    """The options of a benchmark of random models: of users to rank for, or of prompts to learn from."""
    found = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--shape", default="small", help="small, qwen2.5-0.5b, qwen3-0.6b or qwen3-1.7b")
    found.add_argument("--items", type=int, default=100_000)
    found.add_argument("--prompt", type=int, default=200, help="tokens of a prompt")
    found.add_argument("--threads", type=int, default=1)
    found.add_argument("--json", type=Path, help="write the figures here")
    if updates:
        found.add_argument("--prompts", type=int, default=4, help="B")
        found.add_argument("--draws", type=int, default=8, help="G, items of each prompt")
        found.add_argument("--lora", action="store_true", help="adapters of rank 16 on all linear layers; else all")
    else:
        found.add_argument("--users", type=int, default=8)
    return found


def add_sides(found: argparse.ArgumentParser, sides: Sequence[str], dtypes: Sequence[str]) -> None:
    """Options of a benchmark that runs its sides in turn and may measure each side's memory by itself."""
    found.add_argument("--repeats", type=int, default=5)
    found.add_argument("--dtype", choices=dtypes, default="float32")
    found.add_argument("--device", default="cpu")
    found.add_argument("--sides", nargs="+", choices=sides, default=sides)
    found.add_argument("--memory", action="store_true", help="also measure each side's memory in a fresh process")
    found.add_argument("--only-memory-of", choices=sides, help=argparse.SUPPRESS)


class Material:
    """What sides share: a random model, the items' tokens, their index, and prompts."""

    def __init__(self, options: argparse.Namespace, prompts: int) -> None:
        torch.set_num_threads(options.threads)
        self.options, self.device = options, options.device
        self.model = make_model(options.shape, dtype=getattr(torch, options.dtype), device=options.device)
        self.vocabulary = self.model.config.vocab_size
        self.tokens_NL = four_codes(options.items, self.vocabulary)
        self.index = index_of(self.tokens_NL, options.device)
        self.ids, self.mask = make_prompts(prompts, options.prompt, self.vocabulary, device=options.device)


def make_model(shape: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> Any:
    """A random model of a real model's shape, in evaluation mode.

    Random weights give nearly flat logits; the tied embedding is scaled so that items are told apart.
    """
    config_class, model_class, sizes = SHAPES[shape]
    config = config_class(
        **sizes,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(stream_seed(seed, "benchmark", "model"))
    with torch.device(device):
        model = model_class(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(3.0)
    return model.to(dtype).eval()


def four_codes(items: int, vocabulary: int, *, seed: int = 0) -> np.ndarray:
    """Distinct four-code identifiers, popular codes more often: (N, 4) token ids at the end of the vocabulary."""
    random = numpy_stream(seed, "benchmark", "catalogue")
    weight = 1.0 / (np.arange(CODES) + 8.0) ** 0.7
    keys = np.empty(0, dtype=np.int64)
    while len(keys) < items:
        drawn = random.choice(CODES, size=(2 * (items - len(keys)) + 64, 4), p=weight / weight.sum())
        for level in range(1, 4):  # siblings favour different codes
            drawn[:, level] = (drawn[:, level] + 89 * drawn[:, level - 1]) % CODES
        keys = np.unique(np.concatenate([keys, drawn @ CODES ** np.arange(3, -1, -1)]))
    keys = np.sort(random.permutation(keys)[:items])
    codes = keys[:, None] // CODES ** np.arange(3, -1, -1) % CODES
    return codes + vocabulary - 4 * CODES + CODES * np.arange(4)


def index_of(tokens_NL: np.ndarray, device: str = "cpu") -> PrefixIndex:
    """The prefix index of items of one length."""
    return PrefixIndex.from_tokens(tokens_NL, np.full(len(tokens_NL), tokens_NL.shape[1])).to(device)


def legal_tokens(tokens_NL: np.ndarray) -> dict[tuple[int, ...], list[int]]:
    """The legal next tokens of every prefix."""
    children: dict[tuple[int, ...], set[int]] = {}
    for row in tokens_NL.tolist():
        for length in range(len(row)):
            children.setdefault(tuple(row[:length]), set()).add(row[length])
    return {prefix: sorted(legal) for prefix, legal in children.items()}


def make_prompts(
    users: int, tokens: int, vocabulary: int, *, device: str = "cpu", seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random prompts of one length that hold no identifier: ids and mask, (B, P)."""
    random = numpy_stream(seed, "benchmark", "prompts")
    ids = torch.from_numpy(random.integers(1, vocabulary - 4 * CODES, size=(users, tokens)))
    return ids.to(device), torch.ones_like(ids).to(device)


def clock(device: str) -> float:
    """CPU seconds of this process, or wall seconds once the GPU has caught up."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def in_turn(
    sides: dict[str, Callable[[], Any]], repeats: int, *, device: str = "cpu", warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each side in each round; every round runs all sides, the order turns.

    A side that returns a float has timed itself: what it does before and after is left out.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(-warm_up, repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            gc.collect()
            start = clock(device)
            own = sides[name]()
            if turn >= 0:
                seconds[name].append(own if isinstance(own, float) else clock(device) - start)
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """The median over rounds of how many times longer `slow` took."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def extra_memory(run: Callable[[], Any]) -> int:
    """Bytes that the process grew by at its highest while `run` ran (Linux)."""
    gc.collect()
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")
    run()
    high = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(high.split()[1]) * 1024 - before


def in_fresh_process(arguments: Sequence[str]) -> Any:
    """The JSON that this script prints last when it is called anew with `arguments`."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def memory_of(side: str) -> int:
    """Bytes of one side in a fresh process: this script with --only-memory-of in place of --memory."""
    kept = [argument for argument in sys.argv[1:] if argument != "--memory"]
    return int(in_fresh_process([sys.argv[0], *kept, "--only-memory-of", side])["bytes"])


def keep(options: argparse.Namespace, sides: Any) -> None:
    """Prints machine and packages, and writes the figures with them and the settings to --json."""
    facts = {"machine": machine_facts(), "packages": package_versions()}
    results().print("; ".join(f"{name} {value}" for part in facts.values() for name, value in part.items()))
    if options.json:
        settings = {
            k: v for k, v in vars(options).items() if k not in ("json", "markdown", "only_memory_of", "memory")
        }
        write_json(options.json, {"settings": settings, **facts, "sides": sides})
