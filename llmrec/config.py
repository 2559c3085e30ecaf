"""One configuration for a run: dataclasses, one YAML file and `key=value` overrides through one strict parser.

An unknown key is an error that names it and the nearest known one; nothing is ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, cast

from llmrec.config_tree import from_tree, merged, override_tree, plain, read_yaml, with_defaults


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data set and how it is split.

    `dataset`: world (generated), an importer's name (movielens, amazon, amazon-minionerec, complete-journey,
    hillstrom, coat, table) with `source` as its folder or file, or folder (`source` is a data set saved by llmrec).
    """

    dataset: str = "world"
    source: str | None = None
    split: Literal["time", "leave-last-out", "given"] = "time"
    valid_fraction: float = 0.1
    test_fraction: float = 0.2
    history_events: int = 20
    """Events of the past kept in a state (the prompt's token budget may drop more)."""


@dataclass(frozen=True, kw_only=True)
class ScenarioSettings:
    """What makes a generated world hard for naive learners (docs/world.md); "none" changes nothing at all."""

    kind: Literal[
        "none", "cold-start", "popularity-loop", "clickbait", "seasonality", "shift", "adversarial-text"
    ] = "none"
    share: float = 0.2
    """Share of the items (cold-start: of the users too) that the scenario is about."""
    strength: float = 1.0
    """Scale of the effect; 1 is the documented one, 0 leaves only what is shown when."""
    day: float = 45.0
    """Day of the log (of 90) on which new items and users arrive, or demand shifts."""
    period: float = 60.0
    """Days of one turn of the seasons."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """The generated world (only for dataset: world)."""

    domain: Literal["shop", "film", "music", "news", "course", "social"] = "shop"
    language: Literal["en", "zh"] = "en"
    users: int = 3000
    items: int = 300
    slates_per_user: int = 8
    slate_size: int = 10
    position_bias: float = 0.0
    """P(the item at 0-based position k is looked at) = (k + 1) ** -position_bias; 0 means that all are."""
    scenario: ScenarioSettings = field(default_factory=ScenarioSettings)


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How a state is worded. `max_tokens` bounds the whole prompt."""

    max_tokens: int = 96
    language: str | None = None
    profile: bool = True
    feedback: bool = True
    history: Literal["title", "id", "both"] = "title"
    """How items of the history are named: by title, or (identifier schemes with new tokens) by identifier or both."""


@dataclass(frozen=True, kw_only=True)
class IdentifierSettings:
    """How an item is written as tokens.

    `scheme`: title (its words), semantic (codes of a residual quantisation of its embedding: Rajput et al. 2023,
    "Recommender Systems with Generative Retrieval"), or atomic (one new token an item).
    """

    scheme: Literal["title", "semantic", "atomic"] = "title"
    levels: int = 3
    """Codes of a semantic identifier; items that still collide get one more."""
    codes: int = 256
    """Entries of each level's codebook."""
    embedding: Literal["text", "model", "sentence-transformers", "column"] = "text"
    """What is quantised: text (TF-IDF and SVD), model (mean hidden state of the base model), a
    sentence-transformers model, or a column of vectors that the user supplies."""
    source: str | None = None
    """Name of the sentence-transformers model, or the Parquet file with columns item_id and embedding."""
    dimensions: int = 128
    """Dimensions after the SVD of each embedding."""
    collaborative: float = 0.5
    """Share of the embedding's variance given to co-visitation in the training period; 0 leaves it out."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """`name`: "nano" (made on the spot) or any causal LM that transformers loads, by Hub id or path."""

    name: str = "nano"
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    nano_hidden: int = 128
    nano_layers: int = 4
    nano_vocabulary: int = 4096
    nano_pretrain_sequences: int = 12000
    """Training sequences (of at most text.max_tokens tokens) that the nano model is pretrained on."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """LoRA (Hu et al. 2021) on all linear layers of the backbone."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SFTSettings:
    """Supervised warm start. `weights`: full or lora; auto takes full for the nano model, else lora."""

    weights: Literal["auto", "full", "lora"] = "auto"
    lora: LoraSettings = field(default_factory=LoraSettings)
    examples: int = 8000
    epochs: float = 2.0
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.05
    mixture: dict[str, float] = field(
        default_factory=lambda: {
            "next_item": 0.8,
            "title_from_description": 0.05,
            "description_from_title": 0.05,
            "item_from_attributes": 0.05,
            "item_from_prompt": 0.05,
            "title_from_id": 0.05,
            "id_from_title": 0.05,
            "attributes_from_id": 0.05,
        }
    )
    """Weights of the tasks: one epoch holds each example once as next_item, and the others in proportion to it. The
    last three tie the tokens of an identifier to its item's words; under identifiers.scheme: title there are none."""
    history_dropout: float = 0.1
    """Share of history interactions dropped at random from a training state (augmentation)."""
    target: Literal["click", "conversion"] = "click"
    save_every: int = 50
    """Optimiser steps between checkpoints."""


@dataclass(frozen=True, kw_only=True)
class SimulatorSettings:
    """Behaviour models. The judge is fitted on other users, with another architecture and seed."""

    members: int = 2
    epochs: int = 8
    batch_size: int = 1024
    learning_rate: float = 5e-3
    negatives: int = 4
    """Unclicked items sampled for each click where the data set has no impressions."""
    judge_user_share: float = 0.5
    reward_architecture: str = "factorised"
    judge_architecture: str = "crossed"
    objective: Literal["funnel", "clicks-only", "esmm", "escm2-ips", "escm2-dr"] = "funnel"
    """What click and conversion are trained by, see docs/architecture.md; all but the first two train conversions
    over all impressions (ESMM: Ma et al. 2018; ESCM²: Wang et al. 2022)."""
    counterfactual: float = 0.1
    """Weight of ESCM²'s conversion risk."""
    correction: Literal["none", "ips", "dr", "position", "inverse-position"] = "none"
    """For a biased log: ips and dr need logged propensities, position and inverse-position logged positions."""
    clip: float = 20.0
    """Largest inverse-propensity weight (for ips and dr as a multiple of the median one)."""
    bootstrap: bool = False
    """Fit each member of an ensemble on users drawn with replacement."""
    calibration: Literal["held-out", "everything"] = "held-out"
    """What calibrates: held-out impressions, or these and the fitted ones, which is steadier where the held-out ones
    are few and every item has many impressions, but blind to overfitting."""


@dataclass(frozen=True, kw_only=True)
class ChoiceSettings:
    """How the places of a slate share a user's attention (`llmrec.simulator.choice`).

    `position_bias` (position): P(place k is looked at) = (k + 1) ** -position_bias, k from 0. `perseverance`
    (dynamic-bayesian): P(an unsatisfied user goes on to the next place). The rest is for fitting on logs.
    """

    model: Literal["independent", "position", "cascade", "dynamic-bayesian", "logit"] = "independent"
    position_bias: float = 1.0
    perseverance: float = 0.9
    prior_strength: float = 2.0
    """Pseudo-impressions (Beta prior at the log's click rate) that steady items with few impressions."""
    tolerance: float = 1e-7
    """EM ends when the objective gains less than this an impression."""
    max_steps: int = 500


@dataclass(frozen=True, kw_only=True)
class DriftSettings:
    """Interest moves to what is consumed by `rate`, and home by `decay` a turn; `weight`: on the click's logit."""

    enabled: bool = False
    rate: float = 0.1
    decay: float = 0.02
    conversion: float = 1.0
    """How much more a conversion counts than a click alone."""
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SatiationSettings:
    """Boredom by category: `clicked` and `shown` add to it, `recovery` is its share lost a turn."""

    enabled: bool = False
    recovery: float = 0.2
    clicked: float = 1.0
    shown: float = 0.0
    weight: float = 0.5
    """Taken off the click's logit for each unit of satiation."""


@dataclass(frozen=True, kw_only=True)
class NoveltySettings:
    """Liking for unfamiliar categories: `learning` and `forgetting` of familiarity, `rate` of the appetite."""

    enabled: bool = False
    learning: float = 0.2
    forgetting: float = 0.02
    rate: float = 0.1
    initial: float = 0.5
    weight: float = 0.5


@dataclass(frozen=True, kw_only=True)
class TrustSettings:
    """Trust in [0, 1]: clicked items above `threshold` in quality build it by `gain`, others lose it by `loss`."""

    enabled: bool = False
    initial: float = 0.5
    gain: float = 0.05
    loss: float = 0.2
    threshold: float = 0.5
    weight: float = 2.0
    conversion_weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class BudgetSettings:
    """Money left (the data set's currency): purchases take from it, `income` a day fills it up to `initial`."""

    enabled: bool = False
    initial: float = 100.0
    income: float = 5.0
    pressure: float = 1.0
    """Taken off the conversion's logit where the price is the whole budget; less for a smaller share."""


@dataclass(frozen=True, kw_only=True)
class PatienceSettings:
    """Patience in [0, 1] and P(leave) after a turn, from `leave_empty` (patience 0) to `leave_full` (patience 1)."""

    enabled: bool = False
    initial: float = 1.0
    gain: float = 0.3
    loss: float = 0.3
    leave_full: float = 0.02
    leave_empty: float = 0.6


@dataclass(frozen=True, kw_only=True)
class ReturnSettings:
    """Coming back: P(return on a day) from `hazard_unsatisfied` to `hazard_satisfied`; over `max_days` is never."""

    enabled: bool = False
    hazard_unsatisfied: float = 0.03
    hazard_satisfied: float = 0.4
    rate: float = 0.2
    """Weight of the newest slate in the running satisfaction."""
    initial: float = 0.5
    max_days: int = 30
    turns_per_day: float = 10.0
    """Turns of recovery (satiation, interest, familiarity) that a day away is worth."""


@dataclass(frozen=True, kw_only=True)
class DynamicsSettings:
    """How users change from turn to turn (`llmrec.simulator.dynamics`); all is off by default."""

    drift: DriftSettings = field(default_factory=DriftSettings)
    satiation: SatiationSettings = field(default_factory=SatiationSettings)
    novelty: NoveltySettings = field(default_factory=NoveltySettings)
    trust: TrustSettings = field(default_factory=TrustSettings)
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    patience: PatienceSettings = field(default_factory=PatienceSettings)
    comeback: ReturnSettings = field(default_factory=ReturnSettings)


@dataclass(frozen=True, kw_only=True)
class EnvironmentSettings:
    """Episodes of the Gymnasium environments (`llmrec.simulator.environments`)."""

    slate_size: int = 10
    turns: int = 50
    """An episode is cut off (truncated) after so many turns."""
    remembered_turns: int = 5
    """Turns of the episode that a text state tells of."""
    decay: float = 0.9
    """What a turn leaves of the weight of earlier ones in the observed interests."""
    click: float = 1.0
    conversion: float = 3.0
    """The reward of a turn is click * clicks + conversion * conversions."""
    block: int = 2048
    """Users computed at a time, so that their arrays stay in the cache."""
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """reward = click * P(click) + conversion * P(click and conversion); `sampled` draws 0 or 1 instead."""

    click: float = 1.0
    conversion: float = 3.0
    sampled: bool = False
    pessimism: float = 0.0
    """Standard deviations over the ensemble's members that are taken off the expected feedback."""


@dataclass(frozen=True, kw_only=True)
class PPOSettings:
    """PPO (Schulman et al. 2017) with critic and GAE, on the constrained policy."""

    steps: int = 150
    """Rollouts; each is followed by `iterations` passes over its samples."""
    prompts: int = 32
    """States per rollout (all processes together)."""
    draws: int = 8
    """Independent draws per state (G)."""
    iterations: int = 1
    minibatches: int = 2
    learning_rate: float = 1e-3
    warmup: float = 0.05
    clip: float = 0.2
    value_clip: float = 0.2
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.0
    kl_coefficient: float = 0.02
    target_kl: float | None = None
    gamma: float = 1.0
    gae_lambda: float = 1.0
    whiten: bool = True
    max_grad_norm: float = 1.0
    weights: Literal["lora", "full"] = "lora"
    lora: LoraSettings = field(default_factory=LoraSettings)
    save_every: int = 25
    """Rollouts between checkpoints (always at a rollout boundary)."""


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """Which PPO checkpoint is promoted: the best by the judge among the admissible ones, else SFT is kept.

    Admissible: the judge's gain over SFT is significant (paired, 95%), and NDCG@10 on validation events has not
    fallen by more than `ndcg_tolerance` of SFT's.
    """

    users: int = 300
    events: int = 500
    slate: int = 10
    ndcg_tolerance: float = 0.1


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is measured at the end. `k`: cut-offs of the ranking metrics; `beams`: width of the beam search."""

    k: tuple[int, ...] = (1, 5, 10)
    test_events: int = 2000
    users: int = 1000
    """Users met in the simulated comparison."""
    beams: int = 20
    bootstrap: int = 1000


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
    ppo: PPOSettings = field(default_factory=PPOSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    report_to: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path | None = None, overrides: Sequence[str] = ()) -> Self:
        """Reads a YAML file (optional) and applies `key.sub=value` overrides; raises `ConfigError`."""
        tree = read_yaml(path) if path is not None else {}
        from_tree(cls, tree, str(path))
        given = override_tree(overrides)
        from_tree(cls, given, "the command line")
        return from_tree(cls, merged(with_defaults(tree, given, cls().tree()), given), "the configuration")

    def tree(self) -> dict[str, Any]:
        """The configuration as plain dictionaries and lists, ready for YAML or JSON."""
        return cast(dict[str, Any], plain(dataclasses.asdict(self)))
