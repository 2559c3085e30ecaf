"""The web side: routes, limits, keys, errors in one shape, and a line of the journal for each request."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmrec.errors import LLMRecError, RunError
from llmrec.printing import one_line
from llmrec.service import wire
from llmrec.service.batches import Closed, TooBusy
from llmrec.service.deployed import Deployed
from llmrec.service.keys import Keys, given_key
from llmrec.service.logs import place_of
from llmrec.service.metrics import CONTENT_TYPE
from llmrec.service.service import Service, UnknownSlate
from llmrec.version import __version__

ADMIN = ("/v1/items",)
OPEN = ("/health", "/ready", "/openapi.json", "/docs")
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": wire.ErrorBody, "description": "No JSON."},
    401: {"model": wire.ErrorBody, "description": "No key, or a wrong one."},
    413: {"model": wire.ErrorBody, "description": "The body is too long."},
    422: {"model": wire.ErrorBody, "description": "What cannot be met, in one sentence."},
    429: {"model": wire.ErrorBody, "description": "Too many requests wait; try again after Retry-After seconds."},
    503: {"model": wire.ErrorBody, "description": "The service is shutting down."},
}


def create_app(service: Service, keys: Keys | None = None) -> FastAPI:
    """The application; whoever calls this closes the service in the end."""
    app = FastAPI(
        title="llmrec",
        version=__version__,
        summary="Recommendations by a language model over a closed catalogue.",
        docs_url="/docs",
        redoc_url=None,
    )

    @app.post("/v1/recommend", responses=_ERRORS, tags=["recommend"])
    async def recommend(body: wire.RecommendBody) -> wire.RecommendAnswer:
        """The best items for a user, a free prompt or a state, with what is certain of the list."""
        return await service.recommend(body)

    @app.post(
        "/v1/feedback",
        responses={**_ERRORS, 404: {"model": wire.ErrorBody, "description": "The slate was never served."}},
        tags=["recommend"],
    )
    async def feedback(body: wire.FeedbackBody) -> wire.FeedbackAnswer:
        """What somebody did with an item of a slate; it is on the disk when this is answered."""
        receipt = await run_in_threadpool(service.feedback, body)
        return wire.FeedbackAnswer(seq=receipt.seq, repeated=receipt.repeated, late=receipt.late)

    @app.post("/v1/completions", responses=_ERRORS, tags=["recommend"])
    async def completions(body: wire.CompletionBody) -> wire.CompletionAnswer:
        """Titles of items as completions of a prompt, for clients that speak OpenAI's protocol."""
        asked = [wire.RecommendBody(prompt=prompt, k=body.n) for prompt in body.prompts]
        found = await asyncio.gather(*(service.recommend(one) for one in asked), return_exceptions=True)
        return _completion(body, [one for one in found if not _raised(one)])

    @app.post("/v1/items", responses=_ERRORS, tags=["catalogue"])
    async def items(body: wire.ItemsBody) -> wire.ItemsAnswer:
        """Other items from now on, all of the change or nothing; requests that run go on with what they have."""
        return _items(await run_in_threadpool(service.change_items, body))

    @app.post("/v1/items/rollback", responses=_ERRORS, tags=["catalogue"])
    async def roll_back() -> wire.ItemsAnswer:
        """Back to the items before the last change."""
        return _items(await run_in_threadpool(service.roll_back_items))

    @app.get("/health", tags=["operation"])
    async def health() -> wire.HealthAnswer:
        """The process answers."""
        return wire.HealthAnswer()

    @app.get("/ready", responses={503: {"model": wire.ReadyAnswer}}, tags=["operation"])
    async def ready(response: Response) -> wire.ReadyAnswer:
        """Whether requests are taken: from the end of loading to the begin of a shutdown."""
        response.status_code = 200 if service.ready else 503
        now = service.deployed
        return wire.ReadyAnswer(
            ready=service.ready, version=now.version, catalogue=now.catalogue, items=len(now.item_ids)
        )

    @app.get("/metrics", tags=["operation"], response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        service.metrics.waiting.set(len(service.batcher))
        service.metrics.kept.set(service.deployed.kept.size)
        service.metrics.most.set(service.deployed.kept.most)
        service.metrics.version.set(service.deployed.version)
        service.metrics.catalogue.set(service.deployed.catalogue)
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    _handle_errors(app, service)
    app.add_middleware(Gate, service=service, keys=keys or Keys())
    return app


def _raised(found: object) -> bool:
    """Raises what one of several requests was refused with, when all have ended."""
    if isinstance(found, BaseException):
        raise found
    return False


def _completion(body: wire.CompletionBody, found: list[Any]) -> wire.CompletionAnswer:
    listed = [(answer, item) for answer in found for item in answer.items]
    choices = [
        wire.CompletionChoice(
            index=place,
            text=item.title,
            item_id=item.item_id,
            slate_id=answer.slate_id,
            log_probability=item.log_probability,
        )
        for place, (answer, item) in enumerate(listed)
    ]
    tokens = sum(answer.tokens.prompt for answer in found if answer.tokens is not None)
    return wire.CompletionAnswer(
        id=f"cmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=body.model,
        choices=choices,
        usage=wire.CompletionUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


def _items(made: Deployed) -> wire.ItemsAnswer:
    return wire.ItemsAnswer(catalogue=made.catalogue, items=len(made.item_ids))


def _handle_errors(app: FastAPI, service: Service) -> None:
    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return failed(request.scope, 400, "invalid_json", "The body is no JSON; send a JSON object.")
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        sent = request.headers.get("content-type", "")
        if not place and not sent.startswith("application/json"):
            # what `curl -d` sends: such a body is never parsed
            said = "The body was not read as JSON; send it with the header 'Content-Type: application/json'."
            return failed(request.scope, 422, "invalid_request", said)
        said = str(first["msg"]).removeprefix("Value error, ")
        where = f"{one_line(place, 80)}: " if place else ""
        return failed(request.scope, 422, "invalid_request", f"{where}{one_line(said, 300)}.")

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        if error.status_code == 400:
            return failed(request.scope, 400, "invalid_json", "The body is no JSON; send a JSON object.")
        what = {404: "There is no such path; see /docs.", 405: "This path takes another method; see /docs."}
        said = what.get(error.status_code, one_line(str(error.detail), 300))
        return failed(request.scope, error.status_code, code, said, dict(error.headers or {}))

    @app.exception_handler(UnknownSlate)
    async def _unknown(request: Request, error: UnknownSlate) -> Response:
        return failed(request.scope, 404, "unknown_slate", str(error))

    @app.exception_handler(LLMRecError)
    async def _refused(request: Request, error: LLMRecError) -> Response:
        return failed(request.scope, 422, "refused", str(error))

    @app.exception_handler(RunError)
    async def _unavailable(request: Request, error: RunError) -> Response:
        # the disk or the log, which the client cannot mend; its place is nobody's business
        said = "The service cannot write its log just now; try again later."
        service.journal.say("fault", request_id=request.scope.get("request_id"), where=place_of(error))
        return failed(request.scope, 503, "unavailable", said, {"Retry-After": "5"})

    @app.exception_handler(TooBusy)
    async def _busy(request: Request, error: TooBusy) -> Response:
        after = str(math.ceil(error.after_s))
        said = f"Too many requests wait; try again in {after} seconds."
        return failed(request.scope, 429, "too_busy", said, {"Retry-After": after})

    @app.exception_handler(Closed)
    async def _closed(request: Request, error: Closed) -> Response:
        return failed(
            request.scope, 503, "closing", "The service is shutting down; ask another.", {"Retry-After": "1"}
        )


def failed(scope: Scope, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error as every route says it."""
    detail = wire.ErrorDetail(code=code, message=one_line(message), request_id=scope.get("request_id", ""))
    return JSONResponse(wire.ErrorBody(error=detail).model_dump(), status, headers)


class Gate:
    """What stands before the routes: a name for each request, its key, the bound of its body, its line in the log."""

    def __init__(self, app: ASGIApp, service: Service, keys: Keys) -> None:
        self.app, self.service, self.keys = app, service, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        scope["request_id"] = uuid.uuid4().hex[:16]

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = (b"x-request-id", scope["request_id"].encode())
                message["headers"] = [*message.get("headers", []), own]
            await send(message)

        try:
            refused = self._refused(scope) or await self._body(scope, receive)
            if isinstance(refused, Response):
                await refused(scope, receive, counted)
            elif refused is not None:
                await self.app(scope, refused, counted)
        except Exception as error:
            self.service.journal.say("fault", request_id=scope["request_id"], where=place_of(error))
            if status == 500:  # nothing was sent yet
                said = f"This is a fault of llmrec; its line in the log has the request id {scope['request_id']}."
                await failed(scope, 500, "fault", said)(scope, receive, counted)
        took, route = time.perf_counter() - began, self._route(scope)
        self.service.metrics.requests.labels(route, str(status)).inc()
        self.service.metrics.seconds.labels(route).observe(took)
        self.service.journal.say(
            "request", request_id=scope["request_id"], route=route, status=status, ms=1000 * took
        )

    def _refused(self, scope: Scope) -> Response | None:
        path = scope["path"]
        if path in OPEN or not self.keys.any:
            return None
        headers = dict(scope["headers"])
        named = [headers.get(name) for name in (b"authorization", b"x-api-key")]
        key = given_key(*(None if value is None else value.decode("latin-1") for value in named))
        if not self.keys.allows(key):
            said = "Give an API key as Authorization: Bearer KEY."
            return failed(scope, 401, "unauthorized", said, {"WWW-Authenticate": "Bearer"})
        if path.startswith(ADMIN) and not self.keys.allows(key, admin=True):
            return failed(scope, 403, "forbidden", "This needs a key that may change the catalogue.")
        return None

    async def _body(self, scope: Scope, receive: Receive) -> Response | Receive | None:
        """The whole body, read within its bounds before anything looks at it; None where the client has gone."""
        most, parts, size = self.service.settings.body, [], 0
        said = dict(scope["headers"]).get(b"content-length", b"")
        if said.isdigit() and int(said[:20]) > most:
            return failed(scope, 413, "too_long", f"The body is longer than {most:,} bytes; send less.")
        try:
            async with asyncio.timeout(self.service.settings.body_s):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    size, more = size + len(part), message.get("more_body", False)
                    if size > most:
                        return failed(scope, 413, "too_long", f"The body is longer than {most:,} bytes; send less.")
                    parts.append(part)
        except TimeoutError:
            return failed(scope, 408, "too_slow", "The body did not arrive in time; send it at once.")
        whole: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def replayed() -> Message:
            return whole.pop() if whole else await receive()

        return replayed

    def _route(self, scope: Scope) -> str:
        route = scope.get("route")
        path = getattr(route, "path", None)
        return path if isinstance(path, str) else "other"
