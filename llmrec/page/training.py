"""How an improvement goes: its curve from a finished run's record, or from what a running one has written so far."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from llmrec.errors import LLMRecError
from llmrec.evaluation.drawing import own_ids
from llmrec.evaluation.plots import Curve, improvement_figure
from llmrec.evaluation.reporting.record import RECORD, read_record
from llmrec.files import read_json
from llmrec.pipeline.algorithms import ALGORITHMS
from llmrec.pipeline.report import gate_curve
from llmrec.storage import work_folder
from llmrec.training.callbacks import LIVE


@dataclass(frozen=True, slots=True)
class Training:
    """A training as it stands.

    Attributes:
        algorithm: its name.
        running: whether it is not finished.
        curve: entries with step and what was logged.
        gate: the gate's figures of the checkpoints, from step 0 (the warm start) on.
        sentences: what is known of it in words.
    """

    algorithm: str
    running: bool
    curve: Curve
    gate: Curve = ()
    sentences: tuple[str, ...] = ()

    def svg(self) -> str:
        """The curves as the report draws them; "" where nothing was logged yet."""
        return own_ids(improvement_figure([*self.curve, *self.gate], self.algorithm), "live-")


def read_training(run: Path) -> Training | None:
    """The improvement of the run that is made or was made in `run`; None where none has begun.

    A finished one comes from the run folder's record. A running one is read from what its trainer logs into the
    working folder, which may change meanwhile: what cannot be read just then is left out until the next look.
    """
    if (run / RECORD).is_file():
        report = read_record(run / RECORD)
        return Training(report.algorithm, False, report.curve, report.gate_curve, tuple(report.decisions))
    for name, spec in ALGORITHMS.items():
        place = work_folder(run) / f"{name}.partial"
        if place.is_dir():
            curve, gate = _logged(place / "trainer" / LIVE), _gated(place / "gate")
            last = int(max((entry["step"] for entry in curve), default=0))
            said = f"{spec.label} is running; the last entry of its log is of step {last}."
            return Training(spec.label, True, curve, gate, (said,))
    return None


def _logged(file: Path) -> list[dict[str, float]]:
    """The curve of a running training; a line that is just being written is left out."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("step"), int | float):
            rows.append({key: float(value) for key, value in found.items() if isinstance(value, int | float)})
    return rows


def _gated(gate: Path) -> list[dict[str, float]]:
    scores = []
    for path in sorted(gate.glob("step-*/score.json")):
        try:
            scores.append(read_json(path))
        except (LLMRecError, OSError):
            continue
    try:
        return gate_curve(scores)
    except (KeyError, TypeError):
        return []
