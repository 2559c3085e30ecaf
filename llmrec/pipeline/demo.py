"""`llmrec demo`: the main job on a generated world, small enough for two cores and a few minutes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from llmrec.config import RunConfig
from llmrec.pipeline.recipes import recipes_root
from llmrec.pipeline.run import Finished, run_job


def demo_config(seed: int = 0, overrides: Sequence[str] = ()) -> RunConfig:
    """The demo's configuration: train/recipes/demo.yaml."""
    return RunConfig.read(recipes_root() / "demo.yaml", [f"seed={seed}", *overrides])


def run_demo(out: Path, seed: int, overrides: Sequence[str]) -> Finished:
    """Runs the demo and prints its table, honest if the gain is absent."""
    start = time.monotonic()
    finished = run_job(demo_config(seed, overrides), out, command=_command(out, seed, overrides))
    print_result(finished)
    Console(highlight=False).print(f"Done in {(time.monotonic() - start) / 60:.1f} minutes.")
    return finished


def print_result(finished: Finished) -> None:
    """The summary table and the verdict, on standard output."""
    console = Console(highlight=False)
    console.print(finished.tables.summary.to_rich())
    console.print(finished.verdict.sentence)
    console.print(finished.ppo.verdict)


def _command(out: Path, seed: int, overrides: Sequence[str]) -> str:
    return " ".join(["llmrec demo", f"--out {out}", f"--seed {seed}", *(f"--set {o}" for o in overrides)])
