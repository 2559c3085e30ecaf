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
from pathlib import Path
from typing import Any

from llmrec.cli.guard import guarded
from llmrec.screen import Screen

QUICK = ["world.users=80", "world.items=60", "ppo.steps=20", "simulator.epochs=2"]
QUICK += ["evaluation.users=60", "evaluation.test_events=60"]
FEW = 2_000
"""Transitions of a smoke run."""
PARTS = ("one-step", "sessions")


def one_step(place: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Prints the table at logged states and what each system cost."""
    from llmrec.studies.classic.tables import one_step_table

    table = one_step_table(place, FEW if options.quick else options.transitions)
    for name, (transitions, seconds) in place.costs.items():
        print(f"{name}: {transitions:,.0f} transitions, {seconds:.1f} s")
    return show(table, ("true@1", "true"))


def sessions(place: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Prints the tables of sessions."""
    from llmrec.studies.classic.tables import session_tables

    if options.quick:
        tables = session_tables(place, FEW, turns=3, users=20)
    else:
        tables = session_tables(place, options.session_transitions)
    return {who: show(table, ("value",)) for who, table in tables.items()}


def show(table: Any, differences: tuple[str, ...]) -> dict[str, Any]:
    """Prints a table and the paired differences to its reference; returns its figures."""
    Screen(width=150).print(table.to_rich())
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
    from llmrec.studies.classic.opening import demo_place, run_place

    quick = QUICK if options.quick else []
    place = (
        demo_place(options.out, options.seed, quick) if options.run is None else run_place(options.run, options.out)
    )
    figures: dict[str, Any] = {
        "seed": place.config.seed,
        "dataset_hash": place.data.dataset.manifest.content_hash,
        "costs": place.costs,
        "machine": machine_facts(),
        "versions": package_versions(),
    }
    for name in options.part:
        figures[name] = one_step(place, options) if name == "one-step" else sessions(place, options)
        if options.json is not None:
            write_json(options.json, figures)


if __name__ == "__main__":
    main()
