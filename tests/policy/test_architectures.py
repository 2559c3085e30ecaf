"""What shares prompts does so exactly; what cannot takes the plain path and is right. Told by trial, never by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import llmrec.policy
from llmrec.errors import RunError
from llmrec.policy.decoding import beam_search, sample_items
from llmrec.policy.scoring import score_items
from llmrec.policy.sharing import supports_sharing
from tests.policy.tiny import BASE, ITEMS, SHARING, brute_log_pi, index_of, prompts, tiny_model, unpadded

IDS, MASK = prompts((13, 5, 8))
INDEX = index_of()
WINDOW = 4
MIXED = ["sliding_attention", "full_attention"]
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR = {
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 1,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
# beyond those of tiny.py: Qwen2, Qwen3, Llama, Mistral, Gemma 3, Phi-3, SmolLM3, GPT-2 and others
SHARED = {
    "mistral without a window": ("MistralConfig", {"sliding_window": None, "head_dim": 8}),
    "qwen3 window": (
        "Qwen3Config",
        {"head_dim": 8, "use_sliding_window": True, "sliding_window": WINDOW, "layer_types": MIXED},
    ),
    "phi3 window": ("Phi3Config", {"sliding_window": WINDOW}),
    "starcoder2 window": ("Starcoder2Config", {"sliding_window": WINDOW}),
    "gemma": ("GemmaConfig", {"head_dim": 8}),
    "gemma2 window": ("Gemma2Config", {"head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}),
    "gemma3 all windows": (
        "Gemma3TextConfig",
        {"head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8, "layer_types": [MIXED[0]] * 2},
    ),
    "smollm3 without positions": ("SmolLM3Config", {"no_rope_layers": [1, 0]}),
    "olmo2": ("Olmo2Config", {}),
    "gpt-neox": ("GPTNeoXConfig", {"hidden_dropout": 0.0, "attention_dropout": 0.0}),
    "falcon": ("FalconConfig", {"multi_query": True}),
    "stablelm": ("StableLmConfig", {}),
}
ALONE = {
    "mamba": ("MambaConfig", {"state_size": 4}),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"]}),
    "qwen3-next": ("Qwen3NextConfig", {**EXPERTS, **LINEAR, "head_dim": 8, "shared_expert_intermediate_size": 16}),
    "bloom": ("BloomConfig", {"n_layer": 2, "n_head": 2}),
}


UNKNOWN_HEAD = ("RecurrentGemmaConfig", {"attention_window_size": 8, "lru_width": 16, "head_dim": 8})


def model_of(entry, dtype=torch.float64):
    kind, extra = entry
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**{**BASE, **extra})
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def right_padded(ids, mask):
    out, kept = torch.zeros_like(ids), torch.zeros_like(mask)
    for row, prompt in enumerate(unpadded(ids, mask)):
        out[row, : len(prompt)], kept[row, : len(prompt)] = torch.tensor(prompt), 1
    return out, kept


def scored(model, ids, mask, path):
    model.zero_grad()
    items = torch.tensor([[1, 3, 3, 6], [5, 0, 11, 2], [4, 4, 4, 7]])
    scores = score_items(model, ids, mask, items, INDEX, exclude=torch.tensor([[9]] * 3), path=path)
    loss = (scores.log_prob_BGL * torch.linspace(-1, 2, scores.log_prob_BGL.shape[-1])).sum()
    (loss + scores.entropy_BGL.sum() + 0.1 * scores.hidden_BGLH.square().sum()).backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return scores.log_prob_BGL.detach(), scores.entropy_BGL.detach(), gradient


@pytest.mark.parametrize("name", [*SHARED, *SHARING])
def test_packed_equals_plain_whatever_the_side_of_the_padding(name):
    eager = name.startswith("gemma2")  # its attention has no other form, and takes its softmax in float32
    dtype = torch.float32 if eager else torch.float64
    model = model_of(SHARED[name], dtype) if name in SHARED else tiny_model(name, dtype)
    assert supports_sharing(model)
    plain = scored(model, IDS, MASK, "plain")
    for ids, mask in ((IDS, MASK), right_padded(IDS, MASK)):
        packed = scored(model, ids, mask, "packed")
        # norms and rotations are computed in float32 inside the models
        for ours, theirs in zip(packed, plain, strict=True):
            assert float((ours - theirs).norm()) <= (1e-5 if eager else 1e-6) * float(theirs.norm())


@pytest.mark.parametrize("name", ALONE)
def test_where_prompts_cannot_be_shared_the_plain_path_is_right(name):
    model = model_of(ALONE[name], torch.float32)
    assert supports_sharing(model) is False
    every = torch.arange(len(ITEMS)).expand(3, -1)
    with torch.no_grad():
        for ids, mask in ((IDS, MASK), right_padded(IDS, MASK)):
            got = score_items(model, ids, mask, every, INDEX).item_log_prob_BG
            assert torch.allclose(got.exp().sum(-1), torch.ones(3), atol=1e-5)
            expected = brute_log_pi(model, unpadded(IDS, MASK)[1])
            assert torch.allclose(got[1], torch.stack([expected[i] for i in range(len(ITEMS))]), atol=2e-4)


def test_a_head_that_does_what_nobody_told_is_refused():
    """RecurrentGemma caps its logits under a name of its own."""
    with pytest.raises(RunError, match="output head of RecurrentGemmaForCausalLM"):
        score_items(model_of(UNKNOWN_HEAD), IDS, MASK, torch.full((3, 1), 3), INDEX)


def test_gradients_of_the_plain_path_where_prompts_cannot_be_shared():
    model = model_of(ALONE["lfm2"])
    score_items(model, IDS, MASK, torch.full((3, 1), 3), INDEX).item_log_prob_BG.sum().backward()
    got = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    sum(brute_log_pi(model, prompt)[3] for prompt in unpadded(IDS, MASK)).backward()
    want = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert float((got - want).norm()) <= 1e-6 * float(want.norm())


def test_a_checkpoint_s_generation_configuration_changes_nothing():
    clean, hostile = tiny_model(dtype=torch.float32), tiny_model(dtype=torch.float32)
    hostile.generation_config.update(
        temperature=7.0,
        top_k=1,
        top_p=0.01,
        repetition_penalty=9.0,
        do_sample=True,
        num_beams=4,
        bad_words_ids=[[5], [20]],
        suppress_tokens=[5, 30],
        forced_bos_token_id=2,
        forced_eos_token_id=2,
        eos_token_id=5,
        min_new_tokens=9,
        max_length=1,
        no_repeat_ngram_size=1,
    )
    every = torch.arange(len(ITEMS)).expand(3, -1)
    uniform = torch.rand((3, 4, INDEX.max_length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, two = (score_items(m, IDS, MASK, every, INDEX).log_prob_BGL for m in (clean, hostile))
    assert torch.equal(one, two)
    for first, second in zip(*(beam_search(m, IDS, MASK, 5, INDEX) for m in (clean, hostile)), strict=True):
        assert torch.equal(first, second)
    draws = [sample_items(m, IDS, MASK, 4, INDEX, uniform_BGL=uniform) for m in (clean, hostile)]
    assert torch.equal(draws[0].items_BG, draws[1].items_BG)
    assert torch.equal(draws[0].log_prob_BG, draws[1].log_prob_BG)


def test_the_library_knows_no_architecture_by_name():
    """No model type of transformers occurs in the rooms that run models, but where a head's scale is named oddly.

    GGUF is a format whose files name an architecture, so what writes them does.
    """
    allowed = {"hyperclovax"}  # it multiplies by what others divide by
    for file in Path(llmrec.policy.__file__).parent.glob("*.py"):
        if file.name == "gguf_writer.py":
            continue
        text = file.read_text(encoding="utf-8")
        for name in {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()} - allowed:
            assert f'"{name}"' not in text, (file.name, name)
