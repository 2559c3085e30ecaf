"""How much is decoded at once: counted in bytes, nothing is allocated."""

from __future__ import annotations

import pytest
import torch
import transformers

from llmrec.config import RunConfig
from llmrec.policy import at_once, decoding, prefill
from llmrec.policy.at_once import ON_CPU, ON_GPU, fitting, kept_bytes, read_bytes, rows_at_once, states_at_once
from llmrec.policy.decoding import beam_search
from llmrec.policy.nano import make_nano
from tests.policy.tiny import ITEMS, byte_tokenizer, index_of, prompts, tiny_model

GIB = 2**30
SMALL = transformers.LlamaConfig(
    hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3
)
LARGE = transformers.LlamaConfig(
    hidden_size=4096, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8
)


def meta(config, dtype):
    """A model that is only a description."""
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)


def test_keys_and_values_of_a_token():
    assert kept_bytes(SMALL, torch.bfloat16) == 2 * 30 * 3 * 64 * 2
    assert kept_bytes(transformers.GPT2Config(n_embd=1024, n_layer=24, n_head=16), torch.float32) == 2 * 24 * 1024 * 4
    assert kept_bytes(transformers.Qwen3Config(head_dim=128, num_hidden_layers=2), torch.float32) == 2 * 2 * 32 * 512
    assert kept_bytes(transformers.MambaConfig(), torch.float32) == 0


def test_a_cpu_takes_64_states_of_a_small_model_and_as_many_of_a_large_one_as_2_gib_hold():
    nano = make_nano(byte_tokenizer(), RunConfig().model, 0)
    assert states_at_once(nano, 1000, 24) == ON_CPU
    assert states_at_once(tiny_model("mamba"), 4096, 12) == ON_CPU
    small = meta(SMALL, torch.float32)
    assert states_at_once(small, 100, 4) == ON_CPU
    assert states_at_once(small, 400, 12) == 2 * GIB // (46_080 * (400 + 32 * 12)) == 59
    assert states_at_once(meta(LARGE, torch.float32), 100_000, 12) == 1  # one does not fit, and is decoded


def test_a_gpu_takes_as_many_as_its_memory_bears():
    share = 80 * GIB // 8
    for config, states in ((SMALL, ON_GPU), (LARGE, 104)):
        assert fitting(kept_bytes(config, torch.bfloat16) * 700, share, ON_CPU, ON_GPU) == states
    assert fitting(kept_bytes(LARGE, torch.bfloat16) * 700, share // 4, ON_CPU, ON_GPU) == ON_CPU


@pytest.mark.parametrize(
    ("config", "dtype", "floats"),
    [
        (SMALL, torch.bfloat16, 576 + 6 * 1536),
        (SMALL, torch.float32, 576 + 6 * 1536),
        (transformers.GPT2Config(n_embd=64, n_layer=1, n_head=2), torch.float32, 64 + 6 * 256),
        (transformers.MambaConfig(hidden_size=64, state_size=16), torch.float32, 64 + 4 * 128 * 16),
    ],
)
def test_rows_that_are_read_whole_fit_2_gib(config, dtype, floats):
    each = read_bytes(config, dtype, 400)
    assert each == dtype.itemsize * floats + 8 * config.hidden_size
    rows = rows_at_once(meta(config, dtype), 400)
    assert rows * 400 * each <= 2 * GIB < (rows + 1) * 400 * each


def test_scores_of_eager_attention_count():
    eager = transformers.LlamaConfig(hidden_size=64, intermediate_size=64, num_attention_heads=4)
    eager._attn_implementation = "eager"
    assert read_bytes(eager, torch.float32, 5000) == 4 * (64 + 3 * 4 * 5000) + 8 * 64
    assert read_bytes(eager, torch.float32, 1) == 4 * (64 + 6 * 64) + 8 * 64


def test_a_model_that_is_read_item_by_item_holds_no_more_than_its_room(monkeypatch):
    """However many beams there are; and the lists are those of one pass."""
    model, index, (ids, mask) = tiny_model("gpt2"), index_of(), prompts()
    monkeypatch.setattr(decoding, "supports_sharing", lambda *_: False)
    whole = beam_search(model, ids, mask, 5, index, beams=len(ITEMS))
    each = read_bytes(model.config, torch.float64, 9 + index.max_length) * (9 + index.max_length)
    monkeypatch.setattr(at_once, "ROOM", 4 * each + each // 2)
    read, hidden = [], prefill.plain_hidden

    def counted(own, told, index, user, node):
        read.append(len(user))
        return hidden(own, told, index, user, node)

    monkeypatch.setattr(prefill, "plain_hidden", counted)
    items, log_prob = beam_search(model, ids, mask, 5, index, beams=len(ITEMS))
    assert max(read) == 4 < sum(read)
    assert (items == whole[0]).all()
    assert torch.allclose(log_prob, whole[1])
