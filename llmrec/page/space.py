"""The page as a Hugging Face Space: a folder that holds all it needs, made without the network."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import yaml
from packaging.requirements import Requirement

from llmrec.dataset.download import recipes_folder
from llmrec.errors import RunError
from llmrec.evaluation.table import markdown
from llmrec.export import read_facts, write_bundle
from llmrec.files import matching, new_folder, read_json, write_json, write_text
from llmrec.page.systems import BESIDE, NAMED
from llmrec.pipeline.data import RunData
from llmrec.pipeline.finish import handed_weights
from llmrec.pipeline.opening import OpenRun, open_run
from llmrec.pipeline.recipes import recipes_root
from llmrec.pipeline.result import SFT, last_label
from llmrec.printing import short_line
from llmrec.storage import resolve, work_folder
from llmrec.text.templates import prompts_root
from llmrec.written import check_written, forgotten_of, handed_on, write_list, written

APP = '''"""The page of a run of llmrec; made by `llmrec page RUN --space FOLDER`."""

import os
from pathlib import Path

from llmrec.page.serving import serve_page

here = Path(__file__).resolve().parent
data = here / "data"
serve_page(
    str(here / "run"),
    data=data if data.is_dir() else None,
    host=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"),
    port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
)
'''
README = """---
{header}---

# {title}

{said}

Started by `python app.py`, after `pip install -r requirements.txt`. Everything is in this folder: the package
`llmrec` (Apache-2.0), the run in `run/`, {beside}and {data}. It shows what a model recommends, before and after
reinforcement learning; figures on it are of simulated users.
"""
OURS = ("app.py", "requirements.txt", "README.md", "llmrec/*", "run/*", f"{BESIDE}/*", "data/*")
NO_USERS = "no users, whose data are not handed on"


def write_space(run: Path, out: Path) -> Path:
    """Writes the Space of a finished run into the folder `out`, whole or not at all.

    A Space there is replaced; a person's own files stay.

    It holds the run folder, the policy that the run did not hand on (where the working folder is there), and users
    only of a generated world: those of other data sets are persons.

    Returns:
        The resolved folder.

    Raises:
        RunError: not a run folder, one that was trained on forgotten users, or `out` holds something else.
    """
    facts, out = read_facts(run), resolve(out)
    if out in (resolve(run), *resolve(run).parents):
        raise RunError(f"--space {out} is the run {run} or holds it; name a folder of the Space's own.")
    if lost := forgotten_of(run):
        raise RunError(
            f"{run} was trained on {lost:,} users who have been forgotten since; make it anew by its own command "
            "with --force before it is handed on."
        )
    check_written(run)
    opened = open_run(run) if work_folder(run).is_dir() else None
    with new_folder(out, ours=written(matching(*OURS))) as folder:
        for name in handed_on(resolve(run)):
            _copy(resolve(run) / name, folder / "run" / name)
        if opened is not None:
            _write_beside(opened, folder / BESIDE)
        world = opened is not None and _is_world(opened.data)
        if opened is not None and world:
            opened.data.dataset.save(folder / "data")
        _copy_package(folder / "llmrec")
        write_text(folder / "requirements.txt", "".join(f"{line}\n" for line in requirements()))
        write_text(folder / "app.py", APP)
        write_text(folder / "README.md", _readme(run, facts["dataset"]["name"], opened is not None, world))
    return out


def requirements() -> list[str]:
    """What the page needs beside this package, as pip reads it; Gradio in the version of the README's header."""
    found = [f"gradio=={importlib.metadata.version('gradio')}"]
    for text in importlib.metadata.requires("llmrec") or ():
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            needed.marker = None
            found.append(str(needed))
    return sorted(found)


def _is_world(data: RunData) -> bool:
    return data.world is not None


def _write_beside(opened: OpenRun, folder: Path) -> None:
    """The warm start of an improved run, else the last checkpoint."""
    improved = bool(read_json(opened.folder / "metrics.json").get("improved"))
    policy = opened.policy("sft" if improved else "last")
    name = SFT if improved else last_label(opened.config.algorithm)
    folder.mkdir()
    write_bundle(
        folder,
        weights=handed_weights(opened, policy.model, None if improved else opened.checkpoints["last"]),
        policy=policy,
        dataset=opened.data.dataset,
        config=opened.config,
        metrics={},
        card=f"# {name} of the run in `run/`\n",
        identifiers=opened.sft.identifiers,
    )
    write_json(folder / NAMED, {"name": name})
    write_list(folder)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _copy_package(folder: Path) -> None:
    """This package's own files, and what a wheel puts beside them."""
    package = Path(__file__).resolve().parent.parent
    shipped = {"_prompts": prompts_root(), "_data_recipes": recipes_folder(), "_train_recipes": recipes_root()}
    _copy_tree(package, folder, but=("__pycache__", *shipped, "_accelerate"))
    for name, root in shipped.items():
        _copy_tree(root, folder / name, only=(".yaml", ".jinja"))


def _copy_tree(root: Path, target: Path, *, but: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> None:
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if path.is_file() and not any(part in but for part in inside.parts) and (not only or path.suffix in only):
            _copy(path, target / inside)


def _readme(run: Path, dataset: str, beside: bool, world: bool) -> str:
    title = f"llmrec: {short_line(resolve(run).name)}"
    header = {
        "title": title,
        "emoji": "🛒",
        "colorFrom": "blue",
        "colorTo": "gray",
        "sdk": "gradio",
        "sdk_version": importlib.metadata.version("gradio"),
        "python_version": "3.11",
        "app_file": "app.py",
        "pinned": False,
        "license": "apache-2.0",
    }
    return README.format(
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
        title=markdown(title),
        said=f"Data: {markdown(short_line(dataset))}.",
        beside="the other policy in `beside/`, " if beside else "",
        data="the generated world's users in `data/`" if world else NO_USERS,
    )
