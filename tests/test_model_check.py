"""The check of a pretrained model: passes on models that are right, and each fault planted in one is found."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmrec.config import ModelConfig
from llmrec.dataset.world.world import generate_world
from llmrec.errors import RunError
from llmrec.model_check import checks, training
from llmrec.model_check.trial import SEED, WORLD, CheckedModel
from llmrec.policy.loading import save_causal_lm
from llmrec.policy.nano import make_nano, train_tokenizer
from llmrec.text.escape import Cleaner
from tests.text.conftest import CHATML

SCRIPT = Path(__file__).parents[1] / "eval" / "check_pretrained.py"
NAMES = [check.__name__.removeprefix("check_") for check in checks.CHECKS]
# What a checkpoint may bring along; under it a plain `generate` would repeat nothing and take no second-best token.
GENERATION = {
    "do_sample": True,
    "temperature": 0.2,
    "top_k": 1,
    "top_p": 0.1,
    "repetition_penalty": 9.0,
    "num_beams": 3,
}


def world_tokenizer():
    items = generate_world(WORLD, SEED).dataset.item_list
    texts = [f"{i.title} {i.description} {i.brand}" for i in items] + [
        "Profile: History: (clicked) Next product:"
    ] * 3
    return train_tokenizer([*texts, "system user assistant"], 900)


def far_from_flat(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    """Tied embeddings, no chat template."""
    folder, tokenizer = tmp_path_factory.mktemp("qwen3"), world_tokenizer()
    save_causal_lm(make_nano(tokenizer, ModelConfig(nano_hidden=32, nano_layers=1), 0), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """Llama-like: untied head, more rows than tokens, ChatML, and a generation configuration to be ignored."""
    folder, tokenizer = tmp_path_factory.mktemp("llama"), world_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token, tokenizer.chat_template = "<|im_end|>", CHATML
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 30,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    save_causal_lm(far_from_flat(LlamaForCausalLM(config)), tokenizer, folder)
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))
    return folder


@pytest.fixture
def trial(chat, tmp_path):
    return CheckedModel(str(chat), None, tmp_path)


def script(monkeypatch, *parts):
    """Exit code of eval/check_pretrained.py."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, parts)])
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0


def test_a_base_model_passes_and_the_script_says_so(qwen3, tmp_path, monkeypatch, capsys):
    assert script(monkeypatch, qwen3, "--json", tmp_path / "check.json") == 0
    assert f"{len(NAMES)} of {len(NAMES)} ok" in capsys.readouterr().out
    written = json.loads((tmp_path / "check.json").read_text())
    assert written["passed"]
    assert list(written["checks"]) == NAMES
    assert written["checks"]["prompt_template"]["template"] == "base"
    assert written["checks"]["loads"]["architecture"] == "Qwen3ForCausalLM"
    assert written["checks"]["catalogue"]["distinct"] == 50
    assert written["checks"]["added_tokens"]["tied_embeddings"] is True
    assert written["peak_memory_mib"] > 100


def test_a_chat_model_passes_whatever_its_generation_configuration_says(chat):
    report = checks.check_model(str(chat))
    assert {check.name: check.finding.sentence for check in report.checks if not check.finding.ok} == {}
    figures = {check.name: check.finding.figures for check in report.checks}
    assert figures["prompt_template"]["template"] == "chat"
    assert figures["sharing"] == {"supports_sharing": True}
    assert 0 < figures["packed_equals_plain"]["log_prob_error"] < 1e-4
    assert figures["beam_search"]["same_item"] == 30
    assert figures["added_tokens"]["tied_embeddings"] is False


def test_a_folder_that_is_no_model_ends_with_one_sentence_and_code_2(tmp_path, monkeypatch, capsys):
    (tmp_path / "notes.txt").write_text("no model here")
    assert script(monkeypatch, tmp_path, "--json", tmp_path / "check.json") == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert str(tmp_path) in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not (tmp_path / "check.json").exists()


def test_a_failed_check_gives_code_2_and_the_others_go_on(qwen3, monkeypatch, capsys):
    def broken(trial):
        raise ZeroDivisionError("planted\nfault")

    monkeypatch.setattr(checks, "CHECKS", (checks.check_loads, broken, checks.check_catalogue))
    assert script(monkeypatch, qwen3) == 2
    said = capsys.readouterr().out
    assert "ZeroDivisionError: planted fault" in said
    assert "2 of 3 ok" in said


def test_a_beam_search_that_misses_the_best_item_is_found(trial, monkeypatch):
    honest = checks.beam_search

    def second_best(*parts, **rest):
        items_BK, log_prob_BK = honest(*parts, **rest)
        return items_BK.roll(-1, 1), log_prob_BK.roll(-1, 1)

    assert checks.check_beam_search(trial).ok
    monkeypatch.setattr(checks, "beam_search", second_best)
    assert not checks.check_beam_search(trial).ok


def test_a_scaled_score_is_found_by_the_sum_and_by_the_full_logits(trial, monkeypatch):
    honest = trial.log_probs
    assert checks.check_probabilities(trial).ok
    monkeypatch.setattr(trial, "log_probs", lambda model: 1.1 * honest(model))
    found = checks.check_probabilities(trial)
    assert not found.ok
    assert found.figures["sum_error"] > 0.01
    assert found.figures["log_prob_error"] > 0.01


def test_a_special_token_let_through_by_a_title_is_found(trial, monkeypatch):
    assert checks.check_hostile_text(trial).ok
    monkeypatch.setattr(Cleaner, "clean", lambda self, text, limit: text)
    monkeypatch.setattr("llmrec.text.budget.PromptEncoder.encode", lambda self, texts: self.encode_unchecked(texts))
    found = checks.check_hostile_text(trial)
    assert not found.ok
    assert found.figures["prompts_with_special"] > 0


def test_a_prompt_that_ends_elsewhere_is_found(trial, monkeypatch):
    honest = trial.renderer.token_ids
    assert checks.check_prompt_template(trial).ok
    monkeypatch.setattr(trial.renderer, "token_ids", lambda state: honest(state)[:-1])
    assert checks.check_prompt_template(trial).figures["titles_joined_share"] == 0.0


def test_a_step_that_moves_the_base_weights_is_found(trial, monkeypatch):
    honest = training.fit_rows

    def careless(model, *parts, **rest):
        out = honest(model, *parts, **rest)
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if "lora_" not in name)[0, 0] += 1e-3
        return out

    monkeypatch.setattr(training, "fit_rows", careless)
    found = training.lora_sft(trial)
    assert not found.ok
    assert found.figures["base_unchanged"] is False


def test_new_rows_that_nobody_trains_are_found(trial, monkeypatch):
    config = training.LoraConfig
    monkeypatch.setattr(training, "LoraConfig", lambda trainable_token_indices, **rest: config(**rest))
    found = training.added_tokens(trial)
    assert not found.ok
    assert found.figures["new_rows_changed"] == 0


def test_no_adapter_no_reload(trial):
    assert not training.save_and_reload(trial).ok


def test_a_missing_model_is_a_run_error(tmp_path):
    with pytest.raises(RunError, match="is not a folder"):
        checks.check_model(str(tmp_path / "nowhere"))
    with pytest.raises(RunError, match=r"no config\.json and no weights in safetensors"):
        checks.check_model(str(tmp_path))


def test_a_generation_configuration_that_cannot_be_saved_is_no_fault(chat, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(chat, folder)
    invalid = {"do_sample": False, "temperature": 0.6, "top_p": 0.95, "eos_token_id": [0, 1]}
    (folder / "generation_config.json").write_text(json.dumps(invalid))
    found = training.all_weights(CheckedModel(str(folder), None, tmp_path))
    assert found.ok
    assert found.figures["saved"] is True
    assert found.figures["reloaded_error"] == 0.0


def test_weights_that_a_run_could_not_write_are_found(trial, monkeypatch):
    trial.model.generation_config.temperature = 0.6
    trial.model.generation_config.do_sample = False
    found = checks._run(trial, training.all_weights).finding
    assert not found.ok
    assert "GenerationConfig is invalid" in found.sentence


def test_a_model_that_reads_too_little_is_found(trial):
    assert checks.check_length(trial).figures["longest_answer"] >= 64
    trial.model.config.max_position_embeddings = 96
    found = checks._run(trial, checks.check_length).finding
    assert not found.ok
    assert "reads at most 96 tokens" in found.sentence


def test_a_tokenizer_that_does_not_fit_is_found(trial):
    trial.tokenizer.add_tokens([f"<new_{n}>" for n in range(31)])
    found = checks._run(trial, checks.check_loads).finding
    assert not found.ok
    assert "rows" in found.sentence
