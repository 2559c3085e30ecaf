"""The data set: items, users and events as three tables with a manifest, in memory and as one folder of Parquet.

The content hash is SHA-256 over values, independent of file encoding, compression and chunking: a column enters as
its name, its length, its validity bits and its non-null values; text enters as UTF-8 with the lengths before it, a
list column as its lengths and its flat values, -0.0 as 0.0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from llmrec.bounded import read_parquet
from llmrec.dataset.manifest import Manifest, Repeat, Signal, read_manifest, write_manifest
from llmrec.dataset.schema import SCHEMAS, cast_table, with_later, without_empty_later
from llmrec.dataset.validate import rows_of, validate_events, validate_items, validate_rows, validate_users
from llmrec.errors import DataError
from llmrec.files import matching, new_folder, sha256_of
from llmrec.printing import one_line
from llmrec.progress import Bar
from llmrec.storage import resolve
from llmrec.types import EVENT_KINDS, Item, User

__all__ = ["MANIFEST", "Dataset", "Manifest", "Signal"]

MANIFEST = "manifest.json"
TEXTS, REVIEW, OPINIONS = "texts.parquet", "review.json", "opinions.parquet"
"""Beside a data set with written texts: who wrote each, what a person should look at, what reviews say."""
FILES = (MANIFEST, TEXTS, REVIEW, OPINIONS, "items.parquet", "users.parquet", "events.parquet", "rows.parquet")
_MANY_EVENTS = 1_000_000  # from here on building takes seconds and shows a bar
_ORDER = ("time", "user_id", "order", "session", "position", "kind", "item_id", "value", "propensity", "split")
_CHUNK = 1 << 20  # rows hashed at once; part of the format, since lengths and text alternate by chunk


class Dataset:
    """Items, users and events that have been checked; build one with `build`, `load` or an importer.

    Attributes:
        items: item_id, title, description, categories (list of text), brand, price. The row is the *item index*.
        users: user_id, profile.
        events: user_id, item_id, kind, time (seconds), value, position (from 0), propensity, session, split,
            order (the place among the user's events of the same second, null where it is unknown); sorted by time,
            then user row, order, session, position, kind (in the order of `EVENT_KINDS`) and item row.
        rows: evaluation rows given by the data (split, user_id, history of item ids oldest first, target, time),
            or None.
        manifest: what the data set says about itself.
    """

    def __init__(
        self,
        items: pl.DataFrame,
        users: pl.DataFrame,
        events: pl.DataFrame,
        manifest: Manifest,
        rows: pl.DataFrame | None = None,
    ) -> None:
        """Takes checked tables as they are; use `build` for tables from elsewhere."""
        self.items, self.users, self.events = items, users, events
        self.manifest, self.rows = manifest, rows

    @classmethod
    def build(
        cls,
        items: pl.DataFrame,
        users: pl.DataFrame | None,
        events: pl.DataFrame,
        *,
        name: str,
        domain: str,
        language: str = "en",
        source: str = "",
        terms: str = "",
        repeat: Repeat = "exclude",
        click: str,
        conversion: str,
        proxy: str = "",
        currency: str = "",
        rows: pl.DataFrame | None = None,
        add_missing_users: bool = False,
    ) -> Dataset:
        """Casts tables to the schema, refuses what is unusable, sorts the events, counts and hashes.

        Optional columns may be absent. With `add_missing_users` (or `users` None) users who are only in events or
        rows get a row without a profile, in order of their ids; otherwise they are an error.

        Raises:
            DataError: one sentence that names table, row, key and mend.
        """
        bar = Bar("Building the data set (stages)", 4)
        with bar if events.height > _MANY_EVENTS else contextlib.nullcontext():
            items = cast_table(items, "items")
            validate_items(items)
            events = cast_table(events, "events")
            bar.advance()
            rows = None if rows is None else cast_table(rows, "rows")
            users = cast_table(pl.DataFrame({"user_id": []}) if users is None else users, "users")
            if add_missing_users or users.is_empty():
                users = _with_missing_users(users, events, rows)
            validate_users(users)
            validate_events(events)
            if rows is not None:
                validate_rows(rows, items["item_id"], users["user_id"])
            bar.advance()
            events, coded = _sorted_events(events, items, users)
            bar.advance()
            tables = {"items": items, "users": users, "events": coded} | ({} if rows is None else {"rows": rows})
            hashes = {table: _content_hash(frame, table) for table, frame in tables.items()}
            bar.advance()
        manifest = Manifest(
            name=name,
            domain=domain,
            language=language,
            source=source,
            terms=terms,
            repeat=repeat,
            click=click,
            conversion=conversion,
            counts=_counts(items, users, events, rows),
            content_hash=combine_hashes(hashes),
            proxy=proxy,
            currency=currency,
            table_hashes=hashes,
        )
        return cls(items, users, events, manifest, rows)

    def with_events(self, events: pl.DataFrame, rows: pl.DataFrame | None = None) -> Dataset:
        """The same items and users with other events (checked and sorted) and, where given, other evaluation rows.

        Counts and hashes are made anew.
        """
        events = cast_table(events, "events")
        validate_events(events)
        if rows is not None:
            rows = cast_table(rows, "rows")
            validate_rows(rows, self.items["item_id"], self.users["user_id"])
        return self._with(self.users, events, self.rows if rows is None else rows)

    def without_users(self, user_ids: Collection[str]) -> Dataset:
        """The same without all that is held of these users: their profiles, events and evaluation rows.

        Ids that there are not are passed over. Counts and hashes are made anew.

        Raises:
            DataError: no event would be left.
        """
        gone = pl.Series(sorted(user_ids), dtype=pl.String).implode()
        users, events = (frame.filter(~pl.col("user_id").is_in(gone)) for frame in (self.users, self.events))
        if events.is_empty():
            raise DataError(
                f"Data set {self.manifest.name!r} has no event of anybody else; remove its folder instead."
            )
        rows = None if self.rows is None else self.rows.filter(~pl.col("user_id").is_in(gone))
        return self._with(users, events, rows)

    def _with(self, users: pl.DataFrame, events: pl.DataFrame, rows: pl.DataFrame | None) -> Dataset:
        """Checked tables in the place of these."""
        events, coded = _sorted_events(events, self.items, users)
        tables = {"users": users, "events": coded} | ({} if rows is None else {"rows": rows})
        hashes = {
            **self.manifest.table_hashes,
            **{name: _content_hash(table, name) for name, table in tables.items()},
        }
        manifest = dataclasses.replace(
            self.manifest,
            counts=_counts(self.items, users, events, rows),
            content_hash=combine_hashes(hashes),
            table_hashes=hashes,
            hub="",
        )
        return Dataset(self.items, users, events, manifest, rows)

    def with_texts(self, *, profiles: Sequence[str], descriptions: Sequence[str], written: dict[str, Any]) -> Dataset:
        """The same data with other profiles (one a user) and descriptions (one an item), and who wrote them.

        Raises:
            DataError: a text that no data set takes.
        """
        users = self.users.with_columns(pl.Series("profile", profiles, dtype=pl.String))
        items = self.items.with_columns(pl.Series("description", descriptions, dtype=pl.String))
        validate_users(users)
        validate_items(items)
        hashes = {**self.manifest.table_hashes, "users": _content_hash(users, "users")}
        hashes["items"] = _content_hash(items, "items")
        manifest = dataclasses.replace(
            self.manifest, content_hash=combine_hashes(hashes), table_hashes=hashes, written=written, hub=""
        )
        return Dataset(items, users, self.events, manifest, self.rows)

    @property
    def n_items(self) -> int:
        """N, the size of the catalogue."""
        return self.items.height

    @cached_property
    def item_index(self) -> dict[str, int]:
        """Item index of every item id."""
        return {item_id: row for row, item_id in enumerate(self.items["item_id"])}

    @cached_property
    def user_index(self) -> dict[str, int]:
        """Row in `users` of every user id."""
        return {user_id: row for row, user_id in enumerate(self.users["user_id"])}

    @cached_property
    def has_impressions(self) -> bool:
        """Whether the events say what was shown, not only what was chosen."""
        return bool((self.events["kind"] == "impression").any())

    def item(self, index: int) -> Item:
        """The item of an item index (0..N-1); `IndexError` outside."""
        if not 0 <= index < self.n_items:
            raise IndexError(f"item index {index} is outside 0..{self.n_items - 1}")
        return _item(self.items.row(index, named=True))

    @cached_property
    def item_list(self) -> Sequence[Item]:
        """All items in the order of their indices."""
        return tuple(_item(row) for row in self.items.iter_rows(named=True))

    def user(self, user_id: str) -> User | None:
        """The user of that id, or None where there is none."""
        row = self.user_index.get(user_id)
        return None if row is None else User(*self.users.row(row))

    def save(self, folder: Path) -> None:
        """Writes items, users, events (and rows) as Parquet and the manifest as JSON, whole or not at all.

        Replaces a data set that is there already, whose other files stay; any other folder with content is refused
        with a `DataError`.
        """
        folder = resolve(folder)
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file()):
            raise DataError(f"{folder} exists and is no llmrec data set, so it is not replaced; name a new folder.")
        with new_folder(folder, mark=MANIFEST, ours=matching(*FILES)) as work:
            self.write(work)

    def write(self, folder: Path) -> None:
        """Writes the files of `save` into a folder that is the caller's to rename."""
        for table, frame in self._tables().items():
            without_empty_later(frame, table).write_parquet(folder / f"{table}.parquet", compression="zstd")
        write_manifest(folder / MANIFEST, self.manifest)

    @classmethod
    def load(cls, folder: Path) -> Dataset:
        """Reads a folder that `save` wrote and verifies manifest, schema and content hash.

        Raises:
            DataError: names the file that is missing, broken, changed or of another version.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; give one that `llmrec data import` wrote.")
        if not (folder / MANIFEST).is_file():
            raise DataError(f"{folder} has no {MANIFEST}, so it is no llmrec data set; use `llmrec data import`.")
        manifest = read_manifest(folder / MANIFEST)
        names = ["items", "users", "events"] + (["rows"] if "rows" in manifest.table_hashes else [])
        tables = {table: _read_table(folder / f"{table}.parquet", table) for table in names}
        found = cls(tables["items"], tables["users"], tables["events"], manifest, tables.get("rows"))
        found._verify(folder)
        return found

    def _tables(self) -> dict[str, pl.DataFrame]:
        tables = {"items": self.items, "users": self.users, "events": self.events}
        return tables if self.rows is None else {**tables, "rows": self.rows}

    def _verify(self, folder: Path) -> None:
        """Compares every table with its hash in the manifest; equal content was checked when it was built."""
        stored = self.manifest.table_hashes
        for table, frame in self._tables().items():
            path = folder / f"{table}.parquet"
            try:
                content = _coded(frame, self.items, self.users) if table == "events" else frame
            except DataError as error:
                raise DataError(f"{path} does not fit the other tables: {error}") from None
            if _content_hash(content, table) != stored.get(table):
                raise DataError(
                    f"{path} is not what {MANIFEST} describes (its content hash differs); import the data anew."
                )
        if combine_hashes(stored) != self.manifest.content_hash:
            raise DataError(f"{folder / MANIFEST}: 'content_hash' and 'table_hashes' disagree; import the data anew.")


def _item(row: dict[str, object]) -> Item:
    values = {**row, "categories": tuple(cast(list[str], row["categories"]))}
    return Item(**values)  # type: ignore[arg-type]


def _with_missing_users(users: pl.DataFrame, events: pl.DataFrame, rows: pl.DataFrame | None) -> pl.DataFrame:
    seen = events["user_id"] if rows is None else pl.concat([events["user_id"], rows["user_id"]])
    missing = seen.drop_nulls().unique()
    missing = missing.filter(~missing.is_in(users["user_id"].implode())).sort()
    return pl.concat([users, pl.DataFrame({"user_id": missing, "profile": [""] * len(missing)}, SCHEMAS["users"])])


def _coded(events: pl.DataFrame, items: pl.DataFrame, users: pl.DataFrame) -> pl.DataFrame:
    """Events with row numbers for ids and kinds: what is sorted and hashed. Unknown ids are a `DataError`."""
    kinds = pl.Series(EVENT_KINDS)
    return events.with_columns(
        rows_of(events["user_id"], users["user_id"], "events", "users"),
        rows_of(events["item_id"], items["item_id"], "events", "items"),
        rows_of(events["kind"], kinds, "events", "kinds").cast(pl.UInt8),
    )


def _sorted_events(
    events: pl.DataFrame, items: pl.DataFrame, users: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events in canonical order and the same rows coded."""
    coded = _coded(events, items, users)
    order = coded.select(pl.arg_sort_by(*_ORDER).alias("order"))["order"]
    return events[order], coded[order]


def _content_hash(frame: pl.DataFrame, table: str) -> str:
    return table_hash(without_empty_later(frame, table))


def _counts(
    items: pl.DataFrame, users: pl.DataFrame, events: pl.DataFrame, rows: pl.DataFrame | None
) -> dict[str, int]:
    kinds = dict(events["kind"].value_counts().iter_rows())
    counts = {"items": items.height, "users": users.height, "events": events.height}
    counts |= {kind: kinds.get(kind, 0) for kind in EVENT_KINDS}
    return counts if rows is None else {**counts, "rows": rows.height}


def _read_table(path: Path, table: str) -> pl.DataFrame:
    if not path.is_file():
        raise DataError(f"{path} is missing; import the data anew or restore the file.")
    try:
        frame = read_parquet(path)
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet with UTF-8 text: {one_line(error, 160)}; import the data anew."
        ) from None
    frame = with_later(frame, table)
    if dict(frame.schema) != SCHEMAS[table]:
        wrong = [n for n in {**frame.schema, **SCHEMAS[table]} if frame.schema.get(n) != SCHEMAS[table].get(n)]
        raise DataError(
            f"{path} has other columns than an llmrec {table} table (look at: {', '.join(wrong) or 'their order'}); "
            "use `llmrec data import`."
        )
    return frame


def table_hash(frame: pl.DataFrame) -> str:
    """Hex SHA-256 of a table of text, whole-number, float and list-of-text columns, rows in their order."""
    digest = hashlib.sha256()
    for column in frame.get_columns():
        digest.update(sha256_of(column.name, str(len(column))).encode())
        _add(digest, column)
    return digest.hexdigest()


def combine_hashes(hashes: Mapping[str, str]) -> str:
    """One SHA-256 over named table hashes, whatever their order."""
    return sha256_of(*(part for name in sorted(hashes) for part in (name, hashes[name])))


def _add(digest: hashlib._Hash, column: pl.Series) -> None:
    # Null and empty text are told apart by the validity bits, as the values of nulls are left out.
    digest.update(np.packbits(column.is_not_null().to_numpy()).tobytes())
    values = column.drop_nulls()
    if isinstance(values.dtype, pl.List):
        lengths = values.list.len()
        digest.update(lengths.to_numpy().astype("<u4").tobytes())
        _add(digest, values.filter(lengths > 0).explode())
    elif values.dtype == pl.String:
        for start in range(0, len(values), _CHUNK):
            _add_text(digest, values.slice(start, _CHUNK))
    else:
        array = values.to_numpy()
        # -0.0 + 0.0 is 0.0, so that equal numbers have equal bytes.
        array = array + 0.0 if array.dtype.kind == "f" else array
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)


def _add_text(digest: hashlib._Hash, text: pl.Series) -> None:
    digest.update(text.str.len_bytes().to_numpy().astype("<u4").tobytes())
    digest.update(text.str.join("").item().encode())
