"""A blend fitted: a log is counted, and the columns are weighed on held-out choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from llmrec.seeding import numpy_stream
from llmrec.simulator.blend.asked import Asked, alternatives, best_settings, choices_asked
from llmrec.simulator.blend.blended import Blend, parts_of
from llmrec.simulator.blend.counts import Choices, Likeness, Traces, users_of
from llmrec.simulator.blend.weights import COLUMNS, Rivals, chosen_weights
from llmrec.simulator.features import FeatureSpace
from llmrec.simulator.log import Log
from llmrec.types import FloatArray, IntArray, State

LEAST = 30
"""Held-out choices below which nothing is weighed: weights of so few would be noise."""
ALTERNATIVES, FOREMOST = 400, 40
ASKED = 600
"""Held-out choices that settings of co-visitation are chosen by."""


def fit_blend(
    log: Log,
    held_out: Log,
    states: Sequence[State],
    space: FeatureSpace,
    network: Callable[[IntArray, IntArray], FloatArray],
    seed: int,
    *,
    repeats: bool = True,
) -> Blend | None:
    """Counts `log` and weighs the columns on the choices of `held_out`; None where these are fewer than `LEAST`.

    Args:
        log: fitted impressions, whose clicks are counted.
        held_out: others, later ones as a rule.
        states: what `row_M` of both points to.
        space: the encoders of the model.
        network: click logits of pairs (state row, item).
        seed: of the samples of choices and alternatives.
        repeats: whether a user may choose an item again.
    """
    stream = numpy_stream(seed, "simulator", "blend")
    asked, row_C = choices_asked(log, held_out, states, space.n_items, repeats, stream)
    if len(row_C) < LEAST:
        return None
    few = np.sort(stream.permutation(len(row_C))[:ASKED])
    choices, likeness = Choices.of(log, states), Likeness(space.texts)
    settings = best_settings(choices, asked.part(few), likeness)
    blend = Blend(Traces.of(choices, space.n_items, settings), space, np.eye(len(COLUMNS))[0])
    vars(blend)["_texts"] = likeness  # the same texts
    drawn_CA = alternatives(asked, ALTERNATIVES, stream)
    drawn_JCA, best_CA, best_JCA = np.empty((len(COLUMNS), *drawn_CA.shape)), [], []
    for rows in parts_of(len(row_C), space.n_items):
        found_BNJ = blend.columns(asked.states[rows])
        if not repeats:
            found_BNJ[..., COLUMNS.index("again") - 1] = 0.0
        best_BA = _foremost(found_BNJ, asked, rows)
        drawn_JCA[1:, rows] = _picked(found_BNJ, drawn_CA[rows])
        best_CA.append(best_BA)
        best_JCA.append(_picked(found_BNJ, best_BA))

    def by_network(item_CA: IntArray) -> FloatArray:
        row_M = np.repeat(row_C, item_CA.shape[1])
        return np.asarray(network(row_M, item_CA.clip(min=0).ravel()).reshape(item_CA.shape))

    drawn_JCA[0] = by_network(drawn_CA)
    foremost_CA = np.concatenate(best_CA)
    foremost_JCA = np.concatenate([by_network(foremost_CA)[None], np.concatenate(best_JCA, axis=1)])
    rivals = Rivals(drawn_JCA, drawn_CA >= 0), Rivals(foremost_JCA, foremost_CA >= 0)
    weight_J = chosen_weights(*rivals, users_of(states)[row_C])
    return replace(blend, weight_J=weight_J)


def _picked(column_BNJ: FloatArray, item_BA: IntArray) -> FloatArray:
    """The columns of the items `item_BA` (-1 as item 0): (J, B, A)."""
    return np.moveaxis(np.take_along_axis(column_BNJ, item_BA.clip(min=0)[..., None], axis=1), 2, 0)


def _foremost(column_BNJ: FloatArray, asked: Asked, rows: slice) -> IntArray:
    """The choices `rows`, then the items that any column puts among its first `FOREMOST`: (B, A), -1 padding.

    Whatever the weights, what a sum of the columns puts first is hardly elsewhere.
    """
    open_BN, target_B = asked.open_CN[rows].copy(), asked.target_C[rows]
    open_BN[np.arange(len(target_B)), target_B] = False
    many = min(FOREMOST, open_BN.shape[1] - 1)
    taken_BN = np.zeros_like(open_BN)
    for place in range(column_BNJ.shape[2]):
        score_BN = np.where(open_BN, column_BNJ[..., place], -np.inf)
        np.put_along_axis(taken_BN, np.argpartition(-score_BN, many - 1, axis=1)[:, :many], True, axis=1)
    taken_BN &= open_BN
    found_BA = np.full((len(target_B), 1 + FOREMOST * column_BNJ.shape[2]), -1, dtype=np.int64)
    found_BA[:, 0] = target_B
    for place, taken_N in enumerate(taken_BN):
        items = np.flatnonzero(taken_N)
        found_BA[place, 1 : 1 + len(items)] = items
    return found_BA
