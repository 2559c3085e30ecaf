"""The command-line tables of baselines, run as a person runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmrec.dataset.importers import import_dataset
from tests import forked
from tests.baselines.worlds import clusters
from tests.dataset.tiny import real_data

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "eval" / script), *map(str, arguments)]
    return forked.run(command, cwd=ROOT, env=forked.environment())


def test_table_of_the_baselines_of_a_saved_data_set(tmp_path: Path) -> None:
    clusters(users=60, clicks=5).save(tmp_path / "data")
    names, place = ("popularity", "item-knn", "thompson"), ("--dataset", "folder", "--source", tmp_path / "data")
    out = ("--out", tmp_path / "table", "--json", tmp_path / "out.json", "--no-judge", "--seeds", 2)
    done = run("table.py", *place, *out, "--only", *names)
    assert done.returncode == 0, done.stderr
    assert "test rows of folder, all 18 items ranked" in " ".join(done.stdout.split())
    assert "all 18 items ranked" not in done.stderr
    facts = json.loads((tmp_path / "out.json").read_text())["systems"]
    assert list(facts) == list(names)
    assert (len(facts["thompson"]["by_seed"]), len(facts["item-knn"]["by_seed"])) == (2, 1)
    assert facts["item-knn"]["tried"] == facts["item-knn"]["grid"] == 30
    main = json.loads((tmp_path / "out.json").read_text())["main"]["systems"]
    # Only the items of one's cluster are ever clicked: one of the first five unseen ones is the target.
    assert main["item-knn"]["HR@5"]["mean"] == 1.0
    assert main["popularity"]["HR@5"]["mean"] < 0.7
    unknown = run("table.py", *place, *out, "--only", "itemknn")
    assert unknown.returncode == 2
    assert "There is no row 'itemknn'; choose among random, popularity," in " ".join(unknown.stderr.split())
    split = run("table.py", "--dataset", "movielens-100k", "--split", "given", *out)
    assert split.stderr.strip() == "error: The table of 'movielens-100k' has the split time; leave --split out."


@pytest.mark.slow
def test_als_is_within_five_percent_of_the_packages_own_evaluation(tmp_path: Path) -> None:
    pytest.importorskip("implicit", reason="ALS needs the extra baselines")
    import_dataset("movielens", real_data("movielens-100k")).save(tmp_path / "ml")
    done = run("reference_als.py", tmp_path / "ml", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert all(abs(difference) < 0.05 for difference in found["relative"].values())
    assert found["package"]["ndcg"] > 0.05
