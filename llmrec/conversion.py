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
from llmrec.seeding import numpy_stream
from llmrec.storage import shown
from llmrec.text.wording import SECONDS_A_DAY
from llmrec.types import EventKind, Interaction, State

MERGED = "merged"
FORMATS = (MERGED, *CONVERTED)
WEIGHTS = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json", "adapter_*")
"""Files of a run's weights, which another form replaces."""
ROWS = 128
"""Made-up prompts with answers that weights are rounded by; Frantar et al. (2023) take as many texts."""


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
        "int8": lambda folder: save_quantised(model, folder, 8, made_up_rows(bundle)),
        "int4": lambda folder: save_quantised(model, folder, 4, made_up_rows(bundle)),
        "onnx": lambda folder: save_onnx(model, folder),
        "gguf": lambda folder: write_gguf(model, tokenizer, folder / GGUF_FILE, bundle.facts["dataset"]["name"]),
    }
    return writers[to]


def made_up_rows(bundle: Bundle, count: int = ROWS) -> list[list[int]]:
    """Token ids of prompts and answers of users that nobody is: histories of up to as many items as the run reads.

    A run folder holds no person's history, and rounding needs to know what the layers of this run are given to read.
    """
    policy, draw = bundle.policy, numpy_stream(0, "conversion", "made-up rows")
    most = min(int(bundle.facts["history_events"]), len(bundle.items) - 1)
    liked: EventKind = bundle.facts["liked"]
    value = 5.0 if liked == "rating" else None
    found = []
    for _ in range(count):
        # the last one is the answer
        *past, answer = draw.choice(len(bundle.items), 1 + int(draw.integers(most + 1)), replace=False)
        history = tuple(Interaction(int(item), liked, SECONDS_A_DAY * at, value) for at, item in enumerate(past))
        state = State(history=history, time=SECONDS_A_DAY * len(history))
        found.append([*policy.renderer.token_ids(state), *policy.catalogue.token_ids(int(answer))])
    return found


def _say_so(folder: Path, to: str) -> None:
    """A word at the end of the card, whose figures are those of the weights before."""
    card = folder / "README.md"
    if to != MERGED and card.is_file():
        text = card.read_text(encoding="utf-8").rstrip("\n")
        write_text(card, f"{text}\n\n## Weights\n\nExported as {to}; the figures above are of the weights before.\n")
