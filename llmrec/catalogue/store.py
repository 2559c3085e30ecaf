"""A catalogue on disk: facts as JSON, tensors as safetensors, ids and titles as Arrow; the last two are mapped.

Nothing is read before it is used. Each file carries the catalogue's content hash, so that parts of different
catalogues are noticed without reading them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from llmrec.catalogue.index import PrefixIndex
from llmrec.catalogue.texts import Texts
from llmrec.errors import RunError
from llmrec.files import new_file, read_json, write_json

FACTS, TENSORS, TEXTS = "catalogue.json", "catalogue.safetensors", "catalogue.arrow"
FORMAT = "llmrec catalogue 2"
HASH = "content_hash"


@dataclass(frozen=True)
class StoredParts:
    """What the three files hold.

    Attributes:
        facts: small values by name, `content_hash` among them.
        tensors: by name, on the CPU, mapped from the file.
        texts: columns of one length, mapped from the file.
    """

    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    texts: Mapping[str, Texts]


def write_parts(folder: Path, parts: StoredParts) -> None:
    """Writes the three files into `folder`, each atomically, the facts last."""
    marked = {HASH: str(parts.facts[HASH])}
    arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in parts.tensors.items()}
    columns = {name: texts.array for name, texts in parts.texts.items()}
    table = pa.RecordBatch.from_pydict(columns).replace_schema_metadata(marked)

    # The facts come last and carry the hash: until they are there the folder is no catalogue, and parts of two saves
    # are told apart.
    with new_file(folder / TENSORS) as place:
        save_file(arrays, place, marked)
    with (
        new_file(folder / TEXTS) as place,
        pa.OSFile(str(place), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_batch(table)
    write_json(folder / FACTS, {"format": FORMAT, **parts.facts})


def read_parts(folder: Path) -> StoredParts:
    """Opens what `write_parts` wrote.

    Raises:
        RunError: a file is missing, broken, of another format, or of another catalogue than the others.
    """
    path = folder / FACTS
    facts = read_json(path)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise RunError(f"{path} is not of the format {FORMAT!r} but older, newer or no catalogue; save it anew.")
    tensors, tensor_mark = _read_tensors(folder / TENSORS)
    texts, text_mark = _read_texts(folder / TEXTS)
    for name, mark in ((TENSORS, tensor_mark), (TEXTS, text_mark)):
        if mark != facts.get(HASH):
            raise RunError(f"{path} and {name} do not belong together; save the catalogue anew.")
    return StoredParts(facts, tensors, texts)


def sha256_of_arrays(facts: str, *arrays: npt.NDArray[Any]) -> str:
    """Hex SHA-256 of `facts` and of the arrays' bytes, each preceded by its length."""
    digest = hashlib.sha256()
    for part in (np.frombuffer(facts.encode(), dtype=np.uint8), *arrays):
        digest.update(part.nbytes.to_bytes(8, "big"))
        digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over names, types, shapes and values."""
    arrays = {name: tensors[name].numpy() for name in sorted(tensors)}
    facts = "\n".join(f"{name} {array.dtype.str} {array.shape}" for name, array in arrays.items())
    return sha256_of_arrays(facts, *arrays.values())


def tensors_of(index: PrefixIndex, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of an index by the names of its fields behind `prefix`."""
    values = {field.name: getattr(index, field.name) for field in fields(index)}
    return {prefix + name: value for name, value in values.items() if isinstance(value, Tensor)}


def index_from(tensors: Mapping[str, Tensor], prefix: str) -> PrefixIndex:
    """The index that `tensors_of` took apart; raises `TypeError` where tensors are missing."""
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return PrefixIndex(**own, tilt=None)


def arrays_of(index: PrefixIndex) -> dict[str, npt.NDArray[Any]]:
    """The tensors of an index on the CPU as arrays over the same memory, by the names of its fields."""
    return {name: tensor.numpy() for name, tensor in tensors_of(index).items()}


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            mark = (file.metadata() or {}).get(HASH)
            return {name: file.get_tensor(name) for name in file.keys()}, mark  # noqa: SIM118
    except FileNotFoundError:
        raise RunError(f"{path} does not exist; the folder holds no whole catalogue.") from None
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise RunError(f"{path} is cut off or no safetensors file ({error}); save the catalogue anew.") from None


def _read_texts(path: Path) -> tuple[dict[str, Texts], str | None]:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batch = reader.get_batch(0)
        mark = (reader.schema.metadata or {}).get(HASH.encode(), b"").decode()
        return {name: Texts(_large(batch.column(name))) for name in reader.schema.names}, mark
    except FileNotFoundError:
        raise RunError(f"{path} does not exist; the folder holds no whole catalogue.") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RunError(f"{path} is cut off or no Arrow file ({error}); save the catalogue anew.") from None


def _large(column: Any) -> Any:
    if column.type != pa.large_string() or column.null_count:
        raise ValueError(f"a column is {column.type} with {column.null_count} empty places, not text")
    return column
