from __future__ import annotations

import json

import pytest

from llmrec.catalogue import Catalogue
from llmrec.errors import CatalogueError, RunError
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


def test_save_and_load(tmp_path):
    catalogue = build(["The Thing", "Alien", "Alien"])
    catalogue.save(tmp_path / "c")
    again = Catalogue.load(tmp_path / "c")
    assert (again.item_ids, again.titles, again.content_hash) == (
        catalogue.item_ids,
        catalogue.titles,
        catalogue.content_hash,
    )
    assert (again.tokens_NL == catalogue.tokens_NL).all()
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["catalogue.json", "catalogue.safetensors"]


def test_broken_folders_are_refused(tmp_path):
    build(["The Thing", "Alien"]).save(tmp_path)
    table = json.loads((tmp_path / "catalogue.json").read_text())
    (tmp_path / "catalogue.json").write_text(json.dumps({**table, "titles": ["x", "y"]}))
    with pytest.raises(RunError, match="do not belong together"):
        Catalogue.load(tmp_path)
    (tmp_path / "catalogue.json").write_text(json.dumps(table))
    (tmp_path / "catalogue.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RunError, match="not a catalogue"):
        Catalogue.load(tmp_path)
    (tmp_path / "catalogue.safetensors").unlink()
    with pytest.raises(RunError, match="does not exist"):
        Catalogue.load(tmp_path)


def test_the_wrong_tokenizer_is_noticed():
    catalogue = build(["The Thing", "Alien"])
    catalogue.check_tokenizer(byte_tokenizer())
    with pytest.raises(CatalogueError, match="encodes the title 'The Thing' differently"):
        catalogue.check_tokenizer(byte_tokenizer(merges=(("T", "h"), ("h", "e"), ("Ġ", "Th"))))
    other = byte_tokenizer()
    other.eos_token = "<pad>"
    with pytest.raises(CatalogueError, match="end token"):
        catalogue.check_tokenizer(other)
