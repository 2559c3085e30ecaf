"""What counts beside a network: columns by hand, weights by a plain twin, and a model that finds what was planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmrec.config import SimulatorSettings
from llmrec.errors import ConfigError
from llmrec.simulator.behaviour import fit_behaviour, load_behaviour
from llmrec.simulator.blend import (
    COLUMNS,
    Blend,
    Traces,
    alternatives,
    fit_blend,
    latest_items,
    weights_of,
)
from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.log import Log, Subset
from llmrec.types import Interaction, Item, State

DAY = 86_400
WORDS = ("tea", "tea pot", "drill", "drill bit", "sofa", "lamp")
ITEMS = [Item(f"i{n}", f"{text} {n % 2}") for n, text in enumerate(WORDS)]


def state(*items, user="u", shown=(), time=100 * DAY):
    past = [Interaction(item, "impression" if item in shown else "click", k) for k, item in enumerate(items)]
    return State(user, history=tuple(past), time=time)


def chose(pairs):
    """A log of clicks of (state row, item)."""
    row_M, item_M = np.array(pairs).T
    return Log(row_M, item_M, np.ones(len(row_M)), np.zeros(len(row_M)))


def space_of(items=ITEMS):
    return FeatureSpace.fit(items, [state(0), state(1, user="v")], np.ones(len(items)), seed=0)


def test_counts_by_hand() -> None:
    states = [state(0, 1), state(2, 1, 5, shown=(5,)), state(3, time=70 * DAY)]
    log = chose([(0, 2), (1, 2), (2, 0), (2, 0)])
    log = Log(log.row_M, log.item_M, np.array([1.0, 1, 1, 0]), log.conversion_M)  # the last was not clicked
    found = Traces.of(log, states, 6)
    assert latest_items(states[1]) == [1, 2]
    # after 1 came 2 twice, after 3 came 0 once; shares are smoothed by one
    assert found.next_KK.toarray()[1].tolist() == pytest.approx([0, 0, 2 / 3, 0, 0, 0])
    assert found.next_KK.toarray()[3].tolist() == pytest.approx([1 / 2, 0, 0, 0, 0, 0])
    # two places apart counts 0.8, against the order a half; left by 1 + choices right after the item
    near = found.near_KK.toarray()
    assert near[1, 2] == pytest.approx(2 / 3)
    assert near[0, 2] == pytest.approx(0.8)
    assert near[2, 0] == pytest.approx(0.4)
    assert near[2, 2] == pytest.approx(0.8 * 1.5)
    assert found.popular_K.tolist() == pytest.approx(np.log1p([1, 0, 2, 0, 0, 0]).tolist())
    assert found.recent_K[[0, 2]].tolist() == pytest.approx(np.log1p([0.5, 2]).tolist())  # 30 days older


def test_columns_by_hand_and_in_all_forms() -> None:
    states = [state(0, 1), state(), state(2, 2, user="v")]
    space, traces = space_of(), Traces.of(chose([(0, 2), (0, 3), (2, 4)]), states, 6)
    blend = Blend(traces, space, np.array([0.5, 1.0, 0.3, 2.0, -1.0, 0.7, 0.2]))
    columns = blend.columns(states)
    assert columns[1, :, :4].tolist() == np.zeros((6, 4)).tolist()  # no history, nothing personal
    text = blend._here[1].toarray()
    like = text @ text.T
    np.fill_diagonal(like, 0)
    half = np.array([0.5, 1, 0, 0, 0, 0])
    assert columns[0, :, 2] == pytest.approx(half @ like, abs=1e-6)
    assert columns[0, :, 0] == pytest.approx(np.log1p(100 * half @ traces.next_KK.toarray()), abs=1e-6)
    assert columns[2, 2, 3] == pytest.approx(np.log1p(1.95))
    network = np.random.default_rng(0).normal(size=(3, 6))
    grid = blend.grid(states, network)
    assert grid == pytest.approx(0.5 * network + columns @ blend.weight_J[1:], abs=1e-5)
    items = np.array([[3, 0], [5, 1], [2, 2]])
    assert blend.at(states, items, np.take_along_axis(network, items, 1)) == pytest.approx(
        np.take_along_axis(grid, items, 1)
    )
    row, item = np.array([2, 0, 2, 1]), np.array([1, 4, 0, 5])
    assert blend.pairs(states, row, item, network[row, item]) == pytest.approx(grid[row, item])
    apart = blend.without_popularity()
    assert grid - apart.grid(states, network) == pytest.approx(
        np.tile(0.7 * traces.popular_K + 0.2 * traces.recent_K, (3, 1)), abs=1e-5
    )


def test_items_of_another_catalogue_keep_their_counts_and_new_ones_have_none() -> None:
    traces = Traces.of(chose([(0, 2), (0, 3)]), [state(0, 1)], 6)
    moved = traces.at(np.array([2, 6, 1, 0]))  # 6 is new
    assert moved.popular_K.tolist() == pytest.approx([traces.popular_K[2], 0, 0, 0])
    assert moved.next_KK.toarray()[2, 0] == traces.next_KK[1, 2] > 0
    assert moved.next_KK.toarray()[1].sum() == moved.next_KK.toarray()[:, 1].sum() == 0


def test_alternatives_hold_the_choice_once() -> None:
    stream = np.random.default_rng(0)
    for size in (3, 50):
        found = alternatives(np.array([0, 5, 3]), 6, size, stream)
        assert found[:, 0].tolist() == [0, 5, 3]
        assert all(len(set(row)) == len(row) == 1 + min(size, 5) for row in found.tolist())


def test_weights_are_the_most_likely_ones() -> None:
    """Against torch on the plain likelihood; a taste that repels is held at 0, and planted weights come back."""
    random = np.random.default_rng(1)
    true = np.array([1.0, 0.8, 0.0, 1.5, -0.7, 0.5, 0.2])
    columns = random.normal(size=(3000, 12, len(COLUMNS)))
    utility = columns @ true + random.gumbel(size=(3000, 12))
    best = utility.argmax(axis=1)
    rows = np.arange(3000)
    columns[rows, 0], columns[rows, best] = columns[rows, best].copy(), columns[rows, 0].copy()
    found = weights_of(np.moveaxis(columns, 2, 0), penalty=0.0)
    assert found == pytest.approx(true, abs=0.12)
    weight = torch.tensor(found, requires_grad=True)
    loss = -torch.log_softmax(torch.from_numpy(columns) @ weight, dim=1)[:, 0].mean()
    loss.backward()
    assert weight.grad.numpy()[found > 0] == pytest.approx(0, abs=2e-4)
    repelled = columns.copy()
    repelled[..., 1] *= -1
    assert weights_of(np.moveaxis(repelled, 2, 0))[1] == 0
    assert weights_of(np.zeros((len(COLUMNS), 3, 4))).tolist() == [0.0] * len(COLUMNS)


@pytest.fixture(scope="module")
def followers():
    """Everybody chooses the item after the latest one, among 20; a seventh of the choices is by popularity."""
    random, items = np.random.default_rng(2), [Item(f"i{n}", f"thing {n}") for n in range(20)]
    share = 0.8 ** np.arange(20) / sum(0.8 ** np.arange(20))
    states, rows, chosen, click = [], [], [], []
    for user in range(120):
        latest = int(random.integers(20))
        for step in range(4):
            states.append(state(latest, user=f"u{user}", time=step * DAY))
            latest = int(random.choice(20, p=share)) if random.random() < 1 / 7 else (latest + 1) % 20
            drawn = random.integers(0, 20, 3).tolist()
            rows += [len(states) - 1] * 4
            chosen += [latest, *drawn]
            click += [1.0, 0, 0, 0]

    def part(kept):
        keep = np.isin(np.array(rows) % 4, kept)
        return Subset(
            states, np.array(rows)[keep], np.array(chosen)[keep], np.array(click)[keep], np.zeros(keep.sum())
        )

    class Choices:
        has_impressions = False
        n_items = 20

        def item(self, i):
            return items[i]

    return Choices(), part([0, 1, 2]), part([3]), states[3::4]


def test_a_model_of_choices_follows_what_follows(followers, tmp_path) -> None:
    dataset, train, valid, asked = followers
    settings = SimulatorSettings(epochs=1, blend=True)
    model = fit_behaviour(dataset, train, architecture="logistic", seed=0, settings=settings, valid=valid)
    plain = fit_behaviour(
        dataset,
        train,
        architecture="logistic",
        seed=0,
        settings=SimulatorSettings(epochs=1),
        valid=valid,
    )
    right = np.array([(s.history[-1].item + 1) % 20 for s in asked])
    assert (model.predict_all(asked).click_BK.argmax(axis=1) == right).mean() > 0.9
    assert (plain.predict_all(asked).click_BK.argmax(axis=1) == right).mean() < 0.5
    assert model.facts["blend"]["next"] > 0
    assert "blend" not in plain.facts
    items = np.tile(np.arange(20), (len(asked), 1))
    assert model.predict(asked, items).click_BK == pytest.approx(model.predict_all(asked).click_BK, abs=1e-6)
    model.save(tmp_path / "model")
    again = load_behaviour(tmp_path / "model", dataset)
    assert again.predict_all(asked).click_BK == pytest.approx(model.predict_all(asked).click_BK, abs=1e-9)
    # popularity is apart: without it, two items of one column of everything else are alike
    assert again.without_popularity().blend.weights["popular"] == 0
    assert again.blend.weights == model.blend.weights
    with pytest.raises(ConfigError, match="keeps no popularity apart"):
        plain.without_popularity()


def test_few_choices_weigh_nothing(followers) -> None:
    _, train, _, _ = followers
    log = chose([(0, 1)] * 29)
    assert fit_blend(log, log, list(train.states), space_of(), lambda row, item: np.zeros(len(row)), 0) is None


def test_recurrent_models_and_logged_impressions_are_left_as_they_were(followers) -> None:
    dataset, train, valid, _ = followers
    settings = SimulatorSettings(epochs=1, blend=True)
    assert fit_behaviour(dataset, train, architecture="gru", seed=0, settings=settings, valid=valid).blend is None
    shown = [dataset.item(i) for i in range(20)]  # a plain list of items says nothing of drawn negatives
    assert fit_behaviour(shown, train, architecture="logistic", seed=0, settings=settings, valid=valid).blend is None
