"""What counts beside a network: columns by hand, weights by a plain twin, and a model that finds what was planted."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from llmrec.config import SimulatorSettings
from llmrec.covisits import CovisitationSettings
from llmrec.errors import ConfigError
from llmrec.simulator.behaviour import fit_behaviour, load_behaviour
from llmrec.simulator.blend import (
    COLUMNS,
    FLOOR,
    Asked,
    Blend,
    Choices,
    Likeness,
    Rivals,
    Traces,
    alternatives,
    best_settings,
    choices_asked,
    chosen_weights,
    fit_blend,
    latest_items,
    weights_of,
)
from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.log import Log, Subset
from llmrec.types import Interaction, Item, State
from llmrec.vectors.words import WordSpace

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


SETTINGS = CovisitationSettings(
    window=2, decay=0.8, back=0.5, history_decay=0.5, text=2.0, popularity=0.1, half_life=30.0
)


def test_counts_by_hand() -> None:
    states = [state(0, 1), state(2, 1, 5, shown=(5,), user="v"), state(3, time=130 * DAY)]
    log = chose([(2, 0), (0, 2), (1, 2), (2, 4)])
    log = Log(log.row_M, log.item_M, np.array([1.0, 1, 1, 0]), log.conversion_M)  # the last was not clicked
    assert latest_items(states[1]) == [1, 2]
    choices = Choices.of(log, states)
    assert (choices.user_E.tolist(), choices.item_E.tolist()) == ([0, 0, 1], [2, 0, 2])
    found = Traces.of(choices, 6, SETTINGS)
    # 0 came after 2, whose two choices and one make three; the reverse counts a half, by the one choice of 0
    assert found.after_KK.toarray()[2].tolist() == pytest.approx([1 / 3, 0, 0, 0, 0, 0])
    assert found.after_KK.toarray()[0].tolist() == pytest.approx([0, 0, 0.5 / 2, 0, 0, 0])
    assert found.popular_K.tolist() == pytest.approx(np.log1p([1, 0, 2, 0, 0, 0]).tolist())
    assert found.recent_K[[0, 2]].tolist() == pytest.approx(np.log1p([1, 1]).tolist())  # 2's are 30 days older
    assert found.fading_K.tolist() == pytest.approx(found.recent_K.tolist())


def test_a_resampled_log_counts_whole_users_and_one_without_times_keeps_its_order() -> None:
    states = [state(user="u"), state(user="u", time=101 * DAY), state(user="v"), State("w"), State("w")]
    once = Choices.of(chose([(0, 1), (1, 2), (2, 1), (3, 3), (4, 4)]), states)
    twice = Choices.of(chose([(0, 1), (0, 1), (1, 2), (1, 2), (2, 1), (3, 3), (4, 4)]), states)
    assert twice.item_E.tolist() == once.item_E.tolist()
    assert twice.weight_E.tolist() == [2, 2, 1, 1, 1]
    assert once.aged_E[-2:].tolist() == [101 * DAY, 101 * DAY]  # an unknown age is none
    settings = CovisitationSettings(window=1)
    one, two = (Traces.of(choices, 6, settings).after_KK.toarray() for choices in (once, twice))
    assert (one[1, 2], two[1, 2]) == pytest.approx((1 / 3, 2 / 4))
    assert one[3, 4] == pytest.approx(1 / 2)  # not tied: their places in the log are an order
    assert one[4, 3] == 0


def test_columns_by_hand_and_in_all_forms() -> None:
    states = [state(0, 1), state(), state(2, 2, user="v")]
    space = space_of()
    traces = Traces.of(Choices.of(chose([(0, 2), (0, 3), (2, 4)]), states), 6, SETTINGS)
    blend = Blend(traces, space, np.array([0.5, 1.0, -1.0, 0.7, 0.2]))
    columns = blend.columns(states)
    popular = np.log(FLOOR + 0.1 * traces.fading_K)
    assert columns[1, :, 0] == pytest.approx(popular, abs=1e-6)  # no history, nothing personal
    words = WordSpace.fit(space.texts, characters=False, least=(2, 1)).rows_NV.toarray()
    like = words @ words.T
    np.fill_diagonal(like, 0)
    half = np.array([0.5, 1, 0, 0, 0, 0])
    score = half @ traces.after_KK.toarray() + 2.0 * half @ like + 0.1 * traces.fading_K
    assert columns[0, :, 0] == pytest.approx(np.log(FLOOR + score), abs=1e-6)
    assert columns[2, 2, 1] == pytest.approx(np.log1p(1.95))
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
    assert apart.columns(states)[1, :, 0].tolist() == pytest.approx([np.log(FLOOR)] * 6)
    assert apart.columns(states)[0, :, 0] == pytest.approx(np.log(FLOOR + score - 0.1 * traces.fading_K), abs=1e-5)
    assert apart.weights | {"popular": 0.7, "recent": 0.2} == blend.weights


def test_likeness_of_a_large_catalogue_is_that_of_a_small_one(monkeypatch) -> None:
    texts = [*WORDS, ""]
    weight = sp.csr_matrix(np.random.default_rng(0).random((3, 7)))
    dense = Likeness(texts).sum(weight)
    monkeypatch.setattr("llmrec.simulator.blend.counts._DENSE", 0)
    assert Likeness(texts).sum(weight) == pytest.approx(dense, abs=1e-6)
    assert not dense[:, -1].any()


def test_items_of_another_catalogue_keep_their_counts_and_new_ones_have_none() -> None:
    choices = Choices.of(chose([(0, 1), (1, 2), (1, 3)]), [state(time=0), state(time=DAY)])
    traces = Traces.of(choices, 6, SETTINGS)
    moved = traces.at(np.array([2, 6, 1, 0]))  # 6 is new
    assert moved.popular_K.tolist() == pytest.approx([traces.popular_K[2], 0, traces.popular_K[1], 0])
    assert moved.after_KK.toarray()[2, 0] == traces.after_KK[1, 2] > 0
    assert moved.after_KK.toarray()[1].sum() == moved.after_KK.toarray()[:, 1].sum() == 0
    again = Traces.restore(traces.arrays())
    assert again.settings == SETTINGS
    assert again.after_KK.toarray().tolist() == traces.after_KK.toarray().tolist()
    plain = Traces.of(choices, 6, CovisitationSettings())
    assert Traces.restore(plain.arrays()).settings == CovisitationSettings()


def test_alternatives_hold_the_choice_once_and_what_could_be_chosen() -> None:
    stream = np.random.default_rng(0)
    open_CN = np.ones((3, 6), dtype=bool)
    open_CN[1, :4] = False
    asked = Asked([state()] * 3, np.array([0, 5, 3]), open_CN)
    for size in (3, 50):
        found = alternatives(asked, size, stream)
        assert found[:, 0].tolist() == [0, 5, 3]
        assert all(len(set(row)) == len(row) == 1 + min(size, 5) for row in found[[0, 2]].tolist())
        assert set(found[1].tolist()) == {5, 4, -1}


def test_what_a_user_had_is_no_alternative_where_repeats_are_excluded() -> None:
    states = [
        state(user="u", time=1),
        state(4, user="u", time=2),
        state(user="v", time=2),
        state(3, user="u", time=3),
    ]
    log, held_out = chose([(0, 0), (2, 1)]), chose([(1, 2), (3, 5)])
    stream = np.random.default_rng(0)
    asked, row_C = choices_asked(log, held_out, states, 6, False, stream)
    assert row_C.tolist() == [1, 3]
    assert [np.flatnonzero(~row).tolist() for row in asked.open_CN] == [[0, 4], [0, 2, 3]]
    asked, _ = choices_asked(log, held_out, states, 6, True, stream)
    assert asked.open_CN.all()


def test_popularity_that_harms_the_first_ten_is_left_out() -> None:
    """The popular are chosen among all items, and passed over among those that may stand first."""
    random = np.random.default_rng(3)
    columns = np.zeros((len(COLUMNS), 400, 60))
    real = np.ones((400, 60), dtype=bool)
    columns[1, :, 0] = random.normal(size=400) + 1.5
    columns[1, :, 1:] = random.normal(size=(400, 59))
    user = np.arange(400) // 4
    harmful = columns.copy()
    harmful[4, :, 0] = 1.0  # all drawn ones are less popular, all that may stand first are more so
    tempting, first = Rivals(harmful, real), Rivals(columns + 3.0 * (np.arange(5) == 4)[:, None, None], real)
    first.column_JCA[4, :, 0] = 0.0
    found = chosen_weights(tempting, first, user)
    assert found[1] > 0
    assert found[2:].tolist() == [0, 0, 0]
    assert tempting.weights(np.ones(5, dtype=bool))[4] > 0
    assert chosen_weights(tempting, tempting, user)[4] > 0


def test_a_network_that_harms_the_first_ten_counts_less() -> None:
    """It tells the choice from what was drawn, and puts others above it among those that may stand first."""
    random = np.random.default_rng(5)
    columns = np.zeros((len(COLUMNS), 400, 60))
    columns[1] = random.normal(size=(400, 60))
    columns[1, :, 0] += 1.5
    drawn, foremost = columns.copy(), columns.copy()
    drawn[0, :, 0] = foremost[0, :, 1:] = 1.0
    real, user = np.ones((400, 60), dtype=bool), np.arange(400) // 4
    found = chosen_weights(Rivals(drawn, real), Rivals(foremost, real), user)
    assert found[0] == 0
    assert found[1] > 0
    kept = chosen_weights(Rivals(drawn, real), Rivals(drawn, real), user)
    assert kept[0] > 0
    one_user = chosen_weights(Rivals(drawn, real), Rivals(drawn, real), np.zeros(400, dtype=np.int64))
    assert one_user[0] > 0


def test_settings_are_those_of_the_best_ranking() -> None:
    """Whatever was chosen, its successor comes two places later: a window of one sees nothing."""
    random = np.random.default_rng(4)
    states, pairs = [], []
    for user in range(60):
        first = int(random.integers(10))
        for place, item in enumerate((first, 10 + int(random.integers(10)), (first + 1) % 10)):
            states.append(state(user=f"u{user}", time=place * DAY))
            pairs.append((len(states) - 1, item))
    asked_states = [state(n, 10 + int(random.integers(10)), user="x", time=9 * DAY) for n in range(10)] * 4
    asked = Asked(
        asked_states, np.array([(s.history[0].item + 1) % 10 for s in asked_states]), np.ones((40, 20), bool)
    )
    likeness = Likeness([f"thing {n}" for n in range(20)])
    found = best_settings(Choices.of(chose(pairs), states), asked, likeness)
    assert found.window > 1
    assert found.history_decay == 0.8


def test_weights_are_the_most_likely_ones() -> None:
    """Against torch on the plain likelihood; a taste that repels is held at 0, and planted weights come back."""
    random = np.random.default_rng(1)
    true = np.array([1.0, 0.8, -0.7, 0.5, 0.2])
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
    assert weight.grad.numpy() == pytest.approx(0, abs=2e-4)
    repelled = columns.copy()
    repelled[..., 1] *= -1
    assert weights_of(np.moveaxis(repelled, 2, 0))[1] == 0
    assert weights_of(np.zeros((len(COLUMNS), 3, 4))).tolist() == [0.0] * len(COLUMNS)
    real = np.ones((3000, 12), dtype=bool)
    real[:, 9:] = False
    fewer = weights_of(np.moveaxis(columns, 2, 0)[..., :9], penalty=0.0)
    assert weights_of(np.moveaxis(columns, 2, 0), real, penalty=0.0) == pytest.approx(fewer, abs=1e-4)


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
    assert model.facts["blend"]["counted"] > 0
    assert model.facts["covisitation"]["window"] >= 1
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
