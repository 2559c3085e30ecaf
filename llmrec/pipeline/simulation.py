"""The simulator stage: the reward's behaviour models, the judge, and how well each fits held-out events."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmrec.config import RunConfig
from llmrec.dataset.impressions import Impressions, impressions
from llmrec.dataset.linking import Funnel, link_feedback
from llmrec.dataset.split import Part
from llmrec.errors import DataError
from llmrec.files import read_json, write_json
from llmrec.pipeline.data import RunData
from llmrec.pipeline.work import Work
from llmrec.seeding import numpy_stream
from llmrec.simulator.behaviour import BehaviourModel
from llmrec.simulator.diagnostics import reliability
from llmrec.simulator.ensemble import Ensemble, check_fit, fit_reward_and_judge, load_ensemble
from llmrec.simulator.judge import load_judge
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
        # who is kept from the fits
        "met": [config.gate.users, config.gate.held_out, config.evaluation.users],
    }

    def build(out: Path, _: Path) -> None:
        # Fitted on the earliest part, calibrated on the next, reported on the last: calibration on the rows of the
        # fit would repeat its overconfidence, and a report on either would flatter both.
        train, valid, test = (log_of(config, data, part) for part in ("train", "valid", "test"))
        met = Met.of(config, valid.user_ids, test.user_ids)
        reward, judge = fit_reward_and_judge(
            data.dataset, train, seed=config.seed, settings=config.simulator, valid=valid, left_out=met.all
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
        load_judge(folder / "judge", items),
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
    check_fit(
        data.dataset.n_items,
        parts["train"],
        seed=config.seed,
        settings=config.simulator,
        valid=parts["valid"],
        left_out=Met.of(config, parts["valid"].user_ids, parts["test"].user_ids).all,
    )


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


@dataclass(frozen=True, slots=True)
class Met:
    """Users who are met when policies are judged, and whom neither reward nor judge was fitted on.

    `gate` are met on the validation period and decide what is promoted, `test` on the test period and have the last
    word. Nobody is both.
    """

    gate: frozenset[str]
    test: frozenset[str]

    @property
    def all(self) -> frozenset[str]:
        """Both."""
        return self.gate | self.test

    @classmethod
    def of(cls, config: RunConfig, valid: Iterable[str | None], test: Iterable[str | None]) -> Met:
        """Draws them: `gate.users` and `evaluation.users`, but at most the share `gate.held_out` each.

        Args:
            config: of the run.
            valid: who has a state in the validation period.
            test: and in the test period.

        Raises:
            DataError: a single user has a state in the validation and the test period.
        """
        later = [{str(user) for user in users if user is not None} for users in (valid, test)]
        everybody = sorted(later[0] | later[1])
        if len(everybody) < 2 or not all(later):
            raise DataError(
                "The gate and the test need different users, but the validation and the test period have "
                f"{len(everybody)} between them; {widening_both(config)}."
            )
        most = max(1, int(config.gate.held_out * len(everybody)))
        order = [everybody[row] for row in numpy_stream(config.seed, "gate", "users").permutation(len(everybody))]
        gate = [user for user in order if user in later[0]][: min(config.gate.users, most)]
        # From the other end, so that both find enough where few users have a state in either period.
        left = [user for user in reversed(order) if user in later[1] and user not in set(gate)]
        if not left:
            left, gate = (
                [gate[-1]],
                gate[:-1] or [user for user in order if user not in gate and user in later[0]][:1],
            )
        if not gate:
            raise DataError(f"The gate and the test need different users; {widening_both(config)}.")
        return cls(frozenset(gate), frozenset(left[: min(config.evaluation.users, most)]))


def met_users(config: RunConfig, data: RunData) -> Met:
    """Who is met at the gate and on the test period of a run."""
    # Only who was shown something: logs with every user's past are made by those who read them.
    valid, test = (
        link_feedback(data.dataset, data.split.part(part), config.data.link_window).shown["user_id"].unique()
        for part in ("valid", "test")
    )
    return Met.of(config, valid, test)


def widening_both(config: RunConfig) -> str:
    """What brings more users into the later periods."""
    if config.data.split == "time":
        return "set data.valid_fraction and data.test_fraction higher, or give events of more users"
    return "give events of more users"


def met_states(config: RunConfig, log: Impressions, users: Collection[str]) -> list[int]:
    """Rows of `log.states` in which users are met when policies are judged (`gate.met`): one of each of the users."""
    if config.gate.met == "first":
        return first_states(log, users)
    rows_of: dict[str, list[int]] = {}
    for row, user in enumerate(log.user_ids):
        if user in users:
            rows_of.setdefault(str(user), []).append(row)
    # A stream for each user: who else is met does not change in which state.
    return sorted(
        rows[int(numpy_stream(config.seed, "met", user).integers(len(rows)))] for user, rows in rows_of.items()
    )


def first_states(log: Impressions, users: Collection[str]) -> list[int]:
    """Rows of `log.states`: the first state of each of the users."""
    # A user with many slates would otherwise count many times, and in an interval as if they were many people.
    first: dict[str, int] = {}
    for row, user in enumerate(log.user_ids):
        if user in users:
            first.setdefault(str(user), row)
    return sorted(first.values())
