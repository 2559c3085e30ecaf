"""Pages: every relative link leads to a file, and every anchor to a heading; code in them fits the package."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.pages.blocks import PAGES, PYTHON, ROOT, SHELL, blocks

LINK = re.compile(r"\[[^\]\[]*\]\(([^()\s]+)\)")
LAUNCHED = re.compile(r"^(?:accelerate launch|torchrun|python)\b.*? (?:(train/(?!minimal)\w+\.py)|-m llmrec)(?= ) ")
"""Scripts of train/ are `llmrec run`."""
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of headings, as forges make them: lower case, marks removed, blanks as hyphens, the second of a name with -1."""
    found: dict[str, int] = {}
    made = set()
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for heading in re.findall(r"(?m)^#+ (.+)$", text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip())
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = found.get(slug, 0)
        found[slug] = number + 1
        made.add(f"{slug}-{number}" if number else slug)
    return made


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    lost = []
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place) if place else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert not lost


def test_every_page_is_reached_from_the_first_one():
    reached, new = set(), {ROOT / "README.md"}
    while new:
        page = new.pop()
        reached.add(page)
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.is_file() and target not in reached:
                new.add(target)
    assert {page for page in PAGES if page.parent.name == "docs"} <= reached


def test_both_readmes_show_the_same_commands():
    """The Chinese page is the same page: its commands are those of the English one, but for what is said behind them."""

    def commands(name):
        text = (ROOT / name).read_text(encoding="utf-8")
        blocks = re.findall(r"```\n(.*?)```", text, re.DOTALL)
        return [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]

    assert commands("README.md") == commands("README.zh.md")
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 90


def test_the_citation_names_the_version():
    from llmrec.version import __version__

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == __version__
    assert cited["license"] == "Apache-2.0"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_compiles_and_its_imports_resolve(page):
    for text in (block.text for block in blocks(page, *PYTHON)):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                assert all(importlib.util.find_spec(alias.name) for alias in node.names), text
            elif isinstance(node, ast.ImportFrom) and node.module != "vllm":  # pages/test_run.py has a stand-in
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    known = hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
                    assert known, f"{node.module} has no {alias.name}"


def commands_of(page: Path) -> list[list[str]]:
    """Words of each line that calls llmrec, under a launcher or not, without what only stands for more words."""
    found = []
    for text in (block.text for block in blocks(page, *SHELL)):
        for line in text.replace("\\\n", " ").splitlines():
            line = LAUNCHED.sub(
                lambda match: "llmrec " + ("run " if match[1] else ""), line.strip().removeprefix("$ ")
            )
            if line.startswith("llmrec "):
                words = shlex.split(line, comments=True)
                end = next(
                    (n for n, word in enumerate(words) if word in ("|", "&&", ";", "&", ">", "2>")), len(words)
                )
                found.append([word for word in words[1:end] if word not in ("…", "...")])
    return [words for words in found if len(words) > 1 or words not in ([], ["run"])]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_have_the_options_that_pages_give_them(page):
    """Each is parsed as the command line parses it, and nothing is run."""
    import typer

    from llmrec.cli.main import app

    wrong = []
    for words in commands_of(page):
        command, context, rest = typer.main.get_command(app), None, list(words)
        try:
            while True:
                context = command.make_context(words[0], rest, parent=context)
                if not hasattr(command, "resolve_command"):
                    break
                _, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        except Exception as error:  # whatever parsing raises, of click or of typer's own copy of it
            wrong.append(f"llmrec {shlex.join(words)}: {getattr(error, 'message', error)}")
    assert not wrong, "\n".join(wrong)


def test_the_site_is_built_without_a_broken_link_and_fetches_nothing(tmp_path):
    own = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    done = subprocess.run(line, cwd=ROOT, env=own, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ("index.html", "index.zh/index.html", "rules/index.html", "reference/recommender/index.html"):
        text = (tmp_path / "site" / page).read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=.https?://[^>]+>", text)
    assert "Recommender.recommend" in text
    table = (tmp_path / "site" / "benchmarks-table" / "index.html").read_text(encoding="utf-8")
    assert re.search(r"\d\u00a0▼", table), "a figure and its mark are torn apart in a narrow column"
    assert not re.search(r"\d [▲▼△▽]", table)
    assert (tmp_path / "site" / "train" / "minimal_ppo.py").is_file()
    built = {page.parent.name for page in (tmp_path / "site").glob("*/index.html")}
    assert {page.stem for page in ROOT.glob("docs/*.md")} <= built
