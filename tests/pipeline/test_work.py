"""Stages: finished ones are not made again, broken ones leave only their scratch, a new key starts anew."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmrec.errors import DataError, RunError
from llmrec.locks import Busy
from llmrec.pipeline.work import Unfinished, Work
from llmrec.training.callbacks import open_checkpoints


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


def test_a_stage_may_be_remade_only_where_that_was_said(tmp_path):
    calls = []
    build = build_counter(calls)
    with pytest.raises(KeyboardInterrupt):
        Work(tmp_path / "w", remake=False).stage("sft", {"lr": 1}, build)
    with pytest.raises(RunError, match="unfinished stage 'sft' made from other settings, data or software"):
        Work(tmp_path / "w", remake=False).stage("sft", {"lr": 2}, build)
    place = Work(tmp_path / "w", remake=False).stage("sft", {"lr": 1}, build)
    assert calls == [None, "half-way"]
    with pytest.raises(RunError, match=r"finished stage 'sft' made from other settings.*--force"):
        Work(tmp_path / "w", remake=False).stage("sft", {"lr": 2}, build)
    assert (place / "result").read_text() == "done"
    Work(tmp_path / "w").stage("sft", {"lr": 2}, build)
    assert len(calls) == 3


@pytest.mark.parametrize("name", ["sft", "sft.partial"])
def test_a_folder_that_is_no_stage_is_not_replaced(tmp_path, name):
    (tmp_path / "w" / name).mkdir(parents=True)
    (tmp_path / "w" / name / "novel.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds 'novel\.txt', which llmrec d"):
        Work(tmp_path / "w").stage("sft", 1, lambda folder, _: (folder / "x").touch())
    assert (tmp_path / "w" / name / "novel.txt").read_text() == "mine"


def test_checkpoints_of_another_program_are_not_removed(tmp_path):
    (tmp_path / "checkpoint-500").mkdir()
    with pytest.raises(RunError, match="checkpoints of another program"):
        open_checkpoints(tmp_path, "origin", resume=True)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-500"]
    assert open_checkpoints(tmp_path / "own", "origin", resume=True) == (None, 0.0)


def test_one_process_at_a_time_and_a_refusal_leaves_nothing(tmp_path):
    folder = tmp_path / "w"
    with Work(folder).alone():
        with pytest.raises(Busy, match="w is in use by process"):
            in_another_thread(lambda: Work(folder).alone().__enter__())
        with Work(folder).alone():  # the same thread may
            pass
        Work(folder).stage("sft", 1, lambda place, _: (place / "x").touch())
    assert [p.name for p in folder.iterdir()] == ["sft"]
    with pytest.raises(DataError), Work(tmp_path / "none").alone():
        raise DataError("refused")
    assert not (tmp_path / "none").exists()


def in_another_thread(call):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


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
    found = Work(tmp_path / "work", finished_only=True)
    assert found.stage("one", {"a": 1}, build) == place
    for name, key in (("one", {"a": 2}), ("two", {"a": 1})):
        with pytest.raises(Unfinished, match=f"{name} is not there, or was made from other settings"):
            found.stage(name, key, build)
    with pytest.raises(Unfinished):
        Work(tmp_path / "other", finished_only=True).stage("one", {"a": 1}, build)
    assert [file.name for file in (tmp_path / "work").iterdir()] == ["one"]
    assert not (tmp_path / "other").exists()
    assert Work(tmp_path / "work").stage("two", {"a": 1}, build).is_dir()


def truncated(path):
    path.write_bytes(path.read_bytes()[:3])


@pytest.mark.parametrize("name", ["stage.json", "result", "inner/more.bin"])
@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text("null"),
        lambda path: path.write_text('{"seconds": "x"}'),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
        lambda path: path.unlink(),
    ],
    ids=["cut", "deep", "null", "keys", "bytes", "gone"],
)
def test_a_damaged_stage_is_named_and_never_used(tmp_path, name, damage):
    def build(folder, scratch):
        (folder / "inner").mkdir()
        (folder / "result").write_text("0123456789")
        (folder / "inner" / "more.bin").write_bytes(b"\x00" * 100)

    place = Work(tmp_path / "w").stage("sft", 1, build)
    assert Work(tmp_path / "w").stage("sft", 1, build) == place
    damage(place / name)
    if name == "stage.json" and not (place / name).exists():
        return  # such a folder is no stage, and no stage made it: `new_folder` says so
    with pytest.raises(RunError, match=r"remove .*sft") as error:
        Work(tmp_path / "w").stage("sft", 1, build)
    assert name.split("/")[-1] in str(error.value)
    assert len(str(error.value)) < 700
    with pytest.raises(RunError):
        Work(tmp_path / "w", finished_only=True).stage("sft", 1, build)


def test_a_stage_of_an_older_version_without_hashes_is_taken(tmp_path):
    place = Work(tmp_path / "w").stage("sft", 1, lambda folder, _: (folder / "x").touch())
    record = json.loads((place / "stage.json").read_text())
    del record["sha256"]
    (place / "stage.json").write_text(json.dumps(record))
    assert Work(tmp_path / "w").stage("sft", 1, lambda *_: 1 / 0) == place


@pytest.mark.parametrize("text", ["null", "{", "[" * 100_000, '{"key": 5}'])
def test_a_damaged_mark_of_a_scratch_is_named_or_begun_anew(tmp_path, text):
    def killed(folder, scratch):
        (scratch / "step").write_text("1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Work(tmp_path / "w").stage("sft", 1, killed)
    (tmp_path / "w" / "sft.partial" / "key.json").write_text(text)
    try:
        Work(tmp_path / "w").stage("sft", 1, lambda folder, scratch: None)
    except RunError as error:
        assert "sft.partial" in str(error)  # noqa: PT017 (either is right)
