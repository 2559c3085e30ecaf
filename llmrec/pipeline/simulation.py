"""The simulator stage: the reward's behaviour models, the judge, and how well each fits held-out events."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import RunConfig
from llmrec.dataset.impressions import Impressions, impressions
from llmrec.dataset.linking import Funnel
from llmrec.dataset.split import Part
from llmrec.errors import DataError
from llmrec.files import read_json, write_json
from llmrec.pipeline.data import RunData
from llmrec.pipeline.work import Work
from llmrec.simulator.behaviour import BehaviourModel, load_behaviour
from llmrec.simulator.diagnostics import reliability
from llmrec.simulator.ensemble import Ensemble, check_fit, fit_reward_and_judge, load_ensemble
from llmrec.simulator.metrics import fit_report

MANY_TIMES = 10
"""Events with fewer distinct times are not cut well by time."""


@dataclass(frozen=True, slots=True)
class Simulators:
    """What rewards, what judges, the fit of both on the test period, and what the examination says of them."""

    reward: Ensemble
    judge: BehaviourModel
    fit: dict[str, Any]
    exam: dict[str, Any] = field(default_factory=dict)


def simulator_stage(config: RunConfig, data: RunData, work: Work) -> Simulators:
    """Fits reward and judge on the training period (calibrated on the validation period)."""
    tree = config.tree()
    key = {
        "data": data.dataset.manifest.content_hash,
        "config": [tree["simulator"], tree["data"], config.seed],
    }

    def build(out: Path, _: Path) -> None:
        # Fitted on the earliest part, calibrated on the next, reported on the last: calibration on the rows of the
        # fit would repeat its overconfidence, and a report on either would flatter both.
        train, valid, test = (log_of(config, data, part) for part in ("train", "valid", "test"))
        reward, judge = fit_reward_and_judge(
            data.dataset, train, seed=config.seed, settings=config.simulator, valid=valid
        )
        reward.save(out / "reward")
        judge.save(out / "judge")
        fit = {}
        for name, model in (("reward", reward), ("judge", judge)):
            fit[name] = fit_report(model, test, train=train, seed=config.seed)
            fit[name]["reliability"] = reliability(model, test)
        write_json(out / "fit.json", fit)

    folder = work.stage("simulator", key, build)
    items = data.dataset.item_list
    return Simulators(
        load_ensemble(folder / "reward", items),
        load_behaviour(folder / "judge", items),
        read_json(folder / "fit.json"),
    )


def check_simulation(config: RunConfig, data: RunData, limit: int | None) -> None:
    """Refuses, before anything is trained, a log that no behaviour model can be fitted on or met with.

    Args:
        config: the run's.
        data: its data.
        limit: look at a uniform sample of this many states of each part.

    Raises:
        DataError: a part without a state, or see `check_fit`.
    """
    parts: dict[Part, Impressions] = {p: log_of(config, data, p, limit) for p in ("train", "valid", "test")}
    for part, log in parts.items():
        if not len(log.states):
            raise DataError(
                f"The {part} part of the split has no state with an impression or a click, so no user can be met "
                f"there; {widening(config, data, part)}."
            )
    check_fit(data.dataset.n_items, parts["train"], seed=config.seed, settings=config.simulator, valid=parts["valid"])


def widening(config: RunConfig, data: RunData, part: Part) -> str:
    """What makes an empty part of the split larger."""
    if config.data.split != "time":
        return f"give users more events, or choose another data.split than {config.data.split}"
    if part == "valid" and config.data.valid_fraction == 0:
        return "set data.valid_fraction above 0"
    times = data.dataset.events["time"].n_unique()
    if times < MANY_TIMES:
        return f"the events have only {times} distinct times, so choose data.split: leave-last-out"
    return "give more events, or set data.valid_fraction and data.test_fraction otherwise"


def log_of(config: RunConfig, data: RunData, part: Part, limit: int | None = None) -> Impressions:
    """The impressions of a part of the split, with sampled negatives where none were logged.

    With `limit` they are those of a uniform sample of this many states.
    """
    return impressions(
        data.dataset,
        data.split,
        part,
        history_events=config.data.history_events,
        limit=limit,
        negatives=config.simulator.negatives,
        link_window=config.data.link_window,
        seed=config.seed,
        never_drawn=None if data.withheld is None else data.withheld.all_items,
    )


def rates_note(config: RunConfig, data: RunData) -> str:
    """What simulated rates of clicks and conversions are worth: "" where impressions and conversions are logged."""
    found = Funnel.of(data.dataset, data.split.train, config.data.link_window)
    said = []
    if not found.impressions:
        said.append(
            f"No impressions are logged: for each click {config.simulator.negatives} items that the user never "
            "touched were drawn as shown and not clicked. Rates of clicks and conversions are of that mixture: they "
            "compare systems and are no real click rates."
        )
    if not found.converted:
        said.append(
            "No click of the training period was converted: rates of conversions are the simulators' own invention "
            "and mean nothing."
        )
    return " ".join(said)


def one_state_per_user(log: Impressions, limit: int, random: np.random.Generator) -> list[int]:
    """Rows of `log.states`: each user's first state, at most `limit` users drawn at random."""
    # A user with many slates would otherwise count many times, and in an interval as if they were many people.
    first: dict[str | None, int] = {}
    for row, user in enumerate(log.user_ids):
        first.setdefault(user, row)
    rows = np.array(list(first.values()))
    return sorted(random.choice(rows, size=min(limit, len(rows)), replace=False).tolist())
