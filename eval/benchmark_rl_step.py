"""Whole training steps (rollout, scoring, reward, update) per second: llmrec against stock `trl.GRPOTrainer`.

    python eval/benchmark_rl_step.py --draws 8 --lora
    python eval/benchmark_rl_step.py --draws 16 --sides grpo trl --json FILE

Every side runs `trainer.train()` from the same weights on the same prompts, G draws each, with the same reward (a
number fixed by the four tokens of an item), the same LoRA or all weights, AdamW, one update a rollout, a reference
that is scored for the KL, and a log entry a step. A step is the process's CPU time from the end of one step to the
end of the next; the first of each training is left out.
  ppo          llmrec's PPO: constrained draws, GAE with a critic, exact KL
  grpo         llmrec's GRPO: TRL's own loss on the same draws and scores
  trl          `trl.GRPOTrainer` as it comes: `generate` with its cache over B * G rows, four tokens, no constraint
  constrained  the same with `prefix_allowed_tokens_fn` of the catalogue; the scores stay those of the full softmax
What differs: `trl` draws from the whole vocabulary, so its items are no items; both opponents score the full softmax.
llmrec draws and scores under the legal tokens alone and computes nothing below a prefix that leads to one item.
The opponents accumulate gradients over micro-batches of --rows rows, 8 as TRL does unless told otherwise (their draws
are for the whole batch); fewer suit them better here. --keep-memory stops glibc's allocator from handing large blocks
back to the system, which spares them, and us a little, the page faults of every block: nobody runs a trainer so, but
it is the opponents' best case. Random weights; identifiers of four tokens; one thread; Linux.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl_step_sides import OURS, PARTS, SIDES, STOCK, Trainers

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["CUDA_VISIBLE_DEVICES"] = ""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    import speed

    parser = speed.parser(__doc__, updates=True)
    parser.add_argument("--rows", type=int, default=8, help="rows of an opponent's micro-batch (8: TRL's default)")
    parser.add_argument("--keep-memory", action="store_true", help="the allocator keeps freed memory; see above")
    parser.add_argument("--rounds", type=int, default=3, help="each runs all sides, in turning order")
    parser.add_argument("--steps", type=int, default=1, help="measured steps of an opponent in each round")
    parser.add_argument("--our-steps", type=int, default=5, help="measured steps of llmrec in each round")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    return parser.parse_args(arguments)


def measure(bench: Trainers) -> dict[str, dict[str, Any]]:
    """Figures of every side: seconds a step and by part (medians), and what is checked."""
    options = bench.options
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    for turn in range(options.rounds):
        place = turn % len(options.sides)
        for side in (*options.sides[place:], *options.sides[:place]):
            runs[side].append(bench.run(side, options.our_steps if side in OURS else options.steps))
    figures: dict[str, dict[str, Any]] = {}
    for side, rounds in runs.items():
        figures[side] = {
            "seconds": [statistics.median(sum(step.values()) for step in run["steps"]) for run in rounds],
            "parts": {p: statistics.median(step[p] for run in rounds for step in run["steps"]) for p in PARTS},
            "draws that are items": statistics.mean(run["legal"] for run in rounds),
            "same prompts": all(same(run["prompts"], runs[options.sides[0]][0]["prompts"]) for run in rounds),
        }
    for side in options.sides:
        ours = [name for name in OURS if name in options.sides and side in STOCK]
        for name in ours:
            figures[side][f"times as long as {name}"] = ratios(figures[side]["seconds"], figures[name]["seconds"])
    return figures


def same(prompts: list[list[str]], others: list[list[str]]) -> bool:
    """Whether two trainings read the same prompts in the steps that both have."""
    common = min(len(prompts), len(others))
    return prompts[:common] == others[:common]


def ratios(slow: Sequence[float], fast: Sequence[float]) -> dict[str, Any]:
    """Median and range over the rounds."""
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(each), "rounds": each}


def show(figures: dict[str, dict[str, Any]]) -> Any:
    """One column a side: seconds of a step and of its parts, with the share of each."""
    from rich.table import Table

    table = Table("CPU seconds")
    for side in figures:
        table.add_column(side, justify="right")
    rows = figures.values()
    wholes = [sum(row["parts"].values()) for row in rows]
    medians = [statistics.median(row["seconds"]) for row in rows]
    for part in PARTS:
        shares = zip(rows, wholes, strict=True)
        table.add_row(
            part, *(f"{row['parts'][part]:.3f} ({row['parts'][part] / whole:.0%})" for row, whole in shares)
        )
    table.add_row("step", *(f"{seconds:.3f}" for seconds in medians))
    table.add_row("steps a second", *(f"{1 / seconds:.3f}" for seconds in medians))
    for name in OURS:
        against = [row.get(f"times as long as {name}") for row in rows]
        if any(against):
            cells = (
                f"{a['median']:.1f} ({min(a['rounds']):.1f}–{max(a['rounds']):.1f})" if a else "" for a in against
            )
            table.add_row(f"× {name}", *cells)
    table.add_row("items drawn", *(f"{row['draws that are items']:.0%}" for row in rows))
    return table


def keep_memory() -> None:
    """Starts this script anew under an allocator that keeps what it was given."""
    settings = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967295"
    if os.environ.get("GLIBC_TUNABLES") != settings:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"GLIBC_TUNABLES": settings})


def main() -> None:
    options = parse()
    if options.keep_memory:
        keep_memory()
    import speed

    from llmrec.screen import results

    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Trainers(options, Path(folder)))
    how = "LoRA" if options.lora else "all weights"
    results().print(
        f"{options.shape}, {options.items} items, B = {options.prompts}, G = {options.draws}, prompt of "
        f"{options.prompt}, {how}; {options.rounds} rounds, CPU seconds, {options.threads} thread(s)"
    )
    results().print(show(figures))
    results().print(f"The sides read the same prompts: {all(row['same prompts'] for row in figures.values())}.")
    speed.keep(options, figures)


if __name__ == "__main__":
    main()
