"""What cannot be used is refused with one clear sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmrec.config import DriftSettings, DynamicsSettings, EnvironmentSettings
from llmrec.dataset.world.truth import WorldParameters, draw_truth
from llmrec.errors import ConfigError, DataError, LLMRecError, RequestError
from llmrec.simulator.environments import RecEnv, VectorRecEnv, WorldUsers, domain_users


class Custom(WorldUsers):
    """Users whose model answers something else."""

    def __init__(self, click: float = 0.1, buy: float = 0.1, drop: int = 0) -> None:
        super().__init__(draw_truth(20, 15, WorldParameters(), 0))
        self.click, self.buy, self.drop = click, buy, drop

    def respond(self, hidden: Any, user_B: Any, items_BK: Any, time_B: Any) -> Any:
        shape = (len(items_BK), items_BK.shape[1] - self.drop)
        click, buy = np.full(shape, 0.5), np.full(shape, 0.5)
        click[3, 1], buy[2, 0] = self.click, self.buy
        return click, buy


def _env(people: WorldUsers, **options: Any) -> VectorRecEnv:
    env = VectorRecEnv(people, 6, EnvironmentSettings(slate_size=3), **options)
    env.reset(seed=0)
    return env


@pytest.mark.parametrize(
    ("slates", "told"),
    [
        (np.full((6, 3), 80), r"slate of user 0 has item index 80 at place 0; give one of 0\.\.79"),
        (np.full((6, 3), -2), "item index -2"),
        (np.zeros((6, 2), int), r"shape \(6, 2\)"),
        (np.zeros((6, 3)), "whole numbers"),
        (np.full((6, 3), np.nan), "whole numbers"),
    ],
)
def test_slates(people: WorldUsers, slates: np.ndarray, told: str) -> None:
    with pytest.raises(RequestError, match=told):
        _env(people).step(slates)


def test_repeated_items_and_empty_places_are_allowed(people: WorldUsers) -> None:
    slates = np.array([[1, 1, 2], [-1, -1, -1], [4, 5, 4], [0, 1, 2], [7, 7, 7], [3, -1, 3]])
    observations, reward, _, _, info = _env(people).step(slates)
    expected = [[1, -1, 2], [-1, -1, -1], [4, 5, -1], [0, 1, 2], [7, -1, -1], [3, -1, -1]]
    assert info["shown"].tolist() == observations["slate"].tolist() == expected
    assert not observations["clicks"][np.array(expected) < 0].any()
    assert reward[1] == 0


@pytest.mark.parametrize(
    ("people", "told"),
    [
        (Custom(click=1.2), r"P\(click\) = 1\.2 for row 3, place 1; probabilities are finite numbers in 0\.\.1"),
        (Custom(click=float("nan")), r"P\(click\) = nan"),
        (Custom(buy=-0.1), r"P\(conversion \| click\) = -0\.1 for row 2, place 0"),
        (Custom(drop=1), r"shape \(6, 2\) for slates of shape \(6, 3\)"),
    ],
)
def test_probabilities_of_a_custom_model(people: WorldUsers, told: str) -> None:
    with pytest.raises(DataError, match=told):
        _env(people).step(np.tile(np.arange(3), (6, 1)))


def test_features_that_are_not_finite() -> None:
    people = Custom()
    people.feature_NF[4, 2] = np.nan
    with pytest.raises(DataError, match="Row 4 of the item features holds a number that is not finite"):
        VectorRecEnv(people, 2)
    people = Custom()
    people.profile_UP[1] = np.inf
    with pytest.raises(DataError, match="Row 1 of the profile features"):
        VectorRecEnv(people, 2)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (EnvironmentSettings(slate_size=0), "environment.slate_size"),
        (EnvironmentSettings(slate_size=16), "the catalogue has 15 items"),
        (EnvironmentSettings(turns=0), "environment.turns"),
        (EnvironmentSettings(decay=1.5), "environment.decay"),
        (EnvironmentSettings(threads=0), "environment.threads"),
    ],
)
def test_settings(settings: EnvironmentSettings, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        VectorRecEnv(Custom(), 2, settings)


def test_domains_and_scenarios() -> None:
    with pytest.raises(ConfigError, match="There is no domain 'books'; choose one of shop, film"):
        domain_users("books")
    with pytest.raises(ConfigError, match="There is no scenario 'flood'; choose one of none, cold-start"):
        domain_users("shop", scenario="flood")
    with pytest.raises(ConfigError, match="no world 'shop' in language 'fr'"):
        domain_users("shop", language="fr")


def test_order_of_calls(people: WorldUsers) -> None:
    with pytest.raises(RequestError, match="call reset before step"):
        VectorRecEnv(people, 2).step(np.zeros((2, 10), int))
    one = RecEnv(people, EnvironmentSettings(slate_size=2, turns=1))
    one.reset(seed=0)
    one.step([0, 1])
    with pytest.raises(RequestError, match="has ended; call reset"):
        one.step([0, 1])
    with pytest.raises(RequestError, match=r"rows 0\.\.59"):
        one.reset(options={"user": 60})
    with pytest.raises(RequestError, match="reset_mask"):
        _env(people).reset(options={"reset_mask": [1, 0]})
    with pytest.raises(ConfigError, match="autoreset mode 'SameStep'"):
        _env(people, autoreset_mode="SameStep")


def test_users_without_known_interests_do_not_drift() -> None:
    class Blank(Custom):
        def home_BD(self, user_B: Any) -> None:
            return None

    with pytest.raises(ConfigError, match="drift is on, but these users have no known interests"):
        _env(Blank(), dynamics=DynamicsSettings(drift=DriftSettings(enabled=True)))
    assert issubclass(ConfigError, LLMRecError)
