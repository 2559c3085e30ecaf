"""The working folder of a run: stages that are finished, or not there.

A run writes to two places. `OUT` is what is handed on: it appears at the end, whole, and holds no user's rows.
`OUT.work` beside it holds the data set, finished stages and trainer checkpoints, so that the same command goes on
where it was stopped. A stage is keyed by everything that decides its result; under another key it is made anew.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from llmrec.errors import LLMRecError, RunError
from llmrec.files import new_folder, read_json, sha256_of, write_json
from llmrec.locks import Busy, locked
from llmrec.pipeline.ahead import Ahead
from llmrec.progress import console, whole_told
from llmrec.storage import resolve, shown, storage_errors
from llmrec.written import first_changed, hashes_of, intact

DONE = "stage.json"
KEY = "key.json"
LOCK = ".lock"


class LastStage(StrEnum):
    """Where a run can be ended before its end; the simulator needs no SFT."""

    SFT = "sft"
    SIMULATOR = "simulator"


class Unfinished(RunError):
    """A stage that is not finished where nothing may be made."""


class Work:
    """The stages of one run under `folder`."""

    def __init__(self, folder: Path, *, remake: bool = True, finished_only: bool = False) -> None:
        """Opens `folder`, made if need be.

        Args:
            folder: where the stages are.
            remake: make a stage anew that is there under another key; False refuses, as it may have cost hours.
            finished_only: make nothing at all, not even `folder`; a stage that is not finished is refused.

        Raises:
            RunError: `folder` is a file or cannot be made.
        """
        folder = resolve(folder)
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder} is a file; give another --out.")
        if not finished_only:
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.remake, self.finished_only = folder, remake, finished_only
        self.seconds: dict[str, float] = {}
        self.ahead: Ahead | None = None
        """What is said of the whole run beside its stages."""

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other processes out of the folder within the block.

        Raises:
            Busy: another process is in it.
        """
        try:
            with storage_errors(self.folder), locked(self.folder / LOCK, self.folder) as held:
                if not held:
                    say(f"{self.folder} cannot be locked: start no second process on it.", style="dim")
                yield
        finally:
            with suppress(OSError):
                self.folder.rmdir()  # if nothing was made

    def stage(self, name: str, key: object, build: Callable[[Path, Path], None], *, together: bool = False) -> Path:
        """Returns the folder of stage `name`, calling `build(folder, scratch)` unless it is finished under `key`.

        `folder` becomes the stage when `build` returns. `scratch` outlives a kill: trainers keep their checkpoints
        there and resume from them; it is emptied when the key changes and removed when the stage is finished.

        Under several processes (torchrun, accelerate launch) the first one builds while the others wait, unless
        `together`: then all call `build`, and what the others write into their `folder` is thrown away.

        Raises:
            Unfinished: it is not finished under `key`, and is `finished_only`.
            RunError: it is there under another key and is not to be remade, it is damaged, or the disk refuses it.
            Busy: another process is making it.
        """
        place, scratch = self.folder / name, self.folder / f"{name}.partial"
        digest = sha256_of(json.dumps(key, sort_keys=True, default=str))
        done = self._done(place)
        wait_for_all()  # nobody looks while the first process writes
        if done is not None and done["key"] == digest:
            self._check(place, done)
            self.seconds[name] = float(done["seconds"])
            if not self.finished_only:
                at = self._begin(name)
                say(f"{name}{at}: done before ({done['seconds']:.0f} s)", style="dim")
                self._end(name, made=False)
            return place
        if self.finished_only:
            raise Unfinished(f"{place} is not there, or was made from other settings, data or software.")
        start = time.monotonic()
        if is_first():
            self._build(name, digest, place, scratch, build, wait=together)
        elif together:
            wait_for_all()
            with tempfile.TemporaryDirectory() as own:
                build(Path(own), scratch)
        wait_for_all()
        self.seconds[name] = time.monotonic() - start
        self._end(name, made=True)
        return place

    def begins(self, name: str) -> None:
        """Says that something of the run begins that is kept as no stage, such as its evaluation."""
        say(f"{name}{self._begin(name)}", style="bold")

    def _begin(self, name: str) -> str:
        said = "" if self.ahead is None else self.ahead.begin(name)
        return f" ({said})" if said else ""

    def _end(self, name: str, *, made: bool) -> None:
        if self.ahead is not None:
            self.ahead.end(name, made=made)

    def amend(self, name: str, change: Callable[[Path], None]) -> None:
        """Lets `change(folder)` write into a copy of the finished stage `name`, which then takes its place.

        The stage keeps its key: the same command finds it finished. What was built on it is found or made anew as
        its own key says.

        Raises:
            RunError: it is damaged.
            Busy: another process is making it.
        """
        place = self.folder / name
        done = self._done(place)
        if done is None:
            raise Unfinished(f"{place} is not there, so there is nothing to change.")
        self._check(place, done)
        with new_folder(place, mark=DONE) as folder:
            shutil.copytree(place, folder, dirs_exist_ok=True)
            (folder / DONE).unlink()
            change(folder)
            write_json(folder / DONE, done | {"sha256": hashes_of(folder)})

    def _build(
        self, name: str, digest: str, place: Path, scratch: Path, build: Callable[[Path, Path], None], *, wait: bool
    ) -> None:
        if self._done(place) is not None:
            self._may_replace(f"the finished stage {name!r}")
            say(f"{name}: made anew, as it was made from other settings, data or software", style="dim")
        try:
            with new_folder(place, mark=DONE) as folder:  # its lock is also that of the scratch
                resumed = self._open_scratch(scratch, digest)
                if wait:
                    wait_for_all()
                start = time.monotonic()
                say(f"{name}{self._begin(name)}{', resuming' if resumed else ''}", style="bold")
                with whole_told(None if self.ahead is None else self.ahead.told):
                    build(folder, scratch)
                made = {"key": digest, "seconds": time.monotonic() - start, "sha256": hashes_of(folder)}
                write_json(folder / DONE, made)
                self._keep_logs(name, scratch)
        except Busy:
            raise
        except LLMRecError:
            self._leave_nothing(scratch)
            raise
        shutil.rmtree(scratch, ignore_errors=True)

    def _may_replace(self, what: str) -> None:
        if not self.remake:
            raise RunError(
                f"{shown(self.folder)} holds {what} made from other settings, data or software; give another --out, "
                "or --force to make it anew."
            )

    def _keep_logs(self, name: str, scratch: Path) -> None:
        """Moves what TensorBoard shows, which trainers write beside their checkpoints, to `logs/NAME`."""
        for file in list(scratch.rglob("events.out.tfevents.*")):
            place = self.folder / "logs" / name / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)

    def _leave_nothing(self, scratch: Path) -> None:
        """Removes what holds no work after a refusal: a scratch with its mark alone, then an empty folder."""
        if scratch.is_dir() and [file.name for file in scratch.iterdir()] == [KEY]:
            shutil.rmtree(scratch)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    @staticmethod
    def _done(place: Path) -> dict[str, Any] | None:
        """What is known of a finished stage, None where there is none.

        Raises:
            RunError: its record is damaged.
        """
        if not (place / DONE).is_file():
            return None
        mend = f"remove {shown(place)} to make the stage anew"
        with intact(place / DONE, mend):
            found = read_json(place / DONE, mend)
            hashes = {str(name): str(value) for name, value in dict(found.get("sha256") or {}).items()}
            return {"key": str(found["key"]), "seconds": float(found["seconds"]), "sha256": hashes}

    @staticmethod
    def _check(place: Path, done: dict[str, Any]) -> None:
        """Refuses a finished stage with a file that is not as the stage left it."""
        changed = first_changed(place, done["sha256"])
        if changed is not None:
            raise RunError(
                f"{shown(changed)} is damaged or gone since the stage was finished; remove {shown(place)} to make "
                "the stage anew (the stages before it are kept)."
            )

    def _open_scratch(self, scratch: Path, digest: str) -> bool:
        """Keeps `scratch` (True) if it was opened under `digest`, else makes it anew."""
        mark = scratch / KEY
        if mark.is_file():
            mend = f"remove {shown(scratch)} to begin the stage anew"
            with intact(mark, mend):
                known = read_json(mark, mend)["key"]
            if known == digest:
                return True
        held = {file.name for file in scratch.iterdir()} - {KEY} if scratch.is_dir() else set()
        foreign = [name for name in sorted(held) if not name.startswith(f".{KEY}.")]  # those are of a kill
        if foreign and not mark.is_file():
            raise RunError(f"{shown(scratch)} holds {shown(foreign[0])!r}, which llmrec did not make; move it away.")
        if foreign:
            self._may_replace(f"the unfinished stage {scratch.stem!r}")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        write_json(mark, {"key": digest})
        return False


def stage_key(folder: Path) -> str:
    """The digest of everything that decided the finished stage in `folder`; what builds on the stage keys by it."""
    return str(read_json(folder / DONE)["key"])


def stage_seconds(folder: Path) -> float:
    """How long the finished stage in `folder` took to make, by the clock and since it was last resumed."""
    return float(read_json(folder / DONE)["seconds"])


def is_first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_all() -> None:
    """A barrier; nothing with one process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from llmrec.training.arguments import processes

        processes().wait_for_everyone()


def say(text: str, style: str | None = None) -> None:
    """Prints on the first process."""
    if is_first():
        console.print(text, style=style)
