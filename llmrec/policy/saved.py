"""A saved model as a stranger may hand it on: what its files say of their sizes is checked before memory is taken."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from llmrec.errors import RunError
from llmrec.files import read_json
from llmrec.printing import one_line
from llmrec.storage import shown

LARGEST_DOCUMENT = 256 << 20
"""Bytes of a tokenizer's or a configuration's file; the largest that are published have a tenth of it."""
_ROWS, _PARTS = ("vocab_size",), ("num_hidden_layers", "n_layer", "num_layers")
_WIDTHS = ("hidden_size", "n_embd", "d_model", "intermediate_size", "ffn_dim")


def check_documents(folder: Path) -> None:
    """Raises `RunError` for a file of text in a saved model that is larger than such files are."""
    for path in folder.iterdir():
        if path.suffix in (".json", ".txt", ".jinja", ".model") and path.is_file():
            size = path.stat().st_size
            if size > LARGEST_DOCUMENT:
                raise RunError(
                    f"{shown(path)} has {size:,} bytes, more than such a file needs; fetch the folder again."
                )


def check_sizes(folder: Path, pattern: str = "model*.safetensors") -> None:
    """Refuses a config.json that asks for more layers, rows or columns than its weights have.

    A model is made before its weights are read, so numbers out of all measure would take all time or memory.

    Raises:
        RunError: config.json or the weights are missing, broken, or do not fit together.
    """
    config, path = read_json(folder / "config.json"), folder / "config.json"
    if not isinstance(config, dict):
        raise RunError(f"{shown(path)} is no configuration of a model; fetch the folder again.")
    shapes = dict(_shapes(folder, pattern))
    total, largest = (
        sum(map(math.prod, shapes.values())),
        max((max(s, default=1) for s in shapes.values()), default=0),
    )
    for section in (config, *(value for value in config.values() if isinstance(value, dict))):
        _check_section(path, section, len(shapes), total, largest)


def _check_section(path: Path, section: dict[str, Any], parts: int, total: int, largest: int) -> None:
    # A layer has at least one tensor, and no size of a layer is far above the largest axis that is there: 8 times
    # leaves room for heads that are kept joined and for what is tied.
    limits = {**dict.fromkeys(_PARTS, parts), **dict.fromkeys((*_ROWS, *_WIDTHS), 8 * largest)}
    for key, limit in limits.items():
        value = section.get(key)
        if isinstance(value, int) and value > limit:
            raise RunError(f"Key {key!r} in {shown(path)} is {value}, more than its weights have; fetch it again.")
    rows, width = section.get("vocab_size"), next((section[k] for k in _WIDTHS if k in section), None)
    if isinstance(rows, int) and isinstance(width, int) and rows * width > total:
        raise RunError(
            f"Key 'vocab_size' in {shown(path)} is {rows}, which its weights have no room for; fetch it again."
        )


def _shapes(folder: Path, pattern: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all weights, from the heads of their files."""
    files = sorted(folder.glob(pattern))
    if not files:
        raise RunError(f"{shown(folder)} holds no {pattern.replace('*', '')}; fetch the folder again.")
    for path in files:
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 (it is no dictionary)
                    # the head of the file alone, whatever the weights take
                    yield name, tuple(file.get_slice(name).get_shape())
        except (SafetensorError, OSError, ValueError) as error:
            raise RunError(
                f"{shown(path)} is cut off or no safetensors file ({one_line(error, 120)}); fetch it again."
            ) from None
