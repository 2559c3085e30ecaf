"""Memory that was freed and is still held by the process."""

from __future__ import annotations

import ctypes
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
