"""Figures of a run row by row, so that systems of several runs can be compared in pairs.

They lie in the working folder and not in the run folder, which is made to be handed on. Users stand as numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmrec.bounded import read_parquet
from llmrec.errors import RunError
from llmrec.printing import one_line
from llmrec.types import FloatArray, IntArray

MEASUREMENTS = "rows.parquet"
_USERS = ("", "user")
_SCHEMA: dict[str, Any] = {"kind": pl.String, "system": pl.String, "metric": pl.String, "values": pl.List(pl.Float64)}


@dataclass(frozen=True)
class RowFigures:
    """Per-row figures by kind ("ranking", "judge", ...), system and metric: arrays (B,) over the kind's test rows.

    `users` holds, for kinds whose rows are clustered, the number of each row's user.
    """

    values: Mapping[str, Mapping[str, Mapping[str, FloatArray]]]
    users: Mapping[str, IntArray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        kinds: Mapping[str, Mapping[str, Mapping[str, FloatArray | float]]],
        users: Mapping[str, Sequence[str]] | None = None,
    ) -> RowFigures:
        """Keeps the arrays and leaves plain numbers out; users are numbered in order of first appearance."""
        values = {
            kind: {
                system: {m: np.asarray(v, np.float64) for m, v in row.items() if isinstance(v, np.ndarray)}
                for system, row in systems.items()
            }
            for kind, systems in kinds.items()
        }
        return cls(values, {kind: _numbers(names) for kind, names in (users or {}).items()})

    def save(self, path: Path) -> None:
        """Writes one Parquet file."""
        found = [
            (k, s, m, v.tolist()) for k, rows in self.values.items() for s, r in rows.items() for m, v in r.items()
        ]
        found += [(kind, *_USERS, users.astype(np.float64).tolist()) for kind, users in self.users.items()]
        pl.DataFrame(found, schema=_SCHEMA, orient="row").write_parquet(path, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> RowFigures:
        """Reads what `save` wrote.

        Raises:
            RunError: the file is missing, broken or of other columns.
        """
        try:
            frame = read_parquet(path)
        except (ValueError, OSError) as error:
            raise RunError(
                f"{path} cannot be read as Parquet ({one_line(error, 120)}); run the run's command again."
            ) from None
        if dict(frame.schema) != _SCHEMA or frame.null_count().sum_horizontal()[0]:
            raise RunError(f"{path} does not hold the rows of a report; run the run's command again.")
        values: dict[str, dict[str, dict[str, FloatArray]]] = {}
        users: dict[str, IntArray] = {}
        for kind, system, metric, row in frame.iter_rows():
            array = np.array(row, dtype=np.float64)
            if (system, metric) == _USERS:
                users[kind] = array.astype(np.int64)
            else:
                values.setdefault(kind, {}).setdefault(system, {})[metric] = array
        return cls(values, users)


def _numbers(names: Sequence[str]) -> IntArray:
    codes: dict[str, int] = {}
    return np.array([codes.setdefault(name, len(codes)) for name in names], dtype=np.int64)
