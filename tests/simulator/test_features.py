from __future__ import annotations

import time

import numpy as np
import pytest

from llmrec.errors import DataError
from llmrec.simulator.features import DECAY, HISTORY, FeatureSpace, NamedCategories
from llmrec.types import Interaction, Item, State
from llmrec.vectors.hashed import TextSpace

ITEMS = [
    Item("a", "red shoe", "a shoe", ("shoes",), "acme", 10.0),
    Item("b", "blue shoe", "a shoe", ("shoes",), "acme", 20.0),
    Item("c", "green hat", "a hat", ("hats",), "best", None),
    Item("d", "small red hat", "a hat", ("hats", "kids"), "best", 5.0),
]


SHOWN = np.array([50.0, 20.0, 5.0, 1.0])


def _space() -> FeatureSpace:
    return FeatureSpace.fit(ITEMS, [State(profile="likes hats"), State(profile="old man")], SHOWN, seed=0)


def test_likeness_of_texts() -> None:
    texts = ["warm red wool hat", "cold red wool hat", "a film about war", "the war film", "红色 帽子", "红帽子"]
    vectors = TextSpace.fit(texts, 5, 0).encode(texts)
    similar = vectors @ vectors.T
    assert similar[0, 1] > 0.3 > abs(similar[0, 2])
    assert similar[2, 3] > 0.2 > abs(similar[2, 0])
    assert similar[4, 5] > 0.2
    assert (np.linalg.norm(vectors, axis=1) <= 1 + 1e-5).all()


def test_texts_without_words_are_zero() -> None:
    space = TextSpace.fit(["", "  "], 4, 0)
    np.testing.assert_array_equal(space.encode(["anything", ""]), np.zeros((2, 4)))
    assert space.encode([]).shape == (0, 4)


def test_item_rows_hold_categories_and_prices() -> None:
    space = _space()
    assert space.categories == ("hats", "shoes", "kids")
    np.testing.assert_allclose(space.category_NC[3], [2**-0.5, 0, 2**-0.5], rtol=1e-6)
    logs = np.log1p([10.0, 20.0, 5.0])
    np.testing.assert_allclose(space.price_N2[[0, 1, 3], 0], (logs - logs.mean()) / logs.std(), rtol=1e-5)
    np.testing.assert_array_equal(space.price_N2[2], [0, 1])


def test_history_weights_by_hand() -> None:
    history = (Interaction(0, "click", 1), Interaction(1, "conversion", 2), Interaction(2, "impression", 3))
    users = _space().encode([State(history=history), State(history=history[:2], session=history[2:]), State()])
    np.testing.assert_array_equal(users.item_SH[0, :4], [2, 1, 0, 4])
    liked, converted, skipped = DECAY**2 + DECAY, DECAY, 1.0
    np.testing.assert_allclose(users.weight_SHC[0, :3, 0], np.array([0, DECAY, DECAY**2]) / (1 + liked), rtol=1e-6)
    np.testing.assert_allclose(users.weight_SHC[0, :3, 1], np.array([0, DECAY, 0]) / (1 + converted), rtol=1e-6)
    np.testing.assert_allclose(users.weight_SHC[0, :3, 2], np.array([1, 0, 0]) / (1 + skipped), rtol=1e-6)
    np.testing.assert_array_equal(users.dense_SF[0], users.dense_SF[1])
    assert (users.item_SH[2] == 4).all()
    assert not users.weight_SHC[2].any()


def test_ratings_convert_from_the_mean_up() -> None:
    states = [State(history=(Interaction(0, "rating", 1, value),)) for value in (1.0, 5.0)]
    space = FeatureSpace.fit(ITEMS, states, SHOWN, seed=0)
    weight = space.encode(states).weight_SHC[:, 0]
    assert weight[0, 0] < weight[1, 0]
    np.testing.assert_array_equal(weight[:, 1] > 0, [False, True])
    np.testing.assert_array_equal(weight[:, 2] > 0, [True, False])


def test_crossings_line_up_state_and_item_columns() -> None:
    space = _space()
    dense = space.encode([State(history=(Interaction(3, "conversion", 1),))]).dense_SF[0]
    assert len(dense) == space.user_width
    profile, *channels = space.crossings()
    assert not dense[profile[0]].any()
    for mine, theirs in (*channels[:3], *channels[4:7]):  # text, categories and the rest of what was liked and bought
        np.testing.assert_allclose(dense[mine], space.item_NF[3, theirs] / 2, rtol=1e-5)
    for mine, theirs in (channels[3], channels[7]):
        np.testing.assert_allclose(dense[mine], space.item_NF[3, theirs] / 4, rtol=1e-5)
    for mine, _ in channels[8:]:  # what was skipped, and what the profile names
        assert not dense[mine].any()


def test_popularity_is_known_and_average_for_a_new_item() -> None:
    space = _space()
    arrays, values = space.state()
    later = FeatureSpace.restore([*ITEMS, Item("e", "new hat")], arrays, values)
    popular = later.item_NF[:, -4:]
    assert (np.diff(popular[:4, 0]) < 0).all()
    np.testing.assert_allclose(popular[:4].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_array_equal(popular[4], 0)
    np.testing.assert_array_equal(later.item_NF[:4], space.item_NF)


def test_only_the_latest_interactions_count() -> None:
    old = tuple(Interaction(0, "click", k) for k in range(50))
    new = tuple(Interaction(1, "click", 100 + k) for k in range(HISTORY))
    space = _space()
    one, other = space.encode([State(history=new), State(history=old + new)]).dense_SF
    np.testing.assert_array_equal(one, other)


def test_batches_and_single_states_agree() -> None:
    states = [State(profile=f"man {k}", history=(Interaction(k % 4, "click", 1),) * k) for k in range(8)]
    space = _space()
    together = space.encode(states).dense_SF
    for k, state in enumerate(states):
        np.testing.assert_allclose(space.encode([state]).dense_SF[0], together[k], atol=1e-6)


@pytest.mark.timeout(60)
def test_encodes_thousands_of_states_a_second() -> None:
    random = np.random.default_rng(0)
    states = [
        State(
            profile=f"aged {k % 60} and likes hats number {k % 700}",
            history=tuple(Interaction(int(i), "click", 1) for i in random.integers(0, 4, 20)),
        )
        for k in range(5000)
    ]
    space = _space()
    start = time.process_time()
    space.encode(states)
    assert len(states) / (time.process_time() - start) > 4000  # some 20,000 on an idle core


@pytest.mark.parametrize("item", [-1, 4, 5])
def test_an_item_outside_the_catalogue_is_named_with_its_user(item: int) -> None:
    space = _space()
    assert space.n_items == 4
    with pytest.raises(DataError, match=f"user 'u' holds item index {item}"):
        space.encode([State(user_id="u", history=(Interaction(item, "click", 1),))])


def _named(*names: tuple[str, ...]) -> NamedCategories:
    categories = list(dict.fromkeys(name for held in names for name in held))
    return NamedCategories(categories, [Item(f"i{n}", "thing", "", held) for n, held in enumerate(names)])


def test_a_profile_names_categories() -> None:
    named = _named(("music", "slow"), ("music drama", "slow"), ("home office", "fast"))
    assert named.categories == ("music", "slow", "music drama", "home office", "fast")
    assert named.found("Likes Music  Drama and home\noffice. Hates breakfast.") == (2, 3)  # "breakfast" is not "fast"
    assert named.found("music, music!") == (0,)
    assert named.found("") == ()
    # what items name first and what they name behind it have columns of their own
    rows = named.encode(["music and slow", "fast"])
    assert np.flatnonzero(rows[0]).tolist() == [0, 5 + 1]
    assert np.flatnonzero(rows[1]).tolist() == [5 + 4]


def test_names_are_found_without_spaces() -> None:
    assert _named(("咖啡", "复古"), ("瑜伽", "复古")).found("喜欢瑜伽和咖啡。偏爱复古的东西。") == (2, 0, 1)


def test_columns_of_named_categories_are_there_where_profiles_name_some() -> None:
    space = _space()
    assert space.named is not None
    dense = space.encode([State(profile="hats for kids")]).dense_SF[0]
    first, others = space.crossings()[-2:]
    # "hats" stands first in all items that hold it, "kids" never
    assert [space.categories[c] for c in np.flatnonzero(dense[first[0]])] == ["hats"]
    assert [space.categories[c] for c in np.flatnonzero(dense[others[0]])] == ["kids"]
    assert first[1] == others[1] == space.crossings()[2][1]
    silent = FeatureSpace.fit(ITEMS, [State(profile="likes tea"), State(profile="old man")], SHOWN, seed=0)
    assert silent.named is None
    assert silent.user_width == space.user_width - 2 * len(space.categories)
    assert len(silent.crossings()) == len(space.crossings()) - 2
    for one in (space, silent):
        again = FeatureSpace.restore(ITEMS, *one.state())
        states = [State(profile="kids", history=(Interaction(3, "click", 1),))]
        np.testing.assert_array_equal(again.encode(states).dense_SF, one.encode(states).dense_SF)
        assert again.encode(states).dense_SF.shape[1] == one.user_width == again.user_width
