"""Prices as people write them: currencies before or after, marks between thousands, either decimal mark."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from llmrec.dataset.importers.values.cells import Reading, none_bad, read_numbers, without_missing
from llmrec.dataset.schema import MISSING, show
from llmrec.errors import DataError

_SIGNS = {
    **{"US$": "USD", "C$": "CAD", "CA$": "CAD", "A$": "AUD", "AU$": "AUD", "NZ$": "NZD", "HK$": "HKD", "S$": "SGD"},
    **{"R$": "BRL", "MX$": "MXN", "$": "USD", "€": "EUR", "£": "GBP", "￥": "¥", "¥": "¥", "元": "CNY", "円": "JPY"},
    **{"₹": "INR", "RS": "INR", "RS.": "INR", "₽": "RUB", "РУБ": "RUB", "РУБ.": "RUB", "₩": "KRW", "₺": "TRY"},
    **{"₴": "UAH", "₫": "VND", "฿": "THB", "₱": "PHP", "₪": "ILS", "₦": "NGN", "ZŁ": "PLN", "KČ": "CZK", "FT": "HUF"},
    **{"KR": "kr", "KR.": "kr", "FR": "CHF", "FR.": "CHF", "SFR": "CHF", "RM": "MYR", "RP": "IDR", "EURO": "EUR"},
}
_CODES = (
    *("USD", "EUR", "GBP", "JPY", "CNY", "INR", "RUB", "BRL", "CAD", "AUD", "NZD", "CHF", "SEK", "NOK", "DKK", "PLN"),
    *("CZK", "HUF", "RON", "BGN", "TRY", "UAH", "KRW", "HKD", "SGD", "TWD", "THB", "MYR", "IDR", "PHP", "VND", "MXN"),
    *("ARS", "CLP", "COP", "PEN", "ZAR", "NGN", "EGP", "ILS", "AED", "SAR", "KZT"),
)
_CURRENCIES = {**{code: code for code in _CODES}, "RMB": "CNY", **_SIGNS}
_PARTS = (
    r"^(?P<sign>[+-]?)\s*(?P<before>[^\d\s.,+-][^\d\s,+-]{0,3}|)\s*(?P<minus>[+-]?)"
    r"(?P<digits>\d(?:[\d.,]*\d)?|[.,]\d+)(?:\s*(?P<after>[^\d\s,]{1,4}|[.,]-*))?$"
)
_FLOAT = r"^[+-]?\d+(?:\.\d+)?[eE][+-]?\d+$"
_machine_float = pl.when(pl.col("t").str.contains(_FLOAT)).then(pl.col("t").cast(pl.Float64, strict=False))
_BETWEEN = r"(\d)[\s\u00a0\u2009\u202f'’](\d{3})"
_RANGE = r"^([^-–—]*\d[^-–—]*?)\s*[-–—]\s*[^-–—]*\d[^-–—]*$"
_FROM = r"^(?i:from|starting at|ab)\s+"
_WANTED = "a price such as 1299.99, $1,299.99 or 1.299,99 €, or empty where it is unknown"


def read_prices(
    column: pl.Series,
    words: Sequence[str] = MISSING,
    *,
    decimal: str | None = None,
    currency: str = "",
) -> Reading:
    """Prices as numbers, and the currency that the cells name.

    Which of point and comma is the decimal mark is decided by the column as a whole: a cell such as 1.299 could be
    either. Cells in another currency than most are bad.

    Raises:
        DataError: The decimal mark cannot be told, or no currency has most cells; without its place.
    """
    if column.dtype != pl.String:
        return read_numbers(column, words, decimal=decimal)
    text, notes = without_missing(column.str.strip_chars(), words)
    # Cells as programs write them need no guess, unless a point might stand between thousands.
    plain = text.cast(pl.Float64, strict=False) if decimal != "," else None
    if plain is not None and plain.null_count() == text.null_count() and _certain(text) and plain.is_finite().all():
        return Reading(plain, none_bad(len(text)), _WANTED, notes, currency=currency)
    # Twice: in "1 234 567" the first pass takes the middle group's neighbour with it.
    spaced = text.str.replace_all(_BETWEEN, "$1$2").str.replace_all(_BETWEEN, "$1$2")
    single = spaced.str.replace(_RANGE, "$1").str.replace(_FROM, "")
    ranges = int((single != spaced).sum())
    if ranges:
        notes = (
            *notes,
            f"{ranges:,} ranges such as {show(text.filter(single != spaced)[0], 30)} count as their lower end",
        )
    parts = single.to_frame("t").select(pl.col("t").str.extract_groups(_PARTS)).unnest("t")
    named = parts.select(pl.coalesce(pl.col(n).replace("", None).str.to_uppercase() for n in ("before", "after")))
    unit = named.to_series()
    unit = unit.replace_strict(_CURRENCIES, default=None, return_dtype=pl.String)
    strange = (named.to_series().is_not_null() & unit.is_null()) & ~parts["after"].str.contains(
        r"^[.,]-+$"
    ).fill_null(False)
    main, other, more = _currency(unit, currency)
    number, marks = _values(parts, decimal)
    number = number.fill_null(text.to_frame("t").select(_machine_float).to_series())
    bad = text.is_not_null() & (number.is_null() | strange | other)
    frame = pl.DataFrame({"price": number, "bad": bad})
    values = frame.select(pl.when(~pl.col("bad")).then("price").alias(column.name))[column.name]
    wanted = f"a price in {main} as most are" if other.any() else _WANTED
    return Reading(values, bad, wanted, (*notes, *more, *marks), currency=main)


def _certain(text: pl.Series) -> bool:
    """Whether numbers as programs write them cannot have thousands behind their point."""
    doubtful = text.str.contains(r"^[+-]?[1-9]\d{0,2}\.\d{3}$")
    return not doubtful.any() or bool(text.str.contains(r"\.(?:\d{1,2}|\d{4,})$|^[+-]?0?\.\d").any())


def _currency(unit: pl.Series, given: str) -> tuple[str, pl.Series, tuple[str, ...]]:
    """The currency, the rows in another, and what was assumed."""
    counts = unit.drop_nulls().value_counts(sort=True)
    none = pl.repeat(False, len(unit), dtype=pl.Boolean, eager=True)
    if counts.is_empty():
        return given, none, ()
    names = ", ".join(f"{name} ({n:,})" for name, n in counts.head(4).iter_rows())
    main = str(counts[0, 0])
    # A tenth in another currency may be errors; more is a table of several, in which no number can be compared.
    if counts.height > 1 and counts[0, 1] < 0.9 * len(unit.drop_nulls()) and given not in counts[:, 0]:
        raise DataError(f"prices are in several currencies: {names}; convert them to one")
    main = given if given in counts[:, 0] else main
    other = (unit != main).fill_null(False)
    if given and given != main:
        return (
            given,
            none,
            (f"prices are written in {names}, and taken for {given} as --option currency={given} says",),
        )
    return main, other, (f"prices are in {main} (--option currency)",) if not given else ()


def _values(parts: pl.DataFrame, decimal: str | None) -> tuple[pl.Series, tuple[str, ...]]:
    digits = pl.col("digits")
    last = digits.str.extract(r"([.,])[^.,]*$")
    both = digits.str.contains(",", literal=True) & digits.str.contains(".", literal=True)
    many = digits.str.count_matches(r"[.,]") > 1
    thousands = digits.str.contains(r"^[1-9]\d{0,2}(?:[.,]\d{3})+$")
    frame = parts.with_columns(last=last, both=both, many=many, thousands=thousands)
    # what one cell says alone: both marks, one mark twice, or one mark without exactly three digits behind it
    said = (
        pl.when(pl.col("last").is_null())
        .then(None)
        .when("both")
        .then("last")
        .when("many")
        .then(pl.when(pl.col("last") == ",").then(pl.lit(".")).otherwise(pl.lit(",")))
        .when("thousands")
        .then(None)
        .otherwise("last")
    )
    frame = frame.with_columns(said=said)
    open_ = frame["thousands"].fill_null(False) & frame["said"].is_null()
    marks = frame["said"].drop_nulls().unique().to_list()
    if decimal is None and open_.any() and len(marks) != 1:
        sample = frame["digits"].filter(open_)[0]
        raise DataError(
            f"prices such as {show(sample, 20)} may have thousands or decimals behind their mark, and no other cell "
            "tells; say --decimal . or --decimal ,"
        )
    mark = decimal or (marks[0] if len(marks) == 1 else None)
    frame = frame.with_columns(mark=pl.lit(mark) if decimal else pl.col("said").fill_null(pl.lit(mark)))
    comma = pl.col("mark") == ","
    plain = (
        pl.when(comma.fill_null(False))
        .then(digits.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True))
        .otherwise(digits.str.replace_all(",", "", literal=True))
    )
    grouped = (
        pl.when(comma.fill_null(False))
        .then(digits.str.contains(r"^(?:\d*|\d{1,3}(?:\.\d{3})+)(?:,\d*)?$"))
        .otherwise(digits.str.contains(r"^(?:\d*|\d{1,3}(?:,\d{2,3})*,\d{3})(?:\.\d*)?$"))
    )
    minus = (pl.col("sign") == "-") | (pl.col("minus") == "-")
    number = frame.select(
        price=pl.when(grouped).then(plain.cast(pl.Float64, strict=False)) * pl.when(minus).then(-1.0).otherwise(1.0)
    )["price"]
    notes: tuple[str, ...] = ()
    if frame["last"].is_not_null().any() and (mark == "," or bool(frame["both"].any()) or open_.any()):
        notes = (
            f"{mark!r} is the decimal mark of prices (--decimal)"
            if mark
            else "decimal marks differ from cell to cell",
        )
    return number, notes
