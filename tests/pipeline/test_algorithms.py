"""The registry of algorithms: it is whole, and what depends on an algorithm follows from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmrec.config import SHIPPED, RunConfig
from llmrec.errors import ConfigError
from llmrec.pipeline.algorithms import ALGORITHMS, register
from llmrec.pipeline.base_model import Base
from llmrec.pipeline.improve import improvement_key
from llmrec.pipeline.recipes import recipe_for
from llmrec.pipeline.result import label, last_label
from llmrec.pipeline.sft import SFTStage
from tests.overrides import given

ROOT = Path(__file__).resolve().parents[2]


def test_every_section_has_its_algorithm_names_of_its_own_and_a_recipe():
    specs = {name: spec for name, spec in ALGORITHMS.items() if name in SHIPPED}
    assert tuple(specs) == SHIPPED
    assert {name: type(section) for name, section in RunConfig().sections.items() if name in SHIPPED} == {
        name: spec.settings for name, spec in specs.items()
    }
    assert len({label(name) for name in SHIPPED} | {last_label(name) for name in SHIPPED}) == 2 * len(SHIPPED)
    for name in SHIPPED:
        recipe = recipe_for("demo" if name == "ppo" else name)
        assert RunConfig.read(recipe).algorithm == name


def test_the_table_of_the_docs_is_of_the_registry():
    text = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[:2] for line in text.split("\n## ")[0].splitlines() if line.startswith("| `")][1:]
    shown = {name.strip("| `"): source for name, source in rows}
    assert shown == {name: ALGORITHMS[name].learning.source for name in SHIPPED}


@pytest.mark.parametrize("name", ["ppo", "data", "a-b"])
def test_a_name_that_is_taken_or_cannot_be_written_is_refused(name):
    with pytest.raises(ConfigError, match=name):
        register(replace(ALGORITHMS["dpo"], name=name))


def test_what_the_gate_reads_of_the_log_decides_every_algorithm_s_stage(tmp_path):
    (tmp_path / "stage.json").write_text('{"key": "of the warm start"}')
    sft = SFTStage(tmp_path, Base("nano", None, nano=True), [])

    def key(*overrides):
        return improvement_key(RunConfig.read(None, given(*overrides)), sft)

    assert key("off_policy.without_replacement=false") != key()
    assert key("off_policy.slate=3", "grpo.steps=3") == key()
    assert key("ppo.steps=3") != key()
    assert key("algorithm=grpo", "grpo.steps=3") != key("algorithm=grpo")
