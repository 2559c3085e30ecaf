"""The audit: an honest file passes, each planted fault is found by its name, and figures are those counted by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.dataset.examples import examples
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError, LLMRecError, RequestError
from llmrec.studies.audit import audit, read_predictions

USERS, ITEMS = 120, 60


@pytest.fixture(scope="module")
def shop():
    """People who go from an item to one of the next few, on a circle of sixty; each moment has one event."""
    random = np.random.default_rng(0)
    rows, place = [], random.integers(ITEMS, size=USERS)
    for time in range(9):
        for user in random.permutation(USERS):
            place[user] = (place[user] + random.integers(1, 4)) % ITEMS
            rows.append((f"u{user}", f"i{place[user]}", "click", 1000 * time + int(user)))
    events = pl.DataFrame(rows, ["user_id", "item_id", "kind", "time"], orient="row")
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(ITEMS)], "title": [f"thing {n}" for n in range(ITEMS)]})
    dataset = Dataset.build(
        items, None, events, name="circle", domain="shop", click="click", conversion="conversion", repeat="exclude"
    )
    split = make_split(dataset, "time")
    return dataset, split, examples(dataset, split, "test", limit=None)


def honest(test, width=15, seed=0):
    """What comes next on the circle, or anything at all for a third of the rows; seen items left out."""
    random = np.random.default_rng(seed)
    lists = []
    for example, seen in zip(test, test.seen, strict=True):
        last = example.state.history[-1].item
        near = [(last + step) % ITEMS for step in random.permutation([1, 2, 3, 4, 5])]
        near = near if random.random() < 2 / 3 else []
        far = [int(i) for i in random.permutation(ITEMS) if i not in near]
        lists.append([i for i in (*near, *far) if i not in set(seen.tolist())][:width])
    return lists


def rows_of(test, lists, **more):
    return [
        {
            "user": example.state.user_id,
            "target": f"i{example.target}",
            "time": example.state.time,
            "items": [f"i{item}" for item in items],
            **{key: value(items, example) for key, value in more.items()},
        }
        for example, items in zip(test, lists, strict=True)
    ]


def write(path, rows, **about):
    lines = [json.dumps({"about": about})] * bool(about) + [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return read_predictions(path)


def kinds(found):
    return [one.kind for one in found.faults]


def ndcg(test, lists, k=10):
    places = [
        items[:k].index(e.target) if e.target in items[:k] else None for e, items in zip(test, lists, strict=True)
    ]
    return float(np.mean([0.0 if place is None else 1 / math.log2(place + 2) for place in places]))


def test_an_honest_file_passes(shop, tmp_path):
    dataset, split, test = shop
    lists = honest(test)
    value = ndcg(test, lists)
    said = write(
        tmp_path / "a.jsonl",
        rows_of(test, lists),
        name="mine",
        claims={"NDCG@10": round(value, 4)},
        chosen_on="valid",
    )
    trained = split.train.select("user_id", "item_id", "time")
    codes = {f"i{n}": f"c{n}" for n in range(ITEMS)}
    found = audit(said, dataset, split, trained_on=trained, identifiers=codes)
    assert found.faults == []
    assert found.ranking.cells["mine"]["NDCG@10"].mean == pytest.approx(value)
    assert found.difference.mean == pytest.approx(value - found.ranking.cells[found.best]["NDCG@10"].mean)
    assert "No fault was found" in found.verdict
    assert {"popularity", "covisitation"} <= set(found.ranking.systems)


PLANTED = {
    "missing rows": lambda rows, lists, test: rows[: len(rows) // 2],
    "repeated rows": lambda rows, lists, test: [*rows, *rows[:5]],
    "foreign rows": lambda rows, lists, test: [*rows, {**rows[0], "time": 1}],
    "unknown items": lambda rows, lists, test: [{**r, "items": ["nothing", *r["items"][1:]]} for r in rows],
    "duplicates": lambda rows, lists, test: [{**r, "items": [r["items"][0], *r["items"]]} for r in rows],
    "seen items": lambda rows, lists, test: [
        {**r, "items": [f"i{e.state.history[-1].item}", *r["items"][1:]]} for r, e in zip(rows, test, strict=True)
    ],
    "short lists": lambda rows, lists, test: [{**r, "items": r["items"][:4]} for r in rows],
    "sampled candidates": lambda rows, lists, test: [
        {**r, "items": list(dict.fromkeys([*r["items"][:9], r["target"]]))} for r in rows
    ],
    "ties": lambda rows, lists, test: [
        {
            **r,
            "items": [r["target"], *(i for i in r["items"] if i != r["target"])]
            if r["target"] in r["items"]
            else r["items"],
            "scores": [1.0] * len(r["items"]),
        }
        for r in rows
    ],
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_fault_is_found(shop, tmp_path, kind):
    dataset, split, test = shop
    lists = honest(test)
    rows = PLANTED[kind](rows_of(test, lists), lists, test)
    found = audit(write(tmp_path / "a.jsonl", rows), dataset, split)
    assert kind in kinds(found)
    assert "does not hold" in found.verdict


def test_said_candidates_are_taken_at_their_word(shop, tmp_path):
    dataset, split, test = shop
    rows = rows_of(test, honest(test), candidates=lambda items, example: 30)
    assert kinds(audit(write(tmp_path / "a.jsonl", rows), dataset, split)) == ["sampled candidates"]


def test_training_on_what_is_judged_is_a_leak(shop, tmp_path):
    dataset, split, test = shop
    said = write(tmp_path / "a.jsonl", rows_of(test, honest(test)))
    every = dataset.events.select("user_id", "item_id", "time")
    found = audit(said, dataset, split, trained_on=every)
    assert kinds(found) == ["leak"]
    assert "held-out events are training events" in found.faults[0].sentence


def test_settings_chosen_on_the_test(shop, tmp_path):
    dataset, split, test = shop
    said = write(tmp_path / "a.jsonl", rows_of(test, honest(test)), chosen_on="test")
    assert kinds(audit(said, dataset, split)) == ["tuned on test"]


def test_a_figure_that_is_not_that_of_the_lists(shop, tmp_path):
    dataset, split, test = shop
    said = write(tmp_path / "a.jsonl", rows_of(test, honest(test)), claims={"NDCG@10": 0.9, "Recall@7": 0.1})
    found = audit(said, dataset, split)
    assert kinds(found) == ["claims"]
    assert [one.severity for one in found.findings if one.kind == "claims"] == ["fault", "caution"]


def test_a_target_that_stands_for_all_items_of_its_identifier(shop, tmp_path):
    """Items share an identifier by fours; the planted file names the target wherever its identifier is hit."""
    dataset, split, test = shop
    codes = {f"i{n}": f"c{n // 4}" for n in range(ITEMS)}
    lists = honest(test)
    flattered = [
        [example.target if item // 4 == example.target // 4 else item for item in items]
        for example, items in zip(test, lists, strict=True)
    ]
    flattered = [list(dict.fromkeys(items)) for items in flattered]
    said = write(tmp_path / "a.jsonl", rows_of(test, flattered))
    assert "collisions" in kinds(audit(said, dataset, split, identifiers=codes))


def test_collisions_by_hand(shop, tmp_path):
    """One item of each identifier, chosen blindly: a caution with both figures, by identifier and by item."""
    dataset, split, test = shop
    random = np.random.default_rng(1)
    codes = {f"i{n}": f"c{n // 2}" for n in range(ITEMS)}
    lists = []
    for items in honest(test, width=ITEMS):
        groups = list(dict.fromkeys(item // 2 for item in items))[:12]
        lists.append([int(2 * group + random.integers(2)) for group in groups])
    said = write(tmp_path / "a.jsonl", rows_of(test, lists))
    found = [one for one in audit(said, dataset, split, identifiers=codes).findings if one.kind == "collisions"]
    by_code, by_item = [], []
    for example, items in zip(test, lists, strict=True):
        place = (
            [item // 2 for item in items].index(example.target // 2)
            if example.target // 2 in {i // 2 for i in items}
            else 99
        )
        by_code.append(1 / math.log2(place + 2) if place < 10 else 0.0)
        by_item.append(sum(1 / math.log2(p + 2) for p in (2 * place, 2 * place + 1) if p < 10) / 2)
    assert found[0].severity == "caution"
    assert f"{np.mean(by_code):.4f} by identifiers and {np.mean(by_item):.4f} by items" in found[0].sentence


def test_a_system_that_was_told(shop, tmp_path):
    dataset, split, test = shop
    random = np.random.default_rng(0)
    lists = [
        [e.target, *(i for i in items if i != e.target)]
        if random.random() < 0.9
        else [i for i in items if i != e.target]
        for e, items in zip(test, honest(test), strict=True)
    ]
    found = audit(write(tmp_path / "a.jsonl", rows_of(test, lists)), dataset, split)
    assert "too good" in [one.kind for one in found.findings]


def test_settings_that_were_tried_widen_the_interval(shop, tmp_path):
    dataset, split, test = shop
    files = [write(tmp_path / f"{seed}.jsonl", rows_of(test, honest(test, seed=seed))) for seed in range(6)]
    alone = audit(files[0], dataset, split)
    together = audit(files[0], dataset, split, tried=files[1:])
    assert together.tried == 6
    assert together.difference.mean == pytest.approx(alone.difference.mean)
    width = [one.difference.high - one.difference.low for one in (alone, together)]
    assert width[1] > 1.05 * width[0]
    assert "max-T" in " ".join(together.answer().sentences)


def test_flat_groups_are_said(shop, tmp_path):
    dataset, split, test = shop
    said = write(tmp_path / "a.jsonl", rows_of(test, honest(test)))
    found = audit(said, dataset, split, flat=np.array([0.6, 0.8]))
    assert next(one.sentence for one in found.findings if one.kind == "flat groups").startswith("On average 70%")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no list"),
        ("[1]", "line 1 is no JSON object"),
        ('{"user": "u", "target": "i"}', "line 1 lacks items"),
        ('{"user": "u", "target": "i", "items": "i"}', "must be a list"),
        ('{"user": "u", "target": "i", "items": [null]}', "ids are texts"),
        ('{"user": "u", "target": "i", "items": ["i"], "scores": [1, 2]}', "1 finite numbers"),
        ('{"user": "u", "target": "i", "items": ["i"], "scores": [NaN]}', "finite"),
        ('{"user": "u", "target": "i", "items": ["i"], "time": 1.5}', "whole seconds"),
        ('{"user": "u", "target": "i", "items": ["i"], "candidates": 0}', "how many items"),
        ('{"about": {"chosen_on": "luck"}}\n{"user": "u", "target": "i", "items": ["i"]}', "write one of"),
        ('{"about": {"claims": 3}}\n{"user": "u", "target": "i", "items": ["i"]}', "figures by metric"),
        ('{"about": {"x": 3}}\n{"user": "u", "target": "i", "items": ["i"]}', "it may hold"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, text, said):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match=said):
        read_predictions(tmp_path / "a.jsonl")


def test_lists_of_other_rows_and_cut_offs_that_cannot_be(shop, tmp_path):
    dataset, split, _ = shop
    said = write(tmp_path / "a.jsonl", [{"user": "nobody", "target": "i1", "items": ["i1"]}])
    with pytest.raises(DataError, match="None of the 1 lists"):
        audit(said, dataset, split)
    with pytest.raises(RequestError, match="-k is 61"):
        audit(said, dataset, split, k=61)


def test_the_command(shop, tmp_path):
    dataset, _, test = shop
    dataset.save(tmp_path / "data")
    write(tmp_path / "a.jsonl", rows_of(test, honest(test)), name="<b>mine</b> | x")
    line = ["audit", str(tmp_path / "a.jsonl"), "--data", str(tmp_path / "data")]
    done = CliRunner().invoke(app, [*line, "--page", str(tmp_path / "page.md"), "--json", str(tmp_path / "a.json")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "page.md").read_text()
    assert "<b>" not in page
    assert "No fault was found" in page
    assert json.loads((tmp_path / "a.json").read_text())["findings"] == []
    dataset.events.select("user_id", "item_id", "time").write_csv(tmp_path / "all.csv")
    assert CliRunner().invoke(app, [*line, "--trained-on", str(tmp_path / "all.csv")]).exit_code == 1
    (tmp_path / "codes.csv").write_text("item_id,code\ni1,a\n")
    wrong = CliRunner().invoke(app, [*line, "--identifiers", str(tmp_path / "codes.csv")])
    assert isinstance(wrong.exception, LLMRecError)
    assert "lacks identifier" in str(wrong.exception)
