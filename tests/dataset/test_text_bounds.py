"""Texts of items and users: NUL bytes and absurd lengths are refused by row, ordinary long texts are not."""

import polars as pl
import pytest
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.dataset.store import Dataset
from llmrec.dataset.validate import LONGEST
from llmrec.errors import DataError

ITEMS = {
    "item_id": ["a", "b"],
    "title": ["A", "B"],
    "description": ["", ""],
    "brand": [None, "x"],
    "categories": [["c"], []],
}


def built(items=ITEMS, profile="likes tea"):
    users = pl.DataFrame({"user_id": ["u"], "profile": [profile]})
    events = pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "kind": ["click"], "time": [1]})
    return Dataset.build(
        pl.DataFrame(items), users, events, name="n", domain="shop", click="click", conversion="conversion"
    )


@pytest.mark.parametrize("key", ["item_id", "title", "description", "brand", "categories"])
@pytest.mark.parametrize("what", ["NUL", "long"])
def test_a_text_of_an_item_is_refused_by_row_and_key(key, what):
    text = "x\0y" if what == "NUL" else "x" * (LONGEST[key] + 1)
    value = [text] if key == "categories" else text
    with pytest.raises(DataError, match=f"row 1.*{key}.*(NUL|characters)") as error:
        built({**ITEMS, key: [ITEMS[key][0] or "z", value]})
    assert len(str(error.value)) < 300
    assert "\0" not in str(error.value)


def test_a_title_of_a_hundred_million_characters_is_refused():
    with pytest.raises(DataError, match="100,000,000 characters, and 10,000 are the most"):
        built({**ITEMS, "title": ["A", "x" * 10**8]})


def test_profiles_have_bounds_too():
    with pytest.raises(DataError, match="'profile' holds a NUL byte"):
        built(profile="a\0")
    with pytest.raises(DataError, match="'profile' has 1,000,001 characters"):
        built(profile="a" * 1_000_001)


def test_long_but_ordinary_texts_pass():
    longest = {"title": ["A", "x" * 10_000], "description": ["", "y" * 1_000_000]}
    assert built({**ITEMS, **longest}, profile="p" * 100_000).n_items == 2


def test_an_import_drops_rows_with_endless_texts_where_bad_rows_may_go(tmp_path):
    rows = [{"item_id": f"i{n}", "title": f"T{n}" if n else "x" * 20_000} for n in range(40)]
    pl.DataFrame(rows).write_csv(tmp_path / "items.csv")
    events = {
        "user_id": ["u", "v"] * 19,
        "item_id": [f"i{n}" for n in range(1, 39)],
        "time": range(10**9, 10**9 + 38),
    }
    pl.DataFrame(events).write_csv(tmp_path / "log.csv")
    words = ["data", "import", "table", str(tmp_path / "log.csv"), "OUT", "--items", str(tmp_path / "items.csv")]
    refused = CliRunner().invoke(app, [w if w != "OUT" else str(tmp_path / "a") for w in words])
    assert "at most 10,000 characters" in str(refused.exception)
    done = CliRunner().invoke(app, [*(w if w != "OUT" else str(tmp_path / "b") for w in words), "--skip-bad"])
    assert done.exception is None, done.exception
    assert Dataset.load(tmp_path / "b").n_items == 39
