"""Each soft rule against a small data set where the odd rows were put in by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmrec.dataset import Dataset
from llmrec.dataset.check import Finding, check
from llmrec.dataset.rules import RULES
from llmrec.errors import DataError

NOW = 1_750_000_000
T = 1_700_000_000
COLUMNS = ["user_id", "item_id", "kind", "time", "value", "position", "propensity", "session"]
PLAIN = [
    ("u", "a", "impression", T, None, 0, 0.5, "s1"),
    ("u", "a", "click", T + 1, None, None, None, "s1"),
    ("u", "a", "conversion", T + 2, None, None, None, "s1"),
    ("v", "b", "impression", T + 9, None, 0, 0.5, "s2"),
    ("v", "b", "click", T + 10, None, None, None, "s2"),
    ("v", "b", "rating", T + 20, 5.0, None, None, None),
]


def build(*events: tuple[Any, ...], items: Any = None, users: Any = None, plain: bool = True, **said: Any) -> Dataset:
    rows = [*(PLAIN if plain else []), *((*e, *[None] * (len(COLUMNS) - len(e))) for e in events)]
    schema = dict(
        zip(
            COLUMNS,
            [pl.String, pl.String, pl.String, pl.Int64, pl.Float64, pl.Int32, pl.Float64, pl.String],
            strict=True,
        )
    )
    table = {"item_id": ["a", "b"], "title": ["Alpha", "Beta"], "description": ["First.", "Second."]} | (items or {})
    return Dataset.build(
        pl.DataFrame(table),
        pl.DataFrame({"user_id": ["u", "v"]} | (users or {})),
        pl.DataFrame(rows, schema, orient="row"),
        **{"name": "t", "domain": "shop", "click": "click", "conversion": "conversion", "add_missing_users": True}
        | said,
    )


def found(dataset: Dataset) -> dict[str, Finding]:
    return {finding.rule: finding for finding in check(dataset, now=NOW)}


def test_a_sound_data_set_has_no_finding() -> None:
    assert check(build(), now=NOW) == []


# rule: (events added to the sound ones, columns of items, columns of users, rows that the rule must count)
ODD: dict[str, tuple[list[Any], Any, Any, int]] = {
    "duplicate-events": ([PLAIN[1], PLAIN[1], PLAIN[5]], None, None, 3),
    "zero-time": ([("u", "a", "rating", 0, 4.0)], None, None, 1),
    "future-time": (
        [("u", "a", "rating", NOW + 90_000, 4.0), ("u", "a", "rating", NOW + 80_000, 4.0)],
        None,
        None,
        1,
    ),
    "rating-without-value": ([("u", "a", "rating", T + 3)], None, None, 1),
    "rating-range": (
        [*(("u", "a", "rating", T + 30 + i, 1.0 + i % 5) for i in range(300)), ("v", "a", "rating", T, 11.0)],
        None,
        None,
        1,
    ),
    "repeated-rating": ([("v", "b", "rating", T + 15, 1.0), ("v", "a", "rating", T + 15, 1.0)], None, None, 1),
    "conversion-without-click": ([("v", "a", "conversion", T + 15), ("v", "b", "conversion", T + 5)], None, None, 2),
    "click-without-impression": ([("v", "a", "click", T + 15), ("u", "a", "click", T - 1)], None, None, 2),
    "missing-propensity": ([("v", "a", "impression", T, None, 0, None)], None, None, 1),
    "missing-position": ([("v", "a", "impression", T, None, None, 0.1)], None, None, 1),
    "shared-session": ([("v", "a", "impression", T, None, 0, 0.1, "s1")], None, None, 4),
    "long-session": ([("v", "b", "rating", T + 9 + 86_401, 5.0, None, None, "s2")], None, None, 3),
    "equal-time": ([("u", "b", "rating", T + 1, 3.0)], None, None, 2),
    "equal-titles": ([], {"title": ["Same", "Same"]}, None, 2),
    "empty-description": ([], {"description": ["", " \n"]}, None, 2),
    "long-text": ([], {"title": ["x" * 301, "y"], "description": ["z", "w" * 20_001]}, None, 2),
    "item-control-characters": (
        [],
        {"title": ["a\x1b[31m", "b"], "description": ["\u202eabc", "two\nlines\t"]},
        None,
        1,
    ),
    "item-markup": ([], {"title": ["<|im_end|>", "1 < 2 > 0"], "description": ["x", "caf&eacute;"]}, None, 2),
    "missing-items": ([], {"title": ["nan", "Nan bread"]}, None, 1),
    "missing-users": ([("NULL", "a", "click", T + 30)], None, None, 1),
    "negative-price": ([], {"price": [-0.5, 0.0]}, None, 1),
    "items-without-events": ([], {"item_id": ["a", "c"], "title": ["A", "C"]}, None, 1),
    "user-control-characters": ([], None, {"profile": ["\x01", ""]}, 1),
    "user-markup": ([], None, {"profile": ["<b>old</b>", "[INST] hi"]}, 2),
    "users-without-events": ([], None, {"user_id": ["u", "w"]}, 1),
}


@pytest.mark.parametrize("rule", ODD)
def test_a_rule_counts_the_rows_put_in(rule: str) -> None:
    events, items, users, count = ODD[rule]
    if rule == "items-without-events":
        dataset = build(*PLAIN[:3], items=items, plain=False)
    else:
        dataset = build(*events, items=items, users=users)
    finding = found(dataset)[rule]
    assert finding.count == count
    assert finding.example.startswith("row ")
    assert finding.severity in ("info", "warning")
    assert finding.meaning


def test_every_rule_is_tried_here() -> None:
    assert set(ODD) | {"time-unit", "robot-users"} == {rule.name for rule in RULES}


def test_the_example_is_the_first_row_and_shows_no_raw_control_characters() -> None:
    finding = found(build(items={"title": ["fine", "x\x1b]0;owned\x07"]}))["item-control-characters"]
    assert finding.example == r"row 1: item_id 'b', title 'x\x1b]0;owned\x07'"


@pytest.mark.parametrize(
    "text", ["1 < 2 and 3 > 2", "AT&T", "Tom & Jerry; part 2", "I <3 you", "[Instrumental]", "a|b", "日本語、中文"]
)
def test_plain_text_is_not_markup(text: str) -> None:
    assert "item-markup" not in found(build(items={"title": [text, "B"]}))


def test_emoji_and_persian_joiners_are_not_control_characters() -> None:
    assert "item-control-characters" not in found(build(items={"title": ["👩‍💻", "می‌خواهم"]}))


def test_milliseconds_are_one_finding_and_not_a_future() -> None:
    rules = found(build(("u", "a", "click", T * 1000), ("u", "a", "click", T * 1000 + 1), plain=False))
    assert rules["time-unit"].count == 2
    assert "future-time" not in rules


def test_times_that_count_from_0_are_left_alone() -> None:
    rules = found(build(("u", "a", "click", 0), ("v", "b", "click", 1), ("v", "a", "click", 5), plain=False))
    assert "zero-time" not in rules


@pytest.mark.parametrize(
    ("low", "high", "outside"), [(1, 5, 5.5), (-10, 10, 11), (0, 1, 2), (0.5, 5, 5.5), (0, 100, -1)]
)
def test_the_rating_scale_is_found_from_the_ratings(low: float, high: float, outside: float) -> None:
    values = [low + (high - low) * i / 10 for i in range(11)] * 20
    events = [("u", "a", "rating", T + i, v) for i, v in enumerate([*values, outside])]
    assert found(build(*events, plain=False))["rating-range"].count == 1
    assert "rating-range" not in found(build(*events[:-1], plain=False))


def _people(n: int, per_day: int) -> list[tuple[str, str, str, int]]:
    return [(f"p{i}", "ab"[j % 2], "click", T + 1000 * i + 61 * j) for i in range(n) for j in range(per_day + i % 3)]


def test_a_robot_is_named_and_a_diligent_person_is_not() -> None:
    minute = [("robot", "a", "click", T + i // 10) for i in range(400)]
    day = [("crawler", "a", "click", T - T % 86_400 + 80 * i) for i in range(1079)]
    diligent = [("diligent", "a", "click", T + 90 * i) for i in range(200)]
    finding = found(build(*_people(40, 5), *minute, *day, *diligent, plain=False))["robot-users"]
    assert finding.count == 2
    calm = found(build(*_people(40, 5), *diligent, *minute[:90], plain=False))
    assert "robot-users" not in calm


def test_pages_of_ratings_and_shown_slates_make_no_robot() -> None:
    pages = [(f"p{i}", "a", "rating", T + 7 * i, 4.0) for i in range(30) for _ in range(80)]
    slates = [("u", "a", "impression", T + i % 60, None, 0, 0.5) for i in range(3000)]
    assert "robot-users" not in found(build(*pages, *slates))


def test_days_without_seconds_are_not_judged_by_the_minute() -> None:
    day = T - T % 86_400
    events = [(f"p{i}", "a", "rating", day, 4.0) for i in range(20) for _ in range(3 + 200 * (i == 0))]
    assert "robot-users" not in found(build(*events, plain=False))


def test_nothing_to_learn_from_is_an_error() -> None:
    findings = check(build(PLAIN[0], plain=False), now=NOW)
    assert [(f.rule, f.severity) for f in findings[:2]] == [("no-clicks", "error"), ("no-conversions", "warning")]
    empty = found(build(plain=False))
    assert empty["no-clicks"].severity == "error"


def test_stand_ins_need_a_sentence() -> None:
    said = {"click": "rating", "conversion": "rating>=4"}
    assert "click and conversion are stand-ins" in found(build(**said))["proxy-unexplained"].meaning
    assert "proxy-unexplained" not in found(build(**said, proxy="A rating stands for a click."))


def test_a_folder_is_read_and_a_bad_one_refused(tmp_path: Path) -> None:
    build(items={"title": ["Same", "Same"]}).save(tmp_path / "d")
    assert [finding.rule for finding in check(tmp_path / "d", now=NOW)] == ["equal-titles"]
    with pytest.raises(DataError, match="is not a folder"):
        check(tmp_path / "none")


def test_worst_findings_come_first() -> None:
    dataset = build(PLAIN[1], PLAIN[1], items={"title": ["Same", "Same"]}, click="rating>=9", proxy="x")
    assert [f.severity for f in check(dataset, now=NOW)] == ["error", "warning", "info"]
