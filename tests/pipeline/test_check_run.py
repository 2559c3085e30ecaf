"""What decides whether a run can end is refused before anything is trained; small catalogues end well."""

import random

import polars as pl
import pytest

from llmrec.config import RunConfig
from llmrec.dataset.impressions import impressions
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, LLMRecError
from llmrec.pipeline.run import check_config, run_job
from llmrec.simulator.log import of_users, two_parts
from llmrec.storage import work_folder
from tests.pipeline.test_identifiers import TINY

NAMES = [
    "Kettle",
    "Teapot",
    "Mug",
    "Bowl",
    "Plate",
    "Spoon",
    "Fork",
    "Knife",
    "Lamp",
    "Chair",
    "Table",
    "Sofa",
    "Rug",
    "Shelf",
    "Mirror",
    "Clock",
    "Vase",
]
SETTINGS = {key: value for key, value in TINY.items() if not key.startswith(("world.", "identifiers.", "text."))}


def shop(items, users=24, each=6, *, repeat="allow", times=10**7, conversions=True):
    """Users who click at random, and convert some of it."""
    rng = random.Random(0)
    rows = []
    for user in range(users):
        for _ in range(each):
            click = (f"u{user}", f"i{rng.randrange(items)}", 1_600_000_000 + rng.randrange(times))
            rows.append((*click, "click"))
            rows += [(*click, "conversion")] if conversions and rng.random() < 0.3 else []
    events = pl.DataFrame(rows, schema=["user_id", "item_id", "time", "kind"], orient="row").sort("time")
    return Dataset.build(
        pl.DataFrame(
            {"item_id": [f"i{n}" for n in range(items)], "title": [f"{NAMES[n % 17]} {n}" for n in range(items)]}
        ),
        pl.DataFrame({"user_id": [f"u{user}" for user in range(users)]}),
        events,
        name="shop",
        domain="shop",
        click="click",
        conversion="conversion",
        repeat=repeat,
    )


def settings_of(folder, **changes):
    tree = {**SETTINGS, "data.dataset": "folder", "data.source": folder, **changes}
    return RunConfig.read(None, tree)


def refusal(dataset, place, **changes):
    """The sentence of a run that is refused before any stage is made."""
    dataset.save(place / "data")
    with pytest.raises(LLMRecError) as refused:
        run_job(settings_of(place / "data", **changes), place / "run")
    assert not [*work_folder(place / "run").glob("*/stage.json")], "a stage was made before"
    assert not (place / "run").exists()
    return str(refused.value)


@pytest.mark.parametrize(
    ("dataset", "changes", "words"),
    [
        (shop(1), {}, ["one item", "add items"]),
        (shop(20, times=2), {}, ["valid part", "2 distinct times", "leave-last-out"]),
        (shop(20, times=1), {}, ["same time", "leave-last-out"]),
        (shop(20, each=1), {"data.split": "leave-last-out"}, ["valid part", "more events"]),
        (shop(20, users=1, each=60), {}, ["different users", "have 1 between them"]),
        # one is met at the gate, one on the test period: nobody is left to fit on
        (shop(20, users=2, each=30), {}, ["Users", "fewer than two"]),
        (shop(20, users=3, each=2), {}, ["Users", "fewer than two"]),
        (shop(2, each=30, repeat="exclude"), {}, ["valid part", "repeats"]),
        (shop(20), {"data.valid_fraction": 0.0}, ["valid part", "data.valid_fraction"]),
        (shop(20, conversions=False), {"sft.target": "conversion"}, ["no conversion"]),
        (shop(20), {"reward.terms": {"revenue": 1.0}}, ["price"]),
        (shop(20), {"reward.terms": {"watch_time": 1.0}}, ["values"]),
        (shop(20), {"simulator.correction": "ips"}, ["propensity", "simulator.correction"]),
        (shop(20), {"simulator.correction": "position"}, ["position"]),
        (shop(20, conversions=False), {"algorithm": "dpo", "dpo.target": "conversion"}, ["preference"]),
        (
            shop(20, conversions=False),
            {"algorithm": "rlhf", "rlhf.reward_model.target": "conversion"},
            ["preference"],
        ),
        (shop(20), {"algorithm": "off_policy", "off_policy.propensities": "logged"}, ["propensity"]),
        (shop(20), {"sft.weighting.kind": "propensity"}, ["logs no impressions", "none or value"]),
        (shop(5), {"session.slate": 6, "ppo.draws": 1}, ["session.slate", "5 items"]),
        (
            shop(8, each=12, repeat="exclude"),
            {"session.slate": 4, "session.turns": 2, "ppo.draws": 1},
            ["no user to meet", "session.turns"],
        ),
    ],
    ids=lambda value: None if isinstance(value, Dataset) else "-".join(value)[:40],
)
def test_data_that_a_run_cannot_be_finished_on(tmp_path, dataset, changes, words):
    said = refusal(dataset, tmp_path, **changes)
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("simulator.members", 0),
        ("simulator.judge_architecture", "factorised"),
        ("simulator.reward_architecture", "perceptron"),
        ("simulator.judge_user_share", 1.0),
        ("simulator.objective", "escm2-dr"),
        ("evaluation.k", []),
        ("evaluation.k", [0, 5]),
        ("evaluation.beams", 0),
        ("evaluation.bootstrap", 0),
        ("gate.users", 0),
        ("gate.slate", 0),
        ("report_to", ["nowhere"]),
        ("reward.custom", ["no_such_module_here:fn"]),
        ("reward.terms", {"joy": 1.0}),
        ("sft.mixture", {"singing": 1.0}),
        ("sft.save_every", 0),
        ("sft.lora.rank", 0),
        ("ppo.lora.rank", 0),
        ("model.nano_layers", 0),
        ("model.nano_vocabulary", 100),
        ("data.history_events", 0),
        ("data.dataset", "netflix"),
        ("data.test_fraction", 1.5),
        ("data.valid_fraction", 0.9),
    ],
)
def test_settings_that_would_fail_later(tmp_path, key, value):
    with pytest.raises(ConfigError) as refused:
        check_config(settings_of(tmp_path, **{key: value}))
    assert key.split(".")[-1].split("_")[0] in str(refused.value)


def test_sentence_transformers_are_missed_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    named = {"identifiers.embedding": "sentence-transformers", "identifiers.source": "some/model"}
    with pytest.raises(ConfigError, match=r"sentence-transformers.*not installed"):
        check_config(settings_of(tmp_path, **{"identifiers.scheme": "semantic", **named}))


@pytest.mark.parametrize(
    ("items", "repeat"),
    [
        (3, "exclude"),
        pytest.param(2, "allow", marks=pytest.mark.slow),
        pytest.param(5, "exclude", marks=pytest.mark.slow),
        pytest.param(9, "allow", marks=pytest.mark.slow),
        pytest.param(15, "exclude", marks=pytest.mark.slow),
        pytest.param(19, "allow", marks=pytest.mark.slow),
        pytest.param(25, "allow", marks=pytest.mark.slow),
    ],
)
def test_a_small_catalogue_is_finished(tmp_path, monkeypatch, capfd, items, repeat):
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "llmrec.pipeline.finish.write_report", lambda *_, **__: None
    )  # its plots are tested elsewhere
    shop(items, repeat=repeat).save(tmp_path / "data")
    finished = run_job(settings_of(tmp_path / "data"), tmp_path / "run")
    assert (tmp_path / "run" / "llmrec.json").is_file()
    top = min(10, items)
    assert {f"NDCG@{top}", f"HR@{top}"} <= set(finished.measured.ranking["SFT"])
    said = f"The catalogue has {items} items: lists are of {items}"
    assert (said in capfd.readouterr().err) == (items < 10)


def test_a_side_without_validation_impressions_holds_out_its_own_latest_ones():
    dataset = shop(12, users=8, each=10)
    split = make_split(dataset, "time")
    train = impressions(dataset, split, "train")
    empty = of_users(impressions(dataset, split, "valid"), {"nobody"})
    fitted, held_out, _ = two_parts(train, empty, dataset.n_items)
    assert len(fitted) + len(held_out) == len(train)
    assert 0 < len(held_out) < len(fitted)


def test_every_impression_clicked_is_refused_at_once(tmp_path):
    assert "simulator.negatives" in refusal(shop(12), tmp_path, **{"simulator.negatives": 0})
