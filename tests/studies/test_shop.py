"""The newcomer's shop: its habits are in the log, and a seed is a shop."""

from __future__ import annotations

import collections
import itertools

import polars as pl
import pytest

from llmrec.studies.algorithms import study_config
from llmrec.studies.shop import KINDS, MAKERS, import_shop, saved_shop, write_shop

USERS = 400


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder, seed=3, users=USERS)
    return folder, pl.read_csv(folder / "events.csv"), pl.read_csv(folder / "items.csv")


def steps(events, names):
    """(action, kind) and what follows it within a quarter of an hour, of all customers."""
    by_user = collections.defaultdict(list)
    for customer, sku, at, action in events.iter_rows():
        by_user[customer].append((at, action, sku))
    for rows in by_user.values():
        for (at, action, sku), (later, then, other) in itertools.pairwise(rows):
            if later - at < 300:
                yield action, then, sku == other, names[sku], names[other]


def kind_of(title):
    return next(kind for kind in sorted(KINDS, key=len, reverse=True) if title.endswith(f" {kind}"))


def test_what_people_do_next_is_as_planted(log):
    _, events, items = log
    names = dict(zip(items["sku"], items["name"], strict=True))
    goes_with = {kind: KINDS[place ^ 1] for place, kind in enumerate(KINDS)}
    after = collections.Counter()
    for action, then, same, title, other in steps(events, names):
        one, two = kind_of(title), kind_of(other)
        if action == "purchase":
            after["complement"] += two == goes_with[one] and then == "view"
        elif action == "cart":
            after["bought"] += same and then == "purchase"
        else:
            after["kind"] += one == two and same == (then != "view")
        after[action] += 1
    # but for visits that begin within minutes of the last one's end
    for found, action in (("complement", "purchase"), ("bought", "cart"), ("kind", "view")):
        assert after[found] > 0.99 * after[action] > 100
    assert 3 * after["view"] > after["cart"] + after["purchase"]


def test_products_and_files(log):
    _, events, items = log
    assert len(items) == len(KINDS) * len(MAKERS) == 416
    assert items["name"].n_unique() == 416
    assert (items["price"] > 0).all()
    assert events["customer"].n_unique() == USERS
    assert events["at"].is_sorted()
    per_kind = collections.Counter(kind_of(name) for name in items["name"])
    assert set(per_kind.values()) == {len(MAKERS)}


def test_a_seed_is_a_shop(log, tmp_path):
    folder, *_ = log
    write_shop(tmp_path / "again", seed=3, users=USERS)
    write_shop(tmp_path / "other", seed=4, users=USERS)
    for name, same in (("again", True), ("other", False)):
        assert ((tmp_path / name / "events.csv").read_bytes() == (folder / "events.csv").read_bytes()) == same
    dataset = import_shop(tmp_path / "read", seed=3, users=USERS)
    assert dataset.n_items == 416
    assert len(dataset.events) == len(pl.read_csv(folder / "events.csv"))
    assert dataset.manifest.repeat == "allow"


def test_the_study_makes_the_shop_of_each_seed_once(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "llmrec.studies.shop.import_shop",
        lambda folder, seed: made.append(seed) or import_shop(folder, seed=seed, users=30),
    )
    config_of = study_config("shop", None, {}, shops=tmp_path)
    first, again, other = config_of("ppo", 1), config_of("tilted", 1), config_of("ppo", 2)
    assert made == [1, 2]
    assert first.data.source == again.data.source == str(saved_shop(tmp_path, 1))
    assert other.data.source != first.data.source
    assert (first.seed, other.seed) == (1, 2)
    assert (first.sft.layout, first.algorithm, again.algorithm) == ("timelines", "ppo", "tilted")
    assert study_config("shop", tmp_path / "mine", {}, shops=tmp_path)("ppo", 9).data.source == str(tmp_path / "mine")
    assert made == [1, 2]
