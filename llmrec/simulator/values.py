"""Expected values: ratings, amounts or seconds watched, from all of a log or from what users picked themselves.

    log = with_values(dataset, impressions(dataset, split, "train"))
    fit_behaviour(dataset, log, architecture="gru", ...).expected_value(states, items_BK)

`fit_values` learns the value alone, so it serves logs in which everything is "clicked" (rated), and with propensities
it corrects for what users chose to rate (Schnabel et al. 2016).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from llmrec.config import SimulatorSettings
from llmrec.errors import ConfigError, DataError
from llmrec.seeding import stream_seed
from llmrec.simulator.behaviour import check_items, items_of
from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.fitting import pair_logits
from llmrec.simulator.learning import Learner, ValueScale
from llmrec.simulator.log import VALID_SHARE, ImpressionLog, Log, Subset, latest, read_log
from llmrec.simulator.networks import VALUED, Net, encoded, require_architecture
from llmrec.simulator.networks.parts import VALUE
from llmrec.types import FloatArray, IntArray, State


def with_values(dataset: Any, impressions: ImpressionLog, *, within: int = 0) -> Subset:
    """The impressions with `value_M`: the value that the same user left on the same item, nan where there is none.

    Args:
        dataset: The `Dataset` of the impressions.
        impressions: Any of its impressions.
        within: Seconds after the impression in which the value may have come; the first one counts.
    """
    rows = np.asarray(impressions.state_row_M)
    ids = dataset.items["item_id"]
    # A value belongs to the first event of the pair at or after the impression, not to an earlier one: what was rated
    # before cannot be the outcome of being shown.
    shown = pl.DataFrame(
        {
            "user_id": pl.Series([impressions.states[r].user_id for r in rows], dtype=pl.String),
            "item_id": ids[np.asarray(impressions.item_M)],
            "time": pl.Series([impressions.states[r].time for r in rows], dtype=pl.Int64),
            "row": np.arange(len(rows)),
        }
    ).sort("time", nulls_last=True)
    known = dataset.events.filter(pl.col("value").is_not_null()).select("user_id", "item_id", "time", "value")
    by = ["user_id", "item_id"]
    met = shown.join_asof(
        known.sort("time"), on="time", by=by, strategy="forward", tolerance=within, check_sortedness=False
    ).sort("row")
    columns = {name: getattr(impressions, name, None) for name in ("click_M", "conversion_M")}
    optional = {name: getattr(impressions, name, None) for name in ("propensity_M", "position_M")}
    value_M = met["value"].fill_null(float("nan")).to_numpy()
    return Subset(
        list(impressions.states), rows, np.asarray(impressions.item_M), **columns, **optional, value_M=value_M
    )


@dataclass(frozen=True)
class ValueModel:
    """A network that was taught values alone. `facts` says how."""

    architecture: str
    space: FeatureSpace
    net: Net
    scale: ValueScale
    facts: dict[str, Any]

    def expected_value(self, states: Sequence[State], items_BK: IntArray) -> FloatArray:
        """Expected value of each item, in the range of the fitted ones: (B, K); nan for no item (-1)."""
        items_BK = check_items(states, items_BK, self.space.n_items)
        users = encoded(self.net, self.space, states)
        row_M = np.repeat(np.arange(items_BK.shape[0]), items_BK.shape[1])
        logits_MH = pair_logits(self.net, users, row_M, items_BK.clip(min=0).ravel())
        found_BK = self.scale.value(logits_MH[:, VALUE]).reshape(items_BK.shape)
        return np.where(items_BK >= 0, found_BK, np.nan)


def fit_values(
    dataset: Any,
    impressions: ImpressionLog,
    *,
    architecture: str = "logistic",
    seed: int,
    settings: SimulatorSettings,
    valid: ImpressionLog | None = None,
) -> ValueModel:
    """Fits the expected value of what was picked, or with `settings.correction` ips or dr of anything.

    Args:
        dataset: A `Dataset`, or a sequence of items.
        impressions: What was picked, with `value_M`, and `propensity_M` for a correction; rows without a value are
            left out.
        architecture: One with a value head.
        seed: Run seed.
        settings: Epochs, batch size, learning rate, correction, clip.
        valid: Later values for early stopping; without them a tenth is held out.

    Raises:
        DataError: No values, one user, one item, or no propensities for a correction.
        ConfigError: An architecture or correction that has no place here.
    """
    require_architecture(architecture)
    if architecture not in VALUED:
        raise ConfigError(
            f"Architecture {architecture!r} has no value head; choose one of {', '.join(sorted(VALUED))}."
        )
    if settings.correction not in ("none", "ips", "dr"):
        raise ConfigError(f"Key 'simulator.correction' is {settings.correction!r}; values take none, ips or dr.")
    items = items_of(dataset)
    log, states = require_values(impressions, len(items)), list(impressions.states)
    if valid is None:
        # The latest values are held out, as later ones are what a model is asked for.
        late_M = latest(log, states, VALID_SHARE)
        log, held_out = log.part(~late_M), log.part(late_M)
    else:
        held_out = _known(read_log(valid, len(items))).later(len(states))
        states += valid.states
    shown_N = np.bincount(log.item_M, minlength=len(items)).astype(np.float64)
    text_seed = stream_seed(seed, "simulator", "text")
    space = FeatureSpace.fit(items, states[: len(impressions.states)], shown_N, seed=text_seed)
    # The objective is switched off by `value_only`; "funnel" is the one that the doubly robust correction goes with.
    learner = Learner(architecture, space, dataclasses.replace(settings, objective="funnel"), seed)
    net, taught, curve = learner.learn(learner.encoded(states), log, held_out, value_only=True)
    assert taught.scale is not None
    facts = taught.facts(settings) | {"seed": seed, "values": len(log), "valid_loss": list(curve.valid)}
    return ValueModel(architecture, space, net, taught.scale, facts)


def require_values(impressions: ImpressionLog, n_items: int) -> Log:
    """The rows of `impressions` whose values are known.

    Raises:
        DataError: no values, one user, or one item.
    """
    log = _known(read_log(impressions, n_items))
    _require_values(log, impressions.states, n_items)
    return log


def _known(log: Log) -> Log:
    if log.value_M is None:
        raise DataError("The log holds no values; add them with llmrec.simulator.values.with_values.")
    return log.part(np.isfinite(log.value_M))


def _require_values(log: Log, states: Sequence[State], n_items: int) -> None:
    if n_items < 2:
        raise DataError("The catalogue has one item, so there is nothing to compare; add items.")
    if len({states[row].user_id for row in np.unique(log.row_M)}) < 2:
        raise DataError("The values are of one user only; a model of values needs at least two.")
