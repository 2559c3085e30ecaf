"""What a person should look at, and what they decided.

A data set with written texts has `review.json` beside its tables: sentences that went because of a harmful word, and
items whose own texts hold one. Of a run folder it is the items alone: one that is refused is neither recommended nor
named in reasons, one that is accepted is named whatever words it holds. Decisions lie in the working folder beside
the data set, so that they outlive it; they take effect when the texts are written again, which the cache makes quick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from llmrec.bounded import check_parquet, read_parquet
from llmrec.dataset.schema import cast_table
from llmrec.dataset.store import REVIEW
from llmrec.enrich.checks import Checks, entry_id
from llmrec.enrich.types import Source, Written
from llmrec.errors import DataError, RequestError, RunError
from llmrec.files import read_json, write_json
from llmrec.printing import one_line
from llmrec.storage import shown, work_folder
from llmrec.text.forbidden import FORBIDDEN
from llmrec.types import Item

ITEMS, RUN = "items.parquet", "llmrec.json"
"""Files by which a run folder is known."""
DECISIONS = "decisions.json"
Decision = Literal["accept", "refuse"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to look at.

    Attributes:
        id: its name for a decision.
        kind: user, item or review.
        subject: whose text it is.
        what: "sentence" (went, unless it is accepted) or "item" (stays, unless it is refused).
        text: the sentence, or the item's title.
        reason: the categories of what was found.
        words: the words that were found.
    """

    id: str
    kind: str
    subject: str
    what: Literal["sentence", "item"]
    text: str
    reason: str
    words: str


def flagged_items(items: Sequence[Item], checks: Checks) -> tuple[list[Entry], frozenset[str]]:
    """Items with listed words in their own texts, and the ids of those that no text may name.

    Not named are items that a person forbids by id, by a word in their title, or by a decision.
    """
    entries, unnamed = [], set(checks.forbidden.items)
    for item in items:
        found = checks.words.find(" ".join((item.title, item.description, item.brand, *item.categories)))
        if not found:
            continue
        entry = Entry(
            entry_id(Source("item", "description", item.item_id, ())),
            "item", item.item_id, "item", item.title,
            ", ".join(dict.fromkeys(one.category for one in found)), ", ".join(one.word for one in found),
        )  # fmt: skip
        entries.append(entry)
        in_title = any(one.category == FORBIDDEN for one in checks.words.find(item.title))
        if in_title or checks.decisions.get(entry.id) == "refuse":
            unnamed.add(item.item_id)
    return entries, frozenset(unnamed)


def flagged_sentences(texts: Sequence[Written]) -> list[Entry]:
    """Sentences that went because of a harmful word, whoever wrote them."""
    return [
        Entry(
            entry_id(text.source, one.sentence), text.source.kind, text.source.subject, "sentence", one.sentence,
            one.reason, one.words,
        )
        for text in texts
        for one in (*text.tried_dropped, *text.dropped)
        if one.reason == "harmful"
    ]  # fmt: skip


def write_entries(folder: Path, entries: Sequence[Entry]) -> None:
    """Writes `review.json` into a folder that is the caller's to rename."""
    write_json(folder / REVIEW, {"entries": [asdict(entry) for entry in entries]})


def read_entries(folder: Path) -> list[Entry]:
    """The entries of a data set with written texts, or of a run: its items whose own texts hold a harmful word.

    Raises:
        RunError: there are none, or the file is no such list.
    """
    if (folder / RUN).is_file():
        return flagged_items(_items_of(folder), Checks("en"))[0]
    if not (folder / REVIEW).is_file():
        raise RunError(
            f"{shown(folder)} has no {REVIEW}; give a data set that `llmrec enrich` wrote, or a run folder."
        )
    tree = read_json(folder / REVIEW, "run `llmrec enrich` again")
    try:
        found = [Entry(**entry) for entry in tree["entries"]]
        if all(isinstance(value, str) for entry in found for value in asdict(entry).values()):
            return found
    except (KeyError, TypeError):
        pass
    raise RunError(f"{shown(folder / REVIEW)} is no list of what to look at; run `llmrec enrich` again.")


def _items_of(run: Path) -> list[Item]:
    try:
        check_parquet(run / ITEMS)
        frame = cast_table(read_parquet(run / ITEMS), "items")
    except (ValueError, OSError, DataError) as error:
        raise RunError(f"{shown(run / ITEMS)} cannot be used: {one_line(error, 200)}; fetch the run again.") from None
    columns = ("item_id", "title", "description", "categories", "brand")
    return [
        Item(
            row["item_id"],
            row["title"] or "",
            row["description"] or "",
            tuple(row["categories"] or ()),
            row["brand"] or "",
        )
        for row in frame.select(columns).iter_rows(named=True)
    ]


def decided_items(items: Sequence[Item], decisions: Mapping[str, str]) -> tuple[frozenset[str], frozenset[str]]:
    """Ids of the items that a person refused, and of those that a person accepted."""
    found: dict[str, set[str]] = {"refuse": set(), "accept": set()}
    for item in items if decisions else ():
        decision = decisions.get(entry_id(Source("item", "description", item.item_id, ())))
        if decision in found:
            found[decision].add(item.item_id)
    return frozenset(found["refuse"]), frozenset(found["accept"])


def read_decisions(work: Path) -> dict[str, str]:
    """What was decided, by entry; empty where nothing was."""
    place = work / DECISIONS
    if not place.is_file():
        return {}
    tree: Any = read_json(place, "remove it, or mend it by hand")
    if not isinstance(tree, dict) or not all(value in get_args(Decision) for value in tree.values()):
        raise RunError(f"{shown(place)} holds something else than accept and refuse; remove it, or mend it by hand.")
    return dict(tree)


def decide(folder: Path, decisions: Mapping[str, Decision]) -> dict[str, str]:
    """Adds decisions on entries of a data set and returns all there are.

    Raises:
        RequestError: an entry that is not there.
    """
    known = {entry.id for entry in read_entries(folder)}
    work = work_folder(folder)
    kept = read_decisions(work)
    for name in decisions:
        if name not in known and name not in kept:
            raise RequestError(f"There is no entry {name[:20]!r} in {shown(folder)}; `llmrec review` lists them.")
    kept |= decisions
    write_json(work / DECISIONS, dict(sorted(kept.items())))
    return kept
