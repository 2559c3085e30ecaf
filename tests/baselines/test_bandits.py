"""Linear bandits: posteriors against dense formulas, regret in planted linear worlds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from llmrec.baselines import LinearThompson, LinUCB, LinUCBSettings, ThompsonSettings
from llmrec.baselines.bandit_features import LatentFeatures, latent
from llmrec.baselines.bandits import LinearBandit
from llmrec.baselines.base import positives
from llmrec.baselines.posterior import DisjointPosterior, JointPosterior
from llmrec.errors import ConfigError, RequestError
from llmrec.types import FloatArray, State
from tests.baselines.worlds import clusters, dataset, state


class Planted:
    """Given item features; a state's features are its user's row of `users_UP`."""

    def __init__(self, item_NQ: FloatArray, users_UP: FloatArray) -> None:
        self.item_NQ, self.users_UP, self.state_size = item_NQ, users_UP, users_UP.shape[1]

    def states(self, states: Sequence[State]) -> FloatArray:
        return self.users_UP[[int(str(s.user_id)) for s in states]]


def observations(seed: int = 0) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    z, x = random.normal(size=(5, 3)), random.normal(size=(20, 2))
    return z, x, random.integers(5, size=20), random.normal(size=20)


def test_joint_posterior_is_the_ridge_regression_on_all_products() -> None:
    z, x, items, rewards = observations()
    posterior = JointPosterior(z, 2, 0.7)
    posterior.learn(x[:8], items[:8], rewards[:8])
    posterior.mean(x[:1])  # what was computed before more rewards must not be kept
    posterior.learn(x[8:], items[8:], rewards[8:])
    phi = np.array([np.kron(x[m], z[items[m]]) for m in range(20)])
    a = 0.7 * np.eye(6) + phi.T @ phi
    theta = np.linalg.solve(a, phi.T @ rewards)
    for row in range(3):
        every = np.array([np.kron(x[row], z[n]) for n in range(5)])
        assert posterior.mean(x[row : row + 1])[0] == pytest.approx(every @ theta)
        assert posterior.variance(x[row : row + 1])[0] == pytest.approx(np.diag(every @ np.linalg.inv(a) @ every.T))


def test_disjoint_posterior_is_a_ridge_regression_for_each_item() -> None:
    z, x, items, rewards = observations(1)
    posterior = DisjointPosterior(z, 2, 0.7)
    posterior.learn(x[:8], items[:8], rewards[:8])
    posterior.learn(x[8:], items[8:], rewards[8:])
    for n in range(5):
        own = x[items == n]
        a = 0.7 * np.eye(2) + own.T @ own
        theta = np.linalg.solve(a, own.T @ rewards[items == n])
        assert posterior.mean(x)[:, n] == pytest.approx(x @ theta)
        assert posterior.variance(x)[:, n] == pytest.approx(np.diag(x @ np.linalg.inv(a) @ x.T))


def test_thompson_draws_have_the_mean_and_covariance_of_the_posterior() -> None:
    z, x, items, rewards = observations(2)
    posterior = JointPosterior(z, 2, 0.7)
    posterior.learn(x, items, rewards)
    draws = posterior.sample(np.tile(x[:1], (40_000, 1)), 0.5, np.random.default_rng(0))
    every = np.array([np.kron(x[0], z[n]) for n in range(5)])
    covariance = 0.25 * every @ np.linalg.inv(posterior.a_DD) @ every.T
    assert draws.mean(axis=0) == pytest.approx(posterior.mean(x[:1])[0], abs=5 * covariance.max() ** 0.5 / 200)
    assert np.cov(draws.T) == pytest.approx(covariance, abs=0.04 * covariance.max())


def test_upper_bound_is_the_mean_plus_alpha_deviations() -> None:
    data = clusters()
    states = [state(0, 1), state()]
    model = LinUCB(LinUCBSettings(alpha=0.0)).fit(data, data.events)
    mean = model.score(states)
    model.settings = LinUCBSettings(alpha=2.0)
    x = model.features.states(states)
    assert model.score(states) == pytest.approx(mean + 2.0 * np.sqrt(model.posterior.variance(x)))
    sampled = LinearThompson(ThompsonSettings(scale=0.0)).fit(data, data.events)
    exact = LinearThompson(ThompsonSettings(explore=False)).fit(data, data.events)
    assert sampled.score(states) == pytest.approx(exact.score(states))


@pytest.mark.parametrize("kind", ["linucb", "disjoint", "thompson"])
def test_batch_fit_finds_the_cluster_of_an_unseen_user(kind: str) -> None:
    data = clusters(users=60)
    models: dict[str, LinearBandit] = {
        "linucb": LinUCB(LinUCBSettings(alpha=0.0)),
        "disjoint": LinUCB(LinUCBSettings(alpha=0.0, model="disjoint")),
        "thompson": LinearThompson(ThompsonSettings(explore=False)),
    }
    model = models[kind].fit(data, data.events)
    for cluster in range(3):
        first = cluster * 6
        slate = model.recommend([state(first, first + 1)], 4)[0]
        assert set(slate.items_K) == set(range(first + 2, first + 6))


def test_logged_impressions_are_learnt_from_where_there_are_some() -> None:
    import polars as pl

    data = clusters(n_clusters=1, size=2, users=4, clicks=1)
    rows = [("a", "i0", "impression", t, t) for t in range(1, 40)] + [
        ("a", "i1", "impression", t, t) for t in range(1, 40)
    ]
    rows += [("a", "i1", "click", t, t) for t in range(1, 40, 2)]
    events = pl.DataFrame(rows, ["user_id", "item_id", "kind", "time", "session"], orient="row")
    logged = type(data).build(
        data.items,
        None,
        events.with_columns(pl.col("session").cast(pl.String)),
        name="log",
        domain="shop",
        click="click",
        conversion="conversion",
        repeat="allow",
    )
    model = LinUCB(LinUCBSettings(alpha=0.0, model="disjoint", l2=1e-6)).fit(logged, logged.events)
    # Shown 39 times each; item 0 was never clicked, item 1 in 20 of 39 rounds.
    fitted = model.posterior.a_NPP[:, 0, 0] - 1e-6
    assert fitted.tolist() == pytest.approx([39, 39])
    assert model.posterior.b_NP[:, 0].tolist() == pytest.approx([0, 20])


def test_features_are_scaled_and_tell_the_clusters_apart() -> None:
    data = clusters(users=60)
    made = LatentFeatures(data, positives(data, data.events), 6, seed=0)
    assert made.item_NQ.shape == (18, 8)
    assert made.states([state()])[0].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert made.states([state(4)])[0, 1:] == pytest.approx(made.latent_ND[4])
    for half in (made.latent_ND[:, :3], made.latent_ND[:, 3:]):
        assert (half**2).sum(axis=1).mean() == pytest.approx(1.0)
    alike = made.latent_ND @ made.latent_ND.T
    same = np.equal.outer(np.arange(18) // 6, np.arange(18) // 6)
    assert alike[same].min() > alike[~same].max()


def test_latent_coordinates_that_the_data_cannot_fill_are_zero() -> None:
    from scipy.sparse import csr_matrix

    assert latent(csr_matrix((3, 1)), 4, 0).tolist() == [[0.0] * 4] * 3
    one = latent(csr_matrix(np.array([[3.0], [4.0]])), 2, 0)
    assert np.abs(one) == pytest.approx(np.array([[0.6 * 2**0.5, 0], [0.8 * 2**0.5, 0]]))


def regret(
    model: LinearBandit, reward_UN: np.ndarray, rounds: int, batch: int, noise: float, seed: int
) -> np.ndarray:
    """Regret of each round in a world where user u gets reward_UN[u, i] + noise from item i."""
    random = np.random.default_rng(seed)
    lost = []
    for _ in range(rounds // batch):
        users = random.integers(len(reward_UN), size=batch)
        states = [State(user_id=str(u)) for u in users]
        items = [s.items_K[0] for s in model.recommend(states, 1)]
        expected = reward_UN[users, items]
        model.update(states, items, expected + noise * random.normal(size=batch))
        lost.append(reward_UN[users].max(axis=1) - expected)
    return np.concatenate(lost)


def test_exploring_bandits_find_the_best_arms_where_a_greedy_one_stays_with_its_first() -> None:
    n_items, n_users, rounds = 10, 3, 1200
    totals: dict[str, list[np.ndarray]] = {name: [] for name in ("linucb", "disjoint", "thompson", "greedy")}
    data = dataset([("0", 0, 1)], [f"thing {n}" for n in range(n_items)], repeat="allow")
    for seed in range(5):
        # Nothing is learnt about one item or user from another: only trying helps.
        planted = Planted(np.eye(n_items), np.eye(n_users))
        reward = np.random.default_rng(seed).uniform(0.1, 1.0, size=(n_users, n_items))
        # Widths of about the noise, a weak prior: what is untried looks better than anything tried.
        bandits: dict[str, LinearBandit] = {
            "linucb": LinUCB(LinUCBSettings(alpha=0.3, l2=0.01), features=planted, seed=seed),
            "disjoint": LinUCB(LinUCBSettings(alpha=0.3, l2=0.01, model="disjoint"), features=planted, seed=seed),
            "thompson": LinearThompson(ThompsonSettings(scale=0.15, l2=0.01), features=planted, seed=seed),
            "greedy": LinUCB(LinUCBSettings(alpha=0.0, l2=0.01), features=planted, seed=seed),
        }
        for name, bandit in bandits.items():
            totals[name].append(regret(bandit.start(data, data.events), reward, rounds, 8, 0.1, seed))
            if name != "greedy":
                found = bandit.posterior.mean(np.eye(n_users)).argmax(axis=1)
                short = reward.max(axis=1) - reward[np.arange(n_users), found]
                assert short.max() < 0.05  # the best arm of every user, or one as good to the noise
    mean = {name: np.mean(lost, axis=0) for name, lost in totals.items()}
    half = rounds // 2
    assert mean["greedy"][half:].mean() > 0.1  # linear: it goes on losing
    for name in ("linucb", "disjoint", "thompson"):
        # Sub-linear: the second half costs a small part of the first.
        assert mean[name][half:].sum() < 0.35 * mean[name][:half].sum()
        assert mean[name].sum() < 0.5 * mean["greedy"].sum()


def test_one_stream_of_the_seed_decides_what_is_drawn() -> None:
    data = clusters()
    states = [state(0)] * 3

    def draws(seed: int) -> FloatArray:
        return LinearThompson(seed=seed).fit(data, data.events).score(states)

    assert (draws(1) == draws(1)).all()
    assert not np.allclose(draws(1), draws(2))
    assert not np.allclose(draws(1)[0], draws(1)[1])


def test_clear_errors() -> None:
    data = clusters()
    with pytest.raises(RequestError, match="not fitted"):
        LinUCB().update([state()], [0], [1.0])
    model = LinUCB().start(data, data.events)
    with pytest.raises(RequestError, match="as many items"):
        model.update([state()], [0, 1], [1.0])
    with pytest.raises(RequestError, match="0 to 17"):
        model.update([state()], [18], [1.0])
    with pytest.raises(RequestError, match="row 1 is not a finite"):
        model.update([state(), state()], [0, 1], [1.0, float("nan")])
    with pytest.raises(ConfigError, match="even"):
        LinUCBSettings(dims=5)
    with pytest.raises(ConfigError, match="joint or disjoint"):
        LinUCBSettings(model="both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="scale of thompson"):
        ThompsonSettings(scale=-1)
