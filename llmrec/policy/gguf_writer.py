"""A model as a GGUF file in 32-bit floats, as llama.cpp and `--model FILE.gguf` read them.

transformers reads such files and writes none, so this does it for the architectures that it can be tried on by
reading back: Qwen3 (of which the nano model is one), Qwen2 and Llama, with byte-level BPE tokenizers.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch

from llmrec.errors import RunError
from llmrec.policy.modes import base_model

ARCHITECTURES = {"qwen3": "QWEN3", "qwen2": "QWEN2", "llama": "LLAMA"}
"""What transformers calls them and what the package gguf does."""
_NORMAL, _CONTROL, _USER = 1, 3, 4


def check_writable_as_gguf(model: Any, tokenizer: Any) -> None:
    """Raises `RunError` for a model or tokenizer that is not written here, or where the package is missing."""
    if importlib.util.find_spec("gguf") is None:
        raise RunError("GGUF needs the package gguf; install it by pip install 'llmrec[gguf]'.")
    config = base_model(model).config
    if config.model_type not in ARCHITECTURES:
        raise RunError(
            f"A {config.model_type} model is not written as GGUF here, only {', '.join(ARCHITECTURES)}; export it "
            "with --to merged and convert that folder by llama.cpp's convert_hf_to_gguf.py."
        )
    if _bpe(tokenizer) is None:
        raise RunError(
            "The tokenizer is no byte-level BPE that splits text as GPT-2, SmolLM or Qwen2 do; export the run "
            "with --to merged and convert that folder by llama.cpp's convert_hf_to_gguf.py."
        )
    scaled = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if scaled != "default":
        raise RunError(f"The model's positions are scaled ({scaled}), which is not written as GGUF here.")


@torch.no_grad()
def write_gguf(model: Any, tokenizer: Any, path: Path, name: str) -> None:
    """Writes `path`, a file of the caller's to rename.

    Raises:
        RunError: see `check_writable_as_gguf`, or a weight that has no name in GGUF.
    """
    check_writable_as_gguf(model, tokenizer)
    import gguf

    model = base_model(model)
    config = model.config
    kind = config.model_type
    writer = gguf.GGUFWriter(path, kind)
    writer.add_name(name)
    heads, kv = config.num_attention_heads, config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))
    _add_tokenizer(writer, tokenizer, len(model.get_input_embeddings().weight))
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, ARCHITECTURES[kind]), config.num_hidden_layers)
    tied = model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    for key, value in model.state_dict().items():
        if tied and key == "lm_head.weight":
            continue
        found = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise RunError(f"The weight {key} has no name in GGUF; export the run with --to merged.")
        tensor = value.float().cpu()
        if kind == "llama" and ".self_attn.q_proj." in key:
            tensor = _interleaved(tensor, heads)
        if kind == "llama" and ".self_attn.k_proj." in key:
            tensor = _interleaved(tensor, kv)
        writer.add_tensor(found, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a projection in llama.cpp's order of rotary pairs: neighbours instead of halves."""
    return weight.view(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def _bpe(tokenizer: Any) -> tuple[dict[str, Any], str] | None:
    """The tables of a byte-level BPE, and llama.cpp's name for how it splits text before; None for any other."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    tree = json.loads(backend.to_str())
    steps = tree.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    kinds = [step.get("type") for step in steps]
    if tree["model"]["type"] != "BPE" or not kinds or kinds[-1] != "ByteLevel":
        return None
    pattern = str(steps[0].get("pattern", ""))
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        split = "gpt-2"
    elif kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        split = "smollm"
    elif kinds == ["Split", "ByteLevel"] and "(?i:'s|'t|'re" in pattern and "{1,3}" not in pattern:
        split = "qwen2"
    else:
        return None
    return tree["model"], split


def _add_tokenizer(writer: Any, tokenizer: Any, rows: int) -> None:
    """Tokens by number, with names for rows of the embedding that no token has."""
    found, added = _bpe(tokenizer), tokenizer.added_tokens_decoder
    assert found is not None
    model, split = found
    tokens, kinds = [f"[unused{n}]" for n in range(rows)], [_USER] * rows
    for token, number in tokenizer.get_vocab().items():
        tokens[number] = token
        kinds[number] = _NORMAL if number not in added else _CONTROL if added[number].special else _USER
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_add_bos_token(False)
