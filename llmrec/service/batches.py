"""Requests that wait are decoded together: a worker takes what is there, as much of one kind as a batch holds.

While it decodes, the next ones gather, so batches grow with the load by themselves and a lone request waits for
nobody. Clients that wait for their answers come back in the cohorts in which they were answered, so behind a batch of
several the worker waits a moment for these: else they would be two cohorts for ever, each paying for a batch of its
own. What does not fit into the queue is refused at once, with how long the queue would take.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from llmrec.catalogue.filters import Filters
from llmrec.policy.language_policy import Certified
from llmrec.recommender import Request
from llmrec.service.deployed import Deployed

SIZES = (10, 20, 50, 100)
"""Lists are searched for as many items as the next of these, so that requests for 3 and for 7 share a batch.

The first items of the longer list are the shorter one."""


class TooBusy(Exception):
    """The queue is full; `after_s` is about how long it takes to work it off."""

    def __init__(self, after_s: float) -> None:
        super().__init__()
        self.after_s = after_s


class Closed(Exception):
    """The service is shutting down."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the engine gives for a request.

    Attributes:
        certified: items with log pi, and what is certain of them.
        propensity_K: of each item at its place.
        exploration: how it was drawn.
    """

    certified: Certified
    propensity_K: tuple[float, ...]
    exploration: str


@dataclass(eq=False)
class Job:
    """One request on its way through the engine.

    Attributes:
        request: as it was read.
        deployed: what answers it, whatever is deployed meanwhile.
        k: items wanted.
        name: of the slate.
        explain: items that say why.
        explore: seed and temperature, None to serve the best list.
        filters: what the list must obey: those of the request, and what rules ask for at the moment beside.
    """

    request: Request
    deployed: Deployed
    k: int
    name: str
    exclude_seen: bool | None = None
    exact: bool = False
    explain: int = 0
    explore: tuple[int | None, float] | None = None
    user_id: str | None = None
    done: Future[Any] = field(default_factory=Future)
    filters: Filters | None = field(init=False)
    _claimed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.filters = self.request.filters

    @property
    def size(self) -> int:
        """Items that are searched for."""
        filters, book = self.request.filters, self.deployed.recommender.book
        # neither a slate under bounds nor one whose first items words have named is the beginning of a longer one
        if self.tiered or (filters is not None and filters.bounds_slate) or (book is not None and book.daily):
            return self.k
        return min(next((size for size in SIZES if self.k <= size), self.k), len(self.deployed.policy.catalogue))

    @property
    def group(self) -> Hashable:
        """Jobs of equal groups can be decoded in one batch."""
        filters, book = self.request.filters, self.deployed.policy.filters
        kind = None if filters is None or book is None else book.group(filters)
        temperature = None if self.explore is None else self.explore[1]
        return (id(self.deployed), self.size, self.exact, self.exclude_seen, temperature, kind, self.tiered)

    @property
    def tiered(self) -> bool:
        """Whether items that the prompt's words name come first; a slate that is drawn explores among all."""
        return self.explore is None and self.request.tiered(self.filters)

    def claim(self) -> bool:
        """Whether the caller is the one who answers: the worker with the policy's slate, or a deadline without it."""
        with self._lock:
            first, self._claimed = not self._claimed, True
            return first

    @property
    def claimed(self) -> bool:
        """Whether somebody answers it already."""
        return self._claimed


class Batcher:
    """A queue and its worker.

    Args:
        answer: takes jobs of one group; sets a result or an error on each that it claims.
        batch: jobs of a batch at most.
        waiting: jobs that may wait.
        gather: share of a batch's time for which the next one waits, at most, for those who were answered.
        seen: told of each batch: its jobs, its seconds.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Job]], None],
        *,
        batch: int,
        waiting: int,
        gather: float = 0.0,
        seen: Callable[[int, float], None] = lambda jobs, seconds: None,
    ) -> None:
        self._answer, self._batch, self._most, self._seen = answer, batch, waiting, seen
        self._gather, self._wanted, self._until = gather, 0, 0.0
        self._enough = 1
        """Jobs for which the worker is woken: it is not to look at each that comes while it waits for several."""
        self._jobs: deque[Job] = deque()
        self._there = threading.Condition()
        self._open = True
        self._pace_s = 0.05
        """Seconds of work for a request, a moving mean."""
        self._worker = threading.Thread(target=self._work, name="llmrec-batches", daemon=True)
        self._worker.start()

    def __len__(self) -> int:
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Queues a job.

        Raises:
            TooBusy: the queue is full.
            Closed: the service is shutting down.
        """
        with self._there:
            if not self._open:
                raise Closed
            if len(self._jobs) >= self._most:  # what was given up takes no place
                self._jobs = deque(job for job in self._jobs if not job.claimed)
            if len(self._jobs) >= self._most:
                raise TooBusy(max(1.0, math.ceil(self._pace_s * len(self._jobs))))
            self._jobs.append(job)
            if len(self._jobs) >= self._enough:
                self._there.notify()

    def close(self, grace_s: float) -> bool:
        """Takes nothing more and works off what waits, for `grace_s` seconds at most; whether all of it was done."""
        with self._there:
            self._open = False
            self._there.notify()
        self._worker.join(grace_s)
        with self._there:
            left = list(self._jobs)
            self._jobs.clear()
        for job in left:
            if job.claim():
                job.done.set_exception(Closed())
        return not self._worker.is_alive()

    def _work(self) -> None:
        while True:
            with self._there:
                while self._open and not self._jobs:
                    self._there.wait()
                self._wait_for_more()
                if not self._jobs:
                    return
                jobs = self._take()
            if not jobs:
                continue
            began = time.perf_counter()
            try:
                self._answer(jobs)
            except BaseException as error:  # whatever it is, nobody waits for ever and the worker goes on
                for job in jobs:
                    job.claim()
                    with contextlib.suppress(InvalidStateError):  # answered, or given up
                        job.done.set_exception(error)
            ended = time.perf_counter()
            took = ended - began
            # from here on and not from the next request, which may come in an hour
            self._until = ended + self._gather * took
            self._wanted = min(self._batch, len(jobs) + len(self._jobs)) if len(jobs) > 1 else 0
            self._pace_s += 0.2 * (took / len(jobs) - self._pace_s)
            self._seen(len(jobs), took)

    def _wait_for_more(self) -> None:
        """Waits, for a bounded moment, until as many have come as were answered last, beside those who waited."""
        self._enough = max(self._wanted, 1)
        while self._open and len(self._jobs) < self._wanted:
            left = self._until - time.perf_counter()
            if left <= 0 or not self._there.wait(left):
                break
        self._enough = 1

    def _take(self) -> list[Job]:
        """The oldest job with the others of its group, in order; those that were given up are dropped."""
        taken: list[Job] = []
        left: deque[Job] = deque()
        for job in self._jobs:
            if job.claimed:
                continue
            fits = len(taken) < self._batch and (not taken or job.group == taken[0].group)
            (taken if fits else left).append(job)
        self._jobs = left
        return taken
