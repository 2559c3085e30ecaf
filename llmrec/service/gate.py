"""What stands before the routes: keys, the bound of a body, a line of the journal and figures for each request.

The routes that are asked all the time are answered from here, since what a framework does around a route costs
several times what the route does.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmrec.service.keys import Keys, given_key
from llmrec.service.logs import place_of
from llmrec.service.refusals import REFUSALS, failed, fault, refusal
from llmrec.service.service import Service

ADMIN = ("/v1/items",)
OPEN = ("/health", "/ready", "/openapi.json", "/docs")
_JSON = b"application/json"


@dataclass(frozen=True, slots=True)
class Direct:
    """A route that takes a JSON object by POST and answers with another.

    Attributes:
        body: what it takes.
        answer: the route itself, as the framework calls it.
    """

    body: type[BaseModel]
    answer: Callable[[Any], Awaitable[BaseModel]]

    def read(self, headers: Mapping[bytes, bytes], body: bytes) -> BaseModel | None:
        """The body; None where the framework has to say what is wrong with it, or reads what this does not."""
        kind = headers.get(b"content-type", b"")
        if kind != _JSON and not kind.startswith(_JSON + b";"):
            return None
        try:
            return self.body.model_validate_json(body)
        except ValidationError:
            return None


class Gate:
    """The application by ASGI.

    Args:
        app: the framework with all routes.
        service: which is asked.
        keys: that are let in.
        direct: routes that are answered without the framework, by path. Bodies that these cannot read go to the
            framework as they came, so it alone says what is wrong with a body.
    """

    def __init__(self, app: ASGIApp, service: Service, keys: Keys, direct: Mapping[str, Direct]) -> None:
        self.app, self.service, self.keys, self.direct = app, service, keys, direct
        self._draw = random.Random()
        self._figures: dict[tuple[str, int], tuple[Any, Any]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        # it names a line of the journal and opens nothing: no reason to ask the system each time
        name = scope["request_id"] = f"{self._draw.getrandbits(64):016x}"

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", name.encode())]
            await send(message)

        try:
            await self._answer(scope, receive, counted)
        except Exception as error:
            self.service.journal.say("fault", request_id=name, where=place_of(error))
            if not status:  # nothing was sent yet
                await fault(scope)(scope, receive, counted)
        took, route, status = time.perf_counter() - began, self._route(scope), status or 500
        requests, seconds = self._figure(route, status)
        requests.inc()
        seconds.observe(took)
        self.service.journal.say("request", request_id=name, route=route, status=status, ms=1000 * took)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        found = self._refused(scope, headers) or await self._body(scope, headers, receive)
        if found is None:
            return
        if isinstance(found, Response):
            await found(scope, receive, send)
            return
        direct = self.direct.get(scope["path"]) if scope["method"] == "POST" else None
        asked = None if direct is None else direct.read(headers, found)
        if direct is None or asked is None:
            await self.app(scope, _replayed(found, receive), send)
            return
        scope["path_answered"] = scope["path"]
        try:
            answer = await direct.answer(asked)
        except REFUSALS as error:
            await refusal(scope, error, self.service.journal)(scope, receive, send)
            return
        said = answer.__pydantic_serializer__.to_json(answer)
        kind = [(b"content-length", str(len(said)).encode()), (b"content-type", _JSON)]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        await send({"type": "http.response.body", "body": said})

    def _refused(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Response | None:
        path = scope["path"]
        if path in OPEN or not self.keys.any:
            return None
        named = [headers.get(name) for name in (b"authorization", b"x-api-key")]
        key = given_key(*(None if value is None else value.decode("latin-1") for value in named))
        if not self.keys.allows(key):
            said = "Give an API key as Authorization: Bearer KEY."
            return failed(scope, 401, "unauthorized", said, {"WWW-Authenticate": "Bearer"})
        if path.startswith(ADMIN) and not self.keys.allows(key, admin=True):
            return failed(scope, 403, "forbidden", "This needs a key that may change the catalogue.")
        return None

    async def _body(self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive) -> Response | bytes | None:
        """The whole body, read within its bounds before anything looks at it; None where the client has gone."""
        most, parts, size = self.service.settings.body, [], 0
        said = headers.get(b"content-length", b"")
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
        return b"".join(parts)

    def _route(self, scope: Scope) -> str:
        path = scope.get("path_answered") or getattr(scope.get("route"), "path", None)
        return path if isinstance(path, str) else "other"

    def _figure(self, route: str, status: int) -> tuple[Any, Any]:
        """Counter and histogram of a route and a status, of which there are few."""
        found = self._figures.get((route, status))
        if found is None:
            metrics = self.service.metrics
            found = metrics.requests.labels(route, str(status)), metrics.seconds.labels(route)
            self._figures[route, status] = found
        return found


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body once more, and then what the connection says."""
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return whole.pop() if whole else await receive()

    return replayed
