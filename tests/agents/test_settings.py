"""Settings refuse, by name, what cannot work."""

from __future__ import annotations

import pytest

from llmrec.agents import DQNSettings, PolicyGradientSettings, RLSettings, TabularSettings
from llmrec.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (RLSettings, {"transitions": 0}, "agents.transitions.* is 0"),
        (RLSettings, {"gamma": 1.5}, "agents.gamma.* 0..1"),
        (RLSettings, {"gamma": float("nan")}, "agents.gamma"),
        (RLSettings, {"seconds": 0.0}, "agents.seconds"),
        (TabularSettings, {"algorithm": "expected-sarsa"}, "choose q-learning or sarsa"),
        (TabularSettings, {"clusters": 0}, "agents.clusters"),
        (TabularSettings, {"item_clusters": 0}, "agents.item_clusters"),
        (TabularSettings, {"learning_rate": 0.0}, "agents.learning_rate"),
        (TabularSettings, {"epsilon": -0.1}, "agents.epsilon"),
        (DQNSettings, {"buffer": 64}, "agents.buffer.*less than a batch"),
        (DQNSettings, {"hidden": ()}, "agents.hidden"),
        (PolicyGradientSettings, {"entropy": -1.0}, "agents.entropy"),
        (PolicyGradientSettings, {"gae_lambda": 2.0}, "agents.gae_lambda"),
    ],
)
def test_what_cannot_work_is_refused(kind, values, words):
    with pytest.raises(ConfigError, match=words):
        kind(**values)


def test_exploration_falls_in_a_line():
    settings = DQNSettings(epsilon=1.0, epsilon_end=0.2, exploration=0.5)
    assert [settings.epsilon_at(share) for share in (0.0, 0.25, 0.5, 0.9)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert TabularSettings(exploration=0.0, epsilon_end=0.3).epsilon_at(0.0) == 0.3
    assert DQNSettings(**settings.tree()) == settings
