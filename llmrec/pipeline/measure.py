"""Every system on the same rows: ranking on held-out events, the judge's view of slates, and a world's truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmrec.baselines.base import item_counts, positives
from llmrec.config import RunConfig
from llmrec.dataset.examples import Examples
from llmrec.errors import ConfigError
from llmrec.evaluation.leaks import check_leaks
from llmrec.evaluation.offline import Figures, list_figures
from llmrec.evaluation.ranking import slates_to_items
from llmrec.evaluation.simulated import Judge, JudgeError, simulate
from llmrec.evaluation.table import Cell, Comparison
from llmrec.evaluation.variety import Change, Variety
from llmrec.evaluation.witnesses import Witnesses
from llmrec.pipeline.algorithms.sessions import judged_sessions
from llmrec.pipeline.data import RunData
from llmrec.pipeline.panel import in_sessions, judged_measure, witnesses_of
from llmrec.pipeline.ruled import ruled_note, run_rules, shown
from llmrec.pipeline.sft import targets
from llmrec.pipeline.simulation import log_of, met_states, met_users, rates_note
from llmrec.pipeline.systems import TruthJudge
from llmrec.progress import console
from llmrec.simulator.behaviour import BehaviourModel
from llmrec.training.obeyed import Obeyed
from llmrec.types import FloatArray, IntArray, Ranker, Slate, State

DEPLOYED = {"click_rate": "clicks", "conversion_rate": "conversions", "value@1": "value, top item"}
HEARD = "Where the log shows what a system shows, too: outcomes less what the judge expects, over their propensities."
DOUBT = "Intervals hold the judge's own error: it was corrected on a sample of users, drawn anew with those met."


@dataclass(frozen=True, slots=True)
class Arena:
    """What all systems are measured on: held-out events, and users met at their first held-out state."""

    examples: Examples
    states: list[State]
    seen: list[IntArray]
    judges: dict[str, Judge]
    n_items: int
    repeat: str
    note: str = ""
    """What the check for leaks says of the split."""
    witnesses: Witnesses | None = None
    """What the log of the period says of the judge: part of what it expects where `gate.judged` asks for it, else
    shown beside that where the log has propensities."""
    rates: str = ""
    """What rates of clicks and conversions are worth, where negatives were sampled or nothing was converted."""
    rules: Obeyed | None = None
    """What the lists of all systems obey; None for none."""

    @property
    def ruled(self) -> str:
        """What a table says of rules; "" where there are none."""
        return ruled_note(self.rules)


def check_evaluation(config: RunConfig) -> None:
    """Refuses, before anything is made, settings of the evaluation that cannot work.

    Raises:
        ConfigError: a key below `evaluation`.
    """
    settings = config.evaluation
    if not settings.k or min(settings.k) < 1:
        raise ConfigError("Key 'evaluation.k' must hold at least one whole number, each 1 or more.")
    for key in ("users", "test_events", "beams", "bootstrap"):
        if getattr(settings, key) < 1:
            raise ConfigError(f"Key 'evaluation.{key}' is {getattr(settings, key)}, but it must be at least 1.")
    if settings.before_sft < 0:
        raise ConfigError(f"Key 'evaluation.before_sft' is {settings.before_sft}, but it must be at least 0.")


def make_arena(config: RunConfig, data: RunData, judge: Judge) -> Arena:
    """The test rows of a run; a generated world adds its truth as a second judge.

    Raises:
        DataError: training would know what it is tested on (see `check_leaks`).
    """
    log = log_of(config, data, "test")
    met = met_users(config, data)
    rows = met_states(config, log, met.test)
    judges: dict[str, Judge] = {"judge": judge}
    if data.world is not None:
        judges["truth"] = TruthJudge(data.world)
    examples = targets(config, data, "test", config.evaluation.test_events)
    note = check_leaks(data.dataset, data.split.train, examples, data.split.name)
    return Arena(
        examples,
        [log.states[r] for r in rows],
        [log.seen[r] for r in rows],
        judges,
        data.dataset.n_items,
        data.dataset.manifest.repeat,
        note,
        # Of the test period, which decided nothing before, as those who are met.
        None
        if in_sessions(config)
        else witnesses_of(config, log, judge, met, config.evaluation.test_events, shown=True),
        rates_note(config, data),
        run_rules(config, data),
    )


@dataclass(frozen=True, slots=True)
class SystemFigures:
    """All systems' figures.

    `ranking` is by system, arrays over test events; `deployed` by judge and system, arrays over users; `slates` are
    what the users were given. `doubt` has the rows of `deployed` once more by each replicate of the judge, (R, B),
    where it has any.
    """

    ranking: dict[str, Figures]
    deployed: dict[str, dict[str, Figures]]
    slates: dict[str, list[Slate]]
    doubt: dict[str, dict[str, Figures]] = field(default_factory=dict)

    def means(self) -> dict[str, Any]:
        """Means by kind, system and figure, for metrics.json."""
        kinds = {"ranking": self.ranking, **self.deployed}
        return {
            k: {n: {m: float(np.mean(v)) for m, v in r.items()} for n, r in rows.items()} for k, rows in kinds.items()
        }


@dataclass(frozen=True, slots=True)
class Tables:
    """The comparison as tables: `deployed` by judge, and `summary`, their main columns side by side.

    `sessions` is what the judge expects of sessions with the systems that the run decides between, where it trained
    in sessions; the verdict is on it then. `witnessed` is what the log makes of the judge's figures of the same two,
    where it has propensities and the judge alone decides.
    """

    ranking: Comparison
    deployed: dict[str, Comparison]
    summary: Comparison
    sessions: Comparison | None = None
    witnessed: Comparison | None = None

    @property
    def judged(self) -> dict[str, Comparison]:
        """`deployed`, and sessions and witnesses if there are any."""
        more = {"sessions": self.sessions, "witnessed": self.witnessed}
        return {**self.deployed, **{name: table for name, table in more.items() if table is not None}}


def measure_run(config: RunConfig, arena: Arena, systems: Mapping[str, Ranker]) -> SystemFigures:
    """Measures every system under the arena's rules; the illegal share counts places outside the catalogue, excluded
    or doubled.
    """
    ranking: dict[str, Figures] = {}
    deployed: dict[str, dict[str, Figures]] = {judge: {} for judge in arena.judges}
    doubt: dict[str, dict[str, Figures]] = {judge: {} for judge in arena.judges}
    slates: dict[str, list[Slate]] = {}
    top = min(max(config.evaluation.k), arena.n_items)
    cutoffs = tuple(dict.fromkeys(min(k, top) for k in config.evaluation.k))
    excluded = arena.examples.seen if arena.repeat == "exclude" else None
    chosen = [e.target for e in arena.examples]
    for name, system in systems.items():
        console.print(f"  measuring {name}", style="dim")
        system = shown(system, arena.rules)
        found = system.recommend([e.state for e in arena.examples], top, seen=arena.examples.seen)
        items_BK = slates_to_items(found, top)
        ranking[name] = list_figures(items_BK, chosen, arena.n_items, cutoffs, excluded)
        slates[name] = system.recommend(arena.states, top, seen=arena.seen)
        errors = None
        if arena.witnesses is not None and config.gate.judged == "witnessed":
            errors = _errors(arena.witnesses, system, top)
        for judge in arena.judges:
            own = errors if judge == "judge" else None
            deployed[judge][name], doubt[judge][name] = _deploy(config, arena, slates[name], judge, top, own)
    return SystemFigures(ranking, deployed, slates, doubt)


def _errors(witnesses: Witnesses, system: Ranker, top: int) -> tuple[JudgeError, JudgeError]:
    """What witnesses say of a system's lists, and of their top items."""
    heard_SK = witnesses.lists(system, top)
    return witnesses.error(heard_SK), witnesses.error(heard_SK[:, :1])


def _deploy(
    config: RunConfig,
    arena: Arena,
    slates: Sequence[Slate],
    judge: str,
    top: int,
    errors: tuple[JudgeError, JudgeError] | None,
) -> tuple[Figures, Figures]:
    weights = {"click": config.reward.click, "conversion": config.reward.conversion}
    whole = simulate(slates, arena.states, arena.judges[judge], k=top, **weights)
    first = simulate(slates, arena.states, arena.judges[judge], k=1, **weights)
    if errors is not None:
        whole, first = (one.corrected(error, **weights) for one, error in zip((whole, first), errors, strict=True))
    doubt: Figures = {**whole.replicas, **({"value@1": first.replicas["value"]} if first.replicas else {})}
    return {**whole.per_user, "value@1": first.value_B}, doubt


def make_tables(config: RunConfig, arena: Arena, measured: SystemFigures, reference: str) -> Tables:
    """Tables with bootstrap intervals, differences paired to `reference`; ranking rows are clustered by user."""
    common: dict[str, Any] = {
        "reference": reference,
        "samples": config.evaluation.bootstrap,
        "seed": config.seed,
        "percent": ("click_rate", "conversion_rate", "illegal"),
        "lower_is_better": ("illegal",),
    }
    users = [str(e.state.user_id) for e in arena.examples]
    title = f"Ranking of {len(arena.examples)} held-out events over all {arena.n_items} items"
    ranking = Comparison.of(title, measured.ranking, users=users, note=_said(arena.note, arena.ruled), **common)
    titles = {
        "judge": f"Deployed slates of {len(arena.states)} users, as the judge expects them (it was not the reward)",
        "truth": f"Deployed slates of {len(arena.states)} users, true expectation of the generated world",
    }
    common["labels"] = DEPLOYED
    deployed = {
        judge: Comparison.of(
            titles[judge],
            rows,
            note=_said(arena.rates, arena.ruled, DOUBT if any(measured.doubt.get(judge, {}).values()) else ""),
            replicas=_arrays(measured.doubt.get(judge, {})),
            **common,
        )
        for judge, rows in measured.deployed.items()
    }
    return Tables(
        ranking, deployed, dataclasses.replace(_summary(ranking, deployed), note=_said(arena.rates, arena.ruled))
    )


def _said(*sentences: str) -> str:
    """One a line, so that tables that are shown as one say each once."""
    return "\n".join(filter(None, sentences))


def session_table(
    config: RunConfig, data: RunData, arena: Arena, systems: Mapping[str, Ranker], reference: str
) -> Comparison | None:
    """Sessions of the arena's users, who behave as the judge expects; None where the run is not of sessions."""
    judge = arena.judges["judge"]
    if not in_sessions(config) or not isinstance(judge, BehaviourModel):
        return None
    meeting = judged_sessions(config, data, judge, arena.states, arena.seen)
    found = {}
    for name, system in systems.items():
        console.print(f"  sessions with {name}", style="dim")
        found[name] = meeting.play(shown(system, arena.rules), config, doubt=True)
    doubted = {name: dict(figures.replicas) for name, figures in found.items()}
    return Comparison.of(
        f"Sessions of {len(arena.states)} users, up to {config.session.turns} turns of {config.session.slate}, as "
        "the judge expects them",
        {name: dict(figures.per_user) for name, figures in found.items()},
        reference=reference,
        samples=config.evaluation.bootstrap,
        seed=config.seed,
        lower_is_better=("left",),
        labels={"value": f"value of {judged_measure(config)}", "first_turn": "value of the first turn"},
        replicas=doubted,
        note=_said(arena.ruled, DOUBT if any(doubted.values()) else ""),
    )


def witnessed_table(
    config: RunConfig, arena: Arena, measured: SystemFigures, systems: Mapping[str, Ranker], reference: str
) -> Comparison | None:
    """The judge's figures as the log's own feedback puts them right.

    None where it is not asked or is in them, and where the log shows too little of what a system shows; without the
    top item's value where it shows too little of that.
    """
    if arena.witnesses is None or config.gate.judged == "witnessed":
        return None
    top = min(max(config.evaluation.k), arena.n_items)
    found: dict[str, tuple[Figures, Figures]] = {}
    first = True
    for name, system in systems.items():
        console.print(f"  what the log says of {name}", style="dim")
        errors = _errors(arena.witnesses, shown(system, arena.rules), top)
        if not errors[0].found:
            return None
        found[name] = _deploy(config, arena, measured.slates[name], "judge", top, errors)
        first &= errors[1].found
    kept = [m for m in next(iter(found.values()))[0] if first or m != "value@1"]
    return Comparison.of(
        f"The same slates, the judge put right by logged feedback in {len(arena.witnesses.states)} other states",
        {name: {m: figures[m] for m in kept} for name, (figures, _) in found.items()},
        reference=reference,
        samples=config.evaluation.bootstrap,
        seed=config.seed,
        percent=("click_rate", "conversion_rate"),
        labels=DEPLOYED,
        replicas=_arrays({name: {m: doubt[m] for m in kept if m in doubt} for name, (_, doubt) in found.items()}),
        note=_said(arena.rates, arena.ruled, HEARD),
    )


def _arrays(rows: Mapping[str, Figures]) -> dict[str, dict[str, FloatArray]]:
    return {name: {m: v for m, v in row.items() if isinstance(v, np.ndarray)} for name, row in rows.items()}


def varieties(config: RunConfig, arena: Arena, measured: SystemFigures) -> dict[str, Variety]:
    """How far each system's deployed lists differ between users."""
    k = min(max(config.evaluation.k), arena.n_items)
    return {name: Variety.of(slates, arena.n_items, k, config.seed) for name, slates in measured.slates.items()}


def change(
    config: RunConfig, data: RunData, arena: Arena, measured: SystemFigures, *, before: str, after: str
) -> Change:
    """What people see of the step from one system to another."""
    count_N = item_counts(positives(data.dataset, data.split.train), arena.n_items)
    k = min(max(config.evaluation.k), arena.n_items)
    return Change.of(measured.slates[before], measured.slates[after], count_N, k)


def _summary(ranking: Comparison, deployed: Mapping[str, Comparison]) -> Comparison:
    """The columns a person looks at first, narrow enough for a terminal."""
    ndcg = next(m for m in reversed(ranking.metrics) if m.startswith("NDCG@"))
    labels = {"clicks": "judge:\nclicks", "buys": "judge:\nconversions", "value": "judge:\nvalue"}
    labels |= {"true@1": "true value,\ntop item", "true": "true value,\nslate"}
    cells: dict[str, dict[str, Cell]] = {}
    for system in ranking.systems:
        judged = deployed["judge"].cells[system]
        row = {ndcg: ranking.cells[system][ndcg], "clicks": judged["click_rate"]}
        row |= {"buys": judged["conversion_rate"], "value": judged["value"]}
        if "truth" in deployed:
            true = deployed["truth"].cells[system]
            row |= {"true@1": true["value@1"], "true": true["value"]}
        cells[system] = row
    return Comparison(
        "Held-out events, and what is shown to users",
        cells,
        ranking.reference,
        percent=("clicks", "buys"),
        labels=labels,
    )


def evaluation_key(config: RunConfig) -> dict[str, Any]:
    """What decides how a system is measured; what else it is held against does not."""
    return {key: value for key, value in config.tree()["evaluation"].items() if key != "controls"}
