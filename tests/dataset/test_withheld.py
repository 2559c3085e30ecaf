"""Withheld items: nothing that learns or reads a state meets their events, and all else is as it was."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from llmrec.config import RunConfig, WithheldSettings
from llmrec.dataset.examples import examples
from llmrec.dataset.impressions import impressions
from llmrec.dataset.split import make_split
from llmrec.dataset.withheld import check_withheld, withhold
from llmrec.errors import ConfigError, DataError
from llmrec.pipeline.data import open_data
from llmrec.pipeline.sft import lessons_of, targets
from llmrec.pipeline.work import Work
from tests.dataset.tiny import tiny

ITEMS = "".join(chr(97 + n) for n in range(20))
SHARES = WithheldSettings(test=0.25, valid=0.15)


def log(repeat="exclude", kind="click"):
    draw = np.random.default_rng(3)
    events = [
        (str(draw.choice(list("uvwxyz"))), str(draw.choice(list(ITEMS))), kind, int(draw.integers(1000)))
        for _ in range(120)
    ]
    return tiny(events, users="uvwxyz", items=ITEMS, repeat=repeat)


def without(example, away):
    past = tuple(i for i in example.state.history if i.item not in away)
    return dataclasses.replace(example, state=dataclasses.replace(example.state, history=past))


@pytest.mark.parametrize("repeat", ["exclude", "allow"])
def test_rows_are_those_of_the_whole_log_with_withheld_items_out_of_their_states(repeat):
    whole = log(repeat)
    split = make_split(whole, "time")
    kept, left, withheld = withhold(whole, split, SHARES, seed=0)
    away = set(withheld.all_items.tolist())
    assert {part: len(items) for part, items in withheld.items.items()} == {"valid": 3, "test": 5}
    assert len(away) == 8
    assert kept.n_items == whole.n_items
    assert not set(kept.events["item_id"]) & {ITEMS[i] for i in away}
    assert kept.manifest.content_hash != whole.manifest.content_hash == withheld.data_hash
    assert (left.cut_valid, left.cut_test) == (split.cut_valid, split.cut_test)
    for part in ("valid", "test"):
        own = set(withheld.items[part].tolist())
        full = examples(whole, split, part, history_events=1000)
        for new, wanted in ((False, set(range(20)) - away), (True, own)):
            found = examples(kept, left, part, history_events=1000, withheld=withheld, new_items=new)
            expected = [
                (without(e, away), seen) for e, seen in zip(full, full.seen, strict=True) if e.target in wanted
            ]
            assert expected
            assert found.rows == [row for row, _ in expected]
            # what a user has is known to the rule about repeats, withheld or not
            assert all(set(a) == set(b) for a, (_, b) in zip(found.seen, expected, strict=True))
    train = examples(kept, left, "train", withheld=withheld)
    assert not away & {e.target for e in train}
    assert not away & {i.item for e in train for i in e.state.history}


def test_more_are_withheld_of_the_same_items():
    whole = log()
    split = make_split(whole, "time")
    few, more = (
        set(withhold(whole, split, WithheldSettings(test=share), 1)[2].items["test"].tolist()) for share in (0.1, 0.3)
    )
    assert few < more
    assert len(withhold(whole, split, WithheldSettings(test=0.3), 1)[2].items["valid"]) == 3
    other = set(withhold(whole, split, WithheldSettings(test=0.3), 2)[2].items["test"].tolist())
    assert other != more


def test_given_rows_are_parted_by_their_target():
    whole = log("allow")
    marked = whole.events.with_columns(
        pl.when(pl.col("time") < 500).then(pl.lit("train")).otherwise(pl.lit("test")).alias("split")
    )
    rows = pl.DataFrame(
        {
            "split": ["test"] * 20,
            "user_id": ["u"] * 20,
            "history": [[ITEMS[n - 1], ITEMS[n - 2]] for n in range(20)],
            "target": list(ITEMS),
            "time": [999] * 20,
        }
    )
    given = whole.with_events(marked, rows)
    assert given.rows.height == 20
    assert given.manifest.counts["rows"] == 20
    split = make_split(given, "given")
    kept, left, withheld = withhold(given, split, WithheldSettings(test=0.25, valid=0.0), seed=0)
    away = withheld.items["test"].tolist()
    cold = examples(kept, left, "test", withheld=withheld, new_items=True)
    warm = examples(kept, left, "test", withheld=withheld)
    assert [e.target for e in cold] == away
    assert len(warm) == 15
    for example in (*cold, *warm):
        n = example.target
        assert [i.item for i in example.state.history] == [i % 20 for i in (n - 1, n - 2) if i % 20 not in away]


def test_what_nobody_could_choose_is_no_negative():
    whole = log()
    kept, left, withheld = withhold(whole, make_split(whole, "time"), SHARES, seed=0)
    drawn = impressions(kept, left, "train", never_drawn=withheld.all_items)
    assert len(drawn) > 100
    assert not set(drawn.item_M.tolist()) & set(withheld.all_items.tolist())
    assert set(impressions(kept, left, "train").item_M.tolist()) & set(withheld.all_items.tolist())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (WithheldSettings(test=1.0), "data.withheld.test"),
        (WithheldSettings(test=-0.1), "data.withheld.test"),
        (WithheldSettings(test=0.1, valid=1.5), "data.withheld.valid"),
        (WithheldSettings(valid=0.1), "set it too"),
        (WithheldSettings(test=0.6, valid=0.4), "leave items"),
        (WithheldSettings(test=0.8), "leave items"),
    ],
)
def test_shares_that_cannot_be_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        check_withheld(settings)


def test_nothing_to_withhold_or_to_ask_for_is_refused():
    whole = log()
    split = make_split(whole, "time")
    with pytest.raises(DataError, match="none of 20 items"):
        withhold(whole, split, WithheldSettings(test=0.01), 0)
    empty = dataclasses.replace(split, test=split.test.clear())
    with pytest.raises(DataError, match="lies in the test part"):
        withhold(whole, empty, SHARES, 0)
    with pytest.raises(DataError, match="no items are withheld"):
        examples(whole, split, "test", new_items=True)


def test_a_run_withholds_by_one_key_and_says_so(tmp_path):
    overrides = {"data.withheld.test": 0.1, "world.users": 60, "world.items": 40}
    config = RunConfig.read(None, overrides)
    data = open_data(config, Work(tmp_path / "w"))
    assert data.withheld is not None
    assert data.world is not None
    away = set(data.withheld.all_items.tolist())
    assert len(away) == 6
    assert data.world.dataset is data.dataset
    assert set(lessons_of(config, data).withheld.tolist()) == away
    plain = open_data(
        RunConfig.read(None, {k: v for k, v in overrides.items() if "withheld" not in k}), Work(tmp_path / "w")
    )
    assert data.withheld.data_hash == plain.dataset.manifest.content_hash
    new = targets(config, data, "test", None, new_items=True)
    assert len(new)
    assert {e.target for e in new} <= set(data.withheld.items["test"].tolist())
    assert not away & {e.target for e in targets(config, data, "test", None)}
    assert "4 items, and 2 others" in data.withheld.sentence()
