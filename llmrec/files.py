"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from llmrec.bounded import parse_json, read_document
from llmrec.errors import RunError
from llmrec.locks import locked
from llmrec.progress import console
from llmrec.storage import resolve, shown, storage_errors


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place at the end: a reader sees the old file or the new one.

    Raises:
        RunError: the place cannot be written.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # in the same folder, since a rename is atomic within a file system alone; not by `mkstemp`, which lets nobody
        # else read, whatever the umask allows
        name = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
        try:
            yield name
            # before the rename: after a loss of power the new name must not lead to an empty file
            with name.open("rb+") as file:
                os.fsync(file.fileno())
            name.chmod(mode)  # what was written may have put another file in its place
            name.replace(path)
        except BaseException:
            name.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Writes `text` (UTF-8) to `path` atomically; raises `RunError` where the place cannot be written."""
    with new_file(path) as place:
        place.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically. NaN and infinity are refused (they are not JSON)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, mend: str = "write it anew") -> Any:
    """Reads a JSON file; a missing or broken one is a `RunError` that names it and the mend."""
    try:
        return parse_json(read_document(path))
    except FileNotFoundError:
        raise RunError(f"{path} does not exist.") from None
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RunError(f"{path} is not a JSON file in UTF-8 ({reason}); {mend}.") from None


Ours = Callable[[Path], Collection[str]]
"""The files in a folder (paths within it, divided by /) that llmrec wrote, and may remove."""


def matching(*patterns: str) -> Ours:
    """The files whose paths match one of `patterns` (as of `fnmatch`; `*` takes / as well)."""
    return lambda folder: [name for name in entries(folder) if any(fnmatchcase(name, p) for p in patterns)]


def entries(folder: Path) -> list[str]:
    """Files, links (not followed) and empty folders anywhere in `folder`, as paths within it divided by /."""
    found = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        # `os.walk` lists links to folders among the folders and does not enter them; here they count as files
        links = [name for name in folders if (here / name).is_symlink()]
        if here != folder and not folders and not files:
            found.append(here)
        found += [here / name for name in [*files, *links]]
    return sorted(path.relative_to(folder).as_posix() for path in found)


@contextlib.contextmanager
def new_folder(
    path: Path, *, mark: str | None = None, ours: Ours | None = None, wait: bool = False
) -> Iterator[Path]:
    """Yields a temporary sibling folder that becomes `path` when the block ends well, else vanishes.

    An existing `path` with content is replaced (moved aside first, removed last), so a kill at any point leaves the
    old folder, or the new one, or the old one under a `.old-` name beside it, and never a mixture; what a kill left
    beside it is put right when the next block for `path` begins. One process at a time writes a folder.

    Args:
        path: the place; links and `..` are followed, so that the place that is meant is the one that is checked.
        mark: replace only a folder that holds this file. Without `mark` and `ours` nothing is replaced.
        ours: the files that may go. All others, a person's own, stay: in the new folder, or there as NAME.kept where
            it has a file of that name itself. None: everything in a folder with `mark` may go.
        wait: wait for another process that writes `path` instead of refusing.

    Raises:
        RunError: something else lies there, or the place cannot be written.
        Busy: another process writes it.
    """
    path = resolve(path)
    check_replaceable(path, mark, ours)
    with reserved(path, wait=wait):
        work = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path, "new")))
        try:
            yield work
            check_replaceable(path, mark, ours)
            _readable(work)
            _put(work, path, ours)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _readable(folder: Path) -> None:
    """Gives others what the umask gives them: `mkdtemp` and safetensors make what the owner alone may open.

    A service, which may run as another user, can then read it, and under a umask of 077 nobody can.
    """
    probe = folder / f".{secrets.token_hex(4)}"
    probe.mkdir()  # to ask for the umask is to change it for all threads
    allowed = probe.stat().st_mode & 0o077
    probe.rmdir()
    for place, _, files in os.walk(folder):
        for at in (Path(place), *(Path(place, name) for name in files)):
            if at.is_symlink():
                continue
            mode = stat.S_IMODE(at.stat().st_mode)
            # what the owner may, and of files the right to run them only where they have it
            gives = mode >> 3 | mode >> 6
            gives &= 0o077 if at.is_dir() else 0o066 | mode & 0o011
            at.chmod(mode & ~0o077 | gives & allowed)


@contextlib.contextmanager
def reserved(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Keeps other processes from writing the folder `path`, which need not be there, within the block.

    What a kill within `new_folder(path)` left beside it is put right first: an old folder that was moved aside is put
    back where the new one has not arrived, and temporary folders go. The folders above `path` are made, and removed
    where the block fails and leaves them empty.

    Raises:
        Busy: another process writes it (unless `wait`).
        RunError: the place cannot be written.
    """
    path = resolve(path)
    with storage_errors(path):
        made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # beside the folder and not in it: the folder itself is renamed while the lock is held
            with locked(path.with_name(f".{path.name}.lock"), path, wait=wait) as alone:
                # not within another block of this thread for the same folder, whose temporary folders are in use
                if alone:
                    _recover(path)
                yield
        except BaseException:
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise


def check_replaceable(path: Path, mark: str | None = None, ours: Ours | None = None) -> None:
    """Refuses (`RunError`) a resolved place at which `new_folder` would destroy something, or could not work."""
    with storage_errors(path):
        if path.exists() and not path.is_dir():
            raise RunError(f"{shown(path)} is a file; name another place.")
        if path in (cwd := resolve("."), *cwd.parents):
            raise RunError(f"{shown(path)} is the folder that you are in, or holds it; name a folder within it.")
        if path.is_mount():
            raise RunError(f"{shown(path)} is a mount point, which cannot be replaced; name a folder within it.")
        if ours is None or mark is not None:
            held = next(iter(os.scandir(path)), None) if path.is_dir() else None
            if held is not None and (mark is None or not (path / mark).is_file()):
                raise RunError(
                    f"{shown(path)} holds {shown(held.name)!r}, which llmrec does not replace; name a new folder."
                )


def check_writable(path: Path) -> None:
    """Refuses (`RunError`) a resolved place where no folder can be made, by making one and removing it."""
    with storage_errors(path):
        parent = path.parent
        missing = path
        while not parent.exists():
            parent, missing = parent.parent, parent
        longest = max(path.relative_to(missing.parent).parts, key=lambda part: len(os.fsencode(part)))
        Path(tempfile.mkdtemp(dir=parent, prefix=f".{longest}.new-")).rmdir()


def _prefix(path: Path, kind: str) -> str:
    return f".{path.name}.{kind}-"


def _beside(path: Path, kind: str) -> list[Path]:
    """Temporary folders for `path`, known by their names."""
    # exactly what `mkdtemp` makes: a person's folder of a like name is left alone
    name = re.compile(re.escape(_prefix(path, kind)) + "[a-z0-9_]{8}")
    return sorted(p for p in path.parent.iterdir() if name.fullmatch(p.name) and p.is_dir() and not p.is_symlink())


def _recover(path: Path) -> None:
    """Removes what killed writers left; only for the holder of the lock."""
    for aside in _beside(path, "old"):
        old = aside / path.name
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(aside, ignore_errors=True)
    for work in _beside(path, "new"):
        shutil.rmtree(work, ignore_errors=True)


def _put(work: Path, path: Path, ours: Ours | None) -> None:
    """Puts the finished folder `work` in the place of `path`."""
    if not path.exists():
        work.rename(path)
        return
    if ours is not None:
        _keep_foreign(path, work, ours)  # before anything moves: after a kill they are in the old folder and the new
    # Two renames cannot be one. After a kill between them the old folder lies aside under a name that `_recover`
    # knows.
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path, "old")))
    try:
        path.rename(aside / path.name)
        work.rename(path)
    except BaseException:
        if not path.exists():
            (aside / path.name).rename(path)
        raise
    finally:
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _keep_foreign(path: Path, work: Path, ours: Ours) -> None:
    """Gives `work` the files of `path` that are not `ours`, by a second name for them, or else a copy."""
    known = set(ours(path))
    kept = {}
    for name in entries(path):
        if name in known:
            continue
        kept[name] = _free_name(work, name)
        source, target = path / name, work / kept[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir() and not source.is_symlink():
            target.mkdir()
            continue
        try:
            # a second name costs nothing, and the first one stays until the old folder goes: a kill in between loses
            # no file
            os.link(source, target, follow_symlinks=False)
        except OSError:  # a file system without hard links
            shutil.copy2(source, target, follow_symlinks=False)
    moved = [f"{name} as {new}" for name, new in kept.items() if new != name]
    if kept:
        also = f", {shown(', '.join(moved))}" if moved else ""
        console.print(f"{shown(path)}: files that llmrec did not write are kept ({len(kept)}{also}).")


def _free_name(work: Path, name: str) -> str:
    """A path within `work` for a file called `name` that hits nothing that is there."""
    place = Path()
    parts = Path(name).parts
    for part in parts:
        there, number = work / place / part, 1
        last = part == parts[-1] and len(place.parts) == len(parts) - 1
        while os.path.lexists(there) and (last or not there.is_dir()):
            there = there.with_name(f"{part}.kept" if number == 1 else f"{part}.kept-{number}")
            number += 1
        place /= there.name
    return place.as_posix()


def sha256_of(*parts: bytes | str) -> str:
    """Hex SHA-256 of the parts, each length-prefixed so that their borders count."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()
