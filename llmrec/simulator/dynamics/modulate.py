"""How a user's state changes what attracts: the one place where dynamics meet behaviour."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmrec.config import DynamicsSettings
from llmrec.simulator.dynamics.catalogue import ItemTable
from llmrec.simulator.dynamics.state import Float32Array, UserState

_BLOCK = 4096  # users at a time, so that a block's arrays stay in the cache


def modulate(
    users: UserState,
    settings: DynamicsSettings,
    items: ItemTable,
    item_BK: npt.NDArray[np.integer],
    click_BK: npt.NDArray[np.floating],
    conversion_BK: npt.NDArray[np.floating],
) -> tuple[Float32Array, Float32Array]:
    """Probabilities of a click and of a conversion given a click, in the users' present state.

    Base probabilities are those of a user at home: fresh, at the starting trust, and with money. On the scale of
    log-odds, with c the item's category and v its vector, each switch that is on adds

        drift      weight (interest - home) . v        to clicks
        satiation  - weight * s_c                      to clicks
        novelty    weight * appetite (1 - 2 f_c)       to clicks
        trust      weight (t - initial) to clicks, conversion_weight (t - initial) to conversions
        budget     - pressure * price / budget         to conversions, which are 0 where price > budget

    that is p' = p e^delta / (1 - p + p e^delta); so 0 stays 0 and 1 stays 1. With all switches off the base comes
    back unchanged (as float32). Empty places (-1) and users who are not active get 0.

    Args:
        users: B users.
        settings: Weights; switches must be those the users were made with.
        items: The catalogue.
        item_BK: Item indices shown, -1 for an empty place.
        click_BK: Base P(click), or attraction where a choice model follows.
        conversion_BK: Base P(conversion | click).

    Returns:
        Both probabilities, float32 of shape (B, K).
    """
    clicks_BK = np.empty(item_BK.shape, dtype=np.float32)
    conversions_BK = np.empty(item_BK.shape, dtype=np.float32)
    for low in range(0, len(users), _BLOCK):
        part = slice(low, low + _BLOCK)
        block = users.take(part)
        shown_BK = (item_BK[part] >= 0) & block.active_B[:, None]
        clicks, conversions = _shifts(block, settings, items, item_BK[part])
        clicks_BK[part] = _shifted(click_BK[part], clicks) * shown_BK
        conversions_BK[part] = _shifted(conversion_BK[part], conversions) * shown_BK
        if block.budget_B is not None:
            conversions_BK[part] *= items.price_N[item_BK[part]] <= block.budget_B[:, None]
    return clicks_BK, conversions_BK


def _shifts(
    users: UserState, settings: DynamicsSettings, items: ItemTable, item_BK: npt.NDArray[np.integer]
) -> tuple[Float32Array | None, Float32Array | None]:
    """What is added to the log-odds of clicks and of conversions; None for nothing."""
    clicks: list[Float32Array] = []
    conversions: list[Float32Array] = []
    if users.interest_BD is not None and users.home_BD is not None:
        moved_BD = np.float32(settings.drift.weight) * (users.interest_BD - users.home_BD)
        clicks.append(np.matmul(items.vector_ND[item_BK], moved_BD[:, :, None])[..., 0])
    if users.satiation_BC is not None or users.familiarity_BC is not None:
        categories = items.categories
        cell_BK = items.category_N[item_BK] + np.arange(len(users))[:, None] * categories
        if users.satiation_BC is not None:
            clicks.append(users.satiation_BC.reshape(-1)[cell_BK] * np.float32(-settings.satiation.weight))
        if users.familiarity_BC is not None and users.appetite_B is not None:
            drive_B1 = np.float32(settings.novelty.weight) * users.appetite_B[:, None]
            clicks.append(drive_B1 * (1 - 2 * users.familiarity_BC.reshape(-1)[cell_BK]))
    if users.trust_B is not None:
        gained_B1 = (users.trust_B - np.float32(settings.trust.initial))[:, None]
        clicks.append(np.float32(settings.trust.weight) * gained_B1)
        conversions.append(np.float32(settings.trust.conversion_weight) * gained_B1)
    if users.budget_B is not None:
        share_BK = items.price_N[item_BK] / np.maximum(users.budget_B, np.float32(1e-6))[:, None]
        conversions.append(np.float32(-settings.budget.pressure) * np.minimum(share_BK, 1))
    return _sum(clicks), _sum(conversions)


def _sum(parts: list[Float32Array]) -> Float32Array | None:
    if not parts:
        return None
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _shifted(base_BK: npt.NDArray[np.floating], delta_BK: Float32Array | None) -> Float32Array:
    base_BK = np.asarray(base_BK, dtype=np.float32)
    if delta_BK is None:
        return base_BK
    odds_BK = np.exp(delta_BK) * base_BK
    return np.asarray(odds_BK / (1 - base_BK + odds_BK))
