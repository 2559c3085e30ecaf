"""The seams of TRL that `trl_seam.py` overrides or relies on, pinned to TRL 1.16.

A failure here means that TRL changed below us: read the change, mend `trl_seam.py`, then pin anew with
`python -m tests.training.test_contract`.
"""

from __future__ import annotations

import hashlib
import inspect

import pytest
import transformers
import trl
from trl.models import utils as models
from trl.trainer import base_trainer, utils

from llmrec.training import trl_seam

SEAMS = {
    "GRPOTrainer.__init__": trl.GRPOTrainer.__init__,
    "GRPOTrainer.get_train_dataloader": trl.GRPOTrainer.get_train_dataloader,
    "GRPOTrainer._get_train_sampler": trl.GRPOTrainer._get_train_sampler,
    "GRPOTrainer.training_step": trl.GRPOTrainer.training_step,
    "GRPOTrainer._prepare_inputs": trl.GRPOTrainer._prepare_inputs,
    "GRPOTrainer._calculate_rewards": trl.GRPOTrainer._calculate_rewards,
    "GRPOTrainer.compute_loss": trl.GRPOTrainer.compute_loss,
    "GRPOTrainer._compute_loss": trl.GRPOTrainer._compute_loss,
    "GRPOTrainer._generate": trl.GRPOTrainer._generate,
    "GRPOTrainer._generate_and_score_completions": trl.GRPOTrainer._generate_and_score_completions,
    "GRPOTrainer._get_per_token_logps_and_entropies": trl.GRPOTrainer._get_per_token_logps_and_entropies,
    "RLOOTrainer.__init__": trl.RLOOTrainer.__init__,
    "RLOOTrainer.training_step": trl.RLOOTrainer.training_step,
    "RLOOTrainer._compute_loss": trl.RLOOTrainer._compute_loss,
    "RLOOTrainer._generate": trl.RLOOTrainer._generate,
    "RLOOTrainer._generate_and_score_completions": trl.RLOOTrainer._generate_and_score_completions,
    "RLOOTrainer._get_per_token_logps_and_entropies": trl.RLOOTrainer._get_per_token_logps_and_entropies,
    "RLOOTrainer._calculate_rewards": trl.RLOOTrainer._calculate_rewards,
    "Trainer._get_grad_norm": transformers.Trainer._get_grad_norm,
    "Trainer._run_epoch": transformers.Trainer._run_epoch,
    "Trainer.get_batch_samples": transformers.Trainer.get_batch_samples,
    "Trainer._get_num_items_in_batch": transformers.Trainer._get_num_items_in_batch,
    "GRPOTrainer.log": trl.GRPOTrainer.log,
    "GRPOTrainer._save_checkpoint": trl.GRPOTrainer._save_checkpoint,
    "GRPOTrainer._load_optimizer_and_scheduler": trl.GRPOTrainer._load_optimizer_and_scheduler,
    "GRPOConfig.__post_init__": trl.GRPOConfig.__post_init__,
    "RepeatSampler": utils.RepeatSampler,
    "add_fused_lm_head": utils.add_fused_lm_head,
    "add_hooks": models.add_hooks,
    "remove_hooks": models.remove_hooks,
    "SFTTrainer.__init__": trl.SFTTrainer.__init__,
    "SFTTrainer.compute_loss": trl.SFTTrainer.compute_loss,
    "SFTTrainer.training_step": trl.SFTTrainer.training_step,
    "SFTTrainer.log": trl.SFTTrainer.log,
    "SFTTrainer._save_checkpoint": trl.SFTTrainer._save_checkpoint,
    "_BaseTrainer": base_trainer._BaseTrainer,
    "DPOTrainer.__init__": trl.DPOTrainer.__init__,
    "DPOTrainer._compute_loss": trl.DPOTrainer._compute_loss,
    "DPOTrainer._prepare_dataset": trl.DPOTrainer._prepare_dataset,
    "DPOTrainer.compute_loss": trl.DPOTrainer.compute_loss,
    "DPOTrainer.training_step": trl.DPOTrainer.training_step,
    "DPOTrainer.log": trl.DPOTrainer.log,
    "DPOTrainer._save_checkpoint": trl.DPOTrainer._save_checkpoint,
    "DPOConfig.__post_init__": trl.DPOConfig.__post_init__,
    "RewardTrainer.__init__": trl.RewardTrainer.__init__,
    "RewardTrainer._prepare_dataset": trl.RewardTrainer._prepare_dataset,
    "RewardTrainer.compute_loss": trl.RewardTrainer.compute_loss,
    "RewardTrainer.training_step": trl.RewardTrainer.training_step,
    "RewardTrainer.log": trl.RewardTrainer.log,
    "RewardTrainer._save_checkpoint": trl.RewardTrainer._save_checkpoint,
}

PINNED = {
    "GRPOTrainer.__init__": "18f01b7a46c9544b",
    "GRPOTrainer.get_train_dataloader": "2bffe5a57c539e17",
    "GRPOTrainer._get_train_sampler": "36497afb4d311dc9",
    "GRPOTrainer.training_step": "9e18632f7dd8e8d8",
    "GRPOTrainer._prepare_inputs": "f824e7fb07147956",
    "GRPOTrainer._calculate_rewards": "736ae29b083840b5",
    "GRPOTrainer.compute_loss": "a2d6ef8bd29c3e26",
    "GRPOTrainer._compute_loss": "80295546bbdbf6f7",
    "GRPOTrainer._generate": "2a27fdf8f5e6f356",
    "GRPOTrainer._generate_and_score_completions": "1fa48922792dcd5c",
    "GRPOTrainer._get_per_token_logps_and_entropies": "ea73c3909275851d",
    "RLOOTrainer.__init__": "127fcebf344ffda0",
    "RLOOTrainer.training_step": "9e18632f7dd8e8d8",
    "RLOOTrainer._compute_loss": "c1f9fa0cd5a6948c",
    "RLOOTrainer._generate": "bf29664288f16e38",
    "RLOOTrainer._generate_and_score_completions": "93ebbf5e70d31778",
    "RLOOTrainer._get_per_token_logps_and_entropies": "ea73c3909275851d",
    "RLOOTrainer._calculate_rewards": "81ef76d93756be6f",
    "Trainer._get_grad_norm": "913ba6f52f074d10",
    "Trainer._run_epoch": "31aff00f34c302a2",
    "Trainer.get_batch_samples": "0b3727386f73f670",
    "Trainer._get_num_items_in_batch": "a31fa106f70db1b9",
    "GRPOTrainer.log": "1e7772819cc8cf09",
    "GRPOTrainer._save_checkpoint": "ec91bde123649111",
    "GRPOTrainer._load_optimizer_and_scheduler": "5c1772becdfd7fdb",
    "GRPOConfig.__post_init__": "e833cd8d6b4619ad",
    "RepeatSampler": "ba139f4a43eeecd4",
    "add_fused_lm_head": "422d009f04b66659",
    "add_hooks": "ce9ea4ff193a075d",
    "remove_hooks": "ba09ec548c1ea1d5",
    "SFTTrainer.__init__": "90b61e42b6900b05",
    "SFTTrainer.compute_loss": "ca448211ff653fe6",
    "SFTTrainer.training_step": "bba41f264647016a",
    "SFTTrainer.log": "0d4c8e5d64f894ac",
    "SFTTrainer._save_checkpoint": "b6ee0a370c266b6f",
    "_BaseTrainer": "9cd77f0279bbaef9",
    "DPOTrainer.__init__": "632f447c71dcb043",
    "DPOTrainer._compute_loss": "5e58a1699e0d76cd",
    "DPOTrainer._prepare_dataset": "35e349e8e8266df4",
    "DPOTrainer.compute_loss": "c453890e84beb4cb",
    "DPOTrainer.training_step": "bba41f264647016a",
    "DPOTrainer.log": "e80e122cfe5fd8ad",
    "DPOTrainer._save_checkpoint": "b6ee0a370c266b6f",
    "DPOConfig.__post_init__": "a01229d865626eba",
    "RewardTrainer.__init__": "e30bea5e95aadcf9",
    "RewardTrainer._prepare_dataset": "d753a196b9cfefe9",
    "RewardTrainer.compute_loss": "ec4fad890ecfab14",
    "RewardTrainer.training_step": "bba41f264647016a",
    "RewardTrainer.log": "0d4c8e5d64f894ac",
    "RewardTrainer._save_checkpoint": "b6ee0a370c266b6f",
}


def digest(seam: object) -> str:
    return hashlib.sha256(inspect.getsource(inspect.unwrap(seam)).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", SEAMS)
def test_the_source_of_the_seam_is_the_one_we_read(name):
    assert digest(SEAMS[name]) == PINNED[name], f"trl {trl.__version__} changed {name}"


def test_whole_methods_that_we_replace_still_exist_with_these_parameters():
    parameters = {
        "_compute_loss": ["self", "model", "inputs"],
        "_prepare_inputs": ["self", "generation_batch"],
        "training_step": ["self", "model", "inputs", "num_items_in_batch"],
    }
    for name, expected in parameters.items():
        assert list(inspect.signature(getattr(trl.GRPOTrainer, name)).parameters) == expected
        assert list(inspect.signature(getattr(trl_seam.PPOTrainer, name)).parameters) == expected
    assert trl.GRPOTrainer.loss_is_scaled_for_ga is True


def test_no_telemetry_is_sent():
    for trainer in (trl_seam.PPOTrainer, trl_seam.SFTTrainer, trl_seam.DPOTrainer, trl_seam.RewardTrainer):
        assert trainer._send_telemetry is trl_seam.QuietTrainer._send_telemetry
        assert trainer.create_model_card is trl_seam.QuietTrainer.create_model_card


if __name__ == "__main__":
    for seam_name, seam in SEAMS.items():
        print(f'    "{seam_name}": "{digest(seam)}",')
