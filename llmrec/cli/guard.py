"""What every script shares: bad input ends with one sentence and exit code 2, a fault of ours with code 1."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable

from llmrec.printing import use_any_encoding

SETTINGS = {
    "OMP_WAIT_POLICY": "PASSIVE",  # idle threads sleep instead of spinning on a shared machine
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}


def set_environment() -> None:
    """Settings that must stand before torch and transformers are imported; what a person has set stays."""
    use_any_encoding()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    # Deprecations inside the packages below us are not for the person at the terminal.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|torch|accelerate)\b")


def guarded(main: Callable[[], None]) -> Callable[[], None]:
    """Wraps a script's `main`: an `LLMRecError` is printed as its sentence, with exit code 2; see `boundary`."""

    @functools.wraps(main)
    def run() -> None:
        from llmrec.cli.boundary import boundary

        with boundary("error"):
            main()

    set_environment()
    return run
