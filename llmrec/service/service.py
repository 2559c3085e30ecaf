"""The service without its web side: requests in, answers out, feedback into the log."""

from __future__ import annotations

import asyncio
import math
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmrec.catalogue.filters import Filters
from llmrec.config import RunConfig
from llmrec.errors import RequestError, RunError
from llmrec.online.events import LoggedState, Outcome, Receipt, Served
from llmrec.online.log import EventLog
from llmrec.online.versions import HotSwap
from llmrec.policy.kept import KeptPrompts
from llmrec.policy.language_policy import Certified, LanguagePolicy
from llmrec.recommender import Recommendation, Recommender, Request
from llmrec.service import wire
from llmrec.service.batches import Batcher, Closed, Drawn, Job
from llmrec.service.deployed import Deployed
from llmrec.service.engine import decoded
from llmrec.service.fallback import Fallback
from llmrec.service.logs import Journal, place_of
from llmrec.service.metrics import Metrics
from llmrec.service.settings import ServiceSettings
from llmrec.service.shelf import Changes, Shelf
from llmrec.service.users import Users
from llmrec.storage import resolve, shown
from llmrec.types import Slate

EVENTS = "events.sqlite"


class UnknownSlate(RequestError):
    """Feedback on a slate that was never served."""


class Service:
    """Answers requests for one run folder. Close it in the end.

    Args:
        recommender: of the run folder, with its data set where users are to be known.
        state: folder of what the service keeps: the event log. One service at a time works on it.
        settings: limits.
        journal: where lines go.
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
    ) -> None:
        settings.check()
        self.settings, self.journal, self.metrics = settings, journal or Journal(), Metrics()
        self.state = resolve(state)
        self._config = RunConfig.read(recommender.bundle.folder / "config.yaml")
        self.log = EventLog(self.state / EVENTS)  # holds the lock of the folder from here on
        self._own, self._changing = recommender, threading.Lock()
        self.shelf = Shelf(self.state / "catalogue")
        try:
            catalogue, self.changes = self.shelf.current()
            self._hot = None if versions is None else served_versions(recommender.bundle.folder, versions)
            self.deployed = self._deploy(self._with(self.changes), 0, catalogue)
            self.refresh()
        except BaseException:
            self.log.close()
            raise
        self.users = Users(self.log)
        self.batcher = Batcher(
            self._answer_batch, batch=settings.batch, waiting=settings.waiting, seen=self._seen_batch
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
            before, self._own = self._own, Recommender(replace(self._own.bundle, policy=policy), self._own.data)
            try:
                self.deployed = self._deploy(self._with(self.changes), number, self.deployed.catalogue)
            except BaseException:
                self._own = before
                raise
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
        return Recommender(changes.applied(self._own.bundle), self._own.data)

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
        self.log.close()
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
        request = self._asked(body, filters, deployed)
        if body.explore is not None and request.filters is not None:
            # what a person has refused is left out by a filter, which draws do not take
            raise RequestError("Slates that explore leave no refused items out (llmrec review); ask without explore.")
        return request

    def _asked(self, body: wire.RecommendBody, filters: Filters | None, deployed: Deployed) -> Request:
        """The request with all that its list must obey: the caller's filter, and items that a person refused."""
        recommender = deployed.recommender
        if body.prompt is not None:
            return recommender.read(prompt=body.prompt, filters=filters, read_filters=body.read_filters, k=body.k)
        if body.user_id is not None:
            request = self.users.request(body.user_id, recommender, deployed.row_of)
        else:
            assert body.state is not None
            state, lost = wire_state(body.state, deployed)
            what = "of the state's interactions are with items that the catalogue does not have."
            request = Request(state, note=f"{lost} {what}" if lost else "")
        return replace(request, filters=recommender.under_rules(request.state, filters, body.k))

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
            answer: wire.RecommendAnswer = await asyncio.wait_for(asyncio.shield(done), patience)
            return answer
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

    def _answer_batch(self, jobs: Sequence[Job]) -> None:
        """What the worker does with a batch; those that ask for reasons come last, as these take long."""
        found = decoded(jobs, self.settings.seed)
        pairs = list(zip(jobs, found, strict=True))
        for job, one in pairs:
            if isinstance(one, RequestError) and job.claim():
                job.done.set_exception(one)
        drawn = [(job, one) for job, one in pairs if not isinstance(one, RequestError)]
        self._hand_out([(job, one, _answer_of(job, one.certified.slate)) for job, one in drawn if not job.explain])
        for job, one in drawn:
            if job.explain and not job.claimed:
                self._hand_out([(job, one, self._explained(job, one.certified.slate))])

    def _explained(self, job: Job, slate: Slate) -> Recommendation:
        recommender, told = job.deployed.recommender, slate.items_K[: job.explain]
        options = {"exclude_seen": job.exclude_seen, "exact": job.exact}
        reasons = recommender.reasons(job.request, told, job.k, **options)
        return recommender.answer(job.request, slate, job.k, reasons)

    def _hand_out(self, made: Sequence[tuple[Job, Drawn, Recommendation]]) -> None:
        """Logs slates in one transaction, then gives them out."""
        ours = [(job, drawn, told) for job, drawn, told in made if job.claim()]
        shown = [(job, drawn) for job, drawn, _ in ours if drawn.certified.slate.items_K]
        self.log.serve([_served(job, d.certified.slate, d.propensity_K, d.exploration) for job, d in shown])
        for job, drawn, told in ours:
            certified = drawn.certified
            answer = _body(job, told, drawn.propensity_K)
            answer.certificate = _certificate(certified)
            answer.tokens = _tokens(certified)
            self.metrics.tokens.labels("read").inc(certified.tokens - certified.cached)
            self.metrics.tokens.labels("cached").inc(certified.cached)
            self.metrics.slates.labels("model").inc()
            job.done.set_result(answer)

    def _fallback(self, job: Job, reason: Any) -> wire.RecommendAnswer:
        items = job.deployed.fallback.items(job.request, job.k, job.exclude_seen)
        slate = Slate(items, (float("nan"),) * len(items))
        chances = (1.0,) * len(items)
        if items:
            self.log.serve([_served(job, slate, chances, f"fallback {reason}")])
        answer = _body(job, job.deployed.recommender.answer(job.request, slate, job.k), chances)
        answer.source, answer.fallback_reason = "fallback", reason
        self.metrics.slates.labels("fallback").inc()
        return answer


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


def wire_state(body: wire.StateBody, deployed: Deployed) -> tuple[Any, int]:
    """The state that a request gives, and how many of its interactions are with items that are not there."""
    told = [[one.choice() for one in part] for part in (body.history, body.session)]
    logged = LoggedState(body.profile, tuple(told[0]), tuple(told[1]), body.context, body.time)
    state = logged.state(None, deployed.row_of)
    lost = sum(map(len, told)) - len(state.history) - len(state.session)
    return state, lost


def _answer_of(job: Job, slate: Slate) -> Recommendation:
    return job.deployed.recommender.answer(job.request, slate, job.k)


def _served(job: Job, slate: Slate, chances: tuple[float, ...], exploration: str) -> Served:
    ids = job.deployed.item_ids
    items = tuple(ids[item] for item in slate.items_K)
    # What was asked in free text and by nobody who can ask to be forgotten is not kept: such slates teach nothing.
    state = None if job.user_id is None else LoggedState.of(job.request.state, ids)
    return Served(job.name, job.user_id, items, chances, job.deployed.version, exploration, state)


def _body(job: Job, told: Recommendation, chances: tuple[float, ...]) -> wire.RecommendAnswer:
    items = []
    for place, (item, chance) in enumerate(zip(told.items, chances, strict=True), 1):
        log_prob, why = wire.number(item.log_prob), item.explanation
        items.append(
            wire.ChoiceBody(
                place=place,
                item_id=item.item_id,
                title=item.title,
                log_probability=log_prob,
                probability=None if log_prob is None else min(math.exp(log_prob), 1.0),
                propensity=chance,
                reason=None if why is None else why.sentence,
                without=None if why is None else why.without or None,
            )
        )
    return wire.RecommendAnswer(
        slate_id=job.name if items else None,
        source="model",
        version=job.deployed.version,
        catalogue=job.deployed.catalogue,
        items=items,
        certificate=None,
        tokens=None,
        note=told.note,
        matches=[match.title for match in told.matches],
        wishes=[wish.text for wish in told.wishes],
    )


def _certificate(one: Certified) -> wire.CertificateBody:
    bound = None if one.bound is None else wire.number(one.bound)
    return wire.CertificateBody(proven=one.proven, exact_places=one.exact_places, bound=bound)


def _tokens(one: Certified) -> wire.TokensBody | None:
    if not one.tokens:  # a draw reads all of its prompt
        return None
    return wire.TokensBody(prompt=one.tokens, cached=one.cached, read=one.tokens - one.cached)
