"""`llmrec batch`: everybody's list is the one that is recommended alone, whatever kills the job or shares it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from llmrec.batch import BatchJob, write_slates
from llmrec.catalogue.filters import Filters
from llmrec.cli.main import app
from llmrec.errors import LLMRecError, RequestError, RunError
from llmrec.recommender import Recommender
from llmrec.rules import read_rules
from tests.cli import tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def whole(recommender, tmp_path_factory):
    """The file of an undisturbed job, in parts of 16 users."""
    out = tmp_path_factory.mktemp("whole") / "slates.parquet"
    return out, write_slates(recommender, out, BatchJob(k=5, part=16))


def lists(frame, user):
    return frame.filter(pl.col("user_id") == user).sort("rank")["item_id"].to_list()


def test_each_list_is_the_one_that_is_recommended_alone(recommender, whole):
    out, said = whole
    frame, users = pl.read_parquet(out), recommender.data.users["user_id"].to_list()
    assert frame.columns == ["user_id", "rank", "item_id", "title", "log_prob"]
    assert said.users == said.decoded == len(users) == 120
    assert (said.rows, said.short) == (frame.height, 0) == (600, 0)
    assert frame["user_id"].unique(maintain_order=True).to_list() == users
    assert frame["rank"].to_list() == [1, 2, 3, 4, 5] * 120
    for user in users[::4]:
        alone = recommender.recommend(user=user, k=5)
        mine = frame.filter(pl.col("user_id") == user)
        assert mine["item_id"].to_list() == [item.item_id for item in alone.items]
        assert mine["title"].to_list() == [item.title for item in alone.items]
        assert mine["log_prob"].to_list() == pytest.approx([item.log_prob for item in alone.items], abs=1e-4)
    assert not out.with_name("slates.parquet.work").exists()


def test_a_share_of_the_day_holds_whichever_lists_are_shown(recommender, tmp_path):
    few = [item.item_id for item in recommender.bundle.items[:20]]
    (tmp_path / "rules.yaml").write_text(f"rules: [{{at_least: 50%, of: day, items: {{ids: {few}}}}}]\n")
    recommender.set_rules(read_rules(tmp_path / "rules.yaml"))
    try:
        write_slates(recommender, tmp_path / "out.parquet", BatchJob(k=5, part=50))
    finally:
        recommender.set_rules(())
    frame = pl.read_parquet(tmp_path / "out.parquet")
    counts = frame.group_by("user_id").agg(pl.col("item_id").is_in(few).sum())["item_id"]
    assert counts.min() >= 3


def test_filters_rules_and_users_are_as_they_are_asked(run, tmp_path):
    recommender = Recommender.load(run)
    items = recommender.bundle.items
    category = items[0].categories[0]
    within = {item.item_id for item in items if category in item.categories}
    (tmp_path / "rules.yaml").write_text(f"rules: [{{never: {{ids: [{items[1].item_id}]}}}}]\n")
    recommender.set_rules(read_rules(tmp_path / "rules.yaml"))
    users = tuple(recommender.data.users["user_id"].to_list()[9:3:-1])
    filters = Filters(categories=(category,))
    said = write_slates(
        recommender, tmp_path / "a.parquet", BatchJob(k=4, users=users, filters=filters, titles=False, part=4)
    )
    frame = pl.read_parquet(tmp_path / "a.parquet")
    assert frame.columns == ["user_id", "rank", "item_id", "log_prob"]
    assert frame["user_id"].unique(maintain_order=True).to_list() == list(users)
    assert set(frame["item_id"]) <= within - {items[1].item_id}
    for user in users:
        alone = recommender.recommend(user=user, k=4, filters=filters)
        assert lists(frame, user) == [item.item_id for item in alone.items]
    assert said.short == sum(len(lists(frame, user)) < 4 for user in users)


def test_a_user_to_whom_nothing_is_left_has_no_rows_and_stops_nobody(run, tmp_path):
    recommender = Recommender.load(run)
    events = recommender.data.events.filter(pl.col("kind") == "click")
    (item,) = events["item_id"].head(1)
    had = set(events.filter(pl.col("item_id") == item)["user_id"])
    filters = Filters(candidates=(item,))
    said = write_slates(recommender, tmp_path / "a.parquet", BatchJob(k=1, filters=filters, exclude_seen=True))
    frame = pl.read_parquet(tmp_path / "a.parquet")
    assert had
    assert not had & set(frame["user_id"])
    assert said.short == 120 - frame.height
    with pytest.raises(RequestError, match="leaves no item"):
        recommender.recommend(user=min(had), k=1, filters=filters, exclude_seen=True)


def test_a_job_that_is_killed_goes_on_and_ends_with_the_same_file(recommender, whole, tmp_path):
    out = tmp_path / "slates.parquet"
    job, parts = BatchJob(k=5, part=16), tmp_path / "slates.parquet.work" / "slates.partial"
    child = os.fork()
    if not child:  # stops to be killed when three parts are there
        decode = recommender.ranker.recommend
        recommender.ranker.recommend = lambda *a, **b: (
            (time.sleep(60) if len(list(parts.glob("part-*"))) == 3 else None) or decode(*a, **b)
        )
        try:
            write_slates(recommender, out, job)
        finally:
            os._exit(1)
    while len(list(parts.glob("part-*"))) < 3:
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not out.exists()
    with pytest.raises(RunError, match="unfinished stage"):  # these parts are not those of another job
        write_slates(recommender, out, BatchJob(k=4, part=16))
    said = write_slates(recommender, out, job)
    assert said.decoded == 120 - 3 * 16
    assert out.read_bytes() == whole[0].read_bytes()
    assert write_slates(recommender, out, job).decoded == 0
    assert sorted(place.name for place in tmp_path.iterdir()) == ["slates.parquet"]


def test_two_processes_write_the_file_of_one(run, cache, whole, tmp_path):
    out = tmp_path / "slates.parquet"
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "llmrec", "batch"]
    line += ["--model", str(run), "--out", str(out), "-k", "5", "--part", "16"]
    environment = tiny.environment(cache, PYTHONPATH=str(ROOT))
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: 120 users, 600 rows in ")
    assert pl.read_parquet(out).drop("log_prob").equals(pl.read_parquet(whole[0]).drop("log_prob"))


def test_bad_input_is_one_sentence(run, recommender, tmp_path):
    def asked(*words):
        return CliRunner().invoke(app, ["batch", *map(str, words)], catch_exceptions=False)

    with pytest.raises(RequestError, match=r"end with \.parquet"):
        asked("--model", run, "--out", tmp_path / "a.csv")
    (tmp_path / "mine.parquet").write_text("notes")
    for out, job, match in (
        ("mine.parquet", BatchJob(), "was not written by llmrec batch"),
        ("a.parquet", BatchJob(k=0), "asks for no item"),
        ("a.parquet", BatchJob(k=41), "more than the 40 items"),
        ("a.parquet", BatchJob(users=("nobody",)), "'nobody' is not in the data set"),
        ("a.parquet", BatchJob(filters=Filters(categories=("nothing",))), "nothing"),
    ):
        with pytest.raises(LLMRecError, match=match):
            write_slates(recommender, tmp_path / out, job)
    with pytest.raises(RequestError, match="holds no users"):
        write_slates(Recommender(recommender.bundle), tmp_path / "a.parquet", BatchJob())
    assert [place.name for place in tmp_path.iterdir()] == ["mine.parquet"]
