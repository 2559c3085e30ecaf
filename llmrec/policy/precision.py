"""What `model.dtype: auto` means on the device that is there, and why, in one sentence.

bfloat16 halves memory and is several times faster where the processor multiplies in it, and several times slower
where it does not: torch then converts on the way. A GPU says which it is. A processor's flags alone do not tell how
fast torch's products are with them, so one small product is timed; a processor without the flags is not asked.

A trial's outcome is kept (LLMREC_CACHE) for this processor and this torch. Times are noisy, and two commands on one
machine must not come to different precisions.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmrec.files import sha256_of
from llmrec.storage import cache_folder

WORTH = 2.0
"""Times that a product in bfloat16 must be faster: norms, attention and optimiser gain less or nothing."""
WIDTH = 512
"""Hidden size below which a model stays in float32 on a CPU: its products are too small to gain."""
_NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Precision:
    """The type that a model is loaded in, and the reason."""

    dtype: torch.dtype
    why: str

    @property
    def name(self) -> str:
        """As `model.dtype` names it."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def sentence(self) -> str:
        """One line to be said."""
        return f"{self.name}: {self.why}"

    def facts(self) -> dict[str, str]:
        """For metrics."""
        return {"dtype": self.name, "why": self.why}


def pick_precision(name: str, device: torch.device, config: Any = None) -> Precision:
    """The type for `model.dtype`.

    Args:
        name: "float32", "bfloat16" or "auto".
        device: where the model is to be.
        config: the model's configuration, where it is known; "auto" on a CPU looks at its hidden size.
    """
    if name != "auto":
        return Precision(_NAMES[name], "as model.dtype says")
    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported()
        return Precision(*((torch.bfloat16, "the GPU has it") if has else (torch.float32, "the GPU has no bfloat16")))
    if device.type != "cpu":
        return Precision(torch.float32, f"bfloat16 is not tried on {device.type}")
    flags = bfloat16_flags()
    if not flags:
        return Precision(torch.float32, "the processor has no instructions for bfloat16")
    width = getattr(config.get_text_config(), "hidden_size", None) if config is not None else None
    if width is not None and width < WIDTH:
        return Precision(torch.float32, f"products of width {width} gain nothing in bfloat16")
    gain = known_gain(flags)
    how = f"a product in bfloat16 is {gain:.1f} times as fast as in float32 here"
    return Precision(torch.bfloat16 if gain >= WORTH else torch.float32, how)


def bfloat16_flags() -> tuple[str, ...]:
    """What the processor has for products in bfloat16 (such as amx_bf16 and avx512_bf16), as torch sees it."""
    return processor_flags("bf16")


def processor_flags(*parts: str) -> tuple[str, ...]:
    """Names of the processor's instructions that have one of `parts` in them, as torch sees them."""
    there = [name for name, has in _capabilities().items() if has is True]
    return tuple(sorted(name for name in there if any(part in name for part in parts)))


def _capabilities() -> dict[str, Any]:
    ask = getattr(torch.cpu, "get_capabilities", None)  # an older torch does not tell
    return {} if ask is None else dict(ask())


def known_gain(flags: tuple[str, ...], measure: Callable[[], float] | None = None) -> float:
    """How many times faster a product with these instructions is than in float32: timed once, then remembered.

    Args:
        flags: the instructions, by which it is remembered beside processor and torch.
        measure: times it; by default products in bfloat16.
    """
    named = str(_capabilities().get("cpu_name", ""))
    place = cache_folder() / "processor" / f"{sha256_of(json.dumps([named, flags, torch.__version__]))[:24]}.json"
    known = _read(place)
    if known is not None:
        return known
    gain = (measure or measured_gain)()
    with suppress(OSError):  # a cache that cannot be written forgets, and every process measures anew
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=place.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"processor": named, "flags": flags, "torch": torch.__version__, "gain": gain}, file)
        # A link fails where another process was first, and then all of them read its answer: processes of one
        # training must agree.
        with suppress(FileExistsError):
            os.link(temporary, place)
        Path(temporary).unlink()
    return _read(place) or gain


def _read(place: Path) -> float | None:
    try:
        return float(json.loads(place.read_text(encoding="utf-8"))["gain"])
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: measured anew
        return None


def measured_gain(rounds: int = 5, tokens: int = 512, width: int = 1024) -> float:
    """Least seconds of a product (tokens, width) by (width, width) in float32 over those in bfloat16."""
    seconds = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    sides = {kind: (torch.ones(tokens, width, dtype=kind), torch.ones(width, width, dtype=kind)) for kind in seconds}
    with torch.inference_mode():
        for _ in range(rounds):  # in turn, and the least: what else the machine does falls on both
            for kind, (a, b) in sides.items():
                start = time.perf_counter()
                torch.mm(a, b)
                seconds[kind] = min(seconds[kind], time.perf_counter() - start)
    return seconds[torch.float32] / seconds[torch.bfloat16]
