"""Code that a configuration file names is not run unless a person says so: the file may be a stranger's."""

import pytest
import yaml
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.config import RunConfig
from llmrec.errors import ConfigError
from llmrec.pipeline.algorithms import check_algorithm
from llmrec.pipeline.recipes import recipes_root
from llmrec.rewards.custom import load_custom


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A configuration that came with code, and the mark that the code leaves where it runs."""
    monkeypatch.delenv("LLMREC_TRUST_CODE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.py").write_text(
        "from pathlib import Path\nPath('ran').touch()\ndef bonus(state, items):\n    return [0.0] * len(items)\n"
    )
    named = f"{tmp_path}/theirs.py:bonus"
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump({"reward": {"custom": [named]}, "seed": 3}))
    return tmp_path, named


def test_a_file_alone_runs_nothing(stranger):
    folder, _ = stranger
    config = RunConfig.read(folder / "theirs.yaml")
    with pytest.raises(ConfigError, match="--trust-code"):
        check_algorithm(config)
    done = CliRunner().invoke(app, ["run", "--config", "theirs.yaml", "--dataset", "world", "--out", "out"])
    assert isinstance(done.exception, ConfigError)
    assert "theirs.py:bonus" in str(done.exception)
    assert not (folder / "ran").exists()
    assert not (folder / "out").exists()


@pytest.mark.parametrize("how", ["flag", "variable", "override"])
def test_a_person_may_vouch_for_it(stranger, monkeypatch, how):
    folder, named = stranger
    if how == "variable":
        monkeypatch.setenv("LLMREC_TRUST_CODE", "1")
    overrides = {"reward.custom": [named]} if how == "override" else {}
    config = RunConfig.read(folder / "theirs.yaml", overrides, trust_code=how == "flag")
    assert load_custom(config.reward.custom[0])(None, (1, 2)) == [0.0, 0.0]
    assert (folder / "ran").exists()
    assert config.reward.custom == (named,)


def test_the_record_of_a_run_is_plain_and_is_not_trusted_either(stranger):
    folder, named = stranger
    config = RunConfig.read(folder / "theirs.yaml", trust_code=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.tree()))
    again = RunConfig.read(folder / "config.yaml")
    assert again == config
    assert yaml.safe_load(yaml.safe_dump(again.tree()))["reward"]["custom"] == [named]
    with pytest.raises(ConfigError, match="--trust-code"):
        load_custom(again.reward.custom[0])


def test_shipped_recipes_name_no_code():
    for recipe in recipes_root().glob("*.yaml"):
        assert "custom" not in yaml.safe_load(recipe.read_text(encoding="utf-8")).get("reward", {}), recipe
