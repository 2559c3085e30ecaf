"""The training scripts: a configuration in, stages done, under one process or many.

    python train/ppo.py --config train/recipes/movielens.yaml --source FOLDER --out runs/ml
    torchrun --nproc-per-node 2 train/ppo.py ...       accelerate launch train/ppo.py ...
    accelerate launch -m llmrec.train.ppo ...          (from an installed wheel)

Stages that are already finished under the same configuration are not made again.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmrec.config import Algorithm, RunConfig
from llmrec.printing import command as shell_command

Stage = Literal["sft", "simulator"]


def run_until(stage: Stage) -> None:
    """Parses the command line and runs the main job up to and including `stage`."""
    asked = _parsed(stage)
    _run(stage, asked)


def run_algorithm(algorithm: Algorithm) -> None:
    """Parses the command line and runs the main job with `algorithm` to its end: the run folder."""
    _run_all(_parsed(algorithm, algorithm))


@dataclass(frozen=True, slots=True)
class Asked:
    """The configuration, the run folder, the command as it was given, and whether --force was."""

    config: RunConfig
    out: Path
    command: str
    force: bool


def _parsed(name: str, algorithm: Algorithm | None = None) -> Asked:
    parser = argparse.ArgumentParser(prog=f"llmrec.train.{name}", description=f"llmrec: train, {name}.")
    parser.add_argument("--config", type=Path, help="YAML configuration (default: the data set's shipped recipe)")
    parser.add_argument("--out", type=Path, required=True, help="run folder; stages are kept in OUT.work beside it")
    parser.add_argument("--dataset", help="sets data.dataset")
    parser.add_argument("--source", type=Path, help="sets data.source")
    parser.add_argument("--model", help="sets model.name: a Hub id, a folder, or nano")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--trust-code", action="store_true", help="let the configuration file name code to run (reward.custom)"
    )
    parser.add_argument("--force", action="store_true", help="replace the run of another configuration")
    options = parser.parse_args()
    from llmrec.pipeline.recipes import overrides_of, with_defaults

    named = {"data.dataset": options.dataset, "data.source": options.source, "model.name": options.model}
    named["algorithm"] = algorithm
    config = with_defaults(options.config, overrides_of(named, options.overrides), trust_code=options.trust_code)
    return Asked(config, options.out, shell_command([f"train/{name}.py", *sys.argv[1:]]), options.force)


def _run(stage: Stage, asked: Asked) -> None:
    from llmrec.pipeline.base_model import base_model
    from llmrec.pipeline.check_run import check_run
    from llmrec.pipeline.data import open_data
    from llmrec.pipeline.place import run_place
    from llmrec.pipeline.run import check_config
    from llmrec.pipeline.sft import sft_stage
    from llmrec.pipeline.simulation import simulator_stage

    config = asked.config
    check_config(config)
    with run_place(asked.out, config, force=asked.force) as (_, work):
        data = open_data(config, work)
        check_run(config, data)
        if stage == "sft":
            sft_stage(config, data, base_model(config, data, work), work)
        else:
            simulator_stage(config, data, work)


def _run_all(asked: Asked) -> None:
    from llmrec.pipeline.run import run_job

    run_job(asked.config, asked.out, asked.command, force=asked.force)
