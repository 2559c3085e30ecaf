"""The model card's metadata is what the Hub's own reader takes, and its figures are the run's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from llmrec.pipeline.card import eval_results
from tests.cli import tiny


def test_the_hub_reads_figures_and_tags(finished):
    run = Path(finished[0])
    data = ModelCard((run / "README.md").read_text(encoding="utf-8")).data
    assert data.library_name == "llmrec"
    assert {"recommender-system", "reinforcement-learning", "ppo", "shop", "llmrec"} <= set(data.tags)
    assert data.base_model is None, "a model that was made on the spot is nobody's"
    assert data.datasets is None, "a generated world lies nowhere on the Hub"
    found = tiny.metrics(run)
    means, handed = found["means"], found["deployed"]
    told = {(one.task_type, one.metric_name): one.metric_value for one in data.eval_results}
    ranking = {name: value for (task, name), value in told.items() if task == "recommendation"}
    assert {"NDCG@10", "HR@10"} <= set(ranking)
    for name, value in ranking.items():
        assert value == pytest.approx(means["ranking"][handed][name]), name
    assert told["recommendation-judge", "value"] == pytest.approx(means["judge"][handed]["value"])
    assert {one.dataset_name for one in data.eval_results} == {found["dataset"]["name"]}
    assert {one.metric_type for one in data.eval_results} >= {"ndcg_at_10", "hr_at_10"}


@dataclasses.dataclass
class Manifest:
    name: str
    hub: str
    content_hash: str = "ab" * 32


@pytest.mark.parametrize(
    ("manifest", "kind", "revision"),
    [
        (Manifest("Alice's films", "alice/films@c0ffee"), "alice/films", "c0ffee"),
        (Manifest("Alice's films", ""), "alice-s-films", "ab" * 8),
        (Manifest("千", ""), "own", "ab" * 8),
    ],
)
def test_figures_name_the_data_set_on_the_hub_where_it_lies_there(manifest, kind, revision):
    table = SimpleNamespace(cells={"SFT": {"NDCG@10": SimpleNamespace(mean=0.25)}})
    run = SimpleNamespace(
        data=SimpleNamespace(dataset=SimpleNamespace(manifest=manifest)),
        config=SimpleNamespace(algorithm="ppo"),
        improved=False,
        tables=SimpleNamespace(ranking=table, judged={}),
    )
    (one,) = eval_results(run)
    assert (one.dataset_type, one.dataset_revision, one.metric_type) == (kind, revision, "ndcg_at_10")
    assert one.metric_value == 0.25
