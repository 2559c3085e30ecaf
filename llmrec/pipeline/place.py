"""The folders of a run: `OUT`, which is handed on, and `OUT.work` beside it, where one process works at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmrec.config import RunConfig
from llmrec.config_tree import flat
from llmrec.dataset.store import Dataset
from llmrec.errors import LLMRecError, RunError
from llmrec.export import CARD
from llmrec.files import check_replaceable, check_writable, matching, read_json, reserved
from llmrec.pipeline.work import Work, is_first
from llmrec.storage import resolve, shown, storage_errors, work_folder
from llmrec.written import RUN_FILES, written

OURS = written(matching(*RUN_FILES))
_UNDECIDING = ("report_to",)
_NAMED = 3


@contextmanager
def run_place(out: Path, config: RunConfig, *, force: bool = False) -> Iterator[tuple[Path, Work]]:
    """Opens the folders of a run for this process alone: the resolved `out`, and its stages.

    Debris of a kill is put right. Under several processes (torchrun, accelerate launch) the first one checks and
    locks.

    Args:
        out: the run folder.
        config: what decides the run.
        force: replace the run of another configuration, and stages made from other settings. Files that llmrec did
            not write are kept in any case.

    Raises:
        RunError: another run or something else lies there, or it cannot be written.
        Busy: another process works there.
    """
    place = resolve(out)
    with storage_errors(place):
        if not is_first():
            yield place, Work(work_folder(place), remake=force)
            return
        check_out(place)
        work = Work(work_folder(place), remake=force)
        with work.alone(), reserved(place):
            check_same(place, config, force=force)
            yield place, work


def check_out(out: Path) -> None:
    """Refuses a resolved place where no run folder can be made."""
    check_replaceable(out, ours=OURS)
    check_writable(out)
    check_writable(work_folder(out))


def check_same(out: Path, config: RunConfig, *, force: bool = False) -> None:
    """Refuses to replace what is no run, or a run of another configuration, unless `force`."""
    if force or not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / CARD).is_file():
        raise RunError(
            f"{shown(out)} exists and is not a run folder; give another --out or move it away (--force puts the run "
            "among its files)."
        )
    found = _differences(out, config)
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise RunError(
            f"{shown(out)} is a run of another configuration ({'; '.join(found[:_NAMED])}{more}); give another "
            "--out, or --force to replace it."
        )


def check_same_data(out: Path, dataset: Dataset, *, force: bool = False) -> None:
    """Refuses to replace a run of the same configuration on other data, unless `force`."""
    if force or not (out / CARD).is_file():
        return
    facts = read_json(out / CARD)
    before = facts.get("dataset", {}).get("content_hash") if isinstance(facts, dict) else None
    if before != dataset.manifest.content_hash:
        raise RunError(
            f"{shown(out)} is a run on other data ({dataset.manifest.name} has changed since); give another --out, "
            "or --force to replace it."
        )


def _differences(out: Path, config: RunConfig) -> list[str]:
    """Keys whose values differ from those of the run that lies in `out`, as text."""
    try:
        before = RunConfig.read(out / "config.yaml")
    except LLMRecError:
        return ["its config.yaml is missing or of another version"]
    there, here = flat(before.tree()), flat(config.tree())
    return [
        f"{key} is {shown(str(there.get(key)))[:60]} there, {shown(str(here.get(key)))[:60]} here"
        for key in sorted(there.keys() | here.keys())
        if key not in _UNDECIDING and _meant(key, there.get(key)) != _meant(key, here.get(key))
    ]


def _meant(key: str, value: Any) -> Any:
    """A value as it is compared: paths by the place that they name."""
    return str(resolve(value)) if key == "data.source" and value is not None else value
