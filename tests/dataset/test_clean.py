"""Cleaning removes what the chosen rules name, counts it, and leaves everything else as it was."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.dataset import Dataset
from llmrec.dataset.clean import Removal, clean
from llmrec.dataset.rules import RULES, removable
from llmrec.errors import ConfigError, DataError

NOW = 1_750_000_000
T = 1_700_000_000
DEFAULTS = ["zero-time", "future-time", "duplicate-events", "rating-without-value", "rating-range", "robot-users"]


def build(
    events: list[tuple[str, str, str, int, float | None]], rows: pl.DataFrame | None = None, **said: Any
) -> Dataset:
    schema = {"user_id": pl.String, "item_id": pl.String, "kind": pl.String, "time": pl.Int64, "value": pl.Float64}
    return Dataset.build(
        pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["Alpha", "Beta", "Gamma"]}),
        pl.DataFrame({"user_id": ["u", "v", "w"]}),
        pl.DataFrame(events, schema, orient="row"),
        **{
            "name": "t",
            "domain": "shop",
            "click": "rating",
            "conversion": "rating>=4",
            "rows": rows,
            "add_missing_users": True,
        }
        | said,
    )


DIRTY = [
    ("u", "a", "rating", T, 4.0),
    ("u", "a", "rating", T, 4.0),  # duplicate
    ("v", "a", "rating", T + 5, 3.0),
    ("v", "a", "rating", T + 6, 5.0),  # replaces the one before
    ("v", "b", "rating", T + 7, None),  # no value
    ("v", "b", "rating", 0, 1.0),  # no date
    ("u", "b", "rating", NOW + 10**7, 2.0),  # the future
]


def test_each_default_rule_removes_and_counts_its_rows() -> None:
    dirty = build(DIRTY, proxy="A rating stands for a click.")
    cleaned, removals = clean(dirty, now=NOW)
    assert removals == [
        Removal("zero-time", "events", 1),
        Removal("future-time", "events", 1),
        Removal("duplicate-events", "events", 1),
        Removal("rating-without-value", "events", 1),
        Removal("rating-range", "events", 0),
        Removal("robot-users", "users", 0),
    ]
    assert cleaned.events.select("user_id", "item_id", "value").rows() == [
        ("u", "a", 4.0),
        ("v", "a", 3.0),
        ("v", "a", 5.0),
    ]
    assert cleaned.manifest.counts["events"] == 3
    assert cleaned.manifest.content_hash != dirty.manifest.content_hash
    same = ("name", "domain", "language", "source", "terms", "repeat", "click", "conversion", "proxy", "currency")
    assert [getattr(cleaned.manifest, key) for key in same] == [getattr(dirty.manifest, key) for key in same]
    assert dirty.events.height == len(DIRTY)


def test_rules_are_chosen_and_switched_off_by_name() -> None:
    dirty = build(DIRTY)
    assert [rule.name for rule in removable()] == DEFAULTS
    cleaned, removals = clean(dirty, {"repeated-rating"}, now=NOW)
    assert removals == [Removal("repeated-rating", "events", 1)]
    assert 3.0 not in cleaned.events["value"].to_list()
    _, removals = clean(dirty, without={"duplicate-events", "robot-users"}, now=NOW)
    assert [r.rule for r in removals] == [d for d in DEFAULTS if d not in ("duplicate-events", "robot-users")]


def test_a_data_set_that_needs_nothing_is_returned_as_it_is() -> None:
    sound = build(DIRTY[:1])
    cleaned, removals = clean(sound, now=NOW)
    assert cleaned is sound
    assert not any(removal.count for removal in removals)


@pytest.mark.parametrize("bad", [{"rules": {"duplicates"}}, {"without": {"equal-titles"}}])
def test_an_unknown_rule_or_one_that_cannot_be_cleaned_is_refused(bad: dict[str, set[str]]) -> None:
    with pytest.raises(ConfigError, match="is no rule that can be cleaned; choose from: zero-time"):
        clean(build(DIRTY), **bad)


def test_removing_everything_is_refused() -> None:
    with pytest.raises(DataError, match="'rating-without-value' would remove every event"):
        clean(build([("u", "a", "rating", T, None)]), now=NOW)


def test_removing_users_removes_what_refers_to_them_and_counts_it() -> None:
    robot = [("w", "abc"[i % 3], "rating", T + i, 3.0) for i in range(120)] * 2
    people = [(f"p{i}", "a", "rating", T + i, 5.0) for i in range(20)]
    rows = pl.DataFrame(
        {"split": ["test", "test"], "user_id": ["w", "p1"], "history": [["a"], ["b"]], "target": ["b", "c"]}
    )
    cleaned, removals = clean(build(people + robot, rows), {"robot-users"}, now=NOW)
    assert removals == [
        Removal("robot-users", "users", 1),
        Removal("robot-users", "events", 240),
        Removal("robot-users", "rows", 1),
    ]
    assert cleaned.user("w") is None
    assert cleaned.rows is not None
    assert cleaned.rows["user_id"].to_list() == ["p1"]


def test_cold_items_go_only_when_asked_and_never_if_a_row_needs_them() -> None:
    events = [("u", "a", "rating", T, 4.0)]
    assert clean(build(events), now=NOW)[0].n_items == 3
    cleaned, removals = clean(build(events), {"items-without-events", "users-without-events"}, now=NOW)
    assert removals == [Removal("items-without-events", "items", 2), Removal("users-without-events", "users", 2)]
    assert cleaned.item_index == {"a": 0}
    rows = pl.DataFrame({"split": ["test"], "user_id": ["v"], "history": [["b"]], "target": ["c"]})
    kept, removals = clean(build(events, rows), {"items-without-events", "users-without-events"}, now=NOW)
    assert [r.count for r in removals] == [0, 1]
    assert kept.users["user_id"].to_list() == ["u", "v"]


event = st.tuples(
    st.sampled_from("uvw"),
    st.sampled_from("abc"),
    st.sampled_from(["click", "rating", "impression", "conversion"]),
    st.sampled_from([0, T, T + 1, T + 90, NOW * 2]),
    st.sampled_from([None, 1.0, 4.0]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(event, min_size=1, max_size=25))
def test_cleaning_accounts_for_every_row_and_keeps_the_rest(events: list[Any]) -> None:
    # Two dated events that no rule touches, so that something is always left and the median is a date.
    anchor = [("u", "a", "click", T + i, None) for i in range(2, 40)]
    dirty = build([*events, *anchor])
    cleaned, removals = clean(dirty, now=NOW)
    removed = sum(removal.count for removal in removals if removal.table == "events")
    assert cleaned.events.height + removed == dirty.events.height
    # By the definition of the rules, in plain Python: distinct rows with a date that is not ahead, ratings valued.
    kept = {e for e in [*events, *anchor] if 0 < e[3] <= NOW and not (e[2] == "rating" and e[4] is None)}
    assert sorted(cleaned.events.select("user_id", "item_id", "kind", "time", "value").rows(), key=repr) == sorted(
        kept, key=repr
    )
    again, more = clean(cleaned, now=NOW)
    assert again is cleaned
    assert not any(removal.count for removal in more)


def test_every_rule_has_its_own_name() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
