"""Checkpoints that a disk or a hand has damaged are not gone on from; an older whole one is."""

import json

import pytest

from llmrec.training.callbacks import COMPLETE, ORIGIN, last_checkpoint, open_checkpoints, was_stopped
from llmrec.written import hashes_of


@pytest.fixture
def kept(tmp_path):
    for step in (2, 4):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(range(100)))
        (folder / "optimizer.pt").write_bytes(b"\x01" * 50)
        mark = {"step": step, "seconds": 10.0 * step, "sha256": hashes_of(folder)}
        (folder / COMPLETE).write_text(json.dumps(mark))
    (tmp_path / ORIGIN).write_text(json.dumps({"origin": "abc"}))
    return tmp_path


def test_the_newest_whole_checkpoint_is_gone_on_from(kept):
    assert open_checkpoints(kept, "abc", resume=True) == (kept / "checkpoint-4", 40.0)
    assert not was_stopped(kept)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", COMPLETE])
@pytest.mark.parametrize("content", [b"", b"\x00\x01", b"null", b"[" * 100_000, None])
def test_a_damaged_one_is_passed_over_with_a_word(kept, capfd, name, content):
    place = kept / "checkpoint-4" / name
    place.unlink() if content is None else place.write_bytes(content)
    assert open_checkpoints(kept, "abc", resume=True) == (kept / "checkpoint-2", 20.0)
    assert not (kept / "checkpoint-4").exists()
    if name != COMPLETE:
        assert f"{name} is damaged" in capfd.readouterr().err


@pytest.mark.parametrize("content", ["null", "{", '{"origin": 3}', "[" * 100_000])
def test_a_damaged_origin_begins_anew(kept, content):
    (kept / ORIGIN).write_text(content)
    assert open_checkpoints(kept, "abc", resume=True) == (None, 0.0)
    assert last_checkpoint(kept) is None
