"""Bytes to rows. What each file means is written out by hand beside it; None is an empty cell."""

from __future__ import annotations

import json

import polars as pl
import pytest

from llmrec import bounded
from llmrec.dataset.importers import import_table
from llmrec.dataset.importers.reading import Ledger, ReadOptions, delimited, read_csv_rows, read_table
from llmrec.dataset.importers.reading import rows as streaming
from llmrec.errors import DataError

TEXTS: dict[str, tuple[str, bytes, list[tuple[str | None, ...]]]] = {
    "semicolons": ("t.csv", b"u;i;v\nu;a;4,5\nv;b;3,0\n", [("u", "a", "4,5"), ("v", "b", "3,0")]),
    "spaces": ("t.csv", b"user item time\nu  a 1\nv b   2\n", [("u", "a", "1"), ("v", "b", "2")]),
    "padded": ("t.csv", b'u, i, t\nu, a, "x, y"\nv, b, 2\n', [("u", "a", "x, y"), ("v", "b", "2")]),
    "pipes": ("t.txt", b"u|i|t\nu|a, b|1\nv|c, d|2\n", [("u", "a, b", "1"), ("v", "c, d", "2")]),
    "double colons": ("t.dat", b"u::i::n\n1::a:b::5\n2::c::3\n", [("1", "a:b", "5"), ("2", "c", "3")]),
    "decimals between semicolons": ("t.csv", b"1;1,5;2,5\n2;2,5;3,5\n", [("1", "1,5", "2,5"), ("2", "2,5", "3,5")]),
    "tabs in a csv": ("t.csv", b"u\ti\tt\nu\ta,b\t1\nv\tc\t2\n", [("u", "a,b", "1"), ("v", "c", "2")]),
    "backslashes": ("t.csv", b'i,t\na,"The \\"Great\\" Book"\nb,"Plain, book"\n', [("a", 'The "Great" Book'), ("b", "Plain, book")]),
    "Book-Crossing": (
        "t.csv",
        b'"ISBN";"Title";"Year"\n"01";"Real \\"J. P\\" Life &amp; Co";"1999"\n"02";"A; B";"2000"\n',
        [("01", 'Real "J. P" Life &amp; Co', "1999"), ("02", "A; B", "2000")],
    ),
    "path that ends in a backslash": ("t.csv", b'i,t\na,"C:\\dir\\"\nb,"x, y"\n', [("a", "C:\\dir\\"), ("b", "x, y")]),
    "doubled quotes": ("t.csv", b'i,t\na,"say ""hi"""\nb,""""\n', [("a", 'say "hi"'), ("b", '"')]),
    "inches": ("t.csv", b'i,t,b\na,TV 32" LED,Acme\nb,Teapot,Acme\n', [("a", 'TV 32" LED', "Acme"), ("b", "Teapot", "Acme")]),
    "quoted word first": ("t.tsv", b'i\tt\na\t"Weird Al" Yankovic\nb\tRoyce da 5\'9"\n', [("a", '"Weird Al" Yankovic'), ("b", "Royce da 5'9\"")]),
    "quote that would swallow a row": (
        "t.tsv",
        b'i\tn\tt\na\t1\t"Foo\nb\t2\tBar"\nc\t3\tx\n',
        [("a", "1", '"Foo'), ("b", "2", 'Bar"'), ("c", "3", "x")],
    ),
    "quoted line break": ("t.csv", b'i,t,n\na,"one\ntwo",1\n\nb,"x, y",2\n', [("a", "one\ntwo", "1"), ("b", "x, y", "2")]),
    "stray and proper quotes": ("t.csv", b'i,t\na,"TV, big"\nb,"Best" kettle\nc,z\n', [("a", "TV, big"), ("b", '"Best" kettle'), ("c", "z")]),
    "CR": ("t.csv", b"u,i\rx,1\ry,2\r", [("x", "1"), ("y", "2")]),
    "CRLF": ("t.csv", b"u,i\r\nx,1\r\ny,2\r\n", [("x", "1"), ("y", "2")]),
    "empty cells": ("t.csv", b'u,i,v\nx,"",\n"","y",2\n', [("x", None, None), (None, "y", "2")]),
    "line ends in a separator": ("t.csv", b"u,i\nx,1,\ny,2,\n", [("x", "1"), ("y", "2")]),
    "Excel's hint": ("t.csv", b"sep=;\nu;i\nx;1\n", [("x", "1")]),
    "single quotes": ("t.csv", b"'u','t'\n'x','a, b'\n'y','c'\n", [("x", "a, b"), ("y", "c")]),
    "one column": ("t.csv", b"u\nx\ny\n", [("x",), ("y",)]),
    "BOM": ("t.csv", b"\xef\xbb\xbfu,i\nx,1\n", [("x", "1")]),
    "UTF-16": ("t.csv", "u,i\nMüller,é\n".encode("utf-16"), [("Müller", "é")]),
    "UTF-16 without a mark": ("t.csv", "u,i\nx,1\ny,2\n".encode("utf-16-le"), [("x", "1"), ("y", "2")]),
    "latin-1": ("t.csv", "i,t\na,Café Müller\nb,naïve\n".encode("latin-1"), [("a", "Café Müller"), ("b", "naïve")]),
    "cp1252": ("t.csv", "i,t\na,“Best” – 5 €\nb,x\n".encode("cp1252"), [("a", "“Best” – 5 €"), ("b", "x")]),
    "Icelandic": ("t.csv", "i,t\na,Bolli með mynd frá Íslandi\nb,Góð kanna úr stáli\n".encode("cp1252"), [("a", "Bolli með mynd frá Íslandi"), ("b", "Góð kanna úr stáli")]),
    "one word of Chinese": ("t.csv", "i,t\na,茶壶\nb,茶壶\n".encode("gb18030"), [("a", "茶壶"), ("b", "茶壶")]),
    "GB 18030": ("t.csv", "i,t\na,紫砂茶壶，手工\nb,蓝色杯子\n".encode("gb18030"), [("a", "紫砂茶壶，手工"), ("b", "蓝色杯子")]),
}  # fmt: skip


@pytest.mark.parametrize("case", TEXTS)
def test_text_tables_are_read_as_they_are_meant(tmp_path, case):
    name, data, rows = TEXTS[case]
    (tmp_path / name).write_bytes(data)
    ledger = Ledger()
    raw = read_table(tmp_path / name, ledger=ledger)
    assert raw.frame.rows() == rows
    assert raw.rows_in == len(rows)
    assert raw.line.to_list() == sorted(set(raw.line))
    ledger.rows("events", raw.rows_in, raw.frame.height)
    assert ledger.assumptions[0].startswith(name) or "column" in ledger.assumptions[0]


@pytest.mark.parametrize("case", TEXTS)
@pytest.mark.parametrize(("chunk", "small"), [(1, 1), (16, 8), (32, 16), (1 << 20, 16)])
def test_chunks_make_no_difference(tmp_path, monkeypatch, case, chunk, small):
    """Plain chunks go through polars and others through the splitter; where the borders fall must not show."""
    monkeypatch.setattr(delimited, "_CHUNK", chunk)
    monkeypatch.setattr(delimited, "_SMALL", small)
    name, data, rows = TEXTS[case]
    (tmp_path / name).write_bytes(data)
    whole = read_table(tmp_path / name)
    assert whole.frame.rows() == rows
    monkeypatch.setattr(delimited._Reader, "_fast", lambda self, chunk, last: None)
    slow = read_table(tmp_path / name)
    assert slow.frame.equals(whole.frame)
    assert slow.line.to_list() == whole.line.to_list()


WITH_NAMES = [
    name for name in TEXTS if name not in ("decimals between semicolons", "Excel's hint", "line ends in a separator")
]


@pytest.mark.parametrize("case", WITH_NAMES)
@pytest.mark.parametrize(("chunk", "ahead"), [(1 << 20, 1 << 21), (7, 40)])
def test_streamed_rows_are_those_of_the_table(tmp_path, monkeypatch, case, chunk, ahead):
    name, data, rows = TEXTS[case]
    monkeypatch.setattr(bounded, "_CHUNK", chunk)
    monkeypatch.setattr(streaming, "_AHEAD", ahead)
    (tmp_path / name).write_bytes(data)
    found = [tuple(value or None for value in row.values()) for _, row in read_csv_rows(tmp_path / name)]
    assert found == rows
    assert [line for line, _ in read_csv_rows(tmp_path / name)] == read_table(tmp_path / name).line.to_list()


def test_rows_are_streamed_over_many_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, "_CHUNK", 1000)
    monkeypatch.setattr(streaming, "_AHEAD", 300)
    monkeypatch.setattr(streaming, "_HEAD", 500)
    lines = ["u,n,t", *(f'u{n},{n},"é, line\nbreak {n}"' for n in range(2000))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    found = list(read_csv_rows(tmp_path / "t.csv"))
    assert [row["n"] for _, row in found] == [str(n) for n in range(2000)]
    assert [line for line, _ in found] == [2 + 2 * n for n in range(2000)]
    assert found[1999][1]["t"] == "é, line\nbreak 1999"
    (tmp_path / "t.csv").write_bytes("\n".join(lines).encode() + b'\nu,1,"\xff"')
    with pytest.raises(DataError, match="line 4002: byte 0xff"):
        list(read_csv_rows(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\nu,1\n")
    with pytest.raises(DataError, match="line 4002 has 2 fields where its header has 3"):
        list(read_csv_rows(tmp_path / "t.csv"))


def test_one_bad_row_in_many_and_columns_of_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "_CHUNK", 4096)
    monkeypatch.setattr(delimited, "_SMALL", 256)
    lines = ["u,n,v", *(f"u{n},{n},{n / 2}" for n in range(5000))]
    lines[2000] += ",x"
    (tmp_path / "t.csv").write_text("\n".join(lines))
    ledger = Ledger(1.0)
    raw = read_table(tmp_path / "t.csv", ledger=ledger)
    assert raw.frame["n"].to_list() == [str(n) for n in range(5000) if n != 1999]
    assert raw.line.to_list() == [n + 2 for n in range(5000) if n != 1999]
    assert ledger.tree()["removed"][0]["first"] == ["line 2001"]
    types = {"v": pl.Float64, "n": pl.Int64}
    lines[2000] = "u1999,1999,999.5"
    (tmp_path / "t.csv").write_text("\n".join(lines))
    typed = read_table(tmp_path / "t.csv", types=types).frame
    assert typed.dtypes == [pl.String, pl.Int64, pl.Float64]
    assert typed["v"].to_list() == [n / 2 for n in range(5000)]
    lines[4000] = "u3999,many,1"
    (tmp_path / "t.csv").write_text("\n".join(lines))
    assert read_table(tmp_path / "t.csv", types=types).frame.dtypes == [pl.String] * 3


def test_lines_are_those_of_the_file(tmp_path):
    (tmp_path / "t.csv").write_bytes(b'\n\ni,t\n\na,"one\ntwo"\n\n\nb,x\n')
    assert read_table(tmp_path / "t.csv").line.to_list() == [5, 9]


@pytest.mark.parametrize("chunk", range(1, 24))
def test_lines_are_counted_over_blank_ones_at_the_end_of_a_chunk(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(delimited, "_CHUNK", chunk)
    monkeypatch.setattr(delimited, "_SMALL", 1)
    (tmp_path / "t.csv").write_bytes(b"i,t\na,b\n\nc,d\n\n\ne,f\n\n")
    raw = read_table(tmp_path / "t.csv")
    assert raw.line.to_list() == [2, 4, 7]
    assert raw.frame["i"].to_list() == ["a", "c", "e"]


@pytest.mark.parametrize(
    ("text", "header"),
    [
        (b"1,7,4\n2,8,5\n", False),
        (b"a,b,c\n2,8,5\n", True),
        (b"a,b,c\nB0-12,x,nan\nB0-13,y,\n", True),
        (b"B0-11,Kettle,nan\nB0-12,Pot,7\nB0-13,Cup,8\n", False),  # ids alike, nan is no name
        (b"x,Kettle,2024-01-05\ny,Pot,2024-01-06\n", False),
        (b"x,,z\nx,y,z\n", False),  # nothing where a name must be
        (b"q1,q2,q3\nyes,no,yes\nno,no,yes\n", True),
    ],
)
def test_a_line_of_names_is_told_from_data(tmp_path, text, header):
    (tmp_path / "t.csv").write_bytes(text)
    raw = read_table(tmp_path / "t.csv")
    lines = text.count(b"\n")
    assert (raw.frame.columns == ["1", "2", "3"]) is not header
    assert raw.frame.height == lines - header
    other = read_table(tmp_path / "t.csv", ReadOptions(header=not header))
    assert other.frame.height == lines - (not header)


def test_parts_without_names_agree(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "part-0.csv").write_text("x,y\nu,v\n")  # of itself it might have names
    (tmp_path / "log" / "part-1.csv").write_text("x,7\nu,8\n")
    raw = read_table(tmp_path / "log")
    assert raw.frame.rows() == [("x", "y"), ("u", "v"), ("x", "7"), ("u", "8")]
    assert raw.where(3).endswith("log, line 2 of part-1.csv")


def test_columns_mapped_by_place_need_to_know_what_the_first_line_is(tmp_path):
    (tmp_path / "items.csv").write_text("a,Kettle\nb,Pot\n")
    (tmp_path / "events.csv").write_text("user_id,item_id,time\nu,a,1500000000\nu,b,1500000001\n")
    mapping = {
        "events": {"file": "events.csv"},
        "items": {"file": "items.csv", "columns": {"item_id": "1", "title": "2"}},
    }
    with pytest.raises(DataError, match=r"items\.csv: .*--header or --no-header"):
        import_table(tmp_path, mapping)
    dataset = import_table(tmp_path, mapping, reading={"items": ReadOptions(header=False)})
    assert dataset.items["title"].to_list() == ["Kettle", "Pot"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a,b\n1,2\n3\n4,5,6\n", "line 3 has 1 fields .*--skip-bad"),
        (b"a,b\n1,2\n3,\x004\n", "line 3 holds a NUL byte.*--skip-bad"),
        (b"a,b\n1,2\n3," + b"x" * 1_100_000 + b"\n", "line 3 has a field of more than 1,048,576"),
        ("a,b\né,ü\nñ,2\n".encode() + b"x,\xff\n", "line 4: byte 0xff is not of"),
        ("a,b\nпривет,мир\n".encode("cp1251"), "its encoding cannot be told; name it as --encoding"),
        ("a,b\n안녕하세요,세계 여러분 모두\n".encode("euc-kr") * 5, "its encoding cannot be told"),
        ("a,b\n藍色茶壺，大號,紅色杯子\n".encode("big5"), "its encoding cannot be told"),
        ("a,b\n青いティーポット,竹の箸\n".encode("shift_jis"), "its encoding cannot be told"),
        ("a,b\nKırmızı fincan,şişe\n".encode("cp1254"), "its encoding cannot be told"),
        (b"a;1,x\nb;2,y\n", "';' and ',' both|',' and ';' both"),
        (b'i,t\na,"Foo\nb,Bar"\nc,x\n', "line 2: a quote sign opens a field over several lines.*--quote"),
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"PK\x03\x04zip", "no text"),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path, data, message):
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_table(tmp_path / "t.csv")
    assert len(str(caught.value)) < 1000


def test_bad_rows_are_dropped_and_counted_up_to_a_share(tmp_path):
    lines = [b"a,b", *(b"%d,x" % n for n in range(97)), b"1", b"1,2,3", b"7,\x00"]
    (tmp_path / "t.csv").write_bytes(b"\n".join(lines))
    ledger = Ledger(0.05)
    raw = read_table(tmp_path / "t.csv", ledger=ledger)
    assert raw.frame["a"].to_list() == [str(n) for n in range(97)]
    ledger.rows("events", raw.rows_in, raw.frame.height)
    account = ledger.tree()
    assert account["rows"] == {"events": {"in": 100, "out": 97}}
    assert {(r["rule"], r["count"], *r["first"]) for r in account["removed"]} == {
        ("wrong number of fields", 2, "line 99", "line 100"),
        ("NUL bytes", 1, "line 101"),
    }
    with pytest.raises(
        DataError, match=r"3 of 100 rows of the events are bad \(3.0%.*first line 99.*2.0% are skipped"
    ):
        read_table(tmp_path / "t.csv", ledger=Ledger(0.02))


def test_an_account_that_does_not_come_out_is_an_error():
    ledger = Ledger()
    ledger.remove("of kind ignore", "events", [3, 4])
    with pytest.raises(DataError, match="does not come out"):
        ledger.rows("events", 10, 9)
    ledger.add("more", "events", 1)
    ledger.rows("events", 10, 9)


RECORDS = [{"u": "x", "n": 1, "v": 1.5, "l": ["a", "b"]}, {"u": "y", "n": 2, "v": 2, "l": None}]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2),
        "\n".join(map(json.dumps, RECORDS)),
        "\n\n".join(json.dumps(r, indent=1) for r in RECORDS),
        "\n".join(map(repr, RECORDS)),
        "\ufeff" + json.dumps(RECORDS),
    ],
)
def test_json_in_its_layouts(tmp_path, text):
    (tmp_path / "t.json").write_text(text, encoding="utf-8")
    raw = read_table(tmp_path / "t.json")
    assert raw.frame.rows(named=True) == [{**RECORDS[0], "v": 1.5}, {**RECORDS[1], "v": 2.0}]


def test_what_follows_a_broken_object_is_never_skipped(tmp_path):
    """In an array nobody can count the rows after a fault; in lines the next line is a row again."""
    (tmp_path / "t.json").write_text('[{"a": 1}, {"a": 2},, {"a": 3}, {"a": 4}]')
    with pytest.raises(DataError, match="what follows in the array cannot be read"):
        read_table(tmp_path / "t.json", ledger=Ledger(1.0))
    for broken in ('{"a": 1},x', '{"a": 1', "{'a': 1},x", "x"):
        (tmp_path / "t.json").write_text(broken + '\n{"a": 2}\n{"a": 3}')
        ledger = Ledger(1.0)
        assert read_table(tmp_path / "t.json", ledger=ledger).frame.rows() == [(2,), (3,)]
        assert ledger.tree()["removed"][0]["first"] == ["line 1"]


@pytest.mark.parametrize("encoding", ["idna", "punycode", "shift_jis", "ascii"])
def test_text_that_is_not_of_the_named_encoding(tmp_path, encoding):
    (tmp_path / "t.csv").write_bytes("é\xff,b\n\xfcx,2\n".encode("latin-1"))
    with pytest.raises(DataError, match="encoding"):
        read_table(tmp_path / "t.csv", ReadOptions(encoding=encoding))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        ('[{"a": 1}, {"a": ]', "line 1 is not JSON"),
        ('[{"a": 1}', "cut off"),
        ("[1, 2]", "holds int, not an object"),
        ('{"a": 1}\n' + '{"a": ' + "[" * 500 + "]" * 500 + "}", "line 2 is nested too deep"),
        ("[" * 100_000, "line 1 is not JSON .*nested too deep"),
        ('{"a": "x\\u0000"}', "line 1 holds a NUL byte"),
        ('{"a": "x"}\n{"a": "\\ud83d"}', "line 2 .*half of a character"),
        ('[{"a": {"\\uDC00": 1}}]', "line 1 .*half of a character"),
        ("{'a': 'x\\x00'}", "line 1 holds a NUL byte"),
        ("{'a': '\\ud83d'}", "line 1 .*half of a character"),
        ("", "empty"),
    ],
)
def test_broken_json_is_named_by_line(tmp_path, text, message):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_table(tmp_path / "t.jsonl")
    assert len(str(caught.value)) < 500
