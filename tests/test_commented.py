"""The configuration with comments: it is the configuration, and says what the settings' docstrings say."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from llmrec.cli.show import commented_config
from llmrec.config import RunConfig
from llmrec.config.commented import commented
from llmrec.errors import ConfigError
from tests.cli import tiny

RECIPES = sorted(Path("train/recipes").glob("*.yaml"))
RUNS = [path for path in RECIPES if not path.name.startswith(("ablations", "demo-pretrained", "meta"))]


@pytest.mark.parametrize("recipe", [None, *RUNS], ids=lambda path: "none" if path is None else path.stem)
def test_what_is_printed_is_read_again_as_the_same_configuration(tmp_path, recipe):
    config = RunConfig.read(recipe)
    (tmp_path / "all.yaml").write_text(commented(config), encoding="utf-8")
    assert RunConfig.read(tmp_path / "all.yaml") == config


def test_keys_stand_below_their_own_words():
    text = commented(RunConfig(), ["ppo"])
    lines = text.splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith("  clip:"))
    assert lines[place] == f"  clip: {RunConfig().section(type(RunConfig().sections['ppo'])).clip}"
    above = text.split("\n  draws:")[0].splitlines()[-1]
    assert above == "  # Independent draws per state (G)."
    assert "# One of lora, full.\n  weights: lora" in text
    assert "of the reward a nat" in text  # from a class that the section extends


def test_comments_cover_what_the_settings_say():
    """Every docstring below a field of every section is there, found by another way than the code's."""
    text = re.sub(r"\s*\n\s*# ", " ", commented(RunConfig()))
    for section in [*vars(RunConfig()).values(), *RunConfig().sections.values()]:
        if not dataclasses.is_dataclass(section):
            continue
        source = Path(__import__(type(section).__module__, fromlist=["x"]).__file__).read_text(encoding="utf-8")
        body = (
            source.split(f"class {type(section).__name__}", 1)[1].split("\n@dataclass", 1)[0].split("\nclass ", 1)[0]
        )
        for said in re.findall(r"^    \w+: [^\n]*\n    \"\"\"(.*?)\"\"\"", body, re.MULTILINE | re.DOTALL):
            assert " ".join(said.split()) in text, type(section).__name__


def test_hostile_values_stay_values(tmp_path):
    config = RunConfig.read(None, {"data.source": "a: b\n# c\n- 'd\"", "report_to": ["x # y", "null", "1"]})
    (tmp_path / "all.yaml").write_text(commented(config), encoding="utf-8")
    assert RunConfig.read(tmp_path / "all.yaml") == config


def test_sections_datasets_and_mistakes():
    assert list(yaml.safe_load(commented_config(["gate"], None, None, None, ["gate.users=7"]))) == ["gate"]
    assert yaml.safe_load(commented_config(["gate"], None, None, None, ["gate.users=7"]))["gate"]["users"] == 7
    movielens = yaml.safe_load(commented_config(["ppo"], "movielens", None, None, []))
    assert (
        movielens["ppo"]["kl_coefficient"]
        == RunConfig.read(Path("train/recipes/movielens.yaml")).sections["ppo"].kl_coefficient
    )
    with pytest.raises(ConfigError, match=r"no section 'pppo'; choose among .*ppo"):
        commented_config(["pppo"], None, None, None, [])
    with pytest.raises(ConfigError, match=r"did you mean 'gate\.users'"):
        commented_config([], None, None, None, ["gate.usres=7"])


def test_the_command(tmp_path):
    done = tiny.llmrec("config", cache=tmp_path)
    (tmp_path / "all.yaml").write_text(done.stdout, encoding="utf-8")
    assert RunConfig.read(tmp_path / "all.yaml") == RunConfig()
    tiny.llmrec("config", "--set", "ppo.stepps=3", cache=tmp_path, code=2)
