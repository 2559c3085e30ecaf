"""The script of experiments as a process on a tiny run: what it prints and writes, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import tiny

ROOT = Path(__file__).resolve().parents[2]


def ab(run, *parts, cache, code=0):
    line = [sys.executable, "eval/ab.py", str(run), *map(str, parts)]
    done = subprocess.run(line, env=tiny.environment(cache), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def test_an_experiment_against_the_optimum_in_a_world(finished, cache, tmp_path):
    out, _ = finished
    before = sorted(p.relative_to(out.parent) for p in out.parent.rglob("*"))
    sizes = ("--turns", 2, "--slate", 5, "--number", 30, "--retention")
    done = ab(out, "--a", "sft", "--b", "optimum", *sizes, "--json", tmp_path / "ab.json", cache=cache)
    assert sorted(p.relative_to(out.parent) for p in out.parent.rglob("*")) == before  # nothing was made
    found = json.loads((tmp_path / "ab.json").read_text(encoding="utf-8"))
    assert found["users"] == 30
    assert found["met_by"] == "truth"
    assert found["settings"]["session"]["turns"] == 2
    assert found["outcome"] == "gain"
    assert "optimum is significantly better than sft in value" in done.stdout
    assert found["verdict"] in done.stdout
    effects = found["effects"]
    assert {"value", "click_rate", "conversion_rate", "revenue", "regret"} <= set(effects)
    assert effects["regret"]["outcome"] == "gain"
    curve = [at["mean"] for at in found["cumulative_regret"]["optimum"]]
    assert curve == pytest.approx([0, 0], abs=1e-5)
    assert found["dataset"]["content_hash"] == tiny.metrics(out)["dataset"]["content_hash"]


def test_a_system_against_itself_and_a_baseline_under_the_judge(finished, cache, tmp_path):
    out, _ = finished
    sizes = ("--turns", 2, "--slate", 5, "--number", 20, "--users", "judge")
    same = ab(out, "--a", "popularity", "--b", "popularity", *sizes, cache=cache)
    assert "No difference: popularity again and popularity came to the same value" in same.stdout
    other = ab(out, "--a", "last", "--b", "popularity", *sizes, "--json", tmp_path / "ab.json", cache=cache)
    found = json.loads((tmp_path / "ab.json").read_text(encoding="utf-8"))
    assert found["met_by"] == "judge"
    assert "regret" not in found["effects"]
    assert found["verdict"] in other.stdout


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("--a", "sft", "--b", "nothing"), "has no system 'nothing'; choose among sft,"),
        (("--a", "sft", "--b", "popularity", "--set", "sft.epochs=2"), "Key 'sft.epochs' decides more"),
        (("--a", "sft", "--b", "popularity", "--number", "0"), "'evaluation.users' must be 1 or more"),
        (("--a", "popularity", "--b", "random", "--primary", "joy"), "'joy' is not measured"),
    ],
)
def test_what_cannot_be_asked_ends_with_one_sentence(finished, cache, parts, message):
    out, _ = finished
    done = ab(out, *parts, "--turns", 1, cache=cache, code=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_without_its_working_folder_is_refused(finished, cache, tmp_path):
    import shutil

    out, _ = finished
    shutil.copytree(out, tmp_path / "alone")
    done = ab(tmp_path / "alone", "--a", "sft", "--b", "popularity", cache=cache, code=2)
    assert "has no working folder" in done.stderr
    assert not (tmp_path / "alone.work").exists()
    (tmp_path / "alone.work").mkdir()
    done = ab(tmp_path / "alone", "--a", "sft", "--b", "popularity", cache=cache, code=2)
    assert "does not hold the stage 'data'" in done.stderr
    done = ab(tmp_path, "--a", "sft", "--b", "popularity", cache=cache, code=2)
    assert "config.yaml does not exist" in done.stderr
