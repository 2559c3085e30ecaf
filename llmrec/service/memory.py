"""Memory of a process that serves: what was freed and is still held, and what stays and is looked through in vain."""

from __future__ import annotations

import ctypes
import gc
import os


def give_back() -> bool:
    """Gives memory that was freed back to the system; False where the C library cannot (it is glibc that can).

    Prompts that are kept come and go among what a batch needs for a moment, and leave holes that a process holds.
    """
    if os.name != "posix":
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True


def settle() -> None:
    """Takes all that is there out of what Python's collector of cycles looks through from now on.

    Libraries and a model are millions of objects that stay; to look through them stops every request for as long.
    What is settled and no longer used is freed all the same, but for cycles: see `settle_again`.
    """
    gc.collect()
    gc.freeze()


def settle_again() -> None:
    """Where this process has settled: frees the cycles of what was replaced since, and settles what replaced it.

    It stops every request for a third of a second, which a model that is replaced is worth, and a catalogue is not:
    of all catalogues that come and go only the first can leave cycles behind.
    """
    if gc.get_freeze_count():
        gc.unfreeze()
        settle()
