"""Windows of timelines show what states may show, and training on them packed is training on their rows."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.catalogue import Catalogue
from llmrec.config import CardSettings, SFTSettings
from llmrec.dataset.timelines import Timelines
from llmrec.errors import ConfigError
from llmrec.text.render import StateRenderer
from llmrec.training import sft
from llmrec.training.callbacks import BarCallback
from llmrec.training.packed import LONGEST, collate, pack, pack_step, share_out
from llmrec.training.row_fitting import FitPlan, fit_packed, fit_rows
from llmrec.training.sft import learns_timelines, train_sft
from llmrec.training.sft_data import SFTRow, timeline_steps
from llmrec.training.timelines import windows
from tests.policy.tiny import index_of, tiny_model
from tests.training.conftest import timeline

SETTINGS = SFTSettings(
    layout="timelines", window=4, epochs=3.0, batch_size=8, save_every=4, learning_rate=3e-3, history_dropout=0.0
)


class Room:
    """A renderer that shows the newest `most` events."""

    def __init__(self, most):
        self.most = most

    def shown(self, states):
        return [min(self.most, len(state.history)) for state in states]


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=15), min_size=1, max_size=3),
    st.integers(1, 6),
    st.integers(0, 6),
    st.integers(0, 12),
    st.sampled_from([0.0, 0.4]),
    st.integers(0, 99),
)
def test_windows_hold_each_choice_once_and_grow_from_one_event(gaps, size, lead, most, dropout, seed):
    users = tuple(timeline(np.cumsum(gap).tolist(), f"u{n}") for n, gap in enumerate(gaps))
    chosen = SFTSettings(window=size, history_dropout=dropout)
    found = list(windows(Timelines(users, lead), Room(most), chosen, np.random.default_rng(seed)))
    made = Counter((e.state.user_id, e.target, e.state.time) for window in found for e in window)
    assert made == Counter((user.user_id, c.item, c.time) for user in users for c in user.choices)
    for window in found:
        assert 1 <= len(window) <= size
        longest = window[-1].state.history
        for example in window:
            history = example.state.history
            assert all(h.time < example.state.time for h in history)
            assert len(history) <= most
            # one beginning; equal times see each other nowhere
            assert history == longest[: len(history)]
            if not dropout:
                past = next(u for u in users if u.user_id == example.state.user_id).history
                past = [h for h in past if h.time < example.state.time]
                assert list(history) == past[len(past) - len(history) :]


def test_leads_reach_what_a_deployed_state_shows():
    user = timeline(range(0, 4000, 10))
    chosen = SFTSettings(window=5, history_dropout=0.0)
    rng = np.random.default_rng(0)
    found = list(windows(Timelines((user,), 8), Room(99), chosen, rng))
    assert {len(window[0].state.history) for window in found} == set(range(9))
    assert max(len(window) for window in found) == 5
    # what is shown before a choice that comes seldom ends somewhere too
    seldom = timeline(range(0, 4000, 10), targets=range(99, 400, 100))
    found = list(windows(Timelines((seldom,), 8), Room(999), chosen, rng))
    assert [len(window) for window in found] == [1] * 4
    assert max(len(window[0].state.history) for window in found) <= 13


ROWS = st.lists(
    st.builds(
        lambda prompt, answer: SFTRow((*prompt, *answer), len(answer)),
        st.lists(st.integers(1, 3), min_size=1, max_size=8),
        st.lists(st.integers(1, 3), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=6,
)


@given(st.lists(ROWS, min_size=1, max_size=5), st.integers(1, 3), st.sampled_from([6, LONGEST]))
@settings(max_examples=40)
def test_rows_read_back_out_of_packed_ones_are_the_rows(units, processes, longest):
    """Prompts and answers, as often as they were put in, from the arrays that a trainer gets."""
    data = pack([units], processes, longest=longest).data
    taught: Counter[tuple[tuple[int, ...], int]] = Counter()
    for element in data:
        batch = collate([element])
        width = batch["ids"].shape[1]
        for place, token, weight in zip(*(batch[k].tolist() for k in ("place", "token", "weight")), strict=True):
            row, last = divmod(place, width)
            chain = [i for i in range(last + 1) if last < batch["end"][row, i]]
            assert batch["depth"][row, chain].tolist() == list(range(len(chain)))
            taught[(tuple(batch["ids"][row, chain].tolist()), token)] += weight
    wanted = Counter(
        (row.input_ids[:cut], row.input_ids[cut])
        for unit in units
        for row in unit
        for cut in range(len(row.input_ids) - row.answer, len(row.input_ids))
    )
    assert +taught == wanted


def test_what_is_withheld_is_no_alternative_and_is_learnt_as_text():
    end = 9
    items = ((1, 2, end), (1, 3, end), (4, 2, end), (5, end))
    index = index_of(items).among(np.array([0, 2]))
    rows = [SFTRow((7, *answer), len(answer), item) for item, answer in enumerate(items)]
    known, new = (collate([pack([[[rows[item]]]], index=index).data[0]]) for item in (0, 1))
    # Between 1 and 4 is chosen, and then the rest of either is forced: 3, behind 1, leads to nothing that is there.
    assert known["ids"].tolist() == [[7]]
    assert index.children(known["node"])[0].tolist() == [[1, 4]]
    assert index.token_M[known["child"]].tolist() == [1]
    assert not len(known["token"])
    assert (new["token"].tolist(), len(new["child"])) == ([1, 3, end], 0)


def test_long_units_are_halved_and_short_ones_share_a_row():
    window = [SFTRow((*range(1, n), 99), 1) for n in range(10, 18)]
    single = [[SFTRow((50 + n, 60, 70), 1)] for n in range(3)]
    assert [len(rows) for rows in pack_step([window, *single], LONGEST)] == [8, 3]
    halves = pack_step([window], 20)
    assert [len(rows) for rows in halves] == [4, 4]
    assert sorted(len(part) for part in share_out([window], 3)) == [1, 1, 1]
    assert share_out([single[0]], 2) == [[single[0]], []]


def steps_of(shop, chosen=SETTINGS, seed=3):
    made = (shop.timelines(), shop.items, shop.catalogue, shop.renderer, shop.tokenizer, chosen)
    return list(timeline_steps(*made, seed=seed))


def test_steps_hold_every_choice_as_often_as_there_are_epochs(shop):
    only = dataclasses.replace(SETTINGS, mixture={"next_item": 1.0})
    steps = steps_of(shop, only)
    rows = [row for step in steps for unit in step for row in unit]
    assert len(rows) == 3 * 54
    assert 7.5 <= np.mean([sum(map(len, step)) for step in steps]) < 9  # the last one is short
    targets = Counter(row.input_ids[-row.answer :] for row in rows)
    wanted = Counter(tuple(shop.catalogue.token_ids(n % 12)) for _ in range(18) for n in range(9))
    assert targets == wanted
    limited = [
        row for step in steps_of(shop, dataclasses.replace(only, examples=10)) for unit in step for row in unit
    ]
    assert len(limited) == 30
    mixed = steps_of(shop, dataclasses.replace(SETTINGS, mixture={"next_item": 0.5, "description_from_title": 0.5}))
    assert sum(len(unit) for step in mixed for unit in step) == 2 * 3 * 54
    assert steps_of(shop) == steps_of(shop)
    assert steps_of(shop) != steps_of(shop, seed=4)


def test_packed_training_is_training_on_the_rows(shop, tmp_path):
    """The same steps, once packed and once a row each, end with the same weights."""
    steps = steps_of(shop)[:4]
    # rows are trained in batches of one size: a step of eight rows
    rows = [row for step in steps for unit in step for row in unit][:24]
    eights = [[rows[start : start + 5], rows[start + 5 : start + 8]] for start in range(0, 24, 8)]
    plan, common = FitPlan("SFT", 8, 1e-3, 0.0, 3), {"seed": 0, "resume": False, "report_to": ()}
    models = [shop.model().double() for _ in range(2)]
    one = fit_rows(models[0], shop.tokenizer, rows, plan, out=tmp_path / "rows", **common).curve
    two = fit_packed(models[1], shop.tokenizer, pack(eights), plan, out=tmp_path / "packed", **common).curve
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-5)
    first, start = (dict(model.state_dict()) for model in (models[0], shop.model().double()))
    for name, tensor in models[1].state_dict().items():
        moved = float((first[name] - start[name]).norm())
        assert float((tensor - first[name]).norm()) <= 1e-3 * moved, name


@pytest.mark.parametrize("layout", ["rows", "timelines"])
def test_a_warm_start_learns_nothing_of_how_withheld_items_are_written(shop, tmp_path, layout):
    """It ends with the same weights whatever their titles are, since no choice is compared with them."""
    away, titles = [3, 7], [item.title for item in shop.items]
    renamed = [f"red {title} desk" if n in away else title for n, title in enumerate(titles)]
    users = tuple(timeline(range(0, 120, 10), f"u{n}", set(range(12)) - set(away)) for n in range(3))
    examples = [example for example in shop.examples(24) if example.target not in away]
    chosen = dataclasses.replace(
        SETTINGS, layout=layout, likelihood="catalogue", epochs=1.0, mixture={"next_item": 1.0}, weights="full"
    )

    def trained(written, withheld, place):
        catalogue = Catalogue.from_titles(
            [item.item_id for item in shop.items], written, shop.tokenizer, answer_prefix=shop.renderer.answer_prefix
        )
        made = (catalogue, shop.renderer, examples, shop.items, chosen)
        common = {"seed": 3, "out": tmp_path / place, "timelines": lambda: Timelines(users, 3), "withheld": withheld}
        return train_sft(shop.model(), shop.tokenizer, *made, **common).model.state_dict()

    one, two = (trained(names, np.array(away), f"w{n}") for n, names in enumerate((titles, renamed)))
    assert all(torch.equal(one[name], two[name]) for name in one)
    three, four = (trained(names, None, f"n{n}") for n, names in enumerate((titles, renamed)))
    assert not all(torch.equal(three[name], four[name]) for name in three)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("weights", ["full", "lora"])
def test_a_killed_training_goes_on_to_the_same_weights(shop, tmp_path, monkeypatch, weights):
    chosen = dataclasses.replace(SETTINGS, weights=weights, epochs=1.0)

    def train(out):
        data = (shop.catalogue, shop.renderer, shop.examples(4), shop.items, chosen)
        return train_sft(shop.model(), shop.tokenizer, *data, seed=3, out=out, timelines=shop.timelines)

    whole = train(tmp_path / "whole")
    go_on = BarCallback.on_step_end

    def on_step_end(self, args, state, control, **rest):
        if state.global_step == 6:
            raise Killed
        go_on(self, args, state, control, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(BarCallback, "on_step_end", on_step_end)
        with pytest.raises(Killed):
            train(tmp_path / "cut")
    again = train(tmp_path / "cut")
    assert again.curve == whole.curve
    assert all(torch.equal(t, whole.model.state_dict()[name]) for name, t in again.model.state_dict().items())


def test_layout_is_chosen_by_size_and_by_what_the_model_can_read(shop, monkeypatch, capsys):
    auto = dataclasses.replace(SETTINGS, layout="auto")
    assert not learns_timelines(shop.model(), auto, 96)
    assert learns_timelines(shop.model(), SETTINGS, 96)
    monkeypatch.setattr(sft, "SMALL", 1000)
    assert learns_timelines(shop.model(), auto, 96)
    assert not learns_timelines(shop.model(), dataclasses.replace(SETTINGS, layout="rows"), 96)
    assert not learns_timelines(shop.model(), dataclasses.replace(SETTINGS, mixture={"item_from_prompt": 1.0}), 96)
    capsys.readouterr()
    assert not learns_timelines(tiny_model("mamba"), SETTINGS, 96)
    assert "MambaForCausalLM cannot read a timeline as one row" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"sft\.window"):
        sft.check_sft(dataclasses.replace(SETTINGS, window=0), taught=False)


@pytest.mark.parametrize("card", [CardSettings(), CardSettings(attributes=("brand",), description=6, recent=None)])
def test_shown_is_the_longest_history_that_is_told_whole(shop, card):
    def renderer(tokens):
        return StateRenderer(shop.items, shop.tokenizer, domain="shop", language="en", max_tokens=tokens, card=card)

    user = shop.timelines(1).users[0]
    state = user.example(8, user.history[:8]).state
    roomy = renderer(2000)
    for tokens in (60, 90, 150, 400):
        count = renderer(tokens).shown([state])[0]
        shorter = [dataclasses.replace(state, history=state.history[8 - n :]) for n in (count, min(8, count + 1))]
        fits, more = map(len, roomy.token_ids_many(shorter))
        assert fits <= tokens + 2  # cards are estimated by what they add to a list
        assert count == 8 or more > tokens - 2
