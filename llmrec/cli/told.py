"""What a command says at its end: a sentence for a person, or the facts in it as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Self

import typer

from llmrec.printing import echo, json_line

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Told(str):
    """Text with what it states, as JSON takes it."""

    facts: dict[str, Any]

    def __new__(cls, text: str, /, **facts: Any) -> Self:
        """The text, and its facts by name."""
        made = super().__new__(cls, text)
        made.facts = facts
        return made


def tell(said: Told, as_json: bool) -> None:
    """Prints the text, or its facts on one line of JSON."""
    echo(json_line(said.facts) if as_json else said)
