"""Own tables whose rows, columns or values are not as one would write them: kept, counted, said or refused.

Whatever is left out is counted by a rule, so that rows read are rows kept and rows left out; whatever is assumed is said
in the account; and what could be meant in two ways stops the import with one sentence.
"""

from __future__ import annotations

import csv
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from llmrec.dataset import Dataset
from llmrec.dataset.importers import import_dataset
from llmrec.dataset.importers.reading import ReadOptions, skip_share
from llmrec.errors import ConfigError, DataError

ITEMS = "item_id,title\na,Kettle\nb,Teapot\nc,Cup\n"
SKIP = ReadOptions(skip_bad=0.9)


def write(folder: Path, **files: str) -> Path:
    for name, text in {"items": ITEMS, **files}.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def load(folder: Path, reading: ReadOptions | None = None, **mapping: object) -> Dataset:
    files = {t: {"file": f"{t}.csv"} for t in ("events", "items", "users") if (folder / f"{t}.csv").exists()}
    return import_dataset("table", folder, mapping={**files, **mapping}, reading=reading)


def said(dataset: Dataset) -> str:
    return "\n".join(dataset.manifest.account["assumed"])


def removed(dataset: Dataset) -> dict[str, tuple[int, list[str]]]:
    found = dataset.manifest.account
    for table, rows in found["rows"].items():
        left = sum(r["count"] for r in found["removed"] if r["table"] == table)
        added = sum(r["count"] for r in found["added"] if r["table"] == table)
        assert rows["in"] + added == rows["out"] + left
    return {r["rule"]: (r["count"], r["first"]) for r in found["removed"]}


def rows(dataset: Dataset, *columns: str) -> list[tuple[object, ...]]:
    return dataset.events.select(columns or ("user_id", "item_id", "time")).rows()


EVENTS = "user_id,item_id,time\nu,a,1\nu,zz9,2\nv,b,3\nv,yy8,4\n"


def test_events_of_unknown_items_are_refused_dropped_or_bring_their_items(tmp_path):
    write(tmp_path, events=EVENTS)
    with pytest.raises(DataError, match=r"line 3: 'item_id' is 'zz9'.*so are 2 items of 2 events.*--skip-bad"):
        load(tmp_path)
    for how in ({"unknown_items": "drop"}, {"reading": SKIP}):
        dataset = load(tmp_path, **how)
        assert rows(dataset) == [("u", "a", 1), ("v", "b", 3)]
        assert removed(dataset) == {"of an item that no row describes": (2, ["line 3", "line 5"])}
    added = load(tmp_path, unknown_items="add")
    assert added.items["title"].to_list() == ["Kettle", "Teapot", "Cup", "zz9", "yy8"]
    assert len(rows(added)) == 4
    removed(added)


@pytest.mark.parametrize(
    ("item", "events", "hint"),
    [
        ("12,Kettle\nx,Cup", "u,12.0,1", "without '.0'"),
        ("12,Kettle", "u,0012,1", "without leading zeros"),
        ("ab,Kettle", "u,AB,1", "in lower case"),
    ],
)
def test_an_unknown_item_that_is_nearly_known_is_named(tmp_path, item, events, hint):
    write(tmp_path, items=f"item_id,title\n{item}\n", events=f"user_id,item_id,time\n{events}\n")
    with pytest.raises(DataError, match=hint):
        load(tmp_path)


def test_ids_written_as_floats_by_one_table_are_those_of_the_other(tmp_path):
    write(
        tmp_path,
        items="item_id,title\n12,Kettle\n13,Teapot\n",
        events="user_id,item_id,time\n1.0,12.0,100\n2.0,13.0,200\n",
        users="user_id,profile\n1,Likes tea\n",
    )
    dataset = load(tmp_path)
    assert rows(dataset) == [("1", "12", 100), ("2", "13", 200)]
    assert dataset.users.rows() == [("1", "Likes tea"), ("2", "")]
    assert "2 ids such as '12.0' read as '12'" in said(dataset)
    # versions are no whole numbers, so 1.0 and 1.5 stay what they are, in both tables
    write(tmp_path, items="item_id,title\n1.0,One\n1.5,Two\n", events="user_id,item_id,time\nu,1.0,1\n")
    (tmp_path / "users.csv").unlink()
    assert rows(load(tmp_path)) == [("u", "1.0", 1)]


@pytest.mark.parametrize(
    ("row", "rule", "message"),
    [
        (",b,2", "without a user", "line 3: 'user_id' is empty"),
        ("nan,b,2", "without a user", "line 3: 'user_id' is 'nan', a word for missing"),
        ("u,NULL,2", "without an item", "line 3: 'item_id' is 'NULL'"),
        ("u,b,", "without a time", "line 3: 'time' is empty"),
        ("u,b,soon", "time cannot be read", "line 3: 'time' is 'soon'"),
        ("u,2.5E+11,2", "item_id cannot be read", "line 3: 'item_id' is '2.5E[+]11', but it must be an id in full"),
    ],
)
def test_rows_without_what_a_row_needs(tmp_path, row, rule, message):
    write(tmp_path, events=f"user_id,item_id,time\nu,a,1\n{row}\nv,c,3\n")
    with pytest.raises(DataError, match=message):
        load(tmp_path)
    dataset = load(tmp_path, SKIP)
    assert rows(dataset) == [("u", "a", 1), ("v", "c", 3)]
    assert removed(dataset) == {rule: (1, ["line 3"])}


def test_items_without_a_title_are_never_called_nan(tmp_path):
    write(tmp_path, items="item_id,title\na,Kettle\nb,nan\nc,\\N\n", events="user_id,item_id,time\nu,a,1\nu,b,2\n")
    with pytest.raises(DataError, match=r"items\.csv, line 3: 'title' is 'nan', a word for missing"):
        load(tmp_path)
    dataset = load(tmp_path, SKIP)
    assert dataset.items["title"].to_list() == ["Kettle"]
    assert removed(dataset) == {
        "without a title": (2, ["line 3", "line 4"]),
        "of an item that no row describes": (1, ["line 3"]),
    }
    write(tmp_path, items="item_id,title\na,Kettle\nb,\u200b\n")
    with pytest.raises(
        DataError, match=r"line 3: 'title' is '\\u200b', of which nothing can be seen, of item_id 'b'"
    ):
        load(tmp_path)
    write(tmp_path, items="item_id,title\na,Kettle\nb,nan\nc,\\N\n")
    kept = load(tmp_path, missing=["?"])
    assert kept.items["title"].to_list() == ["Kettle", "nan", "\\N"]


def test_more_bad_rows_than_may_be_skipped_are_too_many(tmp_path):
    write(tmp_path, events=EVENTS)
    with pytest.raises(DataError, match=r"2 of 4 rows of the events are bad \(50.0%"):
        load(tmp_path, ReadOptions(skip_bad=0.2))
    # without a share of one's own a few rows of a small table may be bad, but not more
    assert len(rows(load(tmp_path, ReadOptions(skip_bad=skip_share(""))))) == 2
    many = "".join(f"u,zz{n},{n}\n" for n in range(11))
    write(tmp_path, events=EVENTS + many)
    with pytest.raises(DataError, match="13 of 15 rows of the events are bad"):
        load(tmp_path, ReadOptions(skip_bad=skip_share("")))


def test_the_order_of_the_file_where_there_are_no_times(tmp_path):
    write(tmp_path, events="user_id,item_id\nu,b\nu,a\nv,c\nv,a\n")
    with pytest.raises(DataError, match="--order file"):
        load(tmp_path)
    dataset = load(tmp_path, order="file")
    assert rows(dataset) == [("u", "b", 1), ("u", "a", 2), ("v", "c", 3), ("v", "a", 4)]
    assert "elapsed times, hours and dates mean nothing" in said(dataset)
    assert "user by user" in said(dataset)


def test_the_order_of_the_file_within_a_day(tmp_path):
    write(tmp_path, events="user_id,item_id,time\nu,b,2024-01-30\nu,a,2024-01-30\nu,c,2024-01-29\n")
    dataset = load(tmp_path, order="file")
    assert [row[1] for row in rows(dataset)] == ["c", "b", "a"]
    assert rows(dataset, "order") == [(3,), (1,), (2,)]
    assert rows(load(tmp_path), "item_id", "order") == [("c", None), ("a", None), ("b", None)]


def test_the_order_within_a_second_is_kept(tmp_path):
    events = "".join(f"u,{item},1593878903{ms}\n" for item, ms in (("c", 438), ("b", 305), ("a", 203)))
    write(tmp_path, events="user_id,item_id,time\n" + events)
    dataset = load(tmp_path)
    assert [row[1] for row in rows(dataset)] == ["a", "b", "c"]
    assert {row[2] for row in rows(dataset)} == {1593878903}


@pytest.mark.parametrize(
    ("name", "cells", "foreign"),
    [
        ("position", ("top", "left"), "'top'"),
        ("position", ("-1", "2"), "'-1'"),
        ("split", ("A", "B"), "'A'"),
        ("propensity", ("80", "20"), "'80'"),
    ],
)
def test_own_columns_called_like_ours_are_passed_over_with_a_word(tmp_path, name, cells, foreign):
    write(tmp_path, events=f"user_id,item_id,time,{name}\nu,a,1,{cells[0]}\nu,b,2,{cells[1]}\n")
    dataset = load(tmp_path)
    assert rows(dataset, name) == [(None,), (None,)]
    assert f"the column '{name}' is passed over, since it holds {foreign}" in said(dataset)
    with pytest.raises(DataError, match=f"line 2: '{name}' is {foreign}"):
        load(tmp_path, events={"file": "events.csv", "columns": {name: name}})


def test_own_columns_called_like_ours_that_are_ours(tmp_path):
    write(
        tmp_path, events="user_id,item_id,time,position,split,order\nu,a,1,0,train,A-77\nu,b,2,1.0,Validation,A-78\n"
    )
    dataset = load(tmp_path)
    assert rows(dataset, "position", "split", "order") == [(0, "train", None), (1, "valid", None)]
    assert "'order'" in said(dataset)  # the number of an order is none of ours unless mapped


@pytest.mark.parametrize(
    ("column", "cells", "word"),
    [
        ("event_type", ["view", "purchase", "cart"], "--map kind=event_type"),
        ("Action", ["pv", "buy", "pv"], "--map kind=Action"),
        ("stars", ["4", "5", "1"], "--map value=stars"),
    ],
)
def test_columns_of_events_that_look_like_something_are_named(tmp_path, column, cells, word):
    body = "".join(f"u,{item},{n},{cell}\n" for n, (item, cell) in enumerate(zip("abc", cells, strict=True)))
    write(tmp_path, events=f"user_id,item_id,time,{column}\n{body}")
    assert word in said(load(tmp_path))


def test_columns_of_items_and_users_that_look_like_something_are_named(tmp_path):
    write(
        tmp_path,
        items="item_id,title,Cost,genres,colour\na,Kettle,$5,x|y,red\nb,Teapot,$6,x,blue\nc,Cup,$7,y,\n",
        events="user_id,item_id,time\nu,a,1\n",
        users="user_id,age,city\nu,31,Rome\n",
    )
    text = said(load(tmp_path))
    for word in ("--map price=Cost", "--map categories=genres", "--map profile=age --map profile=city", "'colour'"):
        assert word in text


def test_a_column_that_looks_like_something_is_shown_by_different_cells(tmp_path):
    items = "item_id,title,category\na,Kettle,tea\nb,Teapot,tea\nc,Cup,china\n"
    dataset = load(write(tmp_path, items=items, events="user_id,item_id,time\nu,a,1\n"))
    assert "the column 'category' holds 'tea', 'china'; it is left out unless you map it" in said(dataset)


def test_several_columns_make_one_profile(tmp_path):
    write(
        tmp_path,
        events="user_id,item_id,time\nu,a,1\nv,b,2\n",
        users="user_id,age,city,interests\nu,31,Rome,tea\nv,,NULL,\nw,40.0,,\n",
    )
    columns = {"file": "users.csv", "columns": {"profile": ["age", "city", "interests"]}}
    found = load(tmp_path, users=columns).users
    assert found.rows() == [("u", "age: 31; city: Rome; interests: tea"), ("v", ""), ("w", "age: 40")]


KINDS = "user_id,item_id,time,kind\nu,a,1,view\nu,a,2,buy\nv,b,3,wobble\n"


def test_kinds_that_nobody_mapped_are_proposed_and_never_applied(tmp_path):
    write(tmp_path, events=KINDS)
    with pytest.raises(DataError, match=r"--kind view=click --kind buy=conversion --kind wobble=KIND"):
        load(tmp_path)
    dataset = load(tmp_path, SKIP, kinds={"view": "click", "buy": "conversion"})
    assert rows(dataset, "kind") == [("click",), ("conversion",)]
    assert removed(dataset) == {"an unknown kind": (1, ["line 4"])}
    ignoring = load(tmp_path, kinds={"view": "click", "buy": "conversion", "wobble": "ignore"})
    assert removed(ignoring) == {"a kind to be ignored": (1, ["line 4"])}
    with pytest.raises(ConfigError, match="'view' is mapped to 'clik'"):
        load(tmp_path, kinds={"view": "clik"})


def test_a_column_that_is_no_kind_says_so(tmp_path):
    body = "".join(f"u,a,{n},session-{n}\n" for n in range(100))
    write(tmp_path, events=f"user_id,item_id,time,kind\n{body}")
    with pytest.raises(DataError, match="100 distinct values"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", [pl.Int8, pl.Float64, pl.String])
def test_kinds_as_numbers(tmp_path, dtype):
    write(tmp_path)
    frame = pl.DataFrame({"user_id": [1, 2], "item_id": ["a", "b"], "time": [1, 2], "kind": [0, 1]})
    frame.with_columns(pl.col("kind").cast(dtype)).write_parquet(tmp_path / "events.parquet")
    dataset = load(tmp_path, events={"file": "events.parquet"}, kinds={"0": "click", 1: "conversion"})
    assert rows(dataset, "user_id", "kind") == [("1", "click"), ("2", "conversion")]


def test_what_is_wrong_as_a_whole_is_refused_unless_accepted(tmp_path):
    many = "".join(f"u{n},a,{n}\n" for n in range(30))
    write(tmp_path, events=f"user_id,item_id,time\n{many}")
    with pytest.raises(DataError, match=r"30 events have 30 different users.*--accept-implausible"):
        load(tmp_path)
    assert load(tmp_path, accept_implausible=True).users.height == 30
    write(tmp_path, events="user_id,item_id,time\na,u,1\nb,u,2\na,v,3\n")
    with pytest.raises(DataError, match="changed places"):
        load(tmp_path)
    lone = "".join(f"i{n},Item {n},only {n}\n" for n in range(25))
    write(tmp_path, items=f"item_id,title,categories\n{lone}", events="user_id,item_id,time\nu,i1,1\n")
    with pytest.raises(DataError, match="25 items have 25 different categories"):
        load(tmp_path)
    assert load(tmp_path, accept_implausible=True).n_items == 25
    write(tmp_path, events="user_id,item_id,time\nu,a,1931-01-01\n")
    with pytest.raises(DataError, match="before 1990"):
        load(tmp_path)


def test_rows_of_one_id(tmp_path):
    write(tmp_path, items=ITEMS + "a,Kettle\n", events="user_id,item_id,time\nu,a,1\n")
    assert removed(load(tmp_path)) == {"the same row of an item again": (1, ["line 5"])}
    write(tmp_path, items=ITEMS + "a,Pot\n")
    with pytest.raises(DataError, match="line 5: 'item_id' 'a' stands in line 2 already, with other values"):
        load(tmp_path)
    assert load(tmp_path, SKIP).items["title"].to_list() == ["Kettle", "Teapot", "Cup"]
    first = load(tmp_path, items={"file": "items.csv", "distinct": True})
    assert removed(first) == {"more rows of the same item": (1, ["line 5"])}


def test_bad_prices_are_left_empty_where_rows_are_skipped(tmp_path):
    write(
        tmp_path, items="item_id,title,price\na,Kettle,$5\nb,Teapot,ask us\n", events="user_id,item_id,time\nu,b,1\n"
    )
    with pytest.raises(DataError, match=r"items\.csv, line 3: 'price' is 'ask us'"):
        load(tmp_path)
    dataset = load(tmp_path, SKIP)
    assert dataset.items["price"].to_list() == [5, None]
    assert "price is left empty in 1 rows" in said(dataset)
    assert dataset.manifest.currency == "USD"


# Layouts: what a mapping can say of files that are cut otherwise than llmrec's tables.


def test_several_files_of_events_each_of_one_kind(tmp_path):
    write(tmp_path, clicks="1,a,10\n1,b,20\n", buys="1,b,25\n")
    columns = {"user_id": 1, "item_id": 2, "time": 3}
    files = [
        {"file": "clicks.csv", "columns": columns, "fill": {"kind": "click"}, "reading": {"header": False}},
        {"file": "buys.csv", "columns": columns, "fill": {"kind": "conversion"}, "reading": {"header": False}},
    ]
    dataset = load(tmp_path, events=files)
    assert rows(dataset, "item_id", "kind") == [("a", "click"), ("b", "click"), ("b", "conversion")]
    assert dataset.manifest.account["rows"]["events"] == {"in": 3, "out": 3}


def test_items_that_stand_in_the_log_and_titles_made_of_columns(tmp_path):
    write(
        tmp_path,
        log="who,sku,artist,track,day\nu,1,Ann,Sea,2024-01-30\nv,1,Ann,Sea,2024-01-31\nu,2,Bo,Sky,2024-02-01\n",
    )
    log = {"file": "log.csv", "columns": {"user_id": "who", "item_id": "sku", "time": "day"}}
    items = {
        "file": "log.csv",
        "columns": {"item_id": "sku"},
        "fill": {"title": "{track} by {artist}"},
        "distinct": True,
    }
    dataset = load(tmp_path, events=log, items=items)
    assert dataset.items.select("item_id", "title").rows() == [("1", "Sea by Ann"), ("2", "Sky by Bo")]
    assert "left out" not in said(dataset)  # each column is used by one table or the other
    removed(dataset)


def test_properties_one_a_row(tmp_path):
    write(
        tmp_path,
        events="user_id,item_id,time\nu,7,1\nu,9,2\n",
        props="id,property,value\n7,name,Pen\n7,group,x\n9,name,Ink\n7,name,Fountain pen\n8,group,y\n",
    )
    items = {
        "file": "props.csv",
        "columns": {"item_id": "id", "title": "name", "categories": "group"},
        "long": {"property": "property", "value": "value"},
    }
    dataset = load(tmp_path, SKIP, items=items)
    assert dataset.items.select("item_id", "title", "categories").rows() == [
        ("7", "Fountain pen", ["x"]),
        ("9", "Ink", []),
    ]
    assert removed(dataset)["without a title"] == (1, ["line 6"])


def test_rows_that_list_several(tmp_path):
    write(tmp_path, log="user,time,shown\nu,5,a-1 b-0\nv,6,\nv,7,c-1\n")
    events = {
        "file": "log.csv",
        "columns": {"user_id": "user", "item_id": "item", "kind": "hit"},
        "explode": {"column": "shown", "into": ["item", "hit"], "divider": "-"},
    }
    dataset = load(tmp_path, events=events, kinds={"1": "click", "0": "impression"})
    assert rows(dataset, "user_id", "item_id", "kind") == [
        ("u", "b", "impression"),
        ("u", "a", "click"),
        ("v", "c", "click"),
    ]
    assert removed(dataset) == {"an empty list in 'shown'": (1, ["line 3"])}
    assert dataset.manifest.account["rows"]["events"] == {"in": 3, "out": 3}


def test_one_file_twice_for_what_was_shown_and_what_was_clicked(tmp_path):
    write(tmp_path, log="user,time,shown\nu,5,a-1 b-0\n")
    file = {
        "file": "log.csv",
        "columns": {"user_id": "user", "item_id": "item", "position": "nr"},
        "explode": {"column": "shown", "into": ["item", "hit"], "divider": "-", "place": "nr"},
    }
    clicks = {**file, "fill": {"kind": "click"}, "only": {"hit": "1"}}
    dataset = load(tmp_path, events=[{**file, "fill": {"kind": "impression"}}, clicks])
    assert rows(dataset, "item_id", "kind", "position") == [
        ("a", "impression", 0),
        ("a", "click", 0),
        ("b", "impression", 1),
    ]
    assert removed(dataset) == {"'hit' is not '1'": (1, ["line 2"])}


def test_a_second_file_of_items_adds_columns(tmp_path):
    write(tmp_path, events="user_id,item_id,time\nu,a,1\n", more="item_id,price,brand\nb,3.5,Acme\nz,1,Zed\n")
    dataset = load(tmp_path, items=[{"file": "items.csv"}, {"file": "more.csv"}])
    assert dataset.items.select("item_id", "price", "brand").rows() == [
        ("a", None, ""),
        ("b", 3.5, "Acme"),
        ("c", None, ""),
    ]
    removed(dataset)


def test_columns_with_types_behind_their_names(tmp_path):
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1706603160\n")
    write(tmp_path)
    events = {"file": "x.inter", "columns": {"time": "timestamp"}}
    assert rows(load(tmp_path, events=events)) == [("u", "a", 1706603160)]
    with pytest.raises(DataError, match=r"lacks the column 'when' for 'time' .*--map time=timestamp"):
        load(tmp_path, events={"file": "x.inter", "columns": {"time": "when"}})


def test_categories_by_number_that_further_files_explain(tmp_path):
    write(
        tmp_path,
        events="user_id,item_id,time\nu,a,1\n",
        tagged="item,tag\na,1\na,2\nb,2\na,9\na,1\n",
        tags="id,name\n1,green\n2,tea\n",
    )
    lookup = {"column": "tag", "file": "tags.csv", "key": "id", "value": "name"}
    more = {"file": "tagged.csv", "columns": {"item_id": "item", "categories": "tag"}, "lookups": [lookup]}
    dataset = load(tmp_path, items=[{"file": "items.csv"}, more])
    assert dataset.items["categories"].to_list() == [["green", "tea"], ["tea"], []]
    removed(dataset)
    assert "1 cells of 'tag' are not explained by tags.csv and count as missing (the first is '9')" in said(dataset)
    with pytest.raises(DataError, match=r"tags\.csv lacks the column 'nr'"):
        load(tmp_path, items=[{"file": "items.csv"}, {**more, "lookups": [{**lookup, "key": "nr"}]}])


def test_rows_that_do_not_count_are_left_out_by_a_pattern(tmp_path):
    write(tmp_path, events="user_id,item_id,time,invoice\nu,a,1,536\nu,a,2,C536\nu,b,3,537\n")
    dataset = load(tmp_path, events={"file": "events.csv", "only": {"invoice": "[0-9]+"}})
    assert rows(dataset) == [("u", "a", 1), ("u", "b", 3)]
    assert removed(dataset) == {"'invoice' is not '[0-9]+'": (1, ["line 3"])}
    with pytest.raises(DataError, match="no pattern"):
        load(tmp_path, events={"file": "events.csv", "only": {"invoice": "["}})


def test_lists_of_records_with_their_places(tmp_path):
    write(tmp_path)
    lines = [
        '{"user_id": "u", "time": 5, "items": [{"id": "a", "hours": 2}, {"id": "b", "hours": 0}]}',
        '{"user_id": "v", "time": 6, "items": []}',
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    explode = {"column": "items", "into": ["id", "hours"], "place": "nr"}
    columns = {"item_id": "id", "value": "hours", "position": "nr"}
    dataset = load(tmp_path, events={"file": "log.jsonl", "columns": columns, "explode": explode})
    assert rows(dataset, "item_id", "value", "position") == [("a", 2, 0), ("b", 0, 1)]
    removed(dataset)
    frame = pl.DataFrame(
        {"user_id": ["u"], "time": [5], "items": [[{"id": "a", "hours": 2.0}, {"id": "b", "hours": None}]]}
    )
    frame.write_parquet(tmp_path / "log.parquet")
    dataset = load(tmp_path, events={"file": "log.parquet", "columns": columns, "explode": explode})
    assert rows(dataset, "item_id", "value") == [("a", 2), ("b", None)]


@pytest.mark.parametrize("cells", [[1, 2], [["a"], ["b"]], [{"a": 1}, {"a": 2}], [timedelta(1), timedelta(2)]])
@pytest.mark.parametrize("name", ["item_id", "title", "price", "categories"])
def test_cells_of_any_type_are_read_or_refused_in_a_sentence(tmp_path, name, cells):
    write(tmp_path, events="user_id,item_id,time\nu,a,1\n")
    table = {"item_id": ["a", "b"], "title": ["Kettle", "Cup"], name: cells}
    pl.DataFrame(table).write_parquet(tmp_path / "items.parquet")
    try:
        load(tmp_path, items={"file": "items.parquet"}, unknown_items="add")
    except DataError as error:
        assert "items.parquet" in str(error)  # noqa: PT017


# One shop, whose values are written in drawn ways: what comes back is the shop, or an order of the same moments.

TIMES = {
    "s": lambda m, ms: str(int(m.timestamp())),
    "ms": lambda m, ms: f"{int(m.timestamp())}{ms:03d}",
    "us": lambda m, ms: f"{int(m.timestamp())}{ms:03d}000",
    "ns": lambda m, ms: f"{int(m.timestamp())}{ms:03d}000000",
    "float": lambda m, ms: f"{int(m.timestamp())}.{ms:03d}",
    "iso": lambda m, ms: f"{m:%Y-%m-%dT%H:%M:%S}.{ms:03d}Z",
    "zone": lambda m, ms: f"{m + timedelta(hours=5, minutes=30):%Y-%m-%d %H:%M:%S}+05:30",
    "digits": lambda m, ms: f"{m:%Y%m%d%H%M%S}",
    "dots": lambda m, ms: f"{m:%d.%m.%Y %H:%M:%S}",
    "american": lambda m, ms: f"{m.month}/{m.day}/{m:%Y %I:%M:%S %p}",
    "mail": lambda m, ms: f"{m:%a, %d %b %Y %H:%M:%S} GMT",
    "days": lambda m, ms: repr((m - datetime(1899, 12, 30, tzinfo=UTC)) / timedelta(days=1)),
}
PRICES = {
    "plain": lambda p: f"{p:.2f}",
    "dollars": lambda p: f"${p:,.2f}",
    "euros": lambda p: f"{p:,.2f} €".translate(str.maketrans(",.", ".,")),
    "spaces": lambda p: f"{p:,.2f}".translate(str.maketrans(",.", "\u00a0,")),
    "code": lambda p: f"USD {p:,.2f}",
}
LISTS = {
    "python": repr,
    "json": json.dumps,
    "records": lambda c: json.dumps([{"id": n, "name": name} for n, name in enumerate(c)]),
    "bars": "|".join,
    "semicolons": "; ".join,
    "path": " > ".join,
    "numpy": lambda c: "[" + " ".join(map(repr, c)) + "]",
}
IDS = {"plain": str, "floats": lambda i: f"{i}.0", "zeros": lambda i: f"{i:06d}", "padded": lambda i: f" {i} "}


@pytest.mark.parametrize("seed", range(40))
def test_a_shop_comes_back_however_its_values_are_written(tmp_path, seed):
    rng = random.Random(seed)
    written = {name: rng.choice(list(ways)) for name, ways in (("t", TIMES), ("p", PRICES), ("c", LISTS), ("i", IDS))}
    word = rng.choice(["", "nan", "NULL", "N/A", "—", "\\N"])
    start = datetime(2021, 3, 25, 22, 0, 1, tzinfo=UTC)
    groups = ["Tea", "Cups", "Pots", "Arts & Crafts"]
    items = [
        (n, None if n % 5 == 4 else rng.randrange(100, 500_000) / 100, rng.sample(groups, rng.randint(1, 3)))
        for n in range(8, 14)
    ]
    events = [
        (f"u{rng.randrange(4)}", rng.choice(items)[0], start + timedelta(minutes=97 * n), rng.randrange(1000))
        for n in range(30)
    ]
    one, time = IDS[written["i"]], TIMES[written["t"]]
    with (tmp_path / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("item_id", "title", "price", "categories")]
            + [
                (one(i), f"Item {i}", word if p is None else PRICES[written["p"]](p), LISTS[written["c"]](c))
                for i, p, c in items
            ]
        )
    with (tmp_path / "events.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("user_id", "item_id", "time", "value")] + [(u, one(i), time(m, ms), word) for u, i, m, ms in events]
        )
    dataset = load(tmp_path, default_kind="click")
    name = (lambda i: f"{i:06d}") if written["i"] == "zeros" else str
    assert dataset.items.select("item_id", "price", "categories").rows() == [(name(i), p, c) for i, p, c in items]
    assert rows(dataset) == [(u, name(i), int(m.timestamp())) for u, i, m, _ in events], written
    finer = (
        [ms * 1_000_000 for *_, ms in events] if written["t"] in ("ms", "us", "ns", "float", "iso") else [None] * 30
    )
    assert dataset.events["order"].to_list() == finer
    assert dataset.manifest.currency == {"dollars": "USD", "code": "USD", "euros": "EUR"}.get(written["p"], "")
    assert removed(dataset) == {}


@pytest.mark.parametrize("depth", [60, 900, 20_000])
def test_a_list_of_categories_that_nests_without_end_is_a_bad_cell(tmp_path, depth):
    deep = "[" * depth + '""x""' + "]" * depth
    write(
        tmp_path,
        items=f'item_id,title,categories\na,A,"{deep}"\nb,B,"[""y""]"\n',
        events="user_id,item_id,time\nu,a,1\nu,b,2\nv,a,3\n",
    )
    with pytest.raises(DataError, match=r"items\.csv, line 2: 'categories' is '\[\[\["):
        load(tmp_path)
