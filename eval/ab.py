"""Two systems of a finished run in a simulated A/B experiment: the same users meet both, with the same luck.

    python eval/ab.py runs/demo --a sft --b ppo
    python eval/ab.py runs/demo --a popularity --b sft --retention --users judge --json ab.json

Systems: sft, improved (or the algorithm's name), last, reranked, greedy, optimum, and every baseline (popularity,
covisitation, item-knn, ...), whose settings are chosen on the validation period. Users of the test period answer as
the generated world's truth has it or, on real data, as the run's judge expects. The number of users, the primary
metric and the effect of interest are decided before; do not look, add users and look again. Needs the run's working
folder (RUN.work) beside it; nothing is trained. docs/experiments.md has the formulas.
"""

from pathlib import Path

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__)
    script.add_argument("run", type=Path, help="run folder")
    script.add_argument("--a", required=True, help="the system in use")
    script.add_argument("--b", required=True, help="the system that is to replace it")
    script.add_argument("--users", choices=("truth", "judge"), help="who answers; the truth where there is one")
    script.add_argument("--number", type=int, help="users met; evaluation.users of the run by default")
    script.add_argument("--turns", type=int, help="turns of a session; the run's, or 5")
    script.add_argument("--slate", type=int, help="places of a slate; the run's, or 10")
    script.add_argument("--retention", action="store_true", help="users lose patience, leave and may come back")
    script.add_argument("--primary", default="value", help="the metric that decides")
    script.add_argument("--metrics", nargs="+", help="what is tested; all that can differ by default")
    script.add_argument("--effect", type=float, default=0.02, help="smallest relative difference that would matter")
    script.add_argument("--power", type=float, default=0.8)
    script.add_argument("--samples", type=int, default=10_000, help="bootstrap samples")
    script.add_argument("--sampled", action="store_true", help="count what users did, not what was to be expected")
    script.add_argument("--own-luck", action="store_true", help="each system meets the users with luck of its own")
    script.add_argument("--seed", type=int, default=0, help="of luck and bootstrap")
    script.run("llmrec.studies.ab:ab")
