"""The web side: routes, and errors in one shape; what stands before them is in `gate.py`."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from llmrec.printing import one_line
from llmrec.service import wire
from llmrec.service.deployed import Deployed
from llmrec.service.gate import Direct, Gate
from llmrec.service.keys import Keys
from llmrec.service.metrics import CONTENT_TYPE
from llmrec.service.refusals import REFUSALS, failed, fault, refusal
from llmrec.service.service import Service
from llmrec.version import __version__

_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": wire.ErrorBody, "description": "No JSON."},
    401: {"model": wire.ErrorBody, "description": "No key, or a wrong one."},
    413: {"model": wire.ErrorBody, "description": "The body is too long."},
    422: {"model": wire.ErrorBody, "description": "What cannot be met, in one sentence."},
    429: {"model": wire.ErrorBody, "description": "Too many requests wait; try again after Retry-After seconds."},
    503: {"model": wire.ErrorBody, "description": "The service is shutting down."},
}


def create_app(service: Service, keys: Keys | None = None) -> Gate:
    """The application, by ASGI; whoever calls this closes the service in the end."""
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
    direct = {
        "/v1/recommend": Direct(wire.RecommendBody, recommend),
        "/v1/feedback": Direct(wire.FeedbackBody, feedback),
    }
    return Gate(app, service, keys or Keys(), direct)


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

    async def _refused(request: Request, error: Exception) -> Response:
        return refusal(request.scope, error, service.journal)

    for kind in REFUSALS:
        app.add_exception_handler(kind, _refused)

    @app.exception_handler(Exception)
    async def _fault(request: Request, error: Exception) -> Response:
        return fault(request.scope)  # the gate writes it down
