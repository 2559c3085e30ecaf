"""`llmrec data` as a person uses it: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from llmrec.cli.data import data_app
from llmrec.dataset import Dataset
from llmrec.errors import LLMRecError

DATA = Path(os.environ.get("LLMREC_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    error: str


Call = Callable[..., Answer]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs `llmrec data ...` and ends as `llmrec` does: bad input is one sentence and code 2."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object) -> Answer:
        result = CliRunner().invoke(data_app, [str(word) for word in words])
        if isinstance(result.exception, LLMRecError):
            return Answer(2, result.output, str(result.exception))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(result.exit_code, result.output, "")

    return run


def build(**events: list[object]) -> Dataset:
    table = {
        "user_id": ["u", "u", "v"],
        "item_id": ["a", "a", "b"],
        "kind": ["click"] * 3,
        "time": [1_700_000_000] * 3,
    }
    return Dataset.build(
        pl.DataFrame({"item_id": ["a", "b"], "title": ["Alpha", "Beta"], "description": ["x", "y"]}),
        None,
        pl.DataFrame(table | events),
        name="tiny",
        domain="shop",
        click="click",
        conversion="conversion",
        terms="Ask first.",
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build().save(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_check_prints_each_finding_and_counts_them(call: Call, folder: Path, tmp_path: Path) -> None:
    answer = call("check", folder, "--json", tmp_path / "found.json")
    assert answer.code == 0
    assert "tiny: 2 items, 2 users, 3 events, 3 click; click is click, conversion is conversion." in answer.out
    assert "Terms: Ask first." in answer.out
    assert (
        "warning: duplicate-events, 1 in events: the event equals an earlier one in every column. First: row 1: user_id 'u'"
        in answer.out
    )
    assert "errors: 0, warnings: 2, remarks: 0" in answer.out
    assert {finding["rule"] for finding in json.loads((tmp_path / "found.json").read_text())} == {
        "no-conversions",
        "duplicate-events",
    }


def test_check_of_a_data_set_without_clicks_is_unusable(call: Call, tmp_path: Path) -> None:
    build(kind=["impression"] * 3).save(tmp_path / "d")
    answer = call("check", tmp_path / "d")
    assert answer.code == 2
    assert "cannot be trained on: no event stands for a click" in answer.error


@pytest.mark.parametrize("command", ["check", "split-info", "clean"])
def test_a_folder_that_is_no_data_set_is_refused(call: Call, tmp_path: Path, command: str) -> None:
    (tmp_path / "empty").mkdir()
    words = [command, tmp_path / "empty", *([tmp_path / "out"] if command == "clean" else [])]
    answer = call(*words)
    assert answer.code == 2
    assert "empty has no manifest.json" in answer.error
    assert not (tmp_path / "out").exists()


def test_clean_writes_a_copy_and_says_what_it_removed(call: Call, folder: Path, tmp_path: Path) -> None:
    answer = call("clean", folder, tmp_path / "clean", "--json", tmp_path / "removed.json")
    assert answer.code == 0
    lines = [line.split() for line in answer.out.splitlines()]
    assert ["duplicate-events", "events", "1"] in lines
    assert ["zero-time", "events", "0"] in lines
    assert ["items-without-events", "items", "switched", "off"] in lines
    assert Dataset.load(tmp_path / "clean").events.height == 2
    assert Dataset.load(folder).events.height == 3
    assert {"rule": "duplicate-events", "table": "events", "count": 1} in json.loads(
        (tmp_path / "removed.json").read_text()
    )


def test_clean_obeys_rules_and_without(call: Call, folder: Path, tmp_path: Path) -> None:
    assert call("clean", folder, tmp_path / "one", "--without", "duplicate-events,zero-time").code == 0
    assert Dataset.load(tmp_path / "one").events.height == 3
    assert call("clean", folder, tmp_path / "two", "--rules", "duplicate-events, repeated-rating").code == 0
    assert Dataset.load(tmp_path / "two").events.height == 2
    answer = call("clean", folder, tmp_path / "three", "--rules", "dupes")
    assert answer.code == 2
    assert "'dupes' is no rule that can be cleaned; choose from:" in answer.error
    assert not (tmp_path / "three").exists()


def test_nothing_is_replaced_without_force_and_no_stranger_with_it(call: Call, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear")
    build(time=[5, 6, 7]).save(tmp_path / "old")
    for command in (["clean", folder], ["world", "--users", 20, "--items", 12], ["import", "table", folder]):
        words = [*command[:1], *command[1:]]
        answer = call(*words, tmp_path / "old")
        assert (answer.code, "old exists already; name a new folder or add --force" in answer.error) == (2, True)
        answer = call(*words, tmp_path / "letters", "--force")
        assert (answer.code, "--force does not replace it" in answer.error) == (2, True)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "Dear"
    assert Dataset.load(tmp_path / "old").events["time"].to_list() == [5, 6, 7]
    assert call("clean", folder, tmp_path / "old", "--force").code == 0
    assert Dataset.load(tmp_path / "old").events.height == 2


def test_a_world_is_made_checked_and_split(call: Call, tmp_path: Path) -> None:
    made = call("world", tmp_path / "w", "--domain", "film", "--users", 60, "--items", 30, "--seed", 3)
    assert made.code == 0
    dataset = Dataset.load(tmp_path / "w" / "dataset")
    assert (dataset.n_items, dataset.users.height, dataset.manifest.domain) == (30, 60, "film")
    assert call("check", tmp_path / "w").code == 0
    answer = call("split-info", tmp_path / "w", "--json", tmp_path / "split.json")
    counts = json.loads((tmp_path / "split.json").read_text())
    assert answer.code == 0
    assert counts["train_events"] + counts["valid_events"] + counts["test_events"] == dataset.events.height
    assert f"test begins at time {counts['cut_test']}" in answer.out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["world", "OUT", "--domain", "cars"], ["'domain'", "'cars'"]),
        (["split-info", "IN", "--split", "random"], ["'split'", "'random'", "leave-last-out"]),
        (["import", "netflix", "IN", "OUT"], ["'netflix'", "movielens"]),
        (["import", "movielens", "nowhere", "OUT"], ["nowhere does not exist"]),
        (["import", "movielens", "IN", "OUT", "--option", "tagz=yes"], ["'tagz'", "did you mean 'tags'"]),
        (["import", "amazon", "IN", "OUT", "--option", "core=five"], ["'core'", "'five'", "whole number"]),
        (["import", "amazon", "IN", "OUT", "--option", "core"], ["--option", "'core'", "NAME=VALUE"]),
        (
            ["import", "movielens", "IN", "OUT", "--map", "item_id=asin"],
            ["--map", "belong to the importer table", "movielens"],
        ),
        (["import", "table", "LOG", "OUT"], ["--items FILE"]),
        (
            ["import", "table", "LOG", "OUT", "--items", "i.csv", "--map", "sku=id"],
            ["--map", "'sku'", "no table has"],
        ),
        (["download", "netflix"], ["'netflix'", "movielens-100k"]),
        (["download", "movielens-100k", "--dest", "OUT"], ["--accept-terms"]),
    ],
)
def test_bad_requests_end_with_one_sentence_and_no_folder(
    call: Call, folder: Path, tmp_path: Path, words: list[str], parts: list[str]
) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,time\n")
    places = {"IN": folder, "OUT": tmp_path / "out", "LOG": tmp_path / "log.csv"}
    answer = call(*(places.get(word, word) for word in words))
    assert answer.code == 2
    for part in parts:
        assert part in answer.error
    assert "\n" not in answer.error
    assert not (tmp_path / "out").exists()


def test_download_lists_what_there_is(call: Call) -> None:
    answer = call("download")
    assert answer.code == 0
    assert "movielens-100k" in answer.out


def test_own_tables_are_imported_with_a_column_mapping(call: Call, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("customer,asin,action,ts\nzoe,x1,view,100\nzoe,x1,buy,160\nyan,x2,hover,170\n")
    (tmp_path / "products.csv").write_text("asin,name,cost\nx1,Drill,9.5\nx2,Saw,\n")
    (tmp_path / "people.jsonl").write_text('{"customer": "zoe", "about": "builds boats"}\n')
    words = ["--map", "item_id=asin", "--map", "user_id=customer", "--map", "kind=action", "--map", "time=ts"]
    words += ["--map", "title=name", "--map", "price=cost", "--map", "users.profile=about"]
    words += [
        "--kind",
        "view=click",
        "--kind",
        "buy=conversion",
        "--kind",
        "hover=ignore",
        "--option",
        "currency=EUR",
    ]
    answer = call(
        "import",
        "table",
        tmp_path / "log.csv",
        tmp_path / "out",
        "--items",
        tmp_path / "products.csv",
        "--users",
        tmp_path / "people.jsonl",
        *words,
    )
    assert answer.code == 0, answer.error
    dataset = Dataset.load(tmp_path / "out")
    assert dataset.events.select("user_id", "item_id", "kind", "time").rows() == [
        ("zoe", "x1", "click", 100),
        ("zoe", "x1", "conversion", 160),
    ]
    assert [(i.title, i.price) for i in dataset.item_list] == [("Drill", 9.5), ("Saw", None)]
    assert dataset.users.rows()[0] == ("zoe", "builds boats")
    assert (dataset.manifest.currency, dataset.manifest.name) == ("EUR", "log")


@pytest.mark.parametrize(
    ("words", "currency", "name", "categories"),
    [
        (["currency=NO", "name=2024"], "NO", "2024", ["Home|Tea", "Home > Pot"]),
        (["category_separator=|", "currency=null", "name=yes"], "null", "yes", ["Home", "Tea"]),
        (["category_separator=>", "currency=1e3", "name=[a"], "1e3", "[a", ["Home", "Pot"]),
        (["category_separator=#", "currency=~", "name=a: b"], "~", "a: b", ["Home|Tea"]),
    ],
)
def test_options_are_text_where_text_is_wanted(
    call: Call, tmp_path: Path, words: list[str], currency: str, name: str, categories: list[str]
) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,time\nu,a,1\nu,b,2\n")
    (tmp_path / "items.csv").write_text("item_id,title,categories\na,Cup,Home|Tea\nb,Pot,Home > Pot\n")
    given = [word for option in words for word in ("--option", option)]
    answer = call(
        "import", "table", tmp_path / "log.csv", tmp_path / "out", "--items", tmp_path / "items.csv", *given
    )
    assert answer.code == 0, answer.error
    dataset = Dataset.load(tmp_path / "out")
    assert (dataset.manifest.currency, dataset.manifest.name) == (currency, name)
    assert set(categories) <= {c for cell in dataset.items["categories"] for c in cell} | {"Home|Tea", "Home > Pot"}
    # the same in a file, by the same parser
    (tmp_path / "mapping.yaml").write_text(
        "events: {file: log.csv}\nitems: {file: items.csv}\n"
        + "".join(f"{key}: {json.dumps(value)}\n" for key, value in (w.split("=", 1) for w in words))
    )
    assert call("import", "table", tmp_path / "mapping.yaml", tmp_path / "same").code == 0
    same = Dataset.load(tmp_path / "same")
    assert same.manifest.content_hash == dataset.manifest.content_hash
    assert (same.manifest.currency, same.manifest.name) == (currency, name)


def test_words_of_yaml_in_a_mapping_are_text_without_quotes_too(call: Call, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,time,kind\nu,a,1,no\nu,b,2,1\n")
    (tmp_path / "items.csv").write_text("item_id,title\na,Cup\nb,Pot\n")
    files = "events: {file: log.csv}\nitems: {file: items.csv}\n"
    (tmp_path / "mapping.yaml").write_text(
        files + "currency: NO\nname: 2024\nkinds: {no: click, 1: conversion}\nmissing: [null, ~]\n"
    )
    # options on the command line go before those of the file
    assert call("import", "table", tmp_path / "mapping.yaml", tmp_path / "out", "--option", "name=1e3").code == 0
    manifest = Dataset.load(tmp_path / "out").manifest
    assert (manifest.currency, manifest.name, manifest.counts["conversion"]) == ("NO", "1e3", 1)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--map", "item_id=a", "--map", "item_id=b"], ["names 2 columns", "item_id"]),
        (["--option", "name=a", "--option", "name=b"], ["--option", "'name'", "twice"]),
        (["--kind", "x=click", "--kind", "x=conversion"], ["--kind", "'x'", "twice"]),
        (["--option", "time_unit=fortnight"], ["'time_unit'", "'fortnight'", "ms"]),
        (["--option", "accept_implausible=perhaps"], ["'accept_implausible'", "true or false"]),
        (["--order", "random"], ["'order'", "'random'", "file"]),
        (["--option", "tyme_unit=s"], ["'tyme_unit'", "time_unit"]),
        (["--map", "prices.price=x"], ["--map", "'prices.price'"]),
        (["--map", "users.user_id=x"], ["--map 'users.user_id'", "--users FILE"]),
    ],
)
def test_options_that_cannot_be_meant(call: Call, tmp_path: Path, words: list[str], parts: list[str]) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,time\nu,a,1\n")
    (tmp_path / "items.csv").write_text("item_id,title\na,Cup\n")
    answer = call(
        "import", "table", tmp_path / "log.csv", tmp_path / "out", "--items", tmp_path / "items.csv", *words
    )
    assert answer.code == 2
    for part in parts:
        assert part in answer.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("words", "titles"), [("", ["None", "?"]), ("nan,NULL", ["None", "?"]), ("?", ["None"])])
def test_words_for_missing_are_those_that_are_named(
    call: Call, tmp_path: Path, words: str, titles: list[str]
) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,time\nu,a,1\n")
    (tmp_path / "items.csv").write_text("item_id,title\na,None\nb,?\n")
    items, out = tmp_path / "items.csv", tmp_path / "out"
    command = ["import", "table", tmp_path / "log.csv", out, "--items", items, "--skip-bad", "--missing", words]
    assert call(*command).code == 0
    assert Dataset.load(out).items["title"].to_list() == titles


def test_one_file_is_all_there_is(call: Call, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("who,sku,what,age,note\nu,1,Cup,31,?\nv,1,Cup,40,x\nu,2,Pot,31,?\n")
    words = ["--map", "user_id=who", "--map", "item_id=sku", "--order", "file", "--missing", "?"]
    source, out = tmp_path / "log.csv", tmp_path / "out"
    assert "--map title=NAME" in call("import", "table", source, out, *words).error
    words += ["--map", "title=what", "--map", "profile=age", "--map", "profile=note"]
    answer = call("import", "table", source, out, *words)
    assert answer.code == 0, answer.error
    dataset = Dataset.load(out)
    assert dataset.events.select("user_id", "item_id", "time").rows() == [("u", "1", 1), ("v", "1", 2), ("u", "2", 3)]
    assert dataset.items.select("item_id", "title").rows() == [("1", "Cup"), ("2", "Pot")]
    assert dataset.users.rows() == [("u", "age: 31"), ("v", "age: 40; note: x")]
    assert "items: 1 left out, more rows of the same item" in answer.out


@pytest.mark.parametrize(
    ("events", "more", "parts"),
    [
        (
            "{file: log.csv, lookups: [{column: item_id}]}",
            "",
            ["'events.lookups.file' is missing in", "mapping.yaml"],
        ),
        ("{file: log.csv, lookups: x}", "", ["'events.lookups'", "needs keys"]),
        ("{file: log.csv, only: [x]}", "", ["'events.only'", "must be keys with values"]),
        ("{file: log.csv, explode: {column: shown}}", "", ["lacks the column 'shown'", "name one of them"]),
        ("{file: log.csv, long: {value: v}}", "", ["'events.long'", "for items and users"]),
        ("{file: log.csv, fill: {kind: '{nope}'}}", "", ["lacks the column 'nope'"]),
        ("{file: log.csv, columns: x}", "", ["'events.columns'", "'x'"]),
        ("[]", "", ["needs the key 'events.file'"]),
        ("{file: log.csv}", "reading: {header: maybe}", ["'reading.header'", "'maybe'", "true or false"]),
        ("{file: log.csv}", "kinds: [click]", ["'kinds'", "keys with values"]),
    ],
)
def test_mappings_that_cannot_be_meant(call: Call, tmp_path: Path, events: str, more: str, parts: list[str]) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,time\nu,a,1\n")
    (tmp_path / "items.csv").write_text("item_id,title\na,Cup\n")
    (tmp_path / "mapping.yaml").write_text(f"events: {events}\nitems: {{file: items.csv}}\n{more}\n")
    answer = call("import", "table", tmp_path, tmp_path / "out")
    assert answer.code == 2
    for part in parts:
        assert part in answer.error
    assert "\n" not in answer.error


def test_the_page_on_importing_names_every_key_of_a_mapping() -> None:
    from llmrec.dataset.importers import mapping

    page = (Path(__file__).parents[2] / "docs" / "importing.md").read_text(encoding="utf-8")
    for kind in (mapping.TableMapping, mapping.TableFile, mapping.Explode, mapping.Long, mapping.Lookup):
        for name in kind.__dataclass_fields__:
            assert name in page, name


def test_help_names_every_column_and_option_of_own_tables() -> None:
    from llmrec.dataset.importers.mapping import TableMapping
    from llmrec.dataset.schema import SCHEMAS

    done = CliRunner().invoke(data_app, ["import", "--help"], env={"COLUMNS": "400", "NO_COLOR": "1"})
    flags = {"events", "items", "users", "kinds", "order", "missing", "accept_implausible", "reading"}
    for name in (
        *SCHEMAS["events"],
        *SCHEMAS["items"],
        *SCHEMAS["users"],
        *(set(vars(TableMapping)["__annotations__"]) - flags),
    ):
        assert name in done.output, name
    for flag in ("--map", "--kind", "--missing", "--order", "--accept-implausible", "--skip-bad"):
        assert flag in done.output


def test_a_bad_value_in_own_tables_names_file_and_row(call: Call, tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user_id,item_id,kind,time\nu,a,click,1\nu,b,click,2\n")
    (tmp_path / "items.csv").write_text("item_id,title,price\na,Drill,cheap\nb,Saw,1\n")
    answer = call("import", "table", tmp_path, tmp_path / "out")
    assert answer.code == 2
    for part in ("items.csv, line 2", "'price'", "'cheap'", "must be a price such as"):
        assert part in answer.error
    (tmp_path / "items.csv").write_text("item_id,title\na,Drill\n")
    answer = call("import", "table", tmp_path, tmp_path / "out")
    for part in ("events.csv, line 3", "'item_id'", "'b'", "does not have", "unknown_items=drop"):
        assert part in answer.error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events.csv", "items.csv"]


def test_movielens_is_imported_and_checked(call: Call, tmp_path: Path) -> None:
    source = DATA / "movielens-100k"
    if not source.is_dir():
        pytest.skip(f"MovieLens-100K is not at {source}; set LLMREC_DATA to the folder that holds it")
    assert call("import", "movielens", source, tmp_path / "ml").code == 0
    answer = call("check", tmp_path / "ml")
    assert answer.code == 0
    # Of the 1,682 titles 18 stand there twice.
    assert "equal-titles, 36 in items" in answer.out
    assert "errors: 0, warnings: 0" in answer.out


def test_the_real_command_exits_with_2_and_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llmrec.cli.main", "data", "check", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"llmrec: {tmp_path / 'none'} is not a folder; give one that `llmrec data import` wrote.\n"
    assert done.stdout == ""
