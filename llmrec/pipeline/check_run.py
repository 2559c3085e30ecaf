"""What decides whether a run can end, checked once its data are there and before anything is trained.

Each stage's check lies beside the stage and calls what the stage itself will call. Settings that need no data to be
judged are refused before, by `pipeline.run.check_config`.
"""

from __future__ import annotations

from collections.abc import Callable

from llmrec.config import RunConfig
from llmrec.errors import DataError
from llmrec.pipeline.algorithms import check_algorithm_on
from llmrec.pipeline.algorithms.reward import check_terms
from llmrec.pipeline.data import RunData
from llmrec.pipeline.sft import check_targets
from llmrec.pipeline.simulation import check_simulation
from llmrec.pipeline.wording import check_wording
from llmrec.pipeline.work import say

SAMPLE = 4000
"""States of a part that are looked at where there are many: what is not refused for these is not for all."""
CHECKS: tuple[Callable[[RunConfig, RunData, int | None], None], ...] = (
    check_simulation,
    check_terms,
    check_algorithm_on,
)


def check_run(config: RunConfig, data: RunData) -> None:
    """Refuses, before anything is trained, data that a run of this configuration could not be finished on.

    Raises:
        LLMRecError: what is missing, and how to mend it.
    """
    items = data.dataset.n_items
    if items < 2:
        raise DataError("The catalogue has one item, so there is nothing to choose between; add items.")
    check_wording(config, data)
    check_targets(config, data)
    for check in CHECKS:
        _tried(check, config, data)
    wanted = max(*config.evaluation.k, config.gate.slate)
    if wanted > items:
        say(
            f"  The catalogue has {items} items: lists are of {items}, not of {wanted} (evaluation.k, gate.slate).",
            style="dim",
        )


def _tried(check: Callable[[RunConfig, RunData, int | None], None], config: RunConfig, data: RunData) -> None:
    """A check on a sample of a large log, and on all of it only where the sample does not suffice."""
    if data.dataset.events.height > 10 * SAMPLE and config.simulator.correction == "none":
        try:
            return check(config, data, SAMPLE)
        except DataError:
            pass
    return check(config, data, None)
