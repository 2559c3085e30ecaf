"""The content hash: SHA-256 over values, independent of file encoding, compression and chunking.

A column enters as its name, its length, its validity bits and its non-null values; text enters as UTF-8 with the
lengths before it, a list column as its lengths and its flat values, -0.0 as 0.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import polars as pl

from llmrec.files import sha256_of

_CHUNK = 1 << 20  # rows hashed at once; part of the format, since lengths and text alternate by chunk


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
        array = array + 0.0 if array.dtype.kind == "f" else array
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)


def _add_text(digest: hashlib._Hash, text: pl.Series) -> None:
    digest.update(text.str.len_bytes().to_numpy().astype("<u4").tobytes())
    digest.update(text.str.join("").item().encode())
