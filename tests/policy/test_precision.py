"""What `model.dtype: auto` comes to: by flags first, then by one timed product that is remembered."""

import json
from types import SimpleNamespace

import pytest
import torch

from llmrec.policy import precision
from llmrec.policy.precision import WORTH, known_gain, measured_gain, pick_precision

CPU = torch.device("cpu")


def wide(hidden):
    text = SimpleNamespace(hidden_size=hidden)
    return SimpleNamespace(get_text_config=lambda: text)


@pytest.fixture
def processor(monkeypatch, tmp_path):
    """A processor with flags, whose products are timed by a list; returns how often it was timed."""
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path))

    def make(flags, gains=()):
        left, timed = list(gains), []
        monkeypatch.setattr(precision, "_capabilities", lambda: {"cpu_name": "Test", **dict.fromkeys(flags, True)})
        monkeypatch.setattr(precision, "measured_gain", lambda: timed.append(left[0]) or left.pop(0))
        return timed

    return make


def test_without_instructions_it_is_float32_and_nothing_is_timed(processor):
    timed = processor(["avx512_f"])
    chosen = pick_precision("auto", CPU, wide(4096))
    assert chosen.dtype == torch.float32
    assert not timed
    assert chosen.sentence == "float32: the processor has no instructions for bfloat16"


@pytest.mark.parametrize(("gain", "dtype"), [(WORTH, torch.bfloat16), (6.0, torch.bfloat16), (1.3, torch.float32)])
def test_with_instructions_a_product_decides(processor, gain, dtype):
    timed = processor(["amx_bf16"], [gain])
    chosen = pick_precision("auto", CPU, wide(512))
    assert (chosen.dtype, timed) == (dtype, [gain])
    assert f"{gain:.1f} times" in chosen.why
    assert chosen.facts() == {"dtype": str(dtype).removeprefix("torch."), "why": chosen.why}


def test_the_answer_is_remembered_whatever_a_later_timing_would_say(processor):
    timed = processor(["amx_bf16"], [2.1, 1.9, 0.5])
    names = {pick_precision("auto", CPU, wide(4096)).name for _ in range(3)}
    assert (names, timed) == ({"bfloat16"}, [2.1])
    # another processor, or another torch, is asked itself
    assert known_gain(("avx512_bf16",)) == 1.9


def test_a_damaged_memory_is_measured_anew(processor, tmp_path):
    processor(["amx_bf16"], [3.0, 4.0])
    assert known_gain(("amx_bf16",)) == 3.0
    (file,) = (tmp_path / "processor").iterdir()
    assert json.loads(file.read_text())["processor"] == "Test"
    file.write_text("{")
    assert known_gain(("amx_bf16",)) == 4.0


def test_the_first_process_answers_for_all(processor, tmp_path, monkeypatch):
    processor(["amx_bf16"], [3.0])
    assert known_gain(("amx_bf16",)) == 3.0
    (file,) = (tmp_path / "processor").iterdir()
    reads = iter([None])  # as one that looked before the first had written
    real = precision._read
    monkeypatch.setattr(precision, "_read", lambda place: next(reads) if place else None)
    monkeypatch.setattr(precision, "measured_gain", lambda: monkeypatch.setattr(precision, "_read", real) or 1.0)
    assert known_gain(("amx_bf16",)) == 3.0
    assert list((tmp_path / "processor").iterdir()) == [file]


def test_small_models_and_plain_wishes_ask_nobody(processor):
    timed = processor(["amx_bf16"])
    assert pick_precision("auto", CPU, wide(128)).dtype == torch.float32
    assert pick_precision("bfloat16", CPU).dtype == torch.bfloat16
    assert pick_precision("float32", CPU).dtype == torch.float32
    assert not timed


def test_a_timed_product_gives_a_positive_ratio():
    assert measured_gain(rounds=1, tokens=8, width=16) > 0
