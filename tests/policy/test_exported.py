"""Weights in other forms: what they stand for, and that they are read back as what was written."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from safetensors.torch import load_file

from llmrec.errors import RunError
from llmrec.policy import integers, onnx_model, precision
from llmrec.policy.gguf_writer import write_gguf
from llmrec.policy.loading import load_causal_lm, load_tokenizer
from llmrec.policy.modes import decoder_of
from llmrec.policy.onnx_model import load_onnx, save_onnx
from llmrec.policy.quantised import WeightOnly, load_quantised, save_quantised
from llmrec.policy.rounded import floats, pack, quantise, unpack
from llmrec.policy.sharing import supports_sharing
from tests.policy.tiny import BASE, byte_tokenizer, tiny_model

NEEDS_ONNX = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs llmrec[onnx]",
)
NEEDS_GGUF = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs llmrec[gguf]")
NEEDS_WHOLE = pytest.mark.skipif(
    not precision.processor_flags("vnni", "amx_int8"), reason="the processor has no products of whole numbers"
)
IDS = torch.arange(2, 26).view(2, 12)


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def test_codes_are_what_a_hand_makes_of_them():
    codes, scale = quantise(torch.tensor([[127.0, -63.4, 0.6], [0.0, 0.0, 0.0], [-2.54, 1.0, 0.01]]), 8)
    assert codes.tolist() == [
        [127, -63, 1],
        [0, 0, 0],
        [-127, 50, 0],
    ]  # 1.0 / 0.02 = 50, 0.01 / 0.02 is half, to even
    assert scale.squeeze(1).tolist() == pytest.approx([1.0, 0.0, 0.02], abs=1e-4)
    assert floats(codes, scale)[2].tolist() == pytest.approx([-2.54, 1.0, 0.0], abs=1e-6)


def test_four_bits_cut_off_what_costs_the_rest_too_much():
    # whole numbers up to 7 fit as they are; in the second group one large weight is cut to let the others be finer
    first = torch.arange(-7.0, 8.0).repeat(3)[:32]
    second = torch.full((32,), 0.55)
    second[0] = 1.0
    codes, scale = quantise(torch.cat([first, second]).unsqueeze(0), 4, 32)
    assert codes[0, :32].tolist() == first.int().tolist()
    assert scale[0].tolist() == pytest.approx([1.0, 0.95 / 7], abs=1e-3)
    error = {
        cut: 31 * (0.55 - 7 * cut / 7 * round(0.55 * 7 / cut) / 7) ** 2 + (1 - cut) ** 2 for cut in (1.0, 0.95, 0.9)
    }
    assert min(error, key=error.get) == 0.95


def test_two_codes_share_a_byte():
    codes = torch.tensor([[-7, 7, 0, -1]], dtype=torch.int8)
    assert pack(codes).tolist() == [[(15 << 4) | 1, (7 << 4) | 8]]
    every = torch.arange(-8, 8, dtype=torch.int8).repeat(3, 2)
    assert torch.equal(unpack(pack(every)), every)


@pytest.mark.parametrize(("name", "bits"), [("qwen3", 8), ("llama", 8), ("cohere", 8), ("qwen2", 4)])
def test_a_model_is_read_back_with_the_weights_that_its_codes_stand_for(tmp_path, name, bits):
    model = tiny_model(name, torch.float32)
    save_quantised(model, tmp_path, bits)
    found = load_quantised(tmp_path)
    held = load_file(tmp_path / "quantised.safetensors")
    layer = found.get_submodule("model.layers.0.mlp.down_proj")  # 32 in, a group of 4 bits
    assert isinstance(layer, WeightOnly)
    assert held["model.layers.0.mlp.down_proj.weight.codes"].dtype == {8: torch.int8, 4: torch.uint8}[bits]
    own = dict(model.named_parameters())["model.layers.0.mlp.down_proj.weight"]
    most = own.abs().view(16, -1, 32).amax(2, keepdim=True) / (2 ** (bits - 1) - 1)
    step = (layer.weight - own).abs().view(16, -1, 32) / most
    assert step.max().item() <= (0.51 if bits == 8 else 2.2)  # half a step, and what is cut off
    x = torch.randn(3, 32)
    assert torch.allclose(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias), atol=1e-5)
    # the same model with these weights in plain layers
    for key, module in found.named_modules():
        if isinstance(module, WeightOnly):
            model.get_submodule(key).weight.data = module.weight
    model.get_input_embeddings().weight.data = found.get_input_embeddings().weight.data
    if name != "cohere":  # whose head is its embedding
        model.get_output_embeddings().weight.data = found.get_output_embeddings().weight.data
    assert torch.allclose(logits(found), logits(model), atol=1e-4)


def test_an_input_that_towers_above_the_others_does_not_make_its_whole_row_of_the_embedding_coarse(tmp_path):
    model = tiny_model("qwen2", torch.float32)
    words = model.get_input_embeddings().weight
    wide = torch.nn.Embedding(len(words), 64)
    wide.weight.data = 0.01 * torch.randn(len(words), 64, generator=torch.Generator().manual_seed(3))
    wide.weight.data[:, 5] = 5.0
    model.set_input_embeddings(wide)
    model.model.layers[0].mlp.gate_proj = torch.nn.Linear(64, 64, bias=False)
    save_quantised(model, tmp_path, 8)
    held = load_file(tmp_path / "quantised.safetensors")
    codes, scale = (held[f"model.embed_tokens.weight.{part}"] for part in ("codes", "scale"))
    assert scale.shape == (len(words), 2)
    off = (floats(codes, scale) - wide.weight).abs().detach()
    assert off[:, :32].max() <= 5.0 / 254 * 1.001
    assert off[:, 32:].max() <= wide.weight[:, 32:].abs().max() / 254 * 1.001
    # linear layers have one scale a row, which products of whole numbers need
    assert held["model.layers.0.mlp.gate_proj.weight.scale"].shape == (64, 1)


@NEEDS_WHOLE
def test_activations_in_two_numbers_give_the_sums_that_a_hand_makes():
    # 127 and -63.5 with a step of 1: the half is written as 127 of 254 parts below -64 or above -63
    x, codes = torch.tensor([[127.0, -63.5, 2.0], [0.0, 0.0, 0.0]]), torch.tensor([[1, 2, 3], [-127, 0, 1]])
    found = integers.whole_product(x, codes.to(torch.int8))
    assert torch.allclose(found, torch.tensor([[127 - 127 + 6.0, -127 * 127 + 2.0], [0.0, 0.0]]), atol=1e-3)


@NEEDS_WHOLE
def test_a_broken_activation_does_not_become_a_number():
    x = torch.tensor([[1.0, torch.nan], [torch.inf, 1.0], [1.0, 1.0]])
    found = integers.whole_product(x, torch.ones(2, 2, dtype=torch.int8))
    assert not found[:2].isfinite().any()
    assert found[2].tolist() == pytest.approx([2.0, 2.0])


@NEEDS_WHOLE
@pytest.mark.parametrize("rows", [1, 7, 40])
@pytest.mark.parametrize(
    ("bits", "dtype", "most"), [(8, torch.float32, 1e-6), (8, torch.bfloat16, 6e-3), (4, torch.bfloat16, 8e-3)]
)
def test_products_of_whole_numbers_are_those_of_the_floats_that_they_stand_for(monkeypatch, bits, dtype, most, rows):
    """bfloat16 rounds by 2^-9 at most; what two numbers leave of an activation is 1 / 64,516 of its row's largest."""
    monkeypatch.setattr(integers, "whole_numbers_pay", lambda: True)
    torch.manual_seed(bits + rows)
    codes, scale = quantise(torch.randn(320, 448), bits, None if bits == 8 else 32)
    scale = scale.to(dtype)
    layer = WeightOnly(codes, scale, torch.randn(320, dtype=dtype))
    assert (layer.whole, layer.packed is not None) == (dtype == torch.float32, bits == 4)
    x = torch.randn(2, rows, 448, dtype=dtype)
    x[0, 0, 5] = 60.0  # as models have them
    wanted = torch.nn.functional.linear(x.double(), floats(codes, scale.double()), layer.bias.double())
    found = layer(x)
    assert (found.shape, found.dtype) == (wanted.shape, dtype)
    left = x.double().abs().amax(2, keepdim=True) / (127 * 508) * floats(codes, scale.double()).abs().sum(1)
    allowed = most * wanted.norm() + (left.norm() if dtype == torch.float32 else 0)
    assert (found - wanted).norm() <= allowed
    assert layer(x[:0]).shape == (0, rows, 320)


def apart(numbers, by=8):
    """The same numbers where no tensor of torch's own begins, as those of a file that is mapped."""
    space = torch.empty(numbers.numel() + by, dtype=numbers.dtype)
    space[by:] = numbers.reshape(-1)
    return space[by:].view(numbers.shape)


@NEEDS_WHOLE
@pytest.mark.parametrize("rows", [1, 10])
@pytest.mark.parametrize("bits", [8, 4])
def test_numbers_may_lie_anywhere(bits, rows):
    codes, scale = quantise(torch.randn(576, 576), bits, None if bits == 8 else 32)
    x = torch.randn(rows, 576, dtype=torch.bfloat16)
    wanted = WeightOnly(codes.clone(), scale.bfloat16())(x)
    for step in (1, 4, 8):
        assert torch.equal(WeightOnly(apart(codes, step), scale.bfloat16())(apart(x, step)), wanted)


def test_sides_that_are_no_blocks_are_multiplied_as_floats(monkeypatch):
    monkeypatch.setattr(integers, "whole_numbers_pay", lambda: True)
    codes, scale = quantise(torch.randn(400, 448), 8)
    assert not WeightOnly(codes, scale).whole
    assert not WeightOnly(codes[:64, :64], scale[:64]).whole  # too small to gain


def test_a_processor_without_the_instructions_is_not_asked_and_a_wrong_product_gains_nothing(monkeypatch):
    if precision.processor_flags("vnni", "amx_int8"):
        assert integers.measured_gain(rounds=1, tokens=2, width=128) > 0
    monkeypatch.setattr(integers, "whole_product", lambda x, codes: x @ codes.float().t() * 1.01)
    assert integers.measured_gain(rounds=1, tokens=2, width=128) == 0
    monkeypatch.setattr(integers, "measured_gain", lambda: pytest.fail("was timed"))
    monkeypatch.setattr(precision, "_capabilities", lambda: {"cpu_name": "old", "avx2": True})
    assert not integers.whole_numbers_pay()


def test_a_model_without_linear_layers_is_refused(tmp_path):
    with pytest.raises(RunError, match="no linear layers"):
        save_quantised(tiny_model("gpt2", torch.float32), tmp_path, 8)


@NEEDS_ONNX
@pytest.mark.parametrize(
    "name", ["qwen3", "granite", "llama", "gpt2", pytest.param("cohere", marks=pytest.mark.slow)]
)
def test_onnxruntime_computes_what_torch_does(tmp_path, name):
    model = tiny_model(name, torch.float32)
    save_onnx(model, tmp_path)
    found = load_onnx(tmp_path)
    wanted = decoder_of(model)(IDS).last_hidden_state
    assert torch.allclose(found.get_decoder()(IDS).last_hidden_state, wanted, atol=1e-4)
    assert supports_sharing(found)  # rows without a cache, with a mask, and token by token after a prompt
    # what one call cannot tell of (cohere) is exported by shapes, and keeps its weights in the graph
    assert (tmp_path / "decoder.onnx.data").is_file() == (name != "cohere")


@NEEDS_ONNX
def test_an_operation_that_a_call_cannot_tell_of_goes_to_shapes_without_a_word(tmp_path, monkeypatch, capfd):
    made = []
    monkeypatch.setattr(onnx_model, "_by_shapes", lambda model, folder: made.append(sorted(folder.iterdir())))
    save_onnx(tiny_model("cohere", torch.float32), tmp_path)
    assert made == [[]]
    assert capfd.readouterr() == ("", "")


@NEEDS_ONNX
def test_a_graph_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    model, made = tiny_model("llama", torch.float32), []

    def wrong(model, folder):
        other = tiny_model("llama", torch.float32, seed=1)
        by_running(other, folder)

    by_running = onnx_model._by_running
    monkeypatch.setattr(onnx_model, "_by_running", wrong)
    monkeypatch.setattr(onnx_model, "_by_shapes", lambda model, folder: made.append(sorted(folder.iterdir())))
    save_onnx(model, tmp_path)
    assert made == [[tmp_path / "decoder.onnx"]]


@NEEDS_ONNX
def test_a_window_is_refused(tmp_path):
    with pytest.raises(RunError, match="have a window"):
        save_onnx(tiny_model("qwen2-window", torch.float32), tmp_path)


def _random_gguf_model(name):
    import transformers

    tokenizer = byte_tokenizer()
    kind, more = {
        "qwen3": ("Qwen3Config", {"head_dim": 8}),
        "llama": ("LlamaConfig", {}),
        "qwen2": ("Qwen2Config", {}),
    }[name]
    sizes = {**BASE, **more, "vocab_size": len(tokenizer), "num_attention_heads": 4, "num_key_value_heads": 2}
    torch.manual_seed(3)
    config = getattr(transformers, kind)(**sizes, tie_word_embeddings=name == "qwen3", rope_theta=5000.0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    return model, tokenizer


@NEEDS_GGUF
@pytest.mark.parametrize("name", ["qwen3", "llama", "qwen2"])
def test_a_gguf_file_is_read_back_as_a_base_model(tmp_path, monkeypatch, name):
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    model, tokenizer = _random_gguf_model(name)
    path = tmp_path / "tiny.gguf"
    write_gguf(model, tokenizer, path, "tiny")
    found, words = load_causal_lm(str(path), dtype="float32"), load_tokenizer(str(path))
    assert torch.allclose(logits(found)[..., : len(tokenizer)], logits(model), atol=1e-4)
    for text in ("The  café, 12 things", "it's\n\nThe end<|im_end|>", "千里"):
        assert words(text).input_ids == tokenizer(text).input_ids
    assert (words.eos_token_id, words.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


@NEEDS_GGUF
def test_what_is_not_written_as_gguf_is_refused(tmp_path):
    with pytest.raises(RunError, match="phi3 model is not written"):
        write_gguf(tiny_model("phi3", torch.float32), byte_tokenizer(), tmp_path / "a.gguf", "a")
    assert not (tmp_path / "a.gguf").exists()


@NEEDS_GGUF
@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
@pytest.mark.parametrize("name", ["qwen3", "llama", "qwen2"])
def test_llama_cpp_computes_what_transformers_does(tmp_path, name):
    import llama_cpp

    model, tokenizer = _random_gguf_model(name)
    write_gguf(model, tokenizer, tmp_path / "tiny.gguf", "tiny")
    # keys and values are kept in 16 bits unless it is told otherwise
    options = {"n_ctx": 64, "logits_all": True, "verbose": False, "n_threads": 1, "type_k": 0, "type_v": 0}
    found = llama_cpp.Llama(str(tmp_path / "tiny.gguf"), **options)
    for text in ("The  café, 12 things", "it's\n\nThe end<|im_end|>", "千里"):
        ids = tokenizer(text).input_ids
        assert found.tokenize(text.encode(), add_bos=False, special=True) == ids
        found.reset()
        found.eval(ids)
        with torch.no_grad():
            wanted = model(input_ids=torch.tensor([ids])).logits[0]
        assert torch.allclose(torch.from_numpy(found.scores[: len(ids)].copy()), wanted, atol=1e-3)
