"""The commands of the first pages run, line by line, as a reader types them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import polars as pl
import pytest

from tests.cli import tiny
from tests.pages.blocks import ROOT
from tests.pages.shell import NOT_RUN, RUN_PAGES, TWINS, lines, server, steps

SETTINGS = [word for word in tiny.arguments() if not word.startswith("--set=world.")]
READY_S = 180


def shell_lines(page):
    return [step.text for step in steps(page) if not step.python]


def test_every_line_is_run_or_says_why_not():
    assert set(NOT_RUN) == set(RUN_PAGES)
    for page in RUN_PAGES:
        there = shell_lines(page)
        assert set(NOT_RUN[page]) <= set(there), f"{page}: no such line: {set(NOT_RUN[page]) - set(there)}"
        assert all(len(reason.split()) >= 5 for reason in NOT_RUN[page].values())
        run = [line for line in there if line not in NOT_RUN[page]]
        assert len(run) >= 5
        odd = [line for line in run if not line.startswith(("llmrec ", "curl "))]
        assert not odd, f"{page}: neither a command that the slow test knows nor in NOT_RUN: {odd}"


@pytest.mark.parametrize("page", TWINS)
def test_a_translated_page_has_the_same_commands(page):
    assert shell_lines(page) == shell_lines(TWINS[page])


def test_lines_are_read_as_a_shell_reads_them():
    assert lines("a 'b#c'   # said\n\n# alone\n$ d \\\n   e\n") == ["a 'b#c'", "d e"]


def test_the_tutorial_is_one_page_in_one_language():
    assert not list(ROOT.glob("docs/tutorial.*.md")), "add it to TWINS"


def write_log(folder):
    """The two tables that the README's first command reads: its columns and kinds, its user 42 and its yoga."""
    from llmrec.config import WorldConfig
    from llmrec.dataset.world import generate_world

    made = generate_world(WorldConfig(users=120, items=60, slates_per_user=6), seed=1).dataset
    buy = pl.col("kind").cast(pl.String).replace({"conversion": "buy"})
    user = pl.col("user_id").cast(pl.String).replace({"u00000": "42"})
    events = made.events.select(user, pl.col("item_id").alias("sku"), pl.col("time").alias("ts"), buy.alias("action"))
    events.write_csv(folder / "events.csv")
    row = pl.int_range(pl.len())
    items = made.items.select(
        pl.col("item_id").alias("sku"),
        "title",
        pl.when(row % 2 == 0).then(pl.lit("yoga")).otherwise(pl.lit("kitchen")).alias("categories"),
        (5.0 + row).alias("price"),
    )
    items.write_csv(folder / "items.csv")


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def answer(url, process, said):
    """What the server says once it is up."""
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        assert process.poll() is None, said.read_text()
        try:
            with urllib.request.urlopen(url, timeout=30) as reply:
                return reply.status
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise AssertionError(f"{url} did not answer in {READY_S} s: {said.read_text()}")


def ended(process):
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", RUN_PAGES)
def test_the_commands_of_a_page_run_in_order(page, tmp_path):
    for package in ("fastapi", "gradio"):
        pytest.importorskip(package)
    if not all(map(shutil.which, ("bash", "curl"))):
        pytest.skip("the page's lines need bash and curl")
    place = tmp_path / "reader"
    place.mkdir()
    if page == "README.md":
        write_log(place)
    bin_first = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = tiny.environment(
        tmp_path / "cache", PYTHONPATH=str(ROOT), PATH=bin_first, NO_PROXY="127.0.0.1,localhost"
    )
    port = ""
    with contextlib.ExitStack() as stack:
        for number, step in enumerate(steps(page)):
            if step.text in NOT_RUN[page]:
                continue
            told, text = f"{page}:{step.line}: {step.text}", step.text
            path = server(step)
            if path:
                port = str(free_port())
                line = f"exec {re.sub(r' --port [0-9]+', '', text)} --port {port}"
                said = tmp_path / f"server-{number}.txt"
                output = stack.enter_context(said.open("wb"))
                process = subprocess.Popen(
                    ["bash", "-c", line], cwd=place, env=environment, stdout=output, stderr=subprocess.STDOUT
                )
                stack.callback(ended, process)
                assert answer(f"http://127.0.0.1:{port}{path}", process, said) == 200, told
                continue
            if step.python:
                command = [sys.executable, "-c", text]
            else:
                if text.startswith("llmrec run "):
                    text = " ".join([text, *SETTINGS])
                if text.startswith("curl "):
                    text = text.replace("curl ", "curl --fail-with-body ", 1).replace(
                        "localhost:8000", f"127.0.0.1:{port}"
                    )
                command = ["bash", "-c", text]
            done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{told}\n{done.stdout}\n{done.stderr}"
            assert done.stdout.strip(), f"{told}: it said nothing"
