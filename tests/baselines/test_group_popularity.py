"""Popularity among people like the user, by hand."""

from __future__ import annotations

import polars as pl
import pytest

from llmrec.baselines.popularity import GroupPopularity, GroupPopularitySettings
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError
from llmrec.types import State

PROFILES = {
    "a": "A 20-year-old man; occupation: student.",
    "b": "A 30-year-old woman; occupation: student.",
    "c": "A 60-year-old woman; occupation: doctor.",
}
CLICKS = [("a", 0), ("a", 1), ("b", 0), ("c", 2)]


def data() -> Dataset:
    return Dataset.build(
        pl.DataFrame({"item_id": [f"i{n}" for n in range(4)], "title": [f"title {n}" for n in range(4)]}),
        pl.DataFrame({"user_id": list(PROFILES), "profile": list(PROFILES.values())}),
        pl.DataFrame(
            [{"user_id": u, "item_id": f"i{i}", "kind": "click", "time": t} for t, (u, i) in enumerate(CLICKS)]
        ),
        name="tiny",
        domain="shop",
        click="click",
        conversion="conversion",
    )


def scores(profile: str, **settings: object) -> list[float]:
    made = GroupPopularity(GroupPopularitySettings(**settings))  # type: ignore[arg-type]
    found: list[float] = made.fit(data(), data().events).score([State(profile=profile)])[0].tolist()
    return found


def test_shares_of_a_group_are_smoothed_by_everybodys() -> None:
    # students: clicks 2, 1, 0, 0 of three; everybody: 2, 1, 1, 0 of four; with m = 4: (2 + 2) / 7, (1 + 1) / 7, 1 / 7
    assert scores(PROFILES["a"], attributes=("occupation",), smoothing=4.0) == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0])
    # women: 1, 0, 1, 0 of two
    assert scores(PROFILES["b"], attributes=("gender",), smoothing=2.0) == pytest.approx([2 / 4, 0.5 / 4, 1.5 / 4, 0])


def test_attributes_multiply_their_lifts() -> None:
    one = scores(PROFILES["b"], attributes=("occupation",))
    other = scores(PROFILES["b"], attributes=("gender",))
    both = scores(PROFILES["b"], attributes=("occupation", "gender"))
    share = [0.5, 0.25, 0.25]
    assert both[:3] == pytest.approx([x * y / p for x, y, p in zip(one, other, share, strict=False)])


def test_what_is_not_known_says_nothing() -> None:
    everybody = pytest.approx([0.5, 0.25, 0.25, 0.0])
    for profile in ("", "occupation: pilot.", "anything"):
        assert scores(profile) == everybody
    assert scores(PROFILES["a"], attributes=("income",)) == everybody
    with pytest.raises(ConfigError, match="smoothing is 0"):
        GroupPopularitySettings(smoothing=0)
    assert GroupPopularity().fit(data(), data().events).score([]).shape == (0, 4)
