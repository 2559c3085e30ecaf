"""Places on disk: which one a path means, and what is said where a place cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from llmrec.errors import LLMRecError, RunError
from llmrec.printing import one_line

_LONGEST = 200
DISK = {
    errno.ENOSPC: "the disk is full; make room, then give the same command again",
    errno.EDQUOT: "your quota is used up; make room, then give the same command again",
    errno.EROFS: "it lies on a read-only file system; name a place that can be written",
    errno.EACCES: "there is no permission for it; name another place or change its permissions",
    errno.EPERM: "the system does not allow it; name another place or change its permissions",
    errno.ENAMETOOLONG: "its name is too long for the file system; give a shorter one",
    errno.ENOTDIR: "a part of the path is a file; name another place",
    errno.EEXIST: "a file of that name is in the way; name another place",
    errno.EISDIR: "it is a folder; name a file",
    errno.ELOOP: "its links go round in a circle; name another place",
    errno.EIO: "the device reports an error; check the disk, then give the same command again",
    errno.ESTALE: "the network share has lost it; mount it anew, then give the same command again",
    errno.EBUSY: "it is in use by the system (a mount point?); name a folder within it",
    errno.EXDEV: "it is the border of two file systems; name a folder within it",
    errno.EFBIG: "the file is larger than the file system takes; name another place",
}
"""What is wrong and what mends it, by the number of the system's error."""
# Libraries in C++ and Rust report the system's errors as text alone.
_TEXTS = {
    "no space left on device": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "read-only file system": errno.EROFS,
    "permission denied": errno.EACCES,
    "input/output error": errno.EIO,
}
_NEARLY_FULL = 1 << 20
_TEMPORARY = re.compile(r"\.([^/]+)\.(?:new|old)-[a-z0-9_]{8}(?=/|$)")


def resolve(path: Path | str) -> Path:
    """The place that `path` really means: absolute, with `~`, `.`, `..` and links followed.

    Raises:
        RunError: links in a circle, an unknown user after `~`, or a path that no file system takes.
    """
    try:
        place = Path(path).expanduser().resolve()
        _check_circle(place)
        return place
    except (RuntimeError, OSError, ValueError) as error:
        raise RunError(f"{shown(path)} is not a place on this machine ({shown(str(error))}); name another.") from None


def _check_circle(place: Path) -> None:
    """Raises `OSError` for links in a circle, which `Path.resolve` leaves as they are from Python 3.13 on."""
    try:
        place.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise


def work_folder(out: Path) -> Path:
    """Where work on `out` is kept, beside it and private: a run's stages, drafts of texts."""
    place = resolve(out)
    if not place.name:
        raise RunError(f"{shown(out)} is the root of the file system; name a folder within it.")
    return place.with_name(f"{place.name}.work")


def cache_folder() -> Path:
    """Where models made here are kept: LLMREC_CACHE, else ~/.cache/llmrec."""
    return Path(os.environ.get("LLMREC_CACHE") or Path.home() / ".cache" / "llmrec")


def shown(path: Path | str) -> str:
    """A path for a message: without control characters, cut in its middle where it is long."""
    return one_line(str(path), _LONGEST)


@contextlib.contextmanager
def storage_errors(place: Path) -> Iterator[None]:
    """Turns what the disk refuses within the block into a `RunError` that names the file, or else `place`."""
    try:
        yield
    except Exception as error:
        said = storage_error(error, place)
        if said is None:
            raise
        raise said from None


def storage_error(error: Exception, place: Path) -> RunError | None:
    """The sentence for an error of the disk (full, read-only, no permission ...); None for any other error."""
    if isinstance(error, LLMRecError):
        return None
    number = error.errno if isinstance(error, OSError) else None
    if number not in DISK:
        text = str(error)[:100_000].lower()
        number = next((n for words, n in _TEXTS.items() if words in text), None)
    if number is None and isinstance(error, (OSError, RuntimeError)) and _nearly_full(place):
        number = errno.ENOSPC  # torch says only that a write failed
    if number is None:
        return None
    named = getattr(error, "filename2", None) or getattr(error, "filename", None)
    named = _TEMPORARY.sub(r"\1", str(named if isinstance(named, (str, Path)) else place))
    return RunError(f"{shown(named)} cannot be used: {DISK[number]}.")


def _nearly_full(place: Path) -> bool:
    there = next((p for p in (place, *place.absolute().parents) if p.exists()), None)
    try:
        return there is not None and shutil.disk_usage(there).free < _NEARLY_FULL
    except OSError:
        return False
