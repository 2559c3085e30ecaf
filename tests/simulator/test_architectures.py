from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
import torch

from llmrec.config import SimulatorSettings
from llmrec.errors import ConfigError, DataError
from llmrec.simulator.behaviour import ARCHITECTURES, BehaviourModel, fit_behaviour, load_behaviour
from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.metrics import fit_report
from llmrec.simulator.sequence import CODES, Histories
from llmrec.types import Interaction, Item, State
from tests.simulator.planted import Impressions, planted

NEW = [name for name in ARCHITECTURES if name not in ("factorised", "crossed")]
FIT = SimulatorSettings(epochs=6, batch_size=256, learning_rate=1e-2)


@dataclasses.dataclass(frozen=True)
class WithValues(Impressions):
    value_M: np.ndarray


@pytest.fixture(scope="module")
def world():
    return planted(users=400)


@pytest.fixture(scope="module")
def models(world) -> dict[str, BehaviourModel]:
    log = world.log(np.arange(300), 25, 1)
    value = 2.0 + 3.0 * np.array(["blue" in world.items[i].title for i in log.item_M])  # known where clicked
    values = WithValues(**vars(log), value_M=np.where(log.click_M > 0, value, np.nan))
    return {name: fit_behaviour(world.items, values, architecture=name, seed=3, settings=FIT) for name in NEW}


@pytest.mark.parametrize("name", NEW)
def test_each_learns_the_planted_world(world, models, name) -> None:
    report = fit_report(models[name], world.log(np.arange(300, 400), 40, 2), train=world.log(np.arange(300), 40, 1))
    for head in ("click", "click_and_conversion"):
        assert report[head]["log_loss_gain"]["low"] > 0
        assert report[head]["auc"] > report[head]["baseline_auc"] + 0.02
        assert report[head]["calibration_error"] < 0.04


@pytest.mark.parametrize("name", NEW)
def test_grid_equals_pairs_and_a_saved_model_equals_itself(world, models, name, tmp_path) -> None:
    model, states = models[name], [*world.states[:5], State()]
    everything, items = model.predict_all(states), np.tile(np.arange(24), (6, 1))
    some = model.predict(states, items)
    np.testing.assert_allclose(some.click_BK, everything.click_BK, atol=1e-5)
    np.testing.assert_allclose(some.conversion_BK, everything.conversion_BK, atol=1e-5)
    model.save(tmp_path / "model")
    again = load_behaviour(tmp_path / "model", world.items)
    np.testing.assert_array_equal(again.predict(states, items).click_BK, some.click_BK)
    np.testing.assert_array_equal(again.expected_value(states, items), model.expected_value(states, items))
    assert model.predict_all([]).click_BK.shape == (0, 24)


@pytest.mark.parametrize("name", NEW)
def test_a_new_item_is_judged_by_its_text(world, models, name, tmp_path) -> None:
    models[name].save(tmp_path / "model")
    fresh = [Item("n1", "red thing", "plain words", ("red",)), Item("n2", "blue thing", "plain words", ("blue",))]
    model = load_behaviour(tmp_path / "model", [*world.items, *fresh])
    click = model.predict_all(world.states[300:]).click_BK
    red = np.array(["likes red" in state.profile for state in world.states[300:]])
    blue = np.array(["likes blue" in state.profile for state in world.states[300:]])
    assert (click[red, -2] > click[red, -1]).mean() > 0.9
    assert (click[blue, -1] > click[blue, -2]).mean() > 0.9


@pytest.mark.parametrize("name", NEW)
def test_expected_value_finds_the_planted_one(world, models, name) -> None:
    items = np.tile(np.arange(24), (20, 1))
    items[3, 4] = -1
    value = models[name].expected_value(world.states[300:320], items)
    assert np.isnan(value[3, 4])
    blue = np.array(["blue" in item.title for item in world.items])
    value[3, 4] = 2.0
    assert value[:, blue].mean() > 4.2
    assert value[:, ~blue].mean() < 2.6
    assert ((value >= 2) & (value <= 5)).all()  # the range of the log


def test_a_model_without_values_says_so(world) -> None:
    model = fit_behaviour(world.items, world.log(np.arange(40), 10, 1), architecture="logistic", seed=0, settings=FIT)
    with pytest.raises(ConfigError, match="has learnt no values"):
        model.expected_value(world.states[:1], np.zeros((1, 1), dtype=int))


def _grown(state: State, items: list[int], kinds: list[str]) -> State:
    """The state after these events of its session."""
    events = []
    for item, kind in zip(items, kinds, strict=True):
        if kind in ("liked", "disliked"):
            events.append(Interaction(item, "rating", 5, 100.0 if kind == "liked" else -100.0))
        elif kind != "none":
            events.append(Interaction(item, kind, 5))  # type: ignore[arg-type]
    return dataclasses.replace(state, session=tuple(events))


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_event_by_event_equals_reading_the_whole_history(world, models, name) -> None:
    model, random = models[name], np.random.default_rng(0)
    states = [*world.states[:12], State(), State(user_id="x", history=(Interaction(3, "click", 1),) * 50)]
    items, kinds = random.integers(0, 24, (len(states), 40)), random.choice(list(CODES), (len(states), 40))
    live = model.initial_state(states)
    codes = np.vectorize(CODES.__getitem__)(kinds)
    for t in range(0, 40, 2):
        live = model.step(live, items[:, t], codes[:, t])
        live = model.step(live, items[:, t + 1 : t + 2], codes[:, t + 1 : t + 2])  # a slate of one
    grown = [_grown(s, i.tolist(), k.tolist()) for s, i, k in zip(states, items, kinds, strict=True)]
    asked = np.tile(np.arange(24), (len(states), 1))
    asked[1, 2] = -1
    whole, carried = model.predict(grown, asked), model.predict_from(live, asked)
    np.testing.assert_allclose(carried.click_BK, whole.click_BK, atol=2e-6)
    np.testing.assert_allclose(carried.conversion_BK, whole.conversion_BK, atol=2e-6)
    np.testing.assert_allclose(model.initial_state(grown).carried_BC, live.carried_BC, atol=1e-5)
    at_once = model.step(model.initial_state(states), items, codes)
    np.testing.assert_allclose(at_once.carried_BC, live.carried_BC, atol=1e-6)


def test_rows_of_live_users(world, models) -> None:
    model = models["gru"]
    live = model.initial_state(world.states[:6])
    part, asked = live.take(np.array([4, 1])), np.zeros((2, 3), dtype=np.int64)
    expected = model.predict([world.states[4], world.states[1]], asked).click_BK
    np.testing.assert_allclose(model.predict_from(part, asked).click_BK, expected, atol=1e-6)
    before = live.carried_BC.clone()
    live.put(np.array([0, 2]), part)
    np.testing.assert_array_equal(live.carried_BC[[0, 2, 3]], before[[4, 1, 3]])


def test_live_requests_are_refused_in_one_sentence(world, models) -> None:
    live = models["gru"].initial_state(world.states[:2])
    for items, codes, words in (
        ([0], [1], "do not fit 2 users"),
        ([0, 24], [1, 1], "outside"),
        ([0, 1], [1, 9], "code 9"),
    ):
        with pytest.raises(DataError, match=words):
            models["gru"].step(live, np.array(items), np.array(codes))
    with pytest.raises(DataError, match="one row a user"):
        models["gru"].predict_from(live, np.zeros((3, 2), dtype=int))
    with pytest.raises(ConfigError, match="fit gru or lstm"):
        models["caser"].initial_state(world.states[:2])


def test_histories_are_in_order_and_cut_from_the_left() -> None:
    events = [Interaction(2, "click", 1), Interaction(0, "rating", 2, 1.0), Interaction(1, "rating", 3, 5.0)]
    states = [State(history=tuple(events)), State(), State(session=(Interaction(1, "impression", 4),))]
    found = Histories.of(states, 3, value_mean=3.0)
    np.testing.assert_array_equal(found.item_SL, [[2, 0, 1], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(found.code_SL, [[2, 3, 4], [0, 0, 0], [1, 0, 0]])
    last = found.last(2)
    np.testing.assert_array_equal(last.item_SL, [[0, 1], [0, 0], [1, 0]])
    np.testing.assert_array_equal(last.code_SL, [[3, 4], [0, 0], [1, 0]])
    np.testing.assert_array_equal(found.last(4).code_SL, [[2, 3, 4, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    with pytest.raises(DataError, match="user 'u' holds item index 7"):
        Histories.of([State(user_id="u", history=(Interaction(7, "click", 1),))], 3, 0.0)


@pytest.mark.parametrize("name", ["caser", "transformer"])
def test_only_the_latest_events_are_read(world, models, name) -> None:
    old = tuple(Interaction(i % 24, "click", i) for i in range(40))
    changed = (*(dataclasses.replace(e, item=5) for e in old[:24]), *old[24:])
    vectors = []
    for history in (old, changed, old[:-1]):
        space, net = models[name].space, models[name].net
        from llmrec.simulator.networks import encoded

        with torch.no_grad():
            vectors.append(net.reading(encoded(net, space, [State(history=history)])))  # type: ignore[attr-defined]
    torch.testing.assert_close(vectors[0], vectors[1])
    assert (vectors[0] - vectors[2]).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["caser", "gru", "lstm", "transformer"])
def test_the_order_of_a_history_can_be_learnt(name) -> None:
    """Users click the colour of their last event; the first one, of another colour, tells nothing."""
    random = np.random.default_rng(4)
    items = [Item(f"i{n}", f"{'red' if n % 2 else 'blue'} thing {n}") for n in range(10)]
    last = random.integers(0, 2, 600)
    states = [
        State(
            user_id=f"u{u}",
            history=(Interaction(1 - c + 2 * int(a), "click", 1), Interaction(c + 2 * int(b), "click", 2)),
            time=10 + u,
        )
        for u, (c, a, b) in enumerate(zip(last.tolist(), *random.integers(0, 5, (2, 600)), strict=True))
    ]
    row, shown = np.repeat(np.arange(600), 10), random.integers(0, 10, 6000)
    click = (random.random(6000) < np.where(shown % 2 == last[row], 0.7, 0.1)).astype(float)
    log = Impressions(states, row, shown, click, click * 0)
    model = fit_behaviour(items, log, architecture=name, seed=0, settings=SimulatorSettings(epochs=8, batch_size=256))
    found = model.predict_all(states[:200]).click_BK
    same = (np.arange(10) % 2)[None, :] == last[:200, None]
    assert found[same].mean() > 0.6
    assert found[~same].mean() < 0.2


def test_a_recurrent_turn_is_fast(world, models) -> None:
    """A slate of 10 predicted and its events read: far above the floor of the environments, even on a busy core."""
    model, random, users = models["gru"], np.random.default_rng(1), 5000
    live = model.initial_state([world.states[u % 400] for u in range(users)])
    items = random.integers(0, 24, (users, 10))
    start = time.perf_counter()
    found = model.predict_from(live, items)
    clicks = (random.random((users, 10)) < found.click_BK) * CODES["click"]
    first = clicks.argmax(axis=1)
    at = np.arange(users)
    model.step(live, items[at, first], clicks[at, first])
    assert users / (time.perf_counter() - start) > 10_000


def test_unknown_architecture_and_features_that_are_not_finite(world) -> None:
    with pytest.raises(ConfigError, match="factorised, crossed, logistic, mlp, caser, gru, lstm, transformer"):
        fit_behaviour(world.items, world.log(np.arange(9), 5, 1), architecture="x", seed=0, settings=FIT)
    space = FeatureSpace.fit(world.items, world.states[:5], np.ones(24), seed=0)
    bad = dataclasses.replace(world.states[0], history=(Interaction(1, "rating", 1, float("inf")),))
    with pytest.raises(DataError, match="user 'u0'"):
        space.encode([bad], histories=True)
