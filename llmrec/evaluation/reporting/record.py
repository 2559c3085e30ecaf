"""report.json: everything that a run's report holds, as plain JSON, and back.

The reader trusts nothing: every value is checked against the annotations of `RunReport`, so that what a page shows
has the type that it expects.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.errors import RunError
from llmrec.evaluation.reporting.contents import RunReport
from llmrec.files import read_json, sha256_of, write_json

RECORD = "report.json"
FORMAT = 1


def write_record(path: Path, report: RunReport) -> None:
    """Writes the report's contents as JSON, atomically."""
    write_json(path, {"format": FORMAT, "report": _plain(report)})


def read_record(path: Path) -> RunReport:
    """Reads what `write_record` wrote.

    Raises:
        RunError: the file is missing, no JSON, of another format, or holds a value that a report cannot have.
    """
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise RunError(f"{path} is not a report of format {FORMAT}; use the llmrec version that wrote it.")
    try:
        report: RunReport = _build(RunReport, found.get("report"), "report")
    except _Unfit as error:
        raise RunError(f"{path} cannot be read: {error}; run the run's command again to write it anew.") from None
    return report


def fingerprint(path: Path) -> str:
    """Digest of a record without its users' slates: equal for a run folder's and its working folder's."""
    found = read_json(path)
    if isinstance(found, dict) and isinstance(found.get("report"), dict):
        found = found | {"report": {k: v for k, v in found["report"].items() if k != "slates"}}
    return sha256_of(json.dumps(found, sort_keys=True))


class _Unfit(Exception):
    """A value that is not what the annotation at its place says."""


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(np.asarray(value, dtype=np.float64).tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    # JSON knows no NaN; Python would write one that other readers refuse.
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _build(hint: Any, value: Any, place: str) -> Any:
    """`value` as the type `hint`, or `_Unfit` that names its place."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        # An optional value: the first member of the union that is not None.
        return None if value is None else _build(next(t for t in inner if t is not type(None)), value, place)
    if dataclasses.is_dataclass(hint):
        return _record(typing.cast(type, hint), value, place)
    if origin is np.ndarray:
        return np.array([_build(float, item, place) for item in _checked(value, list, place)], dtype=np.float64)
    if origin in (dict, Mapping):
        return {k: _build(inner[1], v, f"{place}.{k}") for k, v in _finite(_checked(value, dict, place), inner[1])}
    if origin in (tuple, Sequence):
        return _list(origin, inner, _checked(value, list, place), place)
    return _checked(value, hint, place)


def _record(kind: Any, value: Any, place: str) -> Any:
    hints, fields = typing.get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}
    given = _checked(value, dict, place)
    if unknown := sorted(set(given) - set(fields)):
        raise _Unfit(f"{place} has the unknown key {unknown[0]!r}")
    made = {name: _build(hints[name], item, f"{place}.{name}") for name, item in given.items()}
    try:
        return kind(**made)
    except TypeError:
        # Fields whose two defaults are both the same missing mark have none.
        needed = [n for n, f in fields.items() if n not in made and f.default is f.default_factory]
        raise _Unfit(f"{place} has no {needed[0] if needed else 'value'!r}") from None


def _list(origin: Any, inner: tuple[Any, ...], value: list[Any], place: str) -> Any:
    if origin is tuple and Ellipsis not in inner:
        if len(value) != len(inner):
            raise _Unfit(f"{place} has {len(value)} entries, not {len(inner)}")
        return tuple(_build(t, item, f"{place}[{n}]") for n, (t, item) in enumerate(zip(inner, value, strict=True)))
    return tuple(_build(inner[0], item, f"{place}[{n}]") for n, item in enumerate(value))


def _finite(value: dict[str, Any], inner: Any) -> list[tuple[str, Any]]:
    """The entries; where plain numbers are expected, without those that were not finite."""
    return [(k, v) for k, v in value.items() if not (inner is float and v is None)]


def _checked(value: Any, kind: type, place: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _Unfit(f"{place} is {str(value)[:40]!r}, but it must be of type {kind.__name__}")
    return value
