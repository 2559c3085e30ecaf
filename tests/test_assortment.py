"""Items that come and go in a finished run: what changes, what must not, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec import Recommender
from llmrec.assortment import change_items, items_frame, save_changed
from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.filters import Filters
from llmrec.catalogue.identifiers import build_catalogue, make_identifiers
from llmrec.catalogue.identifiers.quantise import Quantised
from llmrec.catalogue.identifiers.scheme import RESERVE, semantic
from llmrec.config import ModelConfig, RunConfig
from llmrec.dataset.importers.table import read_items
from llmrec.dataset.store import Dataset
from llmrec.errors import CatalogueError, DataError, RequestError, RunError
from llmrec.export import Weights, items_from_frame, read_bundle, write_bundle
from llmrec.files import new_folder
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.nano import make_nano, train_tokenizer
from llmrec.policy.new_tokens import add_words, grow_embeddings
from llmrec.text.render import StateRenderer
from llmrec.types import Interaction, Item, State

KINDS = ("kettle", "lamp", "rug")
TITLES = [f"{kind} {look}" for kind in KINDS for look in ("red", "blue", "green", "old", "new")]
NEW = [
    Item("n0", "kettle tiny", "boils", ("kitchen",), "Acme", 9.5),
    Item("n1", "kettle red"),
    Item("n2", "lamp tiny"),
]
STATES = [State(), State("u", "likes rugs", (Interaction(5, "click", 1),))]
SCHEMES = ("title", "semantic", "model", "atomic")


@pytest.fixture(scope="module")
def dataset():
    ids = [f"i{n}" for n in range(len(TITLES))]
    events = [("ann", "i0", 10), ("ann", "i5", 20), ("ann", "i7", 30), ("bob", "i0", 5)]
    return Dataset.build(
        pl.DataFrame({"item_id": ids, "title": TITLES}),
        pl.DataFrame({"user_id": ["ann", "bob"]}),
        pl.DataFrame(events, schema=["user_id", "item_id", "time"], orient="row").with_columns(kind=pl.lit("click")),
        name="home",
        domain="shop",
        click="click",
        conversion="conversion",
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory, dataset):
    """A run folder for each way of writing items; "model" is semantic by the model's own hidden states."""
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("runs")
    for scheme in SCHEMES:
        write_run(home / scheme, dataset, scheme)
    return home


def write_run(place, dataset, scheme):
    own = "semantic" if scheme == "model" else scheme
    named = {"scheme": own, "levels": 2, "codes": 3, "dimensions": 4, "collaborative": 0.0}
    named["embedding"] = "model" if scheme == "model" else "text"
    config = RunConfig.read(None, {f"identifiers.{key}": value for key, value in named.items()})
    tokenizer = train_tokenizer([*TITLES * 3, "Profile: History: (clicked) Next product:"], 330)
    model = make_nano(tokenizer, ModelConfig(nano_hidden=32, nano_layers=1), seed=0).eval()
    ids, items, identifiers = dataset.items["item_id"].to_list(), dataset.item_list, None
    if own != "title":
        identifiers = make_identifiers(dataclasses.replace(config.identifiers, embedding="text"), items, seed=0)
        grow_embeddings(model, tokenizer, add_words(tokenizer, identifiers.words), seed=0)
    texts = None if identifiers is None else identifiers.texts()
    renderer = StateRenderer(items, tokenizer, domain="shop", language="en", max_tokens=96, identifiers=texts)
    if identifiers is None:
        prefix = renderer.answer_prefix
        catalogue = Catalogue.from_titles(ids, renderer.titles, tokenizer, answer_prefix=prefix)
    else:
        catalogue = build_catalogue(identifiers, ids, renderer.titles, tokenizer)
    policy = LanguagePolicy(model, tokenizer, catalogue, renderer)
    parts = {"policy": policy, "dataset": dataset, "config": config, "identifiers": identifiers}
    with new_folder(place) as folder:
        write_bundle(folder, weights=Weights(model), metrics={"ndcg": 0.5}, card="# home\n", **parts)


def log_probs(policy):
    with torch.no_grad():
        return policy.log_prob(STATES, torch.arange(len(policy.catalogue)).expand(len(STATES), -1)).double()


def rows(catalogue):
    return {item_id: tuple(catalogue.token_ids(n)) for n, item_id in enumerate(catalogue.item_ids)}


def choices(catalogue):
    """For each prefix the tokens that continue it, by enumeration."""
    found: dict[tuple[int, ...], set[int]] = {}
    for row in rows(catalogue).values():
        for depth, token in enumerate(row):
            found.setdefault(row[:depth], set()).add(token)
    return found


@pytest.mark.parametrize("scheme", ["title", "semantic", "model"])
def test_kept_items_keep_their_tokens_and_untouched_branches_their_probabilities(runs, scheme):
    old = read_bundle(runs / scheme)
    weights = {name: value.clone() for name, value in old.policy.model.state_dict().items()}
    new = change_items(old, add=NEW, remove=["i0", "i1"])
    assert list(new.policy.catalogue.item_ids) == [*(f"i{n}" for n in range(2, 15)), "n0", "n1", "n2"]
    assert [item.item_id for item in new.items] == list(new.policy.catalogue.item_ids)
    assert new.policy.model is old.policy.model
    assert all(torch.equal(value, weights[name]) for name, value in new.policy.model.state_dict().items())
    before, after = rows(old.policy.catalogue), rows(new.policy.catalogue)
    kept = [item_id for item_id in before if item_id in after]
    assert all(after[item_id] == before[item_id] for item_id in kept)
    assert len(set(after.values())) == len(after)
    torch.testing.assert_close(log_probs(new.policy).exp().sum(1), torch.ones(2).double(), atol=1e-5, rtol=0)

    was, now = choices(old.policy.catalogue), choices(new.policy.catalogue)
    same = [i for i in kept if all(was[after[i][:d]] == now[after[i][:d]] for d in range(len(after[i])))]
    assert 3 <= len(same) < len(kept)
    there, here = log_probs(old.policy), log_probs(new.policy)
    places = [list(bundle.policy.catalogue.item_ids) for bundle in (old, new)]
    for item_id in same:
        moved = here[:, places[1].index(item_id)] - there[:, places[0].index(item_id)]
        assert abs(float(moved[0])) < 1e-5, item_id
    assert len(old.items) == len(old.policy.catalogue) == 15, "the bundle that was changed stays as it is"


def test_titles_of_old_items_are_free_for_new_ones_and_equal_ones_are_told_apart(runs):
    old = read_bundle(runs / "title")
    assert change_items(old, add=[Item("n", "kettle red")]).policy.catalogue.titles[15] == "kettle red (2)"
    replaced = change_items(old, add=[Item("i0", "kettle red", "another")], remove=["i0", "i0"])
    assert rows(replaced.policy.catalogue) == rows(old.policy.catalogue)
    assert replaced.items[-1] == Item("i0", "kettle red", "another")
    assert change_items(old) is old


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_changed_run_is_a_run_folder_that_knows_the_new_items_and_not_the_old(runs, tmp_path, scheme):
    add = () if scheme == "atomic" else NEW
    first = change_items(read_bundle(runs / scheme), add=add, remove=["i3"])
    second = change_items(first, remove=["i4", "i5"])
    save_changed(second, tmp_path / "new")
    bundle = read_bundle(tmp_path / "new")
    assert bundle.items == second.items
    counts = {key: bundle.facts["assortment"][key] for key in ("added", "removed")}
    assert counts == {"added": len(add), "removed": 3}
    torch.testing.assert_close(log_probs(bundle.policy), log_probs(second.policy))
    slate = Recommender(bundle).recommend(state=State(), k=len(bundle.items), exact=True)
    assert {item.item_id for item in slate.items} == {i.item_id for i in bundle.items}
    assert not {"i3", "i4", "i5"} & {item.item_id for item in slate.items}
    kept = {Path("files.json"), *(p.relative_to(runs / scheme) for p in (runs / scheme).rglob("*") if p.is_file())}
    assert {p.relative_to(tmp_path / "new") for p in (tmp_path / "new").rglob("*") if p.is_file()} == kept
    for name in ("model.safetensors", "tokenizer.json", "config.yaml", "metrics.json", "README.md"):
        assert (tmp_path / "new" / name).read_bytes() == (runs / scheme / name).read_bytes()
    third = change_items(bundle, add=[Item("i3", "rug tiny")]) if add else change_items(bundle, remove=["i6"])
    assert third.facts["assortment"]["first_items"] == first.facts["assortment"]["first_items"]


def test_where_it_may_not_be_written(runs, tmp_path):
    changed = change_items(read_bundle(runs / "title"), remove=["i3"])
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("x")
    for out, words in (
        (tmp_path / "there", "exists already"),
        (runs / "title" / "deep" / "new", "within the run folder"),
        (tmp_path / "file" / "new", "file.*a part of the path is a file"),
    ):
        with pytest.raises(RunError, match=words):
            save_changed(changed, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "there"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"add": [Item("i3", "x")]}, "'i3' is in the catalogue already"),
        ({"add": [Item("n", "x"), Item("n", "y")]}, "'n' is to be added twice"),
        ({"add": [Item("n", " \t")]}, "'n' has no title"),
        ({"add": [Item("", "x")]}, "'x' has an empty id"),
        ({"remove": ["i3", "zzz"]}, "'zzz' cannot be removed"),
        ({"remove": [f"i{n}" for n in range(15)], "add": [Item("n", "x")]}, "All items would be removed"),
    ],
)
def test_changes_that_cannot_be_made_are_one_sentence(runs, change, words):
    with pytest.raises(CatalogueError, match=words) as caught:
        change_items(read_bundle(runs / "title"), **change)
    assert "\n" not in str(caught.value)


def test_additions_that_need_what_is_not_there(runs, tmp_path):
    with pytest.raises(CatalogueError, match=r"'n0' cannot be added: .* atomic"):
        change_items(read_bundle(runs / "atomic"), add=NEW)
    vectors = tmp_path / "vectors.parquet"
    pl.DataFrame({"item_id": [f"i{n}" for n in range(15)], "embedding": np.eye(15).tolist()}).write_parquet(vectors)
    settings_file = runs / "semantic" / "config.yaml"
    text = settings_file.read_text()
    try:
        settings_file.write_text(
            text.replace("embedding: text", "embedding: column").replace(
                "source: null\n  dimensions", f"source: {vectors}\n  dimensions"
            )
        )
        with pytest.raises(DataError, match=r"vectors\.parquet has no row for item 'n0'"):
            change_items(read_bundle(runs / "semantic"), add=NEW[:1])
        likest_i7 = [*np.eye(15).tolist(), np.eye(15)[7].tolist()]
        pl.DataFrame({"item_id": [*(f"i{n}" for n in range(15)), "n0"], "embedding": likest_i7}).write_parquet(
            vectors
        )
        assert len(change_items(read_bundle(runs / "semantic"), add=NEW[:1]).items) == 16
    finally:
        settings_file.write_text(text)


def test_users_of_the_run_s_data_are_known_after_a_change(runs, dataset, tmp_path):
    now = Recommender(read_bundle(runs / "title"), dataset)
    now.set_stock(["i0", "i2", "i7"])
    now.change_items(add=NEW, remove=["i0"])
    save_changed(now.bundle, tmp_path / "new")
    later = Recommender(read_bundle(tmp_path / "new"), dataset)
    # i5 and i7 stand one place further up; i0 is gone
    state = State("ann", "", (Interaction(4, "click", 20), Interaction(6, "click", 30)))
    for recommender in (now, later):
        assert recommender.bundle.items[4].item_id == "i5"
        found = recommender.recommend(user="ann", k=5, exact=True)
        assert found == recommender.recommend(state=state, k=5, exact=True)
        assert "cold start" in recommender.recommend(user="bob", k=1).note
        recommender.fuse(0.0)
        assert len(recommender.recommend(user="ann", k=5).items) == 5
    stocked = now.recommend(user="ann", filters=Filters(in_stock=True), exact=True)  # of the mixture too
    assert {item.item_id for item in stocked.items} <= {"i2", "i7"}
    now.change_items(remove=["i1"])
    left = now.recommend(user="bob", k=2, filters=Filters(in_stock=True))
    assert {item.item_id for item in left.items} == {"i2", "i7"}, "what stays keeps its stock"
    kitchen = now.recommend(user="bob", k=1, filters=Filters(categories=("kitchen",)))
    assert [item.item_id for item in kitchen.items] == ["n0"]


def test_the_second_score_of_a_mixture_is_of_the_items_of_now(runs, dataset):
    """Everything by co-visitation: what it ranks must be the same items as on a data set of those items alone."""
    changed = Recommender(read_bundle(runs / "title"), dataset)
    changed.change_items(add=NEW[:1], remove=["i0"])
    items = items_frame(changed.bundle.items)
    events = dataset.events.filter(pl.col("item_id") != "i0")
    about = {"name": "home", "domain": "shop", "click": "click", "conversion": "conversion"}
    plain = Recommender(changed.bundle, Dataset.build(items, dataset.users, events, **about))
    for recommender in (changed, plain):
        recommender.fuse(0.0)
    assert changed.recommend(user="ann", k=6) == plain.recommend(user="ann", k=6)


def test_a_foreign_data_set_is_refused_as_ever(runs, dataset):
    words = "The data set's items are not those of the model's catalogue; give the data set of the run."
    foreign = Dataset.build(
        dataset.items.with_columns(pl.col("item_id").replace({"i14": "other"})),
        dataset.users,
        dataset.events,
        name="f",
        domain="shop",
        click="click",
        conversion="conversion",
    )
    for change in ({}, {"remove": ["i14"]}):
        recommender = Recommender(read_bundle(runs / "title"), foreign)
        recommender.change_items(**change)
        for ask in (lambda r=recommender: r.recommend(user="ann"), lambda r=recommender: r.fuse(0.5)):
            with pytest.raises(RequestError) as caught:
                ask()
            assert str(caught.value) == words


def coded(codes):
    """Identifiers of two levels of three codes, numbers on a line."""
    books = np.array([[[0.0], [1.0], [2.0]], [[0.0], [0.1], [0.2]]], dtype=np.float32)
    return semantic(Quantised(np.array(codes, dtype=np.int32), books))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_goes_and_comes_kept_identifiers_stay_and_all_differ(data):
    names = coded(data.draw(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=10)))
    texts = names.texts()
    for _ in range(3):
        kept = sorted(data.draw(st.sets(st.integers(0, len(texts) - 1), min_size=1)))
        new = data.draw(st.lists(st.sampled_from([0.0, 0.1, 1.0]), max_size=4))
        left = names.removed(np.array(kept))
        assert left.texts() == [texts[n] for n in kept]
        names = left.added(np.array(new, dtype=np.float32)[:, None]) if new else left
        assert names.texts()[: len(kept)] == left.texts()
        texts = names.texts()
        assert len(set(texts)) == len(texts) == len(kept) + len(new)


def test_a_new_item_takes_the_least_free_tie_word():
    names = coded([[0, 0], [0, 0], [0, 0], [1, 1]]).removed(np.array([1, 3]))
    assert names.texts() == ["<a_0><b_0><c_1>", "<a_1><b_1>"]
    more = names.added(np.zeros((3, 1), dtype=np.float32))
    assert more.texts()[2:] == ["<a_0><b_0>", "<a_0><b_0><c_2>", "<a_0><b_0><c_3>"]
    assert more.removed(np.array([1, 2])).codes_NL.shape == (2, 2), "no tie word is left"
    full = coded([[0, 0]]).added(np.zeros((RESERVE, 1), dtype=np.float32))
    swapped = full.removed(np.arange(1, RESERVE + 1)).added(np.zeros((1, 1), dtype=np.float32))
    assert swapped.texts()[-1] == "<a_0><b_0>"
    with pytest.raises(CatalogueError, match=f"shares its codes with {RESERVE + 1} others"):
        swapped.added(np.zeros((1, 1), dtype=np.float32))


def test_files_of_items(tmp_path):
    wanted = [Item("007", "Kettle", "", ("kitchen", "tea"), "Acme", 9.5), Item("b", "Lamp")]
    csv = tmp_path / "items.csv"
    csv.write_text("item_id,title,categories,brand,price,colour\n007,Kettle,kitchen|tea,Acme,9.5,red\nb,Lamp,,,,\n")
    assert items_from_frame(read_items(csv)) == wanted
    lines = [{"item_id": "007", "title": "Kettle", "categories": ["kitchen", "tea"], "brand": "Acme", "price": 9.5}]
    lines.append({"item_id": "b", "title": "Lamp"})
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert items_from_frame(read_items(tmp_path / "items.jsonl")) == wanted
    items_frame(wanted).write_parquet(tmp_path / "items.parquet")
    assert items_from_frame(read_items(tmp_path / "items.parquet")) == wanted
    for text, words in (
        ("item_id,name\na,Kettle\n", "items.csv lacks the column 'title'"),
        ("item_id,title\na,\n", r"items.csv, line 2: 'title' is empty, of item_id 'a'; mend it\.$"),
        (
            "item_id,title\na,Kettle\na,Lamp\n",
            r"items.csv, line 3: 'item_id' 'a' stands in line 2 already, with other values",
        ),
        ("item_id,title,price\na,Kettle,cheap\n", r"items.csv, line 2: 'price' is 'cheap'"),
        ("item_id,title\n", r"items.csv: .*empty"),
    ):
        csv.write_text(text)
        with pytest.raises(DataError, match=words):
            read_items(csv)
    with pytest.raises(DataError, match=r"none\.csv does not exist"):
        read_items(tmp_path / "none.csv")


def test_a_prompts_wishes_become_filters_where_they_are_asked_for(runs):
    """What is read is in the answer, and what no item can be is let go with a word."""
    items = [
        Item("a", "kettle red", categories=("kitchen",), price=9.0),
        Item("b", "kettle blue", "", ("kitchen",), "", 7.0),
    ]
    bundle = change_items(read_bundle(runs / "title"), add=items, remove=["i0", "i1"])
    recommender = Recommender(bundle)
    answer = recommender.recommend(prompt="Something for the Kitchen", k=5, read_filters=True)
    assert {item.item_id for item in answer.items} == {"a", "b"}
    assert [(wish.kind, wish.value, wish.text) for wish in answer.wishes] == [("category", "kitchen", "Kitchen")]
    assert answer.rest == "Something for the Kitchen"
    assert "Only 2 of 5 items" in answer.note
    cheaper = recommender.recommend(prompt='Like "kettle red" but cheaper', k=1, read_filters=True)
    assert [item.item_id for item in cheaper.items] == ["b"]
    lost = recommender.recommend(prompt='Like "kettle blue" but cheaper', k=3, read_filters=True)
    assert (lost.wishes, len(lost.items)) == ((), 3)
    assert "'cheaper'" in lost.note
    plain = recommender.recommend(prompt="Something for the Kitchen", k=5)
    assert (plain.wishes, len(plain.items)) == ((), 5)
    assert list(answer.to_json()["wishes"]) == [
        {"kind": "category", "value": "kitchen", "text": "Kitchen", "like": None}
    ]
