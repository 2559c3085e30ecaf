"""The only package that touches TRL's internals: PPO brought back to TRL's users, and TRL's own trainers on pi.

`tests/training/test_contract.py` pins the source of every method of TRL that is overridden or relied upon here.
"""

from llmrec.training.trl_seam.group import GRPOTrainer, RLOOTrainer
from llmrec.training.trl_seam.ppo import CriticInput, PPOConfig, PPOTrainer
from llmrec.training.trl_seam.preference import DPOTrainer, RewardTrainer, SoftmaxDPOTrainer
from llmrec.training.trl_seam.quiet import GuardedTrainer, QuietTrainer
from llmrec.training.trl_seam.reinforce import ReinforceConfig, ReinforceTrainer, SessionReinforceTrainer
from llmrec.training.trl_seam.rollouts import RolloutTrainer
from llmrec.training.trl_seam.session import SessionTrainer
from llmrec.training.trl_seam.sft import IGNORED, PackedSFTTrainer, SFTTrainer

__all__ = [
    "IGNORED",
    "CriticInput",
    "DPOTrainer",
    "GRPOTrainer",
    "GuardedTrainer",
    "PPOConfig",
    "PPOTrainer",
    "PackedSFTTrainer",
    "QuietTrainer",
    "RLOOTrainer",
    "ReinforceConfig",
    "ReinforceTrainer",
    "RewardTrainer",
    "RolloutTrainer",
    "SFTTrainer",
    "SessionReinforceTrainer",
    "SessionTrainer",
    "SoftmaxDPOTrainer",
]
