"""Errors as every route says them: one shape, with a code that stays."""

from __future__ import annotations

import math

from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from llmrec.errors import LLMRecError, RunError
from llmrec.printing import one_line
from llmrec.service import wire
from llmrec.service.batches import Closed, TooBusy
from llmrec.service.logs import Journal, place_of
from llmrec.service.service import UnknownSlate

REFUSALS: tuple[type[Exception], ...] = (LLMRecError, TooBusy, Closed)
"""What a request is refused with; anything else is a fault."""


def failed(scope: Scope, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error as every route says it."""
    detail = wire.ErrorDetail(code=code, message=one_line(message), request_id=scope.get("request_id", ""))
    return JSONResponse(wire.ErrorBody(error=detail).model_dump(), status, headers)


def refusal(scope: Scope, error: Exception, journal: Journal) -> Response:
    """What is said of one of `REFUSALS`."""
    if isinstance(error, TooBusy):
        after = str(math.ceil(error.after_s))
        said = f"Too many requests wait; try again in {after} seconds."
        return failed(scope, 429, "too_busy", said, {"Retry-After": after})
    if isinstance(error, Closed):
        return failed(scope, 503, "closing", "The service is shutting down; ask another.", {"Retry-After": "1"})
    if isinstance(error, UnknownSlate):
        return failed(scope, 404, "unknown_slate", str(error))
    if isinstance(error, RunError):
        # the disk or the log, which the client cannot mend; its place is nobody's business
        said = "The service cannot write its log just now; try again later."
        journal.say("fault", request_id=scope.get("request_id"), where=place_of(error))
        return failed(scope, 503, "unavailable", said, {"Retry-After": "5"})
    return failed(scope, 422, "refused", str(error))


def fault(scope: Scope) -> Response:
    """What is said of an error of llmrec's own."""
    name = scope.get("request_id", "")
    said = f"This is a fault of llmrec; its line in the log has the request id {name}."
    return failed(scope, 500, "fault", said)
