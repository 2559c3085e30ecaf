"""Conversions find their clicks and clicks their impressions, once each, backwards only and within the window."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.dataset.check import check
from llmrec.dataset.impressions import impressions
from llmrec.dataset.linking import LINK_WINDOW, Funnel, link_feedback, linked_rows, span
from llmrec.dataset.split import split_at
from tests.dataset.tiny import tiny

V, W, X, Y, Z = range(5)
DAY = 86_400


def _marks(events, window=LINK_WINDOW, **options):
    """(item, time, click, conversion) of every impression of the whole log."""
    dataset = tiny(events, **options)
    links = link_feedback(dataset, dataset.events, window)
    click, conversion = links.marks()
    shown = zip(links.shown["item"], links.shown["time"], click.tolist(), conversion.tolist(), strict=True)
    return [(item, time, int(one), int(two)) for item, time, one, two in shown]


def test_a_purchase_minutes_after_the_click_is_its_conversion():
    events = [("a", "v", "click", 100), ("a", "w", "click", 160), ("a", "v", "conversion", 400)]
    assert _marks(events) == [(V, 100, 1, 1), (W, 160, 1, 0)]
    assert _marks(events, window=299) == [(V, 100, 1, 0), (W, 160, 1, 0)]
    assert _marks(events, window=300) == [(V, 100, 1, 1), (W, 160, 1, 0)]


def test_a_conversion_belongs_to_the_latest_click_before_it_and_to_no_other():
    clicks = [("a", "v", "click", t) for t in (10, 20, 30)]
    assert _marks([*clicks, ("a", "v", "conversion", 25)]) == [(V, 10, 1, 0), (V, 20, 1, 1), (V, 30, 1, 0)]
    assert _marks([*clicks, ("a", "v", "conversion", 20)]) == [(V, 10, 1, 0), (V, 20, 1, 1), (V, 30, 1, 0)]
    assert _marks([*clicks, ("a", "v", "conversion", 5)]) == [(V, t, 1, 0) for t in (10, 20, 30)]


def test_neither_another_user_nor_another_item_lends_a_click():
    events = [("a", "v", "click", 10), ("b", "w", "click", 10), ("b", "v", "conversion", 20)]
    assert _marks([*events, ("a", "w", "conversion", 20)]) == [(V, 10, 1, 0), (W, 10, 1, 0)]


def test_a_session_goes_before_the_window_and_knows_no_end():
    early, late = ("a", "v", "click", 10, None, None, None, "s"), ("a", "v", "click", 50, None, None, None, "t")
    bought = ("a", "v", "conversion", 60, None, None, None, "s")
    assert _marks([early, late, bought]) == [(V, 10, 1, 1), (V, 50, 1, 0)]
    long = ("a", "v", "conversion", 10 + 5 * DAY, None, None, None, "s")
    assert _marks([early, late, long]) == [(V, 10, 1, 1), (V, 50, 1, 0)]


def test_of_one_slate_the_place_that_was_clicked_is_marked():
    shown = [("a", "v", "impression", 1, None, place, None, "s") for place in (0, 1, 2)]
    clicked = ("a", "v", "click", 1, None, 1, None, "s")
    assert [row[2] for row in _marks([*shown, clicked])] == [0, 1, 0]


def test_a_purchase_skips_an_impression_that_was_not_clicked():
    events = [("a", "v", "impression", 10), ("a", "v", "click", 12), ("a", "v", "impression", 20)]
    assert _marks([*events, ("a", "v", "conversion", 30)]) == [(V, 10, 1, 1), (V, 20, 0, 0)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 9), st.sampled_from([None, "s", "t"]))),
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 9), st.sampled_from([None, "s", "t"]))),
    st.sampled_from([0, 1, 3, None]),
)
def test_links_equal_a_search_by_hand(causes, effects, window):
    def table(rows):
        schema = {"user_id": pl.String, "item": pl.Int64, "time": pl.Int64, "session": pl.String}
        made = pl.DataFrame([(f"u{u}", i, t, s) for u, i, t, s in rows], schema, orient="row")
        return made.with_columns(position=pl.lit(None, pl.Int32))

    found = linked_rows(table(causes), table(effects), window)
    for (user, item, time, session), row in zip(effects, found.tolist(), strict=True):
        own = [n for n, c in enumerate(causes) if c[:2] == (user, item) and c[2] <= time]
        now = [n for n in own if causes[n][2] == time]
        met = [n for n in own if session is not None and causes[n][3] == session]
        near = [n for n in own if window is None or causes[n][2] >= time - window]
        wanted = now or met or near
        if not wanted:
            assert row == -1
        else:
            assert row in wanted
            assert causes[row][2] == max(causes[n][2] for n in wanted)
            if now and any(causes[n][3] == session and session is not None for n in now):
                assert causes[row][3] == session


def test_what_comes_after_the_part_is_not_used_and_states_do_not_see_it():
    events = [("a", "v", "click", 10), ("a", "v", "conversion", 70), ("a", "w", "click", 40)]
    dataset = tiny(events)
    early = impressions(dataset, split_at(dataset.events, 60, 60), "train", negatives=0)
    assert early.conversion_M.tolist() == [0, 0]
    whole = impressions(dataset, split_at(dataset.events, 99, 99), "train", negatives=0)
    assert whole.conversion_M.tolist() == [1, 0]
    assert [[i.feedback for i in state.history] for state in whole.states] == [[], ["click"]]
    late = impressions(dataset, split_at(dataset.events, 60, 60), "test", negatives=0)
    assert len(late) == 0  # the purchase's click lies in another part


def _shop(users, delay, seed=0, share=0.2):
    """Everybody clicks three items; `share` of the pairs are bought `delay` seconds later (low, high)."""
    random = np.random.default_rng(seed)
    events = []
    for user in range(users):
        for place, item in enumerate(random.permutation(5)[:3]):
            time = 1000 * user + 100 * place
            events.append((f"{user}", "vwxyz"[item], "click", time))
            if random.random() < share:
                events.append((f"{user}", "vwxyz"[item], "conversion", time + int(random.integers(*delay))))
    return events, [f"{user}" for user in range(users)]


@pytest.mark.parametrize("delay", [(1, 60), (60, 3600), (0, 1)])
def test_a_shop_in_which_a_fifth_is_bought_converts_a_fifth(delay):
    events, users = _shop(2000, delay)
    dataset = tiny(events, users=users)
    bought = sum(event[2] == "conversion" for event in events)
    found = Funnel.of(dataset)
    assert (found.clicked, found.converted, found.linked) == (6000, bought, bought)
    assert found.conversion_rate == pytest.approx(0.20, abs=0.016)  # three standard deviations
    log = impressions(dataset, split_at(dataset.events, 10**9, 10**9), "train", negatives=0)
    assert log.conversion_M.mean() == pytest.approx(bought / 6000)


def test_the_funnel_says_where_conversions_are_lost():
    events = [
        ("a", "v", "impression", 10),
        ("a", "v", "click", 12),
        ("a", "v", "conversion", 20),
        ("a", "w", "click", 15),  # never shown
        ("a", "w", "conversion", 16),
        ("a", "v", "conversion", 13 + DAY),  # too late
        ("b", "x", "conversion", 9),  # never clicked
    ]
    found = Funnel.of(tiny(events))
    assert (found.clicks, found.clicks_linked, found.clicked) == (2, 1, 1)
    assert (found.conversions, found.linked, found.converted) == (4, 1, 1)
    assert (found.late, found.unclicked, found.unshown) == (1, 1, 1)
    said = str(found)
    for part in ("2 clicks, 1 of them linked to one of 1 impressions", "4 conversions, 1 of them linked to a click"):
        assert part in said
    for part in (
        "1 longer than 1 day after",
        "1 without a click before",
        "1 whose click has no impression",
        "100.00%",
    ):
        assert part in said


def test_conversions_that_belong_to_nothing_are_an_error_with_the_mend():
    lost = [("a", "v", "click", 10), ("a", "v", "conversion", 11 + DAY), ("b", "w", "conversion", 5)]
    (found,) = [f for f in check(tiny(lost), now=10**9) if f.rule == "unlinked-conversions"]
    assert (found.severity, found.count) == ("error", 2)
    for part in ("all 2 conversions", "within 1 day", "1 come later", "1 have no click", "data.link_window"):
        assert part in found.meaning
    assert not [f for f in check(tiny(lost[:2]), now=10**9, link_window=2 * DAY) if f.rule == "unlinked-conversions"]


def test_clicks_that_belong_to_no_impression_are_said():
    shown = [("a", "v", "impression", 10), ("a", "w", "impression", 10), ("a", "v", "click", 11 + DAY)]
    (found,) = [f for f in check(tiny(shown), now=10**9) if f.rule == "unlinked-clicks"]
    assert (found.severity, found.count) == ("error", 1)
    more = [*shown, ("a", "v", "click", 12), ("a", "w", "click", 13)]
    (found,) = [f for f in check(tiny(more), now=10**9) if f.rule == "unlinked-clicks"]
    assert (found.severity, found.count) == ("info", 1)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(DAY, "1 day"), (7 * DAY, "7 days"), (5400, "90 minutes"), (3600, "1 hour"), (1, "1 second"), (0, "0 seconds")],
)
def test_windows_are_said_in_whole_units(seconds, said):
    assert span(seconds) == said
