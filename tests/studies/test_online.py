"""The study of learning while serving: its figures by hand, and both questions from end to end."""

from __future__ import annotations

import json

import polars as pl
import pytest

from llmrec.config import RewardSettings, WorldConfig
from llmrec.dataset.world import generate_world
from llmrec.errors import ConfigError
from llmrec.online.events import Logged, Outcome, Received, Served
from llmrec.studies.online import run_online
from llmrec.studies.online.arms import PRIOR, events_of, item_means
from llmrec.studies.online.month import ALONE, FROZEN, INFORMED, MEANS, UPDATED, Month
from llmrec.studies.online.telling import recovery


def test_recovery_is_three_days_at_ninety_percent():
    month = Month(days=12, visits=10, places=5)
    days = {INFORMED: [1.0] * 12, "a": [1.0] * 6 + [0.2, 0.95, 0.5, 0.9, 0.9, 0.93], "b": [1.0] * 6 + [0.5] * 6}
    assert recovery(days, "a", month)["interactions"] == 6 * 10 * 5
    never = recovery(days, "b", month)
    assert (never["interactions"], never["share"], never["first"]) == (None, 0.5, 0.5)


def test_arms_of_a_month_are_chosen_by_name():
    month = Month(arms=("means", "alone"))
    assert month.played == [FROZEN, UPDATED, ALONE, MEANS]
    assert month.learning == [UPDATED, ALONE]
    with pytest.raises(ConfigError, match="called 'mean'; there are frozen, updated, "):
        Month(arms=("means", "mean"))


def test_slates_become_events_and_means_are_drawn_to_the_mean():
    world = generate_world(WorldConfig(users=20, items=10, slates_per_user=2, slate_size=3), 3)
    items = world.dataset.items["item_id"].to_list()
    user = world.dataset.users["user_id"][0]
    served = Served("s", user, (items[4], items[2]), (0.5, 0.25), 1)
    outcome = [Outcome("s", items[2], kind) for kind in ("click", "conversion")]
    late = int(world.dataset.events["time"].max()) + 9
    logged = Logged(
        1, late, late, served, (Received(2, late, outcome[0], False), Received(3, late, outcome[1], False))
    )
    events = events_of([logged])
    assert events.select("item_id", "kind", "position", "propensity").rows() == [
        (items[4], "impression", 0, 0.5),
        (items[2], "impression", 1, 0.25),
        (items[2], "click", 1, 0.25),
        (items[2], "conversion", 1, 0.25),
    ]
    whole = world.dataset.with_events(pl.concat([world.dataset.events, events], how="diagonal_relaxed"))
    assert whole.events.height == world.dataset.events.height + 4
    mean_N = item_means(whole, 2, RewardSettings(click=1.0, conversion=3.0))
    average = 4 / 2
    assert mean_N[items.index(items[2])] == pytest.approx((4 + PRIOR * average) / (1 + PRIOR))
    assert mean_N[items.index(items[4])] == pytest.approx(PRIOR * average / (1 + PRIOR))
    assert mean_N[0] == pytest.approx(average)


TINY = {
    "world.users": 80,
    "world.items": 20,
    "world.slates_per_user": 5,
    "model.nano_hidden": 32,
    "model.nano_layers": 1,
    "model.nano_vocabulary": 400,
    "model.nano_pretrain_sequences": 64,
    "sft.examples": 96,
    "sft.epochs": 1.0,
}


@pytest.mark.slow
def test_a_month_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    found = run_online("shift", seeds=[3], out=out, overrides=TINY, visits=16, days=10)
    assert set(found["arms"]) == {
        *("frozen", "updated", "updated, policy gradient", "trained anew", "frozen, with item worths fitted anew"),
        *("co-visitation, counted anew", "item means, counted anew", "informed optimum"),
    }
    best = found["arms"]["informed optimum"]["after the shift"]["by_seed"][0]
    assert all(
        own["after the shift"]["by_seed"][0] < best for name, own in found["arms"].items() if "optimum" not in name
    )
    bad = found["seeds"][3]["updated"]["bad"]
    assert not bad["noise"]["promoted"]
    assert bad["forced"] == bad["noise"]["version"]
    assert (out / "study.md").is_file()
    assert (out / "study-world-3.svg").is_file()
    # finished months are kept
    again = run_online("shift", seeds=[3], out=out, overrides=TINY, visits=16, days=10)
    assert json.dumps(again["arms"]) == json.dumps(found["arms"])


@pytest.mark.slow
def test_blocks_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    found = run_online("blocks", seeds=[3], out=tmp_path / "out", overrides=TINY, dataset="world", blocks=2, rows=20)
    assert set(found["sides"]) == {
        *("frozen", "gone on with", "trained anew", "co-visitation, counted anew", "co-visitation, as it was"),
    }
    first = {side: own["blocks"]["block 1"] for side, own in found["sides"].items()}
    assert first["frozen"] == first["gone on with"] == first["trained anew"]
    assert first["co-visitation, counted anew"] == first["co-visitation, as it was"]
    assert "trained anew less gone on with" in found["differences"]
