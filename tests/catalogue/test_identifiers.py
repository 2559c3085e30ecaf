"""Identifiers: distinct for any items, stable under additions, the same after saving; and the vectors behind them."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import types
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.catalogue.identifiers import (
    Identifiers,
    add_items,
    build_catalogue,
    described,
    make_identifiers,
    usage,
)
from llmrec.catalogue.identifiers import embeddings as em
from llmrec.catalogue.identifiers.quantise import Quantised
from llmrec.catalogue.identifiers.scheme import RESERVE, atomic, semantic
from llmrec.config import IdentifierSettings
from llmrec.dataset.history import indexed
from llmrec.dataset.importers import import_dataset
from llmrec.dataset.split import make_split
from llmrec.errors import CatalogueError, ConfigError, DataError, RunError
from llmrec.policy.new_tokens import add_words
from llmrec.types import Item
from tests.policy.tiny import byte_tokenizer

AMAZON = Path(os.environ.get("LLMREC_DATA", Path(__file__).parents[2] / "../shared/data")) / "amazon-industrial"
KINDS = ("pump for water", "steel bolt set", "red cotton shirt", "garden hose long", "oak wood table")
SEMANTIC = IdentifierSettings(scheme="semantic", levels=2, codes=5, dimensions=8, collaborative=0.0)


def shelf(count=60):
    """Items of five kinds, of which only the number differs within a kind."""
    return [Item(f"i{i}", f"{KINDS[i % 5]} {i % 7}", brand=KINDS[i % 5].split()[0]) for i in range(count)]


def hand_made(rows, codes=3):
    """Identifiers of given codes; the codebooks are numbers on a line, level after level finer."""
    levels = len(rows[0])
    books = np.array([[[k * 10.0**-level] for k in range(codes)] for level in range(levels)], dtype=np.float32)
    return semantic(Quantised(np.array(rows, dtype=np.int32), books))


def test_collisions_are_broken_for_the_later_items_only():
    made = hand_made([[0, 1], [2, 2], [0, 1], [0, 1], [2, 2]])
    assert made.texts() == ["<a_0><b_1>", "<a_2><b_2>", "<a_0><b_1><c_1>", "<a_0><b_1><c_2>", "<a_2><b_2><c_1>"]
    assert made.words[:6] == ("<a_0>", "<a_1>", "<a_2>", "<b_0>", "<b_1>", "<b_2>")
    assert made.words[6:] == tuple(f"<c_{i}>" for i in range(1, RESERVE + 3))


def test_usage_of_a_case_worked_by_hand():
    figures = usage(hand_made([[0, 1], [2, 2], [0, 1], [0, 1], [2, 2]]))
    entropy = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    assert [(level.words, level.used) for level in figures.levels] == [(3, 2), (3, 2)]
    assert [level.perplexity for level in figures.levels] == pytest.approx([math.exp(entropy)] * 2)
    assert (figures.colliding, figures.largest_group, figures.tied, figures.shared) == (5, 3, 3, 0)
    assert figures.tokens_per_item == pytest.approx(13 / 5)
    one_each = usage(atomic(7))
    assert one_each.levels[0].perplexity == pytest.approx(7)
    assert (one_each.colliding, one_each.tokens_per_item) == (0, 1.0)


@given(st.lists(st.sampled_from(["a", "b", "a b", "", "b b", "水泵"]), min_size=1, max_size=30), st.integers(0, 5))
@settings(max_examples=12, deadline=None)
def test_distinct_items_have_distinct_sequences_whatever_their_texts(titles, seed):
    """Equal items, items without text, fewer items than codes; with and without histories."""
    items = [Item(str(i), title) for i, title in enumerate(titles)]
    histories = [list(range(len(items))), [0]] if seed % 2 else None
    made = make_identifiers(dataclasses.replace(SEMANTIC, collaborative=0.5), items, seed=seed, histories=histories)
    assert len(set(made.texts())) == len(items)
    assert usage(made).shared == 0
    tokenizer = byte_tokenizer()
    add_words(tokenizer, made.words)
    rows = made.sequences(tokenizer)
    assert [tokenizer.decode(row) for row in rows] == made.texts()
    catalogue = build_catalogue(made, [i.item_id for i in items], [i.title for i in items], tokenizer)
    assert [catalogue.token_ids(i) for i in range(len(items))] == [[*row, tokenizer.eos_token_id] for row in rows]


@given(st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_additions_change_no_identifier_and_collide_with_none(seed):
    rng = np.random.default_rng(seed)
    first = hand_made(rng.integers(0, 3, size=(12, 2)).tolist())
    second = first.added(rng.normal(1, 1, size=(3, 1)).astype(np.float32))
    third = second.added(rng.normal(1, 1, size=(2, 1)).astype(np.float32))
    assert second.texts()[:12] == first.texts()
    assert third.texts()[:15] == second.texts()
    assert len(set(third.texts())) == 17
    assert third.words == first.words


def test_a_new_item_takes_the_nearest_codes_and_the_next_tie_word():
    first = hand_made([[0, 1], [2, 2], [0, 1]])
    new = np.array([[2.0], [0.12], [0.09]], dtype=np.float32)
    assert first.added(new).texts()[3:] == ["<a_2><b_0>", "<a_0><b_1><c_2>", "<a_0><b_1><c_3>"]


def test_tie_words_run_out_with_a_clear_error():
    first = hand_made([[0, 0], [1, 1]])
    room = first.added(np.zeros((RESERVE, 1), dtype=np.float32))
    assert len(set(room.texts())) == RESERVE + 2
    with pytest.raises(CatalogueError, match=rf"New item number {RESERVE} .* all {RESERVE} tie words are taken"):
        first.added(np.zeros((RESERVE + 1, 1), dtype=np.float32))


def test_additions_that_cannot_be_made_are_refused():
    with pytest.raises(CatalogueError, match="train anew"):
        atomic(3).added(np.zeros((1, 4), dtype=np.float32))
    for wrong in (np.zeros((1, 2)), np.zeros(1), np.array([[np.nan]])):
        with pytest.raises(CatalogueError, match="finite vectors of 1 numbers"):
            hand_made([[0, 0]]).added(wrong.astype(np.float32))


def test_new_items_are_placed_beside_the_likest_known_ones():
    items = shelf()
    made = make_identifiers(SEMANTIC, items, seed=0)
    new = [Item("n0", "pump for water 99", brand="pump"), Item("n1", "oak wood table 99", brand="oak")]
    more = add_items(made, SEMANTIC, items, new, seed=0)
    assert more.texts()[:60] == made.texts()
    first = [text.split(">")[0] for text in more.texts()]
    assert first[60] in first[0:60:5]
    assert first[61] in first[4:60:5]
    assert add_items(made, SEMANTIC, items, [], seed=0) is made
    with pytest.raises(CatalogueError, match="train anew"):
        add_items(atomic(60), SEMANTIC, items, new, seed=0)


def test_kinds_of_items_share_their_first_word():
    items = shelf(50)
    first = [text.split(">")[0] for text in make_identifiers(SEMANTIC, items, seed=0).texts()]
    for kind in range(5):
        assert len(set(first[kind::5])) == 1
    assert len(set(first)) == 5


def test_items_taken_together_share_codes_though_their_texts_do_not():
    items = [Item(f"i{i}", f"thing number {i}") for i in range(40)]
    histories = [[b + d for d in (0, 10, 20, 30)] for b in range(10)] * 3
    only = dataclasses.replace(SEMANTIC, codes=10, collaborative=1.0)
    first = [t.split(">")[0] for t in make_identifiers(only, items, seed=0, histories=histories).texts()]
    for together in histories:
        assert len({first[i] for i in together}) == 1


def test_the_same_seed_gives_the_same_identifiers():
    histories = [[0, 5, 3], [7, 2, 5, 0]]
    one, same, other = (
        make_identifiers(dataclasses.replace(SEMANTIC, collaborative=0.5), shelf(), seed=s, histories=histories)
        for s in (0, 0, 1)
    )
    assert one.content_hash == same.content_hash
    assert one.content_hash != other.content_hash


@pytest.mark.parametrize("scheme", ["semantic", "atomic"])
def test_save_and_load(tmp_path, scheme):
    made = make_identifiers(dataclasses.replace(SEMANTIC, scheme=scheme), shelf(), seed=0)
    made.save(tmp_path / "ids")
    made.save(tmp_path / "ids")
    loaded = Identifiers.load(tmp_path / "ids")
    assert loaded.texts() == made.texts()
    assert (loaded.scheme, loaded.words, loaded.content_hash) == (scheme, made.words, made.content_hash)
    assert np.array_equal(loaded.codebooks_LKD, made.codebooks_LKD)
    assert [p.name for p in tmp_path.iterdir()] == ["ids"]


def test_broken_files_are_refused(tmp_path):
    hand_made([[0, 0], [1, 1]]).save(tmp_path / "one")
    hand_made([[0, 0], [1, 2]]).save(tmp_path / "other")
    (tmp_path / "one" / "identifiers.json").rename(tmp_path / "other" / "identifiers.json")
    with pytest.raises(RunError, match="do not belong together"):
        Identifiers.load(tmp_path / "other")
    with pytest.raises(RunError, match=r"identifiers\.json does not exist"):
        Identifiers.load(tmp_path / "one")
    (tmp_path / "other" / "identifiers.safetensors").write_bytes(b"no tensors")
    with pytest.raises(RunError, match="holds no identifiers"):
        Identifiers.load(tmp_path / "other")
    (tmp_path / "other" / "identifiers.safetensors").unlink()
    with pytest.raises(RunError, match="no whole identifiers"):
        Identifiers.load(tmp_path / "other")


def test_a_tokenizer_without_the_words_is_refused():
    with pytest.raises(CatalogueError, match="does not know 20 words of the identifiers, '<item_0>' among them"):
        atomic(20).sequences(byte_tokenizer())
    with pytest.raises(CatalogueError, match="2 items but 3 identifiers"):
        build_catalogue(atomic(3), ["a", "b"], ["A", "B"], byte_tokenizer())


def test_words_are_described_by_the_titles_of_their_items():
    tokenizer = byte_tokenizer()
    rows = described(hand_made([[0, 1], [2, 1]], codes=3), ["ab", "c"], tokenizer)
    spelled = [tokenizer.decode(row) for row in rows]
    assert spelled[:6] == ["ab", "", "c", "", "abc", ""]
    assert not any(spelled[6:])
    assert [len(r) for r in described(hand_made([[0], [0]]), ["ab", "c"], tokenizer, most=1)[:1]] == [2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheme": "title"}, "needs no identifiers"),
        ({"levels": 0}, r"identifiers.levels' is 0; it must be from 1 to 25"),
        ({"codes": 1}, r"identifiers.codes' is 1; it must be from 2"),
        ({"dimensions": 0}, r"identifiers.dimensions"),
        ({"collaborative": 1.5}, r"identifiers.collaborative"),
        ({"embedding": "column"}, "give identifiers.source, the Parquet file"),
        ({"embedding": "sentence-transformers"}, "give identifiers.source, the name"),
        ({"embedding": "model"}, "no model was given"),
    ],
)
def test_settings_that_cannot_be_used(change, message):
    with pytest.raises(ConfigError, match=message):
        make_identifiers(dataclasses.replace(SEMANTIC, **change), shelf(5), seed=0)


def test_no_items_are_refused():
    with pytest.raises(CatalogueError, match="at least one item"):
        make_identifiers(SEMANTIC, [], seed=0)


# embeddings


def total_variance(vectors):
    return float(((vectors - vectors.mean(0)) ** 2).sum(1).mean())


def test_text_vectors_are_centred_of_unit_variance_and_group_kinds():
    vectors = em.text_embedding(shelf(50), 8, seed=0)
    assert vectors.shape == (50, 8)
    assert vectors.dtype == np.float32
    assert total_variance(vectors) == pytest.approx(1, abs=1e-4)
    likeness = vectors @ vectors.T
    same = np.arange(50)[:, None] % 5 == np.arange(50) % 5
    assert likeness[same].min() > likeness[~same].max()


def test_chinese_titles_are_alike_by_their_characters():
    titles = ["红色棉衬衫", "蓝色棉衬衫", "不锈钢水泵", "不锈钢油泵", "实木餐桌", "实木书桌"]
    vectors = em.text_embedding([Item(str(i), t) for i, t in enumerate(titles)], 4, seed=0)
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -np.inf)
    assert likeness.argmax(1).tolist() == [1, 0, 3, 2, 5, 4]


def test_joined_parts_have_their_shares_of_the_variance():
    rng = np.random.default_rng(0)
    parts = [em.scaled(rng.normal(size=(30, 4)) * 7), em.scaled(rng.normal(size=(30, 2)) + 5)]
    whole = em.joined(parts, [1, 3])
    assert whole.shape == (30, 6)
    assert total_variance(whole[:, :4]) == pytest.approx(0.25, abs=1e-4)
    assert total_variance(whole[:, 4:]) == pytest.approx(0.75, abs=1e-4)


def test_company_counts_by_hand(monkeypatch):
    monkeypatch.setattr(em, "WINDOW", 2)
    counts = em._company([[0, 1, 2, 0], [3], [], [1, 2]], 5).toarray()
    d = em.DECAY
    expected = np.zeros((5, 5))
    for i, j, weight in ((0, 1, 1), (1, 2, 1), (2, 0, 1), (0, 2, d), (1, 0, d), (1, 2, 1)):
        expected[i, j] += weight
        expected[j, i] += weight
    assert np.allclose(counts, expected)


def test_items_without_company_stand_at_the_centre():
    vectors = em.covisitation_embedding([[0, 1, 2], [2, 1, 0], [4, 5], [6], []], 8, 3, seed=0)
    assert np.flatnonzero(~vectors.any(1)).tolist() == [3, 6, 7]
    assert np.allclose(vectors.sum(0), 0, atol=1e-5)
    assert (vectors[[0, 1, 2, 4, 5]] ** 2).sum(1).mean() == pytest.approx(1, abs=1e-4)
    assert vectors[4] @ vectors[5] > 0 > vectors[4] @ vectors[0]
    assert not em.covisitation_embedding([], 4, 3, seed=0).any()


def test_the_sparse_and_the_dense_decomposition_agree():
    rng = np.random.default_rng(0)
    lists = [rng.integers(0, 20, size=6).tolist() for _ in range(60)]
    weights = em._information(em._company(lists, 20))
    sparse, dense = (em._factor(weights, k, seed=1) for k in (5, 10))
    assert sparse.shape == (20, 5)
    assert np.allclose(sparse @ sparse.T, dense[:, :5] @ dense[:, :5].T, atol=0.01)


def test_a_model_embeds_every_text_once_and_in_order():
    items = shelf(600)
    asked = []

    def encode(texts):
        asked.extend(texts)
        return np.array([[len(t), t.count("o"), 1.0] for t in texts])

    vectors = em.model_embedding(items, encode)
    assert asked == [em.item_text(item) for item in items]
    assert total_variance(vectors) == pytest.approx(1, abs=1e-4)
    order = np.argsort([len(t) for t in asked], kind="stable")
    assert (np.diff(vectors[order, 0]) >= 0).all()
    items[515] = Item("i515", "strange")
    with pytest.raises(DataError, match=r"vector of item 'i515' is not finite"):
        em.model_embedding(items, lambda texts: np.array([[np.nan if t == "strange" else 1.0] for t in texts]))
    with pytest.raises(DataError, match=r"shape \(1, 2\) of 512 texts"):
        em.model_embedding(items, lambda texts: np.zeros((1, 2)))


def test_sentence_transformers_is_asked_for_and_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r"pip install llmrec\[embeddings\]"):
        em.sentence_embedding(shelf(3), "some/model")

    class Fake:
        def __init__(self, name, trust_remote_code, model_kwargs):
            assert trust_remote_code is False
            assert model_kwargs == {"use_safetensors": True}
            if name != "some/model":
                raise OSError("no such model")

        def encode(self, texts, show_progress_bar, convert_to_numpy):
            return np.array([[len(t), 1.0] for t in texts], dtype=np.float32)

    fake = types.ModuleType("sentence_transformers")
    fake.SentenceTransformer = Fake
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    items = [Item("a", "x"), Item("b", "xxx")]
    assert np.allclose(em.sentence_embedding(items, "some/model"), [[-1, 0], [1, 0]])
    with pytest.raises(ConfigError, match=r"\(identifiers.source\) cannot load .*'other' \(no such model\)"):
        em.sentence_embedding(items, "other")


def column(tmp_path, rows, **extra):
    path = tmp_path / "vectors.parquet"
    pl.DataFrame({"item_id": [r[0] for r in rows], "embedding": [r[1] for r in rows]}, **extra).write_parquet(path)
    return path


def test_a_column_of_vectors_is_read_in_item_order(tmp_path):
    path = column(tmp_path, [("b", [1.0, 5.0]), ("z", [9.0]), ("a", [-1.0, 5.0])])
    assert np.allclose(em.column_embedding([Item("a", "A"), Item("b", "B")], path), [[-1, 0], [1, 0]])
    whole = dataclasses.replace(SEMANTIC, embedding="column", source=str(path))
    assert len(set(make_identifiers(whole, [Item("a", "A"), Item("b", "B")], seed=0).texts())) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", [1.0]), ("a", [2.0])], r"vectors.parquet, row 2: item 'a' stands in row 1 already"),
        ([("a", [1.0])], "has no row for item 'b'"),
        ([("a", [1.0]), ("b", [1.0, 2.0])], r"row 2: the embedding has 2 numbers, others have 1"),
        ([("a", [1.0]), ("b", [float("nan")])], r"row 2: the embedding is empty or holds a value that is not"),
        ([("a", [1.0]), ("b", None)], r"row 2: the embedding is empty"),
        ([("a", ["x"]), ("b", ["y"])], "must hold lists of numbers"),
    ],
)
def test_bad_columns_are_named(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        em.column_embedding([Item("a", "A"), Item("b", "B")], column(tmp_path, rows))


def test_bad_files_of_vectors_are_named(tmp_path):
    items = [Item("a", "A")]
    with pytest.raises(DataError, match="does not exist"):
        em.column_embedding(items, tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(DataError, match="is not a Parquet file"):
        em.column_embedding(items, tmp_path / "text.parquet")
    pl.DataFrame({"item_id": ["a"], "vector": [[1.0]]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(DataError, match="no column 'embedding'"):
        em.column_embedding(items, tmp_path / "other.parquet")


@pytest.mark.slow
@pytest.mark.skipif(not AMAZON.is_dir(), reason="set LLMREC_DATA to a folder that holds amazon-industrial")
def test_on_real_items_every_code_is_in_use_and_no_two_items_share_an_identifier():
    dataset = import_dataset("amazon-minionerec", AMAZON)
    train = indexed(dataset, make_split(dataset, "given").train)
    histories = train.group_by("user_id", maintain_order=True).agg("item")["item"].to_list()
    made = make_identifiers(IdentifierSettings(scheme="semantic"), dataset.item_list, seed=0, histories=histories)
    figures = usage(made)
    assert figures.shared == 0
    assert len(set(made.texts())) == dataset.n_items == 3686
    assert [level.used for level in figures.levels] == [256, 256, 256]
    assert min(level.perplexity for level in figures.levels) > 230
    assert figures.tied < 0.1 * dataset.n_items
