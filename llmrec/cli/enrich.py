"""`llmrec enrich` and `llmrec review`: texts that are written, and what a person should look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmrec.errors import ConfigError, DataError
from llmrec.printing import echo, json_line, one_line, short_line

if TYPE_CHECKING:
    from llmrec.enrich.enriched import Enriched
    from llmrec.enrich.types import Writer

WRITE = ("users", "items")


def enrich_command(
    source: Annotated[Path, typer.Argument(metavar="DATA", help="A data set's folder; it is left as it is.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new data set; it appears whole or not at all.")],
    write: Annotated[str, typer.Option(help="Of what to write: users, items, or both divided by a comma.")] = "users",
    model: Annotated[
        str | None, typer.Option(help="Who writes: a Hub id, folder or .gguf file; by default a fixed rule.")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="An OpenAI-compatible address (…/v1) that has the --model; the facts are sent there."),
    ] = None,
    key_variable: Annotated[
        str, typer.Option(help="The environment variable with the endpoint's key.")
    ] = "LLMREC_ENDPOINT_KEY",
    reviews: Annotated[
        Path | None, typer.Option(help="Reviews, a JSON object a line: user_id, item_id, text, time (or Amazon's).")
    ] = None,
    split: Annotated[str, typer.Option(help="time, leave-last-out or given; as the run's data.split.")] = "time",
    valid_fraction: Annotated[float, typer.Option(help="As data.valid_fraction.")] = 0.1,
    test_fraction: Annotated[float, typer.Option(help="As data.test_fraction.")] = 0.2,
    replace: Annotated[
        bool, typer.Option("--replace", help="In place of given texts, instead of behind them.")
    ] = False,
    characters: Annotated[int, typer.Option(min=40, max=4000, help="Of one text, at most.")] = 400,
    sentences: Annotated[int, typer.Option(min=1, max=20, help="Of one text, at most.")] = 3,
    recent: Annotated[int, typer.Option(min=1, help="How many last choices are recent interests.")] = 10,
    users: Annotated[int | None, typer.Option(min=1, help="Only the first so many users.")] = None,
    forbidden: Annotated[
        Path | None, typer.Option(help="Words that no text may hold, and items (item:ID) that none may name.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Prompts that a local model answers together.")] = 8,
    tokens: Annotated[int, typer.Option(min=8, max=2000, help="Of an answer, at most.")] = 80,
    timeout: Annotated[float, typer.Option(help="Seconds for one answer of an endpoint.")] = 60.0,
    retries: Annotated[int, typer.Option(help="How often a request is repeated.")] = 4,
    parallel: Annotated[int, typer.Option(help="Requests under way at a time.")] = 4,
    per_minute: Annotated[float | None, typer.Option(help="Requests begun in a minute, at most.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where drafts are kept (default: OUT.work/drafts).")] = None,
    fallback: Annotated[
        bool, typer.Option("--fallback/--no-fallback", help="Write by rule where the model's text does not pass.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace the data set at OUT.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result to this JSON file.")] = None,
) -> None:
    """Writes user profiles from their histories and item descriptions; each sentence is held against its source.

    The same command goes on where it was stopped. No network is used unless --endpoint, or a Hub id, asks for it.
    """
    from llmrec.cli.data import free_place, load_dataset
    from llmrec.config import DataConfig
    from llmrec.config_tree import from_tree
    from llmrec.dataset.split import make_split
    from llmrec.enrich.cache import DraftCache
    from llmrec.enrich.checks import Bounds, Checks
    from llmrec.enrich.enriched import Wish, enrich
    from llmrec.enrich.review import read_decisions
    from llmrec.enrich.reviews import read_reviews
    from llmrec.enrich.sources import SourceSettings
    from llmrec.files import write_json
    from llmrec.storage import resolve, work_folder
    from llmrec.text.forbidden import Forbidden, read_forbidden

    what = _what(write)
    tree = {"split": split, "valid_fraction": valid_fraction, "test_fraction": test_fraction}
    cut = from_tree(DataConfig, tree, "the command line")
    with free_place(out, force) as place:
        if place == resolve(source):
            raise DataError(f"{out} is the data set that is to be enriched; name another folder.")
        dataset = load_dataset(source)
        made = make_split(dataset, cut.split, cut.valid_fraction, cut.test_fraction)
        said = () if reviews is None else read_reviews(reviews)
        work = work_folder(place)
        checks = Checks(
            dataset.manifest.language,
            Bounds(characters=characters, sentences=sentences),
            Forbidden() if forbidden is None else read_forbidden(forbidden),
            read_decisions(work),
        )
        asked: dict[str, Any] = {
            "timeout": timeout,
            "retries": retries,
            "parallel": parallel,
            "per_minute": per_minute,
        }
        asked |= {"key_variable": key_variable, "tokens": tokens}
        writer = _writer(model, endpoint, dataset.manifest.language, dataset.manifest.domain, batch, asked)
        wish = Wish(
            what=what,  # type: ignore[arg-type]
            mode="replace" if replace else "append",
            sources=SourceSettings(recent=recent),
            users=users,
        )
        drafts = None if writer.author.writer == "extractive" else DraftCache(cache or work / "drafts")
        found = enrich(dataset, made, writer, checks, wish, reviews=said, cache=drafts, fallback=fallback)
        found.save(place)
    for line in _lines(found, len(said)):
        echo(line)
    if json_file is not None:
        write_json(json_file, found.dataset.manifest.written)


def review_command(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A data set that `llmrec enrich` wrote, or a run folder.")
    ],
    accept: Annotated[list[str], typer.Option(help="Let this entry stand; may be repeated.")] = [],  # noqa: B006
    refuse: Annotated[list[str], typer.Option(help="Leave this entry out; may be repeated.")] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Lists what a person should look at: harmful words in what was written, or in what items say of themselves.

    A sentence stays out unless it is accepted; an item stays in unless it is refused. Decisions take effect when the
    same `llmrec enrich` command is given again with --force. Of a run they take effect at once: a refused item is no
    longer recommended, and reasons name an item with a harmful word once it is accepted.
    """
    from dataclasses import asdict

    from llmrec.enrich.review import RUN, Decision, decide, read_decisions, read_entries
    from llmrec.storage import work_folder

    both = set(accept) & set(refuse)
    if both:
        raise ConfigError(f"Entry {min(both)[:20]!r} is both accepted and refused; choose one.")
    entries = read_entries(folder)
    decisions: dict[str, Decision] = {**dict.fromkeys(accept, "accept"), **dict.fromkeys(refuse, "refuse")}
    known = decide(folder, decisions) if decisions else read_decisions(work_folder(folder))
    if as_json:
        for entry in entries:
            echo(json_line({**asdict(entry), "decision": known.get(entry.id, "")}))
        return
    for entry in entries:
        state = known.get(entry.id, "open")
        subject = f"{entry.kind} {short_line(entry.subject)}"
        echo(f"{entry.id}  {state}  {entry.what} of {subject} ({entry.reason}: {short_line(entry.words)})")
        echo(f"    {one_line(entry.text, 200)}")
    still = sum(entry.id not in known for entry in entries)
    echo(f"{len(entries)} entries, {still} open." if entries else "There is nothing to look at.")
    if decisions and not (folder / RUN).is_file():
        echo("Give the same `llmrec enrich` command again with --force to let decisions take effect.")


def _what(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in WRITE]
    if unknown or not names:
        raise ConfigError(f"--write is {one_line(text, 60)!r}; give users, items, or users,items.")
    return names


def _writer(
    model: str | None, endpoint: str | None, language: str, domain: str, batch: int, asked: dict[str, Any]
) -> Writer:
    if endpoint is not None:
        if model is None:
            raise ConfigError("--endpoint needs --model, the endpoint's name for the model that is to write.")
        from llmrec.enrich.endpoint import EndpointSettings, EndpointWriter
        from llmrec.enrich.prompting import Prompts

        return EndpointWriter(EndpointSettings(url=endpoint, model=model, **asked), Prompts(language, domain))
    if model is not None:
        from llmrec.enrich.model_writer import ModelWriter  # torch and transformers take seconds to import
        from llmrec.enrich.prompting import Prompts

        return ModelWriter(model, Prompts(language, domain), tokens=asked["tokens"], batch=batch)
    from llmrec.enrich.extractive import ExtractiveWriter

    return ExtractiveWriter(language, domain)


def _lines(found: Enriched, given: int) -> Sequence[str]:
    lines = []
    for author, one in found.shares.items():
        name = f"{author.writer} {short_line(author.model)}".strip()
        gone = ", ".join(f"{reason} {count}" for reason, count in one.dropped.items()) or "none"
        lines.append(
            f"{name}: {one.texts:,} texts ({one.failed:,} not had, {one.empty:,} left to the rule), "
            f"{one.sentences:,} sentences, {one.grounded_share:.1%} of them grounded; went: {gone}."
        )
    if given:
        lines.append(f"reviews: {len(found.reviews):,} of {given:,} belong to the training part and were read.")
    if found.entries:
        lines.append(f"{len(found.entries):,} entries for a person to look at: llmrec review.")
    return lines
