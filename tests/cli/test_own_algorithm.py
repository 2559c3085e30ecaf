"""An algorithm that llmrec does not know: a package on the path, named in a configuration, goes through the whole job."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from llmrec.config import RunConfig
from llmrec.errors import ConfigError
from tests import forked
from tests.cli import tiny
from tests.overrides import given

PACKAGE = Path(__file__).parent / "own"
OURS = {"exact_ascent.steps": 4, "exact_ascent.learning_rate": 0.03, "gate.ndcg_tolerance": 1.0}


@pytest.fixture
def installed(monkeypatch):
    """The package, which is found by its entry point; what it registers is taken out again."""
    import sys

    from llmrec.config.algorithms import SECTIONS
    from llmrec.pipeline.algorithms import ALGORITHMS

    monkeypatch.syspath_prepend(PACKAGE)
    yield
    for known in (SECTIONS, ALGORITHMS, sys.modules):
        known.pop("exact_ascent", None)


def test_an_algorithm_of_another_package_is_run_by_its_name(cache, tmp_path):
    out = tmp_path / "run"
    line = tiny.command("run", "--algorithm", "exact_ascent", "--out", out, *tiny.arguments(**OURS))
    path = os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])
    done = forked.run(line, env=tiny.environment(cache, PYTHONPATH=path))
    assert done.returncode == 0, done.stderr
    found = tiny.metrics(out)
    assert found["algorithm"] == "exact_ascent"
    assert [score["step"] for score in found["checkpoints"]] == [2, 4]
    assert found["checkpoints"][-1]["reward_gain"]["mean"] > 0  # it climbs what it says
    rows = set(found["means"]["ranking"])
    assert rows & {"exact ascent", "exact ascent (last)"}
    assert "exact ascent" in done.stdout
    assert "exact ascent of another package" in (out / "README.md").read_text(encoding="utf-8")
    kept = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    assert kept["exact_ascent"]["learning_rate"] == 0.03
    # whoever is handed the run need not have the package
    tiny.llmrec("recommend", "--model", out, "--prompt", "something new", "-k", 3, cache=cache)


def test_its_section_is_read_as_strictly_as_any(installed):
    config = RunConfig.read(None, given("algorithm=exact_ascent", "exact_ascent.lora.rank=2"))
    assert (config.improvement.steps, config.improvement.lora.rank) == (4, 2)
    with pytest.raises(ConfigError, match=r"'exact_ascent\.stepz'.*'exact_ascent\.steps'"):
        RunConfig.read(None, given("exact_ascent.stepz=1"))
    with pytest.raises(ConfigError, match="whole number"):
        RunConfig.read(None, given("exact_ascent.steps=many"))
    from llmrec.pipeline.algorithms import check_algorithm

    with pytest.raises(ConfigError, match=r"exact_ascent\.steps"):
        check_algorithm(RunConfig.read(None, given("algorithm=exact_ascent", "exact_ascent.steps=0")))
    with pytest.raises(ConfigError, match="exact_ascent does not learn from; set algorithm to ppo or reinforce"):
        check_algorithm(RunConfig.read(None, given("algorithm=exact_ascent", "session.turns=2")))


def test_runs_of_other_algorithms_do_not_name_it(installed):
    before = RunConfig.read(None, given("seed=1")).tree()
    config = RunConfig.read(None, given("exact_ascent.steps=9"))
    assert config.sections["exact_ascent"].steps == 9
    assert config.tree() == before | {"seed": 0}


def test_without_the_package_the_name_is_refused():
    with pytest.raises(ConfigError, match="'algorithm' is 'exact_ascent'; choose one of ppo"):
        RunConfig.read(None, given("algorithm=exact_ascent"))
    with pytest.raises(ConfigError, match="Unknown key 'exact_ascent'"):
        RunConfig.read(None, given("exact_ascent.steps=1"))
