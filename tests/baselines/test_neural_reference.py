"""The script that stands SASRec beside RecBole's, tried as a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests import forked
from tests.baselines.neural_world import make_dataset

SCRIPT = Path(__file__).parents[2] / "eval" / "reference_sasrec.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return forked.run([sys.executable, SCRIPT, *arguments], env=forked.environment())


def test_the_files_hold_every_prefix_and_the_rows(tmp_path: Path) -> None:
    data = make_dataset([[0, 1, 2, 3, 0], [3, 1, 3], [2]], 5)
    data.save(tmp_path / "data")
    found = run("write", tmp_path / "data", tmp_path / "out", "--split", "leave-last-out")
    assert found.returncode == 0, found.stderr
    folder = tmp_path / "out" / "reference"
    lines = {
        part: (folder / f"reference.{part}.inter").read_text().splitlines() for part in ("train", "valid", "test")
    }
    assert {part[0] for part in lines.values()} == {"user_id:token\titem_id_list:token_seq\titem_id:token"}
    # Three clicks of the first user train (two prefixes), one of the second and of the third (none).
    assert sorted(line.split("\t", 1)[1] for line in lines["train"][1:]) == ["0\t1", "0 1\t2"]
    assert sorted(lines["valid"][1:]) == ["u0000\t0 1 2\t3", "u0001\t3\t1"]
    assert sorted(lines["test"][1:]) == ["u0000\t0 1 2 3\t0", "u0001\t3 1\t3"]
    assert (folder / "reference.item").read_text().split() == ["item_id:token", "0", "1", "2", "3", "4"]


def test_figures_that_are_missing_are_named(tmp_path: Path) -> None:
    found = run("compare", tmp_path)
    assert found.returncode == 2
    assert found.stderr.strip() == f"error: {tmp_path} has no figures of ours; run that step first."
