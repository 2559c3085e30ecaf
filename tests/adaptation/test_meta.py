"""Inner steps, Reptile and first-order MAML against the same written by hand, in value and weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch.nn import functional

from llmrec.adaptation.inner import InnerSettings, choice_rows, fresh_adapter, gradient_at, inner_steps
from llmrec.adaptation.meta import MetaSettings, meta_train
from llmrec.adaptation.tasks import Tasks
from llmrec.config import LoraSettings, OffPolicySettings
from llmrec.errors import ConfigError, DataError
from llmrec.seeding import stream_seed
from llmrec.training.lora import Adapter
from tests.adaptation.conftest import place_of, slates

LORA = LoraSettings(rank=4, alpha=8)
INNER = InnerSettings(steps=3, batch_size=5, learning_rate=2e-3, lora=LORA)
OFF = replace(INNER, learns="off_policy", off_policy=OffPolicySettings(slate=1, kl_coefficient=0.0, weight_cap=1e9))


@pytest.fixture(scope="module")
def theta(shop):
    """An adapter that is far from nothing."""
    made = fresh_adapter(shop.model(seed=5), LORA, 9)
    torch.manual_seed(1)
    return Adapter(made.config, {name: t + 0.1 * torch.randn_like(t) for name, t in made.tensors.items()})


def by_hand(shop, adapter):
    """The tiny model with PEFT's own layers and the adapter in them, and its trained parameters by name."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(shop.model(seed=5), config)
    set_peft_model_state_dict(model, adapter.tensors)
    return model, {n.replace(".default.", "."): p for n, p in model.named_parameters() if p.requires_grad}


def nll(model, rows):
    """Nats a token of the answers, row by row."""
    total, count = 0.0, 0
    for row in rows:
        logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, -row.answer - 1 : -1]
        total = total + functional.cross_entropy(logits, torch.tensor(row.input_ids[-row.answer :]), reduction="sum")
        count += row.answer
    return total / count


def steps_by_hand(shop, place, adapter, sessions, seed, settings=INNER):
    """Adam on the rows in their order, the rate falling to 0, the gradient's norm at most 1."""
    model, params = by_hand(shop, adapter)
    start = place.start(None, shop.tokenizer, seed)
    rows = choice_rows(place, start, sessions, settings)
    adam = torch.optim.AdamW(params.values(), lr=settings.learning_rate, weight_decay=0.0)
    for step in range(settings.steps):
        adam.param_groups[0]["lr"] = settings.learning_rate * (1 - step / settings.steps)
        adam.zero_grad()
        nll(model, rows[step * settings.batch_size : (step + 1) * settings.batch_size]).backward()
        torch.nn.utils.clip_grad_norm_(params.values(), 1.0)
        adam.step()
    return {name: p.detach() for name, p in params.items()}


def query_gradient_by_hand(shop, place, tensors, sessions, seed):
    model, params = by_hand(shop, Adapter(None, tensors))
    number = int((sessions.log.click_M > 0).sum())
    rows = choice_rows(
        place, place.start(None, shop.tokenizer, seed), sessions, replace(INNER, steps=1, batch_size=number)
    )
    assert len(rows) == number
    nll(model, rows).backward()
    return {name: p.grad for name, p in params.items()}


def close(found, wanted, atol):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.allclose(found[name], tensor, atol=atol), name


def test_inner_steps_are_those_of_a_plain_loop_and_leave_the_model_alone(shop, place, theta, tmp_path):
    model = shop.model(seed=5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = inner_steps(place, model, shop.tokenizer, theta, place.sessions, INNER, seed=7, scratch=tmp_path / "s")
    close(made.tensors, steps_by_hand(shop, place, theta, place.sessions, 7), 2e-6)
    assert any(float((made.tensors[n] - t).abs().max()) > 1e-3 for n, t in theta.tensors.items())
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.slow
def test_the_gradient_of_a_task_is_that_of_the_whole_batch(shop, place, theta, tmp_path):
    given = (place, shop.model(seed=5), shop.tokenizer, theta, place.sessions, INNER)
    found = gradient_at(*given, seed=7, scratch=tmp_path / "s")
    close(found, query_gradient_by_hand(shop, place, theta.tensors, place.sessions, 7), 1e-5)


def test_the_off_policy_gradient_is_that_of_the_importance_weighted_reward(shop, place, theta, tmp_path):
    """- d/d theta of the mean over impressions of pi / mu * reward, by autograd on pi itself; and it is not clipped."""
    sessions = replace(place.sessions, click=30.0, conversion=90.0)
    found = gradient_at(
        place, shop.model(seed=5), shop.tokenizer, theta, sessions, OFF, seed=7, scratch=tmp_path / "s"
    )
    model, params = by_hand(shop, theta)
    log = sessions.log
    items_BK = torch.from_numpy(log.item_M.reshape(len(sessions), -1))
    pi_BK = place.policy(model, shop.tokenizer).log_prob(log.states, items_BK).exp()
    mu, reward = (
        torch.from_numpy(np.asarray(x, dtype=np.float32)).view(pi_BK.shape)
        for x in (log.propensity_M, sessions.reward_M)
    )
    # propensities are of a place given those above: the item may as well come at a place below (Des Raj 1956)
    below = torch.arange(pi_BK.shape[1] - 1, -1, -1)
    (-((pi_BK / mu + below * pi_BK) * reward).mean()).backward()
    close(found, {name: p.grad for name, p in params.items()}, 2e-4)
    norm = torch.stack([g.square().sum() for g in found.values()]).sum().sqrt()
    assert float(norm) > 1.0, "the bound of trainers would have shown"


@pytest.mark.parametrize("method", ["reptile", "fomaml", pytest.param("joint", marks=pytest.mark.slow)])
def test_two_outer_steps_are_those_written_by_hand(shop, theta, tmp_path, method):
    places = [place_of(shop, slates(1), "one"), place_of(shop, slates(2, best=1), "two")]
    tasks = Tasks(places, support=4, query=6, seed=3)
    settings = MetaSettings(method=method, steps=2, tasks=2, rate=0.4, inner=INNER)
    found = meta_train(
        shop.model(seed=5), shop.tokenizer, tasks, settings, seed=11, scratch=tmp_path, start=theta
    ).adapter
    now = dict(theta.tensors)
    for step in range(2):
        ways = []
        for n, task in enumerate(tasks.draw(step, 2)):
            seed = stream_seed(11, "adaptation", step, n) % 2**31
            here = Adapter(None, now)
            if method != "joint":
                adapted = steps_by_hand(shop, task.place, here, task.support, seed)
            if method == "reptile":
                ways.append({name: tensor - adapted[name] for name, tensor in now.items()})
            else:
                at = now if method == "joint" else adapted
                ways.append(query_gradient_by_hand(shop, task.place, at, task.query, seed))
        now = {name: tensor - 0.4 * (ways[0][name] + ways[1][name]) / 2 for name, tensor in now.items()}
    close(found.tensors, now, 1e-5)


@pytest.mark.slow
def test_adam_outside_is_adam(shop, theta, tmp_path):
    tasks = Tasks([place_of(shop, slates(1))], support=4, query=6, seed=3)
    settings = MetaSettings(method="joint", steps=2, tasks=1, rate=0.01, optimizer="adam", inner=INNER)
    given = (shop.model(seed=5), shop.tokenizer, tasks, settings)
    found = meta_train(*given, seed=11, scratch=tmp_path, start=theta).adapter
    params = {name: tensor.clone().requires_grad_() for name, tensor in theta.tensors.items()}
    adam = torch.optim.Adam(params.values(), lr=0.01)
    for step in range(2):
        (task,) = tasks.draw(step, 1)
        seed = stream_seed(11, "adaptation", step, 0) % 2**31
        gradient = query_gradient_by_hand(
            shop, task.place, {n: p.detach() for n, p in params.items()}, task.query, seed
        )
        for name, p in params.items():
            p.grad = gradient[name]
        adam.step()
    # a step of Adam is the rate where the gradient is 0 up to rounding, so a few weights may differ by as much
    far = sum(int(((found.tensors[n] - p).abs() > 1e-4).sum()) for n, p in params.items())
    assert far <= 0.01 * sum(p.numel() for p in params.values())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_killed_meta_training_ends_as_an_undisturbed_one(shop, theta, tmp_path, optimizer):
    tasks = Tasks([place_of(shop, slates(1))], support=4, query=6, seed=3)
    settings = MetaSettings(steps=3, tasks=1, rate=0.1, optimizer=optimizer, inner=INNER, save_every=1)

    def run(folder, **more):
        given = (shop.model(seed=5), shop.tokenizer, tasks, settings)
        return meta_train(*given, seed=2, scratch=folder, start=theta, **more)

    whole = run(tmp_path / "a")

    def kill(step, _):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", on_step=kill)
    steps = []
    again = run(tmp_path / "b", on_step=lambda step, _: steps.append(step))
    assert steps == [3]
    assert again.curve == whole.curve
    assert all(torch.equal(again.adapter.tensors[n], t) for n, t in whole.adapter.tensors.items())
    # what is kept there is of no other training
    fresh = run(tmp_path / "b")
    assert len(fresh.curve) == 3


def test_settings_that_cannot_be(shop, place, theta, tmp_path):
    tasks = Tasks([place], support=4, query=6)
    for settings, word in (
        (MetaSettings(method="maml"), "'method' is 'maml'"),
        (MetaSettings(rate=0.0), "'rate' is 0.0"),
        (MetaSettings(optimizer="lion"), "'optimizer' is 'lion'"),
        (MetaSettings(inner=replace(INNER, steps=0)), "'inner.steps' is 0"),
        (MetaSettings(inner=replace(INNER, learns="guessing")), "'inner.learns' is 'guessing'"),
        (MetaSettings(inner=replace(INNER, pull=-1.0)), "'inner.pull' is -1.0"),
        (MetaSettings(inner=replace(OFF, off_policy=OffPolicySettings(estimator="doubly-robust"))), "top-k"),
    ):
        with pytest.raises(ConfigError, match=word):
            meta_train(shop.model(), shop.tokenizer, tasks, settings, seed=0, scratch=tmp_path)
    with pytest.raises(DataError, match="has 12 users"):
        Tasks([place], support=12).draw(0, 1)
    with pytest.raises(DataError, match="needs a place"):
        Tasks([]).draw(0, 1)
