"""Open Bandit: each of two policies valued from the other's log, and held against its own log's mean.

The target's probability of an item at a place is 1 / N for the random policy, and for Thompson sampling the share of
its own impressions of that place (its posterior moved during the week, so this is its average, known up to sampling
error). The log holds single impressions, not whole slates: item-position IPS is then the sum over places of the mean
of w r at that place, and is unbiased where clicks depend on item and place only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmrec.dataset.importers.open_bandit import PLACES, import_open_bandit
from llmrec.evaluation.off_policy.evaluate import EvaluationSettings, evaluate_policy
from llmrec.evaluation.off_policy.intervals import Ratio, ratio_interval
from llmrec.evaluation.off_policy.log import BanditLog
from llmrec.evaluation.off_policy.outcome import LogisticOutcome
from llmrec.types import FloatArray, IntArray

CAMPAIGNS = ("men", "women")


@dataclass(frozen=True)
class CampaignLog:
    """M impressions: item, place (from 0), click, propensity; `n_items` of the campaign and the file's hash."""

    item_M: IntArray
    place_M: IntArray
    click_M: FloatArray
    propensity_M: FloatArray
    n_items: int
    content_hash: str

    @classmethod
    def of(cls, source: Path, policy: Any, campaign: Any) -> CampaignLog:
        """Imports one policy's log."""
        dataset = import_open_bandit(source, policy=policy, campaign=campaign)
        shown = dataset.events.filter(pl.col("kind") == "impression")
        clicked = dataset.events.filter(pl.col("kind") == "click")["user_id"]
        return cls(
            shown["item_id"].replace_strict(dataset.item_index, return_dtype=pl.Int64).to_numpy(),
            shown["position"].cast(pl.Int64).to_numpy(),
            shown["user_id"].is_in(clicked.implode()).cast(pl.Float64).to_numpy(),
            shown["propensity"].to_numpy(),
            dataset.n_items,
            dataset.manifest.content_hash,
        )

    def shares(self) -> FloatArray:
        """Share of each item among the impressions of each place, (places, N)."""
        count_KN = np.zeros((PLACES, self.n_items))
        np.add.at(count_KN, (self.place_M, self.item_M), 1.0)
        found: FloatArray = count_KN / count_KN.sum(axis=1, keepdims=True)
        return found


def run_open_bandit(source: Path, *, seed: int = 0) -> list[dict[str, Any]]:
    """Both directions in both campaigns: estimates, overlap, refusal and the other log's own mean."""
    found = []
    for campaign in CAMPAIGNS:
        logs = {policy: CampaignLog.of(source, policy, campaign) for policy in ("random", "bts")}
        for logging, target in (("random", "bts"), ("bts", "random")):
            own = logs[target]
            chance_KN = own.shares() if target == "bts" else np.full((PLACES, own.n_items), 1 / own.n_items)
            found.append(_one(logs[logging], own, chance_KN, f"{campaign}: {logging} → {target}", seed))
    return found


def _one(shown: CampaignLog, own: CampaignLog, chance_KN: FloatArray, name: str, seed: int) -> dict[str, Any]:
    log = BanditLog(
        shown.item_M,
        shown.propensity_M,
        shown.click_M,
        shown.n_items,
        states_MF=np.eye(PLACES)[shown.place_M],
    )
    settings = EvaluationSettings(outcome=LogisticOutcome(), refuse=False, seed=seed)
    report = evaluate_policy(log, lambda rows: chance_KN[shown.place_M[rows]], settings)
    truth = ratio_interval(Ratio.mean(own.click_M))
    weight_M = chance_KN[shown.place_M, shown.item_M] / shown.propensity_M
    places = item_position(weight_M, shown.click_M, shown.place_M)
    own_places = item_position(np.ones(len(own.click_M)), own.click_M, own.place_M)
    return {
        "pair": name,
        "own_log": asdict(truth),
        "clicks": [int(shown.click_M.sum()), int(own.click_M.sum())],
        "content_hashes": [shown.content_hash, own.content_hash],
        **report.to_json(),
        "item_position_ips": places,
        "own_log_item_position": own_places,
    }


def item_position(weight_M: FloatArray, click_M: FloatArray, place_M: IntArray) -> dict[str, float]:
    """Clicks of a whole slate by item-position IPS from single impressions: places are independent strata."""
    found = [ratio_interval(Ratio.mean((weight_M * click_M)[place_M == k])) for k in range(PLACES)]
    value = float(sum(part.mean for part in found))
    half = float(np.sqrt(sum((part.high - part.mean) ** 2 for part in found)))
    return {"value": value, "low": value - half, "high": value + half}
