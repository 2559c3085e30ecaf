"""Text from strangers on a terminal, in a log, in an error or in a shell command.

Titles, ids, profiles, paths and foreign messages may hold control sequences (colours, links, a cleared screen), line
breaks that look like another line of the log, characters that reverse the direction, or shell syntax. Nothing is
printed but through here: `one_line` for a text that stands within a sentence, `echo` and `screen.Screen` for whole
outputs, `command` for a command to paste. Prompts are cleaned by the same `visible` (`llmrec.text.escape`).
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

LONGEST = 600
"""Characters of a message at most, as it is shown."""
TITLE = 200
"""Characters of a title or name within a sentence or table."""
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f\U000e0000-\U000e0fff]")
_NOT_ASCII = re.compile(r"[^\x20-\x7e]")


def visible(text: str) -> str:
    """`text` without characters that act instead of being seen.

    Controls (ESC and line breaks among them) become a space, formatting characters (zero-width, directions, tags)
    vanish, a lone surrogate, which UTF-8 cannot hold, becomes U+FFFD.
    """
    if text.isascii():
        return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
    return "".join(map(_replacement, _INVISIBLE.sub("", text)))


def _replacement(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf":  # zero-width, direction marks, tags: they split a marker without being seen
        return ""
    if category == "Cs":  # a lone surrogate cannot be encoded as UTF-8
        return "\ufffd"
    return " " if category in ("Cc", "Zl", "Zp") else character


def one_line(text: object, limit: int = LONGEST) -> str:
    """`text` on one line, without what acts on a terminal, of at most `limit` characters.

    A longer text loses its middle: in a message the cause stands at the beginning and the mend at the end. Takes time
    proportional to `limit`, not to the length of `text`.
    """
    full = str(text)
    cut = len(full) > 4 * limit
    line = " ".join(visible(full[: 2 * limit] + full[-2 * limit :] if cut else full).split())
    if len(line) <= limit and not cut:
        return line
    tail = limit // 3
    return f"{line[: max(limit - tail - 3, 1)]} … {line[len(line) - tail :]}"[:limit]


def short_line(text: object) -> str:
    """`one_line` for a title, an id or a name that stands beside other words."""
    return one_line(text, TITLE)


def lines(text: str) -> str:
    """`text` with its line feeds, and without whatever else acts on a terminal."""
    return "\n".join(map(visible, text.split("\n")))


def echo(text: object, *, err: bool = False) -> None:
    """Prints `text` and a line feed on standard output (or error), without what acts on a terminal."""
    print(lines(str(text)), file=sys.stderr if err else sys.stdout, flush=True)


def json_line(value: Any) -> str:
    """`value` as JSON on one line: readable letters as they are, whatever acts or cannot be seen as `\\uXXXX`."""
    text = json.dumps(value, ensure_ascii=False)
    return _NOT_ASCII.sub(lambda match: match[0] if _is_seen(match[0]) else json.dumps(match[0])[1:-1], text)


def shell_word(text: object) -> str:
    """`text` as one word for a shell to read: quoted where needed, `$'...'` (bash, zsh) where it cannot be seen."""
    word = str(text)
    if _is_seen(word):
        return shlex.quote(word)
    return "$'" + "".join(c if _is_seen(c) and c not in "\\'" else _escaped(c) for c in word) + "'"


def _escaped(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def _is_seen(text: str) -> bool:
    return visible(text) == text


def command(words: Iterable[object]) -> str:
    """A command to show and paste: each word quoted for a shell (`shell_word`)."""
    return " ".join(map(shell_word, words))


def use_any_encoding() -> None:
    """Makes the standard streams write what their encoding lacks as `\\uXXXX` instead of failing; call it once."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
