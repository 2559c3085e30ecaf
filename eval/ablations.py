"""What does each part of the warm start add? One file lists the sides; this trains and ranks them.

    python eval/ablations.py train/recipes/ablations-quick.yaml --out runs/ablations-quick
    python eval/ablations.py train/recipes/ablations-movielens.yaml --source FOLDER --out runs/ablations-ml

What is done stays in --out: the same command goes on where it was stopped, and a side that is added to the file is
trained alone. Choose by `part: valid`; ask the test rows once. The file's keys are those of
llmrec.studies.warm_starts.AblationSettings; unknown ones are refused.
"""

from pathlib import Path

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/ablations")
    script.add_argument("file", type=Path, nargs="?", help="YAML file of the ablation")
    script.add_argument("--quick", action="store_true", help="the shipped ablations-quick.yaml on a generated world")
    script.add_argument("--source", help="folder or file of the data set")
    script.run("llmrec.studies.ablations:ablate")
