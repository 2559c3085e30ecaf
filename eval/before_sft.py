"""What does a pretrained model know before any training? Likelihood of items, corrected, on held-out events.

    python eval/before_sft.py MODEL --dataset movielens --source FOLDER --set text.frame=list --valid 48
    python eval/before_sft.py MODEL --dataset movielens --source FOLDER --tokens 0 --pi

MODEL is a Hub id, a folder or a GGUF file. Shares are chosen on --valid validation events, the --test test events are
read once. On a CPU reading two tokens of each title takes about as long as a beam search.
"""

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/before-sft")
    script.add_argument("model", help="Hub id, folder or GGUF file")
    script.add_argument("--dataset", default="movielens", help="an importer's name, folder, or world")
    script.add_argument("--source", help="folder or file of the data set")
    script.add_argument("--valid", type=int, default=200, help="validation events to choose shares on")
    script.add_argument("--test", type=int, default=300, help="test events")
    script.add_argument("--tokens", type=int, default=2, help="of a title that are read at a state; 0 reads all")
    script.add_argument("--pi", action="store_true", help="rank by pi, too")
    script.run("llmrec.studies.before_sft:measure_before_sft")
