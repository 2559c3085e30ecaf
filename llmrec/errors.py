"""Errors that a person can act on.

Every error raised for bad input is an `LLMRecError` whose message is one sentence that names the file, row or
key and says how to mend it. The command line prints that sentence alone and exits with code 2.
"""

from __future__ import annotations

import re

LONGEST = 600
"""Characters of a message at most, as it is shown."""
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]")


class LLMRecError(Exception):
    """Bad input or a request that cannot be met; the message is one clear sentence."""


class DataError(LLMRecError):
    """A data set, table, row or file that cannot be used as it is."""


class ConfigError(LLMRecError):
    """A configuration key or value that cannot be used."""


class CatalogueError(LLMRecError):
    """A catalogue whose items cannot be told apart, or that does not fit its tokenizer."""


class RequestError(LLMRecError):
    """A request (user, k, filter, prompt) that cannot be answered."""


class RunError(LLMRecError):
    """A run folder or Hub repository that is missing, incomplete or of another kind."""


def one_line(text: str, limit: int = LONGEST) -> str:
    """`text` as it may be shown: one line without control or bidirectional characters, at most `limit` long.

    A longer text loses its middle, as the cause stands at the beginning and the mend at the end.
    """
    if len(text) > 4 * limit:
        text = text[: 2 * limit] + text[-2 * limit :]
        cut = True
    else:
        cut = False
    line = " ".join(_UNSEEN.sub(" ", text).split())
    if len(line) <= limit and not cut:
        return line
    tail = limit // 3
    return f"{line[: limit - tail - 3]} … {line[-tail:]}"
