"""Run by torchrun in two processes: gradients of a global batch under a wrapper against one whole model's.

torchrun --nproc-per-node 2 distributed_scoring.py REPORT.json
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from llmrec.errors import RunError
from llmrec.policy.forward import ScoringRequest, score_through_forward, with_scoring
from llmrec.policy.scoring import exact_kl_BGL
from tests.policy.tiny import index_of, prompts, tiny_model

IDS, MASK = prompts((9, 5, 7, 12))
ITEMS = torch.tensor([[1, 3, 3], [5, 0, 11], [4, 4, 7], [9, 8, 2]])
WHOLE = ScoringRequest(IDS, MASK, ITEMS, index_of(), exclude=torch.tensor([[10], [-1], [6], [10]]))


def part(rank):
    mine = slice(2 * rank, 2 * rank + 2)
    tensors = {
        name: getattr(WHOLE, name)[mine] for name in ("prompt_ids_BP", "prompt_mask_BP", "items_BG", "exclude")
    }
    return replace(WHOLE, **tensors)


def loss_of(scores):
    """A mean over items with every differentiable part of the scores in it."""
    weight = torch.linspace(-1, 2, scores.log_prob_BGL.shape[-1]).double()
    per_item = (scores.log_prob_BGL * weight + 0.3 * scores.entropy_BGL).sum(-1) + scores.hidden_BGLH.square().mean(
        (-1, -2)
    )
    flat = replace(scores, edge_log_prob_E=torch.zeros_like(scores.edge_log_prob_E))
    return (per_item + 0.1 * exact_kl_BGL(scores, flat).sum(-1)).mean()


def make(lora, name="qwen3"):
    model = tiny_model(name)
    if not lora:
        return model
    torch.manual_seed(3)
    targets = ["q_proj", "down_proj", "lm_head"]
    return get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False)).double().eval()


def gradients(model):
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            grad = parameter.grad
            found[name.removeprefix("module.")] = grad.full_tensor() if isinstance(grad, DTensor) else grad
    return found


def shard(model, reshard=True):
    """Every layer apart, the rest (embedding, norm, head) with the root, as accelerate does."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for layer in base.model.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=reshard)
    return fully_shard(model, mesh=mesh, reshard_after_forward=reshard)


def measure(wrap, lora, name="qwen3"):
    """Largest differences over two updates; the second must not stumble over what the first left behind."""
    rank = dist.get_rank()
    alone = make(lora, name)
    expected = WHOLE.score(alone)
    loss_of(expected).backward()
    wanted = gradients(alone)
    model = wrap(with_scoring(make(lora, name)))
    result = {"log_prob": 0.0, "gradient": 0.0, "wrapper": type(model).__name__}
    for _ in range(2):
        model.zero_grad()
        scores = score_through_forward(model, part(rank))
        loss_of(scores).backward()
        got = gradients(model)
        assert got.keys() == wanted.keys(), sorted(got.keys() ^ wanted.keys())
        apart = sum((got[n] - wanted[n]).square().sum() for n in wanted).sqrt()
        total = sum(g.square().sum() for g in wanted.values()).sqrt()
        off = (scores.log_prob_BGL - expected.log_prob_BGL[2 * rank : 2 * rank + 2]).detach().abs().max()
        result["log_prob"] = max(result["log_prob"], float(off))
        result["gradient"] = max(result["gradient"], float(apart / total))
    return result


def refusal():
    """What is said where a sharded model is asked past its forward, and one that was never taught."""
    said = []
    for ask in (lambda m: part(dist.get_rank()).score(m), lambda m: score_through_forward(m, part(dist.get_rank()))):
        try:
            ask(shard(make(False)))
        except RunError as error:
            said.append(str(error))
    return said


def main():
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    report = {
        "ddp": measure(accelerator.prepare, False),
        "ddp lora": measure(accelerator.prepare, True),
        "ddp window": measure(accelerator.prepare, False, "gemma3-window"),
        "fsdp2": measure(shard, False),
        "fsdp2 kept": measure(lambda model: shard(model, reshard=False), False),
        "fsdp2 lora": measure(shard, True),
        "fsdp2 window": measure(shard, False, "mistral-window"),
        "refusal": refusal(),
    }
    if accelerator.is_main_process:
        Path(sys.argv[1]).write_text(json.dumps(report))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
