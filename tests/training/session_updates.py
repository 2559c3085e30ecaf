"""Run by torchrun or python: what four rollouts of sessions change in the adapter. Argument: the folder to write to."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from llmrec.config import LoraSettings, PatienceSettings, PPOSettings, SessionSettings
from llmrec.training.arguments import processes, world_size
from llmrec.training.improvement import Checkpointing, WarmStart
from llmrec.training.lora import adapter_of
from llmrec.training.sessions import train_sessions
from tests.training import shop_users as world
from tests.training.conftest import make_shop
from tests.training.distributed_updates import step_by_gradients

SETTINGS = PPOSettings(
    steps=4, prompts=8, draws=1, minibatches=2, learning_rate=1e-3, save_every=4, lora=LoraSettings(rank=4)
)
SESSION = SessionSettings(turns=3, slate=2, remembered_turns=2)


def main(out: Path) -> None:
    step_by_gradients()
    shop = make_shop()
    met = world.meeting(patience=PatienceSettings(enabled=True, leave_full=0.2))
    start = WarmStart(shop.model(), shop.tokenizer, shop.catalogue, shop.renderer, "exclude", 5)
    result = train_sessions(start, met, SETTINGS, SESSION, Checkpointing(out / f"trainer-{world_size()}"))
    if processes().is_main_process:
        torch.save(dict(adapter_of(result.model).tensors), out / f"after-{world_size()}.pt")
        np.save(out / f"curve-{world_size()}.npy", [[row["reward"], row["left"], row["kl"]] for row in result.curve])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
