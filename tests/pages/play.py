"""`python -m tests.pages.play PAGE`: runs the Python of one page, in order, in the folder where it stands.

Names that a block reads and nothing has made are asked of `given.Given`; every other one is an error, as for a reader.
A fault is told with the page and the line.
"""

from __future__ import annotations

import ast
import builtins
import sys
import traceback
import types
from pathlib import Path
from typing import Any

from tests.pages.blocks import PYTHON, ROOT, blocks
from tests.pages.given import RUNS, Given

OWN_RUN = {"docs/guide.md"}
"""Pages whose blocks make `runs/mine` themselves."""
STAND_INS = {"docs/vllm.md": "tests/cli/vllm_stub"}
"""Pages on packages that tests hold a stand-in for: where it lies."""


def play(page: str, folder: Path) -> int:
    """Runs the page's blocks in `folder`; returns how many."""
    if page in STAND_INS:
        import trl.trainer.sft_trainer  # noqa: F401  # what looks for vLLM when it is imported has done so

        sys.path.insert(0, str(ROOT / STAND_INS[page]))
    given = Given(folder)
    given.lay_out(tuple(run for run in RUNS if page not in OWN_RUN or run != "runs/mine"))
    sys.modules["page"] = types.ModuleType("page")
    namespace: dict[str, Any] = sys.modules["page"].__dict__
    found = [block for block in blocks(ROOT / page, *PYTHON) if not block.reason]
    for block in found:
        tree = ast.parse("\n" * (block.line - 1) + block.text, filename=page)
        for name in read_names(tree):
            if name not in namespace and not hasattr(builtins, name) and hasattr(Given, name):
                namespace[name] = getattr(given, name)
        exec(compile(tree, str(ROOT / page), "exec"), namespace)
    return len(found)


def read_names(tree: ast.AST) -> list[str]:
    """Names that are read somewhere in the block."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    return list(dict.fromkeys(node.id for node in nodes))


def shrink() -> None:
    """What a page trains is as small as a test needs."""
    import llmrec.estimator
    from tests.cli.tiny import SETTINGS

    whole = llmrec.estimator.with_defaults
    small = {key: value for key, value in SETTINGS.items() if not key.startswith("world.")}

    def with_small(path: Any, keys: dict[str, Any], **more: Any) -> Any:
        return whole(path, {**keys, **small}, **more)

    llmrec.estimator.with_defaults = with_small  # type: ignore[assignment]


if __name__ == "__main__":
    shrink()
    try:
        print(f"ran {play(sys.argv[1], Path.cwd())}")
    except Exception:
        traceback.print_exc()
        sys.exit(1)
