"""A finished run that goes on with new events: its policy is the start, and the gate decides on what came of them.

The new run is a run like any other (same stages, checks, report, resuming) whose warm start is the old policy as it
is. What is tried on top is more of the warm start's lessons, drawn from the new training period, or any algorithm. A
checkpoint is handed on only where the gate promotes it; else the new run holds the old policy, and says so.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from llmrec.bounded import read_parquet
from llmrec.config import RunConfig
from llmrec.config_tree import Overrides, flat
from llmrec.conversion import whole_weights
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError, RunError
from llmrec.export import CONVERTED, read_bundle, read_facts
from llmrec.files import read_json, write_json
from llmrec.finding import default_data, run_folder
from llmrec.pipeline.base_model import LINEAGE
from llmrec.pipeline.controls import Cost, continued
from llmrec.pipeline.place import check_out
from llmrec.pipeline.result import RunResult
from llmrec.pipeline.run import run_job
from llmrec.pipeline.work import Work, is_first
from llmrec.policy.loading import save_causal_lm
from llmrec.storage import resolve, shown, storage_errors, work_folder
from llmrec.training.sft import SMALL
from llmrec.written import forgotten_of, intact, run_hash

CONTINUED = "continued_sft"
SHARE = 0.25
"""Of the warm start's epochs that are learnt once more, by default."""
START = "start"


def update_run(
    run: str,
    data: Path,
    out: Path,
    *,
    algorithm: str = CONTINUED,
    overrides: Overrides | None = None,
    command: str = "llmrec update",
    revision: str | None = None,
    force: bool = False,
) -> RunResult | None:
    """Trains on from a finished run on a data set that goes on from its own, and writes the new run folder `out`.

    Args:
        run: a run folder or a Hub id, which stays as it is.
        data: the data set's folder: the whole log up to now, the events of the run among them.
        out: the new run folder.
        algorithm: what is tried: `continued_sft`, or one that learns from the new simulators (`ppo`, ...).
        overrides: configuration keys on top of the run's own.
        command: the command line, for card and report.
        revision: branch, tag or commit of a Hub repository.
        force: replace a run of another configuration in `out`.

    Returns:
        What the new run has found; None on other processes than the first.

    Raises:
        RunError: no run, one whose weights were rounded or whose items have tokens of their own, or `out` lies in it.
        DataError: data of another domain, or that judge by events which the run may have been trained on.
        LLMRecError: as `run_job` does.
    """
    folder = run_folder(run, revision=revision)
    facts = read_facts(folder)
    before = RunConfig.read(folder / "config.yaml")
    place = resolve(out)
    _check(folder, facts, before, place)
    _check_data(folder, facts, before, data)
    start = _start(folder, facts, place, force=force)
    given: dict[str, Any] = {
        "data.dataset": "folder",
        "data.source": str(resolve(data)),
        "model.name": str(start),
        "model.revision": None,
        "sft.skip": True,
        "evaluation.before_sft": 0,
        "evaluation.controls": [],
        "algorithm": algorithm,
    }
    if algorithm == CONTINUED:
        old, new = flat(before.tree()), flat(continued(before, Cost(SHARE, _by_adapter(before, start))).tree())
        given |= {key: value for key, value in new.items() if key not in given and old.get(key) != value}
    config = RunConfig.read(folder / "config.yaml", {**given, **(overrides or {})})
    return run_job(config, out, command, force=force)


def _check(folder: Path, facts: dict[str, Any], config: RunConfig, out: Path) -> None:
    if facts["weights"] in CONVERTED:
        raise RunError(
            f"{shown(folder)} was exported as {facts['weights']}; give the run that it was made from, whose weights "
            "can be trained."
        )
    if config.identifiers.scheme != "title":
        raise RunError(
            f"{shown(folder)} writes items by identifiers.scheme: {config.identifiers.scheme}, whose tokens are of "
            "the items that it was trained on; train anew with --model and the new data."
        )
    if forgotten := forgotten_of(folder):
        raise RunError(
            f"{shown(folder)} was trained on {forgotten} users who were forgotten since; train anew on what is left."
        )
    if out == resolve(folder) or out.is_relative_to(resolve(folder)):
        raise RunError(f"{shown(out)} is the run, or lies in it; name a new folder, as the run stays as it is.")
    if is_first():
        check_out(out)


def _check_data(folder: Path, facts: dict[str, Any], config: RunConfig, data: Path) -> None:
    """Refuses data that are not of the run's kind, or that judge by events which the run has learnt."""
    dataset = Dataset.load(data)
    manifest = dataset.manifest
    if manifest.domain != facts["domain"]:
        raise DataError(
            f"{shown(data)} is of the domain {manifest.domain!r}, and the run was worded for "
            f"{facts['domain']!r}; give data that go on from the run's own."
        )
    with intact(folder / "items.parquet"):
        known = read_parquet(folder / "items.parquet")["item_id"]
    if not set(known) & set(dataset.items["item_id"]):
        raise DataError(f"{shown(data)} has none of the run's items; give data that go on from the run's own.")
    old = default_data(folder)
    if old is None or config.data.split != "time":
        return
    fractions = (config.data.valid_fraction, config.data.test_fraction)
    learnt_E = make_split(Dataset.load(old), "time", *fractions).train["time"].to_numpy()
    judged_E = make_split(dataset, "time", *fractions).valid["time"].to_numpy()
    if not len(learnt_E) or not len(judged_E):
        return
    learnt, judged = int(learnt_E.max()), int(judged_E.min())
    if judged <= learnt:
        raise DataError(
            f"The events that {shown(data)} would judge by begin at {judged} seconds, and the run was trained on "
            f"events up to {learnt}; give the whole log, with the events of the run and those since."
        )


def _start(folder: Path, facts: dict[str, Any], out: Path, *, force: bool) -> Path:
    """The run's policy as a model of its own, in the working folder of `out`, with where it is from."""
    lineage = {
        "run": folder.name,
        "hash": run_hash(folder),
        "dataset": facts["dataset"],
        "before": facts.get("lineage"),
    }

    def build(place: Path, _: Path) -> None:
        bundle = read_bundle(folder)
        model = whole_weights(bundle)
        save_causal_lm(model, bundle.policy.tokenizer, place)
        count = sum(weight.numel() for weight in model.parameters())
        write_json(place / LINEAGE, {**lineage, "parameters": count})

    work = Work(work_folder(out), remake=force)
    with storage_errors(out), work.alone() if is_first() else contextlib.nullcontext():
        return work.stage(START, lineage, build)


def _by_adapter(config: RunConfig, start: Path) -> bool:
    """Whether a warm start by these settings trains an adapter, as `training.sft.uses_lora` has it."""
    large = int(read_json(start / LINEAGE)["parameters"]) > SMALL
    return config.sft.weights == "lora" or (config.sft.weights == "auto" and large)
