"""How many states are decoded at once."""

from __future__ import annotations

import torch
import transformers

from llmrec.policy.at_once import ON_CPU, ON_GPU, fitting, states_at_once
from tests.policy.tiny import tiny_model


def test_a_cpu_takes_what_it_took():
    assert states_at_once(tiny_model(), 4096, 12) == ON_CPU


def test_a_gpu_takes_as_many_as_its_memory_bears():
    small = transformers.LlamaConfig(
        hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3
    )
    large = transformers.LlamaConfig(
        hidden_size=4096, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8
    )
    memory = 80 * 2**30
    assert fitting(small, torch.bfloat16, 700, memory) == ON_GPU
    assert fitting(large, torch.bfloat16, 700, memory) == 104
    assert fitting(large, torch.bfloat16, 700, memory // 4) == ON_CPU


def test_a_configuration_without_groups_of_heads():
    config = transformers.GPT2Config(n_embd=1024, n_layer=24, n_head=16)
    assert fitting(config, torch.float32, 1024, 160 * 2**30) == 20 * 2**30 // (2 * 24 * 1024 * 4 * 1024)
