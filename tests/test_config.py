"""The strict parser: nothing is ignored, every refusal names its key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.config import RunConfig
from llmrec.errors import ConfigError


def test_defaults_survive_a_round_trip(tmp_path):
    import yaml

    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(RunConfig(seed=7).tree()))
    assert RunConfig.read(path) == RunConfig(seed=7)


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("ppo:\n  steps: 3\n  learning_rate: 1e-4\n")
    config = RunConfig.read(path, ["ppo.steps=5", "text.language=zh", "evaluation.k=[1, 3]"])
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
        RunConfig.read(None, [override] if override != "seed.x=1" else ["seed=1", override])
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
    shares = RunConfig.read(overrides=["sft.mixture.title_from_description=0"]).sft.mixture
    assert shares == RunConfig().sft.mixture | {"title_from_description": 0.0}
    path = tmp_path / "own.yaml"
    path.write_text("sft: {mixture: {next_item: 1}}", encoding="utf-8")
    assert RunConfig.read(path).sft.mixture == {"next_item": 1.0}
    assert RunConfig.read(path, ["sft.mixture.item_from_prompt=0.5"]).sft.mixture == {
        "next_item": 1.0,
        "item_from_prompt": 0.5,
    }
    assert RunConfig.read(overrides=["sft.lora.rank=3"]).sft.lora.alpha == RunConfig().sft.lora.alpha
