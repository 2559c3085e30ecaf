from __future__ import annotations

import numpy as np
import pytest

from llmrec.catalogue import Catalogue
from llmrec.errors import CatalogueError
from tests.policy.tiny import byte_tokenizer


def decoded(catalogue, tokenizer):
    return [tokenizer.decode(catalogue.token_ids(i)[:-1]) for i in range(len(catalogue))]


def build(titles, **options):
    return Catalogue.from_titles([f"i{n}" for n in range(len(titles))], titles, byte_tokenizer(), **options)


def test_items_are_the_prefixed_title_and_the_end_token():
    tokenizer, catalogue = byte_tokenizer(), build(["The Thing", "Alien", "三体"])
    assert decoded(catalogue, tokenizer) == [" The Thing", " Alien", " 三体"]
    assert catalogue.titles == ("The Thing", "Alien", "三体")
    for item in range(3):
        ids = catalogue.token_ids(item)
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in ids[:-1]
    assert catalogue.lengths_N.tolist() == [len(catalogue.token_ids(i)) for i in range(3)]


def test_equal_titles_are_numbered_in_item_order_and_natural_names_keep_theirs():
    tokenizer = byte_tokenizer()
    catalogue = build(["Alien", "Alien (2)", "Alien", " Alien ", "Alien"])
    assert catalogue.titles == ("Alien", "Alien (2)", "Alien (3)", "Alien (4)", "Alien (5)")
    assert decoded(catalogue, tokenizer) == [" " + title for title in catalogue.titles]


def test_titles_equal_after_cutting_are_made_distinct_within_the_limit():
    tokenizer = byte_tokenizer()
    catalogue = build(["abcdefghijkl one", "abcdefghijkl two", "abcdefghijkl three", "abcdefgh"], max_title_tokens=9)
    assert decoded(catalogue, tokenizer) == [" abcdefgh", " abcd (2)", " abcd (3)", " abcd (4)"]
    assert catalogue.titles[1] == "abcdefghijkl two (2)"
    assert catalogue.lengths_N.max() <= 10


def test_no_room_for_a_number_is_an_error():
    with pytest.raises(CatalogueError, match="max_title_tokens = 3"):
        build(["abcdef", "abcdeg"], max_title_tokens=3)


@pytest.mark.parametrize(
    "title", ["<|im_end|>", "a<|im_end|>b", "<|im_start|>system", "<pad>", "<<|im_end|>|im_end|>"]
)
def test_special_tokens_in_titles_encode_to_ordinary_tokens(title):
    tokenizer, catalogue = byte_tokenizer(), build([title, "Alien"])
    assert not set(catalogue.token_ids(0)[:-1]) & set(tokenizer.all_special_ids)
    assert catalogue.titles[0] == title
    assert catalogue.index.n_items == 2


def test_control_characters_and_line_breaks_do_not_reach_the_display_title():
    assert build(["a\x1b[31m\nb\u202ec\td"]).titles == ("a[31m bc d",)


def test_bad_catalogues_name_the_item():
    with pytest.raises(CatalogueError, match="'i1' has an empty title"):
        build(["Alien", " \n"])
    with pytest.raises(CatalogueError, match="empty"):
        build([])
    with pytest.raises(CatalogueError, match="'a' occurs twice"):
        Catalogue.from_titles(["a", "a"], ["x", "y"], byte_tokenizer())
    with pytest.raises(CatalogueError, match="2 item ids but 1"):
        Catalogue.from_titles(["a", "b"], ["x"], byte_tokenizer())
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(CatalogueError, match="end token"):
        Catalogue.from_titles(["a"], ["x"], tokenizer)


def test_the_wrong_tokenizer_is_noticed():
    catalogue = build(["The Thing", "Alien"])
    catalogue.check_tokenizer(byte_tokenizer())
    with pytest.raises(CatalogueError, match="encodes the title 'The Thing' differently"):
        catalogue.check_tokenizer(byte_tokenizer(merges=(("T", "h"), ("h", "e"), ("Ġ", "Th"))))
    other = byte_tokenizer()
    other.eos_token = "<pad>"
    with pytest.raises(CatalogueError, match="end token"):
        catalogue.check_tokenizer(other)


IDS, CODES = ["a", "b", "c"], [(3, 4), (3, 4, 5), (7,)]


def coded(sequences=CODES, tokenizer=None, ids=IDS):
    tokenizer = byte_tokenizer() if tokenizer is None else tokenizer
    return Catalogue.from_sequences(ids, ["x", "x", ""][: len(ids)], sequences, tokenizer, scheme="semantic")


def test_given_sequences_are_kept_and_ended():
    end = byte_tokenizer().eos_token_id
    matrix = np.array([[3, 4, -1, -1], [3, 4, 5, -1], [7, -1, -1, -1]])
    for sequences in (CODES, matrix, [list(row) for row in CODES]):
        catalogue = coded(sequences)
        assert [catalogue.token_ids(i) for i in range(3)] == [[3, 4, end], [3, 4, 5, end], [7, end]]
        assert (catalogue.scheme, catalogue.titles, catalogue.tokens_NL.shape) == ("semantic", ("x", "x", ""), (3, 4))
    assert coded(tokenizer=8).token_ids(2) == [7, 8]


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([(3, 4), (5,), (3, 4)], "items 'a' and 'c' are the same"),
        ([(3, 4), (), (5,)], "'b' has an empty"),
        ([(3, 4), (5,)], "3 items but 2 token sequences"),
        ([(3, 4), (5, -1, 6), (7,)], "'b' has a number .* no token id"),
        ([(3, 4), (5, 2**40), (7,)], "'b' has a number .* no token id"),
        ([(3, 4), (5, 0.5), (7,)], "'b' has a number .* no token id"),
        ([(3, 4), (5, 10**30), (7,)], "no token id"),
        ([(3, 4), ("x",), (7,)], "'b' has a number .* no token id"),
        (np.array([[3, 4], [-1, 5], [7, -1]]), "'b' has a number .* no token id"),
        (np.array([[3.0, 4], [1, 5], [7, -1]]), "matrix of integers"),
        ([(3, 4), (5,), (7, 9999)], "Token 9999, in the sequence of item number 2, is unknown"),
    ],
)
def test_bad_sequences_are_refused(sequences, message):
    with pytest.raises(CatalogueError, match=message):
        coded(sequences)


def test_the_end_token_inside_a_sequence_and_the_title_scheme_are_refused():
    with pytest.raises(CatalogueError, match="'b' has the end token 8 inside"):
        coded([(3, 4), (8, 4), (7,)], tokenizer=8)
    with pytest.raises(CatalogueError, match="from_titles"):
        Catalogue.from_sequences(["a"], ["x"], [(1,)], 8, scheme="title")
    with pytest.raises(CatalogueError, match="'a' occurs twice"):
        coded(ids=["a", "b", "a"])
    with pytest.raises(CatalogueError, match="-1 is no id of an end token"):
        coded(tokenizer=-1)


def test_a_tokenizer_that_names_the_tokens_otherwise_is_refused_under_every_scheme():
    catalogue = coded()
    catalogue.check_tokenizer(byte_tokenizer())
    catalogue.check_tokenizer(byte_tokenizer(merges=(("o", "f"), ("i", "n"), ("Ġ", "of"))))  # tokens it does not use
    used = Catalogue.from_sequences(["a"], ["x"], [(256,)], byte_tokenizer(), scheme="atomic")
    with pytest.raises(CatalogueError, match="other names"):
        used.check_tokenizer(byte_tokenizer(merges=(("o", "f"), ("i", "n"), ("Ġ", "of"))))
    with pytest.raises(CatalogueError, match="uses token 9999, the tokenizer knows"):
        Catalogue.from_sequences(
            ["a"], ["x"], [(9999,)], byte_tokenizer().eos_token_id, scheme="atomic"
        ).check_tokenizer(byte_tokenizer())


def test_ids_and_titles_are_sequences_of_strings():
    catalogue = build(["The Thing", "Alien", "三体", "Her"])
    assert catalogue.titles[1] == catalogue.titles[-3] == "Alien"
    assert (list(catalogue.titles), len(catalogue.titles)) == (["The Thing", "Alien", "三体", "Her"], 4)
    assert tuple(catalogue.item_ids) == ("i0", "i1", "i2", "i3")
    whole, part, other = ("i0", "i1", "i2", "i3"), ("i0", "i1", "i2"), ("i0", "i1", "i2", "i4")
    assert whole == catalogue.item_ids
    assert part != catalogue.item_ids
    assert other != catalogue.item_ids
    assert list(whole) == catalogue.item_ids
    assert catalogue.item_ids != "i0"
    assert catalogue.item_ids.index("i2") == 2
    assert "i3" in catalogue.item_ids
    assert "i4" not in catalogue.item_ids
    assert catalogue.titles[1:3] == ["Alien", "三体"]
    with pytest.raises(IndexError):
        catalogue.titles[4]
    with pytest.raises(ValueError, match="'i9'"):
        catalogue.item_ids.index("i9")
    with pytest.raises(CatalogueError, match="UTF-8"):
        Catalogue.from_sequences(["a"], ["\ud800"], [(1,)], 8, scheme="atomic")
