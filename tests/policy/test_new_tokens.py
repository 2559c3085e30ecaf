"""New words in tokenizers, new rows in models, and texts as vectors."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from llmrec.catalogue import Catalogue
from llmrec.config import ModelConfig
from llmrec.errors import ConfigError
from llmrec.policy.mean_hidden import TextEncoder
from llmrec.policy.nano import make_nano, train_tokenizer
from llmrec.policy.new_tokens import add_words, directions, grow_embeddings
from llmrec.text.escape import Cleaner, control_token_ids
from tests.policy.tiny import byte_tokenizer

WORDS = ["<a_0>", "<a_1>", "<b_0>", "<b_1>", "<d_1>"]
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def model(kind, rows):
    torch.manual_seed(0)
    configs = {
        "qwen3 tied": lambda: transformers.Qwen3Config(
            vocab_size=rows, head_dim=8, tie_word_embeddings=True, **SMALL
        ),
        "llama untied": lambda: transformers.LlamaConfig(vocab_size=rows, tie_word_embeddings=False, **SMALL),
        "gpt2": lambda: transformers.GPT2Config(vocab_size=rows, n_embd=16, n_layer=2, n_head=2, n_positions=64),
    }
    return transformers.AutoModelForCausalLM.from_config(configs[kind]()).eval()


KINDS = ("qwen3 tied", "llama untied", "gpt2")


def test_each_word_becomes_one_token_at_the_end():
    tokenizer = byte_tokenizer()
    before = len(tokenizer)
    ids = add_words(tokenizer, WORDS)
    assert ids == list(range(before, before + 5))
    text = "The <a_1><b_0> was <a_0><b_1><d_1>"
    encoded = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [i for i in encoded if i >= before] == [ids[1], ids[2], ids[0], ids[3], ids[4]]
    assert tokenizer.decode(encoded) == text


def test_words_survive_saving(tmp_path):
    tokenizer = byte_tokenizer()
    ids = add_words(tokenizer, WORDS)
    tokenizer.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("<b_1>", add_special_tokens=False)["input_ids"] == [ids[3]]
    assert set(ids) <= control_token_ids(loaded)


def test_words_that_are_there_or_stand_twice_are_refused():
    tokenizer = byte_tokenizer()
    add_words(tokenizer, WORDS)
    with pytest.raises(ConfigError, match=r"2 of the identifiers' words already, '<a_1>' among them"):
        add_words(tokenizer, ["<a_1>", "<z_1>", "<d_1>"])
    with pytest.raises(ConfigError, match=r"'<z_1>' stands twice"):
        add_words(tokenizer, ["<z_1>", "<z_1>"])
    assert len(tokenizer) == len(byte_tokenizer()) + 5


@pytest.mark.parametrize("title", ["Pump <a_1><b_0>", "<a_1>", "<a_<a_1>1>", "< a_1> <A_1> ＜a_1＞", "x<d_1>y <b_0"])
def test_hostile_titles_cannot_spell_a_word(title):
    """Neither in a prompt nor in a catalogue of titles; nothing of the text but the marker is lost."""
    tokenizer = byte_tokenizer()
    ids = set(add_words(tokenizer, WORDS))
    cleaned = Cleaner(tokenizer).clean(title, 200)
    assert not ids & set(tokenizer(cleaned, add_special_tokens=False)["input_ids"])
    catalogue = Catalogue.from_titles(["1", "2"], [title, "Plain"], tokenizer)
    assert not ids & set(catalogue.token_ids(0))
    assert sum(c.isalnum() for c in cleaned) == sum(c.isalnum() for c in title)


@pytest.mark.parametrize("described", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_old_rows_stay_and_new_rows_lie_among_them(kind, described):
    tokenizer = byte_tokenizer()
    old = len(tokenizer)
    grown = model(kind, old)
    before = {name: p.detach().clone() for name, p in grown.named_parameters()}
    ids = add_words(tokenizer, WORDS)
    describe = [[3, 4], [5], [], [6, 7], [8]] if described else None
    grow_embeddings(grown, tokenizer, ids, describe=describe, seed=1)
    assert grown.config.vocab_size == old + 5
    tied = grown.get_input_embeddings().weight is grown.get_output_embeddings().weight
    assert tied == (kind != "llama untied")
    for name, parameter in grown.named_parameters():
        assert torch.equal(parameter[: len(before[name])], before[name]), name
    for layer in (grown.get_input_embeddings(), grown.get_output_embeddings()):
        assert layer.weight.shape == (old + 5, 16)
        new, known = layer.weight[old:].detach(), layer.weight[:old].detach()
        distance = (new - known.mean(0)).norm(dim=1) / (known - known.mean(0)).norm(dim=1).mean()
        assert (distance > 0.2).all()
        assert (distance < 2.0).all()
        assert torch.pdist(new).min() > 0.1 * torch.pdist(known).mean()
    logits = grown(input_ids=torch.tensor([[3, *ids, 4]])).logits
    assert logits.shape[-1] == old + 5
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_rows_another_gives_others(kind):
    weights = []
    for seed in (1, 1, 2):
        tokenizer = byte_tokenizer()
        grown = model(kind, len(tokenizer))
        grow_embeddings(grown, tokenizer, add_words(tokenizer, WORDS), seed=seed)
        weights.append(grown.get_output_embeddings().weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("spare", [5, 40])
def test_a_model_with_spare_rows_keeps_its_size_and_its_other_rows(spare):
    tokenizer = byte_tokenizer()
    rows = len(tokenizer) + spare
    grown = model("qwen3 tied", rows)
    before = grown.get_input_embeddings().weight.detach().clone()
    ids = add_words(tokenizer, WORDS)
    grow_embeddings(grown, tokenizer, ids, seed=0)
    after = grown.get_input_embeddings().weight.detach()
    assert after.shape == before.shape
    assert grown.config.vocab_size == rows
    changed = (after != before).any(1).nonzero().squeeze(1).tolist()
    assert changed == ids


def test_a_described_row_lies_nearer_to_what_describes_it():
    tokenizer = byte_tokenizer()
    grown = model("llama untied", len(tokenizer))
    ids = add_words(tokenizer, WORDS)
    describe = [[10], [20], [30], [40], [50]]
    grow_embeddings(grown, tokenizer, ids, describe=describe, seed=0)
    for layer in (grown.get_input_embeddings(), grown.get_output_embeddings()):
        distance = torch.cdist(layer.weight[ids], layer.weight[[10, 20, 30, 40, 50]])
        assert distance.argmin(1).tolist() == [0, 1, 2, 3, 4]


def test_peft_models_and_descriptions_that_do_not_fit_are_refused():
    tokenizer = byte_tokenizer()
    plain = model("qwen3 tied", len(tokenizer))
    ids = add_words(tokenizer, WORDS)
    with pytest.raises(ConfigError, match="5 new words but 1 descriptions"):
        grow_embeddings(plain, tokenizer, ids, describe=[[1]], seed=0)
    wrapped = get_peft_model(copy.deepcopy(plain), LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    with pytest.raises(ConfigError, match="before its LoRA layers"):
        grow_embeddings(wrapped, tokenizer, ids, seed=0)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_texts_vector_is_the_mean_or_the_last_of_its_own_hidden_states(kind, side):
    """Whatever it is batched with, and whichever side the tokenizer pads."""
    tokenizer = byte_tokenizer()
    tokenizer.padding_side = side
    lm = model(kind, len(tokenizer)).train()
    texts = ["The pump", "a", "", "The The long title of a hose, 3 m", "ab"]
    made = TextEncoder(lm, tokenizer, max_tokens=20, batch_tokens=40)(texts)
    assert lm.training
    lm.eval()
    assert made.shape == (5, 16)
    for text, vector in zip(texts, made, strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:20]
        if not ids:
            assert not vector.any()
            continue
        with torch.no_grad():
            hidden = lm(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
        assert np.allclose(vector, hidden.mean(0).numpy(), atol=1e-5)
    # the end of a long prompt is what its last state has to have read
    last = TextEncoder(lm, tokenizer, max_tokens=20, batch_tokens=40, last=True)(texts)
    for text, vector in zip(texts, last, strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][-20:]
        with torch.no_grad():
            hidden = lm(input_ids=torch.tensor([ids or [0]]), output_hidden_states=True).hidden_states[-1][0]
        assert np.allclose(vector, hidden[-1].numpy() if ids else 0.0, atol=1e-5)


def test_directions_keep_likeness_and_have_unit_size():
    """Narrow vectors are only turned: cosines stay; wide ones lose their least dimensions; 0 stays 0."""
    rng = np.random.default_rng(0)
    narrow = rng.normal(size=(6, 4)).astype(np.float32)
    narrow[5] = 0.0
    turned = directions(narrow, 16, seed=0).double()
    assert turned.shape == (6, 16)
    assert torch.allclose(turned[:5].square().mean(1), torch.ones(5, dtype=torch.float64), atol=1e-5)
    assert not turned[5].any()
    unit = torch.nn.functional.normalize(torch.from_numpy(narrow[:5]).double(), dim=1)
    found = torch.nn.functional.normalize(turned[:5], dim=1)
    assert torch.allclose(found @ found.T, unit @ unit.T, atol=1e-5)
    wide = np.zeros((8, 40), dtype=np.float32)
    wide[:, :3] = rng.normal(size=(8, 3))
    cut = torch.nn.functional.normalize(directions(wide, 5, seed=0).double(), dim=1)
    flat = torch.nn.functional.normalize(torch.from_numpy(wide).double(), dim=1)
    assert torch.allclose(cut @ cut.T, flat @ flat.T, atol=1e-4)


def test_rows_start_at_vectors_where_there_are_some():
    vectors = np.zeros((3, 4), dtype=np.float32)
    vectors[0, 0], vectors[1, 0] = 1.0, 2.0  # one direction, two lengths
    tokenizer = train_tokenizer(["a small text of words"] * 3, 300)
    model = make_nano(tokenizer, ModelConfig(nano_hidden=32, nano_layers=1), 0)
    before = model.get_input_embeddings().weight.detach().clone()
    new = add_words(tokenizer, ["<x_1>", "<x_2>", "<x_3>"])
    grow_embeddings(model, tokenizer, new, vectors=vectors, seed=0)
    weight = model.get_input_embeddings().weight.detach()
    assert torch.equal(weight[new[0]], weight[new[1]])
    assert not torch.equal(weight[new[0]], weight[new[2]])
    apart = (weight[new[0]] - before.mean(0)) / before.std(0)
    assert float(apart.square().mean().sqrt()) == pytest.approx(2.5, rel=1e-3)
    assert torch.equal(weight[: len(before)], before)
    with pytest.raises(ConfigError, match="3 new words but 2 vectors"):
        grow_embeddings(model, tokenizer, new, vectors=vectors[:2], seed=0)
