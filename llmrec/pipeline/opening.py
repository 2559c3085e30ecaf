"""Finished runs, opened again: what was trained is found in the working folder and checked, and nothing is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmrec.config import RunConfig
from llmrec.config_tree import Overrides
from llmrec.errors import RunError
from llmrec.pipeline.result import Stages
from llmrec.pipeline.run import train_stages
from llmrec.pipeline.sft import improved_policy, sft_policy
from llmrec.pipeline.work import Unfinished, Work
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.simulator.behaviour import BehaviourModel
from llmrec.storage import work_folder

PolicyName = Literal["sft", "promoted", "last"]


@dataclass(frozen=True, slots=True)
class OpenRun(Stages):
    """A finished run: its stages, which policies are loaded from when they are asked for.

    Attributes:
        folder: the run folder.
        work: the working folder beside it; what is not finished there is refused.
    """

    folder: Path
    work: Work

    @property
    def judge(self) -> BehaviourModel:
        """The behaviour model that no training has seen."""
        return self.simulators.judge

    @property
    def checkpoints(self) -> dict[PolicyName, Path]:
        """Folders of the improvement's last checkpoint and of the one that was promoted, if any was."""
        found: dict[PolicyName, Path] = {"last": self.improvement.last}
        return found if self.improvement.promoted is None else found | {"promoted": self.improvement.promoted}

    def policy(self, name: PolicyName) -> LanguagePolicy:
        """The warm start or a checkpoint, freshly loaded.

        Raises:
            RunError: no checkpoint was promoted.
        """
        if name == "sft":
            return sft_policy(self.config, self.data, self.sft)
        if name not in self.checkpoints:
            verdict = self.improvement.verdict
            raise RunError(f"{self.folder} promoted no checkpoint: {verdict} Compare 'last' to see why.")
        return improved_policy(self.config, self.data, self.sft, self.checkpoints[name])


def read_config(folder: Path, overrides: Overrides | None = None) -> RunConfig:
    """The configuration of the run in `folder`, with overrides by dotted key.

    Raises:
        RunError: no run folder.
        ConfigError: an override that cannot be meant.
    """
    if not (folder / "config.yaml").is_file():
        raise RunError(f"{folder / 'config.yaml'} does not exist; give the folder of a finished run.")
    return RunConfig.read(folder / "config.yaml", overrides)


def open_run(folder: Path) -> OpenRun:
    """Opens the run folder `folder` with the working folder beside it.

    Every stage must be the one that the run's configuration leads to: finished under the same key, and as it was
    left. So what is opened gives the figures of the run itself.

    Raises:
        RunError: no run folder, no working folder, or a damaged stage.
        Unfinished: a stage is not there, or was made by other settings or another version of llmrec.
    """
    config, place = read_config(folder), work_folder(folder)
    if not place.is_dir():
        raise RunError(f"{folder} has no working folder {place}, which holds its users; take a run made here.")
    # Stages are asked for as the run itself asks: all that decides one is in its key, so what is found is the run's.
    work = Work(place, finished_only=True)
    mend = "give the command of the run again, which keeps what is finished"
    try:
        stages = train_stages(config, work)
    except Unfinished as error:
        raise Unfinished(f"{folder} cannot be opened: {str(error).rstrip('.')}; {mend}.") from error
    data, base, sft = stages.data, stages.base, stages.sft
    if base.nano and sft.has_adapter and not Path(base.name).is_dir():
        raise Unfinished(f"The nano model {base.name}, which {folder} was trained from, is gone; {mend}.")
    return OpenRun(
        config, data, base, sft, stages.simulators, stages.improvement, stages.controls, stages.pilot, folder, work
    )
