"""Public layouts are read by the names of their columns, in whatever order these stand."""

from __future__ import annotations

import pytest

from llmrec.dataset.importers import import_dataset
from llmrec.errors import DataError

MOVIES = "movieId,title,genres\n1,Alpha (1995),Comedy\n2,Beta (1996),Drama\n7,Gamma (1997),Drama\n"
TRUE = [("3", "1", 4.0, 964982703), ("3", "2", 2.0, 964982800), ("1", "7", 5.0, 964982900)]


def _ratings(folder, text):
    (folder / "movies.csv").write_text(MOVIES)
    (folder / "ratings.csv").write_text(text)
    return import_dataset("movielens", folder).events.select("user_id", "item_id", "value", "time").rows()


@pytest.mark.parametrize(
    "order",
    [
        ("userId", "movieId", "rating", "timestamp"),
        ("movieId", "userId", "rating", "timestamp"),
        ("timestamp", "rating", "movieId", "userId"),
        ("note", "rating", "timestamp", "userId", "movieId"),
    ],
)
@pytest.mark.parametrize("separator", [",", ";"])
def test_movielens_ratings_in_any_order(tmp_path, order, separator):
    lines = [separator.join(order)]
    for user, item, value, time in TRUE:
        row = {"userId": user, "movieId": item, "rating": f"{value:g}", "timestamp": str(time), "note": "x"}
        lines.append(separator.join(row[name] for name in order))
    assert _ratings(tmp_path, "\n".join(lines) + "\n") == TRUE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,movie,rating,timestamp\n1,1,4,964982703\n", r"lacks the column 'userId' \(it has: user, movie,"),
        ("1,1,4,964982703\n", "lacks the column 'userId'"),
        ("userId,movieId,rating,timestamp\n1,1,good,964982703\n", "line 2: rating is 'good'"),
        ("userId,movieId,rating,timestamp\n1,1,4,964982703\n1,1,4\n", "line 3 has 3 fields"),
        ("userId,movieId,rating,timestamp\n1,1.5,4,964982703\n", "line 2: movieId is '1.5'"),
        ("userId,userId,movieId,rating,timestamp\n1,2,1,4,964982703\n", "lacks the column 'userId'"),
    ],
)
def test_movielens_ratings_without_these_names_are_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        _ratings(tmp_path, text)
    assert "--skip-bad" not in str(caught.value)


def test_a_name_that_stands_twice_is_refused_where_rows_are_streamed(tmp_path):
    (tmp_path / "jokes.json").write_text('["One.", "Two."]')
    (tmp_path / "ratings.csv").write_text("user,joke,rating,rating\n0,1,3,4\n")
    with pytest.raises(DataError, match=r"names the column 'rating' twice"):
        import_dataset("jester", tmp_path)
