"""A finished run in another form: whole weights, 8 or 4 bits, ONNX, GGUF. Catalogue and wording stay as they are.

What comes out is a run folder, so `Recommender.load`, `llmrec recommend`, `batch`, `serve` and `evaluate` take it,
and every list is of the catalogue. What the forms cost and save is measured by eval/exports.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmrec.assortment import check_free, save_changed
from llmrec.errors import RequestError, RunError
from llmrec.export import CONVERTED, GGUF_FILE, Bundle
from llmrec.files import matching, write_text
from llmrec.policy.gguf_writer import check_writable_as_gguf, write_gguf
from llmrec.policy.loading import save_causal_lm
from llmrec.policy.onnx_model import require_packages, save_onnx
from llmrec.policy.quantised import save_quantised
from llmrec.storage import shown

MERGED = "merged"
FORMATS = (MERGED, *CONVERTED)
WEIGHTS = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json", "adapter_*")
"""Files of a run's weights, which another form replaces."""


def convert(bundle: Bundle, to: str, out: Path) -> None:
    """Writes the run of `bundle` into `out` in the form `to`, whole or not at all.

    Args:
        bundle: a run folder in memory; its model may be changed (an adapter is merged), so load it anew afterwards.
        to: one of `FORMATS`.
        out: a new folder.

    Raises:
        RequestError: an unknown form.
        RunError: the run is in another form already, its model cannot be written so, a package is missing, or `out`
            exists or cannot be written.
    """
    if to not in FORMATS:
        raise RequestError(f"--to is {to!r}; give one of {', '.join(FORMATS)}.")
    if bundle.facts["weights"] in CONVERTED:
        raise RunError(
            f"{shown(bundle.folder)} was exported before ({bundle.facts['weights']}), and what was rounded stays so; "
            "give the run that it was made from."
        )
    check_free(bundle.folder, out)
    if to == "onnx":
        require_packages("onnx", "onnxscript", "onnxruntime")
    model = whole_weights(bundle)
    if to == "gguf":
        check_writable_as_gguf(model, bundle.policy.tokenizer)
    write = _writer(bundle, model, to)
    form = {"weights": "full"} if to == MERGED else {"weights": to, "format": 3}
    changed = dataclasses.replace(bundle, facts={**bundle.facts, **form})

    def weights(folder: Path) -> None:
        for name in matching(*WEIGHTS)(folder):
            (folder / name).unlink()
        write(folder)
        _say_so(folder, to)

    save_changed(changed, out, weights)


def whole_weights(bundle: Bundle) -> Any:
    """The model without an adapter; merged in 32-bit floats, as others would round the sum."""
    model = bundle.policy.model
    return model.float().merge_and_unload().eval() if hasattr(model, "merge_and_unload") else model


def _writer(bundle: Bundle, model: Any, to: str) -> Callable[[Path], None]:
    tokenizer = bundle.policy.tokenizer
    writers: dict[str, Callable[[Path], None]] = {
        MERGED: lambda folder: save_causal_lm(model, tokenizer, folder),
        "int8": lambda folder: save_quantised(model, folder, 8),
        "int4": lambda folder: save_quantised(model, folder, 4),
        "onnx": lambda folder: save_onnx(model, folder),
        "gguf": lambda folder: write_gguf(model, tokenizer, folder / GGUF_FILE, bundle.facts["dataset"]["name"]),
    }
    return writers[to]


def _say_so(folder: Path, to: str) -> None:
    """A word at the end of the card, whose figures are those of the weights before."""
    card = folder / "README.md"
    if to != MERGED and card.is_file():
        text = card.read_text(encoding="utf-8").rstrip("\n")
        write_text(card, f"{text}\n\n## Weights\n\nExported as {to}; the figures above are of the weights before.\n")
