"""How much of what can be found a run found, in words."""

import numpy as np

from llmrec.pipeline.headroom import headroom
from llmrec.pipeline.recipes import demo_config

USERS = [f"u{n}" for n in range(200)]


def constant(**values):
    names = {"best": "informed optimum"}
    return {names.get(name, name): np.full(len(USERS), value) for name, value in values.items()}


def test_the_share_of_what_is_left_to_gain():
    said = headroom(constant(popularity=0.25, SFT=0.3, PPO=0.45, best=0.5), "PPO", users=USERS)
    assert said == (
        "True value of a place: SFT 0.3000, 1.20 times popularity; PPO 0.4500. Whoever knows the world, and of a person "
        "what the state tells, reaches 0.5000 (informed optimum): PPO closes 75% (95% interval 75% to 75%) of what SFT "
        "leaves to gain."
    )


def test_the_interval_is_over_users():
    values = constant(popularity=0.25, SFT=0.3, PPO=0.3, best=0.5)
    values["PPO"] = values["PPO"] + np.where(np.arange(len(USERS)) % 2, 0.2, 0.0)
    said = headroom(values, "PPO", users=USERS, seed=3)
    assert "PPO closes 50% (95% interval 4" in said
    assert said == headroom(values, "PPO", users=USERS, seed=3)
    # one person, however many rows: nothing is known of others
    assert "(95% interval 50% to 50%)" in headroom(values, "PPO", users=["u"] * len(USERS))


def test_losses_and_worlds_without_anything_to_gain():
    assert "PPO closes -50%" in headroom(constant(SFT=0.3, PPO=0.2, best=0.5), "PPO", users=USERS)
    assert headroom(constant(SFT=0.5, PPO=0.4, best=0.5), "PPO", users=USERS).endswith("leaves SFT nothing to gain.")


def test_data_without_a_truth_say_nothing():
    assert headroom({}, "PPO", users=USERS) == ""
    assert headroom(constant(SFT=0.3, PPO=0.2), "PPO", users=USERS) == ""


def test_a_named_model_has_a_budget_of_its_own():
    plain, named = demo_config(3), demo_config(3, {"ppo.steps": 5}, "some/model")
    assert (plain.model.name, named.model.name, named.seed) == ("nano", "some/model", 3)
    assert named.sft.examples < plain.sft.examples
    assert named.improvement.steps == 5  # what is asked for on the command line wins
    for same in ("data", "world", "reward", "simulator"):
        assert getattr(named, same) == getattr(plain, same)
    assert (named.sft.weighting, named.sft.mixture) == (plain.sft.weighting, plain.sft.mixture)
