"""How files are written, said on the command line; and the account that an import prints and keeps."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from llmrec.cli.data import data_app
from llmrec.dataset import Dataset

ITEMS = "item_id,title\na,Kettle\nb,Teapot\n"


def _import(folder: Path, events: Path, *words: str) -> Result:
    (folder / "items.csv").write_text(ITEMS)
    words = ("import", "table", str(events), str(folder / "out"), "--items", str(folder / "items.csv"), *words)
    return CliRunner().invoke(data_app, list(words))


def _events(folder: Path) -> list[tuple[object, ...]]:
    return Dataset.load(folder / "out").events.select("user_id", "item_id", "time").rows()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("user_id;item_id;time\nu;a;1\nv;b;2\n", ()),
        ("user_id~item_id~time\nu~a~1\nv~b~2\n", ("--separator", "events=~")),
        ("user_id item_id time\nu a 1\nv b 2\n", ("--separator", "space", "--separator", "items=,")),
        ("*user_id*,item_id,time\n*u*,a,1\n*v*,b,2\n", ("--quote", "events=*")),
        (
            "u,a,1\nv,b,2\n",
            ("--no-header=events", "--map", "user_id=1", "--map", "events.item_id=2", "--map", "time=3"),
        ),
        ("user_id,item_id,time\nu,a,1\nv,b,2\n", ("--header", "--encoding", "latin-1", "--quote", "none")),
    ],
)
def test_own_tables_however_they_are_written(tmp_path, text, words):
    (tmp_path / "log.csv").write_text(text)
    done = _import(tmp_path, tmp_path / "log.csv", *words)
    assert done.exit_code == 0, done.exception
    assert _events(tmp_path) == [("u", "a", 1), ("v", "b", 2)]
    assert "Assumed: log.csv: " in done.output
    assert "events: 2 rows read, 2 kept." in done.output


def test_skip_bad_stands_alone_or_with_a_share_and_the_account_is_kept(tmp_path):
    rows = [f"u{n % 7},a,{n}" for n in range(40)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,time", *rows[:20], "u,a", *rows[20:]]))
    assert "line 22 has 2 fields" in str(_import(tmp_path, tmp_path / "log.csv").exception)
    refused = str(_import(tmp_path, tmp_path / "log.csv", "--skip-bad=2%").exception)
    assert "1 of 41 rows of the events are bad (2.4%" in refused
    assert not (tmp_path / "out").exists()
    (tmp_path / "items.csv").write_text(ITEMS)
    words = ["import", "table", "--skip-bad", str(tmp_path / "log.csv"), str(tmp_path / "out"), "--items"]
    done = CliRunner().invoke(data_app, [*words, str(tmp_path / "items.csv")])
    assert done.exit_code == 0, done.exception
    assert "events: 1 left out, wrong number of fields (first: line 22)." in done.output
    account = json.loads((tmp_path / "out" / "manifest.json").read_text())["account"]
    assert account["rows"]["events"] == {"in": 41, "out": 40}
    assert account["removed"] == [
        {"table": "events", "rule": "wrong number of fields", "count": 1, "first": ["line 22"]}
    ]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_folder_of_parts_is_one_table(tmp_path, ending):
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "_SUCCESS").write_text("")
    for n in range(3):
        part = pl.DataFrame({"user_id": [f"u{n}"], "item_id": ["a"], "time": [n]})
        path = folder / f"part-0000{n}.{ending}"
        part.write_parquet(path) if ending == "parquet" else part.write_csv(path)
    done = _import(tmp_path, folder)
    assert done.exit_code == 0, done.exception
    assert _events(tmp_path) == [("u0", "a", 0), ("u1", "a", 1), ("u2", "a", 2)]
    assert "3 parts" in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--separator", "\n"), "separator"),
        (("--quote", '""'), "quote"),
        (("--decimal", ";"), "decimal"),
        (("--encoding", "klingon"), "encoding is 'klingon'"),
        (("--encoding", "zip"), "encoding is 'zip'"),
        (("--no-header=prices",), "the table 'prices'"),
        (("--skip-bad=all",), "--skip-bad=all is no share"),
    ],
)
def test_options_that_no_file_has_are_named(tmp_path, words, message):
    (tmp_path / "log.csv").write_text("user_id,item_id,time\nu,a,1\n")
    assert message in str(_import(tmp_path, tmp_path / "log.csv", *words).exception)
