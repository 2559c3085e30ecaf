"""Scenarios over a session: what they do to whoever maximises clicks, and to whoever learned before a shift."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.config import DynamicsSettings, EnvironmentSettings, PatienceSettings, TrustSettings
from llmrec.dataset.world.scenario import DAY, END, START
from llmrec.simulator.environments import VectorRecEnv, WorldUsers, domain_users
from llmrec.text.render import StateRenderer
from llmrec.types import State
from tests.text.conftest import CHATS, train_tokenizer

TRUSTING = DynamicsSettings(trust=TrustSettings(enabled=True), patience=PatienceSettings(enabled=True))


def _session(people: WorldUsers, score_UN: np.ndarray, turns: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Return and trust at the end of every user, shown in turn the best of `score_UN`."""
    users = len(score_UN)
    settings = EnvironmentSettings(slate_size=5, turns=turns)
    env = VectorRecEnv(people, users, settings, dynamics=TRUSTING, autoreset_mode="Disabled")
    env.reset(seed=1, options={"users": np.arange(users)})
    order = np.argsort(-score_UN, axis=1)
    total = np.zeros(users)
    for turn in range(turns):
        total += env.step(order[:, 5 * (turn % 4) : 5 * (turn % 4) + 5])[1]
    assert env.engine.people is not None
    return total, env.engine.people.trust_B


def test_clickbait_costs_trust_and_reward() -> None:
    people = domain_users("shop", users=400, items=200, scenario="clickbait", world_seed=6)
    world = people.world
    assert world is not None
    ids = world.dataset.users["user_id"].to_list()
    greedy, greedy_trust = _session(people, world.expected_click_BN(ids))
    wise, wise_trust = _session(people, world.value_BN(ids))
    kind, kind_trust = _session(people, world.value_BN(ids) * ~world.scenario.item_N)
    assert greedy_trust.mean() < 0.35  # all began with 0.5
    assert greedy_trust.mean() + 0.1 < kind_trust.mean()
    assert greedy_trust.mean() < wise_trust.mean()
    assert greedy.mean() < 0.9 * wise.mean()
    assert kind.mean() > greedy.mean()


@pytest.mark.parametrize(("scenario", "moves"), [("shift", True), ("seasonality", True), ("none", False)])
def test_demand_moves_in_time(scenario: str, moves: bool) -> None:
    """The population answers by the moment: equal to the world's own truth, before and after."""
    people = domain_users("shop", users=40, items=50, scenario=scenario)
    world = people.world
    assert world is not None
    users, items = np.arange(40), np.tile(np.arange(50), (40, 1))
    ids = world.dataset.users["user_id"].to_list()
    hidden = people.begin(users)
    answers = []
    for time in (START + 10 * DAY, END):
        click, buy = people.respond(hidden, users, items, np.full(40, time))
        np.testing.assert_allclose(click, world.expected_click_BN(ids, time), atol=1e-6)
        np.testing.assert_allclose(buy, world.expected_conversion_BN(ids), atol=1e-6)
        answers.append(click)
    assert (np.abs(answers[0] - answers[1]).max() > 0.05) == moves


@pytest.mark.parametrize("language", ["en", "zh"])
def test_hostile_titles_are_harmless_in_a_rendered_session(language: str) -> None:
    people = domain_users("film", users=20, items=40, scenario="adversarial-text", language=language)
    assert people.world is not None
    hostile = np.flatnonzero(people.world.scenario.item_N)[:5]
    env = VectorRecEnv(people, 10, EnvironmentSettings(slate_size=5))
    env.reset(seed=0)
    _, _, _, _, info = env.step(np.tile(hostile, (10, 1)))
    text, special, added = CHATS["chatml"]
    tokenizer = train_tokenizer([*special, "[INST]", "[/INST]", "</s>", "<s>"], added, chat=text)
    items = people.world.dataset.item_list
    renderer = StateRenderer(items, tokenizer, domain="film", language=language, max_tokens=4000)
    control = [tokenizer.convert_tokens_to_ids(t) for t in (*special, "[INST]", "</s>", "<|endoftext|>")]
    bare = renderer.token_ids(State())
    for state in info["states"]:
        assert len(state.session) == 5
        ids, prompt = renderer.token_ids(state), renderer.prompt(state)
        for token in control:  # not one more than the frame of the prompt has
            assert ids.count(token) == bare.count(token)
        for item in hostile:
            assert items[int(item)].title not in prompt
        assert "\u200b" not in prompt
        assert "\u2028" not in prompt
    raw = tokenizer.encode("".join(items[int(item)].title for item in hostile))
    assert set(raw) & set(control)  # unrendered they would have been obeyed
