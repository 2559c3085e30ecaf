"""Sources and data sets: what is told, that nothing later is, and that every reader goes on working."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.config import CardSettings
from llmrec.dataset.authorship import check_texts
from llmrec.dataset.check import check
from llmrec.dataset.clean import clean
from llmrec.dataset.examples import examples
from llmrec.dataset.split import make_split, split_at
from llmrec.dataset.store import Dataset
from llmrec.enrich.checks import Bounds, Checks
from llmrec.enrich.enriched import Wish, enrich, read_texts
from llmrec.enrich.extractive import ExtractiveWriter
from llmrec.enrich.grounding import Ground
from llmrec.enrich.reviews import Review, opinion_of, read_reviews
from llmrec.enrich.sources import SourceSettings, item_sources, training_reviews, user_sources
from llmrec.enrich.types import Author, Draft, Fact, Source
from llmrec.errors import DataError, RunError
from llmrec.pipeline.data import open_data
from llmrec.pipeline.recipes import with_defaults
from llmrec.pipeline.work import Work
from llmrec.text.cards import Cards
from llmrec.text.escape import clean_text
from llmrec.text.forbidden import Forbidden
from tests.enrich.data import REVIEWS, dataset, split

RECENT = SourceSettings(recent=2)
USERS = Wish(what=("users",), sources=RECENT)
BOTH = Wish(what=("users", "items"), sources=RECENT)


def extractive(language="en", **wish):
    found = dataset(language)
    writer = ExtractiveWriter(language, "shop")
    return enrich(found, split(found), writer, Checks(language), dataclasses.replace(BOTH, **wish), reviews=REVIEWS)


def facts(source, *names):
    return [(fact.text, fact.note) for fact in source.facts if fact.name in names]


def test_long_term_and_recent_interests_are_told_apart_by_hand():
    found = dataset()
    sources = {(s.subject, s.field): s for s in user_sources(found, split(found), RECENT)}
    assert set(sources) == {
        ("a", "long_term"),
        ("a", "recent"),
        ("b", "recent"),
    }  # b has one choice before the last two
    early, late = sources["a", "long_term"], sources["a", "recent"]
    assert facts(early, "category") == [("Tea", "5"), ("Tools", "3")]  # items 0 1 2 3 4 0 1 2
    assert facts(early, "liked") == [("Oak Board", "5"), ("Green Teapot", "4")]
    assert facts(early, "disliked") == [("Red Kettle", "1")]
    assert facts(late, "chosen") == [("Oak Board", "5"), ("Green Teapot", "4")]
    assert facts(early, "profile") == [("A 34-year-old woman.", "")]
    assert not any(fact.text == "a" for source in sources.values() for fact in source.facts)  # no id of a person


def test_profiles_tell_nothing_of_validation_and_test():
    found = dataset()
    made = split(found)
    told = " ".join(f.text for s in user_sources(found, made, RECENT) for f in s.facts)
    assert "Late Lamp" not in told
    assert "Light" not in told
    other = found.with_events(made.train)  # the same data without any later event
    assert user_sources(other, split_at(other.events, 50, 60), RECENT) == user_sources(found, made, RECENT)
    assert all(source.subject != "c" for source in user_sources(found, made, RECENT))


@settings(max_examples=25)
@given(st.integers(1, 99), st.integers(0, 40))
def test_no_later_event_changes_a_source_whatever_the_cut(cut, more):
    found = dataset()
    made = split_at(found.events, cut, cut + more)
    alone = found.with_events(made.train) if made.train.height else None
    sources = user_sources(found, made, RECENT)
    assert sources == ([] if alone is None else user_sources(alone, split_at(alone.events, 10**6, 10**6), RECENT))


def test_reviews_of_later_events_are_left_out():
    found = dataset()
    made = split(found)
    assert training_reviews(REVIEWS, made) == REVIEWS[:2]
    undated = [dataclasses.replace(review, time=None) for review in REVIEWS]
    # a's item 0 was rated twice, so an undated review of it may be of either; item 5 is later
    assert training_reviews(undated, made) == undated[1:2]
    assert training_reviews([Review("a", "3", "Good.", 77), Review("x", "3", "Good.", 3)], made) == []


def test_opinions_by_rule():
    found = opinion_of("Great quality, but the delivery was late.", "en")
    assert found.sentiment == "mixed"
    assert found.aspects == (("quality", "positive"), ("delivery", "negative"))
    assert opinion_of("The battery is not good.", "en").aspects == (("battery", "negative"),)
    assert opinion_of("I don't hate it, the design is lovely.", "en").sentiment == "positive"
    assert opinion_of("It is a box.", "en").sentiment == "neutral"
    assert opinion_of("音质很好，但是物流太慢，不推荐。", "zh").aspects == (
        ("声音", "positive"),
        ("物流", "negative"),
    )


def test_texts_by_rule_by_hand():
    found = extractive()
    first = found.dataset.users["profile"][0]
    assert first == (
        "A 34-year-old woman. Over time mostly chose Tea and Tools products. Liked Oak Board and Green Teapot. "
        "Disliked Red Kettle. Lately chose Tea and Tools products. Most recently chose Oak Board and Green Teapot."
    )
    assert found.dataset.users["profile"][2] == "A man who cooks."  # nothing in the training part
    kettle = found.dataset.items["description"][0]
    assert kettle == (
        "Boils water. The product belongs to Tea. The price is 12.50. Reviews praise quality."
    )  # three sentences at most, so the complaint is left out
    assert extractive(mode="replace").dataset.items["description"][0].startswith("The product belongs to Tea.")
    assert found.reviews == REVIEWS[:2]


def test_texts_by_rule_in_chinese():
    first = extractive("zh").dataset.users["profile"][0]
    assert first == (
        "一位34岁的女性。长期以来主要选择茶具、工具商品。喜欢《橡木板》、《绿茶壶》。不喜欢《红水壶》。最近选择工具、茶具商品。"
        "最近几次选择《橡木板》、《绿茶壶》。"
    )


titles = st.text(min_size=1, max_size=30).map(lambda text: clean_text(text, 30)).filter(bool)


@settings(max_examples=50)
@given(st.lists(titles, min_size=1, max_size=5), st.lists(titles, max_size=3))
def test_the_writer_by_rule_says_only_what_stands_in_its_facts(liked, categories):
    named = [Fact("category", text, "2") for text in categories] + [Fact("liked", text, "5") for text in liked]
    source = Source("user", "long_term", "u", tuple(named))
    for sentence in ExtractiveWriter("en", "film").write([source])[0].sentences:
        # Titles may be anything, sequences of numerals and quotation marks among them; what a sentence adds is checked.
        added = Ground([*liked, *categories, sentence.removeprefix("Liked ")], "en").ungrounded(sentence)
        assert not [m for m in added if m.reason in ("name", "quotation", "address")]


def test_a_data_set_with_texts_says_who_wrote_each_and_from_what(tmp_path):
    found = extractive()
    found.save(tmp_path / "out")
    again = Dataset.load(tmp_path / "out")
    assert again.manifest == found.dataset.manifest
    written = again.manifest.written
    assert written["source"] == dataset().manifest.content_hash
    assert again.manifest.content_hash != dataset().manifest.content_hash
    texts = read_texts(tmp_path / "out", again)
    ids = {writer["id"]: writer["writer"] for writer in written["writers"]}
    assert set(texts["writer"]) == set(ids)
    assert set(ids.values()) == {"extractive"}
    sources = user_sources(dataset(), split(dataset()), RECENT)
    hashes = dict(zip(zip(texts["subject"], texts["field"], strict=True), texts["source_hash"], strict=True))
    plain = enrich(dataset(), split(dataset()), ExtractiveWriter("en", "shop"), Checks("en"), USERS)
    assert [one.source for one in plain.texts] == sources
    assert hashes["b", "recent"] != sources[-1].content_hash  # reviews are part of the source
    (tmp_path / "out" / "texts.parquet").write_bytes(b"other")
    with pytest.raises(RunError, match="run `llmrec enrich` again"):
        read_texts(tmp_path / "out", again)


def test_all_readers_go_on_working(tmp_path):
    found = extractive().dataset
    found.save(tmp_path / "plain")
    again = Dataset.load(tmp_path / "plain")
    assert again.manifest.written == found.manifest.written
    assert not [finding for finding in check(again) if finding.severity == "error"]
    assert clean(again, None)[0].manifest.written == found.manifest.written
    assert again.with_events(again.events).users.equals(again.users)
    rows = examples(again, split(again), "test")
    assert any("Lately chose" in example.state.profile for example in rows)
    cards = Cards(again.item_list, CardSettings(description=20), clean_text)
    assert "belongs to Tea" in cards.values(0, "Red Kettle", 2)["description"]


def test_texts_of_one_split_are_refused_with_another(tmp_path):
    found = extractive().dataset
    check_texts(found, split(found))
    check_texts(found, split_at(found.events, 60, 85))  # all that the texts tell of is earlier
    with pytest.raises(DataError, match="training part of another split"):
        check_texts(found, split_at(found.events, 11, 50))
    with pytest.raises(DataError, match="training part of another split"):
        check_texts(found, make_split(found, "leave-last-out"))
    with pytest.raises(DataError, match="withheld"):
        check_texts(found, split(found), withheld=True)
    found.save(tmp_path / "data")
    tree = {"data.dataset": "folder", "data.source": str(tmp_path / "data"), "data.split": "leave-last-out"}
    with pytest.raises(DataError, match="llmrec enrich"):
        open_data(with_defaults(None, tree), Work(tmp_path / "work"))


def test_a_second_enrichment_and_unknown_forbidden_items_are_refused():
    found = extractive().dataset
    with pytest.raises(DataError, match="holds written texts already"):
        enrich(found, split(found), ExtractiveWriter("en", "shop"), Checks("en"))
    checks = Checks("en", forbidden=Forbidden(items=frozenset({"99"})))
    with pytest.raises(DataError, match="'99' is forbidden but not in the data set"):
        enrich(dataset(), split(dataset()), ExtractiveWriter("en", "shop"), checks)


class Says:
    """A writer that says the same of everything."""

    batch = 3
    together = True

    def __init__(self, *sentences, cut=False, failure=""):
        self.draft = Draft(sentences, cut, failure=failure)
        self.author = Author("model", "says")

    def write(self, sources):
        return [self.draft for _ in sources]


def test_what_a_model_makes_up_goes_and_the_rest_is_left_to_the_rule():
    found = dataset()
    says = Says(
        "Likes Tea.", "Likes Star Wars.", "Likes tea.", "Любит чай.", "Has 99 knives.", "Likes Tools a", cut=True
    )
    made = enrich(found, split(found), says, Checks("en"), USERS)
    texts = {(t.source.subject, t.source.field): t for t in made.texts}
    assert texts["a", "recent"].sentences == ("Likes Tea.",)
    assert [gone.reason for gone in texts["a", "recent"].dropped] == ["name", "repeated", "language", "number", "cut"]
    shares = made.shares[says.author]
    assert (shares.texts, shares.sentences, shares.grounded) == (3, 18, 12)
    none = enrich(found, split(found), Says("Likes Star Wars."), Checks("en"), USERS)
    assert {t.author.writer for t in none.texts} == {"extractive"}
    assert {t.tried.model for t in none.texts} == {"says"}
    assert none.shares[says.author].grounded_share == 0.0
    assert none.shares[says.author].empty == 3
    without = enrich(found, split(found), Says("Likes Star Wars."), Checks("en"), USERS, fallback=False)
    assert without.dataset.users.equals(found.users)


def test_a_sentence_that_praises_what_is_disliked_or_goes_round_goes():
    facts = (Fact("category", "Tea"), Fact("disliked", "Red Kettle (1997)"))
    source = Source("user", "long_term", "a", facts)
    said = ("Enjoys Red Kettle.", "Did not like Red Kettle.", "Likes tea and likes tea and likes tea and likes tea.")
    kept, dropped = Checks("en").sift(source, Draft(said))
    assert kept == ("Did not like Red Kettle.",)
    assert [gone.reason for gone in dropped] == ["contrary", "repeated"]
    kept, dropped = Checks("zh").sift(
        source, Draft(("喜欢《Red Kettle》这件商品。", "不喜欢《Red Kettle》这件商品。"))
    )
    assert len(kept) == 1
    assert dropped[0].reason == "contrary"


def test_texts_keep_within_their_bounds():
    found = dataset()
    says = Says(*[f"Likes Tea {'very ' * n}much." for n in range(9)])
    checks = Checks("en", Bounds(characters=60, sentences=9))
    made = enrich(found, split(found), says, checks, USERS)
    assert all(len(text.text("en")) <= 60 and text.sentences for text in made.texts)
    checks = Checks("en", Bounds(characters=4000, sentences=2))
    made = enrich(found, split(found), says, checks, USERS)
    assert all(len(text.sentences) == 2 for text in made.texts)


def test_reviews_are_read_or_refused_with_the_line(tmp_path):
    place = tmp_path / "reviews.jsonl"
    place.write_text(
        '{"user_id": "a", "item_id": "0", "text": "Good.", "time": 3}\n\n{"user_id": "b", "item_id": "1", "text": ""}\n'
    )
    assert read_reviews(place) == [Review("a", "0", "Good.", 3)]
    place.write_text('{"reviewerID": "a", "asin": "0", "reviewText": "Good.", "unixReviewTime": 3, "overall": 5.0}\n')
    assert read_reviews(place) == [Review("a", "0", "Good.", 3)]
    place.write_text('{"user_id": "a", "parent_asin": "0", "text": "Good.", "timestamp": 3000}\n')
    assert read_reviews(place) == [Review("a", "0", "Good.", 3)]
    for text, words in (
        ('{"user_id": "a"', "line 1 is no JSON"),
        ("[1]", "no JSON object"),
        ('{"user": "a"}', "holds no reviews"),
        ('{"user_id": 3, "item_id": "0", "text": "x"}', "must be text"),
        ('{"user_id": "a", "item_id": "0", "text": "x", "time": 1.5}', "whole seconds"),
        ('{"user_id": "a", "item_id": "0", "text": " "}', "no review with a text"),
    ):
        place.write_text(text + "\n")
        with pytest.raises(DataError, match=words):
            read_reviews(place)
    with pytest.raises(DataError, match="is no file"):
        read_reviews(tmp_path / "none")


def test_items_are_described_from_attributes_and_reviews():
    found = dataset()
    said = {"0": [(REVIEWS[0], opinion_of(REVIEWS[0].text, "en"))]}
    source = item_sources(found, RECENT, reviews=said)[0]
    assert facts(source, "title", "category", "price") == [("Red Kettle", ""), ("Tea", ""), ("12.50", "")]
    assert facts(source, "praised", "blamed") == [("quality", "1"), ("delivery", "1")]
