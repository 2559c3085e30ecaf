"""The working folder of a run: stages that are finished, or not there.

A run writes to two places. `OUT` is what is handed on: it appears at the end, whole, and holds no user's rows.
`OUT.work` beside it holds the data set, finished stages and trainer checkpoints, so that the same command goes on
where it was stopped. A stage is keyed by everything that decides its result; under another key it is made anew.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmrec.errors import RunError
from llmrec.files import new_folder, read_json, sha256_of, write_json
from llmrec.progress import console

DONE = "stage.json"


class Work:
    """The stages of one run under `folder`."""

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder} is a file; give another --out.")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.seconds: dict[str, float] = {}

    def stage(self, name: str, key: object, build: Callable[[Path, Path], None]) -> Path:
        """Returns the folder of stage `name`, calling `build(folder, scratch)` unless it is finished under `key`.

        `folder` becomes the stage when `build` returns. `scratch` outlives a kill: trainers keep their checkpoints
        there and resume from them; it is emptied when the key changes and removed when the stage is finished.
        """
        place, scratch = self.folder / name, self.folder / f"{name}.partial"
        digest = sha256_of(json.dumps(key, sort_keys=True, default=str))
        done = self._done(place)
        if done is not None and done["key"] == digest:
            self.seconds[name] = float(done["seconds"])
            console.print(f"[dim]{name}: done before ({done['seconds']:.0f} s)[/dim]")
            return place
        for debris in self.folder.glob(f".{name}.*-*"):  # of a kill before or between two renames
            shutil.rmtree(debris)
        spent = self._open_scratch(scratch, digest)
        start = time.monotonic()
        console.print(f"[bold]{name}[/bold]" + (" (resuming)" if spent is not None else ""))
        with new_folder(place) as folder:
            build(folder, scratch)
            elapsed = time.monotonic() - start
            write_json(folder / DONE, {"key": digest, "seconds": elapsed})
        shutil.rmtree(scratch, ignore_errors=True)
        self.seconds[name] = elapsed
        return place

    @staticmethod
    def _done(place: Path) -> dict[str, Any] | None:
        return dict(read_json(place / DONE)) if (place / DONE).is_file() else None

    @staticmethod
    def _open_scratch(scratch: Path, digest: str) -> float | None:
        """Keeps `scratch` if it was opened under `digest` (then returns a time), else makes it anew."""
        mark = scratch / "key.json"
        if mark.is_file() and read_json(mark)["key"] == digest:
            return mark.stat().st_mtime
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        write_json(mark, {"key": digest})
        return None
