"""The best items of every user of a data set, into one Parquet file: a nightly job, on one process or many.

Users are cut into parts in the order of the users' table. A part is decoded at once and is a file that is there whole
or not at all, so a killed job goes on with the parts that are missing; the last step puts them together in order.
What a part holds does not depend on who decodes it, nor on the other parts.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.catalogue.filters import Filters
from llmrec.dataset.store import Dataset
from llmrec.errors import RequestError, RunError
from llmrec.files import new_file, sha256_of
from llmrec.pipeline.work import Work, is_first, wait_for_all
from llmrec.policy.decoding import check_k
from llmrec.policy.engine import Engine
from llmrec.policy.filtered import hidden_items, passing
from llmrec.policy.modes import device_of, dtype_of
from llmrec.printing import short_line
from llmrec.progress import Bar, silent
from llmrec.recommender import Recommender, Request
from llmrec.storage import resolve, shown, storage_errors, work_folder
from llmrec.types import Slate
from llmrec.version import __version__
from llmrec.written import intact, run_hash

ENDING = ".parquet"
MARK = b"llmrec.batch"
"""Key of the file's metadata: which job wrote it."""
PART = 256
"""Users of a part: what a kill can cost a process."""
ROW_GROUP = 1 << 20
STAGE, FILE = "slates", "slates.parquet"


@dataclass(frozen=True)
class BatchJob:
    """What decides a file of slates.

    Attributes:
        k: items wanted for each user.
        users: whose lists are made, in this order; None: all users of the data set in its order.
        filters: what the items must be.
        exact: best-first search, which proves each list, in place of beam search.
        exclude_seen: leave out what a user has seen; by default as the data set's manifest says.
        titles: whether there is a column of titles.
        part: users of a part.
        prefer: what the lists weigh how much, for a run that reads it (`Recommender.recommend`).
    """

    k: int = 10
    users: tuple[str, ...] | None = None
    filters: Filters | None = None
    exact: bool = False
    exclude_seen: bool | None = None
    titles: bool = True
    part: int = PART
    prefer: Mapping[str, int] | None = None


@dataclass(frozen=True)
class BatchResult:
    """What was written.

    Attributes:
        out: the file.
        users: users asked for.
        rows: rows of the file.
        short: users with fewer items than were asked for, those without any among them.
        seconds: this command took, by the clock.
        decoded: users that were decoded by it; the others were finished before.
    """

    out: str
    users: int
    rows: int
    short: int
    seconds: float
    decoded: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        rate = f" ({self.decoded / self.seconds:,.1f} users/s)" if self.decoded and self.seconds else ""
        before = f", {self.users - self.decoded:,} of them before" if self.decoded < self.users else ""
        short = f" {self.short:,} users have fewer items than were asked for." if self.short else ""
        return f"{self.out}: {self.users:,} users{before}, {self.rows:,} rows in {self.seconds:.1f} s{rate}.{short}"


def write_slates(recommender: Recommender, out: Path, job: BatchJob, *, force: bool = False) -> BatchResult | None:
    """Writes the best items of many users to `out`: user_id, rank (from 1), item_id, title, log_prob.

    A user's list is `Recommender.recommend`'s for that user; one whom filters leave nothing has no rows. Work is kept
    in `out`.work meanwhile, from which the same job goes on after a kill. Under several processes each decodes its
    share of the parts and the first one writes the file; they share a file system.

    Args:
        recommender: with the data set of the users, and its rules, stock and mixture set.
        out: the file, whose name ends with .parquet; one that an earlier job wrote is replaced.
        job: whose lists, and which.
        force: replace a file that no such job wrote, and parts of another job.

    Returns:
        What was written; None on the other processes.

    Raises:
        RequestError: no data set, no users, a k that cannot be met, a filter that cannot be read, or weights that the
            run does not state.
        RunError: `out` is something else, cannot be written, or holds parts of another job.
        Busy: another process writes it.
    """
    start, place = time.monotonic(), resolve(out)
    users = _users(recommender, job)
    if job.prefer:  # refused before anything is made
        recommender.read(user=users[0], prefer=job.prefer, k=job.k)
    key = {"llmrec": __version__, "model": _model_key(recommender), "users": sha256_of(*users), **_settings(job)}
    key |= {"data": _data_of(recommender).manifest.content_hash, **recommender.told()}
    digest = sha256_of(json.dumps(key, sort_keys=True, default=str))
    if is_first():
        _check_place(place, force=force)
    before = _counts(place, digest)
    wait_for_all()  # nobody looks while the first process writes
    if before is not None:
        return BatchResult(str(out), len(users), *before, time.monotonic() - start, 0) if is_first() else None
    decoder = _Decoder(recommender, job, users, digest)
    work = Work(work_folder(place), remake=force)
    if not is_first():
        work.stage(STAGE, key, decoder.build, together=True)
        return None
    with storage_errors(place), work.alone():
        stage = work.stage(STAGE, key, decoder.build, together=True)
        with new_file(place) as arriving:  # a copy: a kill in between finds the stage as it was finished
            shutil.copyfile(stage / FILE, arriving)
        shutil.rmtree(stage, ignore_errors=True)
    rows, short = _counts(place, digest) or (0, 0)
    return BatchResult(str(out), len(users), rows, short, time.monotonic() - start, decoder.decoded)


def _users(recommender: Recommender, job: BatchJob) -> tuple[str, ...]:
    """Whose lists are made, after all that can be refused without decoding was looked at."""
    data = _data_of(recommender)
    recommender.fitted_data()
    check_k(job.k, len(recommender.bundle.policy.catalogue))
    users = data.users["user_id"].to_list() if job.users is None else list(dict.fromkeys(job.users))
    if strangers := [user for user in users if data.user(user) is None][:1]:
        raise RequestError(f"User {short_line(strangers[0])!r} is not in the data set; give ids of its users table.")
    if not users:
        raise RequestError("There is no user to recommend for; give a data set with users, or some of their ids.")
    if job.filters is not None and (known := recommender.bundle.policy.filters) is not None:
        passing(known.attributes, [job.filters])
    return tuple(users)


def _data_of(recommender: Recommender) -> Dataset:
    if recommender.data is None:
        raise RequestError(
            f"The run folder {shown(recommender.bundle.folder)} holds no users; give the data set's folder with "
            "--data (data= in Python)."
        )
    return recommender.data


def _settings(job: BatchJob) -> dict[str, Any]:
    found = {**asdict(job), "users": None, "filters": repr(job.filters)}
    # files and parts from before there was this wish are those of jobs without it
    return found if job.prefer else {key: value for key, value in found.items() if key != "prefer"}


def _model_key(recommender: Recommender) -> list[str]:
    """Which weights compute, in which numbers: another device or precision rounds otherwise."""
    bundle = recommender.bundle
    model = bundle.policy.model
    ids = sha256_of(*bundle.policy.catalogue.item_ids)  # items may have come and gone in memory
    engine = [model.name] if isinstance(model, Engine) else []
    return [run_hash(bundle.folder), ids, str(dtype_of(model)), device_of(model).type, *engine]


def _check_place(place: Path, *, force: bool) -> None:
    """Refuses a place where a file would destroy something."""
    if place.suffix != ENDING:
        raise RunError(f"{shown(place)} is no name of a Parquet file; let it end with {ENDING}.")
    if place.is_dir():
        raise RunError(f"{shown(place)} is a folder; name a file within it.")
    if place.exists() and not force and _mark(place) is None:
        raise RunError(
            f"{shown(place)} was not written by llmrec batch; name another file, or --force to replace it."
        )


def _mark(place: Path) -> dict[str, Any] | None:
    """What a job has written about the file; None where no job wrote it."""
    try:
        held = (pq.read_metadata(place).metadata or {}).get(MARK)
        found = None if held is None else json.loads(held)
    except (OSError, ValueError):  # not there, or no Parquet (pyarrow's own error is a ValueError)
        return None
    return found if isinstance(found, dict) else None


def _counts(place: Path, digest: str) -> tuple[int, int] | None:
    """Rows and users with short lists of a file that this job has finished."""
    found = _mark(place)
    if found is None or found.get("job") != digest:
        return None
    return int(pq.read_metadata(place).num_rows), int(found["short"])


class _Decoder:
    """Decodes the parts of this process, and puts them together on the first.

    Attributes:
        decoded: users whose parts were not there before, of all processes.
    """

    def __init__(self, recommender: Recommender, job: BatchJob, users: Sequence[str], digest: str) -> None:
        self.recommender, self.job, self.users, self.digest = recommender, job, users, digest
        self.decoded = 0
        text = pa.string()
        fields = [
            ("user_id", text),
            ("rank", pa.int32()),
            ("item_id", text),
            ("title", text),
            ("log_prob", pa.float64()),
        ]
        self.schema = pa.schema([field for field in fields if job.titles or field[0] != "title"])

    def build(self, folder: Path, scratch: Path) -> None:
        """Makes the parts of this process that are not in `scratch`; the first one writes `folder`/FILE of all."""
        starts = range(0, len(self.users), self.job.part)
        places = {start: scratch / f"part-{number:08d}{ENDING}" for number, start in enumerate(starts)}
        there = {start for start, place in places.items() if place.is_file()}
        self.decoded = sum(len(self._part(start)) for start in starts if start not in there)
        wait_for_all()  # all have looked before any writes
        rank, world = (int(os.environ.get(name, fallback)) for name, fallback in (("RANK", "0"), ("WORLD_SIZE", "1")))
        # by number and not by what is missing: which parts a process has is known without asking the others
        own = [start for number, start in enumerate(starts) if number % world == rank]
        self._decode({start: places[start] for start in own if start not in there})
        wait_for_all()
        if is_first():
            self._join(list(places.values()), folder / FILE)

    def _part(self, start: int) -> Sequence[str]:
        return self.users[start : start + self.job.part]

    def _decode(self, places: dict[int, Path]) -> None:
        total, begin, done = sum(len(self._part(start)) for start in places), time.monotonic(), 0
        many = int(os.environ.get("WORLD_SIZE", "1"))
        with Bar("users" if many == 1 else f"users (first of {many} processes)", total) as bar:
            for start, place in places.items():
                users = self._part(start)
                with silent():
                    table, short = self._table(users)
                with intact(place, "make room or name another place"), new_file(place) as file:
                    pq.write_table(self._marked(table, short=short), file, compression="zstd")
                done += len(users)
                if is_first():
                    bar.advance(len(users), f"{done / (time.monotonic() - begin):,.1f} users/s")

    def _marked(self, table: pa.Table, **facts: Any) -> pa.Table:
        return table.replace_schema_metadata({MARK: json.dumps({"job": self.digest, **facts}).encode()})

    def _table(self, users: Sequence[str]) -> tuple[pa.Table, int]:
        """The rows of some users, and how many of them have fewer items than were asked for."""
        job, bundle = self.job, self.recommender.bundle
        requests = [
            self.recommender.read(user=user, filters=job.filters, k=job.k, prefer=job.prefer) for user in users
        ]
        if (book := self.recommender.book) is not None:  # whichever lists are shown
            requests = [replace(one, filters=book.alone(one.filters or Filters(), job.k)) for one in requests]
        slates = self._slates(requests)
        items = [bundle.items[item] for slate in slates for item in slate.items_K]
        columns: dict[str, Any] = {
            "user_id": [user for user, slate in zip(users, slates, strict=True) for _ in slate.items_K],
            "rank": [rank for slate in slates for rank in range(1, len(slate.items_K) + 1)],
            "item_id": [item.item_id for item in items],
            "title": [item.title for item in items],
            "log_prob": [float(value) for slate in slates for value in slate.log_probs_K],
        }
        table = pa.table({name: columns[name] for name in self.schema.names}, schema=self.schema)
        return table, sum(len(slate.items_K) < job.k for slate in slates)

    def _slates(self, requests: Sequence[Request]) -> list[Slate]:
        """A list for each; empty where nothing is left, which is no error of the job."""
        job, ranker, policy = self.job, self.recommender.ranker, self.recommender.bundle.policy
        hides = policy.repeat == "exclude" if job.exclude_seen is None else job.exclude_seen
        slates = [Slate((), ())] * len(requests)
        left = [b for b, request in enumerate(requests) if self._leaves(request, hides)]
        if not left:
            return slates
        asked = [requests[b] for b in left]
        filters = [request.filters or Filters() for request in asked]
        found = ranker.recommend(
            [request.state for request in asked],
            job.k,
            seen=[np.empty(0, dtype=np.int64) if request.seen is None else request.seen for request in asked],
            filters=filters if any(one != Filters() for one in filters) else None,
            exclude_seen=job.exclude_seen,
            exact=job.exact,
        )
        for b, slate in zip(left, found, strict=True):
            slates[b] = slate
        return slates

    def _leaves(self, request: Request, hides: bool) -> bool:
        """Whether any item is left to the user."""
        policy = self.recommender.bundle.policy
        left_N = np.ones(len(policy.catalogue), dtype=np.bool_)
        if request.filters is not None and policy.filters is not None:
            left_N &= passing(policy.filters.attributes, [request.filters])[0]
        if hides:
            left_N[hidden_items([request.state], None if request.seen is None else [request.seen])[0]] = False
        return bool(left_N.any())

    def _join(self, parts: Sequence[Path], place: Path) -> None:
        """All parts in order, in row groups of a size that readers like."""
        if missing := [part for part in parts if not part.is_file()]:
            raise RunError(
                f"{shown(missing[0])} is missing; processes on several machines need a file system that they share."
            )
        short = sum(int((_mark(part) or {}).get("short", 0)) for part in parts)
        schema = self._marked(self.schema.empty_table(), short=short).schema
        with pq.ParquetWriter(place, schema, compression="zstd") as writer:
            for table in _grouped(parts):
                writer.write_table(table.replace_schema_metadata(schema.metadata))


def _grouped(parts: Sequence[Path]) -> Iterator[pa.Table]:
    """Tables of about `ROW_GROUP` rows."""
    held: list[pa.Table] = []
    for part in parts:
        with intact(part, "remove it to make it anew"):
            held.append(pq.read_table(part, partitioning=None).replace_schema_metadata(None))
        if sum(table.num_rows for table in held) >= ROW_GROUP:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)
