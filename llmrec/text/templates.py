"""The wording of prompts: Jinja templates by language and domain, in a sandbox.

`prompts/{language}/{domain}/` holds one set, `prompts/{language}/_common/` what the domains share. A set is used
under flat names ("state.jinja", "_common/lines.jinja"), so that a run folder can keep exactly what it used.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from llmrec.errors import ConfigError
from llmrec.printing import one_line
from llmrec.text.sandbox import BoundedSandbox

TASKS = ("title_from_description", "description_from_title", "item_from_attributes", "item_from_prompt")
ID_TASKS = ("title_from_id", "id_from_title", "attributes_from_id")
"""Tasks that tie an item's identifier to its words; only where items have identifiers."""
REQUIRED = ("state.jinja", "entry.jinja", *(f"{task}.jinja" for task in (*TASKS, *ID_TASKS)))
FRAMES = {"ask": "state", "list": "list"}
"""The template of a state by `text.frame`."""
SEPARATORS = {"en": "; ", "zh": "；"}
COMMAS = {"en": ", ", "zh": "、"}
ELAPSED = {
    "en": (" (today)", " (days ago)", " (weeks ago)", " (long ago)"),
    "zh": ("（今天）", "（几天前）", "（几周前）", "（很久以前）"),
}
"""How long ago the latest choice was, behind its entry: less than `ELAPSED_DAYS`, or more than all of them."""
ELAPSED_DAYS = (1.0, 14.0, 60.0)
CHEAPER = {
    "en": ("It should cost less.", "But cheaper, please.", "I want to pay less than for that.", "Less expensive."),
    "zh": ("要便宜一些的。", "价格要低一点。", "不要那么贵的。", "想少花点钱。"),
}
"""What a request that names items says where the answer must cost less than they do."""
IDENTIFIER = {"en": "identifier", "zh": "编号"}
"""What a chat template asks for in place of the title where items are answered by identifier."""


def prompts_root() -> Path:
    """The folder of the shipped templates: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parent.parent
    for root in (package / "_prompts", package.parent / "prompts"):
        if root.is_dir():
            return root
    raise ConfigError(f"{package} holds no prompts; install llmrec anew.")


def shipped_sources(language: str, domain: str) -> dict[str, str]:
    """Template sources of one language and domain by flat name; raises `ConfigError` for unknown ones."""
    root = _known(prompts_root(), language, "language")
    folder = _known(root, domain, "domain")
    return {**_read(root / "_common", "_common/"), **_read(folder)}


def folder_sources(folder: Path) -> dict[str, str]:
    """Template sources of a flat folder (a run's saved prompts, or a person's own), `_common/` included."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder of templates; give one that holds state.jinja.")
    return {**_read(folder / "_common", "_common/"), **_read(folder)}


def own_sources(folder: Path, language: str, domain: str) -> dict[str, str]:
    """Templates of one's own by flat name: files of `folder` and `folder/_common`, and for this language and domain
    alone those in `folder/LANGUAGE/_common` and `folder/LANGUAGE/DOMAIN`, which win."""
    inner = folder / language
    return {**folder_sources(folder), **_read(inner / "_common", "_common/"), **_read(inner / domain)}


def check_own(folder: Path, language: str, domain: str) -> None:
    """Raises `ConfigError` for a person's folder without a template, or with one that takes the place of none."""
    sources, shipped = own_sources(folder, language, domain), shipped_sources(language, domain)
    if not sources and not any(folder.rglob("*.jinja")):
        raise ConfigError(f"{folder} holds no template; name it as one that is shipped, for example state.jinja.")
    text = "\n".join(sources.values())
    for name in sources:
        if name not in shipped and name not in text:
            near = difflib.get_close_matches(name, shipped, n=1)
            mend = f"did you mean {near[0]!r}?" if near else f"known ones: {', '.join(sorted(shipped))}."
            raise ConfigError(f"Nothing uses the template {name!r} in {folder}; {mend}")


def _known(root: Path, name: str, what: str) -> Path:
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(("_", ".")))
    if name not in names:
        raise ConfigError(f"There are no prompts for {what} {name!r}; choose one of {', '.join(names)}.")
    return root / name


def _read(folder: Path, prefix: str = "") -> dict[str, str]:
    sources = {}
    for path in sorted(folder.glob("*.jinja")):
        try:
            sources[prefix + path.name] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ConfigError(f"{path} is not UTF-8; save it as UTF-8.") from None
    return sources


class TemplateSet:
    """Compiled templates. The sandbox keeps a template from a stranger's run away from Python's internals.

    Args:
        sources: template source by flat name; every name of `REQUIRED` must be there.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = dict(sources)
        self._environment = BoundedSandbox(
            loader=jinja2.DictLoader(self.sources),
            undefined=jinja2.StrictUndefined,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        missing = [name for name in REQUIRED if name not in self.sources]
        if missing:
            raise ConfigError(f"Template {missing[0]} is missing; add it to the folder of templates.")
        blank = [name for name in REQUIRED if not self.sources[name].strip()]
        if blank:
            raise ConfigError(f"Template {blank[0]} is empty; write it anew.")
        self._templates = {}
        for name in self.sources:
            try:
                self._templates[name] = self._environment.get_template(name)
            except jinja2.TemplateSyntaxError as error:
                reason = f"Template {name} is wrong in line {error.lineno}: {one_line(error.message, 200)}."
                raise ConfigError(f"{reason} Mend it there.") from None
            except (RecursionError, SyntaxError, MemoryError, ValueError) as error:  # of Python's own compiler
                raise ConfigError(
                    f"Template {name} cannot be compiled ({one_line(error, 100)}); write it simpler."
                ) from None

    def render(self, name: str, **values: Any) -> str:
        """Renders one template; outer whitespace is removed, as the answer begins right behind the text.

        Raises:
            ConfigError: the template uses an unknown variable or fails otherwise.
        """
        try:
            with self._environment.budget():
                return self._templates[name].render(values).strip()
        except (jinja2.TemplateError, TypeError, LookupError, ValueError, ArithmeticError, RecursionError) as error:
            reason = one_line(error, 200)
            raise ConfigError(f"Template {name} cannot be rendered: {reason}; mend the template.") from None
