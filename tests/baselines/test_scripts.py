"""The command-line tables of baselines, run as a person runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmrec.dataset.importers import import_dataset
from tests.baselines.worlds import clusters
from tests.dataset.tiny import real_data

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "eval" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_table_of_baselines(tmp_path: Path) -> None:
    clusters(users=60, clicks=5).save(tmp_path / "data")
    names = ("popularity", "item-knn", "thompson")
    done = run("baselines.py", tmp_path / "data", "--only", *names, "--seeds", 0, 1, "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    assert "held-out events" in done.stdout
    assert "held-out events" not in done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    facts = found["baselines"]
    assert list(facts) == list(names)
    assert len(facts["thompson"]["by_seed"]["NDCG@10"]) == 2
    assert len(facts["item-knn"]["by_seed"]["NDCG@10"]) == 1
    trials = facts["item-knn"]["trials"]
    assert facts["item-knn"]["valid_ndcg"] == max(figure for _, figure, _ in trials if figure is not None)
    # Only the items of one's cluster are ever clicked: one of the first five unseen ones is the target.
    assert facts["item-knn"]["by_seed"]["HR@5"] == [1.0]
    assert facts["popularity"]["by_seed"]["HR@5"][0] < 0.7


def test_an_unknown_baseline_is_one_sentence(tmp_path: Path) -> None:
    done = run("baselines.py", tmp_path, "--only", "itemknn")
    assert done.returncode == 2
    assert "did you mean 'item-knn'" in done.stderr


@pytest.mark.slow
def test_als_is_within_five_percent_of_the_packages_own_evaluation(tmp_path: Path) -> None:
    pytest.importorskip("implicit", reason="ALS needs the extra baselines")
    import_dataset("movielens", real_data("movielens-100k")).save(tmp_path / "ml")
    done = run("reference_als.py", tmp_path / "ml", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert all(abs(difference) < 0.05 for difference in found["relative"].values())
    assert found["package"]["ndcg"] > 0.05
