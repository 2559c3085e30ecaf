"""The check by hand, and by property: nothing that is made up passes, nothing that stands in the source is lost."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.enrich.grounding import ORDINARY, Ground, is_whole, numbers, sentences_of, speaks, tokens

FACTS = [
    "The Lord of the Rings",
    "Star Trek",
    "Mr. Holland's Opus",
    "A 24-year-old man; occupation: technician.",
    "Drama",
    "Comedy",
    "58",
    "Twelve Monkeys",
    "1,200",
    "Amélie",
    "Sci-Fi",
]


@pytest.mark.parametrize(
    "sentence",
    [
        "Likes The Lord of the Rings and Star Trek.",
        "He is twenty-four and rated 58 films.",
        "Has seen 12 of 1200 films.",
        "Comedies and Dramas are what they enjoy.",
        "Drama's the best.",
        'The man likes "Star Trek".',
        "Technician by trade, the Star Trek fan likes AMELIE.",
        "I think one of the first films was fine.",
        "Sci-Fi films are liked, Mr. Holland's Opus too.",
        "Liked Star Trek, Drama and Twelve Monkeys.",
    ],
)
def test_what_the_source_says_passes(sentence):
    assert Ground(FACTS, "en").ungrounded(sentence) == []


@pytest.mark.parametrize(
    ("sentence", "reason", "words"),
    [
        ("Loves Star Wars.", "name", "Star Wars"),
        ("Lord of the Dance is liked.", "name", "Lord of the Dance"),
        ("Likes the Rings of Holland.", "name", "Rings of Holland"),
        ("Likes Trek Drama.", "name", "Trek Drama"),
        ("Hitchcock is great.", "name", "Hitchcock"),
        ("A fan of iPhone films.", "name", "iPhone"),
        ("Has twenty-five.", "number", "twenty five"),
        ("Watched three hundred and six films.", "number", "three hundred and six"),
        ("The 1990s were good.", "number", "1990"),
        ("Rated ５９ films.", "number", "59"),
        ("Likes “heat”.", "quotation", "heat"),
        ("See www.example.com for more.", "address", "www.example.com"),
        ("Likes 千と千尋.", "name", "千と千尋"),
    ],
)
def test_what_comes_from_nowhere_is_found(sentence, reason, words):
    found = Ground(FACTS, "en").ungrounded(sentence)
    assert (reason, words) in [(mention.reason, mention.text) for mention in found]


def test_known_names_count_in_small_letters_too():
    ground = Ground(FACTS, "en", ["Horror", "Comedy", "War"])
    assert [m.text for m in ground.ungrounded("Likes comedies and horror movies.")] == ["Horror"]
    assert ground.ungrounded("Likes comedy of the warm kind.") == []
    assert Ground(["Star Wars"], "en", ["War"]).ungrounded("Likes Star Wars.") == []
    assert [m.text for m in Ground(ZH, "zh", ["恐怖", "科幻"]).ungrounded("喜欢科幻和恐怖电影。")] == ["恐怖"]


ZH = ["卧虎藏龙", "史蒂文·斯皮尔伯格", "25", "1994", "Heat", "科幻"]


@pytest.mark.parametrize(
    "sentence",
    [
        "喜欢《卧虎藏龙》和Heat。",
        "看过二十五部电影。",
        "一九九四年的科幻片。",
        "十分喜欢一些电影。",
        "喜欢史蒂文·斯皮尔伯格的电影。",
    ],
)
def test_chinese_that_stands_in_the_source_passes(sentence):
    assert Ground(ZH, "zh").ungrounded(sentence) == []


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("喜欢《英雄》。", "quotation"),
        ("看过三部电影。", "number"),
        ("看过一百二十部电影。", "number"),
        ("喜欢汤姆·汉克斯。", "name"),
        ("喜欢Alien。", "name"),
        ("2001年的电影。", "number"),
    ],
)
def test_chinese_from_nowhere_is_found(sentence, reason):
    assert reason in [mention.reason for mention in Ground(ZH, "zh").ungrounded(sentence)]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,234.50 and 007", ["1234.5", "7"]),
        ("two thousand and three", ["2003"]),
        ("two million three hundred thousand", ["2300000"]),
        ("a dozen, ninety-nine", ["12", "99"]),
        ("一万二千三百", ["12300"]),
        ("两亿零五万", ["200050000"]),
        ("千万不要", []),
        ("one of the first", []),
        ("1.5 stars", ["1.5"]),
    ],
)
def test_numbers_have_their_values(text, values):
    assert [value for _, value in numbers(text)] == values


def test_sentences_keep_titles_and_abbreviations_whole():
    text = "Liked Mr. Holland's Opus best. Also likes E.T. The Film.\n- 2. Something else? Yes"
    assert sentences_of(text, "en", ["E.T. The Film"]) == [
        "Liked Mr. Holland's Opus best.",
        "Also likes E.T. The Film.",
        "Something else?",
        "Yes",
    ]
    assert sentences_of("喜欢电影。不喜欢音乐！也许", "zh") == ["喜欢电影。", "不喜欢音乐！", "也许"]
    assert [is_whole("Yes."), is_whole("Yes"), is_whole("好。”")] == [True, False, True]


def test_language_is_told_by_letters():
    assert speaks("Likes drama.", "en")
    assert not speaks("Любит драму.", "en")
    assert not speaks("喜欢电影。", "en")
    assert speaks("喜欢 Heat 和别的电影。", "zh")
    assert not speaks("Likes drama.", "zh")
    assert not speaks("123.", "en")


names = st.text(string.ascii_lowercase, min_size=4, max_size=9).map(str.capitalize)
lower = st.sampled_from(sorted(word for word in ORDINARY if word != "one"))


@given(st.lists(lower, min_size=1, max_size=8), names, st.lists(lower, max_size=5), st.lists(names, max_size=4))
def test_no_made_up_name_passes_inside_a_sentence(before, name, after, facts):
    sentence = " ".join([before[0].capitalize(), *before[1:], name, *after]) + "."
    said = {word for fact in facts for word in tokens(fact)}
    # a name passes as the singular of what is said
    near = {name.lower(), name.lower().removesuffix("s"), name.lower().removesuffix("ies") + "y"}
    found = Ground(facts, "en").ungrounded(sentence)
    if not near & said:
        assert any(name in mention.text for mention in found)


@given(st.lists(lower, min_size=1, max_size=6), st.integers(0, 10**9), st.lists(st.integers(0, 10**9), max_size=5))
def test_no_made_up_number_passes(words, number, known):
    sentence = " ".join([*words, str(number), *words]) + "."
    found = Ground([str(one) for one in known], "en").ungrounded(sentence)
    assert (number in known) == (str(number) not in [mention.text for mention in found])


@given(st.lists(names, min_size=1, max_size=4), st.lists(names, min_size=1, max_size=4))
def test_a_fact_passes_wherever_it_stands(first, second):
    ground = Ground([" ".join(first), " ".join(second)], "en")
    assert ground.ungrounded(f"Likes {' '.join(first)}, and then {' '.join(second)}.") == []


@given(st.text(max_size=200), st.lists(st.text(max_size=40), max_size=4), st.sampled_from(["en", "zh"]))
def test_no_text_breaks_the_check(text, facts, language):
    ground = Ground(facts, language)
    for sentence in sentences_of(text, language, facts):
        ground.ungrounded(sentence)
        speaks(sentence, language)
