"""GGUF files, as llama.cpp reads them, as base models: their header is read here, their weights by transformers.

Weights are turned back into floats, so what follows has an ordinary model. A file that was quantised stays as coarse
as it was. What would go wrong is told by the header, which takes milliseconds and no package: no GGUF file, one that
is cut off, an architecture that transformers does not read, no tokenizer. The header is a stranger's, and is read
within bounds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec.errors import ConfigError, RunError
from llmrec.files import read_json
from llmrec.printing import one_line

ENDING = ".gguf"
ORIGIN = "gguf.json"
"""Beside weights that were unpacked from a file: `GGUFOrigin`."""
MAGIC = b"GGUF"
VERSIONS = (2, 3)
ENTRIES, STRING = 1_000_000, 1 << 24
"""Most entries of the header, of a list and of tensors, and the longest text; a file with more is refused."""
_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _LIST = 8, 9
_BLOCKS = {
    **{0: (1, 4), 1: (1, 2), 30: (1, 2), 28: (1, 8), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8)},
    **{2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36), 20: (32, 18), 39: (32, 17)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)},
    **{16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 21: (256, 110), 22: (256, 82), 23: (256, 136)},
    **{29: (256, 56), 34: (256, 54), 35: (256, 66)},
}
"""Of each kind of weight: how many make a block, and its bytes."""
_HUB = re.compile(r"https?://huggingface\.co/([\w.-]+/[\w.-]+?)/?$")


@dataclass(frozen=True)
class GGUF:
    """What a file's header says.

    Attributes:
        path: of the file.
        fields: the header's values by name; of lists only the length.
        bytes_needed: how long the file must be to hold its weights.
    """

    path: Path
    fields: dict[str, Any]
    bytes_needed: int

    @property
    def architecture(self) -> str:
        """In llama.cpp's words."""
        return str(self.fields.get("general.architecture", ""))

    @property
    def published(self) -> str | None:
        """The Hub id of the model that the file was made from, where it says so."""
        for key in ("general.base_model.0.repo_url", "general.repo_url", "general.source.url"):
            found = _HUB.match(str(self.fields.get(key, "")))
            if found:
                return found[1]
        return None

    def origin(self) -> GGUFOrigin:
        """What is kept with the unpacked weights; reads the file for its hash."""
        name = one_line(str(self.fields.get("general.name") or self.architecture), 80)
        return GGUFOrigin(name, self.path.name, file_hash(self.path), self.published)


@dataclass(frozen=True)
class GGUFOrigin:
    """The file that a folder of weights was unpacked from, in words that mean something on another machine.

    Attributes:
        name: the model's own.
        file: name of the file, without its place.
        sha256: of the file.
        published: the Hub id of the model that the file was made from, where it says so.
    """

    name: str
    file: str
    sha256: str
    published: str | None = None

    @property
    def described(self) -> str:
        """In one line."""
        made = f", made from {self.published}" if self.published else ""
        return f"{self.name} ({self.file}, SHA-256 {self.sha256[:16]}{made})"


def origin_of(folder: Path) -> GGUFOrigin:
    """What `loading.unpacked` has written beside the weights."""
    return GGUFOrigin(**read_json(folder / ORIGIN))


def is_gguf(name: str) -> bool:
    """Whether a model is named by a GGUF file."""
    return name.lower().endswith(ENDING)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_gguf(name: str) -> GGUF:
    """The header of a file that can be loaded.

    Raises:
        RunError: the file is missing, is none, is cut off, holds a part of a model, has no tokenizer, or is of an
            architecture that transformers does not read.
        ConfigError: the package gguf is not installed.
    """
    found = read_header(Path(name).expanduser())
    shown = one_line(name, 200)
    size = found.path.stat().st_size
    if size < found.bytes_needed:
        raise RunError(f"{shown} is cut off: it has {size:,} of {found.bytes_needed:,} bytes; fetch it again.")
    if int(found.fields.get("split.count", 1) or 1) > 1:
        raise RunError(
            f"{shown} is one part of {found.fields['split.count']}; merge them (llama-gguf-split --merge) and give "
            "the whole."
        )
    if found.architecture not in _readable():
        raise RunError(
            f"{shown} holds a model of the architecture {one_line(found.architecture, 40)!r}, which transformers "
            "does not read from GGUF; give the model as a Hub id or a folder with safetensors."
        )
    if not found.fields.get("tokenizer.ggml.tokens"):
        raise RunError(f"{shown} has no tokenizer in it; give the model as a Hub id or a folder that has one.")
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError(
            f"Key 'model.name' is {shown}, but the package gguf, which reads such files, is not installed; install "
            "it (pip install llmrec[gguf])."
        )
    return found


def read_header(path: Path) -> GGUF:
    """Reads the header.

    Raises:
        RunError: the file is missing, is no GGUF file, or its header is cut off or damaged.
    """
    shown = one_line(path, 200)
    if not path.is_file():
        raise RunError(f"{shown} does not exist; give a {ENDING} file, a folder with a saved model or a Hub id.")
    if path.stat().st_size < 24 or path.open("rb").read(4) != MAGIC:
        raise RunError(f"{shown} is no GGUF file, as it does not begin like one; fetch it again.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Reader(data).header(path)
        except (struct.error, UnicodeDecodeError, IndexError):
            raise RunError(f"{shown} is cut off or damaged within its header; fetch it again.") from None
        except ValueError as error:
            raise RunError(f"{shown} cannot be read: {error}; fetch it again.") from None


class _Reader:
    """Reads values one after the other; `struct.error` at the end of the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 4

    def header(self, path: Path) -> GGUF:
        version = self.number("I")
        if version not in VERSIONS:
            raise ValueError(f"it is of version {version}, and {' and '.join(map(str, VERSIONS))} are known")
        tensors, entries = self.count("Q", "tensors"), self.count("Q", "entries")
        fields = {}
        for _ in range(entries):
            key = self.text()
            fields[key] = self.value(self.number("I"))
        ends = [self.tensor() for _ in range(tensors)]
        alignment = int(fields.get("general.alignment", 32) or 32)
        start = -(-self.at // alignment) * alignment
        return GGUF(path, fields, start + max(ends, default=0))

    def tensor(self) -> int:
        """Where a tensor ends, counted from the first."""
        self.text()
        sizes = [self.number("Q") for _ in range(self.count("I", "axes"))]
        kind, offset = self.number("I"), self.number("Q")
        weights = 1
        for size in sizes:
            weights *= size
        block, length = _BLOCKS.get(kind, (1, 0))  # of an unknown kind the size is not known
        return int(offset) + weights // block * length

    def value(self, kind: int) -> Any:
        """A value; of a list its length."""
        if kind == _STRING:
            return self.text()
        if kind != _LIST:
            return self.number(_FIXED[kind] if kind in _FIXED else _unknown(kind))
        inner, count = self.number("I"), self.count("Q", "values of a list")
        if inner in _FIXED:
            self.skip(struct.calcsize(_FIXED[inner]) * count)
        else:
            for _ in range(count):
                self.skip(self.number("Q")) if inner == _STRING else self.value(inner)
        return count

    def number(self, kind: str) -> Any:
        (found,) = struct.unpack_from(f"<{kind}", self.data, self.at)
        self.at += struct.calcsize(f"<{kind}")
        return found

    def count(self, kind: str, what: str) -> int:
        found = int(self.number(kind))
        if found > ENTRIES:
            raise ValueError(f"its header speaks of {found} {what}")
        return found

    def text(self) -> str:
        length = int(self.number("Q"))
        if length > STRING:
            raise ValueError(f"its header holds a text of {length} bytes")
        start = self.at
        self.skip(length)
        return self.data[start : self.at].decode("utf-8")

    def skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.data):
            raise IndexError(self.at)


def _unknown(kind: int) -> str:
    raise ValueError(f"its header holds a value of the unknown kind {kind}")


def _readable() -> frozenset[str]:
    """The architectures that transformers turns into a model of its own."""
    from transformers.integrations import gguf
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    # readers of later versions have a table of their own beside the older one
    newer = getattr(gguf, "GGUF_CONFIG_ARCHS", ())
    renamed = ("qwen2moe", "qwen3moe", "gpt-oss", "minimax-m2")  # as llama.cpp writes them
    return frozenset({*GGUF_SUPPORTED_ARCHITECTURES, *newer, *renamed})
