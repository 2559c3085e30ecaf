"""A disk that is full or read-only: one sentence, exit code 2, nothing half-written, and the same command goes on."""

import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.config import WorldConfig
from llmrec.dataset.world.world import generate_world
from llmrec.errors import RunError
from llmrec.files import new_folder, write_json
from llmrec.pipeline.work import Work
from tests import forked
from tests.cli import tiny


def mount(place: Path, *options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)], check=True)


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own; `disk(size=...)` makes it larger, `disk(ro)` read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mount(place, "size=64k")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system can be mounted by root alone")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(disk):
    with new_folder(disk / "run", mark="result") as folder:
        (folder / "result").write_text("old")
    full = r"cannot be used: the disk is full; make room"
    with pytest.raises(RunError, match=full), new_folder(disk / "run", mark="result") as folder:
        (folder / "result").write_bytes(bytes(100_000))
    with pytest.raises(RunError, match=r"x\.json cannot be used: the disk is full"):
        write_json(disk / "x.json", "x" * 100_000)
    with pytest.raises(RunError, match="the disk is full"):  # polars and safetensors report it as text
        generate_world(WorldConfig(users=300, items=60), 0).save(disk / "world")
    assert (disk / "run" / "result").read_text() == "old"
    assert [p.name for p in disk.iterdir()] == ["run"]


def test_a_stage_keeps_its_checkpoints_on_a_full_disk_and_goes_on(disk):
    seen = []

    def build(folder, scratch):
        seen.append((scratch / "checkpoint").exists())
        (scratch / "checkpoint").write_bytes(b"half")
        (folder / "weights").write_bytes(bytes(100_000))

    with pytest.raises(RunError, match="the disk is full"):
        Work(disk / "x.work").stage("sft", 1, build)
    assert sorted(p.name for p in (disk / "x.work").iterdir()) == ["sft.partial"]
    mount(disk, "remount", "size=1m")
    place = Work(disk / "x.work").stage("sft", 1, build)
    assert seen == [False, True]
    assert (place / "weights").stat().st_size == 100_000


@pytest.mark.parametrize("where", ["new", "there", "deep/new"])
def test_a_read_only_folder_is_refused_before_anything_is_read(disk, where):
    (disk / "there").mkdir()
    mount(disk, "remount", "ro")
    for words in (["data", "world", str(disk / where)], ["demo", "--out", str(disk / where)]):
        done = CliRunner().invoke(app, words)
        assert isinstance(done.exception, RunError)
        assert "cannot be used: it lies on a read-only file system; name a place that can be written" in str(
            done.exception
        )


def test_other_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    for out, said in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "x", "a part of the path is a file"),
        (tmp_path / ("n" * 300), "its name is too long"),
        (tmp_path / ("n" * 248), "its name is too long"),
        (tmp_path / "deep" / ("é" * 130) / "x", "its name is too long"),
    ):
        for words in (["data", "world", str(out)], ["demo", "--out", str(out)]):
            done = CliRunner().invoke(app, words)
            assert isinstance(done.exception, Exception)
            assert said in str(done.exception), (words, done.exception)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
def test_a_run_on_a_disk_that_is_full_again_and_again_ends_with_the_same_figures(finished, disk, cache):
    out, _ = finished
    size, refused = 128, 0
    while True:
        mount(disk, "remount", f"size={size}k")
        line = tiny.command("demo", "--out", disk / out.name, *tiny.arguments())
        done = forked.run(line, env=tiny.environment(cache))
        if done.returncode == 0:
            break
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 2, done.stderr
        assert "the disk is full; make room, then give the same command again" in last, done.stderr
        assert "Traceback" not in done.stderr
        assert not [p.name for p in disk.rglob(".*")], "neither temporary folders nor locks"
        assert not (disk / out.name).exists()
        size, refused = 3 * size, refused + 1
        assert size < 100_000
    assert refused >= 3
    assert tiny.metrics(disk / out.name) == tiny.metrics(out)
    assert sorted(p.name for p in disk.iterdir()) == [out.name, f"{out.name}.work"]
