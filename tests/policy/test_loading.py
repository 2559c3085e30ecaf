"""Models and tokenizers that cannot be used: one sentence with the mend, before anything is trained."""

import json

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from llmrec.config import RunConfig
from llmrec.errors import ConfigError, LLMRecError, RunError
from llmrec.pipeline.base_model import check_base
from llmrec.policy.loading import (
    PRECISION,
    check_positions,
    load_causal_lm,
    load_tokenizer,
    positions,
    save_causal_lm,
)
from llmrec.policy.nano import train_tokenizer
from tests.overrides import given


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["Profile: History: (clicked) Next product: kettle teapot mug"] * 3, 300)


def llama(rows, **more):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=rows, **{**sizes, "max_position_embeddings": 512, **more}))


@pytest.fixture
def saved(tokenizer, tmp_path):
    """Saves a model with its tokenizer, then changes files of it: name to bytes, or to keys of a JSON file."""

    def save(model=None, *, beside=tokenizer, **files):
        save_causal_lm(model if model is not None else llama(len(tokenizer)), beside, tmp_path)
        for name, change in files.items():
            path = tmp_path / {"generation": "generation_config.json", "config": "config.json"}.get(name, name)
            if isinstance(change, dict):
                old = json.loads(path.read_text()) if path.is_file() else {}
                path.write_text(json.dumps(old | change))
            else:
                path.write_bytes(change)
        return str(tmp_path)

    return save


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": False, "temperature": 0.6, "top_p": 0.95, "eos_token_id": [0, 1]},
        {"num_beams": 1, "length_penalty": 2.0, "early_stopping": True},
        {"temperature": "hot", "max_new_tokens": -1},
        b"{not json",
    ],
    ids=["sampling without do_sample", "beams without beams", "wrong types", "not JSON"],
)
def test_settings_of_generation_stop_nothing(saved, tokenizer, tmp_path_factory, settings):
    folder = saved(generation=settings)
    model, again = load_causal_lm(folder), tmp_path_factory.mktemp("again")
    save_causal_lm(model, tokenizer, again)
    assert "temperature" not in json.loads((again / "generation_config.json").read_text())
    loaded = load_causal_lm(str(again))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_settings_of_generation_inside_the_configuration_stop_nothing(saved, tokenizer, tmp_path_factory):
    folder = saved(config={"do_sample": False, "temperature": 0.6, "length_penalty": 3.0})
    save_causal_lm(load_causal_lm(folder), tokenizer, tmp_path_factory.mktemp("again"))


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "a method of tomorrow"])
def test_quantised_weights_are_refused_by_their_settings_alone(saved, method):
    folder = saved(config={"quantization_config": {"quant_method": method, "load_in_4bit": True, "bits": 4}})
    for load in (load_causal_lm, lambda name: check_base(RunConfig.read(None, given(f"model.name={name}")))):
        with pytest.raises(RunError, match=rf"quantised \({method}\).*model\.quantization: 4bit"):
            load(folder)


@pytest.mark.parametrize(
    ("left_out", "words"),
    [
        (["model.safetensors"], "has no weights in safetensors, so it holds no model"),
        (["config.json"], "has no config.json, so it holds no model"),
        (["config.json", "model.safetensors"], "has no config.json and no weights in safetensors"),
    ],
    ids=["no weights", "no config", "neither"],
)
def test_folders_without_a_model_are_refused_before_anything_is_made(saved, tmp_path, left_out, words):
    folder = saved()
    for name in left_out:
        (tmp_path / name).unlink()
    with pytest.raises(RunError, match=words):
        check_base(RunConfig.read(None, given(f"model.name={folder}")))


def half(path):
    return path.read_bytes()[: path.stat().st_size // 2]


def test_damaged_weights(saved, tmp_path):
    saved()
    for content in (half(tmp_path / "model.safetensors"), b"hello" * 100, b""):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(RunError, match="file of weights is damaged, fetch or save it again"):
            load_causal_lm(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": 3}, r"lack 9 parts .*'model\.layers\.2\."),
        ({"hidden_size": 32}, r"lm_head\.weight is \(\d+, 16\), not \(\d+, 32\)"),
        ({"vocab_size": 40}, r"lm_head\.weight is \(\d+, 16\), not \(40, 16\)"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "t5 model, which is no causal"),
        ({"model_type": "futurellama"}, "cannot be loaded; check the id"),
        (b"[1, 2]", "cannot be loaded; .*model_type"),
    ],
    ids=["more layers", "wider", "fewer rows", "another kind", "unknown kind", "a list"],
)
def test_settings_that_do_not_fit_the_weights(saved, change, words):
    folder = saved(config=change)
    with pytest.raises(RunError, match=words):
        load_causal_lm(folder)


def test_weights_without_a_place_are_refused_where_they_were_written_here(saved):
    folder = saved(config={"num_hidden_layers": 1})
    load_causal_lm(folder)
    with pytest.raises(RunError, match=r"hold 9 parts more than its config\.json names"):
        load_causal_lm(folder, whole=True)


def test_other_kinds_of_models(saved, tokenizer):
    shape = {"d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "d_kv": 8}
    folder = saved(T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **shape)))
    with pytest.raises(RunError, match="no causal language model"):
        load_causal_lm(folder)


@pytest.mark.parametrize(
    "content",
    [b'{"version": "9.0", "model": {"type": "Quantum"}}', b"{", b"[]"],
    ids=["another version", "not JSON", "a list"],
)
def test_tokenizers_that_cannot_be_read(saved, content):
    folder = saved(**{"tokenizer.json": content})
    with pytest.raises(RunError, match=r"The tokenizer '.*' cannot be loaded; .*\(\w+: .*\)\.$"):
        load_tokenizer(folder)


def test_a_message_of_another_package_is_bounded(saved):
    folder = saved(**{"tokenizer.json": b"[" + b'"x",' * 100_000 + b'"x"]'})
    with pytest.raises(LLMRecError) as refusal:
        load_tokenizer(folder)
    assert len(str(refusal.value)) < 700
    assert "\n" not in str(refusal.value)


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows(saved, tokenizer):
    folder = saved(llama(len(tokenizer) - 1))
    with pytest.raises(RunError, match=r"tokens, but its model only \d+ rows.*resize_token_embeddings"):
        check_base(RunConfig.read(None, given(f"model.name={folder}")))
    folder = saved(llama(len(tokenizer) + 7))
    check_base(RunConfig.read(None, given(f"model.name={folder}")))


def test_a_model_of_few_positions_is_refused_before_it_is_loaded(saved, tokenizer, tmp_path):
    size = {"n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    learned = saved(GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **size)))
    (tmp_path / "model.safetensors").write_bytes(b"")
    for most, fits in ((64, False), (63, True)):
        only_items = "sft.mixture={next_item: 1.0, description_from_title: 0.0}"
        settings = RunConfig.read(None, given(f"model.name={learned}", f"text.max_tokens={most}", only_items))
        if fits:
            check_base(settings)
        else:
            with pytest.raises(ConfigError, match=r"reads at most 64 tokens.*set text\.max_tokens to 63 or less"):
                check_base(settings)


def test_answers_that_are_texts_count(saved, tokenizer):
    named = f"model.name={saved(llama(len(tokenizer), max_position_embeddings=128))}"
    check_base(RunConfig.read(None, given(named, "text.max_tokens=64")))
    with pytest.raises(ConfigError, match=r"an answer 64; set text\.max_tokens to 64 or less"):
        check_base(RunConfig.read(None, given(named, "text.max_tokens=65")))
    named = f"model.name={saved(llama(len(tokenizer), max_position_embeddings=64))}"
    with pytest.raises(ConfigError, match=r"leave tasks with long answers .* out of sft\.mixture"):
        check_base(RunConfig.read(None, given(named, "text.max_tokens=32")))


def test_positions_of_several_kinds_of_models(tokenizer):
    assert positions(llama(8, max_position_embeddings=64).config) == 64
    assert positions(GPT2Config(n_positions=48)) == 48
    with pytest.raises(ConfigError, match=r"set text\.max_tokens to 52 or less"):
        check_positions("x", llama(8, max_position_embeddings=64).config, 53, 12)
    check_positions("x", llama(8, max_position_embeddings=64).config, 52, 12)
    with pytest.raises(ConfigError, match="choose another model"):
        check_positions("x", llama(8, max_position_embeddings=8).config, 53, 12)


def test_a_tokenizer_without_an_end_or_pad_token(saved, tokenizer):
    bare = train_tokenizer(["kettle"], 270)
    bare.eos_token = bare.pad_token = None
    folder = saved(llama(len(bare)), beside=bare)
    with pytest.raises(RunError, match="has no end token"):
        check_base(RunConfig.read(None, given(f"model.name={folder}")))
    bare.eos_token = "<|endoftext|>"
    folder = saved(llama(len(bare)), beside=bare)
    assert load_tokenizer(folder).pad_token_id == load_tokenizer(folder).eos_token_id


def test_what_weights_are_stored_in_does_not_decide_what_they_are_loaded_in(saved, tokenizer):
    loaded = load_causal_lm(saved(llama(len(tokenizer)).bfloat16()), device=torch.device("cpu"))
    assert getattr(loaded, PRECISION).dtype == loaded.dtype == torch.float32
