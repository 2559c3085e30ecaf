"""Versions of a policy: complete or absent, served by one rename, taken back for good."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llmrec.errors import RunError
from llmrec.online.versions import SERVED, HotSwap, Version, Versions

SIZE = 200_000


def writer(number):
    """Files whose content tells the number, so that a mixture of two versions shows."""

    def write(folder: Path) -> None:
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            (folder / name).write_text(str(number) * (SIZE // len(str(number))))

    return write


def read(version: Version) -> int:
    """The number in both files; raises where they are half there or of two versions."""
    found = set()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        text = (version.folder / name).read_text()
        number = str(version.number)
        assert text == number * (SIZE // len(number))
        found.add(version.number)
    (one,) = found
    return one


@pytest.fixture
def versions(tmp_path):
    return Versions(tmp_path / "versions")


def test_promotion_and_rollback(versions):
    assert (versions.numbers(), versions.serving().number) == ([], None)
    for number in (1, 2, 3):
        assert versions.add(writer(number), {"step": number}).number == number
    assert versions.serving().number is None  # added is not served
    versions.promote(1, "first")
    versions.promote(3, "better")
    serving = versions.serving()
    assert (serving.number, serving.before, serving.reason, serving.change) == (3, (1,), "better", 2)
    assert versions.version(3).facts == {"step": 3}
    back = versions.roll_back("worse")
    assert (back.number, back.before, back.withdrawn) == (1, (), (3,))
    with pytest.raises(RunError, match="was taken back"):
        versions.promote(3, "again")
    with pytest.raises(RunError, match="no version before"):
        versions.roll_back("worse still")
    assert versions.add(writer(4)).number == 4
    assert versions.promote(4, "").before == (1,)
    assert versions.promote(4, "twice").before == (1,)


def test_a_version_that_fails_leaves_nothing(versions):
    def fails(folder):
        (folder / "half").write_text("x")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        versions.add(fails)
    assert versions.numbers() == []
    assert [p for p in versions.folder.iterdir() if not p.name.endswith(".lock")] == []


def test_what_is_missing_damaged_or_foreign(versions):
    with pytest.raises(RunError, match="has no version 1"):
        versions.promote(1, "")
    versions.add(writer(1))
    (versions.folder / "0001" / "adapter_config.json").write_text("changed")
    with pytest.raises(RunError, match="not as version 1 was written"):
        versions.promote(1, "")
    (versions.folder / SERVED).write_text("{}")
    with pytest.raises(RunError, match="not of the format"):
        versions.serving()


def test_a_reader_swaps_whole_versions_and_keeps_one_that_works(versions, capsys):
    swap = HotSwap(versions, read)
    with pytest.raises(RunError, match="serves nothing yet"):
        swap.current()
    versions.add(writer(1))
    versions.promote(1, "")
    assert swap.current() == (1, 1)
    versions.add(writer(2))
    assert swap.current() == (1, 1)
    versions.promote(2, "")
    assert swap.current() == (2, 2)
    versions.add(writer(3))
    versions.promote(3, "")
    (versions.folder / "0003" / "adapter_config.json").write_text("cut")
    assert swap.current() == (2, 2)
    versions.roll_back("damaged")
    assert swap.current() == (2, 2)


def test_threads_read_while_versions_change(versions):
    versions.add(writer(1))
    versions.promote(1, "")
    swap, wrong = HotSwap(versions, read), []

    def reads():
        last = 0
        while last < 6:
            number, content = swap.current()
            if number != content or number < last:
                wrong.append((number, content))
            last = number

    threads = [threading.Thread(target=reads) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(2, 7):
        versions.add(writer(number))
        versions.promote(number, "")
    for thread in threads:
        thread.join(timeout=30)
    assert wrong == []


CODE = """
import os, sys
from pathlib import Path
from llmrec.online.versions import Versions
from tests.online.test_versions import writer
for _ in sys.stdin:
    child = os.fork()
    if not child:
        versions = Versions(Path(sys.argv[1]))
        print(os.getpid(), flush=True)
        while True:
            number = max(versions.numbers(), default=0) + 1
            versions.add(writer(number))
            versions.promote(number, "")
    os.waitpid(child, 0)
    print(child, flush=True)
"""


def test_kills_leave_whole_versions(versions):
    """A process that adds and promotes is killed at 50 random moments; children end with their pipe."""
    draw = random.Random(3)
    command = [sys.executable, "-c", CODE, str(versions.folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            for _ in range(50):
                process.stdin.write("next\n")
                process.stdin.flush()
                child = process.stdout.readline()
                time.sleep(draw.uniform(0, 0.12))
                os.kill(int(child), signal.SIGKILL)
                assert process.stdout.readline() == child
                serving = versions.serving()
                if serving.number is not None:
                    assert read(versions.version(serving.number)) == serving.number
        finally:
            process.kill()
    for number in versions.numbers():
        assert read(versions.version(number)) == number
    assert len(versions.numbers()) > 5
    json.loads((versions.folder / SERVED).read_text())
