"""The study of membership: groups, whose choices are asked, and that a policy which learnt people by heart is told."""

import pytest

from llmrec.config import RunConfig
from llmrec.errors import DataError
from llmrec.pipeline.data import open_data
from llmrec.pipeline.work import Work
from llmrec.studies.membership import GROUPS, Groups, _asked, run_membership
from tests.cli import tiny

WORLD = {key: value for key, value in tiny.SETTINGS.items() if key.startswith("world.")}


def test_groups_share_nobody_and_keep_the_moments_of_the_whole(tmp_path):
    config = RunConfig.read(None, WORLD)
    whole = open_data(config, Work(tmp_path))
    groups = Groups.of(whole, 0).data
    own = {group: set(data.dataset.users["user_id"]) for group, data in groups.items()}
    assert sum(map(len, own.values())) == len(set().union(*own.values()))
    assert set().union(*own.values()) == set(whole.split.train["user_id"])
    for group in GROUPS:
        split, all_of_them = groups[group].split, whole.split.train
        assert set(split.train["user_id"]) == own[group]
        assert split.train.height == all_of_them["user_id"].is_in(list(own[group])).sum()
        assert (split.cut_valid, split.cut_test) == (whole.split.cut_valid, whole.split.cut_test)
        asked, of_B = _asked(config, groups[group], 7, 2)
        assert len(set(of_B)) == 7
        assert max(map(of_B.count, of_B)) <= 2
        assert all(example.state.time < whole.split.cut_valid for example in asked)
    assert Groups.of(whole, 1).data["members"].dataset.manifest != groups["members"].dataset.manifest
    few = whole.dataset.users["user_id"].to_list()[5:]
    import dataclasses

    import polars as pl

    left = dataclasses.replace(whole.split, train=whole.split.train.filter(~pl.col("user_id").is_in(few)))
    with pytest.raises(DataError, match="users have training events"):
        Groups.of(dataclasses.replace(whole, split=left), 0)


@pytest.mark.slow  # three trainings of a tiny policy, a minute
def test_people_who_were_learnt_by_heart_are_told(tmp_path):
    few = {**tiny.SETTINGS, "sft.epochs": 40, "sft.examples": 400, "sft.learning_rate": 5e-3, "sft.save_every": 1000}
    found = run_membership([0], tmp_path, few, users=40, each=6)["attacks"]
    assert found["LM"]["auc"]["low"] > 0.6
    assert set(found) == {"LM", "LM, calibrated", "covisitation-fixed"}
