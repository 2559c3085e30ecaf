"""The Jinja environment of pages: strict, and with one place through which every value goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def page_environment(
    package: str, finalize: Callable[[object], object], *, autoescape: bool = True, **filters: Callable[..., Any]
) -> Environment:
    """An environment for the folder `templates` of a package.

    Args:
        package: its name.
        finalize: makes what an expression gives harmless.
        autoescape: off for what is no HTML.
        filters: of the templates, by name; `svg` is always there.
    """
    environment = Environment(
        loader=PackageLoader(package, "templates"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    environment.filters["svg"] = Markup  # drawn by drawing.to_svg, which escapes all text
    return environment
