"""Choices against the whole catalogue: the loss by a plain twin, sampled ones in expectation, and a better ranking."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmrec.config import SimulatorSettings
from llmrec.errors import ConfigError
from llmrec.simulator import fitting
from llmrec.simulator.behaviour import fit_behaviour
from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.fitting import Batch, Catalogue
from llmrec.simulator.learning import check_objective
from llmrec.simulator.log import Log, Subset
from llmrec.simulator.networks import encoded, fresh_net
from llmrec.simulator.objectives import Labels, Objective
from llmrec.types import Interaction, Item, State

ITEMS = [Item(f"i{n}", f"thing {n}", price=float(n)) for n in range(30)]
STATES = [State(f"u{n}", history=(Interaction(n, "click", n),), time=n + 1) for n in range(4)]


def made(name):
    space = FeatureSpace.fit(ITEMS, STATES, np.arange(30.0), seed=0)
    net = fresh_net(name, space, 0)
    with torch.no_grad():
        for weight in net.parameters():  # fresh ones are near zero and rank nothing
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return net, encoded(net, space, STATES)


ROWS, CHOSEN = torch.tensor([0, 0, 1, 3]), torch.tensor([4, 9, 4, 29])
LABELS = Labels(torch.ones(4), torch.tensor([1.0, 0, 0, 1]))


def plain(net, users):
    """-log softmax over all items and the cross-entropy of the conversion, choice by choice."""
    found = []
    vectors = net.users(users)
    for row, item, converted in zip(ROWS.tolist(), CHOSEN.tolist(), LABELS.conversion_M.tolist(), strict=True):
        logits = net.pairs(vectors, torch.full((30,), row), torch.arange(30))
        conversion = torch.sigmoid(logits[item, 1])
        found.append(
            -torch.log(torch.softmax(logits[:, 0], dim=0)[item])
            - torch.log(conversion if converted else 1 - conversion)
        )
    return torch.stack(found)


@pytest.mark.parametrize("name", ["factorised", "transformer", "gru"])
def test_networks_of_inner_products_see_every_item(name) -> None:
    net, users = made(name)
    found = Catalogue(30).losses(net, Batch(users, ROWS, CHOSEN, LABELS), Objective(), np.random.default_rng(0))
    twin = plain(net, users)
    assert found.tolist() == pytest.approx(twin.tolist(), rel=1e-4)
    one, two = (torch.autograd.grad(loss.sum(), list(net.parameters()), allow_unused=True) for loss in (found, twin))
    for mine, theirs in zip(one, two, strict=True):
        if theirs is not None:
            assert mine.numpy() == pytest.approx(theirs.numpy(), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["crossed", "logistic"])
def test_networks_of_pairs_see_a_sample_that_stands_for_all(name, monkeypatch) -> None:
    net, users = made(name)
    monkeypatch.setattr(fitting, "ALTERNATIVES", 20_000)
    found = Catalogue(30).losses(net, Batch(users, ROWS, CHOSEN, LABELS), Objective(), np.random.default_rng(0))
    assert found.tolist() == pytest.approx(plain(net, users).tolist(), rel=0.02)
    monkeypatch.setattr(fitting, "ALTERNATIVES", 3)
    few = Catalogue(30).losses(net, Batch(users, ROWS, CHOSEN, LABELS), Objective(), np.random.default_rng(0))
    assert torch.isfinite(few).all()


def test_held_out_loss_is_the_mean_in_any_order(monkeypatch) -> None:
    net, users = made("factorised")
    monkeypatch.setattr(fitting, "HELD_OUT", 2)
    turned = np.array([3, 1, 0, 2])
    log = Log(ROWS.numpy()[turned], CHOSEN.numpy()[turned], np.ones(4), LABELS.conversion_M.numpy()[turned])
    labels = Labels(LABELS.click_M[turned], LABELS.conversion_M[turned])
    found = Catalogue(30).held_out(net, users, log, Objective(), labels)
    assert found == pytest.approx(float(plain(net, users).detach().mean()), rel=1e-4)
    assert Catalogue(30).held_out(net, users, log.part(np.zeros(0, dtype=int)), Objective(), labels) == 0


def test_a_network_foresees_more_than_with_drawn_items() -> None:
    """Of 30 items everybody chooses the one after the latest: two drawn ones a choice say little of it."""
    random = np.random.default_rng(0)
    latest = random.integers(0, 30, 600)
    states = [
        State(f"u{n // 4}", history=(Interaction(int(i), "click", n),), time=n + 1) for n, i in enumerate(latest)
    ]
    row = np.repeat(np.arange(600), 3)
    item = np.stack([(latest + 1) % 30, *random.integers(0, 30, (2, 600))], axis=1).ravel()
    log = Subset(states, row, item, np.tile([1.0, 0, 0], 600), np.zeros(1800))

    class Unshown:
        has_impressions = False
        n_items = 30

        def item(self, i):
            return ITEMS[i]

    def right(unshown):
        settings = SimulatorSettings(epochs=4, unshown=unshown, batch_size=256)
        model = fit_behaviour(Unshown(), log, architecture="transformer", seed=0, settings=settings)
        return float((model.predict_all(states[:200]).click_BK.argmax(axis=1) == (latest[:200] + 1) % 30).mean())

    assert right("catalogue") > right("drawn") + 0.05


def test_it_goes_with_the_plain_objective_only() -> None:
    with pytest.raises(ConfigError, match=r"simulator\.unshown"):
        check_objective(SimulatorSettings(unshown="catalogue", correction="ips"))
    with pytest.raises(ConfigError, match=r"simulator\.unshown"):
        check_objective(SimulatorSettings(unshown="catalogue", objective="esmm"))
