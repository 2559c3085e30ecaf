"""What fits on a GPU of 24, 48, 80 or 141 GB: memory of one PPO step by a formula, checked against measured peaks.

    python eval/memory_table.py                    # the table, for Qwen3's shapes in bfloat16
    python eval/memory_table.py --check            # computed against measured, float32 on this CPU (Linux)

The table is computed, not measured on a GPU. Counted, for each process: weights, the frozen copy that full training
compares with, gradients and AdamW's moments of what is trained, the critic, activations of one minibatch's packed
rows (every layer's, or its inputs and one layer's where activations are computed anew), keys and values of the
rollout, hidden states and scores that a rollout keeps; and half as much again, for fragments, buffers and what the
formula leaves out (measured peaks were 0.96 to 1.44 times the formula). A minibatch is split no further, so its
prompts are what is varied: the largest power of two of them that fits is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

GIB, GB = 2**30, 10**9
CARDS = (24, 48, 80, 141)
MARGIN = 1.5
RANK = 16


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder of Qwen3's kind."""

    name: str
    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    key_values: int
    head: int
    tied: bool = True

    @property
    def linears(self) -> list[tuple[int, int]]:
        """Inputs and outputs of a layer's seven linear maps."""
        asked, kept = self.heads * self.head, self.key_values * self.head
        wide = [(self.hidden, self.inner)] * 2 + [(self.inner, self.hidden)]
        return [(self.hidden, asked), *[(self.hidden, kept)] * 2, (asked, self.hidden), *wide]

    @property
    def linear_parameters(self) -> int:
        """Parameters of all layers' linear maps."""
        return self.layers * sum(a * b for a, b in self.linears)

    @property
    def embedding_parameters(self) -> int:
        """Parameters of embedding and head."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def adapter_parameters(self) -> int:
        """Parameters of LoRA on all linear maps."""
        return self.layers * RANK * sum(a + b for a, b in self.linears)


SHAPES = (
    Shape("Qwen3-0.6B", 151_936, 1024, 3072, 28, 16, 8, 128),
    Shape("Qwen3-1.7B", 151_936, 2048, 6144, 28, 16, 8, 128),
    Shape("Qwen3-4B", 151_936, 2560, 9728, 36, 32, 8, 128),
    Shape("Qwen3-8B", 151_936, 4096, 12_288, 36, 32, 8, 128, tied=False),
    Shape("Qwen3-14B", 151_936, 5120, 17_408, 40, 40, 8, 128, tied=False),
    Shape("Qwen3-32B", 151_936, 5120, 25_600, 64, 64, 8, 128, tied=False),
)
SMALL = Shape("small", 32_000, 256, 1024, 6, 4, 2, 64)
MIDDLE = Shape("middle", 32_000, 512, 2048, 8, 8, 4, 64)


@dataclass(frozen=True)
class Work:
    """One rollout of a process: minibatches of `prompts` prompts, G draws of L tokens each; `bytes` of a number."""

    prompts: int
    minibatches: int = 2
    tokens: int = 512
    draws: int = 8
    length: int = 6
    lora: bool = True
    anew: bool = False
    bytes: int = 2

    @property
    def row(self) -> int:
        """Tokens of a packed row: the prompt, and every draw's tokens but the last (few prefixes are shared)."""
        return self.tokens + self.draws * (self.length - 1)


def weights(shape: Shape, work: Work) -> float:
    """Weights, and the frozen copy where all of them are trained; small norms left out."""
    copies = 1 if work.lora else 2
    return copies * work.bytes * (shape.linear_parameters + shape.embedding_parameters)


def trained(shape: Shape, work: Work) -> float:
    """Adapters (float32) with gradients and two moments, or weights with theirs and copies in 32 bits; the critic."""
    critic = 16 * shape.hidden * (shape.hidden + 3)
    if work.lora:
        return critic + 16 * shape.adapter_parameters
    moments, copy = 8, 4 if work.bytes < 4 else 0
    return critic + (work.bytes + moments + copy) * (shape.linear_parameters + shape.embedding_parameters)


def layer_activations(shape: Shape, work: Work) -> float:
    """Bytes a token that one layer keeps for the backward pass.

    Two RMS norms and the norms of queries and keys compute in float32 and keep input and normalised input; then
    queries, keys and values before and after rotation, the attention's output, gate, up, their activation and
    product. LoRA keeps its input in float32 too where the model computes in less, and rank numbers a map.
    """
    asked, kept = shape.heads * shape.head, shape.key_values * shape.head
    norms = 2 * 2 * shape.hidden * 4 + 2 * (asked + kept) * 4
    plain = work.bytes * (4 * shape.hidden + 3 * asked + 4 * kept + 4 * shape.inner)
    if not work.lora:
        return norms + plain
    casts = 4 * (5 * shape.hidden + asked + shape.inner) if work.bytes < 4 else 0
    return norms + plain + casts + 4 * RANK * len(shape.linears)


def activations(shape: Shape, work: Work) -> float:
    """What a minibatch keeps for its backward pass."""
    tokens, one = work.prompts * work.row, layer_activations(shape, work)
    if not work.anew:
        return tokens * shape.layers * one
    return tokens * (shape.layers * shape.hidden * work.bytes + one)


def rollout(shape: Shape, work: Work) -> float:
    """What drawing needs at once: keys and values of all prompts and draws, and one layer's passing activations."""
    tokens = work.prompts * work.minibatches * work.row
    kept = 2 * shape.layers * shape.key_values * shape.head * work.bytes
    return tokens * (kept + work.bytes * (3 * shape.inner + 4 * shape.hidden))


def kept(shape: Shape, work: Work) -> float:
    """Hidden states of the reference (the critic reads them) and some scores of every token that is drawn."""
    drawn = work.prompts * work.minibatches * work.draws * work.length
    return drawn * (2 * shape.hidden * work.bytes + 64)


def needed(shape: Shape, work: Work) -> float:
    """Bytes of one process at its highest."""
    highest = max(rollout(shape, work), activations(shape, work))
    return MARGIN * (weights(shape, work) + trained(shape, work) + kept(shape, work) + highest)


def most_prompts(shape: Shape, work: Work, card: float) -> int:
    """The largest power of two of prompts a minibatch that fits; 0 if not even one does."""
    fits = [n for n in (2**power for power in range(9)) if needed(shape, replace(work, prompts=n)) <= card]
    return max(fits, default=0)


def table() -> str:
    """Markdown: what a step with one prompt a minibatch needs, and how many prompts fit on each card."""
    kinds = {
        "LoRA": Work(1),
        "LoRA, activations anew": Work(1, anew=True),
        "all weights, activations anew": Work(1, lora=False, anew=True),
    }
    lines = [
        "| model | trained | least, GB |" + "".join(f" {card} GB |" for card in CARDS),
        "|---|---|" + "---:|" * 5,
    ]
    for shape in SHAPES:
        for name, work in kinds.items():
            cells = [most_prompts(shape, work, card * GB) for card in CARDS]
            shown = "".join(f" {cell if cell < 256 else '256+'} |" if cell else " – |" for cell in cells)
            lines.append(f"| {shape.name} | {name} | {needed(shape, work) / GB:.1f} |{shown}")
    return "\n".join(lines)


# The check.


def measured(shape: Shape, work: Work) -> int:
    """Bytes that this process grew by at its highest in two PPO steps, the model's loading among them."""
    import speed

    tiny = Shape("tiny", 2048, 32, 64, 2, 2, 2, 16)
    two_steps(tiny, replace(work, prompts=2))  # what libraries take the first time is none of the model's
    return speed.extra_memory(lambda: two_steps(shape, work))


def two_steps(shape: Shape, work: Work) -> None:
    """Trains a random model of this shape by PPO."""
    import speed
    from rl_step_sides import Trainers

    from llmrec.training.arguments import quiet

    sizes = (shape.vocabulary, shape.hidden, shape.inner, shape.layers, shape.heads, shape.key_values)
    speed.SHAPES[shape.name] = speed.qwen3(*sizes, head=shape.head)
    options = argparse.Namespace(
        shape=shape.name,
        items=10_000,
        prompts=work.prompts,
        draws=work.draws,
        prompt=work.tokens,
        lora=work.lora,
        threads=1,
    )
    with tempfile.TemporaryDirectory() as folder, quiet():
        Trainers(options, Path(folder)).trainer("ppo", 2).train()


def check() -> None:
    """Prints computed against measured for two shapes, LoRA and all weights, each in a process of its own."""
    import speed

    print(
        "| shape | trained | computed, GiB | measured, GiB | measured / computed |\n|---|---|---:|---:|---:|",
        flush=True,
    )
    for shape in (SMALL, MIDDLE):
        for lora in (True, False):
            work = Work(16, 1, 200, 8, 4, lora=lora, bytes=4)
            got = speed.in_fresh_process([__file__, "--measure", shape.name, "lora" if lora else "full"])
            told = needed(shape, work) / MARGIN
            kind = "LoRA" if lora else "all weights"
            print(f"| {shape.name} | {kind} | {told / GIB:.2f} | {got / GIB:.2f} | {got / told:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with measured peaks on this CPU")
    parser.add_argument("--measure", nargs=2, metavar=("SHAPE", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        shape = {"small": SMALL, "middle": MIDDLE}[options.measure[0]]
        work = Work(16, 1, 200, 8, 4, lora=options.measure[1] == "lora", bytes=4)
        print(json.dumps(measured(shape, work)))
    elif options.check:
        check()
    else:
        print(table())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
