"""Learning from a teacher: the loss against enumeration, what is taught, and that it is learnt."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.config import LoraSettings, SFTSettings, TeacherSettings
from llmrec.errors import ConfigError, DataError
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.scoring import score_items
from llmrec.training.callbacks import last_checkpoint
from llmrec.training.imitation import StateLessons, plan_rows, train_imitation
from llmrec.training.sft import train_sft
from llmrec.training.teacher import LONGEST, Teacher, check_teacher, cut
from llmrec.training.trl_seam.sft import cross_entropy_BGL, masses, stratified
from llmrec.types import Example, Interaction, State

N = 12
TEACHER = TeacherSettings(kind="covisitation", epochs=2, batch_size=8, learning_rate=3e-3, sharpness=1.0)
SETTINGS = SFTSettings(epochs=0, history_dropout=0.0, save_every=2, teacher=TEACHER)


def circle(states):
    """The item after the latest, mod 12, scores 3, the one after that 1."""
    scores = np.zeros((len(states), N))
    for b, state in enumerate(states):
        last = state.history[-1].item if state.history else 0
        scores[b, (last + 1) % N], scores[b, (last + 2) % N] = 3.0, 1.0
    return scores


def make_teacher(repeat="allow", **changes):
    return Teacher(circle, np.zeros(N), dataclasses.replace(TEACHER, **changes), repeat)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_is_the_cross_entropy_in_value_and_gradient(shop, seed):
    """Weighted by q, the sums along all items' tokens add up to -sum of q log pi over the catalogue."""
    model, states = shop.model(seed=seed), shop.states(3)
    policy = LanguagePolicy(model, shop.tokenizer, shop.catalogue, shop.renderer, "allow")
    q_BN = np.random.default_rng(seed).dirichlet(np.full(N, 0.4), size=3)
    q_BN[0, :4] = 0.0
    q_BN[0] /= q_BN[0].sum()
    ids, mask = policy.encode(states)
    items_BN = torch.arange(N).expand(3, N)
    index = shop.catalogue.index

    def gradient(loss):
        model.zero_grad()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).clone()

    scores = score_items(model, ids, mask, items_BN, index)
    inner_BN = cross_entropy_BGL(scores, masses(q_BN, index.item_of_row_N.numpy()), index).sum(-1)
    estimate = (torch.from_numpy(q_BN).float() * inner_BN).sum(1).mean()
    found = gradient(estimate)
    plain = score_items(model, ids, mask, items_BN, index, path="plain").item_log_prob_BG
    exact = -(torch.from_numpy(q_BN).float() * plain).sum(1).mean()
    assert estimate.item() == pytest.approx(exact.item(), rel=1e-5)
    assert torch.linalg.norm(found - gradient(exact)) < 1e-4 * torch.linalg.norm(found)


def test_one_item_for_sure_is_plain_maximum_likelihood(shop):
    model = shop.model()
    policy = LanguagePolicy(model, shop.tokenizer, shop.catalogue, shop.renderer, "allow")
    ids, mask = policy.encode(shop.states(2))
    q_BN = np.eye(N)[[4, 9]]
    with torch.no_grad():
        scores = score_items(model, ids, mask, torch.tensor([[4], [9]]), shop.catalogue.index)
    before = masses(q_BN, shop.catalogue.index.item_of_row_N.numpy())
    inner = cross_entropy_BGL(scores, before, shop.catalogue.index).sum(-1)
    torch.testing.assert_close(inner, -scores.item_log_prob_BG, atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 5), min_size=6, max_size=6).filter(any), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(0, 100),
)
def test_draws_have_mass_and_the_right_shares(weights, draws, seed):
    q_BN = np.array(weights, dtype=float)
    q_BN /= q_BN.sum(1, keepdims=True)
    rng = np.random.default_rng(seed)
    items_BG = stratified(q_BN, rng.random((len(q_BN), draws)))
    assert (np.take_along_axis(q_BN, items_BG, 1) > 0).all()
    many = np.stack([stratified(q_BN, rng.random((len(q_BN), draws))) for _ in range(300)])
    for b, q_N in enumerate(q_BN):
        share = np.bincount(many[:, b].ravel(), minlength=6) / many[:, b].size
        assert np.abs(share - q_N).max() < 5 * 0.5 / np.sqrt(300)


def test_the_teacher_by_hand():
    state = State(history=(Interaction(3, "click", 0),))
    [p] = make_teacher(popularity=0.0).probabilities([state])
    assert p[4] == pytest.approx(0.75)
    assert p[5] == pytest.approx(0.25)
    assert p.sum() == pytest.approx(1.0)
    [p] = make_teacher(popularity=0.12, sharpness=2.0).probabilities([state])
    assert p[4] == pytest.approx(0.88 * 0.9 + 0.01)
    assert p[0] == pytest.approx(0.01)
    [q] = make_teacher(popularity=0.0, weight=0.3).targets([Example(state, 7)])
    assert q[7] == pytest.approx(0.7)
    assert q[4] == pytest.approx(0.225)
    [q] = make_teacher(popularity=0.0).targets([Example(state, -1)])
    assert q[4] == pytest.approx(0.75)


def test_the_teacher_never_repeats_where_repeats_are_excluded():
    state = State(history=(Interaction(4, "click", 0), Interaction(3, "click", 1)))
    [p] = make_teacher("exclude", popularity=0.1).probabilities([state])
    assert p[4] == p[3] == 0.0
    assert p.sum() == pytest.approx(1.0)


def test_scores_of_nothing_fall_back_to_popularity():
    teacher = Teacher(lambda states: np.zeros((len(states), 3)), np.array([2.0, 0.0, 0.0]), TEACHER, "allow")
    assert teacher.probabilities([State()])[0] == pytest.approx([0.6, 0.2, 0.2])


def test_bad_scores_and_settings_are_refused():
    with pytest.raises(DataError, match="negative or not finite"):
        Teacher(lambda states: np.full((1, N), np.nan), np.zeros(N), TEACHER, "allow").probabilities([State()])
    with pytest.raises(DataError, match="negative or not finite"):
        Teacher(lambda states: np.full((1, N), -1.0), np.zeros(N), TEACHER, "allow").probabilities([State()])
    for key, value in (("weight", 1.2), ("invented", -1.0), ("sharpness", 0.0), ("paths", 0), ("epochs", 0.0)):
        with pytest.raises(ConfigError, match=rf"sft\.teacher\.{key}' is {value}"):
            check_teacher(dataclasses.replace(TEACHER, **{key: value}))


def test_invented_histories_and_cuts():
    rng, teacher = np.random.default_rng(0), make_teacher()
    made = [teacher.invented(rng, "rating") for _ in range(200)]
    assert {len(e.state.history) for e in made} == set(range(1, LONGEST + 1))
    assert all(e.target == -1 and h.feedback == "rating" for e in made for h in e.state.history)
    assert {h.item for e in made for h in e.state.history} == set(range(N))
    whole = Example(State("u", history=tuple(Interaction(i, "click", i) for i in range(5))), 3)
    assert cut(whole, 0.0, 0.0, rng) == whole
    for _ in range(50):
        shorter = cut(whole, 1.0, 0.0, rng).state.history
        assert 0 < len(shorter) < 5
        assert shorter == whole.state.history[-len(shorter) :]


def test_every_lesson_comes_once_before_any_comes_again():
    lengths = np.arange(10) % 3
    rows = plan_rows(lengths, 2.5, 4, seed=0)
    assert len(rows) == 28
    assert set(rows["state"][:10]) == set(range(10)) == set(rows["state"][10:20])
    assert rows["rollout"][:10] == [0] * 10
    assert rows["rollout"][20:] == [2] * 8


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 200), st.integers(1, 9), st.floats(0.3, 4.0), st.integers(0, 9))
def test_batches_are_whole_and_of_like_lengths(lessons, batch, epochs, seed):
    lengths = np.random.default_rng(seed).integers(0, 30, lessons)
    rows = plan_rows(lengths, epochs, batch, seed=0)
    assert len(rows) % batch == 0
    assert len(rows) >= lessons * epochs
    for turn in range(len(rows) // lessons):
        assert sorted(rows["state"][turn * lessons : (turn + 1) * lessons]) == list(range(lessons))
    if lessons >= 16 * batch and batch > 3:
        spread = np.ptp(lengths[np.array(rows["state"])].reshape(-1, batch), axis=1)
        assert spread.mean() < 0.7 * np.ptp(lengths)


def taught(shop, out, model, lessons_settings=SETTINGS, **more):
    lessons = StateLessons(shop.examples(24), make_teacher(), lessons_settings, "click", 0)
    return train_imitation(
        model, shop.tokenizer, shop.catalogue, shop.renderer, lessons, lessons_settings, seed=0, out=out, **more
    )


def test_a_killed_training_goes_on_to_the_same_weights(shop, tmp_path):
    whole, resumed = shop.model(), shop.model()
    curve = taught(shop, tmp_path / "whole", whole).curve
    assert curve[-1]["step"] == 12
    taught(shop, tmp_path / "parts", shop.model())
    newest = last_checkpoint(tmp_path / "parts")
    shutil.rmtree(newest)  # as if the kill had come before it was complete
    taught(shop, tmp_path / "parts", resumed)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("weights", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_the_circle_is_learnt(shop, tmp_path, weights):
    # all weights at 5e-3 are at the edge of what is stable: of three seeds one learns 10 of 12
    rate = 2e-3 if weights == "full" else 5e-3
    teacher = TeacherSettings(kind="covisitation", epochs=60, batch_size=16, learning_rate=rate, sharpness=1.0)
    chosen = SFTSettings(
        epochs=0,
        weights=weights,
        lora=LoraSettings(rank=8, alpha=16),
        history_dropout=0.0,
        save_every=1000,
        teacher=dataclasses.replace(teacher, popularity=0.0, invented=3.0),
    )
    settings_of_p = Teacher(circle, np.zeros(N), chosen.teacher, "allow")
    examples = [Example(s, (s.history[-1].item + 1) % N) for s in shop.states(24)]
    result = train_sft(
        shop.model(),
        shop.tokenizer,
        shop.catalogue,
        shop.renderer,
        examples,
        shop.items,
        chosen,
        seed=0,
        out=tmp_path / "t",
        teacher=settings_of_p,
    )
    policy = LanguagePolicy(result.model, shop.tokenizer, shop.catalogue, shop.renderer, "allow")
    states = [State(history=(Interaction(i, "click", 0),)) for i in range(N)]
    right = sum(s.items_K[0] == (i + 1) % N for i, s in enumerate(policy.recommend(states, 2)))
    assert right >= (11 if weights == "full" else 6)
    assert result.curve[-1]["loss"] < result.curve[0]["loss"]
