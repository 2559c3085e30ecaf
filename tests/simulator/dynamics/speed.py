"""Measures user-turns per second of the dynamics and of the choice models: python -m tests.simulator.dynamics.speed.

Slates of 10, 20 categories, 16 interests, 1.5 clicks a slate, all seven transitions on. CPU time of one core; the best
of several calls is what the code can do, the median what a shared machine gave.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time
from collections.abc import Callable

import numpy as np

from llmrec.config import ChoiceSettings, DynamicsSettings
from llmrec.simulator.choice import make_choice
from llmrec.simulator.dynamics import Dynamics, ItemTable

PLACES, CATEGORIES, DIMENSIONS = 10, 20, 16


def everything_on() -> DynamicsSettings:
    off = DynamicsSettings()
    names = [f.name for f in dataclasses.fields(off)]
    return DynamicsSettings(**{n: dataclasses.replace(getattr(off, n), enabled=True) for n in names})


def best(name: str, users: int, call: Callable[[], object], calls: int) -> None:
    call()
    seconds = []
    for _ in range(calls):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    print(
        f"{name:28s} {users / min(seconds) / 1e6:6.2f} million user-turns/s, median {users / np.median(seconds) / 1e6:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--calls", type=int, default=20)
    given = parser.parse_args()
    users, random = given.users, np.random.default_rng(0)
    items = ItemTable.of(
        random.integers(0, CATEGORIES, given.items),
        quality_N=random.random(given.items),
        price_N=random.random(given.items) * 20,
        vector_ND=random.standard_normal((given.items, DIMENSIONS)) / 4,
        categories=CATEGORIES,
    )
    dynamics = Dynamics(everything_on(), items)
    state = dynamics.fresh(users, interest_BD=random.standard_normal((users, DIMENSIONS)))
    turns = []
    for _ in range(3):
        click = random.random((users, PLACES)) < 0.15
        bought = click & (random.random(click.shape) < 0.2)
        turns.append((random.integers(0, given.items, click.shape), click, bought, random.random((users, 2))))
    turn = itertools.cycle(turns)
    base = (random.random((users, PLACES)) * 0.3).astype(np.float32)
    print(f"{users} users, {given.items} items, {state.nbytes / 1e6:.0f} MB of state")

    def step() -> None:
        dynamics.step(state, *next(turn))
        state.active_B[:] = True

    best("all transitions (step)", users, step, given.calls)
    best("modulate", users, lambda: dynamics.modulate(state, turns[0][0], base, base), given.calls)
    best("afford", users, lambda: dynamics.afford(state, turns[0][0], turns[0][2]), given.calls)
    luck = random.random((users, PLACES, 2))
    for name in ("independent", "position", "cascade", "dynamic-bayesian", "logit"):
        choice = make_choice(ChoiceSettings(model=name), PLACES)  # type: ignore[arg-type]
        best(f"choice {name}", users, lambda choice=choice: choice.sample(base, base, luck), given.calls)  # type: ignore[misc]


if __name__ == "__main__":
    main()
