"""Code on the pages runs: the Python of each in order, and what its commands are given is what scripts take."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import runpy
import shlex
import sys

import pytest

from tests import forked
from tests.cli import tiny
from tests.hub.hubserver import HubServer
from tests.pages.blocks import PAGES, PYTHON, ROOT, SHELL, blocks, page_name

WITH_PYTHON = [page_name(page) for page in PAGES if blocks(page, *PYTHON)]
SLOW = {"docs/algorithms.md", "docs/classic-rl.md", "docs/guide.md"}
"""These train for more than seconds."""
OF_THE_HUB = {"docs/guide.md"}
NOT_RUN: dict[str, int] = {}
"""Pages with blocks that cannot run here, each with its reason on the line before it, and how many."""
AGENTS = {"docs/classic-rl.md": "stable_baselines3", "docs/retrieval.md": "sentence_transformers"}


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow if page in SLOW else ()) for page in WITH_PYTHON]
)
def test_the_python_of_a_page_runs(page, tmp_path):
    if page in AGENTS:
        pytest.importorskip(AGENTS[page])
    with contextlib.ExitStack() as stack:
        environment = tiny.environment(tmp_path / "cache", PYTHONPATH=str(ROOT))
        if page in OF_THE_HUB:
            hub = stack.enter_context(HubServer({"hf_user": "USER"}))
            environment = hub.client_env("hf_user", tmp_path / "home") | {
                "LLMREC_CACHE": str(tmp_path / "cache"),
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(ROOT),
            }
        place = tmp_path / "reader"
        place.mkdir()
        done = forked.run([sys.executable, "-m", "tests.pages.play", page], env=environment, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    told = sum(1 for block in blocks(ROOT / page, *PYTHON) if not block.reason)
    assert done.stdout.splitlines()[-1] == f"ran {told}"


def test_what_is_not_run_says_why_and_is_little():
    found = [block for page in PAGES for block in blocks(page, *PYTHON) if block.reason]
    counts = {page: sum(block.page == page for block in found) for page in {block.page for block in found}}
    assert counts == NOT_RUN
    assert all(len(block.reason.split()) >= 3 for block in found)


class Parsed(BaseException):
    """A script has read its command line."""


def script_lines(page):
    """Words behind `python` of each line, in a block or in running text, that calls a script of `eval/`.

    Running text may leave words out (`…`), put them in brackets, and call a number by a capital letter.
    """
    text = page.read_text(encoding="utf-8")
    lines = [line for block in blocks(page, *SHELL) for line in block.text.replace("\\\n", " ").splitlines()]
    bare = re.sub(r"(?ms)^ *```.*?^ *```", "", text)
    lines += [span.replace("\n", " ") for span in re.findall(r"`((?:[^`\n]|\n(?!\n))+)`", bare)]
    for line in lines:
        match = re.match(r"\s*(?:\$ )?python (eval/\w+\.py\b.*)", line)
        if match:
            words = shlex.split(match[1], comments=True)
            end = next((n for n, word in enumerate(words) if word in ("|", "&&", ";", "&", ">", "2>")), len(words))
            words = [re.sub(r"^\[|\]$", "", word) for word in words[:end]]
            yield ["8" if re.fullmatch("[A-Z]", word) else word for word in words]


def refusal(words, monkeypatch):
    """What the script says against its own options; "" where it takes them. Nothing is run."""
    whole = argparse.ArgumentParser.parse_args

    def parse(self, *arguments, **more):
        whole(self, *arguments, **more)
        raise Parsed

    said = io.StringIO()
    with monkeypatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        patch.setattr(sys, "argv", [str(ROOT / words[0]), *words[1:]])
        patch.syspath_prepend(str(ROOT / "eval"))
        try:
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        except Parsed:
            return ""
        except SystemExit:
            return said.getvalue().strip().splitlines()[-1]
    return "it reads no options"


def test_scripts_have_the_options_that_pages_give_them(monkeypatch):
    wrong, seen = [], 0
    for page in PAGES:
        for words in script_lines(page):
            if not (ROOT / words[0]).is_file():
                wrong.append(f"{page.name}: there is no {words[0]}")
                continue
            told = [word for word in words if word not in ("…", "...")]
            said = refusal(told, monkeypatch)
            seen += 1
            left_out = len(told) < len(words) or said.endswith("required: --out")
            if said and not (left_out and re.search("required|expected one argument", said)):
                wrong.append(f"{page.name}: python {shlex.join(words)}: {said}")
    assert seen > 60
    assert not wrong, "\n".join(wrong)
