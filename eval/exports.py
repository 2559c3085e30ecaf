"""What int8, int4, ONNX and GGUF cost and save: ranking, bytes and milliseconds of one run in every form.

    python eval/exports.py runs/shop --data runs/shop.work/data/world/dataset --out runs/exports
    python eval/exports.py runs/ml --data mydata --split leave-last-out --forms int8 onnx --out runs/exports

Ranking is of held-out events over the whole catalogue, with paired intervals to whole weights; requests are timed one
at a time, each through all forms in turn.
"""

from pathlib import Path

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/exports", settings=False)
    script.add_argument("run", help="a run folder or a Hub id")
    script.add_argument("--data", type=Path, required=True, help="a data set's folder")
    script.add_argument("--forms", nargs="+", default=("int8", "int4", "onnx", "gguf"))
    script.add_argument("--split", default="time", help="as the run was trained")
    script.add_argument("--since", type=int, help="seconds; the test is all from then on")
    script.add_argument("--test-events", type=int, default=2000, help="0 takes all")
    script.add_argument("--requests", type=int, default=100, help="users whose requests are timed")
    script.add_argument(
        "--later", type=int, default=0, help="also rank at every so many choices of a user, against all later ones"
    )
    script.add_argument("--seed", type=int, default=0)
    script.run("llmrec.studies.exports:exports")
