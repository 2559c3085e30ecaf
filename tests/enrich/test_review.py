"""Harmful and forbidden words and items: what goes at once, and what a person is asked."""

import json

import pytest

from llmrec.enrich.checks import Checks
from llmrec.enrich.enriched import Wish, enrich
from llmrec.enrich.review import decide, read_decisions, read_entries
from llmrec.enrich.sources import SourceSettings
from llmrec.errors import RequestError, RunError
from llmrec.storage import work_folder
from llmrec.text.forbidden import HARMFUL, Forbidden, WordFilter, read_forbidden
from tests.enrich.data import dataset, split
from tests.enrich.test_enriched import Says

WISH = Wish(what=("users",), sources=SourceSettings(recent=2))


def made(checks, *sentences, data=None):
    found = data or dataset()
    return enrich(found, split(found), Says(*sentences), checks, WISH)


def test_words_are_found_whole_and_in_any_case():
    words = WordFilter({"a": ["self harm", "porn"], "b": ["自杀"]})
    assert [found.word for found in words.find("On Self-Harm and PORN.")] == ["self harm", "porn"]
    assert words.find("Popcorn, porno and harm to the self.") == []
    assert [found.category for found in words.find("有人自杀了。")] == ["b"]
    assert all(WordFilter(HARMFUL).find(word) for listed in HARMFUL.values() for word in listed)


def test_a_harmful_sentence_goes_and_waits_for_a_person(tmp_path):
    found = made(Checks("en"), "Likes Tea.", "Is drawn to suicide.")
    assert all(text.sentences == ("Likes Tea.",) for text in found.texts)
    assert {(entry.what, entry.reason, entry.words) for entry in found.entries} == {
        ("sentence", "harmful", "suicide")
    }
    out = tmp_path / "out"
    found.save(out)
    entries = read_entries(out)
    assert entries == list(found.entries)
    decide(out, {entries[0].id: "accept", entries[1].id: "refuse"})
    decide(out, {entries[2].id: "refuse"})
    decisions = read_decisions(work_folder(out))
    assert list(decisions.values()).count("refuse") == 2
    again = made(Checks("en", decisions=decisions), "Likes Tea.", "Is drawn to suicide.")
    accepted = [text for text in again.texts if "Is drawn to suicide." in text.sentences]
    assert [(text.source.subject, text.source.field) for text in accepted] == [("a", "long_term")]
    with pytest.raises(RequestError, match="no entry 'nobody'"):
        decide(out, {"nobody": "accept"})


def test_forbidden_words_go_for_good_and_forbidden_items_are_named_nowhere():
    checks = Checks("en", forbidden=Forbidden(words=("kettle",), items=frozenset({"4"})))
    found = made(checks, "Likes Tea.", "Has a kettle of Tea.")
    assert all("kettle" not in text.text("en") for text in found.texts)
    assert [gone.reason for text in found.texts for gone in text.dropped] == ["forbidden"] * 3
    named = {fact.text for text in found.texts for fact in text.source.facts}
    assert "Oak Board" not in named  # by its id
    assert "Red Kettle" not in named  # by a word in its title
    assert [(entry.subject, entry.what) for entry in found.entries] == [("0", "item")]


def test_an_item_with_a_harmful_word_stays_until_a_person_refuses_it():
    found = dataset()
    items = found.items.with_columns(title=found.items["title"].replace("Green Teapot", "Suicide Teapot"))
    evil = type(found)(items, found.users, found.events, found.manifest)
    first = made(Checks("en"), "Likes Tea.", data=evil)
    entry = next(entry for entry in first.entries if entry.what == "item")
    assert (entry.subject, entry.reason) == ("3", "self-harm")
    assert any("Suicide Teapot" in fact.text for text in first.texts for fact in text.source.facts)
    again = made(Checks("en", decisions={entry.id: "refuse"}), "Likes Tea.", data=evil)
    assert not any("Suicide Teapot" in fact.text for text in again.texts for fact in text.source.facts)


def test_lists_and_decisions_that_cannot_be_read(tmp_path):
    place = tmp_path / "forbidden.txt"
    place.write_text("# remark\nbad word\nitem: 4\n", encoding="utf-8")
    assert read_forbidden(place) == Forbidden(("bad word",), frozenset({"4"}))
    with pytest.raises(RequestError, match="write one word"):
        read_forbidden(tmp_path / "none.txt")
    with pytest.raises(RunError, match=r"has no review\.json"):
        read_entries(tmp_path)
    (tmp_path / "review.json").write_text(json.dumps({"entries": [{"id": 3}]}))
    with pytest.raises(RunError, match="no list of what to look at"):
        read_entries(tmp_path)
    (tmp_path / "decisions.json").write_text('{"x": "maybe"}')
    with pytest.raises(RunError, match="accept and refuse"):
        read_decisions(tmp_path)
