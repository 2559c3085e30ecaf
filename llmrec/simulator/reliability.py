"""Reliability of a behaviour model: what was predicted against what happened, for the diagram."""

from __future__ import annotations

import numpy as np

from llmrec.dataset.impressions import Impressions
from llmrec.simulator.ensemble import Predictor
from llmrec.simulator.log import read_log
from llmrec.simulator.metrics import predict_log
from llmrec.types import FloatArray


def reliability(model: Predictor, impressions: Impressions, bins: int = 10) -> dict[str, list[dict[str, float]]]:
    """Bins of equal count of the predictions on held-out impressions.

    Returns:
        For "click" and "click_and_conversion": per bin the mean prediction, the observed rate and the count.
    """
    n_items = int(np.max(impressions.item_M, initial=0)) + 1
    log = read_log(impressions, n_items)
    found = predict_log(model, list(impressions.states), log)
    pairs = {
        "click": (found.click_BK, log.click_M),
        "click_and_conversion": (found.click_BK * found.conversion_BK, log.conversion_M),
    }
    return {name: bins_of(np.asarray(p, float), np.asarray(y, float), bins) for name, (p, y) in pairs.items()}


def bins_of(predicted_M: FloatArray, observed_M: FloatArray, bins: int) -> list[dict[str, float]]:
    """Bins of equal count: mean prediction, observed rate and count of each."""
    order = np.argsort(predicted_M, kind="stable")
    return [
        {
            "predicted": float(predicted_M[part].mean()),
            "observed": float(observed_M[part].mean()),
            "count": float(len(part)),
        }
        for part in np.array_split(order, bins)
        if len(part)
    ]
