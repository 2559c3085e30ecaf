"""Experiments on a tiny run: the script as a process, and what can and cannot be asked."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from llmrec.dataset.store import Dataset
from llmrec.errors import LLMRecError
from llmrec.evaluation.experiment import Design
from llmrec.finding import default_data
from llmrec.studies.ab import run_experiment, sized
from tests import forked
from tests.cli import tiny

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"session.turns": 2, "session.slate": 5, "evaluation.users": 20}


def ab(run, *parts, cache, code=0):
    line = [sys.executable, "eval/ab.py", str(run), *map(str, parts)]
    done = forked.run(line, env=tiny.environment(cache), cwd=ROOT)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture
def run(finished, cache, monkeypatch):
    monkeypatch.setenv("LLMREC_CACHE", str(cache))
    return finished[0]


def test_the_script_against_the_optimum_in_a_world(finished, cache, tmp_path):
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


def test_the_script_refuses_with_one_sentence(cache, tmp_path):
    done = ab(tmp_path, "--a", "sft", "--b", "popularity", cache=cache, code=2)
    assert (
        done.stderr.strip() == f"error: {tmp_path / 'config.yaml'} does not exist; give the folder of a finished run."
    )


def test_a_system_against_itself_is_nothing(run):
    found, facts = run_experiment(run, "popularity", "popularity", overrides=SMALL)
    assert facts["met_by"] == "truth"
    assert all(effect.identical for effect in found.effects.values())
    assert found.verdict.startswith("No difference: popularity again and popularity came to the same value")


def test_under_the_judge_nobody_knows_the_regret(run):
    found, facts = run_experiment(
        run, "item-knn", "last", users="judge", overrides=SMALL, design=Design(regret=True, samples=200)
    )
    assert facts["met_by"] == "judge"
    assert facts["rules_of_all_lists"] == 0
    assert not found.lost
    assert "regret" not in found.effects
    assert found.effects["value"].mean_a != found.effects["value"].mean_b


def test_every_list_obeys_the_rules_of_the_run(run, tmp_path):
    """A run whose rules leave one item: whoever recommends shows it, the optimum too, and nothing differs."""
    kept = run.with_name(run.name + ".work")
    shutil.copytree(kept, tmp_path / "ruled.work")
    tree = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    items = Dataset.load(default_data(run)).items["item_id"].to_list()
    rules = [{"never": {"ids": items[1:]}}]
    (tmp_path / "ruled").mkdir()
    (tmp_path / "ruled" / "config.yaml").write_text(
        yaml.safe_dump(tree | {"rules": rules, "rules_in_training": "none"})
    )
    for pair in (("sft", "reranked"), ("popularity", "optimum")):
        found, facts = run_experiment(tmp_path / "ruled", *pair, overrides=SMALL)
        assert facts["rules_of_all_lists"] == 1
        assert all(effect.identical for effect in found.effects.values()), pair


def test_a_bandit_is_met_in_sessions_by_default(run):
    assert sized(run, None, 3) == {"session.turns": 5, "session.slate": 3}


def test_one_that_drew_slates_is_met_with_slates_of_their_size(tmp_path):
    (tmp_path / "config.yaml").write_text("session: {turns: 1, slate: 4}\n", "utf-8")
    assert sized(tmp_path, None, None) == {"session.turns": 5}
    (tmp_path / "config.yaml").write_text("session: {turns: 2, slate: 4}\n", "utf-8")
    assert sized(tmp_path, None, None) == {}


@pytest.mark.parametrize(
    ("a", "b", "more", "message"),
    [
        ("sft", "nothing", {}, "has no system 'nothing'; choose among sft,"),
        ("sft", "random", {"overrides": {"sft.epochs": 2}}, "Key 'sft.epochs' decides more"),
        ("sft", "random", {"overrides": {"evaluation.users": 0}}, "'evaluation.users' must be 1 or more"),
        ("random", "popularity", {"design": Design(primary="joy"), "overrides": SMALL}, "'joy' is not measured"),
    ],
)
def test_what_cannot_be_asked_is_refused(run, a, b, more, message):
    with pytest.raises(LLMRecError, match=message):
        run_experiment(run, a, b, **more)


def test_a_run_without_its_working_folder_is_refused_and_nothing_is_made(run, tmp_path):
    shutil.copytree(run, tmp_path / "alone")
    with pytest.raises(LLMRecError, match="has no working folder"):
        run_experiment(tmp_path / "alone", "sft", "popularity")
    assert not (tmp_path / "alone.work").exists()
    (tmp_path / "alone.work").mkdir()
    with pytest.raises(LLMRecError, match=r"alone\.work/data is not there"):
        run_experiment(tmp_path / "alone", "sft", "popularity")
    assert not list((tmp_path / "alone.work").iterdir())
