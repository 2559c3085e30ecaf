"""The boundary of the command line: one bounded sentence for what can be mended, a report for a fault."""

import errno
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmrec.cli.guard import boundary, mend_of
from llmrec.cli.info import collect_info, shortened
from llmrec.errors import DataError
from llmrec.printing import LONGEST, one_line
from tests.cli import tiny


def ended(capsys, error):
    """Exit code and what stood on standard error."""
    with pytest.raises(SystemExit) as end, boundary("llmrec"):
        raise error
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "x" * 37_000_000 + " mend it",
        "a\nb\r\nllmrec: all is well\n" * 4,
        "\x1b]8;;http://evil\x1b\\title\x1b[31m",
        "\u202eevil",
    ],
    ids=["37 MB", "lines", "escapes", "bidirectional"],
)
def test_a_message_is_one_bounded_line_without_control_characters(capsys, text):
    code, said = ended(capsys, DataError(text))
    assert code == 2
    assert said.count("\n") == 1
    assert len(said) <= LONGEST + len("llmrec: \n")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", said)


def test_a_cut_message_keeps_cause_and_mend():
    text = "The table is wrong: " + ", ".join(f"column{n}" for n in range(1000)) + "; leave them out."
    assert one_line(text).startswith("The table is wrong: column0")
    assert one_line(text).endswith("leave them out.")
    assert one_line("Short, as it is.") == "Short, as it is."
    assert len(one_line("y" * 601)) == LONGEST
    assert one_line("y" * 600) == "y" * 600


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), ["runs/x", "the disk is full"]),
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), ["runs/x", "permission"]),
        (OSError(errno.EROFS, "Read-only file system", "a"), ["read-only"]),
        (MemoryError(), ["memory does not suffice"]),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), ["memory", "2.00 GiB"]),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), ["memory"]),
        (ModuleNotFoundError("No module named 'wandb'", name="wandb"), ["'wandb'", "install"]),
        (RuntimeError("TCPStore: timed out waiting for clients"), ["processes", "launched"]),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Exception) else "",
)
def test_errors_of_others_that_a_person_can_mend(capsys, error, words):
    code, said = ended(capsys, error)
    assert code == 2
    assert said.count("\n") == 1
    assert all(word in said for word in words), said


def test_a_fault_says_where_its_traceback_is_and_how_to_report_it(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("LLMREC_TRACEBACK", raising=False)
    code, said = ended(capsys, TypeError("unsupported\noperand"))
    assert code == 1
    assert said.count("\n") == 1
    assert "fault of llmrec: TypeError: unsupported operand" in said
    assert "llmrec info" in said
    (file,) = tmp_path.iterdir()
    assert str(file) in said
    assert "Traceback (most recent call last)" in file.read_text()
    monkeypatch.setenv("LLMREC_TRACEBACK", "1")
    code, said = ended(capsys, KeyError("pad"))
    assert code == 1
    assert "Traceback (most recent call last)" in said


def test_unknown_errors_and_our_own_missing_parts_are_faults():
    assert mend_of(TypeError("x")) is None
    assert mend_of(RuntimeError("shape mismatch")) is None
    assert mend_of(ModuleNotFoundError("No module named 'llmrec.nothing'", name="llmrec.nothing")) is None


def test_scripts_share_the_boundary(tmp_path):
    (tmp_path / "a.py").write_text(
        "from llmrec.cli.guard import guarded\n@guarded\ndef main():\n    raise ZeroDivisionError('by 0')\nmain()\n"
    )
    environment = tiny.environment(tmp_path, TMPDIR=str(tmp_path))
    done = subprocess.run([sys.executable, "a.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: this is a fault of llmrec: ZeroDivisionError: by 0")


def test_info_names_versions_and_no_user(cache):
    found = json.loads(tiny.llmrec("info", "--json", cache=cache).stdout)
    assert {"python", "llmrec", "torch", "transformers", "trl", "peft", "accelerate", "polars"} <= set(
        found["versions"]
    )
    assert found["folders"]["cache"] == shortened(str(cache))
    assert str(Path.home()) + "/" not in json.dumps(found)
    # what tests need is there, with its version
    assert f"fastapi {importlib.metadata.version('fastapi')}" in found["versions"]["optional"].split(", ")
    assert "accelerator" in tiny.llmrec("info", cache=cache).stdout


def test_info_tells_no_secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setenv("WANDB_API_KEY", "alsosecret")
    assert "secret" not in json.dumps(collect_info())
    assert shortened(f"{Path.home()}/a/b") == "~/a/b"
    assert shortened("/data/b") == "/data/b"


def test_the_shell_can_complete_commands():
    from typer.testing import CliRunner

    from llmrec.cli.main import app

    asked = {"_LLMREC_COMPLETE": "complete_bash", "COMP_WORDS": "llmrec au", "COMP_CWORD": "1"}
    assert CliRunner().invoke(app, [], prog_name="llmrec", env=asked).output.split() == ["audit"]
