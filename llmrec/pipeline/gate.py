"""The trust gate: every checkpoint is scored by the measures of a panel, of which the training has seen one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmrec.config import RunConfig
from llmrec.errors import ConfigError
from llmrec.files import new_folder, read_json, write_json
from llmrec.pipeline.algorithms import learning_of
from llmrec.pipeline.data import RunData
from llmrec.pipeline.panel import Panel
from llmrec.pipeline.promotion import Looks, Score, in_a_line, out_of_patience, settled
from llmrec.pipeline.sft import save_improved
from llmrec.pipeline.simulation import Simulators
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.progress import console
from llmrec.types import FloatArray

DRAWS = "draws.npy"
"""The judge's gain of a checkpoint in bootstrap samples, beside its score."""
RANKING = "ranking.npy"
"""The relative change of its ranking metric in bootstrap samples."""


class Gate:
    """Scores checkpoints; figures and adapters outlive a kill. Called by the trainer, it answers "stop" to end it."""

    def __init__(
        self,
        config: RunConfig,
        data: RunData,
        sft: LanguagePolicy,
        simulators: Simulators,
        folder: Path,
        besides: Looks | None = None,
    ) -> None:
        self.config, self.folder, self.sft, self.besides = config, folder, sft, besides
        self.panel = Panel.of(config, data, simulators, len(sft.catalogue.item_ids))
        console.print(f"  {who_judges(config, simulators)}", style="dim")
        # Once, before the training: every checkpoint is paired with the same figures of SFT, row by row.
        self.base = self.panel.measure(sft)

    def __call__(self, step: int, model: Any) -> Literal["stop"] | None:
        """Scores the checkpoint of `step` (once), keeps its adapter, and says whether patience is out."""
        place = self.folder / f"step-{step:06d}"
        if not (place / "score.json").is_file():
            policy = LanguagePolicy(model, self.sft.tokenizer, self.sft.catalogue, self.sft.renderer, self.sft.repeat)
            found = self.panel.measure(policy)
            draws = {
                DRAWS: self.panel.draws(found, self.base),
                RANKING: self.panel.ranking_draws(found, self.base),
            }
            self._keep(place, model, self.panel.score(step, found, self.base), draws)
            console.print(f"  {in_a_line(self.scores(step)[-1])}", style="dim")
        scores = self.scores(step)
        return "stop" if out_of_patience(scores, self.config.gate.patience) else None

    def scores(self, last: int | None = None) -> list[Score]:
        """Of all checkpoints up to step `last`, corrected for their number."""
        # A resumed training passes checkpoints again that were scored before the kill; later ones must not end it
        # earlier than they ended it then.
        found = [score for score in read_scores(self.folder) if last is None or score["step"] <= last]
        places = [self.folder / f"step-{score['step']:06d}" for score in found]
        draws = [np.load(place / DRAWS) for place in places]
        # A training that an older version began has them for none of its first checkpoints.
        whole = all((place / RANKING).is_file() for place in places)
        ranking = [np.load(place / RANKING) for place in places] if whole else []
        return settled(found, draws, self.config.gate, ranking=ranking, besides=self.besides)

    def _keep(self, place: Path, model: Any, score: Score, draws: Mapping[str, FloatArray]) -> None:
        with new_folder(place, mark="score.json") as out:
            save_improved(model, self.sft.tokenizer, out)
            for name, draws_S in draws.items():
                np.save(out / name, draws_S)
            write_json(out / "score.json", score)


def read_scores(folder: Path) -> list[Score]:
    """The scores of all checkpoints under `folder`, in order of steps."""
    return [dict(read_json(place / "score.json")) for place in sorted(folder.glob("step-*"))]


def check_trust(config: RunConfig) -> None:
    """Refuses, before anything is made, a judge that is none, and settings of the gate that cannot work.

    Raises:
        ConfigError: reward and judge would share architecture or users, or a setting is out of range.
    """
    simulator, gate = config.simulator, config.gate
    if simulator.reward_architecture == simulator.judge_architecture:
        raise ConfigError(
            "Keys 'simulator.reward_architecture' and 'simulator.judge_architecture' are both "
            f"{simulator.judge_architecture!r}; a judge must be of another architecture than the reward."
        )
    if not 0 < simulator.judge_user_share < 1:
        raise ConfigError(
            f"Key 'simulator.judge_user_share' is {simulator.judge_user_share}; it must lie between 0 and 1, so that "
            "reward and judge are fitted on different users."
        )
    if config.reward.pessimism and simulator.members < 2:
        raise ConfigError(
            f"Key 'reward.pessimism' is {config.reward.pessimism}, but one member never disagrees; set "
            "'simulator.members' to 2 or more."
        )
    _check_gate(config)
    if gate.patience is not None and gate.patience < 1:
        raise ConfigError(f"Key 'gate.patience' is {gate.patience}; it must be 1 or more, or null for no early end.")


def _check_gate(config: RunConfig) -> None:
    for key in ("users", "events", "slate"):
        if getattr(config.gate, key) < 1:
            raise ConfigError(f"Key 'gate.{key}' is {getattr(config.gate, key)}, but it must be at least 1.")
    if not 0 < config.gate.held_out < 0.5:
        raise ConfigError(
            f"Key 'gate.held_out' is {config.gate.held_out}; it must lie between 0 and 0.5, so that users are left "
            "to fit reward and judge on."
        )
    for key in ("ndcg_tolerance", "pessimism", "effective_samples", "smallest_gain"):
        if not getattr(config.gate, key) >= 0:
            raise ConfigError(f"Key 'gate.{key}' is {getattr(config.gate, key)}, but it must be 0 or more.")
    if not config.gate.weight_cap > 0:
        raise ConfigError(f"Key 'gate.weight_cap' is {config.gate.weight_cap}, but it must be above 0.")


def who_judges(config: RunConfig, simulators: Simulators) -> str:
    """A sentence on where the reward came from and what judges: other users, another architecture and seed."""
    members = simulators.reward.members
    reward = f"{len(members)} × {config.simulator.reward_architecture}, fitted on {_users(members[0])}"
    judge = f"{config.simulator.judge_architecture}, fitted on {_users(simulators.judge)}"
    calibrated = getattr(simulators.judge, "facts", {}).get("calibration_users")
    judge += "" if calibrated is None else f" and corrected on {calibrated:,} others"
    source = learning_of(config).simulator(config.improvement).format(simulator=reward)
    return f"{source} The judge is another model with another seed ({judge}), and never a reward."


def _users(model: object) -> str:
    """How many users a behaviour model was fitted on, none of which the other was."""
    users = getattr(model, "facts", {}).get("users")
    return "users of its own" if users is None else f"{users:,} users of its own"
