r"""How the fields of a text table are written: separator, quote sign, escape; detected from its first lines.

A quote sign opens a field only where the field begins with it, and closes it only before a separator or the end of
the line. Where that does not come out (`"Weird Al" Yankovic`, `TV 32" LED`, `5'9"`) the sign is text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from llmrec.dataset.importers.reading.options import NO_QUOTE, ReadOptions
from llmrec.dataset.schema import show
from llmrec.errors import DataError

SPACES = " "
NAMES = {"\t": "tab", SPACES: "runs of spaces"}
CANDIDATES = (",", ";", "\t", "|", "::")
NUMBER = re.compile(r"\s*[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?\s*")
_DATE = re.compile(r"\s*\d{4}-\d\d?-\d\d?([T ].*)?")
_NO_NAMES = ("", "nan", "null", "none", "na", "n/a", "\\n", "-")  # in lower case: words for missing values
_AGREEING = 0.8  # the share of lines that must have the usual number of fields
_LONGEST_SPAN = 1 << 20  # a quoted field that is longer is an unclosed quote sign


@dataclass(frozen=True)
class Dialect:
    """Separator (" " for runs of blanks), quote sign or None, escape sign or None, blanks around fields or not."""

    separator: str = ","
    quote: str | None = '"'
    escape: str | None = None
    padded: bool = False

    @property
    def between(self) -> str:
        """The separator in words."""
        return NAMES.get(self.separator, repr(self.separator))

    def text(self) -> str:
        """In words, for one line of the account."""
        quote = f"quoted by {self.quote}" if self.quote else "quote signs are text"
        escape = f", {self.escape}{self.quote} is a quote sign in a field" if self.escape and self.quote else ""
        padded = ", blanks around fields are dropped" if self.padded else ""
        return f"separated by {self.between}, {quote}{escape}{padded}"


class DelimitedRow(NamedTuple):
    """One row: its line from 1, its fields, and how many quote signs stood where they could only be text."""

    line: int
    fields: list[str]
    odd: int = 0


class Splitter:
    """Cuts text into rows by a dialect."""

    def __init__(self, dialect: Dialect, *, spans: bool = True) -> None:
        """With `spans` a quoted field may hold line breaks."""
        self.dialect, self.spans = dialect, spans
        self.width = 0
        self.numeric: frozenset[int] = frozenset()
        self.trusted = False
        self._line = 1
        separator = r"[ \t]+" if dialect.separator == SPACES else re.escape(dialect.separator)
        blanks = r"[ \t]*" if dialect.padded else ""
        self._separator = re.compile(separator)
        # Not possessive: before Python 3.11.5 a possessive group with a lookahead inside matched too little, and with
        # nothing after it there is no way back to try.
        self._plain = re.compile(rf"(?:(?!{separator})[^\n])*")
        if len(dialect.separator) == 1 and dialect.separator != SPACES:
            self._plain = re.compile(rf"[^{separator}\n]*+")
        self._blanks = re.compile(blanks)
        self._quoted = None
        if dialect.quote:
            q, e = re.escape(dialect.quote), re.escape(dialect.escape or "")
            e = "" if e == q else e
            plain = rf"[^{q}{e}]*+" if spans else rf"[^{q}{e}\n]*+"
            # Possessive quantifiers: an unclosed quote sign at the start of a large file must not try all ways of
            # going back.
            inner = rf"{plain}(?:(?:{q}{q}{f'|{e}.' if e else ''}){plain})*+"
            self._quoted = re.compile(rf"{q}({inner}){q}{blanks}(?={separator}|\n|\Z)", re.DOTALL)

    def rows(
        self, text: str, start: int = 0, stop: int | None = None, line: int = 1
    ) -> Iterator[tuple[DelimitedRow, int]]:
        """Rows that begin in `text[start:stop]`, each with the place after it; blank lines are passed over."""
        stop = len(text) if stop is None else stop
        quote, separator, padded = self.dialect.quote, self.dialect.separator, self.dialect.padded
        while start < stop:
            end = text.find("\n", start)
            end = len(text) if end < 0 else end
            if quote is None or text.find(quote, start, end) < 0:
                raw = text[start:end]
                if raw and not raw.isspace():
                    if separator == SPACES:
                        fields = raw.split()
                    else:
                        fields = raw.split(separator)
                        if padded:
                            fields = [field.strip(" \t") for field in fields]
                    yield DelimitedRow(line, fields), end + 1
                start, line = end + 1, line + 1
                continue
            self._line = line
            fields, odd, end = self._fields(text, start)
            yield DelimitedRow(line, fields, odd), end + 1
            line += 1 + text.count("\n", start, end)
            start = end + 1

    def _fields(self, text: str, start: int) -> tuple[list[str], int, int]:
        fields, odd, place = [], 0, start
        assert self._quoted is not None  # there is a quote sign in the line
        quote, size = self.dialect.quote or "", len(text)
        if self.dialect.separator == SPACES:
            place = self._blank(text, place)
        while True:
            if self.dialect.padded:
                place = self._blank(text, place)
            match = self._quoted.match(text, place) if text.startswith(quote, place) else None
            # A field over several lines is either meant so or an unclosed sign that swallows rows; what the lines
            # look like by themselves tells.
            if match is not None and "\n" in match[1] and not self._may_span(text, start, match):
                match = None
            if match is not None:
                fields.append(self._unquoted(match[1]))
                place = match.end()
            else:
                found = self._plain.match(text, place)
                assert found is not None
                odd += quote in found[0]
                fields.append(found[0].strip(" \t") if self.dialect.padded else found[0])
                place = found.end()
            gap = self._separator.match(text, place) if place < size and text[place] != "\n" else None
            if gap is None:
                return fields, odd, place
            place = gap.end()
            if self.dialect.separator == SPACES and (place >= size or text[place] == "\n"):
                return fields, odd, place

    def _blank(self, text: str, place: int) -> int:
        while place < len(text) and text[place] in " \t" and text[place] != self.dialect.separator:
            place += 1
        return place

    def _unquoted(self, inner: str) -> str:
        quote, escape = self.dialect.quote or "", self.dialect.escape
        if escape and escape in inner:
            q, e = re.escape(quote), re.escape(escape)
            return re.sub(rf"{e}({q}|{e})|{q}{q}", lambda m: m[1] or quote, inner)
        return inner.replace(quote * 2, quote)

    def _may_span(self, text: str, start: int, match: re.Match[str]) -> bool:
        """Whether a quoted field over several lines is one, and not an unclosed quote sign that swallows rows.

        It swallows rows if each of the lines is by itself a row of the table: as wide, with numbers where the others
        have numbers. Where no column of numbers can tell and the lines are as wide, nobody can: that is an error.
        """
        if match.end() - match.start() > _LONGEST_SPAN:
            return False
        if self.trusted or not self.width:
            return True
        end = text.find("\n", match.end())
        lines = text[start : len(text) if end < 0 else end].split("\n")[:100]
        alone = Splitter(self.dialect, spans=False)
        pieces = [row.fields for piece in lines for row, _ in alone.rows(piece)]
        if len(pieces) < len(lines) or any(len(fields) != self.width for fields in pieces):
            return True
        # Numbers where the table has numbers, in every line by itself: then each line is a row, and the sign was
        # text.
        if self.numeric:
            return not all(NUMBER.fullmatch(fields[n]) or not fields[n] for fields in pieces for n in self.numeric)
        if self.width == 1:
            return True
        if self.dialect.separator in ("\t", "|", "::"):
            return False
        raise AmbiguousQuote(self._line)


class AmbiguousQuote(Exception):
    """A quoted field over several lines, each of which is a whole row; `args[0]` is the line it begins in."""


def detect(
    text: str, options: ReadOptions, ending: str, name: str, *, whole: bool
) -> tuple[Dialect, list[DelimitedRow]]:
    """The dialect of a text table, and its first rows.

    Args:
        text: The beginning of the file.
        options: What is given.
        ending: The file's ending, ".csv" for example, which decides between separators that both fit.
        name: The file, for messages.
        whole: Whether `text` is the whole file.

    Raises:
        DataError: Nothing fits, or two separators do; the sentence says which option tells.
    """
    text = text if whole else text[: text.rfind("\n") + 1] or text
    quote = options.quote if options.quote is not None else _quote_sign(text)
    base = Dialect(quote=None if quote in NO_QUOTE else quote)
    if options.sign is not None:
        dialect = replace(base, separator=options.sign)
    else:
        dialect = replace(base, separator=_separator(text, base, ending, name))
    dialect = replace(dialect, padded=_is_padded(text, dialect))
    if options.escape is not None:
        dialect = replace(dialect, escape=None if options.escape in NO_QUOTE else options.escape)
    else:
        dialect = replace(dialect, escape=_escape(text, dialect))
    return dialect, _sample_rows(text, dialect)


def _sample_rows(text: str, dialect: Dialect) -> list[DelimitedRow]:
    """Rows with quoted fields over several lines or without, whichever agree better in their number of fields."""
    # Both readings of quote signs are tried on the sample; a sign that is text (5'9") makes rows swallow one another
    # and their widths disagree.
    spanning = [row for row, _ in Splitter(dialect).rows(text)]
    if dialect.quote is None or dialect.quote not in text:
        return spanning
    alone = [row for row, _ in Splitter(dialect, spans=False).rows(text)]
    return alone if _agreement(alone)[0] > _agreement(spanning)[0] else spanning


def _quote_sign(text: str) -> str:
    """The single quote where most fields stand in such, else the double quote."""
    lines = text.split("\n", 200)[:200]
    single = sum(line.startswith("'") and line.rstrip().endswith("'") and len(line) > 1 for line in lines)
    return "'" if single > 0.8 * sum(bool(line.strip()) for line in lines) else '"'


def _agreement(rows: list[DelimitedRow]) -> tuple[float, int]:
    """The share of rows with the usual number of fields, and that number."""
    if not rows:
        return 0.0, 0
    width, count = Counter(len(row.fields) for row in rows).most_common(1)[0]
    return count / len(rows), width


def _separator(text: str, base: Dialect, ending: str, name: str) -> str:
    fitting: dict[str, tuple[float, int]] = {}
    for sign in (*CANDIDATES, SPACES):
        if sign == SPACES and fitting:
            break
        if sign not in text and not (sign == SPACES and "\t" in text):
            continue
        rows = _sample_rows(text, replace(base, separator=sign))
        share, width = _agreement(rows)
        first = len(rows[0].fields) if rows else 0
        if width > 1 and (first in (width, width - 1) and first > 1) and share >= _AGREEING:
            fitting[sign] = (share, width)
        elif width > 1 and first > 1 and (sign != SPACES) and share >= 0.5:
            fitting.setdefault(sign, (share / 2, width))
    if not fitting:
        return "\t" if ending == ".tsv" else ","
    best = max(share for share, _ in fitting.values())
    # A separator that cuts nearly as evenly as the best is still in the race: decimal commas cut evenly too.
    fitting = {sign: found for sign, found in fitting.items() if found[0] >= best - 0.05}
    if len(fitting) > 1 and "," in fitting and re.search(r"(?<!\d),|,(?!\d)", text) is None:
        del fitting[","]  # every comma stands between digits: decimal commas
    own = {".tsv": "\t", ".csv": ","}.get(ending, "")
    # The ending of the file breaks a tie, if the first line then reads as names.
    if len(fitting) > 1 and own in fitting and _named(text, base, own):
        return own
    named_signs = [sign for sign in fitting if _named(text, base, sign)]
    if len(named_signs) == 1:
        return named_signs[0]
    widest = max(width for _, width in fitting.values())
    signs = [sign for sign, found in fitting.items() if found[1] == widest]
    if len(signs) > 1:
        shown = " and ".join(repr(NAMES.get(sign, sign)) for sign in signs)
        raise DataError(f"{name}: {shown} both cut its lines into {widest} fields; say which with --separator.")
    return signs[0]


def _named(text: str, base: Dialect, sign: str) -> bool:
    """Whether the first line, cut by `sign`, reads as columns' names."""
    first = next((row for row, _ in Splitter(replace(base, separator=sign), spans=False).rows(text)), None)
    return first is not None and all(re.fullmatch(r"\s*[\w .:#/()-]*\s*", field) for field in first.fields)


def _is_padded(text: str, dialect: Dialect) -> bool:
    """Whether every separator is followed (or preceded) by a blank, as in "a, b, c"."""
    sign = dialect.separator
    if sign == SPACES or sign not in text:
        return False
    lines = [line for line in text.split("\n") if line.strip()]
    after = re.compile(re.escape(sign) + "[ \t]" if sign != "\t" else "\t ")
    before = re.compile(r"[ ]" + re.escape(sign))
    padded = sum(bool(after.search(line)) or bool(before.search(line)) for line in lines)
    loose = re.compile(rf"(?<! ){re.escape(sign)}(?![ \t\n]|\Z)" if sign != "\t" else "(?<! )\t(?! )")
    return padded == len(lines) and not loose.search(lines[0])


def _escape(text: str, dialect: Dialect) -> str | None:
    r"""The backslash if quoted fields come out better with `\"` as a quote sign in a field."""
    if dialect.quote is None or f"\\{dialect.quote}" not in text:
        return None
    scores = []
    for escape in (None, "\\"):
        rows = _sample_rows(text, replace(dialect, escape=escape))
        share, _ = _agreement(rows)
        scores.append((sum(row.odd for row in rows), -share))
    return "\\" if scores[1] < scores[0] else None


def first_line(rows: list[DelimitedRow]) -> Literal["names", "guessed names", "data"]:
    """What the first row holds.

    It is data where a number or date stands in it, nothing where a name must be, or a text of the same shape as those
    below it (B0-12 above B0-77). It holds names where it has a word above a column of numbers; else that is a guess.
    """
    if not rows:
        return "guessed names"
    first = rows[0].fields
    rest = [row.fields for row in rows[1:200] if len(row.fields) == len(first)]
    if any(NUMBER.fullmatch(field) or _DATE.fullmatch(field) for field in first):
        return "data"
    if any(not field.strip() and n and any(f[n].strip() for f in rest) for n, field in enumerate(first)):
        return "data"
    numeric = numeric_columns(rest, len(first))
    if any(first[n].strip().lower() not in _NO_NAMES for n in numeric):
        return "names"
    for n, field in enumerate(first):
        shape = _shape(field)
        # Codes of one pattern above codes of that pattern: the first line is a row like the others.
        alike = sum(_shape(fields[n]) == shape for fields in rest)
        if len(rest) > 1 and re.search(r"[^a _]", shape) and alike >= 0.8 * len(rest):
            return "data"
    return "guessed names"


def _shape(text: str) -> str:
    """Letters as a, digits as 9: "B0-12" is "a9-9"."""
    return re.sub(r"\d+", "9", re.sub(r"[^\W\d_]+", "a", text[:200]))


def numeric_columns(rows: list[list[str]], width: int) -> frozenset[int]:
    """The columns whose cells are numbers in nearly all rows."""
    kept = [fields for fields in rows if len(fields) == width]
    found = set()
    for n in range(width):
        cells = [fields[n] for fields in kept if fields[n]]
        if cells and sum(NUMBER.fullmatch(cell) is not None for cell in cells) >= 0.95 * len(cells):
            found.add(n)
    return frozenset(found)


def shown_names(names: list[str], most: int = 12) -> str:
    """Columns' names for a message: a few, each cut."""
    parts = [show(name, 40)[1:-1] if len(name) <= 40 else show(name, 40) for name in names[:most]]
    return ", ".join(parts) + (f", … ({len(names):,} in all)" if len(names) > most else "")
