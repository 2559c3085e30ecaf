"""What cells mean: a time, an id, a number, a price, a list, or nothing. One reader a type; values by hand.

A reader gives a value, a missing cell (null) or a bad one; what it assumed for the column as a whole is in its notes.
A column that can be read in two ways, or in none, is refused as a whole.
"""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest

from llmrec.dataset.importers.values import (
    look_like_floats,
    near_miss,
    read_categories,
    read_ids,
    read_numbers,
    read_prices,
    read_text,
    read_times,
    read_whole,
    without_zeros,
)
from llmrec.errors import DataError

NOW = datetime(2026, 6, 1, tzinfo=UTC).timestamp()


def at(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp())


def times(cells, **options):
    return read_times(pl.Series("time", cells), now=NOW, **options)


MORNING = at(2024, 1, 30, 8, 26)


@pytest.mark.parametrize(
    ("cells", "seconds"),
    [
        (["1706603160", "1706603161"], [MORNING, MORNING + 1]),
        (["1706603160.0", "1.706603161e+09"], [MORNING, MORNING + 1]),
        ([1706603160.0, 1706603161.0], [MORNING, MORNING + 1]),
        (["20240130", "20240131"], [at(2024, 1, 30), at(2024, 1, 31)]),
        ([20240130, None], [at(2024, 1, 30), None]),
        (["202401300826"], [MORNING]),
        (["20240130082600", "20240130082601"], [MORNING, MORNING + 1]),
        # a spreadsheet counts days from 1899-12-30: 45321 is 2024-01-30, .5 is noon
        (["45321", "45321.5"], [at(2024, 1, 30), at(2024, 1, 30, 12)]),
        (["45321,25"], [at(2024, 1, 30, 6)]),
        (["2024-01-30T08:26:00", "2024-01-30T10:26:01+02:00", "2024-01-30"], [MORNING, MORNING + 1, at(2024, 1, 30)]),
        (["2024-01-30 08:26:00 UTC", "2024-01-30 08:26:01 UTC"], [MORNING, MORNING + 1]),
        (["2024/1/30 8:26", "2024.01.30"], [MORNING, at(2024, 1, 30)]),
        (["2024年1月30日"], [at(2024, 1, 30)]),
        (["30.01.2024 08:26"], [MORNING]),
        (["1.2.2024"], [at(2024, 2, 1)]),
        (["1/30/2024 8:26", "2/1/2024 0:00"], [MORNING, at(2024, 2, 1)]),
        (["30/01/2024", "01/02/2024"], [at(2024, 1, 30), at(2024, 2, 1)]),
        (["1/30/2024 08:26 PM", "1/30/2024 12:00 AM"], [MORNING + 12 * 3600, at(2024, 1, 30)]),
        (["Tue, 30 Jan 2024 08:26:00 GMT", "30 January 2024"], [MORNING, at(2024, 1, 30)]),
        (["Tue Jan 30 08:26:00 +0000 2024"], [MORNING]),
        (["Jan 30, 2024 8:26 AM"], [MORNING]),
        (["20240130T082600Z", "2024-W05-2"], [MORNING, at(2024, 1, 30)]),
        ([datetime(2024, 1, 30, 8, 26), None], [MORNING, None]),
        ([date(2024, 1, 30)], [at(2024, 1, 30)]),
        (["2024-01-30", "nan", ""], [at(2024, 1, 30), None, None]),
    ],
)
def test_times_are_read_as_they_are_written(cells, seconds):
    found = times(cells)
    assert found.values.to_list() == seconds
    assert not found.bad.any()
    assert found.order is None


@pytest.mark.parametrize(
    ("cells", "nanos"),
    [
        (["1706603160123", "1706603160007"], [123_000_000, 7_000_000]),
        (["1706603160123456", "1706603160000001"], [123_456_000, 1_000]),
        (["1706603160123456789"], [123_456_789]),
        ([1706603160123], [123_000_000]),
        (["1706603160.25", "1706603160.125000001"], [250_000_000, 125_000_001]),
        ([1706603160.25, 1706603160.5], [250_000_000, 500_000_000]),
        (["1706603160001.5"], [1_500_000]),
        (["2024-01-30T08:26:00.123Z", "2024-01-30T08:26:00.1234567Z"], [123_000_000, 123_456_700]),
        (["30.01.2024 08:26:00,5"], [500_000_000]),
        ([datetime(2024, 1, 30, 8, 26, 0, 42)], [42_000]),
    ],
)
def test_what_is_finer_than_a_second_becomes_the_order_within_it(cells, nanos):
    found = times(cells)
    assert found.values.to_list() == [MORNING] * len(cells)
    assert found.order is not None
    assert found.order.to_list() == nanos
    assert any("order" in note for note in found.notes)


def test_small_numbers_count_and_that_is_said():
    found = times(["1", "2", "300"])
    assert found.values.to_list() == [1, 2, 300]
    assert any("no dates" in note for note in found.notes)
    counter = times([str(n) for n in range(60_000)])  # a part of it could be days of a spreadsheet
    assert counter.values.to_list() == list(range(60_000))
    assert times(["1", "2"], unit="d").values.to_list() == [86_400, 172_800]
    assert times(["90", "0.5"], unit="min").values.to_list() == [5_400, 30]


@pytest.mark.parametrize(
    ("cells", "options", "words"),
    [
        (["123456789", "200000000"], {}, "time_unit=s"),
        (["5000000000000000000000"], {}, "no dates"),
        (["01/02/2024", "03/04/2024"], {}, "time_format=dmy"),
        (["13/02/2024", "03/14/2024"], {}, "time_format=dmy"),
        (["1.70660E+09", "1.70661E+09"], {}, "spreadsheet rounded"),
        (["soon", "later"], {}, "neither a number nor a date"),
        (["1931-01-01", "1932-01-01"], {}, "before 1990"),
        (["2024-01-30"], {"written": "day"}, "time_format 'day' is neither"),
        ([True, False], {}, "must be times"),
    ],
)
def test_a_column_that_is_no_time_or_two_is_refused(cells, options, words):
    with pytest.raises(DataError, match=words):
        times(cells, **options)


def test_what_a_person_says_of_times_is_believed():
    assert times(["123456789"], unit="s").values.to_list() == [123456789]
    assert times(["01/02/2024"], written="dmy").values.to_list() == [at(2024, 2, 1)]
    assert times(["01/02/2024"], written="mdy").values.to_list() == [at(2024, 1, 2)]
    assert times(["30-01-24 08h26"], written="%d-%m-%y %Hh%M").values.to_list() == [MORNING]
    assert times(["1931-01-01", "2024-01-30"], plausible=False).bad.to_list() == [True, False]  # before 1970
    assert times(["1975-01-01"], plausible=False).values.to_list() == [at(1975, 1, 1)]
    far = times(["20991231235959", "1706603160"], plausible=False, unit="mixed")
    assert far.bad.to_list() == [True, False]
    assert times(["900000000", "1706603160"], plausible=False).values.to_list() == [900000000, 1706603160]
    assert times(["20240130235959", "20240131000000"], plausible=False).values.to_list() == [
        at(2024, 1, 30, 23, 59, 59),
        at(2024, 1, 31),
    ]
    # not even a person's word puts a whole log into the year 2611
    assert times(["20240130235959"], unit="ms").bad.to_list() == [True]


@pytest.mark.parametrize(
    ("cells", "bad"),
    [
        (["1706603160", "1706603160123", "1706603161", "1706603162"], [1]),  # seconds and milliseconds
        (["0", "1706603160", "1706603161"], [0]),  # 1970 for "unknown"
        (["20240130", "20240231x", "20240201"], [1]),
        ([*map(str, range(40)), "-1"], [40]),
        ([*map(str, range(40)), "1706603160"], [40]),
        (["2024-01-30", "2024-02-31", "2024-01-31"], [1]),  # no such day
        (["2024-01-30", "1706603160", "2024-01-31"], [1]),
        (["1900-01-01", "2024-01-30", "2024-01-31"], [0]),
        (["2024-01-30", "9999-12-31", "2024-01-31"], [1]),
    ],
)
def test_cells_that_are_not_as_the_others_are_bad(cells, bad):
    found = times(cells)
    assert found.bad.arg_true().to_list() == bad
    assert found.values.null_count() == len(bad)


def test_each_time_by_its_own_size_if_asked():
    found = times(["1706603160", "1706603160123", "20240130"], unit="mixed")
    assert found.values.to_list() == [MORNING, MORNING, at(2024, 1, 30)]
    assert found.order is not None
    assert found.order.to_list() == [0, 123_000_000, 0]


@pytest.mark.parametrize(
    "word", ["nan", "NaN", "NULL", "null", "None", "\\N", "N/A", "NA", "#N/A", "-", "—", "", " "]
)
def test_words_for_nothing_are_nothing_for_every_reader(word):
    for reader in (read_ids, read_text, read_numbers, read_prices, read_categories, read_times):
        found = reader(pl.Series("c", ["1706603160", word]))
        assert found.values.null_count() == 1
        assert not found.bad.any()
        if word.strip():
            assert any(f"{word!r} (1) taken for missing" in note for note in found.notes)


def test_other_words_for_nothing():
    column = pl.Series("c", ["NA", "?", "None"])
    assert read_ids(column, ("?",)).values.to_list() == ["NA", None, "None"]
    assert read_text(column, ()).values.to_list() == ["NA", "?", "None"]
    assert read_ids(pl.Series("c", ["na", "Na", "nano"])).values.to_list() == ["na", "Na", "nano"]


def test_ids_stay_apart():
    found = read_ids(pl.Series("c", ["007", "7", " 7 ", "a\tb", "1e5", "12e4"]))
    assert found.values.to_list() == ["007", "7", "7", "a\tb", "1e5", "12e4"]
    assert not found.bad.any()
    assert any("white space around 1 cells" in note for note in found.notes)
    written = read_ids(pl.Series("c", ["9e+05", "1.5e+05", "9E+05", "9e+06", "2e+00"]))
    assert written.values.to_list() == ["900000", "150000", None, None, "2"]
    rounded = read_ids(pl.Series("c", ["1.23457E+11", "123457000001", "1E+15", "1.2345678901e+10"]))
    assert rounded.bad.to_list() == [True, False, True, False]
    assert rounded.values.to_list() == [None, "123457000001", None, "12345678901"]


def test_ids_of_other_types_are_text():
    assert read_ids(pl.Series("c", [12, None, -3])).values.to_list() == ["12", None, "-3"]
    assert read_ids(pl.Series("c", [12.0, float("nan"), 2.5])).values.to_list() == ["12", None, "2.5"]
    assert read_ids(pl.Series("c", [2.0**53, 1.0])).bad.to_list() == [True, False]
    assert read_ids(pl.Series("c", [True])).values.to_list() == ["true"]
    for cells in ([{"a": 1}], [["a", "b"]]):
        with pytest.raises(DataError, match="must be ids"):
            read_ids(pl.Series("c", cells))


def test_whole_floats():
    assert look_like_floats(pl.Series(["12.0", "13", None]))
    assert not look_like_floats(pl.Series(["1.0", "1.5"]))
    assert without_zeros(pl.Series(["12.0", "007.", "5"]))[0].to_list() == ["12", "007", "5"]
    assert "without '.0'" in near_miss(pl.Series(["12.0", "x"]), pl.Series(["12"]))
    assert "leading zeros" in near_miss(pl.Series(["0012"]), pl.Series(["12"]))
    assert near_miss(pl.Series(["q"]), pl.Series(["12"])) == ""


def test_numbers():
    found = read_numbers(pl.Series("c", ["4", " 4.5 ", "-1", "nan", ".5", "good", "inf"]))
    assert found.values.to_list() == [4, 4.5, -1, None, 0.5, None, None]
    assert found.bad.to_list() == [False] * 5 + [True, True]
    assert read_numbers(pl.Series("c", ["4,5", "3"])).values.to_list() == [4.5, 3]
    assert read_numbers(pl.Series("c", ["4,5", "3.5"])).bad.to_list() == [True, False]
    assert read_numbers(pl.Series("c", [1.5, float("nan"), float("inf")])).bad.to_list() == [False, False, True]
    assert read_whole(pl.Series("c", ["3.0", "2", "2.5"])).values.to_list() == [3, 2, None]


@pytest.mark.parametrize(
    ("cells", "prices", "currency"),
    [
        (["$1,299.99", "3"], [1299.99, 3], "USD"),
        (["1.299,99 €", "3"], [1299.99, 3], "EUR"),
        (["1 299,00", "1\u00a0299,5"], [1299, 1299.5], ""),
        (["€12", "12.5 €"], [12, 12.5], "EUR"),
        (["USD 5", "5 usd", "US$ 7"], [5, 5, 7], "USD"),
        (["CHF 1'299.50", "2"], [1299.5, 2], "CHF"),
        (["R$ 1.299,90"], [1299.9], "BRL"),
        (["₹1,23,456.50"], [123456.5], "INR"),
        (["1,234,567", "1.5"], [1234567, 1.5], ""),
        (["1.299", "3,50"], [1299, 3.5], ""),
        (["1.299", "0.5"], [1.299, 0.5], ""),
        (["£-5", "-£3"], [-5, -3], "GBP"),
        (["1e3", "2.5"], [1000, 2.5], ""),
        (["199元"], [199], "CNY"),
        (["5,-", "7,50"], [5, 7.5], ""),
        (["$12.99 - $19.99", "3 – 4", "from 7.5"], [12.99, 3, 7.5], "USD"),  # of a range the lower end
        (["9.99", "—", "N/A"], [9.99, None, None], ""),
        ([9.99, None], [9.99, None], ""),
    ],
)
def test_prices_as_people_write_them(cells, prices, currency):
    found = read_prices(pl.Series("price", cells))
    assert found.values.to_list() == prices
    assert not found.bad.any()
    assert found.currency == currency


def test_prices_that_are_none_or_two():
    assert read_prices(pl.Series("p", ["cheap", "3", "2024-05-01", "$", "1.2.3", "5 apples"])).bad.to_list() == [
        True,
        False,
        True,
        True,
        True,
        True,
    ]
    assert read_prices(pl.Series("p", ["$5"] * 19 + ["€4"])).bad.arg_true().to_list() == [19]
    for cells in (["1.299", "3"], ["1,299", "2,499"]):
        with pytest.raises(DataError, match=r"--decimal"):
            read_prices(pl.Series("p", cells))
    assert read_prices(pl.Series("p", ["1.299", "3"]), decimal=",").values.to_list() == [1299, 3]
    assert read_prices(pl.Series("p", ["1.299", "3"]), decimal=".").values.to_list() == [1.299, 3]
    with pytest.raises(DataError, match=r"several currencies: USD \(1\), EUR \(1\)|EUR \(1\), USD \(1\)"):
        read_prices(pl.Series("p", ["$5", "€4"]))


@pytest.mark.parametrize(
    ("cells", "lists"),
    [
        (["['Action', 'Indie']", '["RPG", "Indie"]'], [["Action", "Indie"], ["RPG", "Indie"]]),
        (["['a' 'b']", "[c, d]", "[]"], [["a", "b"], ["c", "d"], []]),
        (["['it\\'s', \"b\"]", "('x', 'y')"], [["it's", "b"], ["x", "y"]]),
        (['[{"id": 28, "name": "Action"}]', "[{'id': 1, 'name': 'Crime'}]"], [["Action"], ["Crime"]]),
        (['{"name": "Action"}', "{'RPG': 12, 'Indie': 0}"], [["Action"], ["RPG"]]),
        (["Home|Kitchen", "Home | Tea|"], [["Home", "Kitchen"], ["Home", "Tea"]]),
        (["Home > Tea", "Home"], [["Home", "Tea"], ["Home"]]),
        (["a;b", "Arts &amp; Crafts;c"], [["a", "b"], ["Arts &amp; Crafts", "c"]]),
        (["Action, Indie", "RPG, Indie"], [["Action", "Indie"], ["RPG", "Indie"]]),
        (["Home/Tea", "Home/Cups", "Home"], [["Home", "Tea"], ["Home", "Cups"], ["Home"]]),
        (["TV/Audio", "Books"], [["TV/Audio"], ["Books"]]),
        (["Clothing, Shoes & Jewelry", "Books"], [["Clothing, Shoes & Jewelry"], ["Books"]]),
        ([["a", " b ", "nan"], None], [["a", "b"], None]),
        ([['{"name": "x"}'], ["[Deluxe]"]], [["x"], ["[Deluxe]"]]),
        ([[{"name": "x", "id": 1}], []], [["x"], []]),
        ([[["a", "b"]], [["c"]]], [["a", "b"], ["c"]]),
        (["nan", "None", "a"], [None, None, ["a"]]),
        ([3, 4], [["3"], ["4"]]),
        (["(Un)Well", "[sic"], [["(Un)Well"], ["[sic"]]),
    ],
)
def test_lists_of_categories(cells, lists):
    found = read_categories(pl.Series("categories", cells))
    assert found.values.to_list() == lists
    assert not found.bad.any()


def test_a_given_separator_is_text_and_alone_counts():
    cells = ["Home|Kitchen", "Home > Tea"]
    assert read_categories(pl.Series("c", cells), separator="|").values.to_list() == [
        ["Home", "Kitchen"],
        ["Home > Tea"],
    ]
    assert read_categories(pl.Series("c", cells), separator=">").values.to_list() == [
        ["Home|Kitchen"],
        ["Home", "Tea"],
    ]


def test_records_without_a_name_and_broken_lists_are_bad():
    found = read_categories(pl.Series("c", ['{"q": "z"}', '["a", ', "{x: y}", "ok"]))
    assert found.bad.to_list() == [True, False, True, False]
    deep = read_categories(pl.Series("c", ["[" * 5000 + "]" * 5000, "[__import__('os').system('echo')]"]))
    assert deep.bad.any()
    assert deep.values.null_count() + sum(bool(v) for v in deep.values.drop_nulls()) == 2
