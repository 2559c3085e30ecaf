"""Locks on files that the operating system frees when a process ends, however it ends.

A lock is `flock` on a small file that says who holds it. A kill with -9 leaves the file but not the lock, so that
nobody is refused after a crash. Where a file system knows no locks (some network shares; Windows), work goes on
without one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from llmrec.errors import RunError
from llmrec.printing import command, one_line

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

LONGEST = 240
"""Characters at most of what a message says of the holder."""
_WITHOUT_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_POLL_S = 0.1
_held: dict[Path, int] = {}
"""The thread of this process that holds a lock: within it, the same lock may be taken again."""


class Busy(RunError):
    """Another process is at work there."""


@contextlib.contextmanager
def locked(file: Path, meant: Path, *, wait: bool = False) -> Iterator[bool]:
    """Holds the lock `file` (made, and removed at the end) for work on `meant`.

    Args:
        file: the lock; its folder is there. The path is the lock's name within this process, so give it resolved.
        meant: what is worked on, for the message.
        wait: wait until the lock is free instead of refusing.

    Yields:
        Whether the lock is held by this block: False within another block of the same thread that holds it, and
        where the file system has no locks.

    Raises:
        Busy: another process, or thread, holds it.
        OSError: the file cannot be made.
    """
    # `flock` belongs to the open file, so a second one in this process would be refused by the first
    if _held.get(file) == threading.get_ident():
        yield False
        return
    handle = _acquire(file, meant, wait)
    if handle is None:
        yield False
        return
    _held[file] = threading.get_ident()
    try:
        yield True
    finally:
        del _held[file]
        with contextlib.suppress(OSError):
            file.unlink()  # while it is locked: nobody else can hold a lock on the name
        os.close(handle)


def _acquire(file: Path, meant: Path, wait: bool) -> int | None:
    """The open, locked file; None where there are no locks."""
    if fcntl is None:
        return None
    while True:
        # O_CLOEXEC: a child process would inherit the open file, and the lock with it. O_NOFOLLOW: a link of that
        # name must not make us write somewhere else.
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said = _holder(handle)
            os.close(handle)
            if not wait:
                raise Busy(f"{meant} is in use by {said}; wait until it ends, or name another place.") from None
            time.sleep(_POLL_S)
            continue
        except OSError as error:
            os.close(handle)
            if error.errno not in _WITHOUT_LOCKS:
                raise
            file.unlink(missing_ok=True)
            return None
        # The former holder removes its file before it lets the lock go: who opened that file in between holds a lock
        # that nobody else will ever look for.
        if _is_named(handle, file):
            with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps(_self()).encode(), 0)
            return handle
        os.close(handle)  # its holder removed it between our two calls


def _is_named(handle: int, file: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _self() -> dict[str, str | int]:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": command(sys.argv)}


def _holder(handle: int) -> str:
    """Who holds the lock, as its file says."""
    try:
        told = json.loads(os.pread(handle, 65536, 0))
        who = f"process {int(told['pid'])} on {told['host']} since {told['since']} ({told['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it has not written its name yet
    return one_line(who, LONGEST)
