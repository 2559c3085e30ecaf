"""Items as agents: a generated world in which sellers set prices and promotions of the items that they own.

A slate's place k (from 0) is looked at with (k + 1)^-`position_bias`. With f the item's price as a factor of its list
price, and the logits of the world's truth (docs/world.md),

    P(click | looked at) = sigmoid(A - `seen_elasticity` ln f),    P(buy | click) = sigmoid(B - `elasticity` ln f).

All list prices are 1. A sale brings its seller f - `cost`; a promoted item costs its seller `fee` whenever it is
looked at. What a place is worth to a user is the expected gain of choosing freely whether to buy, in units of ln f:
with logistic tastes E[max(0, utility)] / `elasticity` = ln(1 + exp(B - `elasticity` ln f)) / `elasticity` on a click
(the consumer's surplus; Small and Rosen 1981). What comes of slates is told as expectations.

Axes: B users met, N items, K places, S sellers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.special import expit, logit

from llmrec.dataset.world.world import World
from llmrec.errors import RequestError
from llmrec.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, kw_only=True)
class MarketSettings:
    """What holds for every seller and user."""

    cost: float = 0.6
    """Of making an item, as a share of its list price."""
    elasticity: float = 3.0
    """What ln f takes off the logit of buying."""
    seen_elasticity: float = 0.5
    """Likewise off the logit of a click: the price stands on the card."""
    fee: float = 0.002
    """Paid for each look at a promoted item, in list prices."""
    position_bias: float = 0.5

    def __post_init__(self) -> None:
        if self.elasticity <= 0 or self.seen_elasticity < 0 or not 0 <= self.cost < 1 or self.fee < 0:
            raise RequestError(
                "A market needs an elasticity above 0, a cost from 0 to below 1, and neither a fee nor an "
                "elasticity of clicks below 0."
            )


@dataclass(frozen=True)
class Offer:
    """What sellers ask for: price factors (N,), and which items are promoted (N,)."""

    factor_N: FloatArray
    promoted_N: BoolArray

    @classmethod
    def listed(cls, items: int) -> Offer:
        """Everybody at the list price, nothing promoted."""
        return cls(np.ones(items), np.zeros(items, dtype=bool))


@dataclass(frozen=True)
class Outcome:
    """What comes of slates, place by place, (B, K) each: as is to be expected.

    Attributes:
        looks: the place is looked at.
        clicks: and clicked.
        sales: and bought.
        revenue: paid for it, in list prices.
        profit: of the item's seller, fees taken off.
        fees: paid for promotion.
        surplus: of the user.
    """

    looks: FloatArray
    clicks: FloatArray
    sales: FloatArray
    revenue: FloatArray
    profit: FloatArray
    fees: FloatArray
    surplus: FloatArray

    def per_visit(self) -> dict[str, float]:
        """Sums over a slate's places, means over users."""
        return {field.name: float(getattr(self, field.name).sum(1).mean()) for field in fields(self)}


class Market:
    """The world of sellers: answers what comes of slates under an offer.

    Args:
        world: its truth is what users do.
        owner_N: the seller of each item, from 0.
        settings: of the market.

    Raises:
        RequestError: owners that do not fit the catalogue.
    """

    def __init__(self, world: World, owner_N: IntArray, settings: MarketSettings | None = None) -> None:
        if owner_N.shape != (world.dataset.n_items,) or (owner_N < 0).any():
            raise RequestError(f"There are {world.dataset.n_items} items; give each an owner, from 0.")
        self.owner_N, self.settings = owner_N, settings or MarketSettings()
        users = world.dataset.users["user_id"].to_list()
        self._click_UN = logit(world.expected_click_BN(users))
        self._buy_UN = logit(world.expected_conversion_BN(users))

    @property
    def n_users(self) -> int:
        """U."""
        return len(self._click_UN)

    @property
    def n_items(self) -> int:
        """N."""
        return len(self.owner_N)

    @property
    def n_sellers(self) -> int:
        """S."""
        return int(self.owner_N.max()) + 1

    def worth_BN(self, users_B: IntArray, factor_N: FloatArray, click: float = 1.0, sale: float = 3.0) -> FloatArray:
        """`click` P(click) + `sale` P(sale) of every item that is looked at under these prices: (B, N)."""
        price_N = np.log(factor_N)
        clicks_BN = expit(self._click_UN[users_B] - self.settings.seen_elasticity * price_N)
        buys_BN = expit(self._buy_UN[users_B] - self.settings.elasticity * price_N)
        worth_BN: FloatArray = clicks_BN * (click + sale * buys_BN)
        return worth_BN

    def looks_K(self, places: int) -> FloatArray:
        """P(place is looked at), (K,)."""
        looks_K: FloatArray = (1.0 + np.arange(places)) ** -self.settings.position_bias
        return looks_K

    def meet(self, users_B: IntArray, items_BK: IntArray, offer: Offer) -> Outcome:
        """What is to be expected of slates under an offer.

        Args:
            users_B: rows of the world's users.
            items_BK: what each is shown, best place first.
            offer: of all items.
        """
        settings, at = self.settings, (users_B[:, None], items_BK)
        factor_BK = offer.factor_N[items_BK]
        price_BK = np.log(factor_BK)
        looks_BK = np.broadcast_to(self.looks_K(items_BK.shape[1]), items_BK.shape)
        buy_BK = self._buy_UN[at] - settings.elasticity * price_BK
        clicks_BK = looks_BK * expit(self._click_UN[at] - settings.seen_elasticity * price_BK)
        sales_BK = clicks_BK * expit(buy_BK)
        fees_BK = settings.fee * looks_BK * offer.promoted_N[items_BK]
        return Outcome(
            looks=looks_BK,
            clicks=clicks_BK,
            sales=sales_BK,
            revenue=sales_BK * factor_BK,
            profit=sales_BK * (factor_BK - settings.cost) - fees_BK,
            fees=fees_BK,
            surplus=clicks_BK * np.logaddexp(0.0, buy_BK) / settings.elasticity,
        )

    def of_sellers(self, figure_BK: FloatArray, items_BK: IntArray) -> FloatArray:
        """A figure of an outcome summed by the sellers of the items: (S,)."""
        summed_S = np.zeros(self.n_sellers)
        np.add.at(summed_S, self.owner_N[items_BK], figure_BK)
        return summed_S
