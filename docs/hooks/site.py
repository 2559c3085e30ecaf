"""What the site has beside the pages of this folder: the repository's own pages, files that pages name, a reference.

Pages are written for a forge: links lead to files of the repository, and headings have a forge's anchors. Nothing is
moved or written anew for the site; links that leave this folder are turned to where the site has their target.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "README.zh.md": "index.zh.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Pages of the repository, and their names here."""
REFERENCE = {
    "recommender": ("Recommender", ["llmrec.recommender", "llmrec.estimator", "llmrec.batch"]),
    "types": ("Types that cross layers", ["llmrec.types"]),
    "policy": (
        "The policy",
        [
            "llmrec.policy.language_policy",
            "llmrec.policy.mixture",
            "llmrec.policy.retrieved",
            "llmrec.catalogue.filters",
        ],
    ),
    "filters": ("Filters", ["llmrec.catalogue.filters"]),
    "rules": ("Rules", ["llmrec.rules.types", "llmrec.rules.reading", "llmrec.rules.book", "llmrec.rules.ruled"]),
    "data": ("Data", ["llmrec.dataset.store", "llmrec.dataset.split", "llmrec.dataset.history"]),
    "training": (
        "Training",
        [
            "llmrec.training.on_policy",
            "llmrec.training.sessions",
            "llmrec.training.preferences",
            "llmrec.training.lora",
        ],
    ),
    "rewards": ("Rewards", ["llmrec.rewards.function", "llmrec.rewards.trl"]),
    "simulator": (
        "Simulator",
        ["llmrec.simulator.ensemble", "llmrec.simulator.dynamics", "llmrec.simulator.environments.tools"],
    ),
    "hub": ("The Hub", ["llmrec.hub.runs", "llmrec.hub.data", "llmrec.hub.collections"]),
    "online": (
        "Online",
        ["llmrec.online.events", "llmrec.online.log", "llmrec.online.explore", "llmrec.online.versions"],
    ),
    "service": ("Service", ["llmrec.service.service", "llmrec.service.settings", "llmrec.service.wire"]),
    "configuration": (
        "Configuration",
        ["llmrec.config.run", "llmrec.config.data", "llmrec.config.training", "llmrec.config.reward"],
    ),
    "run": ("A run", ["llmrec.pipeline.run", "llmrec.pipeline.opening", "llmrec.export"]),
}
LINK = re.compile(r"(?<=\]\()([^()\s]+)(?=\))")
MARKED = re.compile(r"(?<=\d) (?=[▲▼△▽])")
"""The blank between a figure and its mark, which must not be torn apart in a narrow column."""
FENCED = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)


def slug(text: str, separator: str) -> str:
    """A heading's anchor, as forges make them."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", separator)


def on_config(config: Any) -> Any:
    """Anchors as forges make them."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds pages and files that lie elsewhere."""
    for source, name in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=turned(text, "")))
        for target in links(text):
            place = posixpath.normpath(target)
            if not place.startswith("docs/") and place not in PAGES and files.get_file_from_path(place) is None:
                _add(files, config, place)
    for name, (title, modules) in REFERENCE.items():
        parts = "\n\n".join(f"::: {module}" for module in modules)
        files.append(File.generated(config, f"reference/{name}.md", content=f"# {title}\n\n{parts}\n"))
    for page in list(files.documentation_pages()):
        if page.generated_by is None:
            for target in links(Path(str(page.abs_src_path)).read_text(encoding="utf-8")):
                place = posixpath.normpath(posixpath.join("docs", target))
                outside = not place.startswith("docs/") and place not in PAGES
                if outside and files.get_file_from_path(place) is None:
                    _add(files, config, place)
    return files


def _add(files: Files, config: Any, place: str) -> None:
    if (ROOT / place).is_file():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / place)))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links of a page of docs/ that leave it."""
    del config, files
    return markdown if page.file.generated_by else turned(markdown, "docs")


def links(text: str) -> list[str]:
    """Relative links outside of code, without anchors."""
    found = [link for part in FENCED.split(text)[::2] for link in LINK.findall(part)]
    return [
        place for place in (link.partition("#")[0] for link in found) if place and not re.match(r"[a-z]+:", place)
    ]


def turned(text: str, folder: str) -> str:
    """The text of a page that lies in `folder` of the repository, with links as the site has their targets."""

    def target(match: re.Match[str]) -> str:
        place, mark, anchor = match[1].partition("#")
        if not place or re.match(r"[a-z]+:", place):
            return match[1]
        whole = posixpath.normpath(posixpath.join(folder, place))
        name = PAGES.get(whole) or (whole.removeprefix("docs/") if whole.startswith("docs/") else whole)
        return f"{name}{mark}{anchor}"

    parts = FENCED.split(text)
    parts[::2] = [MARKED.sub("\u00a0", LINK.sub(target, part)) for part in parts[::2]]
    return "".join(parts)
