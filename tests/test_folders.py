"""Folders that are replaced: what a person has is never lost, one process writes, a kill leaves nothing.

What is decided here: `new_folder` replaces only what holds the mark of its kind, and files that llmrec did not write
stay, under their own name or as NAME.kept; an old folder that was moved aside comes back if the new one never came.
"""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llmrec.errors import RunError
from llmrec.files import check_writable, entries, matching, new_folder, reserved, write_text
from llmrec.locks import Busy, locked
from llmrec.storage import resolve, storage_error, storage_errors
from llmrec.written import LIST, write_list, written

OURS = matching("result", "deep/*.svg")


def put(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.parametrize("asked", ["nosuch/../mine", "mine/", "./mine", "link", "sub/../mine/.", "~/mine"])
def test_every_way_to_write_a_place_means_the_same_place(tmp_path, monkeypatch, asked):
    mine = put(tmp_path / "mine", notes__txt="mine")
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(mine)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(asked) == mine
    for how in ({}, {"mark": "llmrec.json"}):
        with pytest.raises(RunError, match=r"notes\.txt"), new_folder(Path(asked), **how):
            raise AssertionError("nothing is made for a place that is refused")
    assert entries(mine) == ["notes.txt"]
    with new_folder(Path(asked), ours=OURS) as folder:
        (folder / "result").touch()
    assert entries(mine) == ["notes.txt", "result"]
    assert (tmp_path / "link").is_symlink()


def test_places_that_cannot_be_replaced_are_refused(tmp_path, monkeypatch):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    for place in (".", "..", "../..", "/"):
        with pytest.raises(RunError, match="the folder that you are in"), new_folder(Path(place), ours=OURS):
            pass
    with pytest.raises(RunError, match="mount point"), new_folder(Path("/proc"), ours=OURS):
        pass
    with pytest.raises(RunError, match="is a file"), new_folder(put(tmp_path, file="") / "file", ours=OURS):
        pass
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for place in ("round", "round/within"):
        with pytest.raises(RunError, match=f"{place} is not a place"):
            resolve(tmp_path / place)
    with pytest.raises(RunError, match="not a place on this machine"):
        resolve("~nobody-of-that-name/x")
    with pytest.raises(RunError, match="too long"):
        check_writable(tmp_path / ("n" * 250) / "out")  # room for the folder's name, none for a temporary beside it
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "file", "round"]


def test_foreign_files_stay_and_get_another_name_where_theirs_is_taken(tmp_path):
    place = put(tmp_path / "run", result="old", notes__txt="mine", taken="mine")
    put(place / "deep", a__svg="old", own__txt="mine")
    put(place / "clash", within="mine")
    (place / "empty").mkdir()
    (place / "deep" / "dangling").symlink_to("nowhere")
    with new_folder(place, ours=OURS) as folder:
        put(folder, result="new", taken="new", clash="new")
        put(folder / "taken.kept", x="new")
        put(folder / "deep", b__svg="new")
    new = ["result", "taken", "clash", "taken.kept/x", "deep/b.svg"]
    mine = ["notes.txt", "taken.kept-2", "deep/own.txt", "clash.kept/within"]
    assert entries(place) == sorted([*new, *mine, "deep/dangling", "empty"])
    assert {(place / name).read_text() for name in mine} == {"mine"}
    assert {(place / name).read_text() for name in new} == {"new"}
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_written_file_that_a_person_changed_is_the_persons(tmp_path):
    place = put(tmp_path / "run", README__md="ours", weights="ours", old="ours")
    write_list(place)
    (place / "README.md").write_text("ours, and a line of mine")
    (place / "new.txt").write_text("mine")
    ours = written(matching("*"))
    assert sorted(ours(place)) == [LIST, "old", "weights"]
    with new_folder(place, ours=ours) as folder:
        put(folder, README__md="again", weights="again")
        write_list(folder)
    assert (place / "README.md.kept").read_text() == "ours, and a line of mine"
    assert entries(place) == ["README.md", "README.md.kept", LIST, "new.txt", "weights"]
    with new_folder(place, ours=ours) as folder:
        put(folder, README__md="third")
    assert entries(place) == ["README.md", "README.md.kept", "new.txt"]
    assert written(matching("README.md"))(place) == ["README.md"], "a folder without a list goes by the names"


def test_an_old_folder_comes_back_where_the_new_one_never_came(tmp_path):
    put(tmp_path / ".run.old-abcd_123" / "run", result="old")
    put(tmp_path / ".run.new-abcd_124", result="half")
    put(tmp_path / ".run.new-", mine="mine")
    put(tmp_path / ".other.new-abcd_124", result="another's")
    put(tmp_path / ".run*.new-abcd_124", result="another's")
    with reserved(tmp_path / "run"):
        assert (tmp_path / "run" / "result").read_text() == "old"
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == sorted([".other.new-abcd_124", ".run*.new-abcd_124", ".run.new-", "run"])
    put(tmp_path / ".run.old-abcd_123" / "run", result="older")
    with reserved(tmp_path / "run"):
        assert (tmp_path / "run" / "result").read_text() == "old", "what arrived is not replaced"
    assert not (tmp_path / ".run.old-abcd_123").exists()


@pytest.mark.parametrize("fails", [1, 2])
def test_a_swap_that_fails_half_way_is_undone(tmp_path, monkeypatch, fails):
    place = put(tmp_path / "run", result="old")
    calls, rename = [], Path.rename

    def failing(self, target):
        calls.append(self)
        if len(calls) == fails:
            raise OSError(errno.EIO, "Input/output error", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    said = "run cannot be used: the device reports an error"
    with pytest.raises(RunError, match=said), new_folder(place, ours=OURS) as folder:
        put(folder, result="new")
    assert (place / "result").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_failure_leaves_no_folder_above_either(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a" / "b" / "c"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, time
from pathlib import Path
from llmrec.files import new_folder
with new_folder(Path(sys.argv[1]), mark="result") as folder:
    (folder / "result").write_text("first")
    print("in", flush=True)
    time.sleep(60)
"""


def holder(place):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(place), "--told"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "in\n"
    return process


def test_a_second_writer_is_told_who_the_first_is_and_a_killed_one_holds_nothing(tmp_path):
    place = tmp_path / "run"
    process = holder(place)
    try:
        said = f"run is in use by process {process.pid} on .* since 20.*--told"
        with pytest.raises(Busy, match=said), new_folder(place, mark="result"):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert sorted(p.name[:9] for p in tmp_path.iterdir()) == [".run.lock", ".run.new-"], "what the kill left"
    with new_folder(place, mark="result") as folder:
        put(folder, result="second")
    assert (place / "result").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_who_waits_comes_next_and_threads_exclude_each_other(tmp_path):
    place, seen = tmp_path / "run", []

    def second():
        with pytest.raises(Busy), reserved(place):
            pass
        with new_folder(place, mark="result", wait=True) as folder:
            seen.append((place / "result").read_text())
            put(folder, result="second")

    with new_folder(place, mark="result") as folder:
        with reserved(place):  # the same thread may
            put(folder, result="first")
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        assert not seen
    thread.join(timeout=20)
    assert seen == ["first"]
    assert (place / "result").read_text() == "second"


def test_a_lock_file_that_says_nothing_or_nonsense_still_locks_and_an_old_one_does_not(tmp_path):
    file = tmp_path / ".lock"
    file.write_text(json.dumps({"pid": os.getpid(), "host": "here", "since": "then", "command": "old"}))
    with locked(file, tmp_path) as held:
        assert held
    for text in ("", "[1]", '{"pid": "\\u001b[2J", "host": 1, "since": 2, "command": 3}', "{" * 9):
        file.write_text(text)
        with file.open("r+") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(Busy, match="in use by another process"), locked(file, tmp_path):
                pass
    with locked(file, tmp_path):
        pass
    assert not file.exists()


def test_without_locks_in_the_file_system_work_goes_on(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with locked(tmp_path / ".lock", tmp_path) as held:
        assert not held
    put(tmp_path / ".run.new-abcd_123", half="of another process, perhaps")
    with new_folder(tmp_path / "run") as folder:
        put(folder, result="new")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".run.new-abcd_123", "run"]


def test_errors_of_the_disk_are_one_sentence_and_others_pass():
    place = Path("/data/out")
    assert "out cannot be used: the disk is full" in str(storage_error(OSError(errno.ENOSPC, "x"), place))
    said = storage_error(RuntimeError("I/O error: No space left on device (os error 28)"), place)
    assert "the disk is full" in str(said)
    temporary = PermissionError(errno.EACCES, "Permission denied", "/data/.out.new-abcd_123/weights")
    assert str(storage_error(temporary, place)).startswith("/data/out/weights cannot be used: there is no permission")
    assert "read-only" in str(storage_error(OSError(errno.EROFS, "x", "/media/x"), place))
    assert storage_error(FileNotFoundError(errno.ENOENT, "x", "/x"), place) is None
    assert storage_error(ValueError("wrong"), place) is None
    with pytest.raises(RunError, match="quota"), storage_errors(place):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    with pytest.raises(ZeroDivisionError), storage_errors(place):
        raise ZeroDivisionError


def test_a_file_below_a_file_is_named(tmp_path):
    put(tmp_path, file="")
    with pytest.raises(RunError, match="file cannot be used: a file of that name is in the way"):
        write_text(tmp_path / "file" / "x.json", "{}")
    with pytest.raises(RunError, match=r"file/x\.json cannot be used: a part of the path is a file"):
        write_text(tmp_path / "file" / "x.json" / "y", "{}")


@pytest.mark.parametrize(
    ("umask", "folder", "file", "tool"),
    [
        (0o022, 0o755, 0o644, 0o744),
        (0o077, 0o700, 0o600, 0o700),
        (0o002, 0o775, 0o664, 0o764),
        (0o027, 0o750, 0o640, 0o740),
    ],
)
def test_others_may_do_with_a_new_folder_what_the_umask_says_whatever_wrote_into_it(
    tmp_path, umask, folder, file, tool
):
    """A service may run as another user than the one who trained, and safetensors writes files for their owner alone."""
    before = os.umask(umask)
    try:
        with new_folder(tmp_path / "run") as work:
            put(work / "deep", private="weights", copied="from a cache").chmod(0o700)
            (work / "deep" / "private").chmod(0o600)
            (work / "deep" / "copied").chmod(0o666)
            (work / "tool").touch(0o700)
        write_text(tmp_path / "alone", "x")
    finally:
        os.umask(before)
    modes = {at.relative_to(tmp_path).as_posix(): at.stat().st_mode & 0o777 for at in sorted(tmp_path.rglob("*"))}
    both = {"alone": file, "run/deep/private": file, "run/deep/copied": file}
    assert modes == both | {"run": folder, "run/deep": folder, "run/tool": tool}
