"""Cross-fitting: no model is asked about a user it was fitted on, and what that mends is a planted bias."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmrec.config import SimulatorSettings, WorldConfig
from llmrec.dataset.impressions import impressions
from llmrec.dataset.split import make_split
from llmrec.dataset.world.world import generate_world
from llmrec.errors import RequestError
from llmrec.folds import unit_folds
from llmrec.simulator.cross_fitted import CrossFitted
from llmrec.simulator.ensemble import fit_ensemble
from llmrec.simulator.log import Subset, of_users
from llmrec.training.losses import Fitted, SlateBatch, off_policy_loss
from llmrec.types import Prediction, State

UNKNOWN = 0.9


class Memory:
    """Knows what it was shown by heart, and thinks too well of all else."""

    def __init__(self, log):
        rows = zip(np.asarray(log.state_row_M), np.asarray(log.item_M), np.asarray(log.click_M), strict=True)
        self.known = {(log.states[s].user_id, int(i)): float(c) for s, i, c in rows}

    def predict(self, states, items_BK):
        click = [
            [self.known.get((s.user_id, int(i)), UNKNOWN) for i in row]
            for s, row in zip(states, items_BK, strict=True)
        ]
        return Prediction(np.array(click), np.zeros(np.shape(items_BK)))

    def predict_all(self, states):
        return self.predict(states, np.tile(np.arange(ITEMS), (len(states), 1)))


ITEMS, USERS = 4, 4000
MEAN = np.array([0.1, 0.6, 0.2, 0.4])


def planted(seed, users=USERS):
    """Each user is shown one item at random, which is liked with a chance of its own."""
    rng = np.random.default_rng(seed)
    item = rng.integers(0, ITEMS, users)
    click = (rng.random(users) < MEAN[item]).astype(float)
    return Subset([State(f"u{n}") for n in range(users)], np.arange(users), item, click, np.zeros(users))


def test_folds_are_even_and_of_whole_users():
    fold_U = unit_folds(11, 3, 5, "some", "stream")
    assert sorted(np.bincount(fold_U).tolist()) == [3, 4, 4]
    assert (fold_U == unit_folds(11, 3, 5, "some", "stream")).all()
    for folds in (1, 12):
        with pytest.raises(RequestError, match="a user in each"):
            unit_folds(11, folds, 5)


def test_nobody_is_asked_about_whom_it_knows():
    log = planted(0, 40)
    log = Subset(log.states * 2, np.arange(80), np.tile(log.item_M, 2), np.tile(log.click_M, 2), np.zeros(80))
    found = CrossFitted.of(log, None, lambda train, valid: Memory(train), folds=4, seed=1)
    assert (found.predict(log.states, log.item_M[:, None]).click_BK == UNKNOWN).all()
    for fold, model in enumerate(found.models):
        known = {user for user, _ in model.known}
        assert known == {user for user, own in found.fold_of.items() if own != fold}
    # whoever is in no fold is asked of all
    known = np.mean([model.predict([State("u3")], log.item_M[3:4, None]).click_BK for model in found.models])
    stranger = CrossFitted(found.models, {}).predict([State("u3")], log.item_M[3:4, None]).click_BK
    assert stranger.item() == pytest.approx(known)


def gradient(log, q, draws=32):
    """The doubly robust gradient at a fixed policy: items 0.4, 0.3, 0.2, 0.1, logged evenly."""
    theta = torch.log(torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)).requires_grad_()
    log_pi = theta.log_softmax(0)
    item, users = torch.from_numpy(log.item_M), len(log.states)
    rng = np.random.default_rng(9)
    drawn = torch.from_numpy(rng.choice(ITEMS, (users, draws), p=log_pi.exp().detach().numpy()))
    shown = SlateBatch(
        torch.from_numpy(log.click_M)[:, None],
        torch.full((users, 1), 1 / ITEMS, dtype=torch.float64),
        torch.zeros((users, 1), dtype=torch.float64),
        torch.ones((users, 1), dtype=torch.float64),
    )
    both = torch.cat([item[:, None], drawn], dim=1)
    value = torch.from_numpy(q.predict(log.states, both.numpy()).click_BK)
    fitted = Fitted(value[:, :1], value[:, 1:], log_pi[drawn])
    loss = off_policy_loss(log_pi[item][:, None], shown, k=1, cap=np.inf, fitted=fitted)
    (found,) = torch.autograd.grad(loss, theta)
    return -found.numpy()


def test_a_model_that_knows_its_rows_takes_the_correction_away_and_others_do_not():
    """At shown items the memory says what happened, so that nothing of the log is left to correct it by."""
    pi = np.array([0.4, 0.3, 0.2, 0.1])
    wanted = pi * (MEAN - pi @ MEAN)
    inside, across = [], []
    for seed in range(6):
        log = planted(seed)
        inside.append(gradient(log, Memory(log)))
        across.append(gradient(log, CrossFitted.of(log, None, lambda t, v: Memory(t), folds=5, seed=seed)))
    error = np.std(across, axis=0, ddof=1) / 6**0.5
    assert (np.abs(np.mean(across, axis=0) - wanted) < 4 * error + 1e-3).all()
    assert np.linalg.norm(np.mean(across, axis=0) - wanted) < 0.15 * np.linalg.norm(wanted)
    assert np.linalg.norm(np.mean(inside, axis=0) - wanted) > 0.6 * np.linalg.norm(wanted)


def test_it_is_the_plain_fits_on_the_others():
    world = generate_world(WorldConfig(users=30, items=12, slates_per_user=3, slate_size=4), seed=2)
    split = make_split(world.dataset, "time")
    train, valid = (impressions(world.dataset, split, part) for part in ("train", "valid"))
    settings = SimulatorSettings(members=1, epochs=1)

    def fit(log, kept):
        return fit_ensemble(world.dataset, log, seed=3, settings=settings, valid=kept)

    found = CrossFitted.of(train, valid, fit, folds=2, seed=4)
    items = np.tile(np.arange(12), (len(train.states), 1))
    answered = found.predict(train.states, items)
    strangers = {s.user_id for s in valid.states} - found.fold_of.keys()
    for fold in range(2):
        others = {user for user, own in found.fold_of.items() if own != fold}
        model = fit(of_users(train, others), of_users(valid, others | strangers))
        rows = [n for n, state in enumerate(train.states) if found.fold_of[state.user_id] == fold]
        asked = [train.states[n] for n in rows]
        plain = model.predict(asked, items[rows])
        np.testing.assert_allclose(answered.click_BK[rows], plain.click_BK, rtol=1e-6)
        np.testing.assert_allclose(answered.conversion_BK[rows], plain.conversion_BK, rtol=1e-6)
        np.testing.assert_allclose(found.predict_all(asked).click_BK, plain.click_BK, rtol=1e-6)
