"""Reward functions of the current folder, as `python` would import them."""

import sys

import pytest

from llmrec.errors import ConfigError
from llmrec.rewards.custom import load_custom


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_of_the_current_folder_is_imported(folder):
    (folder / "my_own_rewards.py").write_text(
        "import my_own_helper\ndef fn(state, items):\n    return my_own_helper.X\n"
    )
    (folder / "my_own_helper.py").write_text("X = 3\n")
    path = list(sys.path)
    assert load_custom("my_own_rewards:fn")(None, ()) == 3
    assert sys.path == path, "only while it is imported"


def test_a_package_of_the_current_folder_is_imported(folder):
    (folder / "my_own_package").mkdir()
    (folder / "my_own_package" / "inner.py").write_text("def fn(state, items):\n    return 4\n")
    assert load_custom("my_own_package.inner:fn")(None, ()) == 4


def test_what_is_not_there_is_still_one_sentence(folder):
    with pytest.raises(ConfigError, match="cannot be imported"):
        load_custom("my_own_missing:fn")
    (folder / "my_own_broken.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        load_custom("my_own_broken:fn")
