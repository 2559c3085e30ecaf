"""The writer behind an OpenAI-compatible endpoint: waits, tries again, and believes nothing that it answers.

Only the facts of a source are sent, never an id of a person. The key comes from an environment variable, is sent in
the one header that needs it, follows no redirect, and stands in no message, file or `repr`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from llmrec.bounded import parse_json
from llmrec.enrich.prompting import Prompts, draft_of
from llmrec.enrich.types import Author, Draft, Source
from llmrec.errors import ConfigError, RequestError
from llmrec.printing import one_line
from llmrec.version import __version__

KEY_VARIABLE = "LLMREC_ENDPOINT_KEY"
_LARGEST = 2 << 20
"""Bytes of an answer that are read."""
_LOCAL = ("localhost", "127.0.0.1", "::1")
_REFUSED = {
    401: "the key is refused; set the environment variable {variable} to a valid one",
    403: "the key may not use this model; choose another model or key",
    404: "there is no such model or path; check --model and --endpoint (it ends before /chat/completions)",
}
_LONGEST_WAIT = 60.0


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """How an endpoint is asked.

    Attributes:
        url: its base, to which /chat/completions is added, for example http://localhost:8000/v1.
        model: its name for the model.
        key_variable: the environment variable with the key; where it is not set no key is sent.
        timeout: seconds for one answer, whole.
        retries: how often a request is repeated.
        parallel: requests under way at a time.
        per_minute: requests begun in a minute at most; None sets no bound.
        tokens: of an answer.
        characters: of a prompt, as the endpoint's tokens are not known here.
        give_up: texts in a row that could not be had, after which it is held to be down.
    """

    url: str
    model: str
    key_variable: str = KEY_VARIABLE
    timeout: float = 60.0
    retries: int = 4
    parallel: int = 4
    per_minute: float | None = None
    tokens: int = 120
    characters: int = 6000
    give_up: int = 8


class _Again(Exception):
    """A request that may be repeated: why, and after how many seconds the endpoint wants it."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class _TooLong(Exception):
    """The prompt is longer than the endpoint's context."""


@dataclass
class _Pace:
    """Begins of requests, at most so many a minute; one object for all threads."""

    per_minute: float | None
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    _next: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def wait(self) -> None:
        if self.per_minute is None:
            return
        with self._lock:
            now = self.clock()
            begin = max(now, self._next)
            self._next = begin + 60.0 / self.per_minute
        if begin > now:
            self.sleep(begin - now)


class EndpointWriter:
    """Writes through an endpoint.

    Args:
        settings: where and how.
        prompts: the templates.
        sleep: waits; tests give another.

    Raises:
        ConfigError: an address that is none, holds a password, or would send the key unencrypted.
    """

    def __init__(
        self, settings: EndpointSettings, prompts: Prompts, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.settings, self.prompts, self._sleep = settings, prompts, sleep
        self._address = _checked(settings)
        self._pace = _Pace(settings.per_minute, time.monotonic, sleep)
        self._failed = 0

    @property
    def batch(self) -> int:
        """As many as are under way at a time."""
        return 4 * self.settings.parallel

    @property
    def together(self) -> bool:
        """Requests know nothing of one another."""
        return False

    @property
    def author(self) -> Author:
        """The model's name and the endpoint's origin; what stands behind them nobody can check."""
        where = self._address
        settings = (("tokens", str(self.settings.tokens)), ("characters", str(self.settings.characters)))
        return Author(
            "endpoint", f"{self.settings.model} at {where.scheme}://{where.netloc}", "", self.prompts.hash, settings
        )

    def write(self, sources: Sequence[Source]) -> list[Draft]:
        """One draft a source; what could not be had after all retries is a failure.

        Raises:
            RequestError: the key or the model is refused, or the endpoint has given nothing several times in a row.
        """
        with ThreadPoolExecutor(max_workers=self.settings.parallel) as pool:
            drafts = list(pool.map(self._draft, sources))
        for draft in drafts:
            self._failed = self._failed + 1 if draft.failure.startswith(_DOWN) else 0
            if self._failed >= self.settings.give_up:
                raise RequestError(
                    f"The endpoint {self._address.netloc} gave no answer to {self._failed} texts in a row "
                    f"({draft.failure.removeprefix(_DOWN)}); what it wrote is kept, so give the same command again "
                    "once it answers."
                )
        return drafts

    def _draft(self, source: Source) -> Draft:
        room, failure = self.settings.characters, ""
        attempt = 0
        while attempt <= self.settings.retries:
            prompt = self.prompts.fitting(source, lambda text, most=room: len(text) <= most)  # type: ignore[misc]
            if prompt is None:
                return Draft(failure="the prompt does not fit into the endpoint's context")
            try:
                text, cut = self._ask(prompt)
            except _TooLong:
                # Its context is not known, so the prompt shrinks until it is taken; that is no failed attempt.
                room = min(room, len(prompt)) * 3 // 4
                continue
            except _Again as error:
                failure = _DOWN + str(error)
                self._wait(attempt, error.after)
                attempt += 1
                continue
            draft = draft_of(text, source, self.prompts.language, cut=cut)
            if not draft.failure:
                return draft
            failure = draft.failure
            attempt += 1
        return Draft(failure=failure)

    def _wait(self, attempt: int, after: float | None) -> None:
        if attempt >= self.settings.retries:
            return
        # Waits double; the part by chance keeps threads that failed together from asking together again.
        wait = min(2.0**attempt, _LONGEST_WAIT) * (0.5 + random.random() / 2) if after is None else after
        self._sleep(min(wait, _LONGEST_WAIT))

    def _ask(self, prompt: str) -> tuple[str, bool]:
        """The answer's text and whether it was cut off."""
        self._pace.wait()
        body = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.settings.tokens,
            "temperature": 0,
            "stream": False,
        }
        status, headers, answer = self._post(json.dumps(body).encode())
        if status != 200:
            raise self._refusal(status, headers, answer)
        try:
            tree = parse_json(answer.decode("utf-8"))
        except (ValueError, UnicodeDecodeError):
            raise _Again("its answer is no whole JSON") from None
        return _content(tree)

    def _refusal(self, status: int, headers: http.client.HTTPMessage, answer: bytes) -> Exception:
        if status in _REFUSED:
            mend = _REFUSED[status].format(variable=self.settings.key_variable)
            return RequestError(f"The endpoint {self._address.netloc} answers {status}: {mend}.")
        if status == 429 or status >= 500:
            return _Again(f"it answers {status}", _seconds(headers.get("Retry-After")))
        said = answer[:20_000].decode("utf-8", "replace").lower()
        if status in (400, 413, 422) and (
            status == 413 or ("context" in said and ("length" in said or "max" in said))
        ):
            return _TooLong()
        if 300 <= status < 400:
            return RequestError(
                f"The endpoint {self._address.netloc} leads elsewhere ({status}); give the address that it leads to."
            )
        return RequestError(
            f"The endpoint {self._address.netloc} refuses the request ({status}: {one_line(said, 160)}); check "
            "--model and --tokens."
        )

    def _post(self, body: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body; the whole exchange within the timeout, however slowly bytes drip in."""
        seconds = self.settings.timeout
        kind = http.client.HTTPSConnection if self._address.scheme == "https" else http.client.HTTPConnection
        link = kind(self._address.hostname or "", self._address.port, timeout=seconds)
        late = threading.Event()
        try:
            link.connect()
            # The socket's own timeout is one a piece; a byte a second would keep us for ever.
            watch = threading.Timer(seconds, _hang_up, (link.sock, late))
            watch.daemon = True
            watch.start()
            try:
                link.request("POST", self._address.path, body, self._headers())
                answer = link.getresponse()
                found = answer.status, answer.headers, _read(answer)
            finally:
                watch.cancel()
            if late.is_set():  # closed in the middle, which may look like an end
                raise TimeoutError
            return found
        except (OSError, http.client.HTTPException) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                raise _Again(f"no answer within {seconds:g} s") from None
            if isinstance(error, http.client.HTTPException):
                raise _Again(f"its answer breaks off or is no HTTP ({type(error).__name__})") from None
            reason = one_line(error.strerror or type(error).__name__, 80)
            raise _Again(f"no connection ({reason})") from None
        finally:
            link.close()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": f"llmrec/{__version__}"}
        key = _key(self.settings)
        return {**headers, "Authorization": f"Bearer {key}"} if key else headers


_DOWN = "the endpoint gave nothing: "


def _hang_up(sock: socket.socket, late: threading.Event) -> None:
    late.set()
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _read(answer: http.client.HTTPResponse) -> bytes:
    data = answer.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise _Again(f"its answer has more than {_LARGEST >> 20} MiB")
    if answer.length:
        raise http.client.IncompleteRead(data)
    return data


def _content(tree: Any) -> tuple[str, bool]:
    try:
        choice = tree["choices"][0]
        text = choice["message"]["content"]
    except (LookupError, TypeError):
        raise _Again("its JSON is no answer of a chat") from None
    if not isinstance(text, str):
        raise _Again("its JSON is no answer of a chat")
    return text, choice.get("finish_reason") == "length"


def _seconds(text: str | None) -> float | None:
    """What Retry-After says, where it is a number of seconds; a date is left to the usual waits."""
    try:
        found = float(text or "")
    except ValueError:
        return None
    return found if 0 <= found < float("inf") else None


def _key(settings: EndpointSettings) -> str:
    key = os.environ.get(settings.key_variable, "").strip()
    if not key.isascii() or any(c.isspace() for c in key):
        raise ConfigError(
            f"The environment variable {settings.key_variable} holds no key (spaces or other letters in it)."
        )
    return key


def _checked(settings: EndpointSettings) -> urllib.parse.SplitResult:
    try:
        found = urllib.parse.urlsplit(settings.url)
        port = found.port
    except ValueError:
        raise ConfigError(
            f"--endpoint {one_line(settings.url, 80)!r} is no address; give http://HOST:PORT/v1."
        ) from None
    del port
    if found.scheme not in ("http", "https") or not found.hostname:
        raise ConfigError("--endpoint is no http or https address; give, for example, http://localhost:8000/v1.")
    if found.username or found.password or found.query or found.fragment:
        raise ConfigError(
            "--endpoint holds a password, a query or a fragment; give the plain address, and the key in the "
            f"environment variable {settings.key_variable}."
        )
    key = _key(settings)
    if found.scheme == "http" and found.hostname not in _LOCAL and key:
        raise ConfigError(
            f"--endpoint is not encrypted, so the key of {settings.key_variable} could be read on its way; give an "
            "https address, or unset the variable."
        )
    for name, value, least in (("retries", settings.retries, 0), ("parallel", settings.parallel, 1)):
        if value < least:
            raise ConfigError(f"--{name} is {value}; it must be at least {least}.")
    if not settings.timeout > 0 or (settings.per_minute is not None and not settings.per_minute > 0):
        raise ConfigError("--timeout and --per-minute must be above 0.")
    return found._replace(path=found.path.rstrip("/") + "/chat/completions")
