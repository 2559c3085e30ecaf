"""The command line that the scripts of studies share: where figures go, under which seeds, with which settings."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

import yaml

from llmrec.cli.guard import guarded
from llmrec.config import RunConfig
from llmrec.config_tree import parse_overrides


class StudyScript(argparse.ArgumentParser):
    """Options --out, --json, --set and, where there are seeds, --seeds; a script adds its own.

    Args:
        text: the script's docstring, which --help shows.
        out: default of --out; without it there is no such option.
        seeds: default of --seeds; without them there is no such option.
        settings: whether there is --set.
    """

    def __init__(self, text: str | None, *, out: str = "", seeds: Sequence[int] = (), settings: bool = True) -> None:
        super().__init__(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
        if out:
            self.add_argument("--out", type=Path, default=Path(out), help=f"stages and answer are kept here ({out})")
        self.add_argument("--json", dest="json_file", metavar="JSON", type=Path, help="write the figures here, too")
        if seeds:
            self.add_argument("--seeds", type=int, nargs="+", default=tuple(seeds))
        if settings:
            self.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")

    def run(self, function: str) -> None:
        """Calls `MODULE:FUNCTION` with the options by name; it is imported once the command line has been read."""

        def main() -> None:
            options = vars(self.parse_args())
            if "overrides" in options:
                options["overrides"] = parse_overrides(options["overrides"], RunConfig)
            module, _, name = function.partition(":")
            getattr(importlib.import_module(module), name)(**options)

        guarded(main)()


def pair(text: str) -> tuple[str, object]:
    """KEY=VALUE, the value as YAML reads it."""
    key, _, value = text.partition("=")
    return key, yaml.safe_load(value)
