"""What is released: a wheel that works outside of the repository, and a source archive that makes the same wheel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.cli import tiny

ROOT = Path(__file__).parents[2]
SHIPPED = {
    "prompts": "_prompts",
    "data": "_data_recipes",
    "train/recipes": "_train_recipes",
    "train/accelerate": "_accelerate",
}


def build(source: Path, out: Path, *targets: str) -> None:
    line = [sys.executable, "-m", "hatchling", "build", "-d", str(out), *targets]
    subprocess.run(line, cwd=source, check=True, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    build(ROOT, out)
    (wheel,), (archive,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, archive


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


@pytest.mark.slow
def test_the_wheel_holds_package_prompts_and_recipes_and_nothing_else(built):
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    wanted = {name for name in tracked if name.startswith("llmrec/")}
    for folder, inside in SHIPPED.items():
        wanted |= {f"llmrec/{inside}/{n.removeprefix(folder + '/')}" for n in tracked if n.startswith(f"{folder}/")}
    assert {name for name in names(built[0]) if ".dist-info/" not in name} == wanted


@pytest.mark.slow
def test_the_source_archive_makes_the_same_wheel(built, tmp_path):
    wheel, archive = built
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    build(source, tmp_path / "again", "-t", "wheel")
    (again,) = (tmp_path / "again").glob("*.whl")
    assert names(again) == names(wheel)
    assert (source / "tests" / "cli" / "test_wheel.py").is_file()


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """An environment with the wheel alone; what it needs is read from this one's."""
    home = tmp_path_factory.mktemp("elsewhere")
    venv.EnvBuilder(with_pip=False).create(home / "env")
    (packages,) = (home / "env").glob("lib/python*/site-packages")
    # a folder that a .pth names is only a place to import from: the editable install there is not followed
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = home / "env" / "bin" / "python"
    line = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]
    subprocess.run([*line, "--ignore-installed", str(built[0])], check=True, capture_output=True, timeout=300)

    def call(*words, code=0):
        own = {k: v for k, v in tiny.environment(home / "cache").items() if k != "PYTHONPATH"}
        line = [str(home / "env" / "bin" / "llmrec"), *map(str, words)]
        done = subprocess.run(line, cwd=home, env=own, capture_output=True, text=True, timeout=1000)
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    where = [str(python), "-c", "import llmrec; print(llmrec.__file__)"]
    found = subprocess.run(where, cwd=home, env=own, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(found).is_relative_to(home), "the package of the wheel"
    return home, call


@pytest.mark.slow
def test_the_commands_work_outside_of_the_repository(installed):
    home, call = installed
    assert json.loads(call("info", "--json"))["versions"]
    assert yaml.safe_load(call("config", "gate"))["gate"]["slate"] == 10
    never = '[{never: {words: [yoga]}, name: "no yoga"}, {at_most: 1, per: category}]'
    call("demo", "--out", home / "run", *tiny.arguments(rules=never))
    metrics = json.loads((home / "run" / "metrics.json").read_text())
    assert metrics["rules_of_all_lists"] == 2, "the comparison is under the rules"
    told = json.loads(call("recommend", "--model", home / "run", "--prompt", "yoga, please", "-k", 4, "--json"))
    titles = [item["title"] for item in told["items"]]
    assert titles
    assert not any("yoga" in title.lower() for title in titles)
    (home / "none.yaml").write_text("rules: []\n")
    more = call(
        "recommend", "--model", home / "run", "--prompt", "x", "-k", 10, "--json", "--rules", home / "none.yaml"
    )
    assert len(json.loads(more)["items"]) == 10
    bad = call("demo", "--out", home / "bad", *tiny.arguments(rules="[{never: {brands: [Nobody]}}]"), code=2)
    assert not (home / "bad").exists(), bad
