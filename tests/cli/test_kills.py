"""Kills with SIGKILL cost nothing: see `tests.cli.kills`, which does more of them."""

import json
import subprocess
import sys

import pytest

from tests.cli import tiny


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_by_two_writers_loses_nothing(tmp_path):
    line = [sys.executable, "-m", "tests.cli.kills", str(tmp_path / "kills"), "--kills", "8"]
    environment = tiny.environment(tmp_path / "cache")
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["kills"] >= 8
