"""The list of what llmrec wrote into a folder that is handed on: a person's own files are told from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from llmrec.errors import LLMRecError, RunError
from llmrec.files import Ours, entries, read_json, sha256_of, write_json
from llmrec.printing import one_line
from llmrec.storage import resolve, shown

LIST = "files.json"
MARK = "forgotten.json"
"""Lies in a run folder that was trained on users who have been forgotten since; it names none of them."""


def write_list(folder: Path) -> None:
    """Writes `files.json` into the finished `folder`: the SHA-256 of each file in it."""
    write_json(folder / LIST, {"sha256": hashes_of(folder, but=(LIST,))})


def run_hash(folder: Path) -> str:
    """One hash of all files of a run folder as they were written."""
    listed = folder / LIST
    return sha256_of(json.dumps(read_json(listed) if listed.is_file() else hashes_of(folder), sort_keys=True))


def hashes_of(folder: Path, *, but: Sequence[str] = ()) -> dict[str, str]:
    """The SHA-256 of each plain file in `folder` but those called as in `but`, by its path within it."""
    names = [name for name in entries(folder) if name not in but]
    return {name: file_hash(folder / name) for name in names if (folder / name).is_file()}


def first_changed(folder: Path, hashes: Mapping[str, str]) -> Path | None:
    """The first file of `hashes` that is gone or another one; None where all are as they were."""
    for name, wanted in hashes.items():
        place = folder / name
        try:
            if not place.is_file() or file_hash(place) != wanted:
                return place
        except OSError:
            return place
    return None


def written(otherwise: Ours) -> Ours:
    """The files that are as they were written; without a list (of an older version) those of `otherwise`."""

    def ours(folder: Path) -> list[str]:
        if not (folder / LIST).is_file():
            return list(otherwise(folder))
        hashes = _listed(folder)
        there = [name for name in entries(folder) if name in hashes and not (folder / name).is_symlink()]
        # a file that a person has changed is theirs by now, and is kept
        own = [LIST, MARK] if (folder / MARK).is_file() else [LIST]  # another run has no such mark
        return [*own, *(name for name in there if file_hash(folder / name) == hashes[name])]

    return ours


def file_hash(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


RUN_FILES = (
    *("llmrec.json", LIST, MARK, "items.parquet", "config.yaml", "metrics.json", "README.md"),
    *("report.json", "report.md", "report.html", "figures/*.svg"),
    *("catalogue/catalogue.json", "catalogue/catalogue.safetensors", "catalogue/catalogue.arrow"),
    *(
        "prompts/renderer.json",
        "prompts/*.jinja",
        "identifiers/identifiers.json",
        "identifiers/identifiers.safetensors",
    ),
    *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("adapter_config.json", "adapter_model.safetensors", "added_tokens.json", "chat_template.jinja"),
    *("quantised.safetensors", "decoder.onnx", "decoder.onnx.data", "head.safetensors", "model.gguf"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
    *("vocab.json", "vocab.txt", "merges.txt"),
)
"""Files of a run folder (as of `fnmatch`); a tokenizer may have others, which the list then names."""
TOLD = ("README.md", "report.json", "report.md", "report.html", "figures/*")
"""Files that tell of a run and decide nothing: a person may write a card anew."""
_TOKENIZER_FILES = ("*.json", "*.txt", "*.model", "*.spm", "*.tiktoken", "*.jinja")


def check_written(folder: Path) -> bool:
    """Whether all that decides is as it was written: True, or False where there is no list (of an older version).

    Raises:
        RunError: a listed file is missing or another one, or the list is none; it names the file.
    """
    if not (folder / LIST).is_file():
        return False
    for name, wanted in _listed(folder).items():
        if _matches(name, TOLD):
            continue
        place = folder / name
        if not place.is_file():
            raise RunError(f"{shown(place)} is missing, which {LIST} names; fetch or copy the folder again.")
        if file_hash(place) != wanted:
            raise RunError(f"{shown(place)} is not the file that {LIST} names; fetch or copy the folder again.")
    return True


def handed_on(folder: Path) -> list[str]:
    """The files of a run folder that may leave it, by their paths within it; a person's own stay.

    Raises:
        RunError: one of them is a link, which may lead to a file that has no business there. Links of the Hub's cache
            into its own store are followed.
    """
    listed = _listed(folder) if (folder / LIST).is_file() else None
    names = [name for name in entries(folder) if _leaves(name, listed)]
    # the Hub's cache keeps contents under blobs/ and lays links to them in snapshots/REVISION/
    store = resolve(folder).parent.parent / "blobs"
    for name in names:
        place = folder / name
        if place.is_symlink() and resolve(place).parent != store:
            raise RunError(f"{shown(place)} is a link to another place; put the file itself there, or remove it.")
        if not place.is_file():
            raise RunError(f"{shown(place)} is no plain file; fetch or copy the folder again.")
    return names


def _leaves(name: str, listed: dict[str, str] | None) -> bool:
    if listed is None or name == LIST or _matches(name, TOLD):
        return _matches(name, RUN_FILES)
    return name in listed and (_matches(name, RUN_FILES) or ("/" not in name and _matches(name, _TOKENIZER_FILES)))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _listed(folder: Path) -> dict[str, str]:
    """The hashes by name; names lead nowhere outside of the folder."""
    found = read_json(folder / LIST)
    hashes = found.get("sha256") if isinstance(found, dict) else None
    if not isinstance(hashes, dict) or not all(isinstance(value, str) for value in hashes.values()):
        raise RunError(f"{shown(folder / LIST)} is no list of a folder's files; fetch or copy the folder again.")
    for name in hashes:
        if "\0" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise RunError(f"{shown(folder / LIST)} names a file outside of the folder; fetch or copy it again.")
    return hashes


def forgotten_of(folder: Path) -> int:
    """How many users the run was trained on who have been forgotten since (at most: a kill may count one twice).

    Raises:
        RunError: the mark is none.
    """
    if not (folder / MARK).is_file():
        return 0
    found = read_json(folder / MARK)
    users = found.get("users") if isinstance(found, dict) else None
    if not isinstance(users, int) or users < 0:
        raise RunError(f"{shown(folder / MARK)} does not say how many users it is about; write it anew.")
    return users


@contextlib.contextmanager
def intact(path: Path, mend: str = "fetch or make the folder again") -> Iterator[None]:
    """Turns whatever a damaged file makes its reader raise within the block into a `RunError` that names `path`."""
    try:
        yield
    except (LLMRecError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # what Rust calls a fault
            raise
        reason = f"{type(error).__name__}: {one_line(error, 160)}"
        raise RunError(f"{shown(path)} is damaged, or is not what llmrec wrote ({reason}); {mend}.") from None
