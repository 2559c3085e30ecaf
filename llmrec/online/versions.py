"""Versions of a policy on disk: each complete or absent, one of them served, changed in a single rename.

    FOLDER/0001/          files of a version, and version.json with their SHA-256
    FOLDER/served.json    which version is served, which were before it, which were taken back

A version's folder arrives by a rename when all of it is written and synced, and never changes again. `served.json`
is replaced by a rename as well, so a reader sees the old version or the new one, whatever is killed when.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from llmrec.errors import RunError
from llmrec.files import new_folder, read_json, reserved, write_json
from llmrec.progress import console
from llmrec.storage import resolve, shown
from llmrec.written import first_changed, hashes_of

T = TypeVar("T")
SERVED, VERSION = "served.json", "version.json"
FORMAT = "llmrec-versions-1"


@dataclass(frozen=True, slots=True)
class Version:
    """A complete version: its number, where its files are, and what was said of it when it was made."""

    number: int
    folder: Path
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served.

    Attributes:
        number: of the version; None where nothing was promoted yet.
        before: versions that were served before, the latest last: what a rollback goes back to.
        withdrawn: versions that were taken back; none of them is served again.
        reason: of the last change.
        change: counts changes, so that a reader knows one from the next.
    """

    number: int | None = None
    before: tuple[int, ...] = ()
    withdrawn: tuple[int, ...] = ()
    reason: str = ""
    change: int = 0


class Versions:
    """The versions of one policy. Any number of processes read; one at a time writes.

    Args:
        folder: their place; made at the first version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = resolve(folder)

    def numbers(self) -> list[int]:
        """All complete versions, in order."""
        if not self.folder.is_dir():
            return []
        names = (p.name for p in self.folder.iterdir() if p.name.isdigit() and (p / VERSION).is_file())
        return sorted(map(int, names))

    def version(self, number: int) -> Version:
        """A version as it was added.

        Raises:
            RunError: there is none of that number, or a file of it has changed.
        """
        folder = self.folder / f"{number:04d}"
        if not (folder / VERSION).is_file():
            raise RunError(f"{shown(self.folder)} has no version {number}; it has {self.numbers() or 'none'}.")
        told = read_json(folder / VERSION)
        changed = first_changed(folder, told["sha256"])
        if changed is not None:
            raise RunError(f"{shown(changed)} is not as version {number} was written; promote another version.")
        return Version(number, folder, told["facts"])

    def serving(self) -> Serving:
        """What is served now.

        Raises:
            RunError: the folder is of another format.
        """
        if not (self.folder / SERVED).is_file():
            return Serving()
        told = read_json(self.folder / SERVED)
        if not isinstance(told, dict) or told.pop("format", None) != FORMAT:
            raise RunError(f"{shown(self.folder / SERVED)} is not of the format {FORMAT}; promote into a new folder.")
        return Serving(**{**told, "before": tuple(told["before"]), "withdrawn": tuple(told["withdrawn"])})

    def add(self, write: Callable[[Path], None], facts: Mapping[str, Any] | None = None) -> Version:
        """Makes a new version by `write(folder)`; it is complete, or was never there. It is not served yet.

        Numbers are not given out again, so a log can name a version for good.
        """
        with self._alone():
            number = max([*self.numbers(), *self.serving().withdrawn], default=0) + 1
            place = self.folder / f"{number:04d}"
            with new_folder(place) as work:
                write(work)
                write_json(work / VERSION, {"facts": dict(facts or {}), "sha256": hashes_of(work)})
                _sync(work)
            _sync_folder(self.folder)
        return self.version(number)

    def promote(self, number: int, reason: str) -> Serving:
        """Serves a version from now on.

        Raises:
            RunError: it is missing, damaged, or was taken back.
        """
        with self._alone():
            self.version(number)
            now = self.serving()
            if number in now.withdrawn:
                raise RunError(f"Version {number} was taken back and is not served again; add it as a new version.")
            before = now.before if now.number in (None, number) else (*now.before, now.number)
            return self._write(replace(now, number=number, before=before, reason=reason))

    def roll_back(self, reason: str) -> Serving:
        """Takes the served version back: the one before it is served again.

        Raises:
            RunError: there is none before it.
        """
        with self._alone():
            now = self.serving()
            left = [n for n in now.before if n not in now.withdrawn]
            if now.number is None or not left:
                raise RunError(f"{shown(self.folder)} has no version before the served one; promote a version.")
            self.version(left[-1])
            gone = (*now.withdrawn, now.number)
            return self._write(Serving(left[-1], tuple(left[:-1]), gone, reason, now.change))

    def _write(self, serving: Serving) -> Serving:
        made = replace(serving, change=serving.change + 1)
        write_json(self.folder / SERVED, {"format": FORMAT, **asdict(made)})
        _sync_folder(self.folder)
        return made

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        # on a name beside the folder: `new_folder` for a version holds a lock of its own
        with reserved(self.folder, wait=True):
            self.folder.mkdir(parents=True, exist_ok=True)
            yield


class HotSwap(Generic[T]):
    """What is served, loaded once a version and swapped whole, without a pause: for servers of several threads.

    Whoever holds what `current` gave goes on with it. Where a version cannot be loaded, the one that is held stays.

    Args:
        versions: where to look.
        load: makes what serves from a version.
    """

    def __init__(self, versions: Versions, load: Callable[[Version], T]) -> None:
        self.versions, self._load = versions, load
        self._lock = threading.Lock()
        self._held: tuple[int, T] | None = None
        self._seen: object = None

    def current(self) -> tuple[int, T]:
        """The number of the served version and what was loaded from it.

        Raises:
            RunError: nothing is served, or the first version cannot be loaded.
        """
        mark = self._mark()
        if mark != self._seen:
            with self._lock:
                if mark != self._seen:
                    self._swap()
                    self._seen = mark
        if self._held is None:
            raise RunError(f"{shown(self.versions.folder)} serves nothing yet; promote a version.")
        return self._held

    def _mark(self) -> object:
        try:
            told = (self.versions.folder / SERVED).stat()
        except FileNotFoundError:
            return None
        # a rename gives the file a new inode, so a change is seen whatever the clock's resolution
        return (told.st_ino, told.st_mtime_ns, told.st_size)

    def _swap(self) -> None:
        number = self.versions.serving().number
        if number is None or (self._held is not None and self._held[0] == number):
            return
        try:
            made = self._load(self.versions.version(number))
        except RunError as error:
            if self._held is None:
                raise
            console.print(f"Version {number} cannot be served, {self._held[0]} goes on: {error}", markup=False)
            return
        self._held = (number, made)


def _sync(folder: Path) -> None:
    """Writes all files below a folder through to the disk: after a loss of power no name leads to half a file."""
    for place, _, names in os.walk(folder):
        for name in names:
            with (Path(place) / name).open("rb") as file:
                os.fsync(file.fileno())
        _sync_folder(Path(place))


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every system opens folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
