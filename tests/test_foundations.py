"""Seeds and files: streams are stable and independent, files are whole or absent."""

import json
import subprocess
import sys

import numpy as np
import pytest

from llmrec.errors import RunError
from llmrec.files import new_folder, read_json, sha256_of, write_json, write_text
from llmrec.seeding import numpy_stream, stream_seed, torch_stream


def test_streams_are_the_same_in_another_process():
    code = "from llmrec.seeding import stream_seed; print(stream_seed(3, 'ppo', 'rollout', 7))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(other) == stream_seed(3, "ppo", "rollout", 7)


def test_streams_differ_by_name_and_seed_and_parts_do_not_run_together():
    seeds = {stream_seed(0, "a", "b"), stream_seed(0, "ab"), stream_seed(0, "a"), stream_seed(1, "a"), stream_seed(0)}
    assert len(seeds) == 5
    a, b = numpy_stream(0, "a").random(4000), numpy_stream(0, "b").random(4000)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.06  # 3.8 standard errors
    assert torch_stream(0, "a").initial_seed() == stream_seed(0, "a")


def test_a_failed_folder_leaves_the_old_one_and_nothing_else(tmp_path):
    place = tmp_path / "run"
    with new_folder(place, mark="a") as folder:
        (folder / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), new_folder(place, mark="a") as folder:
        (folder / "a").write_text("new")
        raise ZeroDivisionError
    assert (place / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    with new_folder(place, mark="a") as folder:
        (folder / "b").write_text("new")
    assert [p.name for p in place.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_json_refuses_what_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []
    write_text(tmp_path / "x.json", "{")
    with pytest.raises(RunError, match=r"x\.json"):
        read_json(tmp_path / "x.json")
    with pytest.raises(RunError, match=r"y\.json does not exist"):
        read_json(tmp_path / "y.json")
    write_json(tmp_path / "x.json", {"a": "東京"})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"a": "東京"}


def test_hash_counts_the_borders_of_its_parts():
    assert sha256_of("ab", "c") != sha256_of("a", "bc")
