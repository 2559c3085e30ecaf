"""Does a knowledge graph's neighbours add to co-visitation? Alone, as a retriever, and mixed.

    python eval/graph.py --source data/movielens-100k --seeds 0 --out runs/graph

Without --triples the graph is of the items' own categories and brands (of MovieLens: genres).
"""

from pathlib import Path

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/graph", seeds=(0,))
    script.add_argument("--source", type=Path, help="MovieLens; generated worlds by default")
    script.add_argument("--triples", type=Path, help="a CSV with the columns head, relation, tail")
    script.add_argument("--rows", type=int, default=1500, help="events of validation and test, each at most")
    script.run("llmrec.studies.graph:graph_study")
