"""Sellers as agents: outcomes by hand and by draws, learning against enumeration, and what who ranks does to prices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from llmrec.agents.sellers import ASKS, LISTED, Ask, Sellers, SellerSettings, best_responses, offer_of
from llmrec.config import WorldConfig
from llmrec.dataset.world.world import generate_world
from llmrec.errors import RequestError
from llmrec.files import read_json
from llmrec.simulator.environments.market import Market, MarketSettings, Offer
from llmrec.studies.sellers import BLIND, READS, SELLS, MarketRecommender, Ranking, play, sellers_study, settled

N = 24
OWNERS = np.arange(N) % 3


@pytest.fixture(scope="module")
def world():
    return generate_world(WorldConfig(users=40, items=N, slates_per_user=1), 3)


@pytest.fixture(scope="module")
def market(world):
    return Market(world, OWNERS, MarketSettings(fee=0.01))


def test_an_outcome_by_hand(world, market):
    factor_N, promoted_N = np.linspace(0.8, 1.6, N), np.arange(N) % 2 == 0
    users_B, items_BK = np.array([4, 9]), np.array([[3, 10], [0, 7]])
    found = market.meet(users_B, items_BK, Offer(factor_N, promoted_N))
    names = world.dataset.users["user_id"].to_list()
    click_BN = world.expected_click_BN([names[4], names[9]])
    buy_BN = world.expected_conversion_BN([names[4], names[9]])
    for b, k in itertools.product(range(2), range(2)):
        i = items_BK[b, k]
        f, look = factor_N[i], (k + 1) ** -0.5
        # odds move by powers of the price
        click_odds = click_BN[b, i] / (1 - click_BN[b, i]) * f**-0.5
        buy_odds = buy_BN[b, i] / (1 - buy_BN[b, i]) * f**-3.0
        click, buy = click_odds / (1 + click_odds), buy_odds / (1 + buy_odds)
        fee = 0.01 * look if i % 2 == 0 else 0.0
        sale = look * click * buy
        expected = (
            look,
            look * click,
            sale,
            sale * f,
            sale * (f - 0.6) - fee,
            fee,
            look * click * np.log(1 + buy_odds) / 3,
        )
        names_of = ("looks", "clicks", "sales", "revenue", "profit", "fees", "surplus")
        assert [getattr(found, name)[b, k] for name in names_of] == pytest.approx(expected)
    by_seller = market.of_sellers(found.profit, items_BK)
    assert by_seller == pytest.approx(
        [found.profit[0, 0] + found.profit[1, 0], found.profit[0, 1] + found.profit[1, 1], 0]
    )
    assert found.per_visit()["sales"] == pytest.approx(found.sales.sum() / 2)


def test_a_users_surplus_is_the_gain_of_choosing_freely(world, market):
    """E max(0, v - elasticity ln f + logistic noise) / elasticity on a click, by drawing tastes."""
    user, item, f = 5, 11, 1.3
    outcome = market.meet(np.array([user]), np.array([[item]]), Offer(np.full(N, f), np.zeros(N, dtype=bool)))
    buy = outcome.sales[0, 0] / outcome.clicks[0, 0]
    taste = np.random.default_rng(0).logistic(np.log(buy / (1 - buy)), size=2_000_000)
    expected = outcome.clicks[0, 0] * np.maximum(taste, 0).mean() / 3.0
    assert outcome.surplus[0, 0] == pytest.approx(expected, rel=5e-3)


def test_what_a_seller_learns_is_the_best_action_by_enumeration(market):
    """In front of who is blind to prices a seller's profit is its own affair: one maximum each, without the others."""
    recommender = MarketRecommender(market, Ranking())
    users_U = np.arange(market.n_users)
    items_UK = recommender.rank(users_U, Offer.listed(N))
    best = []
    for seller in range(3):
        profits = []
        for action in range(len(ASKS)):
            action_S = np.full(3, LISTED)
            action_S[seller] = action
            outcome = market.meet(users_U, items_UK, offer_of(action_S, OWNERS))
            profits.append(market.of_sellers(outcome.profit, items_UK)[seller])
        best.append(int(np.argmax(profits)))
    assert not any(ASKS[action].promoted for action in best)  # it costs a fee and brings nothing
    assert settled(market, recommender)[1]
    found = play(market, recommender, np.random.default_rng(0), rounds=6000, visits=40)
    near = [abs(ASKS[a].factor - ASKS[b].factor) <= 0.25 for a, b in zip(found.action_S, best, strict=True)]
    assert all(near)
    assert sum(a == b for a, b in zip(found.action_S, best, strict=True)) >= 2
    assert found.late["promoted"] < 0.1


def test_best_responses_end_in_the_equilibrium_of_a_known_game():
    """Cournot with three firms: quantity q of a price 12 - sum and no costs has the one equilibrium 12 / 4 each."""
    quantities = np.arange(13.0)

    def profit_of(action_S):
        q = quantities[action_S]
        return q * max(0.0, 12.0 - q.sum())

    found = best_responses(profit_of, 3, 13, start=0)
    assert found.settled
    for seller, other in itertools.product(range(3), range(13)):
        moved = found.action_S.copy()
        moved[seller] = other
        assert profit_of(moved)[seller] <= profit_of(found.action_S)[seller] + 1e-12
    # matching pennies has no equilibrium in pure strategies
    pennies = best_responses(lambda a: np.array([1.0, -1.0]) * (1 if a[0] == a[1] else -1), 2, 2, start=0)
    assert not pennies.settled


def test_prices_answer_to_who_ranks(world):
    late, market = {}, Market(world, OWNERS, MarketSettings(fee=0.0002))
    for name, ranking in ((BLIND, Ranking()), (READS, Ranking(reads=True)), (SELLS, Ranking(bonus=0.5))):
        late[name] = play(market, MarketRecommender(market, ranking), np.random.default_rng(2), rounds=4000).late
    assert late[READS]["price"] < late[BLIND]["price"] - 0.1
    assert late[READS]["surplus"] > late[BLIND]["surplus"]
    assert late[SELLS]["promoted"] > late[BLIND]["promoted"] + 0.3
    # who learns from sales alone shows less of what has become dear
    learner = MarketRecommender(market, Ranking(learns=True))
    dear = Offer(np.where(OWNERS == 0, 2.0, 1.0), np.zeros(N, dtype=bool))
    users_U = np.arange(market.n_users)
    before = (OWNERS[learner.rank(users_U, dear)] == 0).mean()
    for _ in range(60):
        items_UK = learner.rank(users_U, dear)
        learner.learn(users_U, items_UK, market.meet(users_U, items_UK, dear))
    assert (OWNERS[learner.rank(users_U, dear)] == 0).mean() < before


def test_what_cannot_be_is_refused(world, market):
    with pytest.raises(RequestError, match="24 items; give each an owner"):
        Market(world, np.zeros(3, dtype=int))
    with pytest.raises(RequestError, match="elasticity above 0"):
        MarketSettings(elasticity=0.0)
    with pytest.raises(RequestError, match="hold an action"):
        SellerSettings(hold=0)
    with pytest.raises(RequestError, match="on the offer alone"):
        settled(market, MarketRecommender(market, Ranking(learns=True)))
    assert Sellers(2, 10).act(0, np.random.default_rng(0)).shape == (2,)
    assert ASKS[LISTED] == Ask(1.0, False)


def test_the_study(tmp_path):
    small = {"world.users": 30, "world.items": 24, "world.slates_per_user": 1}
    found = sellers_study([0, 1], tmp_path, sellers=3, rounds=200, overrides=small, json_file=tmp_path / "x.json")
    assert found["recommenders"][BLIND]["settled"] == [True, True]
    assert read_json(tmp_path / "x.json")["recommenders"].keys() == found["recommenders"].keys()
    assert (tmp_path / "study-prices.svg").is_file()
    with pytest.raises(RequestError, match="two sellers"):
        sellers_study([0, 1], tmp_path, sellers=1)
    with pytest.raises(RequestError, match="fewer sellers"):
        sellers_study([0, 1], tmp_path, sellers=99, overrides=small)
