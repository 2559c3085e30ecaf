"""Progress bars with an estimate of the time left; plain lines where nobody watches a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from llmrec.printing import one_line
from llmrec.screen import Screen

T = TypeVar("T")

console = Screen(stderr=True)
_silent: ContextVar[bool] = ContextVar("no bars within", default=False)


_whole: ContextVar[Callable[[float], str] | None] = ContextVar("what is left of the whole", default=None)


@contextmanager
def whole_told(told: Callable[[float], str] | None) -> Iterator[None]:
    """Within, bars that stand for nearly all of a stage say what `told` makes of their share: what is left in all."""
    token = _whole.set(told)
    try:
        yield
    finally:
        _whole.reset(token)


@contextmanager
def silent() -> Iterator[None]:
    """No bar within is drawn: of many short trainings the bar of the whole tells enough."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


class Bar:
    """One bar. On a terminal it is drawn by rich; elsewhere a line is printed at most every `every_s` seconds.

    `stage` says that it stands for nearly all of a stage, so that what is left of the whole run follows from it.
    """

    def __init__(self, description: str, total: int | None, every_s: float = 20.0, *, stage: bool = False) -> None:
        self.stage = stage
        self.description, self.total, self.every_s, self.done = one_line(description), total, every_s, 0
        self.start = self.last = time.monotonic()
        self._rich: Progress | None = None

    def __enter__(self) -> Bar:
        if console.is_terminal and not _silent.get():
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            self._rich = Progress(*columns, console=console)
            self._rich.start()
            self._task = self._rich.add_task(self.description, total=self.total, note="")
        return self

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Counts `steps` more as done; `note` (a loss, a reward) stands behind the bar."""
        self.done, note = self.done + steps, one_line(note)
        note = "; ".join(filter(None, (note, self._left_in_all())))
        if self._rich is not None:
            self._rich.update(self._task, advance=steps, note=note)
            return
        if _silent.get():
            return
        now = time.monotonic()
        # a log that nobody watches should not grow by a line a step
        if now - self.last >= self.every_s:
            self.last = now
            print(self._line(now - self.start, note), file=sys.stderr, flush=True)

    def _left_in_all(self) -> str:
        told = _whole.get() if self.stage else None
        return told(self.done / self.total) if told is not None and self.total else ""

    def _line(self, elapsed: float, note: str) -> str:
        of = f"/{self.total}" if self.total else ""
        left = f", {elapsed / self.done * (self.total - self.done):.0f} s left" if self.total and self.done else ""
        return f"{self.description}: {self.done}{of} after {elapsed:.0f} s{left} {note}".rstrip()

    def __exit__(self, *_: object) -> None:
        if self._rich is not None:
            self._rich.stop()
        elif self.last != self.start:
            print(self._line(time.monotonic() - self.start, ""), file=sys.stderr, flush=True)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterates over `items` behind a bar."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Bar(description, total) as bar:
        for item in items:
            yield item
            bar.advance()
