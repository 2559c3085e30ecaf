"""What strangers wrote is read within bounds: size, depth, growth, encoding."""

from __future__ import annotations

import gzip
import json
import resource

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec import bounded
from llmrec.cli.show import read_ids
from llmrec.config import RunConfig
from llmrec.config_tree import parse_overrides, read_yaml
from llmrec.dataset.importers.reading import read_lines, read_table
from llmrec.errors import ConfigError, DataError, RequestError, RunError
from llmrec.files import read_json


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 65 + "]" * 65, '{"a":' * 200 + "1" + "}" * 200])
def test_json_that_nests_too_deep(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(RunError, match=r"x\.json .*nested deeper than 64 levels"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
        (b"{'a': 1}", "line 1, column 2"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": \x00}', "NUL"),
        (b'{"a": ["\\ud83d"]}', "half of a character"),
    ],
)
def test_json_that_is_none(tmp_path, data, reason):
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(RunError, match=reason):
        read_json(tmp_path / "x.json")


def test_json_at_the_bound_and_with_a_mark_is_read(tmp_path):
    text = "[" * 64 + "]" * 64
    (tmp_path / "x.json").write_text("\ufeff" + text, encoding="utf-8")
    assert read_json(tmp_path / "x.json") == json.loads(text)
    assert bounded.parse_json(json.dumps([[1]] * 1000)) == [[1]] * 1000
    assert bounded.parse_json(r'"\ud83c\udf75"') == "🍵"


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 5000, "nested deeper than 64"),
        ("- " * 3000 + "x", "nested deeper than 64"),
        (LAUGHS, "more than 1,000,000 values"),
        ("a: &a [*a]", "inside of what it names"),
        ("? [1, 2]\n: 3", "cannot be read|unhashable"),
        ("a: !!python/object/apply:os.system [ls]", "python/object"),
        ("a: 2024-99-99", "month must be"),
        ("x" * (9 << 20), "larger than 8 MiB"),
    ],
)
def test_yaml_beyond_the_bounds_is_one_sentence(tmp_path, text, reason):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=reason) as caught:
        read_yaml(tmp_path / "x.yaml")
    assert len(str(caught.value)) < 700


def test_yaml_within_the_bounds(tmp_path):
    (tmp_path / "x.yaml").write_text("\ufeffa: &one {b: 1}\nc: *one\nd: [*one, *one]\n", encoding="utf-8")
    assert read_yaml(tmp_path / "x.yaml") == {"a": {"b": 1}, "c": {"b": 1}, "d": [{"b": 1}, {"b": 1}]}
    with pytest.raises(ConfigError, match="override"):
        parse_overrides(["seed=" + "[" * 500], RunConfig)


@pytest.mark.parametrize(
    "data",
    [
        b"a\nb\n",
        b"\xef\xbb\xbfa\nb\n",
        b"a\r\n\r\n  b \r\na\r\n",
        b"a\rb\r",
        b"# chosen by hand\na\n\nb",
        "a\nb\n".encode("utf-16"),
    ],
)
def test_lists_of_ids(tmp_path, data):
    (tmp_path / "ids.txt").write_bytes(data)
    assert read_ids(tmp_path / "ids.txt", "--candidates") == ("a", "b")


@pytest.mark.parametrize(("data", "reason"), [(b"\n \n", "holds no id"), (b"\xffa", "not UTF-8"), (b"a\0b", "NUL")])
def test_lists_that_are_none(tmp_path, data, reason):
    (tmp_path / "ids.txt").write_bytes(data)
    with pytest.raises(RequestError, match=reason):
        read_ids(tmp_path / "ids.txt", "--in-stock")
    with pytest.raises(RequestError, match="cannot be read"):
        read_ids(tmp_path, "--in-stock")


def test_a_gzip_bomb_is_stopped_while_it_unpacks(tmp_path):
    block = gzip.compress(b"\0" * (64 << 20))
    for name, head in (("t.csv.gz", b"user_id,item_id\n"), ("t.jsonl.gz", b'{"a": 1}\n')):
        (tmp_path / name).write_bytes(gzip.compress(head) + block * 20)  # 1.3 GB in 1.3 MB
        before = _megabytes()
        with pytest.raises(DataError, match=r"unpacks from .* LLMREC_READ_LIMIT"):
            read_table(tmp_path / name)
        assert _megabytes() - before < 400
    with pytest.raises(DataError, match=r"unpacks from|longer than 16 MiB|NUL"):
        list(read_lines(tmp_path / "t.csv.gz"))


def test_the_limit_is_lowered_and_raised_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, "FREE", 1 << 16)
    (tmp_path / "t.csv").write_bytes(b"a,b\n" + b"1,2\n" * 60_000)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress((tmp_path / "t.csv").read_bytes()))
    assert read_table(tmp_path / "t.csv").frame.height == 60_000
    with pytest.raises(DataError, match="unpacks"):
        read_table(tmp_path / "t.csv.gz")
    monkeypatch.setenv(bounded.LIMIT_VARIABLE, "1")
    assert read_table(tmp_path / "t.csv.gz").frame.height == 60_000
    monkeypatch.setenv(bounded.LIMIT_VARIABLE, "0.0002")
    for name in ("t.csv", "t.csv.gz"):
        with pytest.raises(DataError, match=r"more than 0\.0002 GiB"):
            read_table(tmp_path / name)
    monkeypatch.setenv(bounded.LIMIT_VARIABLE, "much")
    with pytest.raises(DataError, match="'much'"):
        read_table(tmp_path / "t.csv")


def test_a_parquet_bomb_is_refused_by_its_own_description(tmp_path):
    pl.DataFrame({"user_id": ["u"]}).select(pl.col("user_id").repeat_by(30_000_000).explode()).write_parquet(
        tmp_path / "t.parquet"
    )
    assert (tmp_path / "t.parquet").stat().st_size < 100_000
    before = _megabytes()
    with pytest.raises(DataError, match="unpacks from"):
        read_table(tmp_path / "t.parquet")
    assert _megabytes() - before < 200


def test_one_long_text_in_every_row_of_a_dictionary(tmp_path):
    table = pa.table({"t": pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), ["x" * 500_000])})
    pq.write_table(table, tmp_path / "t.parquet")
    before = _megabytes()
    with pytest.raises(DataError, match=r"t\.parquet"):
        read_table(tmp_path / "t.parquet")
    assert _megabytes() - before < 400


@pytest.mark.parametrize("cut", [3, 40, 200, -9])
def test_broken_parquet_is_one_sentence(tmp_path, cut):
    pl.DataFrame({"user_id": [f"user {n}" for n in range(100)], "n": range(100)}).write_parquet(
        tmp_path / "t.parquet"
    )
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(data[:cut])
    with pytest.raises(DataError, match=r"t\.parquet cannot be read as Parquet"):
        read_table(tmp_path / "t.parquet")
    flipped = bytearray(data)
    for place in range(4, 120, 3):
        flipped[place] ^= 0x5A
    (tmp_path / "t.parquet").write_bytes(bytes(flipped))
    with pytest.raises(DataError, match=r"t\.parquet"):
        read_table(tmp_path / "t.parquet")


def test_parquet_cells_that_are_no_text(tmp_path):
    frame = pl.DataFrame({"i": ["a", "b\0", "", None], "b": [b"x", "é".encode(), None, b""]})
    frame.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"line 2.*'i' holds a NUL byte"):
        read_table(tmp_path / "t.parquet")
    pl.DataFrame({"b": [b"x", b"\xff", b"y"]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"line 2.*'b' holds bytes that are not UTF-8"):
        read_table(tmp_path / "b.parquet")
    frame.filter(pl.arange(0, 4) != 1).write_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").frame.rows() == [("a", "x"), (None, None), (None, None)]
