"""Runs the service under uvicorn: until SIGTERM or Ctrl-C, and then until what was asked is answered."""

from __future__ import annotations

import ipaddress
import logging
import socket
from pathlib import Path

import uvicorn

from llmrec.errors import RequestError, RunError, Stopped
from llmrec.finding import run_folder
from llmrec.printing import one_line
from llmrec.recommender import Recommender
from llmrec.service.app import create_app
from llmrec.service.keys import VARIABLE, Keys
from llmrec.service.logs import Journal, Lines, ServerLines
from llmrec.service.memory import settle
from llmrec.service.service import Service
from llmrec.service.settings import ServiceSettings
from llmrec.storage import resolve

CONNECTIONS = 1_000
"""Open at once."""


def state_folder(run: Path) -> Path:
    """Where a service keeps what it must not lose, by default: beside the run, since a run is handed on."""
    place = resolve(run)
    return place.with_name(f"{place.name}.service")


def serve(
    model: str,
    *,
    host: str,
    port: int,
    settings: ServiceSettings,
    data: Path | None = None,
    revision: str | None = None,
    state: Path | None = None,
    keys: Path | None = None,
    events: Path | str | None = None,
    versions: Path | None = None,
    rules: Path | None = None,
) -> None:
    """Serves a run folder or a Hub repository; returns after a shutdown that was asked for.

    Args:
        model: a run folder or a Hub id.
        host: address to listen at; others than this machine's own need keys.
        port: 0 takes a free one.
        settings: limits.
        data: the data set's folder; by default the run's own.
        revision: of the Hub repository.
        state: folder of what must not be lost; by default RUN.service beside the run.
        events: the event log, a file's path or the URL of a PostgreSQL server; by default a file in `state`.
        keys: file of API keys; by default those of LLMREC_API_KEYS.
        versions: folder of the policy's versions, whose promoted one is served.
        rules: file of rules that every answer obeys; by default those of the run's configuration.

    Raises:
        RequestError: an address without keys, or settings that let nothing through.
        ConfigError: rules that cannot be read or contradict one another.
        RunError: no run, the port is taken, or another service uses the same folder.
    """
    settings.check()
    known = Keys.read(keys)
    if not known.any and not _is_loopback(host):
        raise RequestError(
            f"{one_line(host, 60)} can be reached from other machines, so it needs API keys; set {VARIABLE} or give "
            "--keys FILE."
        )
    listening = listen(host, port)
    with listening, Lines() as lines:
        folder = run_folder(model, revision=revision)
        recommender = Recommender.load(str(folder), data=data, rules=rules)
        place = state_folder(folder) if state is None else state
        service = Service(recommender, place, settings, Journal(lines.write), versions=versions, events=events)
        try:
            app = create_app(service, known)
            config = uvicorn.Config(
                app,
                log_config=None,  # requests are in the journal, without addresses
                access_log=False,
                limit_concurrency=CONNECTIONS,
                timeout_graceful_shutdown=max(1, int(settings.grace_s)),
                timeout_keep_alive=10,
                server_header=False,
                date_header=False,
            )
            server = uvicorn.Server(config)
            said, own = logging.getLogger("uvicorn.error"), ServerLines(service.journal)
            said.addHandler(own)
            settle()
            address = listening.getsockname()
            facts = {"items": len(service.deployed.item_ids), "rules": len(recommender.rules)}
            service.journal.say("serving", host=address[0], port=address[1], **facts)
            try:
                server.run(sockets=[listening])
            except Stopped:  # uvicorn raises the signal again when it has ended: it ended as it was asked to
                pass
            finally:
                said.removeHandler(own)
        finally:
            service.journal.say("stopped", answered_all=service.close())


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens already, so that a port which is taken is said before a model is loaded."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, UnicodeError, OverflowError) as error:
        reason = one_line(getattr(error, "strerror", None) or error, 100)
        raise RunError(
            f"Nothing can listen at {one_line(host, 60)} port {port} ({reason}); give another --host or --port."
        ) from None
    return made
