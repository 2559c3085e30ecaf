"""The study of free requests: who answers, what is chosen where, and what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrec.evaluation.requests import KINDS
from llmrec.studies.free_requests import free_requests

SMALL = {"world.users": 60, "world.items": 60, "world.slates_per_user": 4, "world.slate_size": 5}
NANO = {
    "model.nano_hidden": 32,
    "model.nano_layers": 1,
    "model.nano_pretrain_sequences": 64,
    "sft.examples": 64,
    "sft.epochs": 1,
}


def test_retrievers_beat_the_controls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMREC_EMBEDDINGS", raising=False)
    found = free_requests([0, 1], tmp_path, requests=20, shares=(), overrides=SMALL)
    rows = found["table"]["systems"]
    assert list(rows) == [
        "random",
        "popularity",
        "TF-IDF",
        "popularity, filters read",
        "popularity, words first",
        "TF-IDF, filters read",
        "TF-IDF, words first",
    ]
    assert set(rows["TF-IDF"]) <= {"all", *KINDS}
    assert rows["TF-IDF"]["category"]["mean"] > 0.9 > rows["random"]["all"]["mean"]
    assert rows["random"]["all"]["difference"]["high"] < 0
    assert found["facts"]["0"]["read"]["title found where one is named"] == 1.0
    assert found["facts"]["0"]["examples"] != found["facts"]["1"]["examples"]
    assert "free requests" in (tmp_path / "study.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_policies_are_mixed_and_narrowed_on_other_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LLMREC_EMBEDDINGS", raising=False)
    found = free_requests([0], tmp_path / "out", requests=20, shares=(0.1,), overrides={**SMALL, **NANO})
    rows, name = found["table"]["systems"], "SFT, prompts 0.1"
    mixed, near = f"{name} + TF-IDF", f"{name} among TF-IDF"
    assert {name, mixed, near, f"{name}, filters read", f"{mixed}, filters read"} <= set(rows)
    assert rows[f"{name}, filters read"]["category"]["mean"] == 1.0
    for who in (name, "TF-IDF"):  # whoever ranks, the items of a named category or brand come first
        assert [rows[f"{who}, words first"][kind]["mean"] for kind in ("category", "attribute")] == [1.0, 1.0]
    # the nano model is an ordinary folder, so that it can stand for a pretrained one
    (nano,) = (tmp_path / "cache" / "nano").iterdir()
    found_too = free_requests([0], tmp_path / "out", requests=10, shares=(), model=str(nano), overrides=SMALL)
    assert {"hidden states", "hidden states, filters read", "before SFT"} <= set(found_too["table"]["systems"])
    for side in (mixed, near):
        fact = found["facts"]["0"][side]
        assert fact["valid"][fact["chosen"]] == max(fact["valid"].values())
