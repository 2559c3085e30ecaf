"""Learning while serving: does it find its way back after a shift of demand, and is it better than training anew?

    python eval/online.py shift --out runs/online --seeds 0 1 2 3 4
    python eval/online.py changes --out runs/changes --seeds 0 1 2 3 4
    python eval/online.py blocks --dataset movielens --source FOLDER --out runs/online

"shift" plays a month of a generated world in whose middle demand turns round: policies that stay, go on and are
trained anew, counts that are made anew, and what could be known; then it puts bad versions to the gate, and one past
it. "changes" asks which of two changes needs an update and which the session: one person's interest moves within a
session, or demand shifts for everybody; of a policy that was taught to read sessions, frozen and going on. "blocks"
cuts a data set into blocks of time and asks each for its choices by what was learnt before. Months and blocks are
kept under --out; what was stopped goes on.
"""

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/online", seeds=(0,))
    script.add_argument("ask", choices=("shift", "changes", "blocks"), help="which of the questions")
    script.add_argument("--visits", type=int, help="slates a day of the month (shift 100, changes 300)")
    script.add_argument("--days", type=int, help="of the month (shift 30, changes 18)")
    script.add_argument("--arms", nargs="+", help="shift: that play, by short names (all)")
    script.add_argument("--sessions", type=int, default=1500, help="changes: that lessons are made of")
    script.add_argument("--dataset", default="movielens", help="an importer's name, for blocks")
    script.add_argument("--source", help="folder or file of the data set")
    script.add_argument("--blocks", type=int, default=4, help="that are asked")
    script.add_argument("--rows", type=int, default=300, help="choices of a block that are asked, at most")
    script.run("llmrec.studies.online:run_online")
