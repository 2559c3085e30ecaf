"""Titles, names and prompts of strangers on their way to a terminal, a pipe and JSON."""

import json
import unicodedata

import polars as pl
import pytest
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.cli.show import show_recommendations
from llmrec.dataset.store import Dataset
from llmrec.recommender import Recommendation, RecommendedItem
from llmrec.text.free_prompt import Match
from tests.test_printing import HOSTILE

WRITTEN = [text for text in HOSTILE if "\ud800" not in text]  # no file of text can hold it


def acting(text):
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs") and c != "\n"]


@pytest.fixture
def answers(monkeypatch):
    """Makes `recommend` answer with hostile texts everywhere."""

    def install(text):
        match = Match(item=0, title=text, text=text, score=99.0)
        answer = Recommendation(
            (RecommendedItem(text, text, -1.0, None, 9.5, (text,), text),), (match,), text, f"Only {text}"
        )
        fake = type("Fake", (), {"recommend": lambda self, **_: answer})()
        monkeypatch.setattr("llmrec.recommender.Recommender.load", lambda *_, **__: fake)
        return answer

    return install


@pytest.mark.parametrize("text", WRITTEN)
def test_recommend_shows_titles_and_obeys_none(answers, capsys, text):
    answer = answers(text)
    plain = {"k": 1, "data": None, "revision": None}
    show_recommendations("x", None, "films", as_json=False, **plain)
    out = capsys.readouterr().out
    assert acting(out) == []
    assert not any(line.startswith("llmrec:") for line in out.splitlines())
    show_recommendations("x", None, "films", as_json=True, **plain)
    out = capsys.readouterr().out
    assert acting(out) == []
    assert len(out.splitlines()) == 1
    assert json.loads(out)["items"][0]["title"] == text
    assert acting(str(answer)) == []
    assert len(str(answer).splitlines()) == 1


@pytest.mark.parametrize("text", WRITTEN)
def test_check_and_its_errors_show_texts_and_obey_none(tmp_path, text):
    text = text.replace("\0", "")
    items = pl.DataFrame({"item_id": ["a", f"b{text}"], "title": [f"T{text}", f"T{text}"]})
    users = pl.DataFrame({"user_id": [f"u{text}"], "profile": [text]})
    events = pl.DataFrame(
        {"user_id": [f"u{text}"] * 2, "item_id": ["a", f"b{text}"], "kind": ["click"] * 2, "time": [1, 1]}
    )
    dataset = Dataset.build(
        items, users, events, name=f"n{text}", domain="shop", click="click", conversion="conversion", terms=text
    )
    dataset.save(tmp_path / "data")
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path / "data")])
    assert acting(done.output) == []
    said = [line.split(":")[0].split(",")[0] for line in done.output.splitlines()]
    assert "llmrec" not in said


def test_recommend_shows_what_is_known_of_an_item(answers, capsys, monkeypatch):
    items = (
        RecommendedItem("i7", "Red Kettle", -1.0, None, 1234.5, ("kitchen", "eco"), "Acme"),
        RecommendedItem("i8", "Lamp", -2.0),
    )
    answer = Recommendation(items, note="No word of it has to do with any item.", related=False)
    fake = type("Fake", (), {"recommend": lambda self, **_: answer})()
    monkeypatch.setattr("llmrec.recommender.Recommender.load", lambda *_, **__: fake)
    show_recommendations("x", None, "puppy", k=2, data=None, revision=None, as_json=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["No", "word", "of", "it", "has", "to", "do", "with", "any", "item."]
    assert lines[1] == ["title", "price", "category", "id", "probability", "log-prob"]
    assert lines[2] == ["1", "Red", "Kettle", "1,234.50", "kitchen,", "eco", "i7", "36.79%", "-1.000"]
    assert lines[3] == ["2", "Lamp", "i8", "13.53%", "-2.000"]
