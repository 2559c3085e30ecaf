"""The training scripts: a configuration in, stages done, under one process or many.

    python train/ppo.py --config train/recipes/movielens.yaml --source FOLDER --out runs/ml
    torchrun --nproc-per-node 2 train/ppo.py ...       accelerate launch train/ppo.py ...
    accelerate launch -m llmrec.train.ppo ...          (from an installed wheel)

Stages that are already finished under the same configuration are not made again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Literal

from llmrec.config import Algorithm, RunConfig
from llmrec.printing import command as shell_command

Stage = Literal["sft", "simulator"]


def run_until(stage: Stage) -> None:
    """Parses the command line and runs the main job up to and including `stage`."""
    config, out, _ = _parsed(stage)
    _run(stage, config, out)


def run_algorithm(algorithm: Algorithm) -> None:
    """Parses the command line and runs the main job with `algorithm` to its end: the run folder."""
    config, out, command = _parsed(algorithm, algorithm)
    _run_all(config, out, command)


def _parsed(name: str, algorithm: Algorithm | None = None) -> tuple[RunConfig, Path, str]:
    """The configuration, the run folder and the command as it was given."""
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
    options = parser.parse_args()
    from llmrec.pipeline.recipes import overrides_of, with_defaults

    named = {"data.dataset": options.dataset, "data.source": options.source, "model.name": options.model}
    named["algorithm"] = algorithm
    config = with_defaults(options.config, overrides_of(named, options.overrides), trust_code=options.trust_code)
    return config, options.out, shell_command([f"train/{name}.py", *sys.argv[1:]])


def _run(stage: Stage, config: RunConfig, out: Path) -> None:
    from llmrec.pipeline.base_model import base_model
    from llmrec.pipeline.data import open_data
    from llmrec.pipeline.policies import sft_stage
    from llmrec.pipeline.run import check_config, check_out, work_folder
    from llmrec.pipeline.simulation import simulator_stage
    from llmrec.pipeline.work import Work

    check_out(out)
    check_config(config)
    work = Work(work_folder(out))
    data = open_data(config, work)
    if stage == "sft":
        sft_stage(config, data, base_model(config, data, work), work)
    else:
        simulator_stage(config, data, work)


def _run_all(config: RunConfig, out: Path, command: str) -> None:
    from llmrec.pipeline.run import check_config, check_out, conclude, train_stages, work_folder
    from llmrec.pipeline.work import Work, is_first

    check_out(out)
    check_config(config)
    work = Work(work_folder(out))
    stages = train_stages(config, work)
    if is_first():
        conclude(config, stages, work, out, command)
