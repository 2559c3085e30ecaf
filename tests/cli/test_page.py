"""`llmrec page --space` on a finished run: a folder that stands by itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request

import pytest
import yaml

from tests.cli import tiny


@pytest.fixture(scope="module")
def space(finished, cache, tmp_path_factory):
    out, _ = finished
    place = tmp_path_factory.mktemp("space") / "space"
    done = tiny.llmrec("page", out, "--space", place, cache=cache)
    assert "Space in" in done.stdout
    return place


def test_a_space_holds_what_it_needs_and_no_more(space, finished):
    card = (space / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---")[1])
    assert header["sdk"] == "gradio"
    assert header["app_file"] == "app.py"
    needed = (space / "requirements.txt").read_text().splitlines()
    assert f"gradio=={header['sdk_version']}" in needed
    assert any(line.startswith("torch>=") for line in needed)
    assert not any("extra" in line or line.startswith("llmrec") for line in needed)
    assert sorted(path.name for path in space.iterdir()) == sorted(
        ["README.md", "app.py", "beside", "data", "llmrec", "requirements.txt", "run"]
    )
    assert not [
        p for p in space.rglob("*") if p.is_symlink() or p.name == "__pycache__" or p.suffix in (".pt", ".pth")
    ]


def test_it_is_written_anew_beside_what_a_person_put_there(space, finished, cache, tmp_path):
    out, _ = finished
    before = sorted(path.relative_to(space) for path in space.rglob("*"))
    tiny.llmrec("page", out, "--space", space, cache=cache)
    assert sorted(path.relative_to(space) for path in space.rglob("*")) == before
    # what a person put there, such as the repository that is pushed, stays
    (tmp_path / "mine" / ".git").mkdir(parents=True)
    (tmp_path / "mine" / ".git" / "HEAD").write_text("ref: refs/heads/main")
    tiny.llmrec("page", out, "--space", tmp_path / "mine", cache=cache)
    assert (tmp_path / "mine" / ".git" / "HEAD").read_text() == "ref: refs/heads/main"
    assert (tmp_path / "mine" / "app.py").is_file()


def test_it_starts_by_itself_from_its_own_package(space, tmp_path):
    """Without the network, in another folder, with the package that lies in it."""
    code = (
        f"import sys, runpy; sys.path.insert(0, {str(space)!r}); import llmrec; print(llmrec.__file__, flush=True);"
    )
    code += f"runpy.run_path({str(space / 'app.py')!r}, run_name='__main__')"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"GRADIO_SERVER_PORT": "0", "GRADIO_SERVER_NAME": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    said = tmp_path / "said"
    with said.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=file, stderr=file
        )
    try:
        end = time.monotonic() + 120
        while not (found := re.search(r"http://[\d.]+:\d+", said.read_text())):
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < end
            time.sleep(0.2)
        assert str(space / "llmrec") in said.read_text()
        with urllib.request.urlopen(found[0], timeout=20) as answer:
            text = answer.read().decode()
        # warm start or last checkpoint, what was handed on, and the baseline of the world's users
        assert "co-visitation" in text
        assert "SFT" in text
    finally:
        process.terminate()
        process.wait(20)
