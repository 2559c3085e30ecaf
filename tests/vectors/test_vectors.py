"""Texts as vectors: words by the formula of TF-IDF, encoders by hand, sentence models by their own pooling."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from llmrec.errors import ConfigError, DataError
from llmrec.types import Item
from llmrec.vectors import EncodedSpace, WordSpace, item_text, sentence_encoder, unspaced
from llmrec.vectors.sentences import VARIABLE, check_model
from llmrec.vectors.space import encoded
from tests.vectors.sentence_model import write_sentence_model

INSTALLED = importlib.util.find_spec("sentence_transformers") is not None
needs_package = pytest.mark.skipif(
    not INSTALLED, reason="needs sentence-transformers: pip install llmrec[embeddings]"
)
WORDS = ["red", "oak", "table", "blue", "chair", "a", "the"]


def test_words_have_the_weights_of_the_formula_and_unit_length() -> None:
    space = WordSpace.fit(["oak oak table", "oak chair", "chair"], characters=False)
    # "oak" and "chair" stand in two texts; the rest in one, and "oak oak" or "oak table" never twice
    idf = np.log(4 / 3) + 1
    raw = np.array([[0.0, (1 + np.log(2)) * idf], [idf, idf], [idf, 0.0]])
    assert space.rows_NV.toarray() == pytest.approx(raw / np.linalg.norm(raw, axis=1, keepdims=True))
    found = space.encode(["an OAK for the garden", "", "garden"]).toarray()
    assert found == pytest.approx(np.array([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]))
    assert space.encode([]).shape == (0, 2)


def test_texts_that_share_no_term() -> None:
    texts = ["aa bb", "cc dd"]
    assert WordSpace.fit(texts, characters=False).rows_NV.nnz == 0
    assert WordSpace.fit(texts, characters=False).encode(["aa"]).shape == (1, 1)
    assert WordSpace.fit(texts, characters=False, least=(2, 1)).rows_NV.nnz == 6


def test_which_texts_are_written_without_spaces() -> None:
    assert unspaced(["红色棉衬衫", "shirt"])
    assert not unspaced(["red shirt", "blue"])
    assert not unspaced([])


def by_letter(texts: Sequence[str]) -> np.ndarray:
    """Counts of a, b and c, and 2 everywhere: an encoder whose vectors all point one way."""
    return np.array([[text.count(letter) + 2.0 for letter in "abc"] for text in texts])


def test_an_encoders_rows_by_hand() -> None:
    space = EncodedSpace(["aa", "bb"], by_letter)
    raw = np.array([[4.0, 2, 2], [2, 4, 2]])
    assert space.rows_NV == pytest.approx(raw / np.sqrt(24))
    assert space.encode(["aaaa", "  "]) == pytest.approx(np.array([[6, 2, 2] / np.sqrt(44), [0, 0, 0]]))
    assert space.encode([]).shape == (0, 3)


def test_centring_takes_the_items_mean_from_texts_too() -> None:
    space = EncodedSpace(["aa", "bb"], by_letter, centred=True)
    half = np.sqrt(0.5)
    assert space.rows_NV == pytest.approx(np.array([[half, -half, 0], [-half, half, 0]]))
    assert space.encode(["ab"]) == pytest.approx(np.zeros((1, 3)))  # the mean itself
    assert space.encode(["aab"]) == pytest.approx(np.array([[1.0, 0, 0]]))


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda texts: np.zeros(len(texts)), "array of shape"),
        (lambda texts: np.zeros((1, 2)), "array of shape"),
        (lambda texts: np.full((len(texts), 2), np.nan), "text 0 is not finite"),
    ],
)
def test_an_encoder_that_makes_no_vectors_is_refused(encode: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encoded(["a", "b"], encode)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message.replace("text 0", "item 'x'")):
        encoded(["a", "b"], encode, ["x", "y"])  # type: ignore[arg-type]


def test_an_items_text_is_what_there_is_to_read() -> None:
    item = Item("1", " Oak Table ", description="Seats six.", categories=("Tables", "Oak"), brand="Nord", price=3.0)
    assert item_text(item) == "Oak Table. Nord. Tables, Oak. Seats six."
    assert item_text(Item("2", "Oak")) == "Oak"


@pytest.mark.skipif(INSTALLED, reason="sentence-transformers is installed")
def test_without_the_package_the_mend_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"The baseline x needs sentence-transformers, .*pip install llmrec\[embeddings\]"
    ):
        sentence_encoder("anything", asked="The baseline x")


@needs_package
def test_without_a_model_the_variable_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=f"needs a model: set {VARIABLE}"):
        sentence_encoder()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"The encoder of sentences: the folder .*empty' holds no model"):
        sentence_encoder(str(tmp_path / "empty"))
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"The encoder of sentences cannot load .*empty"):
        sentence_encoder(str(tmp_path / "empty"))


@pytest.mark.parametrize("name", ["./absent", "/absent", "~/absent", "a/b/c", __file__])
def test_a_path_that_is_no_folder_is_refused_before_anything_is_loaded(name: str) -> None:
    with pytest.raises(ConfigError, match=r"Key 'x': .* is no folder; give that of a sentence-transformers model"):
        check_model(name, "Key 'x'")
    check_model("someone/some-model", "Key 'x'")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentences")
    write_sentence_model(folder, WORDS)
    return folder


@needs_package
def test_a_folders_pooling_is_obeyed(tiny: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    texts = ["red oak table", "a chair", "the blue blue chair", "red oak table"]
    encode = sentence_encoder(str(tiny))
    found = encode(texts)
    tokenizer, model = AutoTokenizer.from_pretrained(tiny), AutoModel.from_pretrained(tiny).eval()
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden, keep = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
    mean = ((hidden * keep).sum(1) / keep.sum(1)).numpy()
    assert found == pytest.approx(mean / np.linalg.norm(mean, axis=1, keepdims=True), abs=1e-6)
    assert encode(texts[1:2]) == pytest.approx(found[1:2])  # kept, in any order
    assert sentence_encoder(str(tiny)) is encode


@pytest.mark.slow
@needs_package
@pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no sentence-transformers model")
def test_a_real_model_knows_what_words_do_not_share() -> None:
    encode = sentence_encoder()
    items = ["Stainless steel bread knife", "Cotton bed sheet", "Bluetooth loudspeaker"]
    space = EncodedSpace(items, encode)
    near = (
        space.encode(["something to cut a loaf", "linen for sleeping", "I want to hear music"]) @ space.rows_NV.T
    ).argmax(1)
    assert near.tolist() == [0, 1, 2]
