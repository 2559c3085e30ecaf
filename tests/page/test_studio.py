"""What the page does, without a browser."""

from __future__ import annotations

import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from llmrec.errors import RequestError, RunError
from llmrec.evaluation.reporting.record import read_record
from llmrec.page.search import Search
from llmrec.page.shown import board_html, found_html, head_html, visit_html
from llmrec.page.systems import load_systems
from llmrec.page.visit import Did, Visit, moved
from llmrec.page.words import WORDS
from llmrec.types import Interaction, Item, State
from tests.page.conftest import HOSTILE, TITLES, USERS

ALL = ["SFT", "PPO", "co-visitation"]


def test_a_visit_keeps_each_item_once_with_the_strongest_act():
    visit = Visit.of("profile", " likes tea ").then(3, "click").then(5, "conversion").then(3, "conversion")
    assert visit.text == "likes tea"
    assert visit.did == (Did(5, "conversion"), Did(3, "conversion"))
    assert visit.then(5, "click").did == (Did(3, "conversion"), Did(5, "conversion"))
    assert visit.undone().did == (Did(5, "conversion"),)
    assert visit.anew() == Visit("profile", "likes tea")
    with pytest.raises(RequestError, match="at most 4,000"):
        Visit.of("prompt", "x" * 4001)
    with pytest.raises(RequestError, match="no kind of visitor"):
        Visit.of("admin", "")


def test_the_visit_is_the_running_session_and_everything_is_earlier_than_the_state():
    known = State("u", "p", (Interaction(1, "click", 40), Interaction(2, "conversion", 50)), time=None)
    state = Visit(did=(Did(7, "click"), Did(8, "conversion"))).state(known)
    assert state.history == known.history
    assert state.session == (Interaction(7, "click", 51), Interaction(8, "conversion", 52))
    assert state.time == 53
    assert Visit().state(known) == known


def test_moves_are_places_come_up():
    assert moved([4, 5, 6], [6, 4, 9]) == (2, -1, None)
    assert moved(None, [1, 2]) == (0, 0)


def test_search_as_one_types():
    items = [
        Item("a", "Red Kettle", "", ("kitchen",), "Acme"),
        Item("b", "Kettle of Iron", "", ("kitchen",)),
        Item("c", "Lamp", "", ("kettle",)),
        Item("d", "红色水壶", "", ("厨房",)),
    ]
    search = Search(items)
    assert search.find("ket") == [1, 0, 2]
    assert search.find("KETTLE ir") == [1]
    assert search.find("acm") == [0]
    assert search.find("水壶") == [3]
    assert search.find("Red Ketle") == [0]  # no word begins so: the nearest title
    assert search.find("zzzz") == search.find("  ") == []
    assert search.find("ket", limit=1) == [1]


def test_slates_are_those_of_the_policies_and_the_baseline(studio):
    assert studio.names == ALL
    board = studio.board(Visit.of("user", "user-1"), ALL, k=4, reasons=1)
    assert [column.name for column in board.columns] == ALL
    assert [column.role for column in board.columns] == ["warm start", "improved", "baseline"]
    state, seen = studio.reader.user_state("user-1")
    for name in ("SFT", "PPO"):
        policy = studio.loaded.systems[name].recommender.bundle.policy
        (slate,) = policy.recommend([state], 4, seen=[seen])
        (column,) = [c for c in board.columns if c.name == name]
        assert tuple(card.told.item for card in column.cards) == slate.items_K
    scores = studio.loaded.systems["co-visitation"].fallback.covisitation.score([state])[0]
    shown = [card.told.item for card in board.columns[2].cards]
    allowed = [
        i
        for i in np.argsort(-scores, kind="stable")
        if studio.reader.bundle.policy.repeat == "allow" or i not in seen
    ]
    assert shown == allowed[:4]
    assert [bool(card.reason) for card in board.columns[1].cards] == [True, False, False, False]
    assert board.columns[1].cards[0].told.facts.startswith("1.50")
    assert board.history[-1][1] in ("click", "conversion")


def told(board):
    return [[card.told for card in column.cards] for column in board.columns]


def test_a_purchase_moves_the_slates_at_once_and_is_taken_back(studio):
    before = studio.board(Visit.of("profile", "likes rugs"), ALL, k=5, reasons=0)
    assert all(card.moved == 0 for column in before.columns for card in column.cards)
    visit = studio.act(before.visit, "7", "conversion")
    after = studio.board(visit, ALL, k=5, reasons=0, before=before)
    assert after.did == ((studio.told(7), "conversion"),)
    assert f"This visit: {TITLES[7]} (bought)" in after.state
    for one, two in zip(before.columns, after.columns, strict=True):
        was = [card.told.item for card in one.cards]
        for place, card in enumerate(two.cards):
            assert card.moved == (was.index(card.told.item) - place if card.told.item in was else None)
            assert card.did == ("conversion" if card.told.item == 7 else None)
    assert told(after) != told(before)
    assert told(studio.board(visit.undone(), ALL, k=5, reasons=0, before=after)) == told(before)


def test_weights_are_read_by_the_policies_and_all_of_all_is_as_the_run_was_set(studio):
    assert studio.weighed == ("click", "conversion")
    visit = Visit.of("profile", "likes rugs").then(7, "click")
    asking = visit.weighing({"click": 1, "conversion": 3})
    assert asking.did == visit.did
    assert asking.weighing({"click": 3, "conversion": 3}) == visit
    plain = studio.board(visit, ALL, k=5, reasons=0)
    board = studio.board(asking, ALL, k=5, reasons=0, before=plain)
    assert "prefer clicks, purchases purchases purchases" in board.state
    assert "prefer" not in plain.state
    assert told(board)[:2] != told(plain)[:2]
    assert told(board)[2] == told(plain)[2]  # counts read no text
    assert any(card.moved != 0 for column in board.columns for card in column.cards)


def test_only_here_is_what_no_other_slate_has(studio):
    board = studio.board(Visit(), ALL, k=5, reasons=0)
    lists = [{card.told.item for card in column.cards} for column in board.columns]
    for n, column in enumerate(board.columns):
        others = set().union(*(found for m, found in enumerate(lists) if m != n))
        assert [card.only for card in column.cards] == [card.told.item not in others for card in column.cards]
    alone = studio.board(Visit(), ["PPO"], k=5, reasons=0)
    assert not any(card.only for card in alone.columns[0].cards)


def test_a_prompt_in_either_language_is_read_and_said(studio):
    board = studio.board(Visit.of("prompt", "I liked Kettle Red and tea"), ["PPO"], reasons=0)
    assert [told.title for told, _ in board.history] == ["kettle red"]
    assert any("is read as kettle red" in note for note in board.notes)
    assert "想要茶" in studio.board(Visit.of("prompt", "想要茶"), ["PPO"], reasons=0).state


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda s: s.board(Visit.of("user", "nobody"), ALL), "nobody"),
        (lambda s: s.board(Visit(), []), "Choose at least one of SFT, PPO, co-visitation"),
        (lambda s: s.board(Visit(), ["<b>"]), "Choose at least one"),
        (lambda s: s.board(Visit(), ALL, k=99), "choose 1 to 20"),
        (lambda s: s.act(Visit(), "999", "click"), "There is no item 999"),
        (lambda s: s.act(Visit(), None, "click"), "There is no item None"),
        (lambda s: s.act(Visit(), -1, "click"), "There is no item -1"),
        (lambda s: s.act(Visit(), 1, "delete"), "Nobody can 'delete'"),
    ],
)
def test_what_cannot_be_met_is_one_sentence(studio, ask, said):
    with pytest.raises(RequestError, match=said):
        ask(studio)


def test_another_run_stands_beside_and_one_of_other_items_is_refused(home, tmp_path):
    loaded = load_systems(home / "run", [home / "beside"], home / "data")
    assert loaded.systems["beside"].role == "other run"
    alone = tmp_path / "alone"
    shutil.copytree(home / "run", alone)
    told = load_systems(alone)
    assert list(told.systems) == ["PPO"]
    assert any("SFT: the working folder alone.work" in said for said in told.absent)
    assert any("no data set to count" in said for said in told.absent)
    from llmrec.cli.show import change_run

    (tmp_path / "gone").write_text("i2\n")
    change_run(str(alone), None, tmp_path / "gone", tmp_path / "fewer")
    with pytest.raises(RunError, match="other items"):
        load_systems(home / "run", [tmp_path / "fewer"], home / "data")


class Tags(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_hostile_texts_are_inert_for_browser_and_templates(studio, home):
    visit = studio.act(studio.act(Visit.of("user", USERS[5]), 9, "click"), 13, "conversion")
    board = studio.board(visit, ALL, k=14, reasons=14)
    report = read_record(home / "run" / "report.json")
    parts = [
        board_html(board, "en"),
        board_html(board, "zh"),
        visit_html(board, "en"),
        found_html([studio.told(n) for n in range(9, 14)], HOSTILE[1], "en"),
        head_html(HOSTILE[1], report, [HOSTILE[0]], "en"),
    ]
    for part in parts:
        found = Tags(part)
        assert {tag for tag, _ in found.tags} <= {
            "div",
            "section",
            "h1",
            "h3",
            "small",
            "ol",
            "ul",
            "li",
            "span",
            "bdi",
            "p",
            "button",
            "details",
            "summary",
            "pre",
        }
        assert not [
            a for _, attributes in found.tags for a in attributes if a.startswith(("on", "autofocus", "src", "href"))
        ]
        assert "{{" not in part
        assert "${" not in part
        assert "`" not in part
    shown = Tags(parts[3]).text
    assert all(title in shown for title in HOSTILE)
    named = [a["aria-label"] for tag, a in Tags(parts[3]).tags if tag == "button"]
    assert f"Buy {HOSTILE[3]}" in named


def test_both_languages_have_the_same_words():
    assert set(WORDS["en"]) == set(WORDS["zh"])
    for key, text in WORDS["en"].items():
        assert text.count("{") == WORDS["zh"][key].count("{"), key
