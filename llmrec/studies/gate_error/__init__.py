"""How often the gate errs: promotions of policies that gained nothing, power, and coverage of the judged intervals.

Generated shops whose truth is known. In each a reward and a judge's network are fitted on one people; then one people
after another is logged, on whose calibration slice the judge gets its heads and at whose gate policies are judged: by
the run's own panel, scores, max-T, promotion and verdict. Policies are lists by scores that read the state alone, as
a trained policy does; how good they are in truth is asked of the world, over the first validation state of everybody.

A training is six checkpoints on a path away from the start,

    score_k = start + (k / 6) (help + c_k harm_k),

where `help` is what the reward believes (as a KL-bound RL policy has it, Korbak et al. 2022) or what items are worth
on average, and `harm_k` a random walk over checkpoints of tastes that nobody has. c_k is found so that the true gain
is what it shall be: 0 under the null, a share of the start's true value for the power.
"""

from llmrec.studies.gate_error.bench import RULES, SIDES, Bench, Rule, ask, some, sure
from llmrec.studies.gate_error.shop import Scored, Shop
from llmrec.studies.gate_error.study import run_gate_error
from llmrec.studies.gate_error.telling import answer_of
from llmrec.studies.gate_error.trainings import CHECKPOINTS, Planted, Tastes, root

__all__ = [
    "CHECKPOINTS",
    "RULES",
    "SIDES",
    "Bench",
    "Planted",
    "Rule",
    "Scored",
    "Shop",
    "Tastes",
    "answer_of",
    "ask",
    "root",
    "run_gate_error",
    "some",
    "sure",
]
