"""Run by torchrun (or python) in one or two processes: what a training of 8 AdamW steps changes in the weights.

AdamW's epsilon is EPSILON here, so that steps grow with their gradients. With the usual 1e-8 the first step is the learning
rate times the sign of a gradient, also of one that is rounding errors alone (that of a critic's bias, which starts at
the mean): it then moves a weight as far as any other, and what is equal but for rounding parts.

torchrun --nproc-per-node 2 distributed_updates.py none|fsdp2|zero2|zero3 FOLDER CASE ...

A case is ALGORITHM/WEIGHTS with what else there is: /resample draws flat groups anew, with the adaptive controls on;
/rehearsal rehearses in every step; /parts takes a step in parts;
/cut ends the training in its last rollout and goes on from its checkpoint. Each leaves CASE.pt with the weights
`before` and `after`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from pathlib import Path

import numpy as np
import torch
import yaml
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed import is_initialized

from llmrec.config import (
    GRPOSettings,
    LoraSettings,
    PPOSettings,
    RehearsalSettings,
    ReinforceSettings,
    RLOOSettings,
    SFTSettings,
    StabilitySettings,
)
from llmrec.training.arguments import processes, world_size
from llmrec.training.lora import adapter_of, make_lora
from llmrec.training.sft import train_sft
from llmrec.training.trl_seam.quiet import QuietTrainer
from tests.training.conftest import make_shop
from tests.training.worlds import answers, lamps, run

ROOT = Path(__file__).resolve().parents[2]
RUN = {"steps": 4, "prompts": 8, "draws": 3, "save_every": 2, "learning_rate": 1e-3, "lora": LoraSettings(rank=4)}
ADAPTIVE = {"kl_target": 0.05, "entropy_floor": 2.45, "reward_normalisation": "running"}
EPSILON = 1e-3
SECTIONS = {
    "ppo": PPOSettings(**RUN, minibatches=2),
    "grpo": GRPOSettings(**RUN, minibatches=2),
    "rloo": RLOOSettings(**RUN, minibatches=2),
    "reinforce": ReinforceSettings(**(RUN | {"steps": 8, "save_every": 8})),
}


def settings_of(algorithm, weights, resample):
    """Settings of a case: plain, or with groups drawn anew and every control at work."""
    stability = StabilitySettings(resample=2, **ADAPTIVE) if resample else StabilitySettings()
    return dataclasses.replace(SECTIONS[algorithm], weights=weights, stability=stability)


def rehearsing(settings, rows=5):
    """With rows of which two processes get different numbers."""
    return dataclasses.replace(settings, rehearsal=RehearsalSettings(coefficient=0.1, rows=rows))


def train(case, shop, out):
    """The weights that a training starts from, those it ends with, and its curve."""
    algorithm, weights, *more = case.split("/")
    model = shop.model()
    if algorithm == "sft":
        settings = SFTSettings(weights=weights, batch_size=8, epochs=1.0, lora=LoraSettings(rank=4), save_every=8)
        before = plain(make_lora(model, settings.lora, seed=5) if weights == "lora" else model)
        model = shop.model()
        given = (shop.tokenizer, shop.catalogue, shop.renderer, shop.examples(64), shop.items)
        # in parts: of which two processes have different numbers, one and two in some steps
        parts = 200 if "parts" in more else 0
        settings = dataclasses.replace(settings, mixture={"next_item": 1.0}, micro_tokens=parts)
        if "timelines" in more:
            # one window a step: it is halved, or a process without a choice goes along with none
            settings = dataclasses.replace(
                settings, layout="timelines", likelihood="catalogue", window=3, batch_size=2
            )
        result = train_sft(model, *given, settings, seed=5, out=out, timelines=shop.timelines)
        after = result.adapter.tensors if weights == "lora" else plain(result.model)
        return before, after, result.curve
    settings = settings_of(algorithm, weights, "resample" in more)
    settings = rehearsing(settings) if "rehearsal" in more else settings
    before = plain(make_lora(model, settings.lora, seed=5) if weights == "lora" else model)
    asked, judged = [], {}

    def reward(states, items_BG):
        asked.append(len(states))
        if "cut" in more and len(asked) == settings.steps:
            raise Cut
        return lamps(states, items_BG)

    def judge(step, model):
        judged[step] = plain(model)

    def once():
        asks = {"reward": reward, "on_checkpoint": judge, "rehearsed": functools.partial(answers, shop)}
        return run(shop, out, settings, model=shop.model(), **asks)

    try:
        result = once()
    except Cut:
        result = once()
    if "resample" in more:
        assert len(asked) > settings.steps, "no group was drawn anew"
    after = plain(result.model)
    if processes().is_main_process:
        assert all(torch.equal(after[name], judged[settings.steps][name]) for name in after), (
            "another model was judged"
        )
    return before, after, result.curve


class Cut(Exception):  # a kill
    """Ends a training in its last rollout."""


def plain(model):
    """Copies of what is trained: the adapter's tensors, or all weights."""
    tensors = adapter_of(model).tensors if hasattr(model, "peft_config") else model.state_dict()
    return {name: tensor.detach().clone() for name, tensor in tensors.items() if "critic." not in name}


def apart(one, two):
    """|(a1 - a0) - (b1 - b0)| / |b1 - b0| over all weights, for two results of `train`."""
    return float(np.sqrt(_square(one, two) / _square(two)))


def _square(one, two=None):
    total = 0.0
    for name in one["after"]:
        moved = one["after"][name].double() - one["before"][name].double()
        if two is not None:
            moved = moved - (two["after"][name].double() - two["before"][name].double())
        total += float(moved.square().sum())
    return total


def shard_on_a_cpu(name):
    """Lets accelerate shard by the settings of train/accelerate/NAME.yaml, which it does on GPUs only."""
    tree = yaml.safe_load((ROOT / "train" / "accelerate" / f"{name}.yaml").read_text())
    deep = tree["distributed_type"] == "DEEPSPEED"
    settings = tree["deepspeed_config" if deep else "fsdp_config"]
    prefix = "ACCELERATE_DEEPSPEED_" if deep else ""
    os.environ.update({prefix + key.upper(): str(value) for key, value in settings.items()})
    os.environ["ACCELERATE_USE_DEEPSPEED" if deep else "ACCELERATE_USE_FSDP"] = "true"
    begin, plugins = AcceleratorState.__init__, []

    def patched(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        plugins.extend(filter(None, [kwargs.get("deepspeed_plugin" if deep else "fsdp_plugin")]))
        if self.distributed_type != DistributedType.MULTI_CPU or not plugins:
            return
        if deep:
            self.distributed_type, self.deepspeed_plugins = DistributedType.DEEPSPEED, plugins[-1]
            for plugin in plugins[-1].values():
                plugin.set_mixed_precision("no")
                plugin.select(_from_accelerator_state=True)
        else:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugins[-1]

    AcceleratorState.__init__ = patched


def step_by_gradients():
    """Gives AdamW EPSILON, in every trainer."""
    chosen = QuietTrainer.get_optimizer_cls_and_kwargs

    def patched(self, args, model=None):
        kind, options = chosen(self, args, model)
        return kind, options | {"eps": EPSILON}

    QuietTrainer.get_optimizer_cls_and_kwargs = patched


def main(train):
    """Leaves what `train` changes in each case; whoever is first writes."""
    torch.set_num_threads(1)
    step_by_gradients()
    folder, cases = Path(sys.argv[2]), sys.argv[3:]
    if sys.argv[1] != "none":
        shard_on_a_cpu(sys.argv[1])
    shop, first = make_shop(), processes().is_main_process
    for case in cases:
        out = folder / case.replace("/", "-")
        before, after, curve = train(case, shop, out)
        if first:
            torch.save({"before": before, "after": after, "curve": curve, "world": world_size()}, f"{out}.pt")
    if is_initialized():
        processes().wait_for_everyone()
        processes().destroy_process_group()


if __name__ == "__main__":
    main(train)
