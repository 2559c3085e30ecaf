"""Off-policy estimates held against known values on real data: coverage of intervals, RMSE, overlap.

    python eval/off_policy.py jester --source data/jester5k --json jester.json
    python eval/off_policy.py hillstrom --source data/hillstrom --json hillstrom.json
    python eval/off_policy.py open-bandit --source data/open-bandit-small --json open-bandit.json

jester: 1,000 resampled logs a pair of policies where every counterfactual is known. hillstrom: one half of a
randomised experiment against thinned logs of the other half. open-bandit: two policies valued from each other's logs.
docs/off-policy.md reads the figures.
"""

from pathlib import Path

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/off-policy", settings=False)
    script.add_argument("dataset", choices=("jester", "hillstrom", "open-bandit"))
    script.add_argument("--source", type=Path, required=True, help="the data's folder")
    script.add_argument("--logs", type=int, default=1000, help="logs (jester) or splits (hillstrom)")
    script.add_argument("--pairs", type=int, nargs="+", metavar="N", help="only these pairs of jester, from 0")
    script.add_argument("--rewards", nargs="+", choices=("visit", "conversion", "spend"), help="of hillstrom")
    script.add_argument("--bootstrap", action="store_true", help="jester: measure bootstrap-t intervals too")
    script.add_argument("--seed", type=int, default=0)
    script.run("llmrec.studies.off_policy.study:run_off_policy")
