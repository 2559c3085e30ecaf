"""How well do behaviour models know users? Real logs, model by model; or a generated world, whose truth is known.

    LLMREC_DATA=FOLDER python eval/simulator_fit.py --out runs/fit --json figures.json
    python eval/simulator_fit.py --data movielens-100k --models item-mean,gru --out runs/fit
    python eval/simulator_fit.py --data world --seed 123 --json figures.json
    python eval/simulator_fit.py --exam --data amazon-industrial,movielens-100k,world --seeds 0 1 2 --out runs/exam

--exam asks simulators about held-out choices (docs/simulator.md): yardsticks, reward and judge as a run fits them by
its defaults ("before") and with simulator.blend and simulator.unshown=catalogue ("now"), and the reward's kind of
model on all training users ("everybody"). --models names rows of the table, divided by semicolons.

Cells (data set, model) that are finished under --out are not computed again, so the table may be made in pieces.
"""

from llmrec.cli.script import StudyScript
from llmrec.config import WorldConfig

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/simulator_fit", seeds=(0,))
    script.add_argument("--data", help="data sets divided by commas (all), or world")
    script.add_argument("--models", help="models divided by commas (all)")
    script.add_argument("--minutes", type=float, default=1e9, help="begin no further cell after so many minutes")
    script.add_argument("--seed", type=int, default=0)
    script.add_argument("--users", type=int, default=WorldConfig().users, help="of the world")
    script.add_argument("--items", type=int, default=WorldConfig().items, help="of the world")
    script.add_argument("--states", type=int, default=1000, help="latest test states of the world to compare")
    script.add_argument("--exam", action="store_true", help="examine simulators")
    script.add_argument("--part", choices=("valid", "test"), default="test", help="whose choices --exam asks about")
    script.add_argument("--events", type=int, default=1000, help="how many choices --exam asks about")
    script.run("llmrec.studies.simulator_fit:run_simulator_fit")
