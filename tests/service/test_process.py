"""The command itself: it starts, answers what its page shows, ends as it was asked to, and loses nothing by a kill."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import typer
import yaml

from llmrec.cli.main import app
from llmrec.errors import RequestError, RunError
from llmrec.online.log import EventReader
from llmrec.service.server import serve
from llmrec.service.service import EVENTS
from llmrec.service.settings import ServiceSettings
from llmrec.service.shelf import Shelf
from tests.service.conftest import TITLES
from tests.service.forked import Forks, alive

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


@contextlib.contextmanager
def serving(run, state, *more, environment=None):
    command = [sys.executable, "-m", "llmrec", "serve", str(run / "run"), "--data", str(run / "data"), "--port", "0"]
    own = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    process = subprocess.Popen([*command, "--state", str(state), *more], stderr=subprocess.PIPE, text=True, env=own)
    try:
        said = next(line for line in process.stderr if '"serving"' in line)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield process, json.loads(said)["port"]
    finally:
        process.kill()
        process.wait(30)


def post(port, path, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def commands():
    """The curl commands of the page, each on one line."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("curl")]


def filled(line, answers):
    """A command with the last slate in place of the page's words."""
    slates = [answer for answer in answers if answer.get("slate_id")]
    if not slates:
        return line
    return line.replace("SLATE", slates[-1]["slate_id"]).replace("ITEM", slates[-1]["items"][0]["item_id"])


def test_the_page_s_commands_are_answered(starting):
    asked, answers = commands(), []
    assert len(asked) >= 8
    with starting(deadline_s=60.0) as one:
        for line in asked:
            words = shlex.split(filled(line, answers))
            (place,) = (word for word in words if word.startswith("localhost:8000"))
            sent = words[words.index("-d") + 1] if "-d" in words else None
            path = place.removeprefix("localhost:8000")
            got = one.client.post(path, content=sent, headers={"Content-Type": "application/json"})
            assert got.status_code == 200, (line, got.text)
            answers.append(got.json())
        counts = one.service.log.counts()
    assert counts["outcomes"] == 1
    assert counts["slates"] >= 4


@pytest.mark.slow
def test_the_page_s_commands_in_a_shell_and_the_end_by_a_signal(run, tmp_path):
    answers = []
    with serving(run, tmp_path / "state") as (process, port):
        for line in commands():
            line = filled(line, answers).replace("localhost:8000", f"127.0.0.1:{port}")
            done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
            answers.append(json.loads(done.stdout))
            assert "error" not in answers[-1], (line, answers[-1])
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    with EventReader(tmp_path / "state" / EVENTS) as log:
        assert log.counts()["outcomes"] == 1


def test_the_container_s_command_is_one_that_serve_takes():
    root, recipe = PAGE.parents[1], "Containerfile"
    lines = (root / recipe).read_text().splitlines()
    start = next(json.loads(line.removeprefix("ENTRYPOINT ")) for line in lines if line.startswith("ENTRYPOINT"))
    composed = yaml.safe_load((root / "compose.yaml").read_text())
    service = composed["services"]["llmrec"]
    words = [*start, *(word.replace("${LLMREC_RUN:-shop}", "shop") for word in service["command"])]
    command = typer.main.get_command(app).commands[words[1]]
    given = command.make_context("serve", words[2:]).params
    assert (given["model"], given["host"], str(given["state"])) == ("/runs/shop", "0.0.0.0", "/state")
    places = {volume.split(":")[1] for volume in service["volumes"]}
    assert {"/runs", "/state"} == places
    assert service["ports"] == [f"127.0.0.1:{given['port']}:{given['port']}"]
    assert int(service["stop_grace_period"].removesuffix("s")) > ServiceSettings().grace_s
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    assert all((root / name).exists() for name in copied)
    needed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {name.split("/")[0] for name in needed["force-include"]} <= {name.split("/")[0] for name in copied}


def test_what_is_refused_before_anything_is_loaded(run, tmp_path, monkeypatch):
    monkeypatch.delenv("LLMREC_API_KEYS", raising=False)
    asked = {"port": 0, "settings": ServiceSettings(), "state": tmp_path}
    with pytest.raises(RequestError, match=r"needs API keys"):
        serve(str(run / "run"), host="0.0.0.0", **asked)
    with pytest.raises(RunError, match=r"Nothing can listen at no such host"):
        serve(str(run / "run"), host="no such host", **{**asked, "port": 1}, keys=_keys(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RunError, match=r"Nothing can listen"):
        serve(str(run / "run"), host="127.0.0.1", **{**asked, "port": taken.getsockname()[1]})


def _keys(folder):
    (folder / "keys").write_text("k" * 24)
    return folder / "keys"


class Writers:
    """Clients that report feedback and change the catalogue until a service is gone, and what they were told."""

    def __init__(self):
        self.said: list[tuple[int, str, str]] = []
        self.catalogues = {0}
        self.sent: set[str] = set()
        self.asked: dict[int, dict[str, object]] = {}

    def until_gone(self, port, turn, after_s, kill):
        stop = threading.Event()

        def write():
            number = 0
            while not stop.is_set():
                number += 1
                with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                    # strangers as well: who clicked everything is shown nothing
                    user = f"user-{number % 12}" if number % 2 else f"stranger-{turn}-{number}"
                    slate = post(port, "/v1/recommend", {"user_id": user, "k": 3})
                    if not slate["items"]:
                        continue
                    item = slate["items"][number % len(slate["items"])]["item_id"]
                    report = {"slate_id": slate["slate_id"], "item_id": item, "kind": "click"}
                    got = post(port, "/v1/feedback", report)
                    self.said.append((got["seq"], slate["slate_id"], item))

        def change():
            number = 0
            while not stop.is_set():
                number += 1
                new = {"item_id": f"new-{turn}-{number}", "title": f"lamp number {turn} {number}"}
                self.sent.add(new["item_id"])
                with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                    told = post(port, "/v1/items", {"add": [new]})
                    self.catalogues.add(told["catalogue"])
                    self.asked[told["catalogue"]] = new

        threads = [threading.Thread(target=work) for work in (write, write, change)]
        for thread in threads:
            thread.start()
        time.sleep(after_s)
        kill()
        stop.set()
        for thread in threads:
            thread.join(60)

    def check(self, state):
        """What was acknowledged is in the log once, and the catalogue is whole: one that was asked for."""
        with EventReader(state / EVENTS) as log:
            for seq, slate, item in self.said:
                assert [r.seq for r in log.slate(slate).received if r.outcome.item_id == item] == [seq]
        number, changes = Shelf(state / "catalogue").current()
        assert number >= max(self.catalogues), "a change that was acknowledged is served"
        added = {item.item_id for item in changes.added}
        assert {new["item_id"] for new in self.asked.values()} <= added
        assert added <= self.sent, "one that was asked for"
        assert not number or len(added) < number, "each version that is served has one item more than the one before"
        return number, len(TITLES) + len(added)


@pytest.mark.slow
def test_kills_at_random_writes_lose_no_feedback_that_was_acknowledged(run, tmp_path):
    """Sixty kills by SIGKILL while feedback and changes of the catalogue come in: of processes that share imports
    with one another and nothing else, and of the command as a person starts it."""
    draw, state, writers = random.Random(0), tmp_path / "state", Writers()
    words = [str(run / "run"), "--data", str(run / "data"), "--port", "0", "--state", str(state)]
    with Forks(tmp_path) as forks:
        for turn in range(57):
            pid, port = forks.serve(*words)
            writers.until_gone(port, turn, draw.uniform(0.02, 0.5), lambda pid=pid: os.kill(pid, signal.SIGKILL))
            while alive(pid):
                time.sleep(0.005)
            if turn % 10 == 0:
                writers.check(state)
    for turn in range(57, 60):
        with serving(run, state) as (process, port):
            writers.until_gone(port, turn, draw.uniform(0.05, 1.0), process.kill)
    number, items = writers.check(state)
    with serving(run, state) as (_, port), urllib.request.urlopen(f"http://127.0.0.1:{port}/ready") as answer:
        assert json.load(answer) == {"ready": True, "version": 0, "catalogue": number, "items": items}
    assert len(writers.said) > 100
    assert len(writers.catalogues) > 20
