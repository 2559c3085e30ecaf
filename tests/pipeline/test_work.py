"""Stages: finished ones are not made again, broken ones leave only their scratch, a new key starts anew."""

import pytest

from llmrec.errors import DataError, RunError
from llmrec.pipeline.work import Unfinished, Work, finished_only


def build_counter(calls):
    def build(folder, scratch):
        calls.append((scratch / "step").read_text() if (scratch / "step").exists() else None)
        (scratch / "step").write_text("half-way")
        if len(calls) == 1:
            raise KeyboardInterrupt
        (folder / "result").write_text("done")

    return build


def test_a_stage_resumes_from_its_scratch_and_is_then_kept(tmp_path):
    calls = []
    build = build_counter(calls)
    with pytest.raises(KeyboardInterrupt):
        Work(tmp_path / "w").stage("sft", {"lr": 1}, build)
    assert sorted(p.name for p in (tmp_path / "w").iterdir()) == ["sft.partial"]
    place = Work(tmp_path / "w").stage("sft", {"lr": 1}, build)
    assert calls == [None, "half-way"]
    assert (place / "result").read_text() == "done"
    Work(tmp_path / "w").stage("sft", {"lr": 1}, build)
    assert len(calls) == 2
    assert sorted(p.name for p in (tmp_path / "w").iterdir()) == ["sft"]


def test_another_key_forgets_the_scratch(tmp_path):
    calls = []
    build = build_counter(calls)
    with pytest.raises(KeyboardInterrupt):
        Work(tmp_path / "w").stage("sft", {"lr": 1}, build)
    Work(tmp_path / "w").stage("sft", {"lr": 2}, build)
    assert calls == [None, None]


def test_debris_of_a_kill_is_removed(tmp_path):
    debris = tmp_path / "w" / ".sft.new-abcdefgh"
    debris.mkdir(parents=True)
    Work(tmp_path / "w").stage("sft", 1, lambda folder, _: (folder / "x").touch())
    assert not debris.exists()


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "w").write_text("")
    with pytest.raises(RunError, match="is a file"):
        Work(tmp_path / "w")


def test_a_refusal_leaves_nothing_and_work_done_stays(tmp_path):
    def refuse(folder, scratch):
        raise DataError("bad row")

    def refuse_late(folder, scratch):
        (scratch / "checkpoint").touch()
        raise DataError("bad row")

    with pytest.raises(DataError):
        Work(tmp_path / "w").stage("data", 1, refuse)
    assert not (tmp_path / "w").exists()
    with pytest.raises(DataError):
        Work(tmp_path / "w").stage("data", 1, refuse_late)
    assert (tmp_path / "w" / "data.partial" / "checkpoint").exists()


def test_where_nothing_may_be_made_a_stage_is_found_or_refused(tmp_path):
    def build(folder, scratch):
        (folder / "x").write_text("made")

    place = Work(tmp_path / "work").stage("one", {"a": 1}, build)
    with finished_only():
        assert Work(tmp_path / "work").stage("one", {"a": 1}, build) == place
        for name, key in (("one", {"a": 2}), ("two", {"a": 1})):
            with pytest.raises(Unfinished, match=f"{name} is not there, or was made from other settings"):
                Work(tmp_path / "work").stage(name, key, build)
        with pytest.raises(Unfinished):
            Work(tmp_path / "other").stage("one", {"a": 1}, build)
    assert [file.name for file in (tmp_path / "work").iterdir()] == ["one"]
    assert not (tmp_path / "other").exists()
    assert Work(tmp_path / "work").stage("two", {"a": 1}, build).is_dir()
