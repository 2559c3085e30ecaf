"""The improvement stage: the warm-started policy, an algorithm, and the gate that judges every checkpoint."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec.config import OffPolicySettings, RunConfig
from llmrec.config.improvement import in_use
from llmrec.files import read_json, write_json
from llmrec.pipeline.algorithms import improve
from llmrec.pipeline.algorithms.reward import reward_key
from llmrec.pipeline.data import RunData
from llmrec.pipeline.gate import Gate
from llmrec.pipeline.measure import evaluation_key
from llmrec.pipeline.panel import gate_key, in_sessions
from llmrec.pipeline.pilot import PilotStage
from llmrec.pipeline.promotion import promote
from llmrec.pipeline.sft import SFTStage, sft_policy, warm_start
from llmrec.pipeline.simulation import Simulators
from llmrec.pipeline.work import Work, stage_key, stage_seconds
from llmrec.training.callbacks import was_stopped
from llmrec.training.improvement import Checkpointing, Improved, trainable


@dataclass(frozen=True, slots=True)
class ImprovedStage:
    """A finished improvement.

    `last` and `promoted` are checkpoint folders with an adapter, or with all weights (`promoted` None: no checkpoint
    was admissible and SFT is kept); `checkpoints` are the gate's figures in order of steps, `verdict` says in a
    sentence what was promoted and why. `cpu_seconds` of the processor went into the training, without judging.
    """

    folder: Path
    curve: list[dict[str, float]]
    checkpoints: list[dict[str, Any]]
    last: Path
    promoted: Path | None
    verdict: str
    stopped: str
    cpu_seconds: float

    @property
    def kept(self) -> Path:
        """The promoted checkpoint, or the last where none was promoted."""
        return self.last if self.promoted is None else self.promoted


def improve_stage(
    config: RunConfig,
    data: RunData,
    sft: SFTStage,
    simulators: Simulators,
    work: Work,
    *,
    name: str | None = None,
    pilot: PilotStage | None = None,
) -> ImprovedStage:
    """Improves the warm-started policy by the configured algorithm, whose name is by default the stage's.

    With a `pilot` under the coefficient that it found, or not at all; its lists are looks at the gate's users, too.
    """
    if pilot is not None:
        config = pilot.applied(config)

    def build(out: Path, scratch: Path) -> None:
        looks = None if pilot is None else pilot.looks
        gate = Gate(config, data, sft_policy(config, data, sft), simulators, scratch / "gate", looks)
        checkpointing = Checkpointing(scratch / "trainer", gate, config.report_to)
        policy = sft_policy(config, data, sft)
        if pilot is not None and pilot.kl_coefficient is None:
            model = trainable(warm_start(config, data, policy), config.improvement)
            result = Improved(model.eval(), [], 0.0, pilot.sentence)
        else:
            result = improve(config, data, policy, simulators, checkpointing)
        # The last policy is scored even if the training ended between two checkpoints: what "last" stands for in
        # tables is what was trained, whatever the rhythm of saving.
        last = int(max(row["step"] for row in result.curve)) if result.curve else 0
        gate(last, result.model)
        said = [result.stopped_reason or ""]
        if was_stopped(checkpointing.out):
            said.append(
                f"The judge ended the training at checkpoint {last}: {config.gate.patience} checkpoints in "
                "succession brought no new best admissible one (gate.patience)."
            )
        _keep(scratch / "gate", out)
        record: dict[str, Any] = {"curve": result.curve, "checkpoints": gate.scores(), "last": last}
        for label, place in result.folders.items():
            shutil.copytree(place, out / label)
        record |= {"stopped": " ".join(filter(None, said)), "cpu_seconds": result.cpu_seconds}
        write_json(out / "improved.json", record)

    key = improvement_key(config, sft) | _pilot_key(pilot)
    folder = work.stage(name or config.algorithm, key, build, together=True)
    record = read_json(folder / "improved.json")
    # Decided when it is read and not when it was made: the figures are the stage, the decision follows from them.
    best, verdict = promote(record["checkpoints"])
    return ImprovedStage(
        folder,
        record["curve"],
        record["checkpoints"],
        folder / f"step-{record['last']:06d}",
        None if best is None else folder / f"step-{best['step']:06d}",
        verdict,
        record["stopped"],
        float(record.get("cpu_seconds") or stage_seconds(folder)),
    )


def _pilot_key(pilot: PilotStage | None) -> dict[str, Any]:
    return {} if pilot is None else {"pilot": stage_key(pilot.folder)}


def improvement_key(config: RunConfig, sft: SFTStage) -> dict[str, Any]:
    """Everything that decides an improvement and its gate's figures."""
    tree = config.tree() | {"evaluation": evaluation_key(config), "gate": gate_key(config)}
    tree[config.algorithm] = in_use(tree[config.algorithm])
    sections = ("simulator", config.algorithm, "gate", "evaluation", "session", "choice", "dynamics")
    key: dict[str, Any] = {
        "sft": stage_key(sft.folder),
        "algorithm": config.algorithm,
        "reward": reward_key(config),
        "config": [tree[k] for k in sections] + [config.seed, config.improvement_seed],
    }
    if in_sessions(config):
        key["judged"] = "sessions"
    logged = config.section(OffPolicySettings)
    if logged is not config.improvement and not logged.without_replacement:
        key["without_replacement"] = False  # how the gate reads the log's propensities, whatever the algorithm
    return key


def _keep(gate: Path, out: Path) -> None:
    for place in sorted(gate.glob("step-*")):
        shutil.copytree(place, out / place.name)
