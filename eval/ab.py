"""Two systems of a finished run in a simulated A/B experiment: the same users meet both, with the same luck.

    python eval/ab.py runs/demo --a sft --b ppo
    python eval/ab.py runs/demo --a popularity --b sft --retention --users judge --json ab.json

Systems: sft, improved (or the algorithm's name), last, reranked, greedy, optimum, and every baseline (popularity,
covisitation, item-knn, ...), whose settings are chosen on the validation period. Users of the test period answer as
the generated world's truth has it or, on real data, as the run's judge expects. The number of users, the primary
metric and the effect of interest are decided before; do not look, add users and look again. Needs the run's working
folder (RUN.work) beside it; nothing is trained. docs/experiments.md has the formulas.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llmrec.cli.guard import guarded
from llmrec.screen import Screen


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--a", required=True, help="the system in use")
    parser.add_argument("--b", required=True, help="the system that is to replace it")
    parser.add_argument("--users", choices=("truth", "judge"), help="who answers; the truth where there is one")
    parser.add_argument("--number", type=int, help="users met; evaluation.users of the run by default")
    parser.add_argument("--turns", type=int, help="turns of a session; the run's, or 5")
    parser.add_argument("--slate", type=int, help="places of a slate; the run's, or 10")
    parser.add_argument("--retention", action="store_true", help="users lose patience, leave and may come back")
    parser.add_argument("--primary", default="value", help="the metric that decides")
    parser.add_argument("--metrics", nargs="+", help="what is tested; all that can differ by default")
    parser.add_argument("--effect", type=float, default=0.02, help="smallest relative difference that would matter")
    parser.add_argument("--power", type=float, default=0.8)
    parser.add_argument("--samples", type=int, default=10_000, help="bootstrap samples")
    parser.add_argument("--sampled", action="store_true", help="count what users did, not what was to be expected")
    parser.add_argument("--own-luck", action="store_true", help="each system meets the users with luck of its own")
    parser.add_argument("--seed", type=int, default=0, help="of luck and bootstrap")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="write everything here")
    return parser.parse_args()


@guarded
def main() -> None:
    options = _arguments()
    from rich import box
    from rich.table import Table

    from llmrec.evaluation.experiment import Design
    from llmrec.files import write_json
    from llmrec.studies.ab import run_experiment, sized

    overrides = sized(options.run, options.turns, options.slate)
    overrides += [] if options.number is None else [f"evaluation.users={options.number}"]
    if options.retention:
        overrides += ["dynamics.patience.enabled=true", "dynamics.comeback.enabled=true"]
    design = Design(
        primary=options.primary,
        metrics=tuple(options.metrics) if options.metrics else None,
        effect=options.effect,
        power=options.power,
        samples=options.samples,
        sampled=options.sampled,
        common=not options.own_luck,
        regret=True,
        seed=options.seed,
    )
    found, facts = run_experiment(
        options.run,
        options.a,
        options.b,
        users=options.users,
        overrides=[*overrides, *options.overrides],
        design=design,
    )
    screen = Screen()
    for title, rows in ((found.table.title, found.effect_rows()), ("Users needed", found.size_rows())):
        table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
        for place, column in enumerate(rows[0]):
            table.add_column(column, justify="right" if place else "left", no_wrap=True)
        for row in rows[1:]:
            table.add_row(*row)
        screen.print(table)
    screen.print(found.verdict, soft_wrap=True)
    if options.json:
        write_json(options.json, found.to_json() | facts)


if __name__ == "__main__":
    main()
