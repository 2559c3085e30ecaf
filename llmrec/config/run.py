"""The configuration of a run, and what is measured in it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, cast

from llmrec.config.algorithms import SHIPPED, Algorithm, default_sections, sections_for
from llmrec.config.data import DataConfig, IdentifierSettings, TextConfig, WorldConfig
from llmrec.config.improvement import SessionSettings, UpdateSettings
from llmrec.config.reward import RewardSettings, Unvouched
from llmrec.config.simulation import ChoiceSettings, DynamicsSettings, SimulatorSettings
from llmrec.config.training import ModelConfig, SFTSettings
from llmrec.config_tree import (
    NAMED,
    Overrides,
    from_tree,
    merged,
    override_tree,
    plain,
    read_yaml,
    with_defaults,
)
from llmrec.errors import ConfigError

S = TypeVar("S", bound=UpdateSettings)
TRUST_CODE = "LLMREC_TRUST_CODE"
"""Environment variable: 1 lets every configuration file name code that is run."""


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """Which checkpoint is promoted (docs/trust.md): the best by the judge among admissible ones, else SFT is kept.

    Admissible: the judge's gain over SFT is significant (95%, paired, with the judge's own error, corrected for the
    number of checkpoints), NDCG on validation events has not fallen by more than `ndcg_tolerance`, and logged
    feedback does not speak against it.
    """

    users: int = 300
    """Users of the validation period whose slates the simulators value."""
    events: int = 2000
    """Held-out validation events that are ranked, and logged states of the off-policy value; so few that an interval
    of NDCG is wide cannot show that it has not fallen."""
    slate: int = 10
    held_out: float = 0.15
    """At most this share of the users of validation and test period is kept from the fits of reward and judge to be
    met at the gate, and as many others to be met on the test period (`evaluation.users`)."""
    met: Literal["first", "drawn"] = "first"
    """In which state of the period a user is met, at the gate and on the test period alike: their first one, or one
    drawn. Where most people come for the first time, first states are nearly all empty, and lists are judged by what
    they show to strangers."""
    judged: Literal["model", "witnessed"] = "model"
    """Which figure of a policy's lists decides. model: what the judge expects. witnessed: that, and how far it was
    off where the log shows what the policy would have shown (`llmrec.evaluation.witnesses`), in at most `events`
    states of people who are not met: intervals that hold, and wide ones where the log shows little of it."""
    smallest_gain: float = 1.0
    """Percent of SFT's judged value: a smaller gain is of no interest, so a run that gained less is not improved."""
    ndcg_test: Literal["bound", "mean"] = "bound"
    """What `ndcg_tolerance` is put to: the one-sided 95% limit of the relative change, or its mean."""
    ndcg_tolerance: float = 0.03
    """Share of SFT's NDCG that may be lost."""
    pessimism: float = 1.0
    """Standard deviations over the reward's members taken off its second figure; it is shown and decides nothing."""
    off_policy: Literal["refuse", "show"] = "refuse"
    """Where the log has propensities: refuse a checkpoint whose off-policy value is significantly below SFT's."""
    weight_cap: float = 100.0
    """Largest importance weight pi / mu of the off-policy value."""
    effective_samples: float = 100.0
    """Fewer effective samples than this (Kish) refuse nothing."""
    patience: int | None = None
    """So many checkpoints in succession without a new best admissible one end the training."""
    exam: Literal["refuse", "warn"] = "refuse"
    """A judge that the examination finds to be popularity in disguise (docs/simulator.md): refuse it before anything
    is trained, or say so and go on. Too few events to tell refuse nothing."""
    exam_events: int = 1000
    """Held-out validation choices that simulators are examined on."""
    exam_beside: tuple[str, ...] = ("covisitation",)
    """Baselines whose NDCG stands beside the simulators' (with their default settings); gru4rec takes minutes."""


@dataclass(frozen=True, kw_only=True)
class PilotSettings:
    """What the reward could make of the warm start at best is judged before anything is trained on it
    (`llmrec.pipeline.pilot`, docs/trust.md), for algorithms that draw items under a KL term."""

    run: Literal["auto", "always", "never"] = "auto"
    """auto: where the algorithm's `kl_coefficient` is left as it is by default. The pilot chooses it, or ends the
    run at the warm start."""
    coefficients: tuple[float, ...] = (0.005, 0.02, 0.1, 0.5)
    """KL coefficients that are tried beside the algorithm's own, in units of the reward a nat."""
    depth: int = 50
    """Of the warm start's list that is put in another order; what the reward thinks of further items is not asked."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is measured at the end. `k`: cut-offs of the ranking metrics; `beams`: width of the beam search."""

    k: tuple[int, ...] = (1, 5, 10)
    test_events: int = 2000
    users: int = 1000
    """Users met in the simulated comparison."""
    beams: int = 20
    before_sft: int = 200
    """Validation events on which the row "before SFT" of a pretrained model is calibrated; 0 leaves the row out."""
    bootstrap: int = 1000
    controls: tuple[str, ...] = ()
    """What the improvement is held against beside reranking, each a training that costs about what it does:
    continued_sft, best_of_n, no_next_item, other_people, shuffled_reward (`llmrec.pipeline.controls`); all: every one
    that has a meaning for the run."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run's result; saved in the run folder."""

    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    text: TextConfig = field(default_factory=TextConfig)
    identifiers: IdentifierSettings = field(default_factory=IdentifierSettings)
    model: ModelConfig = field(default_factory=ModelConfig)
    sft: SFTSettings = field(default_factory=SFTSettings)
    simulator: SimulatorSettings = field(default_factory=SimulatorSettings)
    reward: RewardSettings = field(default_factory=RewardSettings)
    improvement_seed: int | None = None
    """Seed of the improvement alone, to repeat it from one warm start; null: the run's seed."""
    algorithm: Algorithm = "ppo"
    """What improves the warm-started policy; its settings are in the section of that name."""
    sections: Mapping[Algorithm, UpdateSettings] = field(
        default_factory=default_sections, metadata={NAMED: sections_for}
    )
    """The settings of all algorithms; in a file each is a section beside the others."""
    session: SessionSettings = field(default_factory=SessionSettings)
    choice: ChoiceSettings = field(default_factory=ChoiceSettings)
    """How users choose within a slate; only sessions have slates (session.slate)."""
    dynamics: DynamicsSettings = field(default_factory=DynamicsSettings)
    """How users change from turn to turn; only sessions have turns (session.turns)."""
    gate: GateSettings = field(default_factory=GateSettings)
    pilot: PilotSettings = field(default_factory=PilotSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    report_to: tuple[str, ...] = ()
    rules: tuple[dict[str, Any], ...] = ()
    """What every list of the finished run obeys, each as in a file of rules (docs/rules.md)."""
    rules_in_training: Literal["all", "items", "none"] = "all"
    """Which of them draws of the training obey, with which policy and reference are taken: all; items (those about
    single items, no caps and floors); none. Algorithms that draw single items refuse floors under all."""

    @classmethod
    def read(cls, path: Path | None = None, overrides: Overrides | None = None, *, trust_code: bool = False) -> Self:
        """Reads a YAML file (optional) and applies overrides.

        Args:
            path: the file.
            overrides: values by dotted key (`parse_overrides` reads those of a command line).
            trust_code: the file may name code that is run (`reward.custom`), as overrides may; else such names are
                `Unvouched`. The environment variable LLMREC_TRUST_CODE=1 says the same.

        Raises:
            ConfigError: a key or value that cannot be used.
        """
        tree = read_yaml(path) if path is not None else {}
        from_tree(cls, tree, str(path))
        if not trust_code and os.environ.get(TRUST_CODE) != "1":
            tree = unvouched(tree)
        given = override_tree(overrides or {})
        from_tree(cls, given, "the command line")
        return from_tree(cls, merged(with_defaults(tree, given, _flat(cls())), given), "the configuration")

    def __post_init__(self) -> None:
        if self.algorithm not in self.sections:
            known = ", ".join(self.sections)
            raise ConfigError(f"Key 'algorithm' is {self.algorithm!r}; choose one of {known}.")

    @property
    def improvement(self) -> UpdateSettings:
        """The section of the algorithm."""
        return self.sections[self.algorithm]

    def section(self, kind: type[S]) -> S:
        """The section whose settings are of class `kind` itself."""
        return next(settings for settings in self.sections.values() if type(settings) is kind)

    def tree(self) -> dict[str, Any]:
        """The configuration as plain dictionaries and lists, ready for YAML or JSON.

        Of algorithms that are not shipped with llmrec it holds the chosen one alone: what a run leaves is read where
        others are not installed, too.
        """
        kept = {name: value for name, value in self.sections.items() if name in SHIPPED or name == self.algorithm}
        return _flat(dataclasses.replace(self, sections=kept))


def _flat(config: RunConfig) -> dict[str, Any]:
    """The fields as plain values, the sections of all algorithms among them."""
    found: dict[str, Any] = {}
    for key, value in dataclasses.asdict(config).items():
        found |= value if key == "sections" else {key: value}
    return cast(dict[str, Any], plain(found))


def unvouched(tree: dict[str, Any]) -> dict[str, Any]:
    """`tree`, read from a file, with the names of code in it marked as such."""
    reward = tree.get("reward")
    named = reward.get("custom") if isinstance(reward, dict) else None
    if not isinstance(named, list | tuple):
        return tree
    marked = [Unvouched(name) if isinstance(name, str) else name for name in named]
    return {**tree, "reward": {**cast(dict[str, Any], reward), "custom": marked}}
