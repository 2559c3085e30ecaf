"""Commands on finished runs: recommendations as a person reads them, items that come and go, the report."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llmrec import bounded
from llmrec.cli.told import Told
from llmrec.errors import RequestError
from llmrec.printing import echo, json_line, one_line, short_line
from llmrec.screen import Screen

if TYPE_CHECKING:
    from llmrec.catalogue.filters import Filters
    from llmrec.pipeline.forget import Forgotten
    from llmrec.recommender import Recommendation, Recommender

SHOWN = 3
"""Ids named of those that a run does not know."""


def asked_filters(
    categories: Sequence[str],
    brands: Sequence[str],
    price: tuple[float | None, float | None],
    in_stock: Path | None,
    candidates: Path | None,
    exclude: Sequence[str],
    max_per_category: int | None,
) -> tuple[tuple[str, ...] | None, Filters | None]:
    """The ids in stock where they were given, and the filter, None where nothing was asked for.

    Raises:
        RequestError: a file of ids that cannot be read or holds none.
    """
    from llmrec.catalogue.filters import Filters

    stock = None if in_stock is None else read_ids(in_stock, "--in-stock")
    chosen = None if candidates is None else read_ids(candidates, "--candidates")
    filters = Filters(
        tuple(categories), tuple(brands), price, stock is not None, chosen, tuple(exclude), max_per_category
    )
    return stock, None if filters == Filters() else filters


def asked_weights(prefer: Sequence[str]) -> dict[str, int]:
    """What `Recommender.recommend` takes for --prefer NAME=WEIGHT, given any number of times.

    Raises:
        RequestError: no such pair, or a name that is given twice.
    """
    weights: dict[str, int] = {}
    for given in prefer:
        name, _, weight = given.partition("=")
        if not name or not (weight.isascii() and weight.isdecimal() and len(weight) < 10):
            raise RequestError(f"--prefer is {short_line(given)!r}; give NAME=WEIGHT, such as --prefer revenue=3.")
        if name in weights:
            raise RequestError(f"--prefer names {short_line(name)!r} twice; give it once.")
        weights[name] = int(weight)
    return weights


def asked_reasons(explain: str | None) -> bool | int:
    """What `Recommender.recommend` takes for --explain: a number of items, all ("all") or none (None).

    Raises:
        RequestError: neither.
    """
    if explain is None or explain == "all":
        return explain is not None
    if not explain.isdecimal() or int(explain) < 1:
        raise RequestError(
            f"--explain is {short_line(explain)!r}; give a number of items, at least 1, or nothing behind it for all."
        )
    return int(explain)


def read_ids(path: Path, option: str) -> tuple[str, ...]:
    """Ids of a text file, one a line (see `llmrec.bounded.read_ids`), or a `RequestError`."""
    try:
        return bounded.read_ids(path)
    except OSError as error:
        raise RequestError(f"{path} ({option}) cannot be read: {error.strerror}; give a file of ids.") from None
    except ValueError as error:
        raise RequestError(f"{path} ({option}) cannot be used: {error}.") from None


def show_recommendations(
    model: str,
    user: str | None,
    prompt: str | None,
    k: int,
    data: Path | None,
    revision: str | None,
    as_json: bool,
    *,
    filters: Filters | None = None,
    stock: Sequence[str] | None = None,
    exact: bool = False,
    fuse: float | None = None,
    read_filters: bool = False,
    by_words: bool = True,
    prefer: Mapping[str, int] | None = None,
    explain: bool | int = False,
    rules: Path | None = None,
) -> None:
    """Prints titles with scores for `user` or `prompt`; one of the two is needed."""
    if (user is None) == (prompt is None):
        raise RequestError("Give either --user ID or --prompt TEXT.")
    if prompt is not None and not prompt.strip():
        raise RequestError("--prompt is empty; say what is wanted, as with --prompt 'I liked the red kettle'.")
    if k < 1:
        raise RequestError(f"-k is {k}; it must be at least 1.")
    given: dict[str, Any] = {
        "data": data,
        "revision": revision,
        "filters": filters,
        "stock": stock,
        "fuse": fuse,
        "rules": rules,
    }
    recommender, filters = loaded(model, **given)
    how: dict[str, Any] = {"exact": exact, "read_filters": read_filters, "by_words": by_words, "explain": explain}
    how["prefer"] = prefer
    answer = recommender.recommend(user=user, prompt=prompt, k=k, filters=filters, **how)
    echo(json_line(answer.to_json())) if as_json else _print(answer)


def loaded(
    model: str,
    *,
    data: Path | None = None,
    revision: str | None = None,
    filters: Filters | None = None,
    stock: Sequence[str] | None = None,
    fuse: float | None = None,
    rules: Path | None = None,
    engine: Callable[[Path], Any] | None = None,
) -> tuple[Recommender, Filters | None]:
    """A run as the options ask for it, and the filter without the ids that it does not know.

    Raises:
        LLMRecError: whatever cannot be read, or a list of ids of which the run knows none.
    """
    from llmrec.recommender import Recommender

    recommender = Recommender.load(model, revision=revision, data=data, rules=rules, engine=engine)
    if stock is not None:
        recommender.set_stock(known_ids(recommender, stock, "--in-stock"))
    if filters is not None:
        candidates, exclude = filters.candidates, filters.exclude
        if candidates is not None:
            candidates = known_ids(recommender, candidates, "--candidates")
        exclude = known_ids(recommender, exclude, "--exclude", may_be_empty=True)
        filters = dataclasses.replace(filters, candidates=candidates, exclude=exclude)
    if fuse is not None:
        recommender.fuse(fuse)
    return recommender, filters


def known_ids(
    recommender: Recommender, ids: Sequence[str], option: str, *, may_be_empty: bool = False
) -> tuple[str, ...]:
    """The ids of `option` that the run has; the others are passed over with a word on standard error.

    Raises:
        RequestError: none is left.
    """
    known, strangers = recommender.known(ids)
    if not strangers:
        return known
    first = ", ".join(repr(short_line(item_id)) for item_id in strangers[:SHOWN])
    some = f"{first} and {len(strangers) - SHOWN:,} more" if len(strangers) > SHOWN else first
    near = difflib.get_close_matches(strangers[0], recommender.bundle.policy.catalogue.item_ids[:100_000], n=1)
    meant = f" (did you mean {short_line(near[0])!r}?)" if near and len(strangers) == 1 else ""
    said = (
        f"{option}: {len(strangers):,} of {len(known) + len(strangers):,} ids are no items of the run: {some}{meant}"
    )
    if not known and not may_be_empty:
        raise RequestError(f"{said}; so no item is left. Give ids of the run's items.")
    echo(f"{said}; passed over.", err=True)
    return known


def _print(answer: Recommendation) -> None:
    from llmrec.recommender.answers import named_first

    screen = Screen()
    for match in answer.matches:
        read = f'"{short_line(match.text)}" is read as {short_line(match.title)} (similarity {match.score:.0f}%)'
        screen.print(read, style="dim")
    for wish in answer.wishes:
        value = f"{wish.value:.2f}" if isinstance(wish.value, float) else short_line(wish.value)
        screen.print(f'"{short_line(wish.text)}" asks for {wish.kind} {value}', style="dim")
    if answer.rest:
        screen.print(f"the rest is context: {short_line(answer.rest)}", style="dim")
    if answer.words:
        screen.print(named_first(answer.words), style="dim")
    if answer.note:
        screen.print(one_line(answer.note), style="dim" if answer.related else "bold")
    screen.print(_listed(answer))
    for place, item in enumerate(answer.items, 1):
        if (why := item.explanation) is not None:
            screen.print(f"{place}. {short_line(item.title)}", style="bold")
            for sentence in filter(None, (why.sentence, why.without)):
                screen.print(Padding(Text(sentence), (0, 0, 0, 3), expand=False))


def _listed(answer: Recommendation) -> Table:
    """The list: place, title, what is known of price and category, id, probability."""
    known = {
        "price": any(item.price is not None for item in answer.items),
        "category": any(item.categories for item in answer.items),
    }
    table = Table(box=None, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("title", min_width=12)
    if known["price"]:
        table.add_column("price", justify="right", no_wrap=True)
    if known["category"]:
        table.add_column("category", style="dim")
    table.add_column("id", style="dim")
    for name in ("probability", "log-prob"):
        table.add_column(name, justify="right", no_wrap=True)
    for place, item in enumerate(answer.items, 1):
        cells: list[str | Text] = [str(place), Text(short_line(item.title))]
        cells += ["" if item.price is None else f"{item.price:,.2f}"] if known["price"] else []
        cells += [Text(short_line(", ".join(item.categories)))] if known["category"] else []
        cells += [Text(short_line(item.item_id)), f"{100 * math.exp(item.log_prob):.2f}%", f"{item.log_prob:.3f}"]
        table.add_row(*cells)
    return table


def change_run(run: str, add: Path | None, remove: Path | None, out: Path, revision: str | None = None) -> Told:
    """Writes `out`, the run without the items named in `remove` and with those of `add`.

    Args:
        run: a run folder or a Hub id.
        add: items as CSV, Parquet or JSON lines.
        remove: item ids, one a line.
        out: the new run folder.
        revision: branch, tag or commit of a Hub repository.

    Returns:
        What was assumed about the file of items, and what was done, a line each.

    Raises:
        RequestError: neither file was given, or one that holds nothing.
        LLMRecError: whatever cannot be read, changed or written; then nothing is left behind.
    """
    if add is None and remove is None:
        raise RequestError("Give --add FILE, --remove FILE or both.")
    from llmrec.assortment import change_items, check_free, save_changed
    from llmrec.dataset.importers.reading import Ledger
    from llmrec.dataset.importers.table import read_items
    from llmrec.export import items_from_frame, read_bundle
    from llmrec.files import reserved
    from llmrec.finding import run_folder
    from llmrec.printing import one_line

    gone = () if remove is None else read_ids(remove, "--remove")
    ledger = Ledger(skippable=False)
    new = [] if add is None else items_from_frame(read_items(add, ledger=ledger))
    folder = run_folder(run, revision=revision)
    check_free(folder, out)
    with reserved(out):
        changed = change_items(read_bundle(folder), add=new, remove=gone)
        save_changed(changed, out)
    said = [f"Assumed: {one_line(text, 600)}" for text in ledger.assumptions]
    done = f"{len(new):,} added, {len(gone):,} removed; {out} has {len(changed.items):,} items."
    counts = {"added": len(new), "removed": len(gone), "items": len(changed.items)}
    return Told("\n".join([*said, done]), out=str(out), **counts, assumed=list(ledger.assumptions))


def forget_users(places: Sequence[str], users: Sequence[str], file: Path | None) -> Told:
    """Forgets `users` and those whose ids are in `file`; returns what was done, a line a place.

    Raises:
        LLMRecError: see `pipeline.forget.forget`, or a file that cannot be read.
    """
    from llmrec.pipeline.forget import forget

    named = [*users, *(() if file is None else read_ids(file, "--users"))]
    from llmrec.online.places import is_url

    logs = [place for place in places if is_url(place) or Path(place).is_file()]
    folders = [Path(place) for place in places if place not in logs]
    if not logs or not named:
        return _forgotten(forget(folders, named), {})
    from llmrec.online.log import EventLog, EventReader

    held: dict[str, set[str]] = {}
    windows: dict[str, int] = {}
    for log in logs:
        with EventReader(log) as reader:
            held[log] = {user for user in named if reader.slates_of(user)}
            windows[log] = reader.marks()["window"]
    known = set().union(*held.values())
    if strangers := sorted(set(named) - known) if not folders else []:
        raise RequestError(f"No place that was named knows user {short_line(strangers[0])!r}; look at the ids in it.")
    done = forget(folders, named, known=known) if folders else []
    gone = {}
    for log, mine in held.items():
        with EventLog(log, window_s=windows[log]) as writer:
            told = writer.place if is_url(log) else log  # a URL may hold a password
            gone[told] = (len(mine), sum(writer.forget(user) for user in sorted(mine)))
    return _forgotten(done, gone)


def _forgotten(done: Sequence[Forgotten], logs: dict[str, tuple[int, int]]) -> Told:
    """What was done at folders, and at logs with their users and slates."""
    said = [str(one) for one in done]
    places: list[dict[str, Any]] = []
    for one in done:
        places.append({"place": str(one.place), "users": one.users, "events": one.events, "run": one.run is not None})
    for log, (users, slates) in logs.items():
        what = f"{users:,} users and {slates:,} slates removed." if users else "holds none of them."
        said.append(f"{one_line(log)}: {what}")
        places.append({"place": str(log), "users": users, "slates": slates})
    return Told("\n".join(said), places=places)


def commented_config(
    sections: Sequence[str], dataset: str | None, config: Path | None, algorithm: str | None, texts: Sequence[str]
) -> Told:
    """The configuration that `llmrec run` would have by these options, as YAML with comments.

    Raises:
        ConfigError: a section, key or value that cannot be used.
    """
    from llmrec.config import RunConfig
    from llmrec.config.commented import commented
    from llmrec.pipeline.recipes import overrides_of, with_defaults

    given = overrides_of({"data.dataset": dataset, "algorithm": algorithm}, texts)
    plainly = dataset is None and config is None and algorithm is None
    found = RunConfig.read(None, given) if plainly else with_defaults(config, given, algorithm=algorithm)
    text = commented(found, sections).rstrip("\n")
    return Told(text, **yaml.safe_load(text))


def make_report(runs: Sequence[Path], out: Path, command: str, *, users: bool) -> Told:
    """Writes the report of `runs` into `out` and returns what was done, in a sentence.

    Raises:
        LLMRecError: whatever cannot be read, compared or written; then nothing is left behind.
    """
    from llmrec.pipeline.report_folders import report_runs

    page = report_runs(runs, out, command=command, users=users)
    many = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    held = "" if not users else " It may show users' histories: not for handing on."
    said = f"Report of {many}: {page} and {page.with_suffix('.md').name}.{held}"
    return Told(said, page=str(page), runs=[str(run) for run in runs], users=users)
