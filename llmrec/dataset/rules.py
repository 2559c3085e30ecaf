"""Soft rules: what looks odd in a data set that can be used. `check` counts them, `clean` removes the removable.

A rule is a boolean mask over one table. Masks never raise: they judge a data set that `Dataset.build` accepted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import polars as pl

from llmrec.dataset import rule_masks
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError

Severity = Literal["info", "warning", "error"]
"""info: worth knowing; warning: may harm training or evaluation; error: the data set cannot be trained on."""


@dataclass(frozen=True)
class Rule:
    """One soft rule.

    `find` returns the mask of the rows of `table` that it names. `removable` rules may be given to `clean`;
    those with `by_default` are applied unless switched off.
    """

    name: str
    table: Literal["items", "users", "events"]
    severity: Severity
    meaning: str
    find: Callable[[Dataset, int], pl.Series]
    removable: bool = False
    by_default: bool = False


def _rule(
    name: str,
    table: Literal["items", "users", "events"],
    severity: Severity,
    meaning: str,
    find: Callable[[Dataset, int], pl.Series],
    clean: Literal["never", "asked", "default"] = "never",
) -> Rule:
    return Rule(name, table, severity, meaning, find, clean != "never", clean == "default")


RULES: tuple[Rule, ...] = (
    _rule(
        "time-unit",
        "events",
        "warning",
        "times are so large that they are not seconds (milliseconds?); divide them and import anew",
        rule_masks.time_unit,
    ),
    _rule(
        "zero-time",
        "events",
        "warning",
        "the time is 0 although other times are dates",
        rule_masks.zero_time,
        "default",
    ),
    _rule("future-time", "events", "warning", "the time is in the future", rule_masks.future_time, "default"),
    _rule(
        "duplicate-events",
        "events",
        "warning",
        "the event equals an earlier one in every column",
        rule_masks.duplicates,
        "default",
    ),
    _rule(
        "rating-without-value",
        "events",
        "warning",
        "a rating event has no value",
        rule_masks.rating_without_value,
        "default",
    ),
    _rule(
        "rating-range",
        "events",
        "warning",
        "the rating is outside the scale that at least 99% of the ratings fit",
        rule_masks.rating_outside_scale,
        "default",
    ),
    _rule(
        "robot-users",
        "users",
        "warning",
        "the user acts in the busiest minute or day far more often than people do here",
        rule_masks.robot_users,
        "default",
    ),
    _rule(
        "repeated-rating",
        "events",
        "info",
        "the user rated this item again later; only the last rating is the user's opinion",
        rule_masks.superseded_rating,
        "asked",
    ),
    _rule(
        "conversion-without-click",
        "events",
        "warning",
        "a conversion has no click of this user on this item at or before it",
        rule_masks.conversion_without_click,
        "asked",
    ),
    _rule(
        "click-without-impression",
        "events",
        "warning",
        "a click has no impression of this item to this user at or before it",
        rule_masks.click_without_impression,
        "asked",
    ),
    _rule(
        "missing-propensity",
        "events",
        "warning",
        "an impression has no propensity although others have one, so off-policy estimates lack it",
        rule_masks.missing_propensity,
        "asked",
    ),
    _rule(
        "missing-position",
        "events",
        "info",
        "an impression has no position although others have one",
        rule_masks.missing_position,
    ),
    _rule(
        "shared-session",
        "events",
        "warning",
        "the session id is used by more than one user; ids should be unique over users",
        rule_masks.shared_session,
    ),
    _rule("long-session", "events", "info", "the session lasts more than a day", rule_masks.long_session),
    _rule(
        "equal-time",
        "events",
        "info",
        "another event of this user has the same time and no `order` tells which came first",
        rule_masks.equal_time,
    ),
    _rule("equal-titles", "items", "info", "another item has the same title", rule_masks.equal_titles),
    _rule(
        "missing-items",
        "items",
        "warning",
        "the id or the title is a word for a missing value (nan, NULL, ...), and can be recommended",
        rule_masks.missing_items,
    ),
    _rule("empty-description", "items", "info", "the description is empty", rule_masks.empty_description),
    _rule(
        "long-text",
        "items",
        "warning",
        f"the title has over {rule_masks.LONG_TITLE} or the description over {rule_masks.LONG_TEXT:,} characters",
        rule_masks.long_text,
    ),
    _rule(
        "item-control-characters",
        "items",
        "warning",
        "title or description holds control or invisible characters",
        rule_masks.item_control_characters,
    ),
    _rule(
        "item-markup",
        "items",
        "warning",
        "title or description holds HTML or chat markers (they are made harmless in prompts)",
        rule_masks.item_markup,
    ),
    _rule("negative-price", "items", "warning", "the price is below 0", rule_masks.negative_price),
    _rule("items-without-events", "items", "info", "the item is in no event", rule_masks.cold_items, "asked"),
    _rule(
        "missing-users",
        "users",
        "warning",
        "the id is a word for a missing value (nan, NULL, ...): many people in one",
        rule_masks.missing_users,
    ),
    _rule(
        "user-control-characters",
        "users",
        "warning",
        "the profile holds control or invisible characters",
        rule_masks.user_control_characters,
    ),
    _rule("user-markup", "users", "warning", "the profile holds HTML or chat markers", rule_masks.user_markup),
    _rule("users-without-events", "users", "info", "the user is in no event", rule_masks.cold_users, "asked"),
)


def removable(rules: set[str] | None = None, without: set[str] | None = None) -> tuple[Rule, ...]:
    """The rules that `clean` applies: `rules` (None: the defaults) less `without`, in the order of `RULES`.

    Raises:
        ConfigError: a name that is no removable rule.
    """
    known = {rule.name: rule for rule in RULES if rule.removable}
    for name in sorted((rules or set()) | (without or set())):
        if name not in known:
            raise ConfigError(f"{name!r} is no rule that can be cleaned; choose from: {', '.join(known)}.")
    chosen = {rule.name for rule in known.values() if rule.by_default} if rules is None else rules
    return tuple(rule for rule in known.values() if rule.name in chosen - (without or set()))


def now_seconds() -> int:
    """The present in seconds since the epoch."""
    return int(time.time())
