"""What the nano model's tokenizer may learn of profiles: words of several people, or of items."""

import pytest

from llmrec.pipeline.base_model import SHARED, common_profiles
from llmrec.types import Item, State

ITEMS = [Item("i", "Lamp of Ada", "An oak lamp", ("Light",), "Hay")]


def states(profiles, each=2):
    return [State(user_id=f"u{n}", profile=text) for n, text in enumerate(profiles) for _ in range(each)]


def test_a_word_of_few_people_is_left_out_wherever_it_stands():
    found = common_profiles(states(["Likes tea, lives in Quxlane-7."] + ["Likes tea, lives in town 7."] * SHARED), [])
    assert found[0].profile == found[1].profile == "Likes tea, lives in -7."
    assert found[2].profile == "Likes tea, lives in town 7."


@pytest.mark.parametrize(("users", "kept"), [(SHARED - 1, ""), (SHARED, "Zyx")])
def test_users_count_and_not_their_states(users, kept):
    assert {s.profile for s in common_profiles(states(["Zyx"] * users, each=9), [])} == {kept}


def test_what_items_say_is_nobodys():
    found = common_profiles(states(["Ada likes oak, Hay, Light and Bo"]), ITEMS)
    assert found[0].profile == "Ada  oak, Hay, Light  "


def test_chinese_is_taken_sign_by_sign():
    found = common_profiles(states(["喜欢茶"] * SHARED + ["喜欢茶，住在木"]), [])
    assert found[-1].profile == "喜欢茶，"


def test_where_nothing_is_rare_the_states_are_the_same_objects():
    given = states(["Likes tea"] * SHARED)
    assert all(a is b for a, b in zip(common_profiles(given, ITEMS), given, strict=True))
    assert common_profiles([], ITEMS) == []
