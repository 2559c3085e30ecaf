"""ALS and BPR against the package that trains them and against their own criteria."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from llmrec.baselines import ALS, BPR, ALSSettings, BPRSettings, factors
from llmrec.errors import ConfigError, RunError
from tests.baselines.worlds import clusters, interactions, state

pytest.importorskip("implicit", reason="ALS and BPR need the extra baselines")
from implicit.cpu.als import AlternatingLeastSquares


@pytest.fixture(scope="module")
def fitted() -> tuple[ALS, np.ndarray]:
    data, matrix = interactions(40, 15, 0.3, seed=5)
    setting = ALSSettings(factors=6, regularization=0.5, alpha=7.0, iterations=10)
    return ALS(setting).fit(data, data.events), matrix


def reference(model: ALS) -> AlternatingLeastSquares:
    """The package's own model with the factors that `model` learnt."""
    setting = model.settings
    theirs = AlternatingLeastSquares(
        factors=setting.factors, regularization=setting.regularization, alpha=setting.alpha, num_threads=1
    )
    theirs.user_factors = model.user_UF.astype(np.float32)
    theirs.item_factors = model.item_NF.astype(np.float32)
    return theirs


def test_als_folds_in_as_the_package_recalculates_users(fitted: tuple[ALS, np.ndarray]) -> None:
    model, _ = fitted
    histories = [[0, 3, 9], [14], [5, 5, 2]]
    rows = np.zeros((3, 15), dtype=np.float32)
    for row, items in enumerate(histories):
        rows[row, items] = 1.0
    expected = reference(model).recalculate_user(np.arange(3), csr_matrix(rows))
    assert model.fold_in([state(*items) for items in histories]) == pytest.approx(expected, abs=1e-4)


def test_als_recommends_what_the_package_recommends(fitted: tuple[ALS, np.ndarray]) -> None:
    model, matrix = fitted
    theirs = reference(model)
    users = np.arange(40)
    ids, scores = theirs.recommend(users, csr_matrix(matrix.astype(np.float32)), N=5, recalculate_user=True)
    states = [state(*np.flatnonzero(row).tolist(), user=f"u{u:03d}") for u, row in enumerate(matrix)]
    for slate, items, theirs_K in zip(model.recommend(states, 5), ids.tolist(), scores, strict=True):
        assert slate.log_probs_K == pytest.approx(theirs_K, abs=1e-4)
        assert slate.items_K == tuple(items)
    # The user's training events count although the state does not repeat them.
    remembered = model.score([state(user="u004", time=10**6)])
    assert remembered == pytest.approx(model.score([states[4]]))


def test_als_is_at_a_fixed_point_of_the_normal_equations_for_items(fitted: tuple[ALS, np.ndarray]) -> None:
    data, matrix = interactions(40, 15, 0.3, seed=5)
    setting = ALSSettings(factors=6, regularization=0.5, alpha=7.0, iterations=300)
    model = ALS(setting).fit(data, data.events)
    x, y = model.user_UF, model.item_NF
    for item in range(15):
        confidence = np.diag(1 + 6.0 * matrix[:, item])
        expected = np.linalg.solve(x.T @ confidence @ x + 0.5 * np.eye(6), x.T @ confidence @ matrix[:, item])
        assert y[item] == pytest.approx(expected, abs=0.02)


def test_bpr_trained_users_keep_their_factors_until_they_do_something_new() -> None:
    data = clusters()
    model = BPR(BPRSettings(factors=3, regularization=0.05)).fit(data, data.events)
    user = model.memory.user_ids.index("u004")
    own = model.memory.matrix_UN[user].indices.tolist()
    other = next(i for i in range(6, 12) if i not in own)
    late = 10**9
    trained = [state(*own, user="u004", time=late), state(user="u004", time=late), state(own[0], user="u004")]
    assert (model.fold_in(trained) == model.user_UF[user]).all()
    for changed in (state(*own, other, user="u004", time=late), state(*own), state(own[0], user="u004", time=1)):
        assert not (model.fold_in([changed]) == model.user_UF[user]).all()
    assert model.score([state()])[0].tolist() == model.bias_N.tolist()


def test_bpr_folds_in_to_the_maximum_of_its_criterion() -> None:
    data = clusters()
    setting = BPRSettings(factors=3, regularization=0.05, steps=3000)
    model = BPR(setting).fit(data, data.events)
    items = [12, 15]

    def loss(x: np.ndarray) -> float:
        score = model.item_NF @ x + model.bias_N
        gap = score[items][:, None] - score[model._drawn_J][None, :]
        return float(np.log1p(np.exp(-gap)).mean() + 0.025 * x @ x)

    best = minimize(loss, np.zeros(3), options={"gtol": 1e-9})
    assert model.fold_in([state(*items)])[0] == pytest.approx(best.x, abs=1e-3)
    together = model.fold_in([state(3), state(*items), state(*range(9)), state()])
    assert together[1] == pytest.approx(best.x, abs=1e-3)
    assert together[2] == pytest.approx(model.fold_in([state(*range(9))])[0])
    fast = BPR(BPRSettings(factors=3, regularization=0.05)).fit(data, data.events)
    assert loss(fast.fold_in([state(*items)])[0]) == pytest.approx(best.fun, abs=1e-3)


def test_another_seed_gives_other_factors() -> None:
    data = clusters()
    for kind in (ALS, BPR):
        assert not np.allclose(kind(seed=1).fit(data, data.events).item_NF, kind().fit(data, data.events).item_NF)


def test_a_missing_package_and_wrong_settings_are_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="alpha"):
        ALSSettings(alpha=1.0)
    with pytest.raises(ConfigError, match="factors 0"):
        BPRSettings(factors=0)
    monkeypatch.setattr(factors.importlib.util, "find_spec", lambda name: None)
    data = clusters()
    with pytest.raises(RunError, match=r"als baseline needs the package implicit; pip install 'llmrec\[baselines\]'"):
        ALS().fit(data, data.events)
