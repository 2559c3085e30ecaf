"""Two gloo processes on the CPU: a global batch has the gradient that one whole model has (DDP, FSDP2, LoRA)."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmrec.errors import RunError
from llmrec.policy.forward import ScoringRequest, score_through_forward, with_scoring
from llmrec.policy.scoring import exact_kl_BGL
from tests.policy.tiny import index_of, prompts, tiny_model

ROOT = Path(__file__).parents[2]
IDS, MASK = prompts()
ITEMS = torch.tensor([[1, 3, 3], [5, 0, 11], [4, 4, 7]])
REQUEST = ScoringRequest(IDS, MASK, ITEMS, index_of(), exclude=torch.tensor([[10], [-1], [6]]), temperature=0.7)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    file = tmp_path_factory.mktemp("distributed") / "report.json"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = str(Path(__file__).with_name("distributed_scoring.py"))
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port), script, str(file)]
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, *launch], env=os.environ | settings, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(file.read_text())


@pytest.mark.slow
def test_gradients_of_a_global_batch_equal_those_of_one_process(report):
    wrappers = {
        "ddp": "DistributedDataParallel",
        "ddp lora": "DistributedDataParallel",
        "ddp window": "DistributedDataParallel",
        "fsdp2": "FSDPQwen3ForCausalLM",
        "fsdp2 kept": "FSDPQwen3ForCausalLM",
        "fsdp2 lora": "FSDPPeftModel",
        "fsdp2 window": "FSDPMistralForCausalLM",
    }
    for name, wrapper in wrappers.items():
        assert report[name]["wrapper"] == wrapper
        assert report[name]["log_prob"] <= 1e-7, name
        assert report[name]["gradient"] <= 5e-7, name


@pytest.mark.slow
def test_sharded_and_untaught_models_are_refused_with_a_sentence(report):
    past, untaught = report["refusal"]
    assert "weights are sharded" in past
    assert "with_scoring" in untaught


def test_through_the_forward_is_the_same_and_other_calls_stay_as_they_were():
    plain, taught = tiny_model(), with_scoring(tiny_model())
    assert with_scoring(taught) is taught
    expected, got = REQUEST.score(plain), score_through_forward(taught, REQUEST)
    for name in ("log_prob_BGL", "entropy_BGL", "choice_BGL", "hidden_BGLH", "edge_log_prob_E", "state_BGL"):
        assert torch.equal(getattr(expected, name), getattr(got, name)), name
    assert torch.equal(exact_kl_BGL(got, expected), torch.zeros_like(got.log_prob_BGL))
    assert torch.equal(plain(input_ids=IDS).logits, taught(input_ids=IDS).logits)
    grads = []
    for model, scores in ((plain, expected), (taught, got)):
        scores.item_log_prob_BG.sum().backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_a_copy_of_a_taught_model_scores_with_its_own_weights():
    taught = with_scoring(tiny_model())
    twin = copy.deepcopy(taught)
    with pytest.raises(RunError, match="with_scoring"):
        score_through_forward(twin, REQUEST)
    with torch.no_grad():
        twin.get_input_embeddings().weight.mul_(0.5)
        with_scoring(twin)
        got, other = (score_through_forward(m, REQUEST).log_prob_BGL for m in (twin, taught))
        want = REQUEST.score(twin).log_prob_BGL
    assert torch.equal(got, want)
    assert not torch.allclose(got, other)
