"""`llmrec models` says what has been tried, and the file behind it is whole."""

import json

import transformers
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.tried import read_trials


def test_figures_are_whole_and_architectures_exist():
    found = read_trials()
    assert found.models
    for model in found.models:
        assert model.runs
        for run in model.runs:
            mean, low, high = run.ndcg
            assert 0 <= low <= mean <= high <= run.hr <= 1
            assert all((run.data, run.what, run.rows, run.machine, run.command))
    known = set(transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES)
    assert {*found.tiny, *found.plain, *(c.architecture for c in found.checks)} <= known


def test_the_command_prints_them():
    shown = CliRunner().invoke(app, ["models", "--commands"])
    assert shown.exit_code == 0
    for part in ("SmolLM2-135M-Instruct", "Apache-2.0", "0.0796", "llmrec run --config", "14 of 14", "qwen3"):
        assert part in shown.output
    printed = json.loads(CliRunner().invoke(app, ["models", "--json"]).output)
    assert printed["models"][0]["runs"][0]["ndcg"] == list(read_trials().models[0].runs[0].ndcg)
