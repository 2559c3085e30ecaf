"""The list of what llmrec wrote into a folder that is handed on: a person's own files are told from it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from llmrec.files import Ours, entries, read_json, write_json

LIST = "files.json"


def write_list(folder: Path) -> None:
    """Writes `files.json` into the finished `folder`: the SHA-256 of each file in it."""
    names = [name for name in entries(folder) if name != LIST]
    write_json(folder / LIST, {"sha256": {name: file_hash(folder / name) for name in names}})


def written(otherwise: Ours) -> Ours:
    """The files that are as they were written; without a list (of an older version) those of `otherwise`."""

    def ours(folder: Path) -> list[str]:
        if not (folder / LIST).is_file():
            return list(otherwise(folder))
        hashes = read_json(folder / LIST)["sha256"]
        there = [name for name in entries(folder) if name in hashes and not (folder / name).is_symlink()]
        return [LIST, *(name for name in there if file_hash(folder / name) == hashes[name])]

    return ours


def file_hash(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
