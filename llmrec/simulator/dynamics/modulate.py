"""How a user's state changes what attracts: the one place where dynamics meet behaviour."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmrec.config import DynamicsSettings
from llmrec.simulator.dynamics.state import Float32Array, ItemTable, UserState
from llmrec.simulator.log import require_indices

_BLOCK = 1024  # users at a time, so that a block's arrays stay in the cache


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

    Raises:
        DataError: An item index outside the catalogue.
    """
    require_indices(item_BK, len(items))
    clicks_BK = np.empty(item_BK.shape, dtype=np.float32)
    conversions_BK = np.empty(item_BK.shape, dtype=np.float32)
    for low in range(0, len(users), _BLOCK):
        part = slice(low, low + _BLOCK)
        block, block_BK = users.take(part), item_BK[part]
        shown_BK = (block_BK >= 0) & block.active_B[:, None]
        clicks_BK[part] = _shifted(click_BK[part], click_shift(block, settings, items, block_BK)) * shown_BK
        if block.budget_B is not None:
            price_BK = items.price_N.take(block_BK)
            # The budget bounds conversions alone: looking costs nothing.
            shown_BK &= price_BK <= block.budget_B[:, None]
            share_BK = np.minimum(price_BK / np.maximum(block.budget_B, np.float32(1e-6))[:, None], 1)
            shift = np.float32(-settings.budget.pressure) * share_BK
        else:
            shift = None
        if block.trust_B is not None:
            gained_B = np.float32(settings.trust.conversion_weight) * (block.trust_B - settings.trust.initial)
            shift = gained_B[:, None] if shift is None else shift + gained_B[:, None]
        conversions_BK[part] = _shifted(conversion_BK[part], shift) * shown_BK
    return clicks_BK, conversions_BK


def click_shift(
    users: UserState, settings: DynamicsSettings, items: ItemTable, item_BK: npt.NDArray[np.integer]
) -> Float32Array | None:
    """What is added to the log-odds of clicks: shape (B, K) or (B, 1); None for nothing."""
    parts: list[Float32Array] = []
    if users.trust_B is not None:
        parts.append((np.float32(settings.trust.weight) * (users.trust_B - settings.trust.initial))[:, None])
    if users.interest_BD is not None and users.home_BD is not None:
        moved_BD = np.float32(settings.drift.weight) * (users.interest_BD - users.home_BD)
        vectors_BKD = items.vector_ND.take(item_BK.reshape(-1), axis=0).reshape(*item_BK.shape, -1)
        parts.append(np.einsum("bkd,bd->bk", vectors_BKD, moved_BD))
    if users.satiation_BC is not None or users.familiarity_BC is not None:
        cell_BK = items.category_N.take(item_BK)
        # Flat index of (user, category).
        cell_BK += np.arange(len(users))[:, None] * items.categories
        if users.satiation_BC is not None:
            parts.append(users.satiation_BC.reshape(-1).take(cell_BK) * np.float32(-settings.satiation.weight))
        if users.familiarity_BC is not None and users.appetite_B is not None:
            # From +weight * appetite for an unknown category (f = 0) to minus that for one known by heart (f = 1).
            drive_B1 = np.float32(settings.novelty.weight) * users.appetite_B[:, None]
            parts.append(drive_B1 * (1 - 2 * users.familiarity_BC.reshape(-1).take(cell_BK)))
    return sum(parts[1:], parts[0]) if parts else None


def _shifted(base_BK: npt.NDArray[np.floating], delta_BK: Float32Array | None) -> Float32Array:
    base_BK = np.asarray(base_BK, dtype=np.float32)
    if delta_BK is None:
        return base_BK
    # p' = p e^d / (1 - p + p e^d): a shift of log-odds that needs no logarithm and keeps 0 and 1 exact.
    odds_BK = np.exp(delta_BK) * base_BK
    return np.asarray(odds_BK / (1 - base_BK + odds_BK))
