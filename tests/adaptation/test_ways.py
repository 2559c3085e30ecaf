"""The three ways behind one call: what each leaves, and that a library finds the adapter that knows the shop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from llmrec.adaptation.inner import InnerSettings, fresh_adapter
from llmrec.adaptation.ways import FewSteps, InContext, Library, adapter_in, library_of, mixture_weights, with_adapter
from llmrec.config import LoraSettings
from llmrec.errors import ConfigError, RunError
from llmrec.training.lora import Adapter, weigh_adapters
from llmrec.types import State
from tests.adaptation.conftest import place_of, slates

LORA = LoraSettings(rank=4, alpha=8)
INNER = InnerSettings(steps=8, batch_size=16, learning_rate=2e-2, lora=LORA)
EVERY = torch.arange(12).expand(4, -1)
ASKED = [State("x", f"likes {colour}") for colour in ("red", "green", "blue", "grey")]


def noise(shop, seed, rank=4):
    made = fresh_adapter(shop.model(seed=5), LoraSettings(rank=rank, alpha=8), seed)
    torch.manual_seed(seed)
    return Adapter(made.config, {name: t + 0.1 * torch.randn_like(t) for name, t in made.tensors.items()})


def log_pi(policy):
    with torch.no_grad():
        return policy.log_prob(ASKED, EVERY)


@pytest.fixture
def policy(shop, place):
    return place.policy(shop.model(seed=5), shop.tokenizer)


def test_in_context_is_the_policy_itself(policy, place):
    assert InContext().adapt(policy, place.sessions) is policy
    assert adapter_in(policy) is None


def test_few_steps_raise_what_was_bought_and_leave_the_policy_as_it_was(policy, place, tmp_path):
    before = log_pi(policy)
    adapted = FewSteps(place, INNER, tmp_path).adapt(policy, place.sessions)
    assert torch.equal(log_pi(policy), before)
    bought = torch.tensor([0, 3, 6, 9])
    gain = (log_pi(adapted) - before)[torch.arange(4), bought]
    assert float(gain.mean()) > 0.1  # nats, in eight steps of a model that knows nothing
    assert float(gain.min()) > 0
    again = with_adapter(policy, adapter_in(adapted))
    assert torch.allclose(log_pi(again), log_pi(adapted), atol=1e-6)
    with pytest.raises(RunError, match="has an adapter already"):
        FewSteps(place, INNER, tmp_path).adapt(adapted, place.sessions)
    with pytest.raises(RunError, match="another model"):
        FewSteps(place, INNER, tmp_path, start=noise_of_other(adapter_in(adapted))).adapt(policy, place.sessions)


def noise_of_other(adapter):
    return Adapter(adapter.config, {name: tensor[:, :3] for name, tensor in adapter.tensors.items()})


def test_weighed_adapters_are_the_weighted_sum_of_what_they_do(shop, policy):
    one, two = noise(shop, 1), noise(shop, 2, rank=3)
    both = weigh_adapters([one, two], [0.3, 0.9])
    assert both.config.r == both.config.lora_alpha == 7
    for name in (name for name in one.tensors if "lora_A" in name):
        other = name.replace("lora_A", "lora_B")
        wanted = sum(
            w * a.config.lora_alpha / a.config.r * a.tensors[other] @ a.tensors[name]
            for w, a in ((0.3, one), (0.9, two))
        )
        assert torch.allclose(both.tensors[other] @ both.tensors[name], wanted, atol=1e-5)
    assert torch.allclose(
        log_pi(with_adapter(policy, weigh_adapters([one, two], [1.0, 0.0]))),
        log_pi(with_adapter(policy, one)),
        atol=1e-5,
    )
    with pytest.raises(RunError, match="give one weight for each"):
        weigh_adapters([one], [1.0, 2.0])


def test_the_weights_of_a_mixture_are_the_likeliest():
    random = np.random.default_rng(0)
    log_PB = np.log(random.dirichlet(np.ones(3), size=200).T)
    weight_B = random.integers(1, 4, size=200).astype(float)
    found = mixture_weights(log_PB, weight_B, prior=0.0)
    grid = [(a, b, 1 - a - b) for a in np.linspace(0, 1, 101) for b in np.linspace(0, 1 - a, 101)]
    likely = lambda share: (weight_B * np.log(np.maximum(share, 1e-12) @ np.exp(log_PB))).sum()  # noqa: E731
    assert likely(found) >= max(map(likely, map(np.array, grid))) - 1e-6
    assert mixture_weights(np.array([[0.0], [-60.0]]), np.ones(1), prior=1.0) == pytest.approx([0.75, 0.25], abs=1e-6)


@pytest.mark.slow
def test_a_library_finds_the_adapter_of_the_same_kind_of_shop(shop, policy, tmp_path):
    """Two shops with one catalogue, where other things are bought; new people of the second."""
    places = [place_of(shop, slates(1, users=40), "lamps"), place_of(shop, slates(2, users=40, best=1), "chairs")]
    settings = replace(INNER, steps=25, batch_size=8, learning_rate=5e-3)
    adapters = library_of(places, policy, settings, seed=3, scratch=tmp_path)
    new = slates(9, users=16, best=1)
    nearest = Library(adapters, places[1])
    adapted = nearest.adapt(policy, new)
    assert nearest.chosen == {"lamps": 0.0, "chairs": 1.0}
    assert torch.allclose(log_pi(adapted), log_pi(with_adapter(policy, adapters["chairs"])))
    mixture = Library(adapters, places[1], "mixture")
    mixed = mixture.adapt(policy, new)
    assert mixture.chosen["chairs"] > mixture.chosen["lamps"]
    assert sum(mixture.chosen.values()) == pytest.approx(1.0)
    shares = [mixture.chosen[name] for name in ("lamps", "chairs")]
    wanted = with_adapter(policy, weigh_adapters(list(adapters.values()), shares))
    assert torch.allclose(log_pi(mixed), log_pi(wanted), atol=1e-5)
    with pytest.raises(ConfigError, match="one adapter or more"):
        Library({}, places[0]).adapt(policy, new)
