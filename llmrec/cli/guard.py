"""What every script and command shares: what its process is set to, how it is stopped, and how errors end it.

Bad input ends with one sentence and exit code 2, a fault of ours with a report and code 1; errors of other packages
that a person can mend become sentences too. Ctrl-C and `kill` end the process at once and cleanly.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import FrameType

from llmrec.errors import LLMRecError, Stopped
from llmrec.printing import echo, one_line, use_any_encoding
from llmrec.storage import DISK

SETTINGS = {
    "OMP_WAIT_POLICY": "PASSIVE",  # idle threads sleep instead of spinning on a shared machine
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
KEPT = "nothing is half-written, and the same command resumes from what is finished."
SIGNALS = (signal.SIGINT, signal.SIGTERM)
TRACEBACK = "LLMREC_TRACEBACK"
"""Set to 1, this variable shows tracebacks in place of writing them to a file."""
_READING = {
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENOENT: "there is no such file or folder; check the name",
}
_MEMORY = (
    "The memory does not suffice ({reason}); lower the batch (sft.batch_size, or the "
    "algorithm's batch_size, prompts or draws), text.max_tokens or the size of the model."
)
_MEMORY_WORDS = ("can't allocate memory", "out of memory", "cannot allocate memory", "bad alloc")
_LAUNCH_WORDS = ("init_process_group", "TCPStore", "NCCL", "gloo", "rendezvous", "process group")


def set_environment() -> None:
    """Settings that must stand before torch and transformers are imported; what a person has set stays."""
    use_any_encoding()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    # Deprecations inside the packages below us are not for the person at the terminal.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|torch|accelerate)\b")


def guarded(main: Callable[[], None]) -> Callable[[], None]:
    """Wraps a script's `main`: an `LLMRecError` is printed as its sentence, with exit code 2; see `boundary`."""

    @functools.wraps(main)
    def run() -> None:
        with boundary("error"):
            main()

    set_environment()
    return run


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


@contextlib.contextmanager
def boundary(name: str) -> Iterator[None]:
    """Ends the process with a sentence: exit code 2 for what a person can mend, 1 for a fault of llmrec.

    A signal to stop ends it with 130 or 143; see `stoppable`.

    Args:
        name: what stands before the sentence, for example "llmrec".
    """
    try:
        with stoppable(name):
            yield
    except LLMRecError as error:
        _end(name, str(error), 2)
    except BrokenPipeError:  # whoever read our output has closed it
        _close_output()
        sys.exit(1)
    except Exception as error:
        sentence = mend_of(error)
        if sentence is not None:
            _end(name, sentence, 2)
        _end(name, _fault(error), 1)


def _end(name: str, sentence: str, code: int) -> None:
    echo(f"{name}: {one_line(sentence)}", err=True)
    sys.exit(code)


def mend_of(error: BaseException) -> str | None:
    """The sentence for an error of another package that a person can mend; None for any other."""
    kind, reason = type(error).__name__, one_line(str(error), 200)
    if isinstance(error, MemoryError) or kind in ("OutOfMemoryError", "ArrayMemoryError"):
        return _MEMORY.format(reason=reason or "no more can be had")
    if isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _MEMORY_WORDS):
        return _MEMORY.format(reason=reason)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "llmrec").startswith("llmrec"):
        return f"The package {error.name!r} is missing; install it (pip install llmrec --upgrade, or {error.name})."
    reason_of_system = {**DISK, **_READING}.get(error.errno or 0) if isinstance(error, OSError) else None
    if isinstance(error, OSError) and reason_of_system is not None:
        named = [one_line(file, 200) for file in (error.filename, error.filename2) if file is not None]
        return f"{' and '.join(named) or 'A file'} cannot be used: {reason_of_system}."
    if isinstance(error, UnicodeEncodeError):
        return (
            f"The output's encoding {error.encoding} cannot write {error.object[error.start]!r}; set "
            "PYTHONIOENCODING=utf-8."
        )
    if kind.startswith("Dist") or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in _LAUNCH_WORDS)
    ):
        return (
            f"The processes of this training do not reach each other ({reason}); check how they were launched "
            "(torchrun, accelerate launch) and that none has ended."
        )
    return None


def _fault(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    said = f"this is a fault of llmrec: {type(error).__name__}: {one_line(str(error), 240)}"
    if os.environ.get(TRACEBACK) == "1":
        echo(text, err=True)
        where = "the traceback stands above"
    else:
        where = _written(text)
    return f"{said} ({where}). Please report it with the output of `llmrec info`."


def _written(text: str) -> str:
    """Where the traceback is."""
    try:
        handle, path = tempfile.mkstemp(prefix="llmrec-traceback-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return f"set {TRACEBACK}=1 to see where"
    return f"the traceback is in {path}"


def _close_output() -> None:
    """Keeps Python from writing to a closed pipe once more on its way out."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
