"""Sellers who learn what to ask, in front of recommenders that read prices, learn from sales, or sell places.

In each market (`simulator.environments.market`) the items of a generated world belong to sellers, each of which
learns a price factor and whether to promote (`agents.sellers`). What they learn depends on who ranks:

- *blind*: by what items are worth to each user at list prices, whatever is asked for them;
- *reads prices*: by what they are worth at the prices asked;
- *learns*: blind at first, each item's worth times what it earned of what was expected, over the last rounds;
- *sells places*: blind, with a bonus for promoted items, as sponsored places have;
- *learns, sells places*: both.

All know the truth at list prices, so that what differs between them is what they make of prices alone. With a
finished run its policy ranks too, blind to prices. Controls: the same recommender with everybody at the list price,
and the prices to which exact best responses lead, where a ranking does not depend on the past.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.agents.sellers import ASKS, LISTED, Sellers, SellerSettings, best_responses, offer_of
from llmrec.config import RunConfig
from llmrec.config_tree import Overrides
from llmrec.dataset.history import History
from llmrec.dataset.world.world import World, generate_world
from llmrec.errors import RequestError
from llmrec.evaluation.drawing import BLUE, GREEN, INK, MUTED, ORANGE, panels, style, to_svg
from llmrec.evaluation.significance import t_interval
from llmrec.pipeline.opening import open_run
from llmrec.progress import track
from llmrec.seeding import numpy_stream
from llmrec.simulator.environments.market import Market, MarketSettings, Offer, Outcome
from llmrec.studies.answer import Answer, Sheet, signed
from llmrec.studies.study import Pooled, SeedRows, Study
from llmrec.types import FloatArray, IntArray

SMALL: Overrides = {"world.users": 400, "world.items": 120, "world.slates_per_user": 1}
BLIND, READS, LEARNS, SELLS, BOTH = "blind", "reads prices", "learns", "sells places", "learns, sells places"
POLICY = "the run's policy"
PLACES, DEPTH = 10, 50
"""Of a slate, and of the list of a run's policy."""
CLICK, SALE = 1.0, 3.0
SHOWN = ("surplus", "sales", "profit", "fees", "revenue")
"""Of an outcome, a visit each."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """How a recommender ranks.

    Attributes:
        reads: whether it knows the prices that are asked.
        learns: whether it learns from what was sold.
        bonus: what a promoted item's score is multiplied with, less 1.
        keep: share of what was learnt that is left after a round.
        prior: rewards that an item is thought to have earned as expected, before anything is learnt.
    """

    reads: bool = False
    learns: bool = False
    bonus: float = 0.0
    keep: float = 0.98
    prior: float = 2.0


RANKINGS: Mapping[str, Ranking] = {
    BLIND: Ranking(),
    READS: Ranking(reads=True),
    LEARNS: Ranking(learns=True),
    SELLS: Ranking(bonus=0.5),
    BOTH: Ranking(learns=True, bonus=0.5),
}


class MarketRecommender:
    """Ranks the market's items for its users.

    Args:
        market: what it ranks in.
        ranking: how.
        score_UN: what it thinks of every item for every user at list prices; the truth by default.
    """

    def __init__(self, market: Market, ranking: Ranking, score_UN: FloatArray | None = None) -> None:
        self.market, self.ranking = market, ranking
        users_U, listed_N = np.arange(market.n_users), np.ones(market.n_items)
        self.worth_UN = market.worth_BN(users_U, listed_N, CLICK, SALE)
        self.score_UN = self.worth_UN if score_UN is None else score_UN
        self.earned_N, self.expected_N = np.zeros(market.n_items), np.zeros(market.n_items)

    def rank(self, users_B: IntArray, offer: Offer) -> IntArray:
        """The best items of each user, best first: (B, K)."""
        ranking, score_BN = self.ranking, self.score_UN[users_B]
        if ranking.reads:
            score_BN = self.market.worth_BN(users_B, offer.factor_N, CLICK, SALE)
        scale_N = 1.0 + ranking.bonus * offer.promoted_N
        if ranking.learns:
            scale_N = scale_N * (ranking.prior + self.earned_N) / (ranking.prior + self.expected_N)
        items_BK: IntArray = np.argsort(-score_BN * scale_N, axis=1, kind="stable")[:, :PLACES]
        return items_BK

    def learn(self, users_B: IntArray, items_BK: IntArray, outcome: Outcome) -> None:
        """Takes in what came of slates: (B, K)."""
        if not self.ranking.learns:
            return
        worth_BK = outcome.looks * self.worth_UN[users_B[:, None], items_BK]
        reward_BK = CLICK * outcome.clicks + SALE * outcome.sales
        for kept_N, new_BK in ((self.earned_N, reward_BK), (self.expected_N, worth_BK)):
            kept_N *= self.ranking.keep
            kept_N += np.bincount(items_BK.ravel(), weights=new_BK.ravel(), minlength=len(kept_N))


@dataclass(frozen=True)
class Course:
    """How sellers learnt in front of one recommender.

    Attributes:
        late: figures a visit, means over the last fifth of the rounds; `price` is the mean factor of what is looked
            at, `promoted` the share of looks at promoted items.
        price_T: the price in each of some hundred stretches of rounds.
        action_S: what each seller holds for best at the end.
    """

    late: dict[str, float]
    price_T: list[float]
    action_S: IntArray


def play(
    market: Market,
    recommender: MarketRecommender,
    stream: np.random.Generator,
    *,
    rounds: int,
    visits: int = 64,
    settings: SellerSettings | None = None,
) -> Course:
    """Lets sellers learn for `rounds`, each with `visits` users drawn anew.

    A round stands for so many visits that sellers and recommender see what was to be expected of them.

    Args:
        market: who sells what to whom.
        recommender: who ranks; it learns, too, if it does.
        stream: of users and explored actions.
        rounds: how many.
        visits: users of a round.
        settings: of the sellers.
    """
    settings = settings or SellerSettings()
    sellers = Sellers(market.n_sellers, -(-rounds // settings.hold), settings)
    figures: list[dict[str, float]] = []
    action_S, offer = sellers.greedy(), Offer.listed(market.n_items)
    profit_S = np.zeros(market.n_sellers)
    for turn in range(rounds):
        if turn % settings.hold == 0:
            action_S, profit_S = sellers.act(turn // settings.hold, stream), np.zeros(market.n_sellers)
            offer = offer_of(action_S, market.owner_N)
        users_B = stream.choice(market.n_users, visits, replace=visits > market.n_users)
        items_BK = recommender.rank(users_B, offer)
        outcome = market.meet(users_B, items_BK, offer)
        profit_S += market.of_sellers(outcome.profit, items_BK) / (visits * settings.hold)
        recommender.learn(users_B, items_BK, outcome)
        if (turn + 1) % settings.hold == 0:
            sellers.learn(action_S, profit_S)
        figures.append(_figures(outcome, items_BK, offer))
    last = figures[-max(1, rounds // 5) :]
    late = {name: float(np.mean([row[name] for row in last])) for name in last[0]}
    stretches = np.array_split([row["price"] for row in figures], min(100, rounds))
    return Course(late, [float(np.mean(part)) for part in stretches], sellers.greedy())


def _figures(outcome: Outcome, items_BK: IntArray, offer: Offer) -> dict[str, float]:
    looks = outcome.looks.sum()
    return outcome.per_visit() | {
        "price": float((outcome.looks * offer.factor_N[items_BK]).sum() / looks),
        "promoted": float((outcome.looks * offer.promoted_N[items_BK]).sum() / looks),
    }


def settled(market: Market, recommender: MarketRecommender) -> tuple[dict[str, float], bool]:
    """Figures where best responses lead over all users, and whether nobody would move any more.

    Raises:
        RequestError: the recommender ranks by what was, so that one offer has no one answer.
    """
    if recommender.ranking.learns:
        raise RequestError("Best responses need a recommender whose ranking depends on the offer alone.")

    def profit_of(action_S: IntArray) -> FloatArray:
        outcome, items_UK, _ = _met(market, recommender, action_S)
        return market.of_sellers(outcome.profit, items_UK)

    found = best_responses(profit_of, market.n_sellers, len(ASKS))
    return _figures(*_met(market, recommender, found.action_S)), found.settled


def _met(market: Market, recommender: MarketRecommender, action_S: IntArray) -> tuple[Outcome, IntArray, Offer]:
    """What comes of everybody's slates under these actions."""
    users_U, offer = np.arange(market.n_users), offer_of(action_S, market.owner_N)
    items_UK = recommender.rank(users_U, offer)
    return market.meet(users_U, items_UK, offer), items_UK, offer


def sellers_study(
    seeds: Sequence[int],
    out: Path,
    *,
    run: Path | None = None,
    sellers: int = 8,
    rounds: int = 20_000,
    elasticity: float = MarketSettings.elasticity,
    fee: float = MarketSettings.fee,
    overrides: Overrides | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Sellers in front of each recommender, a market a seed.

    Args:
        seeds: of worlds, owners and learning; with a `run` of owners and learning alone.
        out: folder of the answer.
        run: a finished run of a generated world, whose policy ranks, too.
        sellers: S; items are dealt out to them by lot.
        rounds: of learning.
        elasticity: see `MarketSettings`.
        fee: see `MarketSettings`.
        overrides: values by key; a small world by default.
        json_file: the figures are also written here.

    Raises:
        RequestError: fewer than two sellers, no round, or a run without a world.
    """
    if sellers < 2 or rounds < 1:
        raise RequestError("A market needs at least two sellers and one round; give --sellers and --rounds.")
    settings = MarketSettings(elasticity=elasticity, fee=fee)
    opened = None if run is None else opened_world(run)

    def measure(seed: int) -> SeedRows:
        if opened is None:
            config = RunConfig.read(None, {**SMALL, **(overrides or {}), "seed": seed})
            world, score_UN = generate_world(config.world, seed), None
        else:
            world, score_UN = opened
        return _measured(world, score_UN, settings, sellers, rounds, seed)

    return Study(tuple(seeds), measure, partial(_answer, settings=settings), least=2).run(out, json_file)


def opened_world(run: Path) -> tuple[World, FloatArray]:
    """A run's world, and what its policy thinks of each user's best items at the end of the log: (U, N), else 0."""
    opened = open_run(run)
    world = opened.data.world
    if world is None:
        raise RequestError(
            f"{run} was trained on a log; sellers need a run of a generated world, whose truth is known."
        )
    policy = opened.policy("promoted" if opened.improvement.promoted is not None else "sft")
    history = History(world.dataset, opened.config.data.history_events)
    states = [history.state(user) for user in world.dataset.users["user_id"].to_list()]
    score_UN = np.zeros((len(states), world.dataset.n_items))
    for score_N, slate in zip(score_UN, policy.recommend(states, min(DEPTH, world.dataset.n_items)), strict=True):
        score_N[list(slate.items_K)] = np.exp(slate.log_probs_K)
    return world, score_UN


def _measured(
    world: World, score_UN: FloatArray | None, settings: MarketSettings, sellers: int, rounds: int, seed: int
) -> SeedRows:
    n_items = world.dataset.n_items
    if sellers > n_items:
        raise RequestError(f"There are {n_items} items for {sellers} sellers; give fewer sellers.")
    owner_N = numpy_stream(seed, "sellers", "owners").permutation(np.arange(n_items) % sellers)
    market = Market(world, owner_N, settings)
    rankings: dict[str, tuple[Ranking, FloatArray | None]] = {
        name: (ranking, None) for name, ranking in RANKINGS.items()
    }
    if score_UN is not None:
        rankings[POLICY] = (Ranking(), score_UN)
    facts: dict[str, Any] = {}
    for name, (ranking, score) in track(rankings.items(), "markets"):
        make = partial(MarketRecommender, market, ranking, score)
        # the same people come and the same actions are explored, whoever ranks
        learnt = play(market, make(), numpy_stream(seed, "sellers", "rounds"), rounds=rounds)
        # at list prices everything earns what was expected, so a recommender that learns stays as it is
        listed = _met(market, make(), np.full(market.n_sellers, LISTED))
        facts[name] = {"learnt": learnt.late, "listed": _figures(*listed), "curve": learnt.price_T}
        if not ranking.learns:
            figures, still = settled(market, make())
            facts[name] |= {"best responses": figures, "settled": still}
    return SeedRows(seed, world.dataset.manifest.content_hash, facts=facts)


def _answer(found: Pooled, settings: MarketSettings) -> Answer:
    names = list(found.seeds[0].facts)

    def by_seed(name: str, way: str, figure: str) -> FloatArray:
        return np.array([one.facts[name][way][figure] for one in found.seeds])

    figures: dict[str, Any] = {"market": dataclasses.asdict(settings), "recommenders": {}}
    rows, against = [], []
    for name in names:
        ways = [way for way in ("listed", "learnt", "best responses") if way in found.seeds[0].facts[name]]
        own: dict[str, Any] = {}
        for way in ways:
            means = {key: float(by_seed(name, way, key).mean()) for key in ("price", "promoted", *SHOWN)}
            own[way] = means
            rows.append((name, way, *(f"{value:.3f}" for value in means.values())))
        gains = {
            "sellers learn": {key: by_seed(name, "learnt", key) - by_seed(name, "listed", key) for key in SHOWN[:3]},
            f"less {BLIND}": {key: by_seed(name, "learnt", key) - by_seed(BLIND, "learnt", key) for key in SHOWN[:3]},
        }
        for way, each in gains.items():
            if way == f"less {BLIND}" and name == BLIND:
                continue
            intervals = {key: t_interval(values) for key, values in each.items()}
            own[way] = {key: dataclasses.asdict(interval) for key, interval in intervals.items()}
            against.append((name, way, *(signed(interval, 3) for interval in intervals.values())))
        if "best responses" in ways:
            own["settled"] = [one.facts[name]["settled"] for one in found.seeds]
        figures["recommenders"][name] = own
    note = "Figures a visit, in list prices; surplus in units of ln(price). Means over worlds."
    columns = ("recommender", "sellers", "price", "promoted", *SHOWN)
    told = "Student's t over worlds, 95%; the same people and explored actions on both sides."
    sheets = (
        Sheet("What sellers ask, and what comes of it", columns, rows, note),
        Sheet("Differences", ("recommender", "what", "users' surplus", "sales", "sellers' profit"), against, told),
    )
    return Answer("Sellers who learn, and who ranks", figures, sheets, plots={"prices": _prices(found, names)})


def _prices(found: Pooled, names: Sequence[str]) -> str:
    """The price that is looked at while sellers learn, by recommender."""
    with style():
        figure, (axis,) = panels(1, 1, width=7.2, height=3.2)
        for name, colour in zip(names, (BLUE, ORANGE, GREEN, INK, MUTED, BLUE), strict=False):
            curves = np.array([one.facts[name]["curve"] for one in found.seeds])
            line = "--" if name == POLICY else "-"
            axis.plot(
                np.linspace(0, 100, curves.shape[1]), curves.mean(0), line, color=colour, label=name, linewidth=1.3
            )
        axis.set_xlabel("rounds (%)")
        axis.set_ylabel("price that is looked at")
        axis.legend(fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return to_svg(figure, "Prices while sellers learn, by who ranks")
