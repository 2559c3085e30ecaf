"""Items as agents: sellers who learn prices and promotion, in front of recommenders of several kinds.

    python eval/sellers.py --seeds 0 1 2 3 4 --out runs/sellers
    python eval/sellers.py --run runs/demo --rounds 10000 --seeds 0 1 --out runs/sellers-demo

Generated worlds of 400 users and 120 items, whose truth decides what people click and buy; minutes of one core.
With a finished run of a generated world its policy ranks, too.
"""

from pathlib import Path

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/sellers", seeds=(0, 1, 2, 3, 4))
    script.add_argument("--run", type=Path, help="a finished run of a generated world")
    script.add_argument("--sellers", type=int, default=8, help="who own the items")
    script.add_argument("--rounds", type=int, default=20_000, help="of learning, 64 visits each")
    script.add_argument("--elasticity", type=float, default=3.0, help="of buying by ln(price)")
    script.add_argument("--fee", type=float, default=0.002, help="of a look at a promoted item, in list prices")
    script.run("llmrec.studies.sellers:sellers_study")
