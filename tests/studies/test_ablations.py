"""Ablations: what a file may say, stages that sides share, and figures against hand-made lists."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from llmrec.config import RunConfig
from llmrec.config.ablations import AblationSettings, SideSettings
from llmrec.dataset.examples import Examples
from llmrec.errors import ConfigError
from llmrec.files import read_json
from llmrec.studies.ablation_result import SeedRows, ablation_figures, differences_table, facts_table
from llmrec.studies.ablations import MEMBER, flat, read_ablation, run_ablation
from llmrec.studies.table.protocol import PROTOCOLS
from llmrec.types import Example, State

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "world": {"users": 60, "items": 30, "slates_per_user": 3},
    "model": {"nano_hidden": 32, "nano_layers": 1, "nano_vocabulary": 400, "nano_pretrain_sequences": 64},
    "text": {"max_tokens": 64},
    "sft": {"examples": 64, "epochs": 1},
}


def written(tmp_path, **keys):
    tree = {"set": TINY, "sides": {"full": {}, "no-profile": {"set": {"text": {"profile": False}}}}, **keys}
    path = tmp_path / "ablation.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def test_trees_are_flattened_to_overrides_that_read_back_the_same():
    tree = {
        "sft": {"learning_rate": 1e-05, "mixture": {"next_item": 1}},
        "data": {"source": "a: 'b' #c\n三"},
        "k": [1],
    }
    texts = list(flat(tree))
    assert texts[0] == ("sft.learning_rate", 1e-05)
    config = RunConfig.read(None, texts[:3])
    assert (config.sft.learning_rate, config.sft.mixture["next_item"]) == (1e-05, 1.0)
    assert config.data.source == "a: 'b' #c\n三"
    assert texts[3] == ("k", [1])


def test_a_side_is_the_recipe_the_common_keys_the_command_line_and_its_own(tmp_path):
    sides = {"full": {}, "short": {"set": {"data": {"history_events": 3}, "sft": {"mixture": {"next_item": 0.5}}}}}
    path = written(tmp_path, recipe="study-world", sides=sides, seeds=[4, 5])
    read = read_ablation(path, ["sft.examples=32", "data.history_events=9"])
    full, short = read.sides["full"].config, read.sides["short"].config
    assert read.base == "full"
    assert full.improvement.steps == 100  # of the recipe
    assert (full.world.items, full.sft.examples, full.data.history_events, full.seed) == (30, 32, 9, 4)
    assert short.data.history_events == 3
    assert short.sft.mixture == {**full.sft.mixture, "next_item": 0.5}
    assert read.sides["full"].member(5, 2).seed == 5 + 2 * MEMBER


def test_a_recipe_may_lie_beside_the_file(tmp_path):
    (tmp_path / "own.yaml").write_text("sft: {epochs: 7}\n", encoding="utf-8")
    path = written(tmp_path, recipe="own.yaml", set={"world": TINY["world"]})
    assert read_ablation(path).sides["full"].config.sft.epochs == 7


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"sides": {}}, "names no side"),
        ({"side": {}}, "Unknown key 'side' in .*did you mean 's"),
        ({"sides": {"a": {"sets": {}}}}, "Unknown key 'sides.a.sets' in .*did you mean 'sides.a.set'"),
        (
            {"set": {"text": {"profil": True}}},
            "Unknown key 'text.profil' in .*key 'set'; did you mean 'text.profile'",
        ),
        ({"sides": {"a": {"set": {"sft": {"epoch": 1}}}}}, "Unknown key 'sft.epoch' in .*side 'a'; did you mean"),
        ({"base": "half"}, "Key 'base' in .* is 'half'; choose one of full, no-profile"),
        ({"seeds": [1, 1]}, "'seeds' .* each once"),
        ({"seeds": []}, "'seeds' .* at least one"),
        ({"k": [0]}, "Key 'k'"),
        ({"until_part": True}, "needs part: test"),
        ({"part": "train"}, "'part' in .* is 'train'; choose one of valid, test"),
        ({"sides": {"a": {"ensemble": 0}}}, "'sides.a.ensemble' in .* is 0"),
        ({"sides": {"popularity": {}}}, "has the name of a baseline"),
        ({"sides": {"a": {"set": {"seed": 3}}}}, "Key 'sides.a.set.seed' in .* list the seeds under 'seeds'"),
        ({"sides": {"a": {}, "b": {"set": {"data": {"split": "leave-last-out"}}}}}, "Side 'b' in .* has other data"),
        ({"sides": {"a": {}, "b": {"set": {"sft": {"target": "conversion"}}}}}, "another target than 'a'"),
        ({"sides": {"a": {"set": {"text": {"history": "id"}}}}}, "items have no identifiers"),
        ({"recipe": "nothing.yaml"}, "nothing.yaml does not exist"),
    ],
)
def test_files_that_cannot_be_meant_are_refused_by_name(tmp_path, keys, words):
    with pytest.raises(ConfigError, match=words):
        read_ablation(written(tmp_path, **keys))


def test_the_shipped_files_are_read():
    quick = read_ablation(ROOT / "train" / "recipes" / "ablations-quick.yaml")
    assert quick.base in quick.sides
    for name, folder in (("movielens", "movielens-100k"), ("amazon", "amazon-industrial")):
        source = Path(os.environ.get("LLMREC_DATA", "../shared/data")) / folder
        overrides = [f"data.source='{source if source.exists() else ROOT}'"]
        read = read_ablation(ROOT / "train" / "recipes" / f"ablations-{name}.yaml", overrides)
        assert len({json.dumps(s.config.tree()) + str(s.ensemble) for s in read.sides.values()}) == len(read.sides)


@pytest.mark.parametrize(("name", "dataset"), [("amazon", "amazon-industrial"), ("movielens", "movielens-100k")])
def test_the_shipped_files_take_apart_the_warm_start_of_the_tables(name, dataset):
    """The base side is the table's policy on the table's data; the length of its training alone is another."""
    protocol = PROTOCOLS[dataset]
    read = read_ablation(ROOT / "train" / "recipes" / f"ablations-{name}.yaml", [f"data.source='{ROOT}'"])
    own = read.sides[read.base].config
    table = RunConfig.read(ROOT / "train" / "recipes" / f"{protocol.recipe}.yaml")
    assert own.data.dataset == protocol.importer
    assert (own.data.split, own.data.history_events) == (protocol.split, protocol.history_events)
    assert (own.identifiers, own.model) == (table.identifiers, table.model)
    assert dataclasses.replace(own.text, max_tokens=table.text.max_tokens) == table.text
    teacher = dataclasses.replace(own.sft.teacher, epochs=table.sft.teacher.epochs)
    assert dataclasses.replace(own.sft, teacher=teacher) == table.sft
    assert (read.settings.part, read.settings.limit, len(read.sides)) == ("valid", 2000, 11)


def seed_rows(seed, hits, *, own_users=False):
    """Four rows of two users; `hits[system][row]` tells whether the target stands first."""
    rows = [Example(State(f"u{n // 2}", time=n), n) for n in range(4)]
    lists = {name: np.array([[n, 9] if hit else [9, 8] for n, hit in enumerate(row)]) for name, row in hits.items()}
    fact = {"tokens_per_item": 3.0, "prompt_tokens": 40.0, "parameters": 1e6, "sft_seconds": 1.0, "members": 1}
    facts = {name: {**fact, "users_per_second": 2.0} for name in hits if name != "popularity"}
    seen = [np.empty(0, dtype=np.int64)] * 4
    return SeedRows(seed, Examples(rows, seen), lists, facts, 10, f"hash{seed}", own_users)


def test_figures_pool_rows_and_compare_seed_by_seed():
    settings = AblationSettings(sides={"a": SideSettings(), "b": SideSettings()}, seeds=(0, 1), k=(1, 2))
    found = [
        seed_rows(0, {"popularity": [0, 0, 0, 0], "a": [1, 0, 0, 0], "b": [1, 1, 0, 0]}),
        seed_rows(1, {"popularity": [0, 0, 0, 0], "a": [1, 1, 0, 0], "b": [1, 1, 1, 1]}),
    ]
    figures = ablation_figures(found, "a", settings, {"a": RunConfig(), "b": RunConfig()})
    cells = figures.table.cells
    assert cells["a"]["HR@1"].mean == pytest.approx(3 / 8)
    assert cells["b"]["NDCG@2"].mean == pytest.approx(6 / 8)
    assert cells["b"]["HR@1"].difference.mean == pytest.approx(3 / 8)
    # seed by seed 1/4 and 2/4: Student's t with one degree of freedom
    over = figures.over_seeds["b"]["HR@1"]
    assert over.mean == pytest.approx(0.375)
    assert over.high - over.mean == pytest.approx(12.7062 * 0.125, rel=1e-4)
    assert figures.by_seed[1]["b"]["HR@1"] == 1.0
    assert "popularity" not in figures.over_seeds
    # both users gain, so no bootstrap mean is 0 or less: p is its least value, and one side needs no correction
    assert set(figures.adjusted) == {"b"}
    assert figures.adjusted["b"]["HR@1"] == pytest.approx(2 / 1001)
    written = json.loads(json.dumps(figures.to_json()))
    assert written["data_hashes"] == {"0": "hash0", "1": "hash1"}
    assert differences_table(figures, "NDCG@2").row_count == 1
    assert facts_table(figures.facts).row_count == 2


def test_p_values_are_corrected_for_the_number_of_sides():
    """One side gains in every row: p is at its least, 2 / (samples + 1), and times the number of sides after Holm."""
    sides = {name: SideSettings() for name in "abc"}
    hits = {"a": [0, 0, 0, 0], "b": [1, 1, 1, 1], "c": [0, 0, 0, 0]}
    rows = [seed_rows(0, hits)]
    figures = ablation_figures(
        rows, "a", AblationSettings(sides=sides, k=(1,)), {name: RunConfig() for name in sides}
    )
    assert figures.adjusted["b"]["HR@1"] == pytest.approx(2 * 2 / 1001)
    assert figures.adjusted["c"]["HR@1"] == 1.0
    assert figures.to_json()["holm_adjusted_p"] == figures.adjusted
    assert [str(cell) for cell in differences_table(figures, "HR@1").columns[2].cells] == ["0.004", "1.000"]


def test_users_of_worlds_of_their_own_are_other_users():
    hits = {"a": [1, 0, 0, 0]}
    assert seed_rows(3, hits).users() == ["u0", "u0", "u1", "u1"]
    assert seed_rows(3, hits, own_users=True).users()[0] == "3/u0"


def test_stages_are_shared_and_kept_and_an_ensemble_of_one_is_the_side_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    sides = {
        "full": {},
        "same": {"ensemble": 1},
        "short": {"set": {"data": {"history_events": 2}}},
        "two": {"ensemble": 2},
    }
    path = written(tmp_path, sides=sides, limit=40)
    first = run_ablation(read_ablation(path), tmp_path / "out", json_file=tmp_path / "figures.json")
    systems = first["table"]["systems"]
    assert list(systems) == ["popularity", "covisitation", "interpolation", *sides]
    assert [cell["mean"] for cell in systems["same"].values()] == [cell["mean"] for cell in systems["full"].values()]
    difference = systems["same"]["NDCG@10"]["difference"]
    assert (difference["mean"], difference["low"], difference["high"]) == (0.0, 0.0, 0.0)
    trained = sorted(p.parent.name for p in (tmp_path / "out" / "stages").glob("*/sft"))
    assert len(trained) == 3  # full and same, short, the second member of two
    assert first["facts"]["two"]["members"] == 2
    assert read_json(tmp_path / "figures.json")["base"] == "full"

    monkeypatch.setattr("llmrec.studies.ablations.trained", None)  # nothing is trained again
    again = run_ablation(read_ablation(path), tmp_path / "out")
    assert again["table"] == first["table"]
    assert again["facts"] == first["facts"]


def script(tmp_path, *parts):
    command = [sys.executable, "eval/ablations.py", *map(str, parts), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    return " ".join(done.stderr.split())


def test_the_script_wants_a_file_or_quick(tmp_path):
    assert "--quick" in script(tmp_path)


@pytest.mark.slow
def test_the_script_refuses_a_bad_file_in_one_sentence(tmp_path):
    assert "did you mean 'base'" in script(tmp_path, written(tmp_path, bass="full"))
