"""What does each term of the reward move in a short training, and what else moves with it?

    python eval/terms_moved.py --seeds 0 1 2 --out runs/terms-moved

One small policy a seed is warm-started in a generated world and trained by PPO with clicks and conversions alone, and
with one term more, on the same states with the same luck. A term's weight makes its spread that of clicks and
conversions. Three seeds take about six minutes on a quiet core.
"""

from llmrec.cli.script import StudyScript
from llmrec.config.reward import REWARD_TERMS

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/terms-moved", seeds=(0, 1, 2))
    script.add_argument("--only", nargs="+", default=(), choices=REWARD_TERMS, metavar="TERM", help="terms; all")
    script.add_argument("--steps", type=int, default=8, help="rollouts of a training, 16 states each")
    script.add_argument("--asked", type=int, default=100, help="states that figures are taken at")
    script.run("llmrec.studies.terms_moved:terms_moved")
