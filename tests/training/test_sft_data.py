"""Rows of SFT: right answers, nothing of the future, one order for one seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.config import SFTSettings
from llmrec.errors import ConfigError, DataError
from llmrec.training.sft import pack_texts
from llmrec.training.sft_data import ID_TASKS, SFTRow, augment, build_rows, by_length, task_counts
from llmrec.types import Example, Interaction, State

ONLY_NEXT = {"next_item": 1.0}


def rows_of(shop, seed=0, number=20, **changes):
    settings = dataclasses.replace(SFTSettings(batch_size=4, epochs=1.0), **changes)
    return build_rows(
        shop.examples(number), shop.items, shop.catalogue, shop.renderer, shop.tokenizer, settings, seed=seed
    )


def test_labels_hide_the_prompt():
    assert SFTRow((5, 6, 7, 8), 2).labels() == [-100, -100, 7, 8]


def test_counts_follow_the_mixture():
    counts = task_counts({"next_item": 0.8, "item_from_prompt": 0.2}, 100)
    assert counts["next_item"] == 100
    assert counts["item_from_prompt"] == 25
    assert sum(counts.values()) == 125
    assert task_counts({"title_from_description": 2.0, "item_from_prompt": 1.0}, 30)["title_from_description"] == 20


def test_without_identifiers_the_other_tasks_keep_their_proportions():
    mixture = SFTSettings().mixture
    without = {task: weight for task, weight in mixture.items() if task not in ID_TASKS}
    counts = task_counts(mixture, 800, identified=False)
    assert counts == task_counts(without, 800, identified=False)
    assert [counts[task] for task in ("next_item", "item_from_prompt", *ID_TASKS)] == [800, 50, 0, 0, 0]
    assert [task_counts(mixture, 800)[task] for task in ID_TASKS] == [50, 50, 50]
    shared = {"title_from_description": 1.0, "item_from_prompt": 3.0, "title_from_id": 4.0}
    assert task_counts(shared, 80, identified=False)["item_from_prompt"] == 60
    assert task_counts(shared, 80)["item_from_prompt"] == 30
    with pytest.raises(ConfigError, match=r"no title_from_id.* under identifiers\.scheme: title"):
        task_counts({"title_from_id": 1.0}, 80, identified=False)


def test_identifier_tasks_answer_with_tokens_and_words(coded):
    rows = rows_of(coded, mixture=dict.fromkeys(["next_item", *ID_TASKS], 1.0), history_dropout=0.0)
    assert len(rows) == 80
    own = {tuple(coded.catalogue.token_ids(i)): i for i in range(12)}
    said = [(coded.tokenizer.decode(r.input_ids[: -r.answer]), r.input_ids[-r.answer :]) for r in rows]
    back = [(text, answer) for text, answer in said if text.startswith("Title:")]
    assert len(back) == 20
    for text, answer in back:
        assert coded.items[own[answer]].title == text.splitlines()[0].removeprefix("Title: ")
    named = [(text, answer) for text, answer in said if text.startswith("Product identifier:")]
    assert len(named) == 40
    texts = {word: item for item, word in zip(coded.items, coded.words, strict=True)}
    for text, answer in named:
        item = texts[text.splitlines()[0].removeprefix("Product identifier: ")]
        told = {"Title:": item.title, "Category:": item.categories[0], "Brand:": "acme", "Price:": f"{item.price:g}"}
        assert coded.tokenizer.decode(answer) == f" {told[text.splitlines()[1]]}{coded.tokenizer.eos_token}"
    chosen = [answer for text, answer in said if text.endswith("Next product:")]
    assert len(chosen) == 20
    assert set(chosen) <= set(own)


@pytest.mark.parametrize("mixture", [{"nextitem": 1.0}, {"next_item": -1.0}, {"next_item": 0.0}, {}])
def test_a_bad_mixture_is_named(mixture):
    with pytest.raises(ConfigError, match=r"sft\.mixture"):
        task_counts(mixture, 10)


def test_next_item_rows_are_prompt_and_catalogue_tokens(shop):
    rows = rows_of(shop, mixture=ONLY_NEXT, history_dropout=0.0)
    assert len(rows) == 20
    titles = {tuple(shop.catalogue.token_ids(i)) for i in range(12)}
    assert {row.input_ids[-row.answer :] for row in rows} <= titles
    prompts = {tuple(shop.renderer.token_ids(e.state)): e.target for e in shop.examples(20)}
    known = [row for row in rows if row.input_ids[: -row.answer] in prompts]
    assert len(known) > 12  # the others are cut at an earlier choice
    for row in known:
        target = prompts[row.input_ids[: -row.answer]]
        assert row.input_ids[-row.answer :] == tuple(shop.catalogue.token_ids(target))


def test_the_mixture_holds_every_task(shop):
    weights = dict.fromkeys(SFTSettings().mixture, 1.0)
    rows = rows_of(shop, mixture=weights)
    assert len(rows) == 100
    texts = [shop.tokenizer.decode(row.input_ids[-row.answer :]) for row in rows]
    assert sum("painted" in text for text in texts) == 20  # descriptions; all else are titles
    assert all(row.input_ids[-1] == shop.tokenizer.eos_token_id for row in rows)


def test_rows_depend_on_the_seed_alone(shop):
    assert rows_of(shop, 1, epochs=1.5) == rows_of(shop, 1, epochs=1.5)
    assert rows_of(shop, 1) != rows_of(shop, 2)
    assert rows_of(shop, 1, epochs=2.0)[:10] == rows_of(shop, 1, epochs=1.0)[:10]


def test_epochs_may_be_a_fraction_and_examples_are_limited(shop):
    assert len(rows_of(shop, mixture=ONLY_NEXT, epochs=1.5)) == 30
    assert len(rows_of(shop, mixture=ONLY_NEXT, examples=8)) == 8
    with pytest.raises(DataError, match="no training example"):
        build_rows([], shop.items, shop.catalogue, shop.renderer, shop.tokenizer, SFTSettings(), seed=0)


@given(st.integers(0, 10_000), st.lists(st.integers(1, 4), min_size=1, max_size=8))
def test_augmentation_keeps_the_past_before_the_target(seed, gaps):
    times = np.cumsum(gaps) // 2  # some are equal
    history = tuple(Interaction(n, "click", int(t)) for n, t in enumerate(times))
    example = Example(State("u", history=history, time=1000), target=99)
    made = augment(example, SFTSettings(history_dropout=0.3), np.random.default_rng(seed))
    when = {h.item: h.time for h in history} | {99: 1000}
    assert all(h.time < when[made.target] for h in made.state.history)
    assert made.target not in {h.item for h in made.state.history}
    assert made.state.time == when[made.target]


def test_a_cut_looks_for_the_target_s_kind():
    history = tuple(Interaction(n, "click" if n else "conversion", n) for n in range(4))
    example = Example(State("u", history=history, time=9), target=99)
    settings = SFTSettings(target="conversion", history_dropout=0.0)
    targets = {augment(example, settings, np.random.default_rng(s)).target for s in range(200)}
    assert targets == {99, 0}


@given(st.lists(st.integers(2, 30), min_size=1, max_size=200), st.integers(1, 9))
def test_by_length_permutes_and_leaves_little_padding(lengths, batch):
    rows = [SFTRow((n, *range(length)), 1) for n, length in enumerate(lengths)]
    ordered = by_length(rows, batch, np.random.default_rng(0))
    assert sorted(ordered, key=lambda r: r.input_ids[0]) == rows
    spread = [max(b) - min(b) for i in range(0, len(rows) // batch * batch, batch) if (b := [len(r.input_ids) for r in ordered[i : i + batch]])]  # fmt: skip
    assert sum(spread) <= 28 * -(-len(rows) // (16 * batch))


def test_packed_texts_are_full_and_ended(shop):
    rows = pack_texts(shop.tokenizer, ["red lamp", "blue desk", ""], 7, 9, seed=0)
    assert len(rows) == 9
    assert all(len(row.input_ids) == row.answer == 7 for row in rows)
    whole = shop.tokenizer.decode([t for row in rows for t in row.input_ids])
    pieces = whole.split(shop.tokenizer.eos_token)[:-1]
    assert set(pieces) == {"red lamp", "blue desk"}
    with pytest.raises(DataError, match="no text"):
        pack_texts(shop.tokenizer, ["", ""], 7, 9, seed=0)
