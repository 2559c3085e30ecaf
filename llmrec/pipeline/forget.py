"""A person is forgotten: their rows go, and the models that were trained on them say so.

What holds rows of persons: data sets, and the working folders of runs (the data set as it was imported, and the
report with its figures by user). A run folder itself holds none. Its weights were fitted on the person's rows all the
same; what they keep of them cannot be cut out and is gone only when the run is made anew, so the run is marked.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from llmrec.dataset.store import MANIFEST, Dataset
from llmrec.errors import RequestError
from llmrec.export import CARD, read_facts
from llmrec.files import write_json
from llmrec.pipeline.opening import read_config
from llmrec.pipeline.work import Work
from llmrec.printing import short_line
from llmrec.storage import resolve, shown, work_folder
from llmrec.written import MARK, check_written, forgotten_of

KEPT_DATA = "data/dataset"
REPORT = "report"
DRAFTS = "drafts"
"""In the working folder of a data set with written texts (`llmrec.enrich.cache`)."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is known of a run: the content hash of its data set, where that was read from, and its working folder."""

    content_hash: str
    source: str | None
    work: Path

    def made_from(self, folder: Path, dataset: Dataset) -> bool:
        """Whether it was made from this data set."""
        here = self.source is not None and resolve(self.source) == folder
        return here or dataset.manifest.content_hash == self.content_hash


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was done at one place.

    Attributes:
        place: a data set's folder or a run folder, as it was given.
        users: how many of the named persons were there; None where a run's data set is not at hand, so that nobody
            knows.
        events: rows of them that went.
        run: what the run was made from; it is now marked unless `users` is 0 or None. None for data sets.
    """

    place: Path
    users: int | None
    events: int
    run: Run | None = None

    def __str__(self) -> str:
        """One sentence."""
        source = "" if self.run is None or self.run.source is None else shown(self.run.source)
        if self.users is None:
            named = f" ({source})" if source else ""
            return (
                f"{shown(self.place)}: no data set is beside it, so whether it was trained on them is not known; "
                f"give the data set that it was made from{named} in the same command."
            )
        if not self.users:
            return f"{shown(self.place)}: holds none of them."
        many = "1 user" if self.users == 1 else f"{self.users:,} users"
        if self.run is None:
            return f"{shown(self.place)}: {many} and {self.events:,} events removed."
        kept = f" {source}, which the run was made from, is changed only if it is named." if source else ""
        return (
            f"{shown(self.place)}: {many} and {self.events:,} events removed from its working folder; marked as "
            f"trained on them: its own command with --force makes it anew without them.{kept}"
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """A place as it was found; `data` is the folder of its data set, None where there is none."""

    given: Path
    folder: Path
    data: Path | None
    run: Run | None = None


def forget(places: Sequence[Path], user_ids: Collection[str], *, known: Collection[str] = ()) -> list[Forgotten]:
    """Removes users from data sets and working folders of runs, and marks the runs that were trained on them.

    A run without its working folder counts as trained on them if it was made from a data set that is named beside it.
    Each place is changed whole or not at all; the same call again does what a kill left undone.

    Args:
        places: folders of data sets, and run folders.
        user_ids: ids as in the data.
        known: those of them whom something else knows, so that it is no mistake if no place does.

    Returns:
        What was done, place by place.

    Raises:
        RequestError: nobody or nothing was named, a place twice, or one that is neither data set nor run; or a user
            whom no place knows.
        DataError: a data set that cannot be read, or would have no event left.
        RunError: a run that is damaged, or at work.
    """
    if not user_ids or not places:
        raise RequestError("Name at least one user, and one folder of a data set or of a run.")
    found = [_found(place) for place in places]
    for n, one in enumerate(found):
        if any(one.folder == other.folder for other in found[:n]):
            raise RequestError(f"{shown(one.given)} is named twice; name each folder once.")
    gone = set(user_ids)
    held = {one.folder: Dataset.load(one.data) for one in found if one.data is not None}
    found_here: set[str] = set().union(*(gone & dataset.user_index.keys() for dataset in held.values()))
    if missing := sorted(gone - found_here - set(known)):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise RequestError(
            f"No place that was named knows user {short_line(missing[0])!r}{more}; look at the ids in "
            "its users.parquet."
        )
    rest = {
        folder: dataset.without_users(gone) for folder, dataset in held.items() if gone & dataset.user_index.keys()
    }
    return [_forget(one, held, rest) for one in found]


def _found(given: Path) -> _Place:
    folder = resolve(given)
    if (folder / MANIFEST).is_file():
        return _Place(given, folder, folder)
    if (folder / CARD).is_file():
        check_written(folder)
        config = read_config(folder)
        if config.data.dataset == "world":
            raise RequestError(f"{shown(given)} was made from a generated world; there is nobody in it to forget.")
        source = config.data.source
        work = work_folder(folder)
        data = work / KEPT_DATA
        known = Run(
            str(read_facts(folder)["dataset"].get("content_hash")), None if source is None else str(source), work
        )
        return _Place(given, folder, data if data.is_dir() else None, known)
    raise RequestError(
        f"{shown(given)} is neither a data set ({MANIFEST} is missing) nor a run ({CARD} is missing); give the "
        "folder that `llmrec data import` or `llmrec run` made."
    )


def _forget(place: _Place, held: Mapping[Path, Dataset], rest: Mapping[Path, Dataset]) -> Forgotten:
    """Changes one place; `rest` holds the data sets without them, of places that know one of them."""
    before, after = held.get(place.folder), rest.get(place.folder)
    users = 0 if before is None or after is None else before.users.height - after.users.height
    events = 0 if before is None or after is None else before.events.height - after.events.height
    if place.run is None:
        if after is not None:
            # what was written of people beside it goes whole: drafts have no names by which to find one of them
            shutil.rmtree(work_folder(place.folder) / DRAFTS, ignore_errors=True)
            after.save(place.folder)
        return Forgotten(place.given, users, events)
    if before is None:
        own = [folder for folder, dataset in held.items() if place.run.made_from(folder, dataset)]
        if not own:
            return Forgotten(place.given, None, 0, place.run)
        lost = [held[folder].users.height - rest[folder].users.height for folder in own if folder in rest]
        users = max(lost, default=0)
    if users:
        # first the mark: a kill in between leaves a run that is marked though its working folder still knows them
        _mark(place.folder, users)
    if users and place.run.work.is_dir():
        work = Work(place.run.work, finished_only=True)
        with work.alone():
            if after is not None:
                work.amend("data", lambda folder: after.save(folder / "dataset"))
            shutil.rmtree(place.run.work / REPORT, ignore_errors=True)
    return Forgotten(place.given, users, events, place.run)


def _mark(run: Path, users: int) -> None:
    """Adds `users` to those that the run was trained on and that have been forgotten since."""
    before = forgotten_of(run)
    write_json(run / MARK, {"users": before + users, "on": datetime.now(UTC).date().isoformat()})
