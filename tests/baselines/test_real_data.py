"""The figures measured on the published Amazon Industrial split; ties there are worth their expectation."""

from __future__ import annotations

import ast
import csv
import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from llmrec.baselines import Covisitation, CovisitationSettings, Popularity, ScoreRecommender, select
from llmrec.baselines.covisitation import COUNTS_ONLY
from llmrec.dataset.store import Dataset
from llmrec.evaluation.ranking import score_metrics
from llmrec.types import Example, Interaction, State

FOLDER = Path(os.environ.get("LLMREC_DATA", Path(__file__).parents[3] / "shared" / "data")) / "amazon-industrial"
PARTS = ("train", "valid", "test")
TEST_STARTS = 1511049600
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is absent; set LLMREC_DATA to the real data")


def read_dataset() -> Dataset:
    with gzip.open(FOLDER / "items.jsonl.gz", "rt", encoding="utf-8") as file:
        raw = [json.loads(line) for line in file]
    items = pl.DataFrame(
        {"item_id": [r["asin"] or f"row {r['id']}" for r in raw]}
        | {c: [r[c] for r in raw] for c in ("title", "brand", "description")}
    )
    titled = items.with_columns(
        pl.when(pl.col("title") == "").then(pl.col("item_id")).otherwise("title").alias("title")
    )
    log = []
    with gzip.open(FOLDER / "users.jsonl.gz", "rt", encoding="utf-8") as file:
        for user in map(json.loads, file):
            for order, e in enumerate(user["events"]):
                # Times are days: the order within a day, which the file knows, is kept as seconds.
                part = e["split"] if e["split"] in PARTS else "valid" if e["ts"] < TEST_STARTS else "test"
                log.append((user["user"], e["asin"], "rating", e["ts"] + order, e["rating"], part))
    events = pl.DataFrame(log, ["user_id", "item_id", "kind", "time", "value", "split"], orient="row")
    return Dataset.build(
        titled, None, events, name="amazon", domain="shop", click="rating", conversion="rating>=4", repeat="allow"
    )


def read_rows(part: str) -> list[Example]:
    with gzip.open(FOLDER / f"{part}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Example(
            State(
                history=tuple(
                    Interaction(i, "rating", n) for n, i in enumerate(ast.literal_eval(r["history_item_id"]))
                )
            ),
            int(r["item_id"]),
        )
        for r in rows
    ]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return read_dataset()


def measure(model: ScoreRecommender, rows: list[Example]) -> tuple[float, float, float, float]:
    states, targets = [e.state for e in rows], np.array([e.target for e in rows])
    means = score_metrics(model.score(states), targets, k=(5, 10)).means
    return means["HR@5"], means["NDCG@5"], means["HR@10"], means["NDCG@10"]


@pytest.mark.parametrize(
    ("model", "parts", "published"),
    [
        (Covisitation(COUNTS_ONLY), ["train"], (0.0966, 0.0793, 0.1129, 0.0846)),
        (Covisitation(), ["train"], (0.1235, 0.0966, 0.1580, 0.1076)),
        (Covisitation(), ["train", "valid"], (0.1313, 0.1029, 0.1615, 0.1126)),
    ],
)
def test_measured_figures(
    dataset: Dataset, model: ScoreRecommender, parts: list[str], published: tuple[float, float, float, float]
) -> None:
    rows = read_rows("test")
    found = measure(model.fit(dataset, dataset.events.filter(pl.col("split").is_in(parts))), rows)
    assert len(rows) == 4533
    assert found == pytest.approx(published, abs=0.00006)


def test_popularity_is_the_measured_one_where_a_tied_target_counts_as_first(dataset: Dataset) -> None:
    rows = read_rows("test")
    known = dataset.events.filter(pl.col("split").is_in(["train", "valid"]))
    model = Popularity().fit(dataset, known)
    targets_B = np.array([e.target for e in rows])
    count_N = model.score([rows[0].state])[0]
    place_B = (count_N[None, :] > count_N[targets_B][:, None]).sum(axis=1)
    first = [((place_B < k).mean(), ((place_B < k) / np.log2(place_B + 2)).mean()) for k in (5, 10)]
    assert np.ravel(first) == pytest.approx((0.0527, 0.0423, 0.0649, 0.0461), abs=0.00006)
    # Two items share places 10 and 11: half of their targets count.
    assert measure(model, rows) == pytest.approx((0.0527, 0.0423, 0.0618, 0.0452), abs=0.00006)


def test_selection_on_the_validation_rows(dataset: Dataset) -> None:
    train = dataset.events.filter(pl.col("split") == "train")
    grid = [CovisitationSettings(), replace(CovisitationSettings(), text=0.0), COUNTS_ONLY]
    chosen = select(Covisitation, grid, dataset, train, read_rows("valid")[:600])
    assert chosen.settings == CovisitationSettings()


@pytest.mark.slow
def test_sasrec_learns_more_than_counts_of_clicks(dataset: Dataset) -> None:
    from llmrec.baselines.neural import SASRecSettings
    from llmrec.baselines.neural.recommenders import SASRec

    rows = read_rows("valid")
    train = dataset.events.filter(pl.col("split") == "train")
    model = SASRec(SASRecSettings(epochs=12, valid_fraction=0.0, n_threads=1)).fit(dataset, train)
    ndcg = measure(model, rows)[3]
    assert ndcg > 0.08
    assert ndcg > 2 * measure(Popularity().fit(dataset, train), rows)[3]
