"""`llmrec run --rules`: the training obeys, the run keeps the rules, and what cannot be had is one sentence."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from llmrec.text.perturb import DroppedHistory, OtherWording
from tests.cli import tiny
from tests.cli.test_bad_input import refused

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "train" / "recipes" / "demo.yaml"


def rules_file(place, *rules):
    place.write_text(yaml.safe_dump({"rules": list(rules)}))
    return place


def test_rules_that_cannot_be_had_are_refused_before_anything_is_made(cache, tmp_path):
    out, asked = tmp_path / "out", ("run", "--config", RECIPE, "--out", tmp_path / "out", *tiny.arguments())
    bad = rules_file(tmp_path / "bad.yaml", {"never": {"brands": ["x"]}}, {"at_most": 0, "per": "category"})
    sentence = refused(cache, *asked, "--rules", bad)
    assert "rule 2 of" in sentence
    assert "bad.yaml" in sentence
    assert "at most 0" in sentence
    assert not out.exists()
    assert not out.with_name("out.work").exists()


def test_a_floor_is_had_in_slates_alone():
    from llmrec.config import RunConfig
    from llmrec.errors import ConfigError
    from llmrec.pipeline.algorithms import check_algorithm

    floor = {"rules": [{"at_least": "20%", "items": {"words": ["x"]}, "name": "x first"}]}
    said = (
        r"'x first' asks for a floor in every slate, but (ppo|grpo|off_policy) draws single items.*rules_in_training"
    )
    for algorithm in ("ppo", "grpo", "off_policy"):
        with pytest.raises(ConfigError, match=said):
            check_algorithm(RunConfig.read(None, {**floor, "algorithm": algorithm}))
        check_algorithm(RunConfig.read(None, {**floor, "algorithm": algorithm, "rules_in_training": "items"}))
    check_algorithm(RunConfig.read(None, {**floor, "algorithm": "dpo"}))  # draws nothing
    check_algorithm(RunConfig.read(None, {**floor, "session.slate": 3, "ppo.draws": 1}))


def test_a_forbidden_item_stands_in_no_list_of_the_comparison_though_it_be_the_best(finished, cache, monkeypatch):
    from llmrec.pipeline.measure import make_arena, make_tables, measure_run
    from llmrec.pipeline.opening import open_run
    from llmrec.pipeline.ruled import RULED
    from llmrec.pipeline.run import make_systems
    from llmrec.pipeline.systems import OPTIMUM
    from llmrec.types import Slate

    class Planted:
        """Shows one item to everybody, at the top."""

        def __init__(self, best, n_items):
            self.order = [best, *(item for item in range(n_items) if item != best)]

        def recommend(self, states, k, *, seen=None):
            return [Slate(tuple(self.order[:k]), tuple(-float(n) for n in range(k)))] * len(states)

    def measured(run, best):
        arena = make_arena(run.config, run.data, run.simulators.judge)
        systems = make_systems(run) | {"planted": Planted(best, arena.n_items)}
        found = measure_run(run.config, arena, systems)
        lists = {name: [slate.items_K for slate in slates] for name, slates in found.slates.items()}
        return arena, found, lists, make_tables(run.config, arena, found, "SFT")

    monkeypatch.setenv("LLMREC_CACHE", str(cache))
    run = open_run(finished[0])
    _, _, lists, tables = measured(run, 0)
    tops, count = np.unique([items[0] for items in lists[OPTIMUM]], return_counts=True)
    best = int(tops[count.argmax()])
    assert sum(any(best in items for items in own) for own in lists.values()) > 2, "it stands in lists without rules"
    assert RULED not in tables.summary.note

    forbid = {"never": {"ids": [run.data.dataset.item_list[best].item_id]}}
    config = dataclasses.replace(run.config, rules=(forbid, {"at_most": 2, "per": "category"}))
    arena, found, lists, tables = measured(dataclasses.replace(run, config=config), best)
    category = [item.categories[0] for item in run.data.dataset.item_list]
    for name, own in lists.items():
        assert all(own), name
        assert not any(best in items for items in own), name
        assert max(np.unique([category[i] for i in items], return_counts=True)[1].max() for items in own) <= 2, name
    asked_for = np.array([example.target for example in arena.examples]) == best
    for name, row in found.ranking.items():
        assert not np.asarray(row["HR@10"])[asked_for].any(), name
    assert all(RULED in table.note for table in (tables.ranking, tables.summary, *tables.judged.values()))


def test_robustness_is_measured_under_the_rules_of_the_run(finished, cache, monkeypatch):
    """Rules leave one item: every system, whatever it reads, shows that one or nothing."""
    from llmrec.studies import robustness

    monkeypatch.setenv("LLMREC_CACHE", str(cache))
    config, kept = robustness.read_config(finished[0]), pl.read_parquet(finished[0] / "items.parquet")
    rules = ({"never": {"ids": kept["item_id"].to_list()[1:]}},)
    monkeypatch.setattr(robustness, "read_config", lambda folder: dataclasses.replace(config, rules=rules))
    views = [DroppedHistory(share=0.5), OtherWording(domain="course")]
    monkeypatch.setattr(robustness, "standard_perturbations", lambda domain, seed: views)
    found = robustness.measure_robustness([finished[0]], test_events=12, k=5)
    assert found["rules_of_all_lists"] == 1
    assert len(found["tables"]) == 5
    first = next(iter(found["tables"].values()))["systems"]
    for name, table in found["tables"].items():
        for view, row in table["systems"].items():
            assert row["NDCG@5"]["mean"] == first["clean"]["NDCG@5"]["mean"], (name, view)
            assert row.get("changed", {"mean": 0})["mean"] == 0, (name, view)


@pytest.mark.slow
def test_a_run_under_rules_trains_under_them_keeps_them_and_hands_them_on(finished, cache, tmp_path):
    from llmrec import Recommender
    from llmrec.types import State

    before, _ = finished
    out = tmp_path / "ruled"
    shutil.copytree(before.with_name(before.name + ".work"), tmp_path / "ruled.work")
    table = pl.read_parquet(before / "items.parquet")
    # 12 of 40 items are left for slates of 10 places, some of which caps leave empty
    forbidden = table["item_id"].to_list()[:28]
    file = rules_file(
        tmp_path / "rules.yaml",
        {"never": {"ids": forbidden}},
        {"at_most": 2, "per": "category"},
    )
    asked = ("run", "--config", RECIPE, "--out", out, "--rules", file, "--force", *tiny.arguments())
    done = tiny.llmrec(*asked, cache=cache)
    assert "All lists obey the run's rules, those of the baselines too" in (out / "report.md").read_text()
    assert tiny.metrics(out)["rules_of_all_lists"] == 2
    assert tiny.metrics(before)["rules_of_all_lists"] == 0
    rates = {name: row["HR@10"] for name, row in tiny.metrics(out)["means"]["ranking"].items()}
    assert len(set(rates.values())) > 1, "of 12 items that are left, 10 places at most"
    assert yaml.safe_load((out / "config.yaml").read_text())["rules"][0]["never"]["ids"] == forbidden
    record = json.loads((tmp_path / "ruled.work" / "ppo" / "improved.json").read_text())
    kept = json.loads((before.with_name(before.name + ".work") / "ppo" / "improved.json").read_text())
    assert [row["step"] for row in record["curve"]] == [row["step"] for row in kept["curve"]]
    # of 12 items no place has more nats than log 12, and what draws first is the reference under the same rules
    assert record["curve"][0]["rollout_entropy"] < np.log(12) < kept["curve"][0]["rollout_entropy"]
    assert record["curve"][0]["rollout_kl"] == pytest.approx(0.0, abs=1e-5)
    recommender = Recommender.load(out)
    slate = recommender.recommend(state=State(profile="A 40-year-old man."), k=8)
    assert slate.items
    assert not {item.item_id for item in slate.items} & {*forbidden}
    assert "Traceback" not in done.stderr
