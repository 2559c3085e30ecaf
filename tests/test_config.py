"""The strict parser: nothing is ignored, every refusal names its key."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmrec.config import RunConfig
from llmrec.config_tree import override_tree, parse_overrides
from llmrec.errors import ConfigError

HOSTILE = (
    *("a #b", " #b", "a: x", ": x", "[1]", "{a: 1}", "NO", "null", "~", "2024", "1e3", "", " lead", "trail "),
    *("'q'", '"q"', "it's", "-lead", "千 %s", "@x", "&a *a", "a=b", "a\\b", "new\nline", "tab\t", "--- !x"),
)
"""Names that YAML, or a text KEY=VALUE, reads as something else."""


def read(*texts, path=None):
    """The configuration under `--set` texts."""
    return RunConfig.read(path, parse_overrides(texts, RunConfig))


def test_defaults_survive_a_round_trip(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(RunConfig(seed=7).tree()))
    assert RunConfig.read(path) == RunConfig(seed=7)


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("ppo:\n  steps: 3\n  learning_rate: 1e-4\n")
    config = read("ppo.steps=5", "text.language=zh", "evaluation.k=[1, 3]", path=path)
    assert (config.improvement.steps, config.improvement.learning_rate) == (5, 1e-4)
    assert (config.text.language, config.evaluation.k) == ("zh", (1, 3))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("ppo.learningrate=1", ["'ppo.learningrate'", "'ppo.learning_rate'"]),
        ("pppo.steps=1", ["'pppo'", "'ppo'"]),
        ("seed=soon", ["'seed'", "'soon'", "whole number"]),
        ("seed=true", ["'seed'", "whole number"]),
        ("ppo.clip=.nan", ["'ppo.clip'", "finite"]),
        ("data.split=random", ["'data.split'", "leave-last-out"]),
        ("ppo=3", ["'ppo'", "section"]),
        ("seed.x=1", ["seed.x", "section"]),
        ("seed", ["'seed'", "key=value"]),
        ("sft.mixture.next_item=many", ["'sft.mixture.next_item'", "finite number"]),
    ],
)
def test_refusals_name_the_key_and_the_mend(override, words):
    with pytest.raises(ConfigError) as caught:
        read(*([override] if override != "seed.x=1" else ["seed=1", override]))
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "\x00"])
def test_broken_yaml_is_named(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        RunConfig.read(path)


def test_missing_and_wrongly_encoded_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml does not exist"):
        RunConfig.read(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("seed: 1 # caf\xe9".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml"):
        RunConfig.read(tmp_path / "latin.yaml")


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none() | st.lists(st.integers()), max_size=4))
def test_any_tree_is_read_or_refused(tree):
    from llmrec.config_tree import from_tree

    try:
        assert isinstance(from_tree(RunConfig, tree, "here"), RunConfig)
    except ConfigError:
        pass


def test_an_override_changes_one_key_of_a_mapping_and_keeps_the_others(tmp_path):
    shares = RunConfig.read(overrides={"sft.mixture.title_from_description": 0}).sft.mixture
    assert shares == RunConfig().sft.mixture | {"title_from_description": 0.0}
    path = tmp_path / "own.yaml"
    path.write_text("sft: {mixture: {next_item: 1}}", encoding="utf-8")
    assert RunConfig.read(path).sft.mixture == {"next_item": 1.0}
    assert RunConfig.read(path, {"sft.mixture.item_from_prompt": 0.5}).sft.mixture == {
        "next_item": 1.0,
        "item_from_prompt": 0.5,
    }
    assert RunConfig.read(overrides={"sft.lora.rank": 3}).sft.lora.alpha == RunConfig().sft.lora.alpha


@pytest.mark.parametrize("name", HOSTILE)
def test_a_value_is_taken_as_it_is_and_survives_the_file_of_the_run(name, tmp_path):
    for value in (name, Path(name)):
        config = RunConfig.read(None, {"data.source": value, "model.name": value, "text.templates": value})
        assert config.data.source == config.model.name == config.text.templates == str(value)
    config = RunConfig.read(None, {"data.source": name, "reward.custom": [f"{name}.py:f"], "report_to": [name, name]})
    assert (config.reward.custom, config.report_to) == ((f"{name}.py:f",), (name, name))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.tree(), allow_unicode=True), encoding="utf-8")
    assert RunConfig.read(tmp_path / "config.yaml", trust_code=True) == config


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ("null", "~", "") and name[0] not in "'\""])
def test_text_of_the_command_line_is_not_read_as_yaml(name):
    for key in ("data.source", "model.name"):
        assert parse_overrides([f"{key}={name}"], RunConfig) == {key: name}


def test_quotes_and_null_of_yaml_are_understood_on_the_command_line():
    assert read("data.source='a #b'", 'model.name="x"').data.source == "a #b"
    assert read("data.source=null").data.source is None
    assert read("ppo.steps=200", "sft.epochs=2", "seed=4", "ppo.steps=300").improvement.steps == 300
    with pytest.raises(ConfigError, match="whole number"):
        read("seed=4.5")


def test_typed_values_are_no_texts_to_parse():
    config = RunConfig.read(None, {"evaluation.k": (1, 3), "data.source": None, "ppo": {"steps": 3}, "ppo.draws": 2})
    assert (config.evaluation.k, config.data.source, config.improvement.steps, config.improvement.draws) == (
        (1, 3),
        None,
        3,
        2,
    )
    with pytest.raises(ConfigError, match="'seed' in the command line is '1', but it must be a whole number"):
        RunConfig.read(None, {"seed": "1"})
    with pytest.raises(ConfigError, match=r"'a\.b' goes below 'a'"):
        override_tree({"a": 1, "a.b": 2})
    mine = {"mixture": {"next_item": 1.0}}
    assert override_tree({"sft": mine, "sft.epochs": 2}) == {"sft": {**mine, "epochs": 2}}
    assert mine == {"mixture": {"next_item": 1.0}}
