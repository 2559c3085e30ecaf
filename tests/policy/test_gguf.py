"""GGUF files as base models: what is wrong with one is a sentence, what is right becomes an ordinary model."""

from __future__ import annotations

import importlib.util
import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given as each
from hypothesis import strategies as st

from llmrec.config import RunConfig
from llmrec.errors import ConfigError, LLMRecError, RunError
from llmrec.export import read_bundle
from llmrec.pipeline.base_model import Base, check_base, named_base
from llmrec.pipeline.result import BEFORE_SFT
from llmrec.pipeline.run import run_job
from llmrec.policy import gguf as gguf_module
from llmrec.policy.gguf import check_gguf, is_gguf, origin_of, read_header
from llmrec.policy.loading import load_causal_lm, load_config, load_tokenizer, unpacked
from llmrec.text.budget import PromptEncoder
from tests.overrides import given
from tests.pipeline.test_identifiers import config as run_config

NEEDS_PACKAGE = pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None, reason="the package gguf, an optional one, is not installed"
)
TEXT, LIST, NUMBER, FLAG = 8, 9, 4, 7


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(key, value):
    if isinstance(value, list):
        return text(key) + struct.pack("<IIQ", LIST, TEXT, len(value)) + b"".join(map(text, value))
    if isinstance(value, bool):
        return text(key) + struct.pack("<IB", FLAG, value)
    if isinstance(value, int):
        return text(key) + struct.pack("<II", NUMBER, value)
    return text(key) + struct.pack("<I", TEXT) + text(value)


FIELDS = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "general.base_model.0.repo_url": "https://huggingface.co/someone/tiny",
    "llama.context_length": 64,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
    "tokenizer.ggml.add_bos_token": False,
}


def gguf_bytes(fields=FIELDS, *, version=3, tensors=((4, 8),), kind=0, counts=None):
    """A file with a header and as many zeros as its tensors of 32-bit floats take."""
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(fields))))
    head += b"".join(entry(key, value) for key, value in fields.items())
    offset = 0
    for number, shape in enumerate(tensors):
        head += text(f"t{number}") + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        head += struct.pack("<IQ", kind, offset)
        offset += 4 * int(np.prod(shape))
    head += b"\0" * (-len(head) % 32)
    return head + b"\0" * offset


def written(tmp_path, data):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(data)
    return path


def without(key, **more):
    return {name: value for name, value in FIELDS.items() if name != key} | more


def test_a_header_is_read(tmp_path):
    path = written(tmp_path, gguf_bytes())
    found = read_header(path)
    assert (found.architecture, found.published) == ("llama", "someone/tiny")
    assert found.fields["tokenizer.ggml.tokens"] == 3
    assert found.fields["tokenizer.ggml.add_bos_token"] is False
    assert found.bytes_needed == path.stat().st_size
    assert [is_gguf(name) for name in (str(path), "A.GGUF", "folder/gguf")] == [True, True, False]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no GGUF file"),
        (b"{not a model at all, but long enough}", "no GGUF file"),
        (gguf_bytes(version=1), "version 1"),
        (gguf_bytes(version=0x03000000), "version 50331648"),
        (gguf_bytes(counts=(1 << 40, 3)), "1099511627776 tensors"),
        (gguf_bytes()[:60], "cut off or damaged within its header"),
        (gguf_bytes()[:-1], "is cut off: it has"),
        (gguf_bytes(without("general.architecture")), "architecture ''"),
        (gguf_bytes({**FIELDS, "general.architecture": "rwkv\x1b[31m7"}), "rwkv.*does not read"),
        (gguf_bytes(without("tokenizer.ggml.tokens")), "no tokenizer in it"),
        (gguf_bytes({**FIELDS, "split.count": 3}), "one part of 3"),
    ],
    ids=[
        *("empty", "text", "old", "big-endian", "absurd", "cut header", "cut weights"),
        *("no architecture", "unknown architecture", "no tokenizer", "a part"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence_before_anything_is_made(tmp_path, data, words, monkeypatch):
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    path = written(tmp_path, data)
    for use in (
        lambda: check_base(RunConfig.read(None, given(f"model.name={path}"))),
        lambda: load_config(str(path)),
    ):
        with pytest.raises(RunError, match=words) as caught:
            use()
        assert len(str(caught.value).splitlines()) == 1
        assert "\x1b" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_a_missing_file_and_a_missing_package(tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"does not exist; give a \.gguf file"):
        load_tokenizer(str(tmp_path / "none.gguf"))
    monkeypatch.setattr(gguf_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install llmrec\[gguf\]"):
        check_gguf(str(written(tmp_path, gguf_bytes())))


WHOLE = gguf_bytes()


@each(st.integers(0, len(WHOLE) - 1), st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_whatever_is_cut_or_changed_is_read_or_refused(tmp_path_factory, end, place, value):
    changed = bytearray(WHOLE)
    changed[place] = value
    folder = tmp_path_factory.mktemp("gguf")
    for data in (WHOLE[:end], bytes(changed)):
        try:
            found = check_gguf(str(written(folder, data)))
        except LLMRecError:
            continue
        assert found.path.stat().st_size >= found.bytes_needed


def tiny(path, *, template=None, end=True):
    """A random llama written with the package's own writer, its tokenizer one of single bytes; its weights."""
    import gguf

    from tests.policy.tiny import byte_tokenizer

    writer = gguf.GGUFWriter(str(path), "llama")
    vocabulary = byte_tokenizer().get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    writer.add_name("Tiny")
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["T h", "Th e", "Ġ The"])
    writer.add_token_types([3 if token.startswith("<") and len(token) > 1 else 1 for token in tokens])
    if end:
        writer.add_eos_token_id(vocabulary["<|im_end|>"])
    if template:
        writer.add_chat_template(template)
    random = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), 32), "output_norm": (32,), "output": (len(tokens), 32)}
    shapes |= {f"blk.0.attn_{part}": (32, 32) for part in ("q", "k", "v", "output")}
    shapes |= {"blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,), "blk.0.ffn_down": (32, 64)}
    shapes |= {f"blk.0.ffn_{part}": (64, 32) for part in ("gate", "up")}
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, weight in weights.items():
        writer.add_tensor(f"{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


@NEEDS_PACKAGE
def test_a_file_becomes_an_ordinary_model(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "tiny.gguf"
    weights = tiny(path)
    config = RunConfig.read(None, given(f"model.name={path}", "text.max_tokens=96"))
    check_base(config)
    base = named_base(config)
    assert base == Base(str(unpacked(str(path))), None, nano=False, gguf=origin_of(unpacked(str(path))))
    assert base.published is None
    assert base.described == f"Tiny (tiny.gguf, SHA-256 {base.gguf.sha256[:16]})"
    model, tokenizer = load_causal_lm(base.name), load_tokenizer(base.name)
    own = model.state_dict()
    known = torch.from_numpy(weights["token_embd"])
    assert torch.equal(own["model.embed_tokens.weight"][: len(known)], known)
    assert not own["model.embed_tokens.weight"][len(known) :].any()
    assert torch.equal(own["model.layers.0.mlp.gate_proj.weight"], torch.from_numpy(weights["blk.0.ffn_gate"]))
    assert "quantization_config" not in json.loads((unpacked(str(path)) / "config.json").read_text())
    assert tokenizer.decode(tokenizer("The Thing")["input_ids"]) == "The Thing"
    # without a chat template the text stays plain, as for any base model
    assert not PromptEncoder(tokenizer).chat
    # the same content under another name is the same model
    moved = path.rename(tmp_path / "moved.GGUF")
    assert unpacked(str(moved)) == unpacked(str(moved)) == tmp_path / "cache" / "gguf" / base.gguf.sha256[:24]


@NEEDS_PACKAGE
def test_a_chat_template_is_taken_along_and_a_missing_end_token_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    chat = tmp_path / "chat.gguf"
    tiny(chat, template="{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}")
    assert PromptEncoder(load_tokenizer(str(chat))).chat
    endless = tmp_path / "endless.gguf"
    tiny(endless, end=False)
    with pytest.raises(RunError, match="no end token"):
        check_base(RunConfig.read(None, given(f"model.name={endless}")))


@pytest.mark.slow
@NEEDS_PACKAGE
def test_a_run_on_a_file_hands_on_whole_weights_and_no_path(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "private" / "tiny.gguf"
    path.parent.mkdir()
    tiny(path)
    changes = {
        "model__name": str(path),
        "sft__weights": "lora",
        "identifiers__scheme": "title",
        "text__history": "title",
    }
    run_job(run_config(**changes, text__max_tokens=192), tmp_path / "run")
    bundle = read_bundle(tmp_path / "run")
    assert (bundle.facts["weights"], bundle.facts["base"]) == ("full", None)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "Base model: `Tiny (tiny.gguf, SHA-256 " in card
    assert "base_model" not in card
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert BEFORE_SFT in metrics["means"]["ranking"]
