"""Imports thousands of small shops, each written in another way and some damaged, and compares with the truth.

A shop is drawn, written as files (separator, quotes, encoding, line ends, order of columns, units, lists, JSON,
Parquet, parts), perhaps damaged (cut off, a byte changed, a field lost), and imported. Then must hold:

- nothing but an `LLMRecError` is raised;
- a shop that is not damaged comes back value by value, or is refused;
- of a damaged one, every row that is gone is one that the damage touched or one that the account counts, and at
  most the touched rows have other values.

    python eval/fuzz_import.py --files 5000 --seed 0
"""

from __future__ import annotations

import argparse
import collections
import csv
import gzip
import io
import json
import random
import re
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from llmrec.dataset import Dataset
from llmrec.dataset.importers import import_table
from llmrec.dataset.importers.reading import ReadOptions
from llmrec.errors import LLMRecError

TITLES = {
    "plain": ["Kettle", "Blue pot", "Mug, large", 'TV 32" LED', '"Best" pan', "Bowl; deep", "A|B game", "Cup's lid"],
    "western": ["Café crème", "Müller Löffel", "Niño, pequeño", "Garçon “bleu”", "Crème brûlée – 2", "Plain cup"],
    "chinese": ["紫砂茶壶", "蓝色杯子，大号", "竹筷", "不锈钢锅", "保温杯（黑）", "陶瓷碗"],
    "hard": [
        'He said "yes, no"',
        "Line\nbreak",
        "C:\\dir\\",
        "“Quoted”",
        "tab\there",
        "A 🍵 cup",
        "  spaces",
        "=1+2",
    ],
}
CATEGORIES = ["Kitchen", "Tea", "Home & Garden", "Glass"]
DAMAGES = ("cut", "byte", "drop byte", "quote", "newline", "nul", "field more", "field less", "cell", "twice", "unit")


@dataclass
class Shop:
    """The truth: items (id, title, price, categories) and events (user, item, time, value)."""

    items: list[tuple[str, str, float | None, list[str]]]
    events: list[tuple[str, str, int, float | None]]


@dataclass
class Style:
    """How a shop is written; every field is drawn."""

    form: str = "csv"
    separator: str = ","
    quoting: str = "minimal"
    encoding: str = "utf-8"
    ends: str = "\n"
    header: bool = True
    shuffled: bool = False
    extra: bool = False
    unit: str = "s"
    decimal: str = "."
    lists: str = "|"
    missing: str = ""
    final: bool = True
    packed: bool = False
    damage: str = ""
    where: str = "events"
    skip: float | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """What came of one shop: "same", "refused", "kept" (damaged, and rightly read) or a fault with its reason."""

    kind: str
    reason: str = ""
    style: Style | None = None


def draw_shop(rng: random.Random) -> tuple[Shop, str]:
    """A shop of 4 to 12 items, 3 to 6 users and 10 to 40 events, and the kind of its titles."""
    kind = rng.choice([*TITLES, "plain"])
    titles = [f"{rng.choice(TITLES[kind])} {n}" for n in range(rng.randint(4, 12))]
    ids = [rng.choice(["{}", "p{}", "00{}"]).format(n + 10) for n in range(len(titles))]
    pattern = rng.choice(["{}", "p{}", "00{}", "B0-{}"])
    ids = [pattern.format(n + 10) for n in range(len(titles))]
    items = [
        (
            item_id,
            title,
            None if rng.random() < 0.2 else round(rng.uniform(0.5, 2500), 2),
            rng.sample(CATEGORIES, rng.randint(1, 3)),
        )
        for item_id, title in zip(ids, titles, strict=True)
    ]
    users = [f"u{n}" for n in range(rng.randint(3, 6))]
    start = rng.randint(1_400_000_000, 1_700_000_000)
    rated = rng.random() < 0.5
    events = []
    for _ in range(rng.randint(10, 40)):
        start += rng.randint(1, 90_000)
        value = float(rng.choice([1, 2, 3, 4, 5, 4.5])) if rated else None
        events.append((rng.choice(users), rng.choice(ids), start, value))
    return Shop(items, events), kind


def draw_style(rng: random.Random, kind: str, rated: bool) -> Style:
    """How to write it, such that what is written means one thing only."""
    style = Style()
    style.form = rng.choice(["csv"] * 6 + ["json array", "json lines", "pretty", "parquet", "parts", "python"])
    style.separator = rng.choice([",", ",", ";", "\t", "|", "::"])
    style.quoting = rng.choice(["minimal", "minimal", "all", "backslash"]) if len(style.separator) == 1 else "none"
    encodings = {"plain": ["utf-8", "latin-1"], "western": ["utf-8", "cp1252"], "chinese": ["utf-8", "gb18030"]}
    style.encoding = rng.choice([*encodings.get(kind, ["utf-8"]), "utf-8", "utf-8-sig", "utf-16"])
    style.ends = rng.choice(["\n", "\n", "\r\n", "\r"]) if kind != "hard" else "\n"
    style.header = rng.random() < 0.85
    style.shuffled, style.extra = rng.random() < 0.4, rng.random() < 0.3
    style.unit = rng.choice(["s", "s", "ms", "us", "iso", "date"])
    style.decimal = "," if style.separator == ";" and rng.random() < 0.5 and style.form == "csv" else "."
    style.lists = rng.choice(["|", "json", "python"]) if style.separator not in ("|",) else "json"
    style.missing = rng.choice(["", "", "NULL", "nan"])
    style.final, style.packed = rng.random() < 0.8, rng.random() < 0.15
    if rng.random() < 0.45 and style.form != "parquet":
        style.damage, style.where = rng.choice(DAMAGES), rng.choice(["events", "events", "items"])
        style.skip = rng.choice([None, 0.5, 1.0])
    return style


def _moment(time: int, unit: str) -> str:
    if unit in ("s", "ms", "us"):
        return str(time * {"s": 1, "ms": 1000, "us": 1_000_000}[unit])
    moment = datetime.fromtimestamp(time, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ" if unit == "iso" else "%Y-%m-%d %H:%M:%S")


def tables(shop: Shop, style: Style) -> dict[str, tuple[list[str], list[list[Any]]]]:
    """Names and rows of both tables, cells as they are to be written (None is missing)."""

    def number(value: float | None) -> str | None:
        return None if value is None else f"{value:g}".replace(".", style.decimal)

    def listed(names: list[str]) -> str:
        if style.lists == "|":
            return "|".join(names)
        return json.dumps(names) if style.lists == "json" else repr(names)

    event_names, item_names = ["user_id", "item_id", "time"], ["item_id", "title", "price", "categories"]
    events: list[list[Any]] = [[u, i, _moment(t, style.unit)] for u, i, t, _ in shop.events]
    if shop.events[0][3] is not None:
        event_names.append("value")
        for row, event in zip(events, shop.events, strict=True):
            row.append(number(event[3]))
    price = [None if p is None else f"{p:.2f}".replace(".", style.decimal) for _, _, p, _ in shop.items]
    items = [[i, t, p, listed(c)] for (i, t, _, c), p in zip(shop.items, price, strict=True)]
    return {"events": (event_names, events), "items": (item_names, items)}


def written(names: list[str], rows: list[list[Any]], style: Style, rng: random.Random) -> tuple[bytes, list[str]]:
    """A text table as bytes, and its columns in the order in which they stand."""
    names, rows = list(names), [list(row) for row in rows]
    order = list(range(len(names) + style.extra))
    if style.shuffled:
        rng.shuffle(order)
    if style.extra:
        names.append("note")
        for n, row in enumerate(rows):
            row.append(rng.choice(["", "fine", f"no. {n}", "a, b" if style.quoting != "none" else "a b"]))
    names, rows = [names[n] for n in order], [[row[n] for n in order] for row in rows]
    cells = [[style.missing if cell is None else str(cell) for cell in row] for row in rows]
    table = [names, *cells] if style.header else cells
    if style.quoting == "none":
        lines = [style.separator.join(row) for row in table]
    elif style.quoting == "backslash":
        lines = [style.separator.join(_backslashed(cell) for cell in row) for row in table]
    else:
        mode = csv.QUOTE_ALL if style.quoting == "all" else csv.QUOTE_MINIMAL
        lines = []
        for row in table:
            # Early releases of Python 3.11 quote a line break only where it is part of the terminator, so both are.
            sink = io.StringIO()
            csv.writer(sink, delimiter=style.separator, quoting=mode, lineterminator="\r\n").writerow(row)
            lines.append(sink.getvalue().removesuffix("\r\n"))
    text = style.ends.join(lines) + (style.ends if style.final else "")
    return text.encode(style.encoding), names


def _backslashed(cell: str) -> str:
    return '"' + cell.replace("\\", "\\\\").replace('"', '\\"') + '"'


def write_table(
    folder: Path, table: str, names: list[str], rows: list[list[Any]], style: Style, rng: random.Random
) -> tuple[dict[str, Any], int]:
    """Writes a table, and returns its part of the mapping and the number of rows that its damage touches."""
    objects = [dict(zip(names, row, strict=True)) for row in rows]
    if style.form in ("csv", "parts"):
        state = rng.getstate()  # parts of a table have their columns in one order
        data, columns = written(names, rows, style, rng)
        ending = {"\t": "tsv", "::": "dat", "|": "txt"}.get(style.separator, "csv")
        touched = 0
        if style.form == "parts":
            half = len(rows) // 2
            (folder / table).mkdir()
            for n, part in enumerate((rows[:half], rows[half:])):
                rng.setstate(state)
                (folder / table / f"part-{n}.{ending}").write_bytes(written(names, part, style, rng)[0])
            name = table
        else:
            name = f"{table}.{ending}"
            if style.damage and table == style.where:
                data, touched = damaged(data, style, rng)
            if style.packed:
                data, name = gzip.compress(data), name + ".gz"
            (folder / name).write_bytes(data)
        spec: dict[str, Any] = {"file": name}
        if not style.header:
            spec["columns"] = {ours: str(columns.index(ours) + 1) for ours in names}
        return spec, touched
    if style.form == "parquet":
        pl.DataFrame(objects, infer_schema_length=None).write_parquet(folder / f"{table}.parquet")
        return {"file": f"{table}.parquet"}, 0
    text = {
        "json array": lambda: json.dumps(objects, ensure_ascii=False),
        "json lines": lambda: "\n".join(json.dumps(o, ensure_ascii=False) for o in objects),
        "pretty": lambda: json.dumps(objects, indent=1),
        "python": lambda: "\n".join(map(repr, objects)),
    }[style.form]()
    data, touched = text.encode(), 0
    if style.damage and table == style.where:
        data, touched = damaged(data, style, rng)
    (folder / f"{table}.json").write_bytes(data)
    return {"file": f"{table}.json"}, touched


def damaged(data: bytes, style: Style, rng: random.Random) -> tuple[bytes, int]:
    """`data` with one fault, and how many rows that may touch (all of them if the file as a whole is another)."""
    everything = 10_000
    # nothing can be said of the rest of a broken array, nor of wide characters out of step
    whole = style.form in ("json array", "pretty") or style.encoding == "utf-16"
    place = rng.randrange(len(data))
    newline = style.ends.encode() if style.form == "csv" else b"\n"
    lines = data.split(newline)
    row = rng.randrange(style.header and style.form == "csv" and len(lines) > 1, len(lines))
    sign = style.separator.encode()
    touched = 2
    if style.damage == "cut":
        left = data[:place]
        rows, kept = (part.count(newline) - style.header for part in (data, left))
        return left, everything if whole or kept < 0 else rows - kept + 2
    if style.damage == "byte":
        data = data[:place] + bytes([rng.choice([0x00, 0x22, 0x2C, 0x41, 0x5C, 0x80, 0xFF])]) + data[place + 1 :]
    elif style.damage == "drop byte":
        data = data[:place] + data[place + 1 :]
    elif style.damage == "quote":
        data = data[:place] + b'"' + data[place:]
    elif style.damage == "newline":
        data = data[:place] + newline + data[place:]
    elif style.damage == "nul":
        data = data[:place] + b"\0" + data[place:]
    elif style.damage == "twice":
        lines.insert(row, lines[row])
        data = newline.join(lines)
    else:
        if style.damage == "field more":
            lines[row] = lines[row] + sign + b"x"
        elif style.damage == "field less":
            lines[row] = lines[row].rpartition(sign)[0]
        elif style.damage == "unit":  # a longest number is a time in seconds here and in milliseconds there
            number = max(re.findall(rb"\d+", lines[row]), key=len, default=b"")
            lines[row] = lines[row].replace(number, number + b"000", 1) if number else lines[row]
        else:
            fields = lines[row].split(sign)
            fields[rng.randrange(len(fields))] = rng.choice(
                [b"nan", b"", b"1e5", b"-1", b"x" * 300, b"[]", b"0", b"9" * 30, b"\xf0\x9f\x92\xa9", b"2024-13-45"]
            )
            lines[row] = sign.join(fields)
        data = newline.join(lines)
    in_header = style.header and style.form == "csv" and data.split(newline)[0] != lines[0]
    return data, everything if whole or in_header else touched


def compare(shop: Shop, dataset: Dataset, style: Style, touched: int) -> str:
    """Why the data set is not the shop; empty if it is."""
    found = dataset.events.select("user_id", "item_id", "time", "value").rows()
    true = collections.Counter(shop.events)
    lost, new = true - collections.Counter(found), collections.Counter(found) - true
    account = dataset.manifest.account
    removed = sum(entry["count"] for entry in account["removed"] if entry["table"] == "events")
    rows = account["rows"]["events"]
    if rows["in"] - removed != rows["out"] or rows["out"] != len(found):
        return f"the account does not come out: {rows}, {removed} removed, {len(found)} found"
    if touched >= 10_000:
        return ""
    touched, things = (touched, 0) if style.where == "events" else (0, touched)
    if lost.total() > removed + touched:
        return f"{lost.total()} events lost and {removed} counted, for example {next(iter(lost))}"
    if new.total() > touched:
        return f"{new.total()} events that are none, for example {next(iter(new))} for {next(iter(lost), None)}"
    items = {i: (" ".join(t.split()), p, c) for i, t, p, c in shop.items}
    got = {
        i: (" ".join(t.split()), p, c)
        for i, t, p, c in dataset.items.select("item_id", "title", "price", "categories").rows()
    }
    wrong = [key for key in items if got.get(key) != items[key]]
    things += sum(entry["count"] for entry in account["removed"] if entry["table"] == "items")
    if len(wrong) > things:
        return f"item {wrong[0]!r} is {got.get(wrong[0])}, not {items[wrong[0]]}"
    return f"{len(got)} items for {len(items)}" if len(got) > len(items) + things else ""


def try_one(rng: random.Random, folder: Path) -> Outcome:
    """Draws, writes, imports and compares one shop in the empty `folder`."""
    shop, kind = draw_shop(rng)
    style = draw_style(rng, kind, shop.events[0][3] is not None)
    if style.quoting == "none" or style.form == "parts":
        plain = [t for t in TITLES["plain"] if "|" not in t]
        shop.items = [(i, f"{rng.choice(plain)} {n}", p, c) for n, (i, _, p, c) in enumerate(shop.items)]
    elif style.quoting == "backslash":  # a doubled backslash alone does not tell that it is one
        shop.items = [(i, t.replace("\\", "/"), p, c) for i, t, p, c in shop.items]
    mapping: dict[str, Any] = {"name": "shop"}
    touched = 0
    for table, (names, rows) in tables(shop, style).items():
        mapping[table], hit = write_table(folder, table, names, rows, style, rng)
        touched += hit
    try:
        dataset = import_table(folder, mapping, reading=ReadOptions(skip_bad=style.skip))
    except LLMRecError as error:
        if len(str(error)) > 1000:
            return Outcome("fault", f"a message of {len(str(error))} characters", style)
        return Outcome("refused", str(error), style)
    except Exception:
        return Outcome("traceback", traceback.format_exc(), style)
    reason = compare(shop, dataset, style, touched)
    if reason:
        return Outcome("fault", reason, style)
    return Outcome("kept" if style.damage else "same", "", style)


def run(files: int, seed: int, keep: Path | None = None) -> list[Outcome]:
    """Tries `files` shops, each with a generator of its own; those with faults are kept in `keep`."""
    outcomes = []
    for n in range(files):
        with tempfile.TemporaryDirectory() as temporary:
            outcome = try_one(random.Random(f"{seed}/{n}"), Path(temporary))
            if outcome.kind in ("fault", "traceback") and keep is not None:
                Path(temporary).rename(keep / f"{seed}-{n}")
                Path(temporary).mkdir()
        outcomes.append(outcome)
    return outcomes


def main() -> None:
    """Prints how many shops came back, were refused or went wrong; exit code 1 if any went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=5000, help="how many shops")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the files of those that go wrong")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    outcomes = run(options.files, options.seed, options.keep)
    counts = collections.Counter((bool(o.style and o.style.damage), o.kind) for o in outcomes)
    for damage, title in ((False, "as written"), (True, "damaged")):
        parts = [f"{number:,} {kind}" for (hurt, kind), number in sorted(counts.items()) if hurt is damage]
        print(f"{title}: {', '.join(parts)}")
    print(f"{len(outcomes):,} shops in {time.monotonic() - begin:.0f} s")
    wrong = [(n, o) for n, o in enumerate(outcomes) if o.kind in ("fault", "traceback")]
    for n, outcome in wrong[:20]:
        print(f"\n{n}: {outcome.kind}: {outcome.reason}\n   {outcome.style}")
    for n, outcome in [(n, o) for n, o in enumerate(outcomes) if o.kind == "refused" and not o.style.damage][:10]:
        print(f"\n{n}: refused as written: {outcome.reason}\n   {outcome.style}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
