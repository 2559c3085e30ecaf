"""Settings, catalogues and slates that cannot be used are refused in one sentence."""

import dataclasses

import numpy as np
import pytest

from llmrec.config import DynamicsSettings
from llmrec.config_tree import from_tree
from llmrec.errors import ConfigError, DataError
from llmrec.simulator.dynamics import Dynamics, ItemTable, fresh_users
from tests.simulator.dynamics.worlds import ALL_ON, PLACES, catalogue, feedback, world


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("drift", "rate", 1.5),
        ("drift", "conversion", -1.0),
        ("satiation", "recovery", -0.1),
        ("satiation", "clicked", -1.0),
        ("novelty", "learning", 2.0),
        ("trust", "initial", 1.1),
        ("trust", "threshold", -0.5),
        ("budget", "initial", -5.0),
        ("budget", "income", -1.0),
        ("patience", "leave_full", 0.0),
        ("patience", "leave_empty", 1.0),
        ("comeback", "hazard_satisfied", 1.0),
        ("comeback", "max_days", 0),
        ("comeback", "turns_per_day", 0.0),
    ],
)
def test_settings_outside_their_range_are_named(section, key, value):
    part = dataclasses.replace(getattr(DynamicsSettings(), section), **{key: value})
    settings = dataclasses.replace(DynamicsSettings(), **{section: part})
    with pytest.raises(ConfigError, match=key):
        Dynamics(settings, catalogue())


def test_the_configuration_switches_transitions():
    asked = from_tree(DynamicsSettings, {"trust": {"enabled": True, "loss": 0.5}}, "a test")
    assert [t.name for t in Dynamics(asked, catalogue()).transitions] == ["trust"]
    assert Dynamics(DynamicsSettings(), catalogue()).transitions == ()
    assert len(Dynamics(ALL_ON, catalogue()).transitions) == 7
    with pytest.raises(ConfigError, match=r"trust\.gain"):
        from_tree(DynamicsSettings, {"trust": {"gains": 1}}, "a test")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"category_N": []}, ["empty"]),
        ({"category_N": [0, -1]}, ["Item 1", "category -1"]),
        ({"category_N": [0, 3], "categories": 3}, ["Item 1", "0..2"]),
        ({"category_N": [0, 1], "quality_N": [0.5, 1.5]}, ["Item 1", "quality", "0..1"]),
        ({"category_N": [0, 1], "price_N": [-1, 1]}, ["Item 0", "price"]),
        ({"category_N": [0, 1], "price_N": [1]}, ["2 items", "1 values"]),
        ({"category_N": [0, 1], "vector_ND": [[0, 1], [np.nan, 1]]}, ["Item 1", "vector", "nan"]),
    ],
)
def test_catalogues(table, words):
    with pytest.raises(DataError) as caught:
        ItemTable.of(table.pop("category_N"), **table)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("starts", "words"),
    [
        ({}, ["drift", "interest_BD"]),
        ({"interest_BD": np.zeros((2, 4))}, ["(2, 4)", "3 users"]),
        ({"interest_BD": [[0.0], [np.inf], [0.0]]}, ["user 1", "finite"]),
        ({"interest_BD": np.zeros((3, 4)), "trust_B": [0.5, 0.5, 2.0]}, ["User 2", "trust"]),
        ({"interest_BD": np.zeros((3, 4)), "budget_B": [1.0, -1.0, 2.0]}, ["User 1", "budget"]),
        ({"interest_BD": np.zeros((3, 4)), "patience_B": [1.0]}, ["patience", "3 users"]),
    ],
)
def test_starts(starts, words):
    with pytest.raises(DataError) as caught:
        fresh_users(3, ALL_ON, categories=5, **starts)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_slates_that_do_not_fit():
    dynamics, users = world(ALL_ON, 8)
    item, click, conversion, luck = feedback(8, np.random.default_rng(0))
    before = users.take(np.arange(8))
    with pytest.raises(DataError, match="clicks"):
        dynamics.step(users, item, click[:, 1:], conversion, luck)
    with pytest.raises(DataError, match="conversions"):
        dynamics.step(users, item, click, conversion[1:], luck)
    with pytest.raises(DataError, match="uniforms"):
        dynamics.step(users, item, click, conversion, luck[:, :1])
    item[3, PLACES - 1] = 4000
    with pytest.raises(DataError, match="4000"):
        dynamics.step(users, item, click, conversion, luck)
    with pytest.raises(DataError, match="4000"):
        dynamics.modulate(users, item, click * 0.5, click * 0.5)
    for name, array in users.arrays().items():
        np.testing.assert_array_equal(array, before.arrays()[name], err_msg=name)
