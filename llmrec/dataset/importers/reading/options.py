"""What a person may say about a file; what is not said is detected."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from llmrec.errors import ConfigError

SEPARATORS = {"tab": "\t", "\\t": "\t", "space": " ", "spaces": " ", "comma": ",", "semicolon": ";", "pipe": "|"}
NO_QUOTE = ("", "none", "off", "no")
SKIP_LIMIT = 0.05
"""The share of bad rows up to which `--skip-bad` drops them, where it names no other."""
SKIP_FEW = 10
"""Bad rows that `--skip-bad` drops of a small table all the same, where it names no share."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How the files are written; None is detected.

    Attributes:
        separator: Between the fields of a line: one sign, "::", "tab", or "space" for runs of blanks.
        quote: Around fields: one sign, or "none" where quote signs are text.
        escape: Before a quote sign that is text: one sign, or "none" where a quote sign is doubled.
        decimal: "." or ",".
        encoding: As Python names it: utf-8, latin-1, gb18030, ...
        header: Whether the first line holds the columns' names; without, they are called 1, 2, ...
        skip_bad: Drop bad rows, counted and listed, up to this share of a table's rows; None stops at the first.
    """

    separator: str | None = None
    quote: str | None = None
    escape: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    header: bool | None = None
    skip_bad: float | None = None

    def __post_init__(self) -> None:
        """Refuses what no file can be written with, by a `ConfigError`."""
        for name in ("quote", "escape"):
            value = getattr(self, name)
            if value is not None and value not in NO_QUOTE and len(value) != 1:
                raise ConfigError(f"{name} is {value[:40]!r}, but it must be one sign, or none.")
        if self.separator is not None and (
            not self.separator or len(self.sign or "") > 4 or set(self.separator) & {"\n", "\r"}
        ):
            raise ConfigError(f"separator is {self.separator[:40]!r}; give one sign, '::', tab or space.")
        if self.decimal not in (None, ".", ","):
            raise ConfigError(f"decimal is {self.decimal[:40]!r}; choose '.' or ','.")
        if self.encoding is not None:
            try:
                "a".encode(self.encoding).decode(self.encoding)
            except (LookupError, UnicodeError, ValueError):
                raise ConfigError(
                    f"encoding is {self.encoding[:40]!r}, which is none that is known; for example utf-8, latin-1, "
                    "cp1252, gb18030, utf-16."
                ) from None
        if self.skip_bad is not None and not 0 <= self.skip_bad <= 1:
            raise ConfigError(f"skip_bad is {self.skip_bad!r}, but it must be a share from 0 to 1.")

    def with_given(self, above: ReadOptions | None) -> ReadOptions:
        """These options with what `above` says in its place."""
        given = {} if above is None else {k: v for k, v in vars(above).items() if v is not None}
        return dataclasses.replace(self, **given)

    @property
    def sign(self) -> str | None:
        """The separator itself: "tab" is a tab."""
        return None if self.separator is None else SEPARATORS.get(self.separator.lower(), self.separator)
