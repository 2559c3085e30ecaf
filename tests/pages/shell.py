"""The lines of the pages' shell blocks, and those that are not run as they stand, each with its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.pages.blocks import ROOT, SHELL, blocks

RUN_PAGES = ("README.md", "docs/tutorial.md")
TWINS = {"README.zh.md": "README.md"}
"""Pages that tell the same commands in another language: their lines are those of the other page."""

NOT_RUN = {
    "README.md": {
        "make demo": "makes a virtual environment and trains for six minutes; the same job, small, is tests/cli's",
        "make test": "would start these tests within themselves",
        "llmrec run --dataset movielens --source FOLDER --out runs/ml --model Qwen/Qwen3-0.6B": (
            "takes the model from the Hub and trains it for hours"
        ),
        "accelerate launch train/ppo.py --config train/recipes/qwen3-0.6b-movielens.yaml --source FOLDER --out"
        " runs/ml-qwen": "takes the model from the Hub and wants a GPU",
        "llmrec push runs/mine USER/NAME": "needs an account of the Hub; tests/hub pushes to one that is made up",
    },
    "docs/tutorial.md": {
        "git clone URL llmrec && cd llmrec": "needs the network, and the reader's own address",
        "make install": "makes a virtual environment; the tests already run in one",
        "source .venv/bin/activate": "the environment of the tests is first on the PATH instead",
        "pip install -c constraints.txt -e '.[serve,page]'": "needs the network; the tests skip where it is not done",
    },
}

SERVERS = {"llmrec serve": "/health", "llmrec page": "/"}
"""Commands that stay in the foreground: started in the background, and asked for this path once."""


@dataclass(frozen=True)
class Step:
    """One line of a shell block without its comment, or (`python`) one whole block of Python."""

    page: str
    line: int
    text: str
    python: bool = False


def lines(text: str) -> list[str]:
    """Commands of a shell block, one a line, continued lines joined and comments left out."""
    joined = re.sub(r"\\\n\s*", "", text)
    bare = (re.sub(r"(^|\s)#.*$", "", row).strip() for row in joined.splitlines())
    return [row.removeprefix("$ ") for row in bare if row]


def steps(page: str) -> list[Step]:
    """What a reader does from the top of the page to its end, Python between the commands too."""
    found = []
    for block in blocks(ROOT / page, *SHELL, "python"):
        if block.kind == "python":
            found.append(Step(page, block.line, block.text, python=True))
        else:
            found += [Step(page, block.line, row) for row in lines(block.text)]
    return found


def server(step: Step) -> str | None:
    """The path to ask for where the line starts a server."""
    return next((path for start, path in SERVERS.items() if step.text.startswith(f"{start} ")), None)
