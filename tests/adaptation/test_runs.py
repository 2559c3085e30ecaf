"""A run folder adapted to the sessions of a data set with other items; what is refused; both commands."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from llmrec import Recommender
from llmrec.adaptation.inner import InnerSettings
from llmrec.adaptation.runs import MetaConfig, adapt_run, meta_run, place_of, with_items
from llmrec.cli.main import app
from llmrec.config import LoraSettings, RunConfig
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError, RunError
from llmrec.export import Weights, read_bundle, write_bundle
from llmrec.files import new_folder
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.training.lora import load_adapter
from tests.adaptation.conftest import slates

INNER = InnerSettings(steps=4, batch_size=8, learning_rate=2e-2, lora=LoraSettings(rank=4, alpha=8))


def dataset_of(shop, items, users=8, clicks=True):
    """The slates of the tests as events; `items` name those of the shop in another order."""
    log = slates(4, users=users).log
    kinds, rows = ("impression", "click") if clicks else ("impression",), []
    for row, item, click in zip(log.state_row_M, log.item_M, log.click_M, strict=True):
        state = log.states[row]
        for kind in kinds:
            if kind == "impression" or click:
                rows.append((state.user_id, items[item % len(items)].item_id, state.time, kind))
    return Dataset.build(
        pl.DataFrame(
            [(i.item_id, i.title, i.description, list(i.categories)) for i in items],
            schema=["item_id", "title", "description", "categories"],
            orient="row",
        ),
        pl.DataFrame({"user_id": [f"u{n}" for n in range(users)], "profile": ["likes red"] * users}),
        pl.DataFrame(rows, schema=["user_id", "item_id", "time", "kind"], orient="row").unique(maintain_order=True),
        name="new shop",
        domain="shop",
        click="click",
        conversion="conversion",
        repeat="allow",
    )


@pytest.fixture(scope="module")
def made(shop, tmp_path_factory):
    """A run folder of the shop, and a data set whose items are half the shop's and half new."""
    home = tmp_path_factory.mktemp("adapt")
    own = dataset_of(shop, shop.items)
    policy = LanguagePolicy(shop.model(seed=5), shop.tokenizer, shop.catalogue, shop.renderer, "allow")
    parts = {"policy": policy, "dataset": own, "config": RunConfig.read(None, {}), "metrics": {}, "card": "# shop\n"}
    with new_folder(home / "run") as folder:
        write_bundle(folder, weights=Weights(policy.model), **parts)
    others = [replace(item, item_id=f"n{n}", title=f"new {item.title}") for n, item in enumerate(shop.items[:6])]
    mixed = dataset_of(shop, [*others[::-1], *shop.items[6:]])
    mixed.save(home / "new")
    dataset_of(shop, shop.items, clicks=False).save(home / "unchosen")
    return home, mixed


def test_places_of_other_items_are_told_by_their_ids(made):
    home, mixed = made
    bundle = with_items(read_bundle(home / "run"), mixed)
    assert {item.item_id for item in bundle.items} == set(mixed.item_index)
    place = place_of(bundle, mixed)
    shown = [bundle.items[n].item_id for n in place.sessions.log.item_M]
    events = mixed.events.filter(pl.col("kind") == "impression")
    assert sorted(shown) == sorted(events["item_id"].to_list())
    assert [place.catalogue.item_ids[n] for n in range(12)] == [item.item_id for item in bundle.items]
    told = {bundle.items[event.item].item_id for state in place.sessions.log.states for event in state.history}
    assert told
    assert told <= set(mixed.events.filter(pl.col("kind") == "click")["item_id"])


def test_a_run_is_adapted_whole_and_its_own_folder_stays(made, tmp_path):
    home, mixed = made
    before = {p.name: p.read_bytes() for p in (home / "run").iterdir() if p.is_file()}
    told = adapt_run(read_bundle(home / "run"), mixed, INNER, tmp_path / "out")
    assert told["users"] == 8
    assert told["choices"] > 10
    assert {p.name: p.read_bytes() for p in (home / "run").iterdir() if p.is_file()} == before
    new = read_bundle(tmp_path / "out")
    assert new.facts["adapted"] == told
    place = place_of(new, mixed)
    examples = place.sessions.choices(place.group_N, 0)
    states, items = [e.state for e in examples], torch.tensor([[e.target] for e in examples])
    old = with_items(read_bundle(home / "run"), mixed).policy
    with torch.no_grad():
        gain = new.policy.log_prob(states, items) - old.log_prob(states, items)
    assert float(gain.mean()) > 0.02
    assert len(Recommender.load(tmp_path / "out").recommend(prompt="likes red", k=3).items) == 3
    with pytest.raises(RunError, match="exists already"):
        adapt_run(read_bundle(home / "run"), mixed, INNER, tmp_path / "out")


@pytest.mark.slow
def test_commands_meta_train_and_adapt_from_what_they_made(made, tmp_path):
    home, _ = made
    sets = [
        "meta.steps=2",
        "meta.inner.steps=2",
        "meta.inner.batch_size=8",
        "meta.inner.lora.rank=4",
        "support=3",
        "query=3",
    ]
    given = ["meta-train", str(home / "run"), "--sessions", str(home / "new"), "--out", str(tmp_path / "theta")]
    found = CliRunner().invoke(app, [*given, *(word for one in sets for word in ("--set", one))])
    assert found.exit_code == 0, found.output
    assert load_adapter(tmp_path / "theta").config.r == 4
    given = ["adapt", str(home / "run"), "--sessions", str(home / "new"), "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(app, [*given, "--start", str(tmp_path / "theta"), "--steps", "2"])
    assert found.exit_code == 0, found.output
    assert "from a given adapter" in found.output
    assert read_bundle(tmp_path / "out").facts["adapted"]["steps"] == 2


def test_bad_input_is_one_sentence_before_anything_is_made(made, tmp_path):
    home, mixed = made
    out = tmp_path / "out"

    def told(*words):
        found = CliRunner().invoke(app, [*map(str, words), "--out", str(out)])
        assert found.exit_code != 0
        assert not out.exists()
        return str(found.exception)

    run, new = home / "run", home / "new"
    assert "holds no adapter" in told("adapt", run, "--sessions", new, "--start", tmp_path)
    assert "'inner.steps' is 0" in told("adapt", run, "--sessions", new, "--steps", "0")
    assert "learns" in told("adapt", run, "--sessions", new, "--learns", "guessing")
    assert "Nobody chose anything" in told("adapt", run, "--sessions", home / "unchosen")
    assert "not a run folder" in told("adapt", tmp_path, "--sessions", new)
    assert "'kind' is 'group'" in told("meta-train", run, "--sessions", new, "--set", "kind=group")
    with pytest.raises(DataError, match="has 8 users"):
        config = MetaConfig(support=8)
        meta_run(read_bundle(run), [mixed], config, out, tmp_path / "scratch")
