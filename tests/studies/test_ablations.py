"""Ablations: what a file may say, stages that sides share, and figures against hand-made lists."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from llmrec.config import RunConfig
from llmrec.dataset.examples import Examples
from llmrec.errors import ConfigError
from llmrec.files import read_json
from llmrec.studies.ablations import Ablation, ablation_answer, read_ablation, run_ablation, seed_rows
from llmrec.studies.study import Pooled
from llmrec.studies.table.protocol import PROTOCOLS
from llmrec.studies.warm_starts import MEMBER, AblationSettings, Facts, Shared, Side, SideSettings
from llmrec.types import Example, State
from tests import forked

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


def test_keys_of_a_file_are_taken_as_they_are(tmp_path):
    odd = tmp_path / "a: 'b' #c\n三"
    odd.mkdir()
    own = {"sft": {"learning_rate": 1e-05, "mixture": {"next_item": 1}}}
    sides = {"a": {"set": {**own, "data": {"dataset": "folder", "source": str(odd)}}}}
    config = read_ablation(written(tmp_path, sides=sides)).sides["a"].config
    assert (config.sft.learning_rate, config.sft.mixture["next_item"]) == (1e-05, 1.0)
    assert config.data.source == str(odd)


def test_a_side_is_the_recipe_the_common_keys_the_command_line_and_its_own(tmp_path):
    sides = {"full": {}, "short": {"set": {"data": {"history_events": 3}, "sft": {"mixture": {"next_item": 0.5}}}}}
    path = written(tmp_path, recipe="study-world", sides=sides, seeds=[4, 5])
    read = read_ablation(path, {"sft.examples": 32, "data.history_events": 9})
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
        overrides = {"data.source": str(source if source.exists() else ROOT)}
        read = read_ablation(ROOT / "train" / "recipes" / f"ablations-{name}.yaml", overrides)
        assert len({json.dumps(s.config.tree()) + str(s.ensemble) for s in read.sides.values()}) == len(read.sides)


@pytest.mark.parametrize(("name", "dataset"), [("amazon", "amazon-industrial"), ("movielens", "movielens-100k")])
def test_the_shipped_files_take_apart_the_warm_start_of_the_tables(name, dataset):
    """The base side is the table's policy on the table's data; the length of its training alone is another."""
    protocol = PROTOCOLS[dataset]
    read = read_ablation(ROOT / "train" / "recipes" / f"ablations-{name}.yaml", {"data.source": str(ROOT)})
    own = read.sides[read.base].config
    table = RunConfig.read(ROOT / "train" / "recipes" / f"{protocol.recipe}.yaml")
    assert own.data.dataset == protocol.importer
    assert (own.data.split, own.data.history_events) == (protocol.split, protocol.history_events)
    assert (own.identifiers, own.model) == (table.identifiers, table.model)
    assert dataclasses.replace(own.text, max_tokens=table.text.max_tokens) == table.text
    teacher = dataclasses.replace(own.sft.teacher, epochs=table.sft.teacher.epochs)
    assert dataclasses.replace(own.sft, teacher=teacher) == table.sft
    assert (read.settings.part, read.settings.limit, len(read.sides)) == ("valid", 2000, 11)


def rows_of(settings, seed, hits, *, own_users=False):
    """Four rows of two users; `hits[system][row]` tells whether the target stands first."""
    rows = [Example(State(f"u{n // 2}", time=n), n) for n in range(4)]
    lists = {name: np.array([[n, 9] if hit else [9, 8] for n, hit in enumerate(row)]) for name, row in hits.items()}
    fact = Facts("title", 3.0, 0, 1_000_000, None, 0, (), 40.0, 1.0, 2.0)
    facts = {name: dataclasses.asdict(fact) for name in hits if name != "popularity"}
    dataset = SimpleNamespace(n_items=10, manifest=SimpleNamespace(content_hash=f"hash{seed}"))
    seen = [np.empty(0, dtype=np.int64)] * 4
    shared = Shared(settings, seed, SimpleNamespace(dataset=dataset), Examples(rows, seen), Path())
    return seed_rows(shared, lists, facts, own_users=own_users)


def answered(settings, *found):
    sides = {name: Side(RunConfig()) for name in settings.sides}
    return ablation_answer(Ablation(settings, sides, "a"), Pooled(found))


def test_figures_pool_rows_and_compare_seed_by_seed():
    settings = AblationSettings(sides={"a": SideSettings(), "b": SideSettings()}, seeds=(0, 1), k=(1, 2))
    answer = answered(
        settings,
        rows_of(settings, 0, {"popularity": [0, 0, 0, 0], "a": [1, 0, 0, 0], "b": [1, 1, 0, 0]}),
        rows_of(settings, 1, {"popularity": [0, 0, 0, 0], "a": [1, 1, 0, 0], "b": [1, 1, 1, 1]}),
    )
    costs, table, differences = answer.tables
    assert table.cells["a"]["HR@1"].mean == pytest.approx(3 / 8)
    assert table.cells["b"]["NDCG@2"].mean == pytest.approx(6 / 8)
    assert table.cells["b"]["HR@1"].difference.mean == pytest.approx(3 / 8)
    # seed by seed 1/4 and 2/4: Student's t with one degree of freedom
    written = json.loads(json.dumps(answer.figures))
    over = written["over_seeds"]["b"]["HR@1"]
    assert over["mean"] == pytest.approx(0.375)
    assert over["high"] - over["mean"] == pytest.approx(12.7062 * 0.125, rel=1e-4)
    assert written["by_seed"]["1"]["b"]["HR@1"] == 1.0
    assert "popularity" not in written["over_seeds"]
    # both users gain, so no bootstrap mean is 0 or less: p is its least value, and one side needs no correction
    assert set(written["holm_adjusted_p"]) == {"b"}
    assert written["holm_adjusted_p"]["b"]["HR@1"] == pytest.approx(2 / 1001)
    assert (len(differences.rows), len(costs.rows)) == (1, 2)


def test_p_values_are_corrected_for_the_number_of_sides():
    """One side gains in every row: p is at its least, 2 / (samples + 1), and times the number of sides after Holm."""
    settings = AblationSettings(sides={name: SideSettings() for name in "abc"}, k=(1,))
    hits = {"a": [0, 0, 0, 0], "b": [1, 1, 1, 1], "c": [0, 0, 0, 0]}
    answer = answered(settings, rows_of(settings, 0, hits))
    adjusted = answer.figures["holm_adjusted_p"]
    assert adjusted["b"]["HR@1"] == pytest.approx(2 * 2 / 1001)
    assert adjusted["c"]["HR@1"] == 1.0
    assert [row[2] for row in answer.tables[2].rows] == ["0.004", "1.000"]
    assert answer.figures["over_seeds"] is None


def test_users_of_worlds_of_their_own_are_other_users():
    settings = AblationSettings(k=(1,))
    hits = {"a": [1, 0, 0, 0]}
    assert rows_of(settings, 3, hits).users["HR@1"] == ["u0", "u0", "u1", "u1"]
    assert rows_of(settings, 3, hits, own_users=True).users["HR@1"][0] == "3/u0"


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

    monkeypatch.setattr("llmrec.studies.warm_starts.sft_stage", None)  # nothing is trained again
    again = run_ablation(read_ablation(path), tmp_path / "out")
    assert again["table"] == first["table"]
    assert again["facts"] == first["facts"]


def script(tmp_path, *parts):
    command = [sys.executable, "eval/ablations.py", *map(str, parts), "--out", str(tmp_path / "out")]
    done = forked.run(command, cwd=ROOT, env=forked.environment())
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    return " ".join(done.stderr.split())


def test_the_script_wants_a_file_or_quick(tmp_path):
    assert "--quick" in script(tmp_path)


@pytest.mark.slow
def test_the_script_refuses_a_bad_file_in_one_sentence(tmp_path):
    assert "did you mean 'base'" in script(tmp_path, written(tmp_path, bass="full"))
