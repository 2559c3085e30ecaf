"""Makes the figures of docs/benchmarks.md and docs/benchmarks-rl.md again, and says which come out the same.

    python eval/bench.py                    # `make bench`: the quick commands, each a minute or two
    python eval/bench.py --all --only claim # the full command of one entry; all of them: `make bench-all`
    python eval/bench.py --list

Entries stand in eval/bench.yaml and are run one after another, from the root of the project and never through a
shell. In their commands {data} is the folder LLMREC_DATA, {json} the file of figures, {out} the entry's own folder
and {after} that of the entry it goes on from. OUT/ID.json keeps command, time, figures and comparison, OUT/ID.log
what was printed (ID.quick.* for quick commands). A finished entry is kept while its command and the code
are the same. The exit code is 1 where a command failed or a figure differs. Most figures of a quick command cannot be
compared, as its settings are smaller. Times are not compared; they stand in OUT/ID.json beside the machine.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_entries import DONE, PROGRAMS, Entry, chosen, compare, read_book, verdict

from llmrec.cli.guard import guarded

ROOT = Path(__file__).resolve().parents[1]
CODE = ("llmrec", "eval", "train", "data", "prompts", "tests/simulator")
OWN = tuple(f":!eval/{name}" for name in ("bench.py", "bench_entries.py", "bench.yaml"))


def code_version() -> str:
    """A hash of the code in the working tree by git, or the package's version where there is no repository."""
    from llmrec.files import sha256_of
    from llmrec.version import __version__

    try:
        told = [
            subprocess.run(["git", *how, "--", *CODE, *OWN], cwd=ROOT, capture_output=True, check=True).stdout
            for how in (["ls-files", "-s"], ["diff"])
        ]
    except (OSError, subprocess.CalledProcessError):
        told = []
    return sha256_of(*told)[:16] if any(told) else f"llmrec {__version__}"


def call(words: Sequence[str], log: Path) -> int:
    """The exit code of a command whose output goes to a file."""
    with log.open("w", encoding="utf-8") as out:
        out.write(f"{shlex.join(words)}\n")
        out.flush()
        how = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": subprocess.STDOUT}
        return subprocess.run(words, cwd=ROOT, env={"COLUMNS": "160", **os.environ}, **how).returncode


@dataclass
class Bench:
    """Runs entries, quick ones or all, and keeps their records in `out`."""

    out: Path
    quick: bool
    again: bool
    code: str
    data: str

    def name(self, ident: str) -> str:
        """What an entry's files are called."""
        return f"{ident}.quick" if self.quick else ident

    def record(self, ident: str) -> dict[str, Any]:
        """What is kept of an entry, empty at first."""
        from llmrec.files import read_json

        path = self.out / f"{self.name(ident)}.json"
        return dict(read_json(path)) if path.is_file() else {}

    def text(self, entry: Entry) -> str | None:
        """The command that is asked for."""
        return entry.quick if self.quick else entry.command

    def reason(self, entry: Entry) -> str | None:
        """Why an entry is not run, or None."""
        if entry.retired is not None:
            return f"retired: {entry.retired}"
        if self.text(entry) is None:
            return f"no quick command; with --all {entry.minutes:g} minutes"
        if entry.needs and not self.data:
            return f"LLMREC_DATA is not set; it must be the folder that holds {', '.join(entry.needs)}"
        absent = [name for name in entry.needs if not (Path(self.data) / name).is_dir()]
        if absent:
            return f"LLMREC_DATA/{absent[0]} is not there"
        if entry.after is not None and self.record(entry.after).get("state") != DONE:
            return f"needs the finished entry {entry.after}"
        return None

    def run(self, entry: Entry) -> dict[str, Any]:
        """The entry's record, from its file if that is finished and of the same command and code."""
        from llmrec.evaluation.facts import machine_facts, package_versions
        from llmrec.files import read_json, sha256_of, write_json

        text, name = str(self.text(entry)), self.name(entry.id)
        key = sha256_of(text, self.code, self.record(entry.after)["key"] if entry.after else "")
        kept, record_file = self.record(entry.id), self.out / f"{name}.json"
        if kept.get("key") == key and kept.get("state") == DONE and not self.again:
            return kept | {"compared": compare(entry, kept["figures"], self.quick), "kept": True}
        folder = self.folder(name, fresh=self.again or kept.get("key") != key, known=bool(kept))
        words, figures = self.words(entry, text), folder / "figures.json"
        figures.unlink(missing_ok=True)
        record = {"id": entry.id, "key": key, "code": self.code, "command": shlex.join(words), "state": "started"}
        write_json(record_file, record)
        start = time.perf_counter()
        code = call(words, self.out / f"{name}.log")
        minutes = (time.perf_counter() - start) / 60
        found = read_json(figures) if figures.is_file() else None
        ended = code == 0 and (found is not None or "{json}" not in text)
        record |= {"state": DONE if ended else "failed", "exit_code": code, "minutes": minutes}
        record |= {"machine": machine_facts(), "versions": package_versions(), "figures": found}
        record["compared"] = compare(entry, found, self.quick) if ended else []
        write_json(record_file, record)
        return record

    def folder(self, name: str, *, fresh: bool, known: bool) -> Path:
        """The entry's folder; what another command or other code left there is deleted, so that nothing is mixed."""
        from llmrec.errors import RunError

        folder = self.out / name
        if folder.exists() and not known:
            raise RunError(f"{folder} exists and {name}.json does not, so it is not of this script; move it away.")
        if fresh and folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def words(self, entry: Entry, text: str) -> list[str]:
        """The argument list of a command; places are filled in once it is divided, so blanks in them are safe."""
        own = self.out / self.name(entry.id)
        places = {"data": self.data, "json": str(own / "figures.json"), "out": str(own / "run")}
        places["after"] = str(self.out / self.name(entry.after) / "run") if entry.after else ""
        head, *words = shlex.split(text)
        filled = [re.sub(r"\{(\w+)\}", lambda found: places[found[1]], word) for word in words]
        return [sys.executable, *PROGRAMS[head], *filled]


def show(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table; texts stand as they are."""
    from rich.table import Table
    from rich.text import Text

    from llmrec.screen import Screen

    if not rows:
        return
    table = Table(*heads, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(Text(f"{cell:.5g}" if isinstance(cell, float) else str(cell)) for cell in row))
    Screen(piped=160).print(table)


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="the full commands; hours")
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="these entries alone")
    parser.add_argument("--list", action="store_true", help="show the entries and run nothing")
    parser.add_argument("--again", action="store_true", help="run finished entries too, from nothing")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--file", type=Path, default=ROOT / "eval" / "bench.yaml", help="the entries")
    options = parser.parse_args()
    from llmrec.progress import Bar, console

    data = os.environ.get("LLMREC_DATA", "")
    entries = chosen(read_book(options.file), options.only)
    bench = Bench(
        options.out.resolve(), not options.all, options.again, code_version(), data and str(Path(data).resolve())
    )
    if options.list:
        heads = ("entry", "part of the page", "minutes", "command")
        rows = [(e.id, f"{e.page}: {e.part}", e.minutes or "", bench.text(e) or bench.reason(e)) for e in entries]
        show("Entries", heads, rows)
        return
    rows, figures, skipped, bad = [], [], [], False
    with Bar("Entries", len(entries)) as bar:
        for entry in entries:
            reason = bench.reason(entry)
            if reason is not None:
                skipped.append((entry.id, reason))
            else:
                console.print(f"{entry.id}: {bench.text(entry)}", soft_wrap=True)
                record = bench.run(entry)
                said = verdict(entry, record, bench.quick)
                bad = bad or said.startswith(("failed", "differs"))
                took = f"{record['minutes']:.1f}" + (" (kept)" if record.get("kept") else "")
                given = "up to 2" if bench.quick else f"{entry.minutes:g}"
                rows.append((entry.id, bench.text(entry), given, took, said))
                for row in record["compared"]:
                    wanted = f"{row['expected']} ± {row['tolerance']:g}" if row["tolerance"] else row["expected"]
                    said = "same" if row["same"] else "differs"
                    figures.append((entry.id, row["figure"], wanted, row["found"], said))
            bar.advance(note=entry.id)
    show("Entries", ("entry", "command", "minutes", "took", "figures"), rows)
    show("Figures of the pages", ("entry", "figure", "expected", "found", ""), figures)
    show("Not run", ("entry", "reason"), skipped)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
