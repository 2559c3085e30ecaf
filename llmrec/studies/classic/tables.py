"""Two tables of classic agents beside the rest: at logged states, and in sessions of one item a turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmrec.agents import DQNSettings, Meeting, OneStep, PolicyGradientSettings, Sessions, TabularSettings
from llmrec.baselines.popularity import Random
from llmrec.config import DynamicsSettings, SatiationSettings, TrustSettings
from llmrec.evaluation.table import Cell, Comparison
from llmrec.pipeline.algorithms.sessions import last_states, session_arenas, session_choice, session_sizes
from llmrec.pipeline.measure import make_arena, make_tables, measure_run
from llmrec.pipeline.result import COVISITATION, GREEDY, RERANKED, SFT, label, last_label
from llmrec.pipeline.systems import INFORMED, OPTIMUM
from llmrec.simulator.environments import LearnedUsers
from llmrec.studies.classic.place import Place, Settings
from llmrec.types import Ranker

JUDGED = {"true@1": ("truth", "value@1"), "true": ("truth", "value"), "judge": ("judge", "value")}
LABELS = {"true@1": "true value, top item", "true": "true value, slate", "judge": "judge's value"}
SESSION_COLUMNS = ("value", "first_turn", "clicks", "conversions")
LEFT_OUT = (INFORMED, OPTIMUM, RERANKED)
"""Of sessions: the first two know none, the third is slow and says no more, as does the last checkpoint."""


def one_step_table(place: Place, transitions: int) -> Comparison:
    """Trains all agents at logged states, `transitions` each, and measures them beside the rest on test events."""
    config, data, n_items = place.config, place.data, place.data.dataset.n_items
    budget: dict[str, Any] = {"transitions": transitions, "gamma": 0.0}
    agents: dict[str, Settings] = {
        "Q-learning": TabularSettings(algorithm="q-learning", decay=1.0, **budget),
        "SARSA": TabularSettings(algorithm="sarsa", decay=1.0, **budget),
        "DQN": DQNSettings(**budget),
        "double dueling DQN": DQNSettings(double=True, dueling=True, **budget),
        "A2C": PolicyGradientSettings(entropy=0.02, **budget),
    }

    def meeting() -> Meeting:
        starts = place.starts
        return OneStep(starts.states, place.hidden(starts.seen), place.reward, place.features, n_items)

    own = {name: place.agent(name, settings, meeting) for name, settings in agents.items()}
    systems: dict[str, Ranker] = {"random": Random(seed=config.seed).fit(data.dataset, data.split.train)}
    last = {name: system for name, system in place.systems.items() if name in (GREEDY, INFORMED, OPTIMUM)}
    systems |= {name: system for name, system in place.systems.items() if name not in last} | own | last
    arena = make_arena(config, data, place.simulators.judge)
    improved = (label(config.algorithm), last_label(config.algorithm))
    reference = next(name for name in (*improved, SFT, COVISITATION) if name in systems)
    tables = make_tables(config, arena, measure_run(config, arena, systems), reference)
    cells: dict[str, dict[str, Cell]] = {}
    for name in systems:
        row = {m: tables.deployed[judge].cells[name][value] for m, (judge, value) in JUDGED.items()}
        row |= {m: tables.ranking.cells[name][m] for m in tables.ranking.metrics if m in ("NDCG@10", "coverage@10")}
        cells[name] = row
    title = f"World {config.seed}: {len(arena.states)} users, {len(arena.examples)} held-out events"
    return Comparison(title, cells, reference, labels=LABELS)


def session_tables(place: Place, transitions: int, *, turns: int = 10, users: int = 150) -> dict[str, Comparison]:
    """The same agents in sessions of one item a turn, with and without looking ahead.

    Users satiate and win or lose trust.

    Args:
        place: of the run; its settings of sessions and dynamics are replaced.
        transitions: training budget of each agent.
        turns: of a session.
        users: who are met at the end.

    Returns:
        By who is met (the judge's users, and those of the truth in a generated world): figures by system.
    """
    place = _moving(place, turns, users)
    config, data = place.config, place.data
    states, seen = last_states(config, data, "train")
    population = LearnedUsers(place.simulators.reward, states, data.dataset)

    def meeting() -> Meeting:
        sizes, hidden = session_sizes(config), place.hidden(seen)
        return Sessions(
            population,
            place.features,
            sizes,
            choice=session_choice(config, data),
            dynamics=config.dynamics,
            seen=hidden,
        )

    agents = _session_agents(transitions, turns)
    own = {name: place.agent(name, settings, meeting) for name, settings in agents.items()}
    systems: dict[str, Ranker] = {"random": Random(seed=config.seed).fit(data.dataset, data.split.train), **own}
    slow = (*LEFT_OUT, last_label(config.algorithm))
    systems |= {name: system for name, system in place.systems.items() if name not in slow}
    reference = next(name for name in (label(config.algorithm), SFT, GREEDY) if name in systems)
    tables = {}
    for who, arena in session_arenas(config, data, place.simulators.judge).items():
        played = {name: arena.play(system, config).per_user for name, system in systems.items()}
        rows = {name: {metric: row[metric] for metric in SESSION_COLUMNS} for name, row in played.items()}
        title = f"Sessions of {turns} turns, {users} users as the {who} has them"
        tables[who] = Comparison.of(title, rows, reference=reference, samples=1000, seed=config.seed)
    return tables


def _moving(place: Place, turns: int, users: int) -> Place:
    moving = DynamicsSettings(trust=TrustSettings(enabled=True), satiation=SatiationSettings(enabled=True))
    session = replace(place.config.session, turns=turns, slate=1, remembered_turns=5)
    evaluation = replace(place.config.evaluation, users=users)
    config = replace(place.config, session=session, dynamics=moving, evaluation=evaluation)
    return replace(place, config=config)


def _session_agents(transitions: int, turns: int) -> dict[str, Settings]:
    agents: dict[str, Settings] = {}
    for words, gamma in (("", 0.95), (", gamma 0", 0.0)):
        common: dict[str, Any] = {"transitions": transitions, "gamma": gamma}
        agents[f"sessions Q-learning{words}"] = TabularSettings(**common)
        agents[f"sessions double dueling DQN{words}"] = DQNSettings(double=True, dueling=True, **common)
        if gamma:
            agents["sessions SARSA"] = TabularSettings(algorithm="sarsa", **common)
            agents["sessions A2C"] = PolicyGradientSettings(steps=turns, entropy=0.02, **common)
    return agents
