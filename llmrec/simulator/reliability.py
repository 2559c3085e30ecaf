"""Reliability of a behaviour model: what was predicted against what happened, for the diagram."""

from __future__ import annotations

import numpy as np

from llmrec.dataset.impressions import Impressions
from llmrec.simulator.binning import bins_of
from llmrec.simulator.ensemble import Predictor
from llmrec.simulator.log import read_log
from llmrec.simulator.metrics import predict_log, users_of


def reliability(model: Predictor, impressions: Impressions, bins: int = 10) -> dict[str, list[dict[str, float]]]:
    """Bins of nearly equal count of the predictions on held-out impressions; equal predictions share one.

    Returns:
        For "click" and "click_and_conversion": per bin the mean prediction, the observed rate with its 95% interval
        over users (low, high), and the count.
    """
    n_items = int(np.max(impressions.item_M, initial=0)) + 1
    log = read_log(impressions, n_items)
    found = predict_log(model, list(impressions.states), log)
    pairs = {
        "click": (found.click_BK, log.click_M),
        "click_and_conversion": (found.click_BK * found.conversion_BK, log.conversion_M),
    }
    user_M = users_of(list(impressions.states), log)
    return {name: bins_of(np.asarray(p, float), np.asarray(y, float), bins, user_M) for name, (p, y) in pairs.items()}
