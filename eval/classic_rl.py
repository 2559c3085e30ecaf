"""What does a language model add over classic RL recommenders? One table, one world, one reward, one judge.

    llmrec demo --out runs/demo
    python eval/classic_rl.py --run runs/demo --out runs/classic --json classic.json

Q-learning, SARSA, DQN and A2C learn from the reward simulator at the states at which PPO drew its items; truth and
judge are asked at the end alone. The rows of the language model come from the run folder (and its .work beside it);
without --run they are left out and the data of `llmrec demo` are made under --out. The second table has sessions of
one item a turn with users who satiate and win or lose trust. Resumable: finished agents are kept under --out.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from llmrec.cli.guard import guarded

QUICK = ["world.users=80", "world.items=60", "ppo.steps=20", "simulator.epochs=2"]
QUICK += ["evaluation.users=60", "evaluation.test_events=60"]
JUDGED = {"true@1": ("truth", "value@1"), "true": ("truth", "value"), "judge": ("judge", "value")}
PARTS = ("one-step", "sessions")
LEFT_OUT = ("true optimum", "PPO (last)", "SFT top 20, reranked")
"""Of sessions: the first knows no sessions, the others are slow and say no more."""
LABELS = {"true@1": "true value, top item", "true": "true value, slate", "judge": "judge's value"}


@dataclass(frozen=True)
class Place:
    """What all agents share: the run's configuration, data and simulators, and how items and states look."""

    config: Any
    data: Any
    simulators: Any
    reward: Any
    features: Any
    item_NE: Any
    starts: Any
    work: Any
    systems: dict[str, Any]
    costs: dict[str, tuple[float, float]]
    transitions: int

    @property
    def seen(self) -> list[Any] | None:
        """Items that each start may not be shown; None where repeats are allowed."""
        return self.starts.seen if self.data.dataset.manifest.repeat == "exclude" else None

    def agent(self, name: str, settings: Any, meeting_of: Any) -> Any:
        """The agent `name`, trained unless it is there; adds its transitions and seconds to `costs`."""
        from llmrec.agents import TabularSettings, load_agent, train_tabular
        from llmrec.files import read_json, write_json

        common = {"repeat": self.data.dataset.manifest.repeat, "seed": self.config.seed}

        def build(out: Path, _: Path) -> None:
            cpu = time.process_time()
            if isinstance(settings, TabularSettings):
                agent = train_tabular(meeting_of(), self.features, settings, item_NE=self.item_NE, **common)
            else:
                from llmrec.agents.deep import train_deep

                agent = train_deep(meeting_of(), self.features, self.item_NE, settings, **common)
            agent.save(out / "agent")
            facts = asdict(agent.trained) | {"cpu_s": time.process_time() - cpu}
            write_json(out / "trained.json", facts)

        key = [self.data.dataset.manifest.content_hash, self.config.tree(), settings.tree(), name]
        folder = self.work.stage(name.replace(" ", "-").replace(",", ""), key, build)
        facts = read_json(folder / "trained.json")
        self.costs[name] = (float(facts["transitions"]), float(facts["cpu_s"]))
        return load_agent(folder / "agent", self.data.dataset.item_list)


def kept_stages(run: Path, config: Any) -> Any:
    """The stages of a finished run as they are; nothing is trained, also where settings have changed since."""
    from llmrec.errors import RunError
    from llmrec.pipeline.run import train_stages, work_folder
    from llmrec.pipeline.work import DONE, Work

    class Kept(Work):
        def stage(self, name: str, key: object, build: Any, *, together: bool = False) -> Path:
            place = self.folder / name
            if not (place / DONE).is_file():
                raise RunError(f"{place} holds no finished stage; finish the run by the command that began it.")
            return place

    return train_stages(config, Kept(work_folder(run)))


def open_place(options: argparse.Namespace) -> Place:
    """The run's stages, or those of the demo without its language model."""
    from llmrec.agents import StateFeatures, item_embeddings
    from llmrec.baselines.base import positives
    from llmrec.config import RunConfig
    from llmrec.errors import RunError
    from llmrec.pipeline.data import open_data
    from llmrec.pipeline.recipes import demo_config
    from llmrec.pipeline.run import make_systems, work_folder
    from llmrec.pipeline.simulation import log_of, simulator_stage
    from llmrec.pipeline.starts import rollout_starts
    from llmrec.pipeline.systems import Greedy, Optimum
    from llmrec.pipeline.work import Work
    from llmrec.rewards import RewardContext, reward_model

    work, systems, costs = Work(options.out), dict[str, Any](), dict[str, tuple[float, float]]()
    if options.run is not None:
        if not (options.run / "config.yaml").is_file() or not work_folder(options.run).is_dir():
            raise RunError(
                f"{options.run} is no finished run with its .work folder beside it; make it by llmrec run."
            )
        config = RunConfig.read(options.run / "config.yaml")
        data, _, sft, simulators, improved = kept_stages(options.run, config)
        systems = make_systems(config, data, sft, simulators, improved)
        costs = language_costs(config, Work(work_folder(options.run)))
    else:
        config = demo_config(options.seed, QUICK if options.quick else [])
        data = open_data(config, work)
        simulators = simulator_stage(config, data, work)
    reward = reward_model(
        config.reward, simulators.reward, RewardContext.of(data.dataset, data.split.train), seed=config.seed
    ).for_ranking()
    if not systems:
        systems = plain_systems(config, data) | {
            "simulator's argmax": Greedy(reward, data.dataset.n_items, data.dataset.manifest.repeat)
        }
        if data.world is not None:
            systems["true optimum"] = Optimum(data.world, config.reward.click, config.reward.conversion)
    starts = rollout_starts(config, data, config.ppo)
    shown_N = np.bincount(log_of(config, data, "train").item_M, minlength=data.dataset.n_items)
    features = StateFeatures.fit(data.dataset.item_list, starts.states, shown_N, seed=config.seed)
    taken = positives(data.dataset, data.split.train).group_by("user", maintain_order=True).agg("item")
    item_NE = item_embeddings(data.dataset.item_list, taken["item"].to_list(), seed=config.seed)
    budget = 2_000 if options.quick else options.transitions
    return Place(config, data, simulators, reward, features, item_NE, starts, work, systems, costs, budget)


def plain_systems(config: Any, data: Any) -> dict[str, Any]:
    """The baselines of `pipeline.run.make_systems` where there is no run."""
    from llmrec.baselines.covisitation import Covisitation
    from llmrec.baselines.popularity import Popularity
    from llmrec.pipeline.policies import targets

    valid = targets(config, data, "valid", config.gate.events)
    near = Covisitation(seed=config.seed)
    near.fit_selected(data.dataset, data.split.train, valid.rows, seen=valid.seen)
    return {"popularity": Popularity(seed=config.seed).fit(data.dataset, data.split.train), "covisitation": near}


def language_costs(config: Any, work: Any) -> dict[str, tuple[float, float]]:
    """Rows that SFT imitated and items that PPO drew, with the wall seconds of their stages (in --run's words)."""
    from llmrec.files import read_json
    from llmrec.pipeline.result import SFT, label, last_label

    def seconds(stage: str) -> float:
        return float(read_json(work.folder / stage / "stage.json")["seconds"])

    settings = config.improvement
    drawn = float(settings.steps * settings.prompts * settings.draws) if hasattr(settings, "draws") else 0.0
    both = (drawn, seconds(config.algorithm))
    return {
        SFT: (float(config.sft.examples), seconds("sft")),
        label(config.algorithm): both,
        last_label(config.algorithm): both,
    }


def one_step(place: Place) -> dict[str, Any]:
    """Trains all agents at logged states and measures them beside the rest."""
    from llmrec.agents import DQNSettings, OneStep, PolicyGradientSettings, TabularSettings
    from llmrec.baselines.random import Random
    from llmrec.evaluation.table import Comparison
    from llmrec.pipeline.compare import compare, make_arena, make_tables

    config, data, n_items = place.config, place.data, place.data.dataset.n_items
    budget: dict[str, Any] = {"transitions": place.transitions, "gamma": 0.0}
    agents: dict[str, Any] = {
        "Q-learning": TabularSettings(algorithm="q-learning", decay=1.0, **budget),
        "SARSA": TabularSettings(algorithm="sarsa", decay=1.0, **budget),
        "DQN": DQNSettings(**budget),
        "double dueling DQN": DQNSettings(double=True, dueling=True, **budget),
        "A2C": PolicyGradientSettings(entropy=0.02, **budget),
    }
    meeting = lambda: OneStep(place.starts.states, place.seen, place.reward, place.features, n_items)  # noqa: E731
    own = {name: place.agent(name, settings, meeting) for name, settings in agents.items()}
    systems = {"random": Random(seed=config.seed).fit(data.dataset, data.split.train)}
    last = {name: s for name, s in place.systems.items() if name in ("simulator's argmax", "true optimum")}
    systems |= {name: s for name, s in place.systems.items() if name not in last} | own | last
    arena = make_arena(config, data, place.simulators.judge)
    measured = compare(config, arena, systems)
    reference = next(n for n in ("PPO", "PPO (last)", "SFT", "covisitation") if n in systems)
    tables = make_tables(config, arena, measured, reference)
    cells: dict[str, dict[str, Any]] = {}
    for name in systems:
        row = {m: tables.deployed[judge].cells[name][value] for m, (judge, value) in JUDGED.items()}
        row |= {m: tables.ranking.cells[name][m] for m in tables.ranking.metrics if m in ("NDCG@10", "coverage@10")}
        cells[name] = row
    title = f"World {config.seed}: {len(arena.states)} users, {len(arena.examples)} held-out events"
    for name, (transitions, seconds) in place.costs.items():
        print(f"{name}: {transitions:,.0f} transitions, {seconds:.1f} s")
    return show(Comparison(title, cells, reference, labels=LABELS), ("true@1", "true"))


def sessions(place: Place, options: argparse.Namespace) -> dict[str, Any]:
    """The same agents in sessions of one item a turn, with and without looking ahead."""
    from llmrec.agents import DQNSettings, PolicyGradientSettings, Sessions, TabularSettings
    from llmrec.baselines.random import Random
    from llmrec.config import DynamicsSettings, SatiationSettings, TrustSettings
    from llmrec.evaluation.table import Comparison
    from llmrec.pipeline.sessions import last_states, session_arenas, session_sizes
    from llmrec.simulator.environments import LearnedUsers

    moving = DynamicsSettings(trust=TrustSettings(enabled=True), satiation=SatiationSettings(enabled=True))
    turns, users, budget = (3, 20, 2_000) if options.quick else (10, 150, options.session_transitions)
    session = replace(place.config.session, turns=turns, slate=1, remembered_turns=5)
    evaluation = replace(place.config.evaluation, users=users)
    config = replace(place.config, session=session, dynamics=moving, evaluation=evaluation)
    place = replace(place, config=config)
    states, seen = last_states(config, place.data, "train")
    hidden = seen if place.data.dataset.manifest.repeat == "exclude" else None
    population = LearnedUsers(place.simulators.reward, states, place.data.dataset)
    meeting = lambda: Sessions(  # noqa: E731
        population, place.features, session_sizes(config), choice=config.choice, dynamics=moving, seen=hidden
    )
    agents: dict[str, Any] = {}
    for words, gamma in (("", 0.95), (", gamma 0", 0.0)):
        common: dict[str, Any] = {"transitions": budget, "gamma": gamma}
        agents[f"sessions Q-learning{words}"] = TabularSettings(**common)
        agents[f"sessions double dueling DQN{words}"] = DQNSettings(double=True, dueling=True, **common)
        if gamma:
            agents["sessions SARSA"] = TabularSettings(algorithm="sarsa", **common)
            agents["sessions A2C"] = PolicyGradientSettings(steps=turns, entropy=0.02, **common)
    own = {name: place.agent(name, settings, meeting) for name, settings in agents.items()}
    systems = {"random": Random(seed=config.seed).fit(place.data.dataset, place.data.split.train)} | own
    systems |= {name: s for name, s in place.systems.items() if name not in LEFT_OUT}
    reference = next(n for n in ("PPO", "SFT", "simulator's argmax") if n in systems)
    found = {}
    for who, arena in session_arenas(config, place.data, place.simulators.judge).items():
        rows = {name: arena.play(system, config).per_user for name, system in systems.items()}
        title = f"Sessions of {turns} turns, {users} users as the {who} has them"
        keep = ("value", "first_turn", "clicks", "conversions")
        rows = {name: {m: row[m] for m in keep} for name, row in rows.items()}
        found[who] = show(Comparison.of(title, rows, reference=reference, samples=1000, seed=config.seed), ("value",))
    return found


def show(table: Any, differences: tuple[str, ...]) -> dict[str, Any]:
    """Prints a table and the paired differences to its reference; returns its figures."""
    Console(highlight=False, width=150).print(table.to_rich())
    print(table.to_markdown(intervals=False))
    for metric in differences:
        for name, row in table.cells.items():
            if (d := row[metric].difference) is not None:
                print(f"{name} less {table.reference}, {metric}: {d.mean:+.4f} ({d.low:+.4f} to {d.high:+.4f})")
    return dict(table.to_json())


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run folder whose language models stand in the table")
    parser.add_argument("--out", type=Path, default=Path("runs/classic"))
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--seed", type=int, default=0, help="of the world, where there is no --run")
    parser.add_argument("--transitions", type=int, default=100_000, help="training budget of every agent")
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS, help="which tables; all by default")
    parser.add_argument("--session-transitions", type=int, default=30_000, help="the same in sessions")
    parser.add_argument("--quick", action="store_true", help="a smoke run: a small world, 2,000 transitions")
    options = parser.parse_args()
    from llmrec.evaluation.facts import machine_facts, package_versions
    from llmrec.files import write_json

    place = open_place(options)
    figures: dict[str, Any] = {
        "seed": place.config.seed,
        "dataset_hash": place.data.dataset.manifest.content_hash,
        "costs": place.costs,
        "machine": machine_facts(),
        "versions": package_versions(),
    }
    for name in options.part:
        figures[name] = one_step(place) if name == "one-step" else sessions(place, options)
        if options.json is not None:
            write_json(options.json, figures)


if __name__ == "__main__":
    main()
