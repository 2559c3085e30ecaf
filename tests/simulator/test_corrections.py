"""Biased logs: weights by hand, propensities that were planted, and models that must come out better than naive ones."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from llmrec.config import SimulatorSettings, WorldConfig
from llmrec.dataset.importers import import_dataset
from llmrec.dataset.impressions import impressions
from llmrec.dataset.split import make_split
from llmrec.dataset.world.world import generate_world
from llmrec.errors import ConfigError, DataError
from llmrec.simulator.behaviour import fit_behaviour
from llmrec.simulator.corrections import (
    effective_size,
    inverse_weights,
)
from llmrec.simulator.log import Subset
from llmrec.simulator.values import fit_values, with_values
from llmrec.types import Interaction, Item, State
from tests.dataset.tiny import tiny
from tests.simulator.planted import planted

COLOURS = ("red", "green", "blue", "yellow")


def test_weights_are_inverse_clipped_and_of_mean_one() -> None:
    found = inverse_weights(np.array([0.5, 0.25, 0.5, 0.001]), clip=3.0)
    # 1/p = 2, 4, 2, 1000; the median is 3, so nothing exceeds 9
    np.testing.assert_allclose(found, np.array([2, 4, 2, 9]) * 4 / 17)
    assert effective_size(found) == pytest.approx(17**2 / (4 + 16 + 4 + 81))
    for bad in (0.0, 1.5, np.nan, -0.1):
        with pytest.raises(DataError, match="Impression 1 has the propensity"):
            inverse_weights(np.array([0.5, bad]), clip=3.0)


def _picked_world(seed: int) -> tuple[list[Item], Subset, list[State], np.ndarray]:
    """Ratings that depend on item and colour; liked pairs are picked far more often, and no feature tells all of it."""
    random = np.random.default_rng(seed)
    items = [Item(f"i{n}", f"{COLOURS[n % 4]} thing", categories=(COLOURS[n % 4],)) for n in range(40)]
    colour = random.integers(0, 4, 250)
    states = [State(user_id=f"u{u}", profile=f"likes {COLOURS[c]}", time=u) for u, c in enumerate(colour)]
    mood = random.standard_normal((250, 40))  # of the pair alone: what makes the log biased beyond repair by features
    rating = np.clip(np.round(2.2 + 1.0 * (colour[:, None] == np.arange(40) % 4) + mood), 1, 5)
    propensity = np.array([0, 0.02, 0.04, 0.1, 0.25, 0.5])[rating.astype(int)]
    user, item = np.nonzero(random.random((250, 40)) < propensity)
    size = len(user)
    log = Subset(
        states, user, item, np.ones(size), (rating >= 4)[user, item], rating[user, item], propensity[user, item]
    )
    return items, log, states, rating


VALUES = SimulatorSettings(epochs=8, batch_size=128, learning_rate=1e-2)


def test_corrected_values_beat_naive_ones_on_random_pairs_of_a_planted_world() -> None:
    items, log, states, rating = _picked_world(1)
    every = np.tile(np.arange(40), (250, 1))
    error = {}
    for correction in ("none", "ips", "dr"):
        settings = dataclasses.replace(VALUES, correction=correction)
        model = fit_values(items, log, architecture="logistic", seed=0, settings=settings)
        error[correction] = float(np.square(model.expected_value(states, every) - rating).mean())
    assert error["ips"] < error["none"] - 0.15
    assert error["dr"] < error["none"] - 0.15
    assert np.mean(log.value_M) > rating.mean() + 0.8


def test_values_are_refused_in_one_clear_sentence() -> None:
    items, log, _, _ = _picked_world(2)
    cases = [
        (items, dataclasses.replace(log, value_M=None), VALUES, "holds no values"),
        (items[:1], dataclasses.replace(log, item_M=0 * log.item_M), VALUES, "one item"),
        (items, dataclasses.replace(log, state_row_M=0 * log.state_row_M), VALUES, "one user only"),
        (items, dataclasses.replace(log, value_M=np.full(len(log.item_M), np.inf)), VALUES, "value_M = inf"),
        (
            items,
            dataclasses.replace(log, propensity_M=None),
            dataclasses.replace(VALUES, correction="ips"),
            "has no propensity",
        ),
    ]
    for catalogue, given, settings, words in cases:
        with pytest.raises(DataError, match=words):
            fit_values(catalogue, given, seed=0, settings=settings)
    with pytest.raises(ConfigError, match="has no value head"):
        fit_values(items, log, architecture="crossed", seed=0, settings=VALUES)
    with pytest.raises(ConfigError, match="values take none, ips or dr"):
        fit_values(items, log, seed=0, settings=dataclasses.replace(VALUES, correction="position"))


def test_values_are_joined_to_their_impressions() -> None:
    dataset = tiny(
        [
            ("a", "v", "impression", 10),
            ("a", "w", "impression", 10),
            ("a", "v", "click", 10),
            ("a", "v", "conversion", 14, 7.5),
            ("b", "w", "impression", 20),
            ("b", "w", "conversion", 20, 2.0),
            ("a", "z", "impression", 30),
        ]
    )
    log = impressions(dataset, make_split(dataset, valid_fraction=0.0, test_fraction=0.1), "train")
    np.testing.assert_array_equal(with_values(dataset, log).value_M, [np.nan, np.nan, 2.0])
    late = with_values(dataset, log, within=5)
    np.testing.assert_array_equal(late.value_M, [7.5, np.nan, 2.0])
    np.testing.assert_array_equal(late.item_M, log.item_M)


LOOK = np.array([1.0, 0.7, 0.5, 0.35, 0.25])


def _placed() -> tuple[list[Item], Subset, np.ndarray, list[State]]:
    """Slates of five whose better items stand higher, as a ranker puts them, clicked as the position model says."""
    world, random = planted(users=500), np.random.default_rng(3)
    items_SK, rows = [], np.repeat(np.arange(500), 14)
    for row in rows:
        shown = random.choice(24, 5, replace=False)
        items_SK.append(shown[np.argsort(-world.click_SN[row, shown] + random.random(5))])
    item = np.concatenate(items_SK)
    row, place = np.repeat(rows, 5), np.tile(np.arange(5), len(rows))
    click = random.random(len(row)) < LOOK[place] * world.click_SN[row, item]
    log = Subset(world.states, row, item, click.astype(float), 0.0 * click, None, None, place.astype(float))
    return world.items, log, world.click_SN, world.states


def test_planted_position_bias_is_recovered_within_a_tenth() -> None:
    items, log, click_SN, states = _placed()
    error = {}
    for correction, epochs in (("none", 2), ("position", 6)):
        settings = SimulatorSettings(epochs=epochs, batch_size=512, learning_rate=3e-2, correction=correction)
        model = fit_behaviour(items, log, architecture="logistic", seed=0, settings=settings)
        error[correction] = np.abs(model.predict_all(states).click_BK - click_SN).mean()
        if correction == "position":
            np.testing.assert_allclose(model.examination_K, LOOK, rtol=0.1)
    assert error["position"] < 0.6 * error["none"]


def test_a_known_examination_curve_is_kept_and_used() -> None:
    items, log, click_SN, states = _placed()
    settings = SimulatorSettings(epochs=2, batch_size=512, learning_rate=3e-2, correction="inverse-position")
    model = fit_behaviour(items, log, architecture="logistic", seed=0, settings=settings, examination_K=LOOK)
    np.testing.assert_allclose(model.examination_K, LOOK, atol=1e-4)
    assert np.abs(model.predict_all(states).click_BK.mean() / click_SN.mean() - 1) < 0.08


def test_corrections_say_what_they_miss() -> None:
    world = planted(users=60)
    log = world.log(np.arange(60), 10, 1)
    for correction, words in (("ips", "has no propensity"), ("dr", "has no propensity"), ("position", "no position")):
        with pytest.raises(DataError, match=words):
            settings = SimulatorSettings(epochs=1, correction=correction)  # type: ignore[arg-type]
            fit_behaviour(world.items, log, seed=0, settings=settings)
    with pytest.raises(ConfigError, match=r"objective=funnel only"):
        settings = SimulatorSettings(epochs=1, correction="dr", objective="esmm")
        fit_behaviour(world.items, log, seed=0, settings=settings)
    for name, value, words in (("propensity_M", 1.5, "above 0 and at most 1"), ("position_M", 0.5, "a whole number")):
        given = dataclasses.replace(
            Subset(log.states, log.state_row_M, log.item_M, log.click_M, log.conversion_M),
            **{name: np.full(600, value)},
        )
        with pytest.raises(DataError, match=words):
            fit_behaviour(world.items, given, seed=0, settings=SimulatorSettings(epochs=1))


@pytest.mark.slow
def test_position_bias_of_a_generated_world() -> None:
    world = generate_world(WorldConfig(users=6000, items=60, slate_size=5, position_bias=0.7), seed=3)
    split = make_split(world.dataset, "time")
    train, valid = (impressions(world.dataset, split, part) for part in ("train", "valid"))
    settings = SimulatorSettings(epochs=6, batch_size=1024, correction="position")
    model = fit_behaviour(world.dataset, train, architecture="logistic", seed=0, settings=settings, valid=valid)
    np.testing.assert_allclose(model.examination_K, np.arange(1, 6) ** -0.7, rtol=0.1)


def coat_log(dataset, part: str) -> Subset:
    """Coat's ratings, each in the state of its user's *other* picked ratings: the data has no order in time."""
    picked: dict[str, list[Interaction]] = {}
    train = dataset.events.filter(pl.col("split") == "train")
    for user, item, value in train.select("user_id", "item_id", "value").iter_rows():
        picked.setdefault(user, []).append(Interaction(dataset.item_index[item], "rating", 0, value))
    profile = dict(dataset.users.iter_rows())
    rows = dataset.events.filter(pl.col("split") == part)
    item_M = np.array([dataset.item_index[item] for item in rows["item_id"]])
    states = [
        State(u, profile[u], tuple(e for e in picked[u] if e.item != n), time=1)
        for u, n in zip(rows["user_id"], item_M.tolist(), strict=True)
    ]
    ones, value_M = np.ones(len(item_M)), rows["value"].to_numpy()
    return Subset(states, np.arange(len(item_M)), item_M, ones, value_M >= 4, value_M, rows["propensity"].to_numpy())


@pytest.mark.slow
@pytest.mark.parametrize("correction", ["ips", "dr"])
def test_coat_corrected_beats_naive_on_random_ratings(correction) -> None:
    """MSE on the uniformly random test ratings, mean of 10 seeds; propensities by logistic regression, as published."""
    folder = Path(os.environ.get("LLMREC_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "coat"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set LLMREC_DATA to a folder that holds coat")
    dataset = import_dataset("coat", folder)
    train, test = coat_log(dataset, "train"), coat_log(dataset, "test")
    error: dict[str, list[float]] = {"none": [], correction: []}
    for seed in range(10):
        for name, errors in error.items():
            settings = SimulatorSettings(epochs=10, batch_size=256, correction=name)  # type: ignore[arg-type]
            model = fit_values(dataset, train, architecture="logistic", seed=seed, settings=settings)
            found = model.expected_value(test.states, test.item_M[:, None])[:, 0]
            errors.append(float(np.square(found - test.value_M).mean()))
    print({name: f"{np.mean(errors):.4f} ± {np.std(errors, ddof=1):.4f}" for name, errors in error.items()})
    assert np.mean(error[correction]) < np.mean(error["none"])
