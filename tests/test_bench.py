"""eval/bench.py: the pages and the entries agree, and entries are run, kept, skipped and refused as a person sees it."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmrec.config import RunConfig
from llmrec.config_tree import from_tree, merged, override_tree, parse_overrides
from llmrec.errors import ConfigError
from llmrec.studies.adaptation.setting import StudySettings
from llmrec.studies.online.reading import SIZES
from tests.overrides import given

ROOT = Path(__file__).parents[1]
SCRIPT, BOOK = ROOT / "eval" / "bench.py", ROOT / "eval" / "bench.yaml"
SHARED = {"StudyScript": ROOT / "llmrec" / "cli" / "script.py", "import speed": ROOT / "eval" / "speed.py"}
"""Options that several scripts have stand in one place."""
PAGES = ("docs/benchmarks.md", "docs/benchmarks-rl.md", "docs/benchmarks-table.md")


@pytest.fixture(scope="module")
def module() -> Any:
    specification = importlib.util.spec_from_file_location("bench_entries", ROOT / "eval" / "bench_entries.py")
    assert specification is not None
    found = sys.modules[specification.name] = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(found)  # type: ignore[union-attr]
    return found


@pytest.fixture(scope="module")
def book(module: Any) -> list[Any]:
    return module.read_book(BOOK)


def parts(page: str) -> tuple[set[str], dict[str, str], set[str]]:
    """Headings, bold leads with the heading above each, and which of both have a table."""
    headings: set[str] = set()
    leads: dict[str, str] = {}
    tabled: set[str] = set()
    heading = part = ""
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = part = re.sub(r" \([0-9-]+\)$", "", line.removeprefix("## "))
            headings.add(part)
        elif line.startswith("**"):
            part = line.removeprefix("**").partition("**")[0].rstrip(".")
            leads[part] = heading
        elif re.match(r"\|[-:| ]+\|$", line):
            tabled.add(part)
    return headings, leads, tabled


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_has_an_entry_and_every_entry_its_block(page: str, book: list[Any]) -> None:
    headings, leads, tabled = parts(page)
    named = {entry.part for entry in book if entry.page == page}
    assert len(headings) >= 3
    assert len(leads) >= 3 or page == "docs/benchmarks-table.md"
    assert named <= headings | set(leads)
    assert tabled <= named, "tables without an entry"
    assert set(leads) <= named
    bare = {h for h in headings if h not in leads.values()}
    assert bare <= named
    assert {entry.page for entry in book} >= set(PAGES)


def test_entries_of_other_pages_stand_under_a_heading_of_theirs(book: list[Any]) -> None:
    """A mechanism's own page holds its figures; what else stands there needs no entry."""
    for entry in book:
        headings, leads, _ = parts(entry.page)
        assert entry.part in headings | set(leads), entry.id


def section(page: str, part: str) -> str:
    """The text from a heading or bold lead to the next one."""
    text = (ROOT / page).read_text(encoding="utf-8")
    begin = re.search(rf"^(## |\*\*){re.escape(part)}", text, re.MULTILINE)
    assert begin is not None
    end = re.compile(r"^(## |\*\*)", re.MULTILINE).search(text, begin.end())
    return text[begin.start() : end.start() if end else None]


def test_what_cannot_be_made_or_compared_any_more_is_marked_in_its_page(book: list[Any]) -> None:
    old = [entry for entry in book if entry.retired or entry.stale]
    assert len(old) >= 8
    for entry in old:
        said = " ".join(section(entry.page, entry.part).split())
        assert re.search(r"[Mm]ade with the version of 20|cannot be made again|is of the import of 20", said), (
            entry.id
        )
    marks = sum((ROOT / page).read_text(encoding="utf-8").count("ade with the version of") for page in PAGES)
    assert marks <= len(old), "a mark without an entry"


def test_scripts_exist_and_know_their_flags(book: list[Any]) -> None:
    known = {"llmrec": "".join(p.read_text(encoding="utf-8") for p in (ROOT / "llmrec" / "cli").glob("*.py"))}
    seen = set()
    for text in (text for entry in book for text in (entry.command, entry.quick) if text):
        head, first, *rest = shlex.split(text)
        seen.add(head)
        if head == "pytest":
            assert all((ROOT / word).is_file() for word in rest if word.startswith("tests/")), text
            continue
        if first == "-c":
            compile(rest[0], "bench.yaml", "exec")
            continue
        source = known[head] if head == "llmrec" else (ROOT / first).read_text(encoding="utf-8")
        source += "".join(shared.read_text(encoding="utf-8") for name, shared in SHARED.items() if name in source)
        for flag in (word for word in rest if word.startswith("--")):
            option = flag.removeprefix("--").replace("-", "_")
            assert f'"{flag}"' in source or (head == "llmrec" and f"{option}:" in source), f"{first} {flag}"
        if "{json}" in text:
            assert '"--json"' in source
    assert seen == {"python", "llmrec", "pytest"}


def test_configuration_keys_of_commands_are_known(book: list[Any]) -> None:
    for text in (text for entry in book for text in (entry.command, entry.quick) if text):
        words = shlex.split(text)
        keys = [word for word in words if re.match(r"[a-z_]+\.[a-z_.]+=", word)]
        if words[1:3] == ["eval/online.py", "changes"]:  # its keys are those of a study's own settings
            own = [word for before, word in itertools.pairwise(words) if before == "--set"]
            changed = override_tree(parse_overrides(own, StudySettings))
            from_tree(StudySettings, merged(dataclasses.asdict(SIZES), changed), "--set")
            continue
        RunConfig.read(None, given(*keys))
        assert words.count("--set") <= len(keys) + text.count("seed=")


def test_expectations_stand_in_their_page(book: list[Any]) -> None:
    """Every expected number, as the page writes it: with all its digits, perhaps as a percentage, minus as −."""
    text = {page: (ROOT / page).read_text(encoding="utf-8").replace("−", "-").replace(",", "") for page in PAGES}
    text[PAGES[1]] += (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")  # hashes of its worlds
    checked = 0
    for entry in book:
        for expect in entry.expect:
            for value in expect.values.values():
                if isinstance(value, str):
                    ways = [value]
                elif value in (0, 1):
                    continue
                else:
                    size = f"{abs(value):.6f}".rstrip("0").rstrip(".")
                    ways = [size, size.removeprefix("0"), f"{100 * abs(value):.2f}%"]
                assert any(way in text[entry.page] for way in ways), (entry.id, value)
                checked += 1
    assert checked > 150


FAKE = """
import json, sys
from pathlib import Path
kind, *files = sys.argv[1:]
print("said by", kind)
if kind == "bad":
    sys.exit(3)
if kind == "base":
    Path(files[1]).mkdir(parents=True, exist_ok=True)
    (Path(files[1]) / "runs").open("a").write("x")
if kind == "child":
    print((Path(files[1]) / "runs").read_text())
if kind != "mute":
    Path(files[0]).write_text(json.dumps({"hash": "abcdef", "rows": [{"value": [0.1, 0.2]}, {"value": 0.25}]}))
"""


@pytest.fixture
def fake(tmp_path: Path) -> dict[str, Any]:
    script = tmp_path / "a script.py"
    script.write_text(FAKE, encoding="utf-8")

    def entry(name: str, what: str, **more: Any) -> dict[str, Any]:
        command = f"python '{script}' {what}"
        return {"id": name, "page": "p", "part": "q", "command": command, "minutes": 1, "quick": command} | more

    first = {"at": ["rows", 0], "values": {"value": 0.15}, "tolerance": 0.001, "quick": True}
    second = {"at": ["rows", 1], "values": {"value": 0.2}, "tolerance": 0.001}
    texts = {"at": [], "values": {"hash": "abc"}, "quick": True}
    entries = [
        entry("base", "base {json} {out}", expect=[first, texts]),
        entry("bad", "bad"),
        entry("mute", "mute {json}"),
        entry("child", "child {json} {after}", after="base", expect=[second]),
        entry("absent", "base {json} {data}/none", needs=["none"]),
        entry("slow", "base {json}", quick=None, minutes=90),
        {"id": "old", "page": "p", "part": "q", "retired": "the script is gone"},
    ]
    return {"folder": tmp_path, "entries": entries}


def bench(fake: dict[str, Any], *arguments: str, data: str | None = "") -> subprocess.CompletedProcess[str]:
    file = fake["folder"] / "book.yaml"
    file.write_text(yaml.safe_dump({"entries": fake["entries"]}), encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "LLMREC_DATA"} | {"OMP_NUM_THREADS": "1"}
    environment |= {"LLMREC_DATA": str(fake["folder"])} if data is None else {}
    command = [sys.executable, str(SCRIPT), "--file", str(file), "--out", "out", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=fake["folder"], env=environment)


def kept(fake: dict[str, Any], name: str) -> dict[str, Any]:
    return json.loads((fake["folder"] / "out" / f"{name}.json").read_text(encoding="utf-8"))


def line(done: subprocess.CompletedProcess[str], *words: str) -> str:
    """The first table row that holds all the words."""
    return next(text for text in done.stdout.splitlines() if all(word in text for word in words))


def test_entries_run_one_after_another_and_the_rest_is_said(fake: dict[str, Any]) -> None:
    done = bench(fake)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "same: 2" in line(done, "base", "up to 2")
    assert "failed: exit code 3" in done.stdout
    assert "failed: exit code 0, no figures written" in done.stdout
    assert "not compared (quick settings)" in done.stdout
    for words in ("LLMREC_DATA is not set", "no quick command; with --all 90 minutes", "retired: the script is gone"):
        assert words in done.stdout
    assert "0.15 ± 0.001" in line(done, "rows / 0 / value", "same")
    assert [kept(fake, f"{name}.quick")["state"] for name in ("base", "bad", "mute", "child")] == [
        "done", "failed", "failed", "done",
    ]  # fmt: skip
    assert (fake["folder"] / "out" / "bad.quick.log").read_text(encoding="utf-8").endswith("said by bad\n")
    assert "LLMREC_DATA/none is not there" in bench(fake, "--only", "absent", data=None).stdout


def test_full_commands_are_compared_and_a_difference_is_no_success(fake: dict[str, Any]) -> None:
    done = bench(fake, "--all", "--only", "child", "base")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "differs: 1 of 1" in line(done, "child", "script.py")
    row = line(done, "rows / 1 / value", "differs")
    assert "0.2 ± 0.001" in row
    assert "0.25" in row
    fake["entries"][3]["expect"][0]["values"]["value"] = 0.2509
    assert bench(fake, "--all", "--only", "child", "base").returncode == 0, "the new expectation, on the kept figures"
    assert (fake["folder"] / "out" / "base" / "run" / "runs").read_text(encoding="utf-8") == "x"


def test_finished_entries_are_kept_until_asked_again_or_changed(fake: dict[str, Any]) -> None:
    runs = fake["folder"] / "out" / "base.quick" / "run" / "runs"
    assert bench(fake, "--only", "base").returncode == 0
    done = bench(fake, "--only", "base")
    assert "(kept)" in line(done, "base", "up to 2")
    assert runs.read_text(encoding="utf-8") == "x"
    record = kept(fake, "base.quick")
    (fake["folder"] / "out" / "base.quick.json").write_text(
        json.dumps(record | {"state": "started"}), encoding="utf-8"
    )
    assert bench(fake, "--only", "base").returncode == 0
    assert runs.read_text(encoding="utf-8") == "xx", "what was cut off goes on in its folder"
    assert bench(fake, "--only", "base", "--again").returncode == 0
    assert runs.read_text(encoding="utf-8") == "x", "begun from nothing"
    fake["entries"][0]["quick"] += " --more"
    assert "(kept)" not in bench(fake, "--only", "base").stdout
    assert runs.read_text(encoding="utf-8") == "x", "nothing of another command is left"


def test_a_folder_that_is_somebody_elses_is_left_alone(fake: dict[str, Any]) -> None:
    mine = fake["folder"] / "out" / "base.quick" / "letter"
    mine.parent.mkdir(parents=True)
    mine.write_text("dear", encoding="utf-8")
    done = bench(fake, "--only", "base")
    assert done.returncode == 2
    assert "is not of this script; move it away" in done.stderr
    assert mine.read_text(encoding="utf-8") == "dear"


def test_child_waits_for_its_parent_and_names_are_checked(fake: dict[str, Any]) -> None:
    assert "needs the finished entry base" in bench(fake, "--only", "child").stdout
    done = bench(fake, "--only", "bsae")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: There is no entry 'bsae'; did you mean 'base'?"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"minuts": 3}, "Unknown key 'entries.base.minuts' in .*; did you mean 'entries.base.minutes'"),
        ({"id": "../up"}, "must be lower-case letters"),
        ({"id": "bad"}, "no earlier entry's"),
        ({"minutes": None}, "minutes' in .* is missing"),
        ({"command": "rm -rf x"}, "must begin with one of python, llmrec, pytest"),
        ({"command": "python 'x"}, "cannot be divided into words .*close its quotes"),
        ({"command": "python x {data} {json}"}, r"has \{data\}"),
        ({"quick": "python x {home}"}, r"has \{home\}"),
        ({"retired": "gone"}, "command' in .* is needed, or 'retired' with the reason, and not both"),
        ({"after": "child"}, "name an entry that stands earlier"),
        ({"command": "python x"}, "needs values, and a command that writes {json}"),
        ({"page": ""}, "page' in .* is missing"),
    ],
)
def test_bad_entries_are_refused_by_name(
    change: dict[str, Any], words: str, fake: dict[str, Any], module: Any
) -> None:
    first, *others = fake["entries"]
    entries = [others[0], first | change] if change.get("id") == "bad" else [first | change]
    file = fake["folder"] / "bad.yaml"
    file.write_text(yaml.safe_dump({"entries": entries}), encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        module.read_book(file)


def test_a_bad_key_ends_with_one_sentence(fake: dict[str, Any]) -> None:
    fake["entries"][0]["minuts"] = 3
    done = bench(fake)
    assert done.returncode == 2
    assert done.stderr.startswith("error: Unknown key 'entries.base.minuts'")
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_book_is_listed_without_running_anything(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--list", "--all", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "docs/benchmarks.md: Legality" in done.stdout
    assert not (tmp_path / "out").exists()
