from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from llmrec.catalogue import Catalogue
from llmrec.catalogue import catalogue as module
from llmrec.catalogue.store import tensors_of
from llmrec.errors import RunError
from tests.policy.tiny import byte_tokenizer

NAMES = ["catalogue.arrow", "catalogue.json", "catalogue.safetensors"]


def build(titles=("The Thing", "Alien", "Alien", "三体")):
    return Catalogue.from_titles([f"i{n}" for n in range(len(titles))], titles, byte_tokenizer())


def assert_equal_index(one, other):
    ours, theirs = tensors_of(one), tensors_of(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name


@pytest.fixture
def folder(tmp_path):
    build().save(tmp_path / "c")
    return tmp_path / "c"


def test_save_and_load(folder, monkeypatch):
    catalogue = build()
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    built = catalogue.index
    monkeypatch.setattr("llmrec.catalogue.index.tree_arrays", None)  # nothing is built anew
    again = Catalogue.load(folder)
    assert (again.item_ids, again.titles, again.content_hash) == (
        catalogue.item_ids,
        catalogue.titles,
        catalogue.content_hash,
    )
    assert again.titles == ("The Thing", "Alien", "Alien (2)", "三体")
    assert (again.tokens_NL == catalogue.tokens_NL).all()
    assert [again.token_ids(i) for i in range(4)] == [catalogue.token_ids(i) for i in range(4)]
    assert (again.end_token, again.scheme, again.answer_prefix) == (catalogue.end_token, "title", " ")
    assert_equal_index(again.index, built)
    again.check_tokenizer(byte_tokenizer())


def test_other_schemes_survive_and_saving_again_over_the_open_files_works(tmp_path):
    made = Catalogue.from_sequences(["a", "b"], ["", "x"], [(3, 4), (3,)], byte_tokenizer(), scheme="semantic")
    made.save(tmp_path)
    again = Catalogue.load(tmp_path)
    again.save(tmp_path)
    third = Catalogue.load(tmp_path)
    assert third.scheme == "semantic"
    assert third.titles == ("", "x")
    assert third.content_hash == made.content_hash
    assert third.token_names.digest == made.token_names.digest
    third.check_tokenizer(byte_tokenizer())


def test_the_hash_sees_ids_titles_tokens_end_and_scheme():
    def made(ids=("a", "b"), titles=("x", "y"), rows=((3, 4), (5,)), end=9, scheme="semantic"):
        return Catalogue.from_sequences(ids, titles, rows, end, scheme=scheme).content_hash

    others = [
        made(ids=("ab", "")),
        made(titles=("xy", "")),
        made(ids=("b", "a")),
        made(rows=((3,), (4, 5))),
        made(end=8),
        made(scheme="atomic"),
    ]
    assert made() == made()
    assert len({made(), *others}) == 7


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(RunError, match=f"{name} does not exist"):
        Catalogue.load(folder)


@pytest.mark.parametrize("kept", [0, 7, 0.3, 0.99])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_was_cut_off_is_named(folder, name, kept):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    with pytest.raises(RunError, match=name):
        Catalogue.load(folder)


@pytest.mark.parametrize("name", NAMES)
def test_nonsense_is_refused(folder, name):
    (folder / name).write_bytes(b"nonsense" * 64)
    with pytest.raises(RunError, match=name):
        Catalogue.load(folder)


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_two_catalogues_are_told_apart(folder, tmp_path, name):
    build(("The Thing", "Alien", "Alien", "Solaris")).save(tmp_path / "d")
    (folder / name).write_bytes((tmp_path / "d" / name).read_bytes())
    with pytest.raises(RunError, match="do not belong together"):
        Catalogue.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "llmrec catalogue 1"}, "is not of the format"),
        ({"items": 5}, "no whole catalogue"),
        ({"nodes": 5}, "no whole catalogue"),
        ({"end_token": None}, "no whole catalogue"),
        ({"scheme": "atomic"}, "are not those that were saved"),
        ({"index_hash": "0"}, "index is not the one"),
    ],
)
def test_changed_facts_are_refused(folder, change, message):
    facts = json.loads((folder / "catalogue.json").read_text())
    (folder / "catalogue.json").write_text(json.dumps({**facts, **change}))
    with pytest.raises(RunError, match=message):
        Catalogue.load(folder)


def test_folders_of_the_first_format_are_refused_in_one_sentence(folder):
    (folder / "catalogue.json").write_text(json.dumps({"content_hash": "0", "item_ids": ["a"], "titles": ["x"]}))
    with pytest.raises(RunError, match="not of the format 'llmrec catalogue 2'"):
        Catalogue.load(folder)


@pytest.mark.parametrize("name", ["tokens_NL", "index.token_M", "index.path_NL"])
def test_a_changed_value_is_found_by_verify(folder, name, monkeypatch):
    path = folder / "catalogue.safetensors"
    mark = {"content_hash": json.loads((folder / "catalogue.json").read_text())["content_hash"]}
    tensors = {key: np.array(value) for key, value in load_file(path).items()}
    tensors[name].reshape(-1)[-1] += 1
    save_file(tensors, path, mark)
    with pytest.raises(RunError, match="saved"):
        Catalogue.load(folder)
    monkeypatch.setattr(module, "VERIFIED_ITEMS", 0)
    catalogue = Catalogue.load(folder)  # what a large catalogue does
    with pytest.raises(RunError, match="saved"):
        catalogue.verify()


def test_a_missing_tensor_is_refused(folder):
    path = folder / "catalogue.safetensors"
    mark = {"content_hash": json.loads((folder / "catalogue.json").read_text())["content_hash"]}
    tensors = {key: value for key, value in load_file(path).items() if key != "index.depth_M"}
    save_file(tensors, path, mark)
    with pytest.raises(RunError, match="no whole catalogue"):
        Catalogue.load(folder)


def test_text_that_is_no_utf8_is_found(folder):
    path = folder / "catalogue.arrow"
    path.write_bytes(path.read_bytes().replace("三".encode(), b"\xff\xff\xff"))
    with pytest.raises(RunError, match="broken"):
        Catalogue.load(folder)


def test_a_write_that_fails_leaves_the_old_catalogue(folder, monkeypatch):
    def broken(*_):
        raise OSError("no space left")

    monkeypatch.setattr("llmrec.catalogue.store.save_file", broken)
    with pytest.raises(OSError, match="no space"):
        build(("Solaris",)).save(folder)
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    assert len(Catalogue.load(folder)) == 4
