"""`llmrec data`: import, download, check, clean and split data sets, and generate worlds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from llmrec.cli.data_hub import pull_command, push_command
from llmrec.cli.import_help import ACCEPT_HELP, KIND_HELP, MAP_HELP, MISSING_HELP, OPTION_HELP, ORDER_HELP
from llmrec.errors import ConfigError, DataError
from llmrec.printing import command, echo, one_line, short_line
from llmrec.screen import Screen

if TYPE_CHECKING:
    from llmrec.dataset.check import Finding
    from llmrec.dataset.store import Dataset

data_app = typer.Typer(help="Import, download, check, clean, split, push and pull data sets.", no_args_is_help=True)

data_app.command("push")(push_command)
data_app.command("pull")(pull_command)

Folder = Annotated[Path, typer.Argument(help="A data set's folder.")]
Out = Annotated[Path, typer.Argument(help="The new folder; it appears whole or not at all.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the folder if it exists.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the result to this JSON file.")]


@data_app.command("check")
def check_command(
    folder: Folder,
    json_file: Json = None,
    link_window: Annotated[
        int, typer.Option(min=0, help="Seconds within which a purchase belongs to a click (as data.link_window).")
    ] = 86_400,
) -> None:
    """Says what is odd about a data set. Exit code 2 if it cannot be used, else 0."""
    from llmrec.dataset.check import check
    from llmrec.dataset.linking import Funnel

    dataset = load_dataset(folder)
    findings = check(dataset, link_window=link_window)
    _describe(dataset)
    echo(f"Feedback: {Funnel.of(dataset, window=link_window)}.")
    for finding in findings:
        _say(finding)
    number = {s: sum(f.severity == s for f in findings) for s in ("error", "warning", "info")}
    echo(f"errors: {number['error']}, warnings: {number['warning']}, remarks: {number['info']}")
    if json_file is not None:
        _write_json(json_file, [_fields(f) for f in findings])
    if number["error"]:
        raise DataError(f"{folder} cannot be trained on: {next(f.meaning for f in findings)}.")


@data_app.command("clean")
def clean_command(
    source: Annotated[Path, typer.Argument(help="The folder of the data set to clean; it is left as it is.")],
    out: Out,
    rules: Annotated[str | None, typer.Option(help="Apply just these rules, divided by commas.")] = None,
    without: Annotated[str | None, typer.Option(help="Leave these rules out, divided by commas.")] = None,
    force: Force = False,
    json_file: Json = None,
) -> None:
    """Writes a copy without duplicate, invalid and anomalous rows, and says which rule removed how many."""
    from llmrec.dataset.clean import clean
    from llmrec.dataset.rules import RULES, removable
    from llmrec.storage import resolve

    only = None if rules is None else _names(rules)
    applied = {rule.name for rule in removable(only, _names(without))}
    with free_place(out, force) as place:
        if place == resolve(source):
            raise DataError(f"{out} is the data set that is to be cleaned; name another folder for the copy.")
        dataset, removals = clean(load_dataset(source), only, without=_names(without))
        dataset.save(place)
    lines = [(r.rule, r.table, f"{r.count:,}") for r in removals]
    lines += [(r.name, r.table, "switched off") for r in RULES if r.removable and r.name not in applied]
    _table(("rule", "table", "removed"), lines, right=2)
    _describe(dataset)
    if json_file is not None:
        _write_json(json_file, [_fields(r) for r in removals])


class _ImportCommand(TyperCommand):
    """`--skip-bad`, `--header` and `--no-header` stand alone or with a value, never with the next argument."""

    BARE = ("--skip-bad", "--header", "--no-header")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Gives a flag that stands alone an empty value."""
        return super().parse_args(ctx, [f"{arg}=" if arg in self.BARE else arg for arg in args])


@data_app.command("import", cls=_ImportCommand)
def import_command(
    kind: Annotated[
        str,
        typer.Argument(
            help="table (own data), movielens, amazon, amazon-minionerec, complete-journey, hillstrom, coat, jester, "
            "open-bandit; or as tables: book-crossing, goodbooks, kuairec, lastfm, mind, online-retail, recbole, "
            "retailrocket, steam, yelp."
        ),
    ],
    source: Annotated[
        Path,
        typer.Argument(help="The folder or file to read; for tables the events: a file or a folder of parts."),
    ],
    out: Out,
    items: Annotated[Path | None, typer.Option(help="The file of items (table).")] = None,
    users: Annotated[Path | None, typer.Option(help="The file of users (table).")] = None,
    columns: Annotated[list[str], typer.Option("--map", help=MAP_HELP)] = [],  # noqa: B006 (it is never changed)
    kinds: Annotated[list[str], typer.Option("--kind", help=KIND_HELP)] = [],  # noqa: B006
    option: Annotated[list[str], typer.Option("--option", help=OPTION_HELP)] = [],  # noqa: B006
    missing: Annotated[str | None, typer.Option(help=MISSING_HELP)] = None,
    order: Annotated[str | None, typer.Option(help=ORDER_HELP)] = None,
    accept_implausible: Annotated[bool, typer.Option("--accept-implausible", help=ACCEPT_HELP)] = False,
    separator: Annotated[
        list[str],
        typer.Option(help="Between fields: a sign, '::', tab or space; or TABLE=SIGN. Else detected (table)."),
    ] = [],  # noqa: B006
    quote: Annotated[
        list[str], typer.Option(help="Around fields: a sign or none; or TABLE=SIGN. Else detected (table).")
    ] = [],  # noqa: B006
    decimal: Annotated[list[str], typer.Option(help="'.' or ','; or TABLE=SIGN. Else detected (table).")] = [],  # noqa: B006
    encoding: Annotated[
        list[str], typer.Option(help="utf-8, latin-1, gb18030, …; or TABLE=NAME. Else detected (table).")
    ] = [],  # noqa: B006
    header: Annotated[
        list[str],
        typer.Option(
            "--header", metavar="[=TABLE]", help="The first line holds the columns' names. Else detected (table)."
        ),
    ] = [],  # noqa: B006
    no_header: Annotated[
        list[str],
        typer.Option("--no-header", metavar="[=TABLE]", help="It does not: columns are called 1, 2, … (table)."),
    ] = [],  # noqa: B006
    skip_bad: Annotated[
        str | None,
        typer.Option(
            "--skip-bad",
            metavar="[=SHARE]",
            help="Drop and count bad rows, up to this share of a table's (0.05); else the first one stops the import "
            "(table).",
        ),
    ] = None,
    force: Force = False,
    json_file: Json = None,
) -> None:
    """Turns public or own data into an llmrec data set."""
    from llmrec.cli.import_options import importer_options, once, pairs, read_options, table_mapping
    from llmrec.dataset.importers import IMPORTERS, check_source, import_dataset
    from llmrec.dataset.importers.layouts import layout_names
    from llmrec.dataset.importers.reading import account_lines

    given = once(pairs(option, "--option", "name=shop"), "--option")
    renamed, mapped = pairs(columns, "--map", "item_id=asin"), once(pairs(kinds, "--kind", "view=click"), "--kind")
    flags = {"missing": missing, "order": order, "accept_implausible": "yes" if accept_implausible else None}
    said = {name: value for name, value in flags.items() if value is not None}
    written = {"separator": separator, "quote": quote, "decimal": decimal, "encoding": encoding}
    reading = read_options(written, header, no_header, skip_bad)
    options: dict[str, Any] = {}
    if kind == "table" or kind in layout_names():
        check_source(kind, source)
        layout = kind if kind != "table" else None
        kind, mapping = "table", table_mapping(source, items, users, renamed, mapped, {**given, **said}, layout)
        options = {"reading": reading} if mapping is None else {"mapping": mapping, "reading": reading}
    elif items or users or renamed or mapped or said or reading is not None:
        raise ConfigError(
            "--items, --users, --map, --kind and the options of reading and of values (--separator, …, --skip-bad, "
            "--missing, --order, --accept-implausible) belong to the importer table and to layouts of tables, not to "
            f"{kind}."
        )
    elif kind in IMPORTERS:
        options = importer_options(IMPORTERS[kind], given)
    with free_place(out, force) as place:
        dataset = import_dataset(kind, source, **options)
        dataset.save(place)
    for line in account_lines(dataset.manifest.account):
        echo(one_line(line, 2000))
    _describe(dataset)
    _say_signals(dataset)
    if json_file is not None:
        _write_json(json_file, {"out": str(out), **_fields(dataset.manifest)})


@data_app.command("download")
def download_command(
    name: Annotated[str | None, typer.Argument(help="A data set; leave it out to list them.")] = None,
    dest: Annotated[Path | None, typer.Option(help="The new folder (default: downloads/NAME).")] = None,
    url: Annotated[str | None, typer.Option(help="Another address to fetch it from.")] = None,
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="You accept the terms that are shown.")
    ] = False,
    json_file: Json = None,
) -> None:
    """Fetches a public data set from its public address, after showing its terms."""
    from llmrec.dataset.download import download, load_recipes

    recipes = load_recipes()
    if name is None:
        _table(("name", "size", "page"), ((r.name, r.size, r.page) for r in recipes.values()), right=1)
        if json_file is not None:
            _write_json(json_file, [{"name": r.name, "size": r.size, "page": r.page} for r in recipes.values()])
        return
    folder = download(name, dest or Path("downloads") / name, url, accept_terms)
    kind = recipes[name.partition("/")[0]].kind
    echo(f"{folder} is there; next: {command(['llmrec', 'data', 'import', kind, folder])} OUT")
    if json_file is not None:
        _write_json(json_file, {"folder": str(folder), "kind": kind})


@data_app.command("world")
def world_command(
    out: Out,
    domain: Annotated[str, typer.Option(help="shop, film, music, news, course or social.")] = "shop",
    language: Annotated[str, typer.Option(help="en or zh.")] = "en",
    users: Annotated[int, typer.Option(help="How many users.")] = 3000,
    items: Annotated[int, typer.Option(help="How many items.")] = 300,
    seed: Annotated[int, typer.Option(help="Everything is drawn from this number.")] = 0,
    force: Force = False,
    json_file: Json = None,
) -> None:
    """Generates a world with known truth; its data set lies in OUT/dataset."""
    from llmrec.config import WorldConfig
    from llmrec.config_tree import from_tree
    from llmrec.dataset.world import generate_world

    tree: dict[str, Any] = {"domain": domain, "language": language, "users": users, "items": items}
    config = from_tree(WorldConfig, tree, "the command line")
    with free_place(out, force, "world.json", "world") as place:
        world = generate_world(config, seed)
        world.save(place)
    _describe(world.dataset)
    if json_file is not None:
        _write_json(json_file, {"out": str(out), **_fields(world.dataset.manifest)})


@data_app.command("split-info")
def split_info_command(
    folder: Folder,
    split: Annotated[str, typer.Option(help="time, leave-last-out or given.")] = "time",
    valid_fraction: Annotated[float, typer.Option(help="Share of the events in valid (time).")] = 0.1,
    test_fraction: Annotated[float, typer.Option(help="Share of the events in test (time).")] = 0.2,
    json_file: Json = None,
) -> None:
    """Prints how a split divides the events, and how many of them belong to users without a training event."""
    from llmrec.config import DataConfig
    from llmrec.config_tree import from_tree
    from llmrec.dataset.split import PARTS, make_split

    tree = {"split": split, "valid_fraction": valid_fraction, "test_fraction": test_fraction}
    config = from_tree(DataConfig, tree, "the command line")
    made = make_split(load_dataset(folder), config.split, config.valid_fraction, config.test_fraction)
    counts = made.counts
    columns = ("events", "users", "events_of_new_users")
    _table(
        ("part", "events", "users", "events of new users"),
        ((part, *(_count(counts.get(f"{part}_{column}")) for column in columns)) for part in PARTS),
        right=1,
    )
    for name, cut in (("valid", made.cut_valid), ("test", made.cut_test)):
        if cut is not None:
            echo(f"{name} begins at time {cut}")
    if json_file is not None:
        _write_json(json_file, {**counts, "cut_valid": made.cut_valid, "cut_test": made.cut_test})


def load_dataset(folder: Path) -> Dataset:
    """The data set of a folder, or the one in it: of a world, or of the data stage of a run."""
    from llmrec.dataset.store import MANIFEST, Dataset

    inner = folder / "dataset"  # a world, or the data stage of a run
    return Dataset.load(inner if not (folder / MANIFEST).exists() and (inner / MANIFEST).exists() else folder)


@contextmanager
def free_place(out: Path, force: bool, mark: str = "manifest.json", what: str = "data set") -> Iterator[Path]:
    """The resolved `out`, kept from other processes.

    Refuses one that holds something: without --force anything, with it all but its own kind.
    """
    from llmrec.files import check_replaceable, check_writable, matching, reserved
    from llmrec.storage import resolve

    place = resolve(out)
    check_replaceable(place, ours=matching("*"))
    check_writable(place)
    with reserved(place):
        if place.exists() and not (place.is_dir() and not any(place.iterdir())):
            if not force:
                raise DataError(f"{out} exists already; name a new folder or add --force to replace it.")
            if not (place / mark).is_file():
                raise DataError(f"{out} is not a {what}, so --force does not replace it; name a new folder.")
        yield place


def _names(text: str | None) -> set[str]:
    return {name.strip() for name in (text or "").split(",") if name.strip()}


def _describe(dataset: Dataset) -> None:
    manifest = dataset.manifest
    counts = ", ".join(f"{number:,} {name}" for name, number in manifest.counts.items() if number)
    echo(f"{short_line(manifest.name)}: {counts}; click is {manifest.click}, conversion is {manifest.conversion}.")
    for note in (manifest.proxy, manifest.terms and f"Terms: {manifest.terms}"):
        if note:
            echo(one_line(note, 2000))


def _say_signals(dataset: Dataset) -> None:
    """How far feedback hangs together, and what speaks against the rules of clicks and conversions."""
    from llmrec.dataset.check import check_signals
    from llmrec.dataset.linking import Funnel

    funnel = Funnel.of(dataset)
    echo(f"Feedback: {funnel}.")
    for finding in check_signals(dataset, funnel=funnel):
        if finding.severity != "info":
            _say(finding)


def _say(finding: Finding) -> None:
    first = f" First: {short_line(finding.example)}." if finding.example else ""
    echo(f"{finding.severity}: {finding.rule}, {finding.count:,} in {finding.table}: {finding.meaning}.{first}")


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]], right: int) -> None:
    """Prints a table; column number `right` is set to the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place == right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    Screen().print(table)


def _fields(value: Any) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(value)


def _write_json(path: Path, value: object) -> None:
    from llmrec.files import write_text

    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
