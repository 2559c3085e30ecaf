"""User-turns per second of the simulated environments, at 1,000 to 1,000,000 users.

    python eval/benchmark_simulator.py --json simulator.json
    python eval/benchmark_simulator.py --users 1000 100000 --threads 2 --only world

Slates of 10, numeric observations, random actions drawn beforehand. "world": users of known truth in the shop domain
(clicks, conversions, drift, trust, budget, patience, return). "evolution": the same users with what the loop below
has: at most one click a slate by a multinomial logit, drift, leaving. "still": without dynamics. "gru": users learned
by a GRU, whose state is carried. All are compared, in turns and by CPU time, with a loop over users in Python: the
interest-evolution environment of RecSim (Ie et al. 2019), written anew after the paper and the package's defaults
(documents are sampled anew each step), as the package itself needs a TensorFlow that no longer installs.
"""

from __future__ import annotations

import argparse
import collections
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmrec.cli.guard import guarded

TOPICS, CANDIDATES = 20, 10
PLACES = 10
SIDES = ("world", "evolution", "still", "gru")


class InterestEvolution:
    """One user of RecSim's interest evolution: interests move to what is watched, good videos buy time."""

    def __init__(self, seed: int) -> None:
        import numpy as np

        self.np, self.random, self.documents = np, np.random.RandomState(seed), 0
        self.candidates: collections.OrderedDict[str, dict[str, Any]] = collections.OrderedDict()
        poor = round(0.7 * TOPICS)
        self.means = np.concatenate([np.linspace(-3.0, 0.0, poor), np.linspace(0.0, 3.0, TOPICS - poor)])
        self.reset()

    def reset(self) -> dict[str, Any]:
        """A new user."""
        self.interests = self.random.uniform(-1.0, 1.0, TOPICS)
        self.budget = 200.0
        self.sample_documents()
        return self.observation(None)

    def sample_documents(self) -> None:
        """New candidates: a topic, whose quality leans to one side, a length and a quality each."""
        np = self.np
        self.candidates = collections.OrderedDict()
        for _ in range(CANDIDATES):
            topic = self.random.randint(TOPICS)
            features = np.zeros(TOPICS)
            features[topic] = 1.0
            quality = self.random.normal(self.means[topic], 0.1)
            self.documents += 1
            self.candidates[str(self.documents)] = {"features": features, "length": 4.0, "quality": quality}

    def step(self, slate: Any) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        """One turn: one item or none is chosen by a multinomial logit."""
        np = self.np
        shown = [list(self.candidates.values())[place] for place in slate]
        scores = np.array([np.dot(self.interests, document["features"]) for document in shown] + [1.0])
        weights = np.exp(scores - scores.max())
        choice = self.random.choice(len(weights), p=weights / weights.sum())
        responses = [{"click": 0, "watch_time": 0.0, "quality": 0.0, "cluster_id": 0} for _ in shown]
        if choice < len(shown):
            self.watch(shown[choice], responses[choice])
        else:
            self.budget -= 0.5
        reward = sum(response["watch_time"] for response in responses if response["click"])
        self.sample_documents()
        return self.observation(responses), float(reward), self.budget <= 0, {}

    def watch(self, document: dict[str, Any], response: dict[str, Any]) -> None:
        """What watching a document does to the user."""
        np, features = self.np, document["features"]
        watched = min(self.budget, document["length"])
        topic = int(np.argmax(features))
        response.update(click=1, watch_time=watched, quality=document["quality"], cluster_id=topic)
        rate = (-0.3 * np.abs(self.interests) + 0.3) * features
        step = rate * (features - self.interests)
        liked = self.random.rand() < (np.dot(self.interests, features) + 1.0) / 2.0
        self.interests = np.clip(self.interests + step if liked else self.interests - step, -1.0, 1.0)
        self.budget += 0.9 / 3.4 * document["length"] * document["quality"] - document["length"]

    def observation(self, responses: list[dict[str, Any]] | None) -> dict[str, Any]:
        """What an agent sees, as RecSim hands it out."""
        np = self.np
        documents = collections.OrderedDict((name, d["features"].copy()) for name, d in self.candidates.items())
        told = None
        if responses is not None:
            told = tuple({name: np.array(value) for name, value in r.items()} for r in responses)
        return {"user": np.array([]), "doc": documents, "response": told}


def loop_turns(users: int, turns: int) -> Callable[[], None]:
    """A run of the per-user loop."""
    import numpy as np

    environments = [InterestEvolution(seed) for seed in range(users)]
    slates = np.stack([np.random.default_rng(seed).permutation(CANDIDATES)[:PLACES] for seed in range(users)])

    def run() -> None:
        for _ in range(turns):
            for environment, slate in zip(environments, slates, strict=True):
                _, _, over, _ = environment.step(slate)
                if over:
                    environment.reset()

    return run


def vector_turns(name: str, population: Any, users: int, turns: int, options: Any) -> Callable[[], None]:
    """A run of a vector environment that has been reset and warmed."""
    import numpy as np

    from llmrec.config import DriftSettings, DynamicsSettings, EnvironmentSettings, PatienceSettings, TrustSettings
    from llmrec.simulator.choice import LogitChoice
    from llmrec.simulator.environments import DOMAINS, VectorRecEnv

    leaving = PatienceSettings(enabled=True)
    dynamics = {
        "world": DOMAINS["shop"],
        "evolution": DynamicsSettings(drift=DriftSettings(enabled=True), patience=leaving),
        "still": DynamicsSettings(),
        "gru": DynamicsSettings(trust=TrustSettings(enabled=True), patience=leaving),
    }
    choice = LogitChoice() if name == "evolution" else None
    settings = EnvironmentSettings(slate_size=PLACES, threads=options.threads, block=options.block)
    env = VectorRecEnv(population, users, settings, dynamics=dynamics[name], choice=choice)
    random = np.random.default_rng(0)
    slates = [random.integers(0, options.items, (users, PLACES), dtype=np.int32) for _ in range(2)]
    env.reset(seed=0)
    env.step(slates[0])

    def run() -> None:
        for turn in range(turns):
            env.step(slates[turn % 2])

    return run


def measure(run: Callable[[], None], user_turns: int) -> dict[str, float]:
    """Wall and CPU time (of all threads) of one run."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall_us": 1e6 * wall / user_turns, "cpu_us": 1e6 * cpu / user_turns, "per_second": user_turns / wall}


def populations(options: Any, users: int) -> dict[str, Callable[[], Any]]:
    """Makers of the populations to measure: U = `users` distinct users of a world, 1,000 learned ones."""
    import numpy as np

    from llmrec.config import SimulatorSettings, WorldConfig
    from llmrec.dataset.impressions import impressions
    from llmrec.dataset.split import make_split
    from llmrec.dataset.world import WorldParameters, generate_world
    from llmrec.dataset.world.truth import draw_truth
    from llmrec.simulator.behaviour import fit_behaviour
    from llmrec.simulator.environments import LearnedUsers, WorldUsers

    def known() -> Any:
        truth = draw_truth(users, options.items, WorldParameters(), 0)
        return WorldUsers(truth, price_N=np.full(options.items, 20.0))

    def learned() -> Any:
        world = generate_world(WorldConfig(users=1000, items=options.items), 0)
        log = impressions(world.dataset, make_split(world.dataset, "time"), "train")
        fit = SimulatorSettings(epochs=2)
        model = fit_behaviour(world.dataset, log, architecture="gru", seed=0, settings=fit)
        last = {state.user_id: state for state in log.states}
        return LearnedUsers(model, list(last.values()), world.dataset)

    makers = {"world": known, "evolution": known, "still": known, "gru": learned}
    return {name: makers[name] for name in options.only}


def report(name: str, users: int, rows: list[dict[str, float]], loop: list[dict[str, float]]) -> dict[str, Any]:
    """Medians over the rounds, and the CPU-time ratio to the loop of the same round."""
    import statistics

    found: dict[str, Any] = {"users": users}
    found |= {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    ratios = [theirs["cpu_us"] / own["cpu_us"] for own, theirs in zip(rows, loop, strict=True)]
    found["loop_cpu_ratio"] = statistics.median(ratios)
    found["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{name:6} {users:>9,} users: {found['per_second']:>9,.0f} user-turns/s, CPU {found['cpu_us']:.2f} us each, "
        f"{found['loop_cpu_ratio']:.0f} times less CPU than the loop, peak memory {found['peak_memory_mb']:,.0f} MB",
        flush=True,
    )
    return found


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--only", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--threads", type=int, default=2, help="threads over blocks of users; torch itself gets one")
    parser.add_argument("--block", type=int, default=4096)
    parser.add_argument("--user-turns", type=int, default=1_000_000, help="at least so many a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    import torch

    from llmrec.files import write_json
    from llmrec.screen import results

    torch.set_num_threads(1)
    facts = {"cores": os.cpu_count(), "threads": options.threads, "block": options.block, "items": options.items}
    results().print(facts | {"load": os.getloadavg()[0], "slate": PLACES})
    found: dict[str, list[dict[str, Any]]] = {}
    kept: dict[str, Any] = {}
    run_loop = loop_turns(users=20, turns=20)
    for users in sorted(options.users):
        for name, make in populations(options, users).items():
            population = kept[name] if name in kept else make()
            if name == "gru":
                kept[name] = population
            share = 10 if name == "gru" else 1  # the learned users cost more
            turns = max(1, round(options.user_turns / share / users))
            run = vector_turns(name, population, users, turns, options)
            rows, loop = [], []
            for _ in range(options.rounds):
                rows.append(measure(run, users * turns))
                loop.append(measure(run_loop, 400))
            found.setdefault(name, []).append(report(name, users, rows, loop))
            del run
    for name, rows in found.items():
        costs = [row["cpu_us"] for row in rows]
        results().print(f"{name}: CPU time of a user-turn from {min(costs):.2f} to {max(costs):.2f} us")
    if options.json:
        write_json(options.json, {"facts": facts, "loop_us": loop[-1]["cpu_us"], "results": found})


if __name__ == "__main__":
    main()
