"""Ctrl-C and `kill`: the process ends at once, cleanly, and says that the same command goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from llmrec.errors import Stopped
from llmrec.printing import echo

KEPT = "nothing is half-written, and the same command resumes from what is finished."
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stoppable(name: str) -> Iterator[None]:
    """Within, SIGINT and SIGTERM end the process with one line and exit code 130 or 143, as a shell expects.

    `Stopped` unwinds the stack like an exception, so that temporary folders go and locks are freed. A signal that
    is ignored (a job of `nohup`) stays ignored.

    Args:
        name: what stands before the line, for example "llmrec".
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        there = {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: old for number, old in there.items() if old not in (signal.SIG_IGN, None)}
        for number in before:
            signal.signal(number, _stop)
    try:
        yield
    except Stopped as stop:
        if os.environ.get("RANK", "0") == "0":
            echo(f"{name}: stopped; {KEPT}", err=True)
        sys.exit(stop.code)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _: FrameType | None) -> None:
    raise Stopped(number)
