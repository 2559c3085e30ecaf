"""Targets and heads against numbers by hand; legality; saving; randomness that stays inside."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
import torch

from llmrec.agents import DQNSettings, PolicyGradientSettings, load_agent
from llmrec.errors import DataError, RequestError, RunError
from llmrec.types import State
from tests.agents.worlds import USERS, share_of_optimum, trivial

pytest.importorskip("stable_baselines3")

from llmrec.agents.deep import ItemDQN, _model, td_target, train_deep
from llmrec.agents.networks import NEVER, ItemHead, ItemValues, as_observation, without_seen
from llmrec.agents.stepping import MeetingEnv

FEW = {"transitions": 600, "hidden": (16,)}
DQN = DQNSettings(**FEW, learning_starts=100, buffer=500, batch_size=32)
A2C = PolicyGradientSettings(**FEW)


def test_targets_by_hand():
    """Online network: item 1 is best, which the target network thinks worth 2; its own best is 5."""
    ahead, online = torch.tensor([[5.0, 2.0, 1.0]]), torch.tensor([[0.0, 3.0, 1.0]])
    reward, goes_on, over = torch.tensor([0.5]), torch.tensor([0.0]), torch.tensor([1.0])
    assert td_target(reward, goes_on, 0.9, ahead, ahead).item() == pytest.approx(0.5 + 0.9 * 5)
    assert td_target(reward, goes_on, 0.9, ahead, online).item() == pytest.approx(0.5 + 0.9 * 2)
    assert td_target(reward, over, 0.9, ahead, online).item() == 0.5


@pytest.mark.parametrize("double", [False, True])
def test_an_update_moves_by_the_gradient_of_the_huber_loss_to_the_target(shop, double):
    """One step of gradient descent on one stored transition, against the gradient by hand."""
    meeting, _, item_NE = trivial(shop, users=4)
    settings = DQNSettings(double=double, hidden=(8,), batch_size=4, buffer=4, users=4, gamma=0.9)
    model = _model(MeetingEnv(meeting, 0), item_NE, settings, 0, 0)
    model.policy.optimizer = torch.optim.SGD(model.q_net.parameters(), lr=0.1)
    model.max_grad_norm = 1e9
    model._setup_learn(4)
    model._update_learning_rate = lambda optimizer: None
    with torch.no_grad():  # a target network that disagrees with the online one
        for weight in model.q_net_target.parameters():
            weight += 0.3 * torch.randn_like(weight)
    before, item_B = model._last_obs, np.array([1, 4, 7, 10])
    after = {name: array.copy() for name, array in before.items()}
    after["feature"] = after["feature"][::-1].copy()
    reward_B, over_B = np.array([1.0, 0.2, 0.0, 3.0], np.float32), np.array([False, True, False, False])
    model.replay_buffer.add(before, after, item_B, reward_B, over_B, [{}] * 4)
    bias = model.q_net.q_net.head.bias_N
    with torch.no_grad():
        tensors = [{name: torch.as_tensor(array) for name, array in obs.items()} for obs in (before, after)]
        value_B = model.q_net(tensors[0]).gather(1, torch.as_tensor(item_B)[:, None])[:, 0].numpy()
        ahead, online = model.q_net_target(tensors[1]).numpy(), model.q_net(tensors[1]).numpy()
    best_B = (online if double else ahead).argmax(1)
    target_B = reward_B + 0.9 * (1 - over_B) * ahead[np.arange(4), best_B]
    old = bias.detach().numpy().copy()
    # the buffer draws rows of its one place at random: take each of the four once
    model.replay_buffer.sample = lambda size, real=model.replay_buffer: _all_of(real)
    model.train(1, 4)
    expected = old.copy()
    expected[item_B] -= 0.1 * np.clip(value_B - target_B, -1, 1) / 4
    np.testing.assert_allclose(bias.detach().numpy(), expected, atol=1e-6)


def _all_of(buffer):
    from stable_baselines3.common.buffers import DictReplayBufferSamples as Samples

    def tensors(arrays):
        return {name: torch.as_tensor(array[0]) for name, array in arrays.items()}

    return Samples(
        tensors(buffer.observations),
        torch.as_tensor(buffer.actions[0]),
        tensors(buffer.next_observations),
        torch.as_tensor(buffer.dones[0])[:, None],
        torch.as_tensor(buffer.rewards[0])[:, None],
    )


def test_a_head_is_an_inner_product():
    item_NE = np.arange(6, dtype=np.float32).reshape(3, 2)
    head = ItemHead(4, item_NE, tuned=False)
    latent = torch.randn(5, 4)
    with torch.no_grad():
        head.bias_N += torch.tensor([1.0, 2.0, 3.0])
        expected = latent.numpy() @ head.project.weight.numpy().T @ item_NE.T + [1, 2, 3]
    np.testing.assert_allclose(head(latent).detach().numpy(), expected, rtol=1e-5, atol=1e-5)
    assert len(list(ItemHead(4, item_NE, tuned=True).parameters())) == 1 + len(list(head.parameters()))


def test_advantages_of_a_duel_have_mean_zero():
    """Q determines V and A: the mean of Q over items is V, whatever the head says."""
    net = ItemValues(6, (8,), np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32), True, dueling=True)
    feature = torch.randn(4, 6)
    with torch.no_grad():
        level = net.level(net.trunk(feature))[:, 0]
        before = net(feature)
        np.testing.assert_allclose(before.mean(dim=1), level, atol=1e-6)
        net.head.bias_N += 5.0  # the same for all items: no advantage
        np.testing.assert_allclose(net(feature), before, atol=1e-5)


def test_seen_items_are_worth_nothing_to_any_maximum():
    value = torch.zeros(2, 4)
    hidden = without_seen(value, torch.tensor([[1.0, 3.0], [-1.0, -1.0]]))
    assert hidden.tolist() == [[0, NEVER, 0, NEVER], [0, 0, 0, 0]]
    assert as_observation(np.zeros((1, 2), np.float32), np.array([[4]]), 3)["seen"].tolist() == [[4, -1, -1]]


@pytest.mark.parametrize("settings", [DQN, A2C], ids=["dqn", "a2c"])
def test_seen_items_are_neither_tried_nor_recommended(shop, settings, tmp_path, monkeypatch):
    """The meeting refuses a seen item, so a training that ends never showed one; and it leaves no folder behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = [np.array([3 * (n % 4), (5 * n) % 12]) for n in range(24)]
    meeting, features, item_NE = trivial(shop, seen=seen)
    agent = train_deep(meeting, features, item_NE, settings, repeat="exclude")
    assert not list(tmp_path.glob("SB3-*"))
    for slate, items in zip(agent.recommend(USERS, 12, seen=seen), seen, strict=True):
        assert set(slate.items_K) == set(range(12)) - set(items.tolist())
    whole, _, _ = trivial(shop, seen=[np.arange(12)] * 24)
    if settings is DQN:
        with pytest.raises(RequestError, match="whole catalogue"):
            train_deep(whole, features, item_NE, settings)


def test_the_actor_draws_in_proportion_to_what_is_legal(shop):
    meeting, _, item_NE = trivial(shop, seen=[np.array([0, 7])] * 24)
    model = _model(MeetingEnv(meeting, 0), item_NE, A2C, 0, 0)
    observed = meeting.begin(0)
    numbers = as_observation(observed.feature_BD, observed.seen_BS, 2)
    obs = {name: torch.as_tensor(array) for name, array in numbers.items()}
    with torch.no_grad():
        _, log_prob, entropy = model.policy.evaluate_actions(obs, torch.full((24,), 3))
        chances = model.policy.item_values(obs).exp().numpy()
    assert (chances[:, [0, 7]] == 0).all()
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(log_prob.exp(), chances[:, 3], rtol=1e-5)
    legal = chances[:, chances[0] > 0]
    np.testing.assert_allclose(entropy, -(legal * np.log(legal)).sum(axis=1), rtol=1e-4)


@pytest.mark.parametrize("settings", [DQN, A2C], ids=["dqn", "a2c"])
def test_seeds_decide_everything_and_leave_the_rest_alone(shop, settings, tmp_path):
    meeting, features, item_NE = trivial(shop)
    np.random.seed(5)
    torch.manual_seed(5)
    first = train_deep(meeting, features, item_NE, settings, seed=2)
    drawn = np.random.rand(), torch.rand(1).item()
    np.random.seed(5)
    torch.manual_seed(5)
    assert (np.random.rand(), torch.rand(1).item()) == drawn
    again = train_deep(meeting, features, item_NE, settings, seed=2)
    other = train_deep(meeting, features, item_NE, settings, seed=3)
    np.testing.assert_array_equal(first.score(USERS), again.score(USERS))
    assert not np.array_equal(first.score(USERS), other.score(USERS))
    first.save(tmp_path / "agent")
    kept = load_agent(tmp_path / "agent", shop.items)
    states = [*USERS, State("new", "likes blue")]
    assert kept.recommend(states, 5) == first.recommend(states, 5)
    (tmp_path / "agent" / "policy.zip").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"policy\.zip cannot be read"):
        load_agent(tmp_path / "agent", shop.items)


def test_a_duel_learns_quickly(shop):
    meeting, features, item_NE = trivial(shop)
    settings = DQNSettings(
        double=True, dueling=True, transitions=6000, hidden=(64,), learning_starts=500, buffer=3000, batch_size=64
    )
    agent = train_deep(meeting, features, item_NE, settings)
    assert share_of_optimum(agent) >= 0.9
    assert agent.trained.transitions == 6000


def test_the_clock_ends_a_training_and_bad_vectors_are_refused(shop):
    meeting, features, item_NE = trivial(shop)
    settings = PolicyGradientSettings(transitions=10**9, hidden=(8,), seconds=0.2)
    agent = train_deep(meeting, features, item_NE, settings)
    assert agent.trained.out_of_time
    with pytest.raises(DataError, match="12 rows"):
        train_deep(meeting, features, item_NE[:5], A2C)
    assert issubclass(ItemDQN, object)
