"""Importers of logs on which off-policy estimates are tried: Jester and Open Bandit."""

from __future__ import annotations

import gzip
import json

import numpy as np
import polars as pl
import pytest

from llmrec.dataset.importers import import_dataset
from llmrec.dataset.importers.jester import rating_table
from llmrec.errors import DataError
from tests.dataset.tiny import real_data

JOKES = ["A <b>man</b> walks into a bar and says nothing at all &amp; leaves.", "Knock knock."]
RATINGS = "user,joke,rating\n3,0,-9.5\n3,1,2.25\n10,1,7\n"


def jester(folder, ratings=RATINGS, jokes=JOKES):
    (folder / "jokes.json").write_text(json.dumps(jokes))
    with gzip.open(folder / "ratings.csv.gz", "wt") as file:
        file.write(ratings)


def test_jester(tmp_path):
    jester(tmp_path)
    dataset = import_dataset("jester", tmp_path)
    assert dataset.items.select("item_id", "title", "description").rows() == [
        (
            "j0",
            "Joke 0: A man walks into a bar and says …",
            "A man walks into a bar and says nothing at all & leaves.",
        ),
        ("j1", "Joke 1: Knock knock.", "Knock knock."),
    ]
    assert sorted(dataset.events.select("user_id", "item_id", "value").rows()) == [
        ("u10", "j1", 7.0),
        ("u3", "j0", -9.5),
        ("u3", "j1", 2.25),
    ]
    parts = {"train": 0, "valid": 1, "test": 2}
    assert all(time == parts[part] for time, part in dataset.events.select("time", "split").iter_rows())
    assert (dataset.manifest.repeat, dataset.manifest.click) == ("exclude", "rating>=0.01")
    table_UN = rating_table(dataset)
    assert table_UN[0] == pytest.approx([-9.5, 2.25])
    assert np.isnan(table_UN[1, 0])
    assert table_UN[1, 1] == 7.0
    assert dataset.manifest.content_hash == import_dataset("jester", tmp_path).manifest.content_hash


@pytest.mark.parametrize(
    ("ratings", "jokes", "message"),
    [
        (RATINGS + "4,2,1\n", JOKES, "line 5: joke 2 is not among the 2"),
        (RATINGS + "4,1,99\n", JOKES, "line 5: rating is 99, outside -10 to 10; leave out jokes"),
        (RATINGS + "3,1,1\n", JOKES, "line 5: user 3 rated joke 1 before"),
        (RATINGS + "x,1,1\n", JOKES, "line 5: user is 'x'"),
        (RATINGS + "4,1,good\n", JOKES, "line 5: rating is 'good'"),
        (RATINGS + "4,1\n", JOKES, "line 5 has 2 fields"),
        ("user,joke\n3,0\n", JOKES, "lacks the column 'rating'"),
        ("user,joke,rating\n", JOKES, "holds no rating"),
        (RATINGS, {"0": "a"}, "must be a list of the jokes' texts"),
        (RATINGS, ["a", " <p> "], "joke 1 .* has no text"),
    ],
)
def test_jester_broken_files(tmp_path, ratings, jokes, message):
    jester(tmp_path, ratings, jokes)
    with pytest.raises(DataError, match=message):
        import_dataset("jester", tmp_path)


def test_jester_files_that_are_none(tmp_path):
    jester(tmp_path)
    with pytest.raises(DataError, match="give the folder that holds ratings"):
        import_dataset("jester", tmp_path / "jokes.json")
    (tmp_path / "jokes.json").write_bytes(b"[\xff]")
    with pytest.raises(DataError, match="is not JSON in UTF-8"):
        import_dataset("jester", tmp_path)
    (tmp_path / "jokes.json").unlink()
    with pytest.raises(DataError, match="has no jokes"):
        import_dataset("jester", tmp_path)


HEAD = (
    ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2,user_feature_3\n"
)
SHOWN = HEAD + (
    "0,2019-11-24 00:01:03.979311+00:00,1,2,0,0.25,aa,bb,cc,dd\n"
    "1,2019-11-24 00:01:45.406608+00:00,0,3,1,0.5,aa,bx,cc,dd\n"
)
GARMENTS = ",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3\n0,0,-0.6,p,q,r\n1,1,-0.7,s,q,r\n"


def open_bandit(folder, shown=SHOWN, garments=GARMENTS, policy="random"):
    inner = folder / policy / "men"
    inner.mkdir(parents=True)
    (inner / "men.csv").write_text(shown)
    (inner / "item_context.csv").write_text(garments)
    return inner


def test_open_bandit(tmp_path):
    inner = open_bandit(tmp_path)
    dataset = import_dataset("open-bandit", tmp_path)
    columns = ("user_id", "item_id", "kind", "time", "position", "propensity")
    moment = 1574553663  # date -u -d '2019-11-24 00:01:03' +%s
    assert dataset.events.select(columns).rows() == [
        ("v0", "i1", "impression", moment, 1, 0.25),
        ("v1", "i0", "impression", moment + 42, 2, 0.5),
        ("v1", "i0", "click", moment + 42, 2, 0.5),
    ]
    assert dataset.users["profile"].to_list() == ["Visitor of the group 0-0-0-0.", "Visitor of the group 0-1-0-0."]
    assert dataset.items["categories"].to_list()[1] == ["feature 1: 1", "feature 2: 0", "feature 3: 0"]
    again = import_dataset("open-bandit", inner)
    assert again.manifest.content_hash == dataset.manifest.content_hash
    with pytest.raises(DataError, match=r"has no folder bts/men \(it has: random\)"):
        import_dataset("open-bandit", tmp_path, policy="bts")
    with pytest.raises(DataError, match="give the folder that holds random/ and bts/"):
        import_dataset("open-bandit", inner / "men.csv")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",0.25,", ",0,", "line 2: propensity_score is 0, .* leave that impression out"),
        (",0.25,", ",1.5,", "line 2: propensity_score is 1.5"),
        (",0.25,", ",nan,", "line 2: propensity_score is 'nan'"),
        (",1,2,0,", ",1,4,0,", "line 2: position is '4', but it must be 1 to 3"),
        (",1,2,0,", ",1,2,2,", "line 2: click is '2'"),
        (",1,2,0,", ",7,2,0,", "line 2: item '7' is not in item_context.csv"),
        ("2019-11-24 00:01:03.979311+00:00", "yesterday", "line 2: timestamp is 'yesterday'"),
        ("2019-11-24 00:01:03.979311+00:00", "2019-11-24 00:01:03", "must be a moment with its zone"),
        ("propensity_score", "p", "lacks the column 'propensity_score'"),
        (SHOWN[len(HEAD) :], "", "holds no impression"),
    ],
)
def test_open_bandit_broken_files(tmp_path, old, new, message):
    open_bandit(tmp_path, SHOWN.replace(old, new))
    with pytest.raises(DataError, match=message):
        import_dataset("open-bandit", tmp_path)


def test_open_bandit_broken_items(tmp_path):
    inner = open_bandit(tmp_path, garments=GARMENTS.replace("-0.6", "red"))
    with pytest.raises(DataError, match="line 2: item_feature_0 is 'red'"):
        import_dataset("open-bandit", tmp_path)
    (inner / "item_context.csv").write_text(GARMENTS.replace("item_feature_3", "x"))
    with pytest.raises(DataError, match="lacks the column 'item_feature_3'"):
        import_dataset("open-bandit", tmp_path)


@pytest.mark.slow
def test_real_jester():
    dataset = import_dataset("jester", real_data("jester5k"))
    assert (dataset.users.height, dataset.n_items, dataset.events.height) == (5_000, 100, 363_209)
    assert int(np.isfinite(rating_table(dataset)).all(axis=1).sum()) == 1_473


@pytest.mark.parametrize(("policy", "clicks"), [("random", 46), ("bts", 69)])
def test_real_open_bandit(policy, clicks):
    dataset = import_dataset("open-bandit", real_data("open-bandit-small"), policy=policy)
    shown = dataset.events.filter(pl.col("kind") == "impression")
    assert (shown.height, dataset.n_items, dataset.events.height - shown.height) == (10_000, 34, clicks)
    if policy == "random":
        assert shown["propensity"].unique().to_list() == pytest.approx([1 / 34])
