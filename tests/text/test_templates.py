from __future__ import annotations

from pathlib import Path

import pytest

from llmrec.errors import ConfigError
from llmrec.text.templates import REQUIRED, TemplateSet, folder_sources, prompts_root, shipped_sources


def test_every_language_has_the_same_domains_and_templates() -> None:
    tree = {
        language.name: sorted(str(path.relative_to(language)) for path in language.rglob("*.jinja"))
        for language in prompts_root().iterdir()
    }
    assert tree["en"] == tree["zh"]
    assert len(tree["en"]) == 6 * (len(REQUIRED) + 1) + 2 + 4 + 2  # list.jinja, _common, _enrich, _reasons


def test_unknown_language_or_domain() -> None:
    with pytest.raises(ConfigError, match="language 'fr'; choose one of en, zh"):
        shipped_sources("fr", "shop")
    with pytest.raises(ConfigError, match="domain 'cars'; choose one of course, film"):
        shipped_sources("en", "cars")
    with pytest.raises(ConfigError, match="domain '_common'"):
        shipped_sources("en", "_common")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ nobody }}", "state.jinja cannot be rendered: 'nobody' is undefined"),
        ("{{ ().__class__.__base__ }}", "state.jinja cannot be rendered: access to attribute '__class__'"),
        ("{% for x in range(10 ** 9) %}{% endfor %}", "state.jinja cannot be rendered: Range too big"),
        ("{{ 1 / 0 }}", "state.jinja cannot be rendered: division by zero"),
    ],
)
def test_a_template_that_fails(source: str, message: str) -> None:
    templates = TemplateSet({**shipped_sources("en", "shop"), "state.jinja": source})
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        templates.render("state.jinja")


def test_a_template_with_a_mistake_names_its_line() -> None:
    with pytest.raises(ConfigError, match=r"entry\.jinja is wrong in line 2"):
        TemplateSet({**shipped_sources("en", "shop"), "entry.jinja": "a\n{% if %}"})


def test_a_template_is_missing(tmp_path: Path) -> None:
    (tmp_path / "state.jinja").write_text("x")
    with pytest.raises(ConfigError, match=r"Template entry\.jinja is missing"):
        TemplateSet(folder_sources(tmp_path))
    with pytest.raises(ConfigError, match="is not a folder of templates"):
        folder_sources(tmp_path / "none")
    (tmp_path / "entry.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"entry\.jinja is not UTF-8"):
        folder_sources(tmp_path)
