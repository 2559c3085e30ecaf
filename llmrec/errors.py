"""Errors that a person can act on.

Every error raised for bad input is an `LLMRecError` whose message is one sentence that names the file, row or
key and says how to mend it. The command line prints that sentence alone and exits with code 2.
"""

from __future__ import annotations

from llmrec.printing import LONGEST as LONGEST
from llmrec.printing import one_line as one_line


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


class Stopped(SystemExit):
    """A signal asked the process to stop (Ctrl-C, `kill`); it ends with 128 and the signal's number.

    It is no error and not caught as one, but unwinds the stack, so that temporary folders go and locks are freed.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(128 + signal_number)
