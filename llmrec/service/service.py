"""The service without its web side: requests in, answers out, feedback into the log."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmrec.catalogue.filters import Filters
from llmrec.config import RunConfig
from llmrec.errors import RequestError, RunError
from llmrec.locks import locked
from llmrec.online.events import Outcome, Receipt
from llmrec.online.log import EventLog
from llmrec.online.versions import HotSwap
from llmrec.policy.kept import KeptPrompts
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.recommender import Recommendation, Recommender, Request
from llmrec.rules.book import DAY_S
from llmrec.service import wire
from llmrec.service.answers import answer_of, body_of, certificate_of, served, tokens_of, wire_state
from llmrec.service.batches import Batcher, Closed, Drawn, Job
from llmrec.service.deployed import Deployed
from llmrec.service.engine import decoded
from llmrec.service.fallback import Fallback
from llmrec.service.logs import Journal, place_of
from llmrec.service.memory import give_back, settle_again
from llmrec.service.metrics import Metrics
from llmrec.service.settings import ServiceSettings
from llmrec.service.shelf import Changes, Shelf
from llmrec.service.today import asked_today, counted
from llmrec.service.users import Users
from llmrec.storage import resolve, shown, storage_errors
from llmrec.types import Slate

EVENTS = "events.sqlite"
TURNS = 3
"""After so many a batch is made while no fallback counts for floors of a day."""
TIDY_S = 20.0
"""After so many seconds memory that was freed is given back to the system."""


class UnknownSlate(RequestError):
    """Feedback on a slate that was never served."""


class Service:
    """Answers requests for one run folder. Close it in the end.

    Args:
        recommender: of the run folder, with its data set where users are to be known.
        state: folder of what the service keeps: event log, catalogue. One service at a time works on it.
        settings: limits.
        journal: where lines go.
        events: the event log, a file's path or the URL of a PostgreSQL server; None: a file in `state`.
        versions: folder of the policy's versions (`online.versions`), of which the promoted one is served, a new one
            within seconds; None serves the run's own policy.

    Raises:
        Busy: another process serves from the same folder.
    """

    def __init__(
        self,
        recommender: Recommender,
        state: Path,
        settings: ServiceSettings,
        journal: Journal | None = None,
        versions: Path | None = None,
        events: Path | str | None = None,
    ) -> None:
        settings.check()
        self.settings, self.journal, self.metrics = settings, journal or Journal(), Metrics()
        self.state = resolve(state)
        self._config = RunConfig.read(recommender.bundle.folder / "config.yaml")
        with contextlib.ExitStack() as held:
            with storage_errors(self.state):
                self.state.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(self.state / ".service.lock", self.state))
            self.log = EventLog(self.state / EVENTS if events is None else events)
            held.callback(self.log.close)
            self._held = held.pop_all()
        self._own, self._changing = recommender, threading.Lock()
        self.shelf = Shelf(self.state / "catalogue")
        try:
            catalogue, self.changes = self.shelf.current()
            self._hot = None if versions is None else served_versions(recommender.bundle.folder, versions)
            self.metrics.rules.set(len(recommender.rules))
            self.deployed = self._deploy(self._with(self.changes), 0, catalogue)
            self.refresh()
            self._count_today()
        except BaseException:
            self._held.close()
            raise
        self.users = Users(self.log)
        self._tidied = time.monotonic()
        self.batcher = Batcher(
            self._answer_batch,
            batch=settings.batch,
            waiting=settings.waiting,
            gather=settings.gather,
            seen=self._seen_batch,
        )
        self._ended = threading.Event()
        if self._hot is not None:
            threading.Thread(target=self._follow, name="llmrec-versions", daemon=True).start()
        self.ready = True

    def refresh(self) -> None:
        """Serves the version that is promoted, where it is another one; requests that run go on with what they have.

        Raises:
            RunError: it cannot be loaded.
        """
        if self._hot is None or self._hot.versions.serving().number in (None, self.deployed.version):
            return
        number, policy = self._hot.current()
        with self._changing:
            if number == self.deployed.version:
                return
            before, self._own = self._own, self._own.over(replace(self._own.bundle, policy=policy))
            try:
                self.deployed = self._deploy(self._with(self.changes), number, self.deployed.catalogue)
            except BaseException:
                self._own = before
                raise
            settle_again()
        self.journal.say("version", version=number)

    def _follow(self) -> None:
        while not self._ended.wait(self.settings.poll_s):
            try:
                self.refresh()
            except Exception as error:  # the version that is served stays
                self.journal.say("fault", where=place_of(error))

    def _deploy(self, recommender: Recommender, version: int, catalogue: int) -> Deployed:
        made = Deployed(
            recommender, Fallback(recommender, self._config), KeptPrompts(self.settings.cache), version, catalogue
        )
        # a first request reads what the later ones find in memory: tries of the architecture, histories, filters
        warm = Job(Request(recommender.read(state=wire_state(wire.StateBody(), made)[0]).state), made, 1, "warm")
        decoded([warm], self.settings.seed)
        data = recommender.fitted_data()
        if data is not None and len(data.users):
            recommender.user_state(data.users["user_id"][0])
        return made

    def _with(self, changes: Changes) -> Recommender:
        """The run's recommender with other items."""
        if changes == Changes():
            return self._own
        return self._own.over(changes.applied(self._own.bundle))

    def _count_today(self) -> None:
        """What was shown today before this process began counts for floors of a day."""
        recommender, exposure = self.deployed.recommender, self.deployed.recommender.exposure
        if recommender.book is None or not recommender.book.daily:
            return
        exposure.begin()
        rows = self.deployed.row_of
        for items in self.log.shown(since=exposure.day * DAY_S):
            recommender.shown(Slate(tuple(rows[item] for item in items if item in rows), ()))

    def change_items(self, body: wire.ItemsBody) -> Deployed:
        """Serves other items from now on: all of the change, on the disk, or nothing. Requests that run go on.

        Raises:
            CatalogueError: what cannot be changed; then nothing is.
        """
        with self._changing:
            changes = self.changes.then(
                add=[item.item() for item in body.add],
                remove=body.remove,
                in_stock=body.in_stock,
                prices={price.item_id: price.price for price in body.prices},
            )
            return self._swap(changes, lambda: self.shelf.put(changes))

    def roll_back_items(self) -> Deployed:
        """Goes back to the items before the last change.

        Raises:
            RequestError: there was none.
        """
        with self._changing:
            if not self.shelf.versions.serving().before:
                raise RequestError("There was no change of the items that could be taken back.")
            return self._swap(self.shelf.before(), self.shelf.roll_back)

    def _swap(self, changes: Changes, write: Callable[[], int]) -> Deployed:
        # made and tried first, then written, then served: whatever fails or is killed, one whole catalogue is served
        made = self._deploy(self._with(changes), self.deployed.version, self.deployed.catalogue)
        made = replace(made, catalogue=write())
        self.deployed, self.changes = made, changes
        return made

    def close(self) -> bool:
        """Works off what waits and ends; whether all of it was answered."""
        self.ready = False
        self._ended.set()
        done = self.batcher.close(self.settings.grace_s)
        self._held.close()
        return done

    def read(self, body: wire.RecommendBody, deployed: Deployed) -> Request:
        """What a request asks for.

        Raises:
            RequestError: what cannot be met.
        """
        filters = None if body.filters is None else body.filters.filters()
        if filters is not None:
            book = deployed.policy.filters
            assert book is not None
            book.attributes.passes(filters)
            book.attributes.indices(filters.candidates or (), "candidates")
            book.attributes.indices(filters.exclude, "exclude")
        return self._asked(body, filters, deployed)

    def _at_hand(self, body: wire.RecommendBody, deployed: Deployed) -> bool:
        """Whether a request is read in less time than it takes to give it to another thread."""
        ruled = body.filters is not None or deployed.recommender.book is not None
        return body.user_id is not None and not ruled and self.users.at_hand(body.user_id, deployed.row_of)

    def _asked(self, body: wire.RecommendBody, filters: Filters | None, deployed: Deployed) -> Request:
        """The request with all that its list must obey: the caller's filter, and items that a person refused."""
        recommender = deployed.recommender
        if body.prompt is not None:
            how: dict[str, Any] = {"read_filters": body.read_filters, "by_words": body.by_words}
            how["prefer"] = body.prefer
            return recommender.read(prompt=body.prompt, filters=filters, k=body.k, **how)
        if body.user_id is not None:
            request = self.users.request(body.user_id, recommender, deployed.row_of)
        else:
            assert body.state is not None
            state, lost = wire_state(body.state, deployed)
            what = "of the state's interactions are with items that the catalogue does not have."
            request = Request(state, note=f"{lost} {what}" if lost else "")
        asked = recommender.under_rules(request.state, filters, body.k)
        return recommender.preferring(replace(request, filters=asked), body.prefer)

    async def recommend(self, body: wire.RecommendBody) -> wire.RecommendAnswer:
        """The answer to a request, by the policy or, where that takes too long, by the fallback.

        Raises:
            RequestError: what cannot be met.
            TooBusy: too many requests wait.
            Closed: the service is shutting down.
        """
        if not self.ready:
            raise Closed
        deployed = self.deployed
        self._check(body, deployed)
        loop = asyncio.get_running_loop()
        if self._at_hand(body, deployed):
            request = self.read(body, deployed)
        else:
            request = await loop.run_in_executor(None, self.read, body, deployed)
        explore = None if body.explore is None else (body.explore.seed, body.explore.temperature)
        job = Job(
            request,
            deployed,
            body.k,
            uuid.uuid4().hex,
            body.exclude_seen,
            body.exact,
            min(body.explain, body.k),
            explore,
            body.user_id,
        )
        self.batcher.submit(job)
        patience = self.settings.deadline_s
        if body.deadline_ms is not None:
            patience = min(patience, body.deadline_ms / 1000)
        done = asyncio.wrap_future(job.done)
        try:
            async with asyncio.timeout(patience):
                return await asyncio.shield(done)
        except TimeoutError:
            if not job.claim():  # it is just being written down
                return await done  # type: ignore[no-any-return]
            done.cancel()
            reason: Any = "deadline"
        except (RequestError, Closed):
            raise
        except asyncio.CancelledError:
            job.claim()
            raise
        except Exception as error:
            self.journal.say("fault", where=place_of(error))
            reason = "fault"
        return await loop.run_in_executor(None, self._fallback, job, reason)

    def feedback(self, body: wire.FeedbackBody) -> Receipt:
        """Logs feedback; when this returns it is on the disk.

        Raises:
            UnknownSlate: the slate was never served.
            RequestError: an item that it did not show, or a report that contradicts one before.
        """
        outcome = Outcome(body.slate_id, body.item_id, body.kind, body.value, body.feedback_id)
        try:
            receipt = self.users.receive(outcome)
        except RequestError as error:
            if not self.log.user_of(body.slate_id)[0]:
                raise UnknownSlate(str(error)) from None
            raise
        self.metrics.feedback.labels(body.kind).inc()
        return receipt

    def _check(self, body: wire.RecommendBody, deployed: Deployed) -> None:
        items, most = len(deployed.item_ids), self.settings
        if body.k > min(items, most.k):
            raise RequestError(f"k is {body.k}; ask for at most {min(items, most.k)} items.")
        if body.explain > most.explain:
            raise RequestError(f"explain is {body.explain}; ask why of at most {most.explain} items.")

    def _seen_batch(self, jobs: int, seconds: float) -> None:
        self.metrics.batch.observe(jobs)
        self.metrics.decode.observe(seconds)
        if time.monotonic() - self._tidied > TIDY_S:  # some 15 ms between two batches
            give_back()
            self._tidied = time.monotonic()

    def _answer_batch(self, jobs: Sequence[Job]) -> None:
        """What the worker does with a batch: once, but where floors of a day changed while it was in the model."""
        rules, left, turn = jobs[0].deployed.recommender, list(jobs), 0
        # a slate that was drawn is not drawn again because of what others showed meanwhile: its propensity would be
        # that of two draws
        if jobs[0].explore is not None and rules.book is not None and rules.book.daily:
            turn = TURNS
        while left:
            # fallbacks may count meanwhile; in the end they wait, so that every slate is made at last
            with contextlib.nullcontext() if turn < TURNS else rules.exposure.lock:
                left, turn = self._answered(left), turn + 1

    def _answered(self, jobs: Sequence[Job]) -> list[Job]:
        """Answers jobs, those that ask for reasons last, as these take long; the ones that must be made once more."""
        for job, asked in zip(jobs, asked_today(jobs), strict=True):
            job.filters = asked
        found = decoded(jobs, self.settings.seed)
        pairs = list(zip(jobs, found, strict=True))
        for job, one in pairs:
            if isinstance(one, RequestError) and job.claim():
                job.done.set_exception(one)
        drawn = [(job, one) for job, one in pairs if not isinstance(one, RequestError)]
        plain = [
            (job, one, answer_of(job, job.filters, one.certified.slate)) for job, one in drawn if not job.explain
        ]
        left = self._hand_out(plain)
        for job, one in drawn:
            if job.explain and not job.claimed:
                left += self._hand_out([(job, one, self._explained(job, one.certified.slate))])
        return left

    def _explained(self, job: Job, slate: Slate) -> Recommendation:
        recommender, told = job.deployed.recommender, slate.items_K[: job.explain]
        options: dict[str, Any] = {"exclude_seen": job.exclude_seen, "exact": job.exact}
        reasons = recommender.reasons(job.request, told, job.k, **options)
        return answer_of(job, job.filters, slate, reasons)

    def _hand_out(self, made: Sequence[tuple[Job, Drawn, Recommendation]]) -> list[Job]:
        """Logs slates in one transaction, then gives them out; the jobs whose floors of a day hold no more."""
        if not made:
            return []
        with made[0][0].deployed.recommender.exposure.counting():  # in the order of the log
            ours, left = counted(made)
            shown = [(job, drawn) for job, drawn, _ in ours if drawn.certified.slate.items_K]
            self.log.serve([served(job, d.certified.slate, d.propensity_K, d.exploration) for job, d in shown])
        ready = []
        for job, drawn, told in ours:
            certified = drawn.certified
            answer = body_of(job, job.filters, certified.slate, told, drawn.propensity_K)
            answer.certificate = certificate_of(certified)
            answer.tokens = tokens_of(certified)
            self.metrics.read.inc(certified.tokens - certified.cached)
            self.metrics.cached.inc(certified.cached)
            self._count(answer)
            ready.append((job, answer))
        for job, answer in ready:  # at last: who is answered wakes the web side, which would run between the others
            job.done.set_result(answer)
        return left

    def _fallback(self, job: Job, reason: Any) -> wire.RecommendAnswer:
        recommender = job.deployed.recommender
        with recommender.exposure.counting():
            (asked,) = asked_today([job], spare=True)
            items = job.deployed.fallback.items(replace(job.request, filters=asked), job.k, job.exclude_seen)
            slate, chances = Slate(items, (float("nan"),) * len(items)), (1.0,) * len(items)
            recommender.shown(slate)
            if items:
                self.log.serve([served(job, slate, chances, f"fallback {reason}")])
        answer = body_of(job, asked, slate, answer_of(job, asked, slate), chances)
        answer.source, answer.fallback_reason = "fallback", reason
        self._count(answer)
        return answer

    def _count(self, answer: wire.RecommendAnswer) -> None:
        self.metrics.slates.labels(answer.source).inc()
        if answer.rules is not None:
            self.metrics.ruled.labels("yes" if answer.rules.complete else "no").inc()


def served_versions(run: Path, folder: Path) -> HotSwap[LanguagePolicy]:
    """The promoted version of a run's policy, loaded when it changes.

    Raises:
        RunError: the folder holds versions of another model.
    """
    from llmrec.online.deployed import deployed
    from llmrec.online.update import OnlineSettings

    updater = deployed(run, folder, OnlineSettings())
    first = next(iter(updater.versions.numbers()), None)
    if first is not None and updater.versions.version(first).facts.get("origin", "") != updater.origin:
        raise RunError(
            f"{shown(folder)} holds versions of another model than this run's; name the run that they began from."
        )
    return HotSwap(updater.versions, updater.policy)
