"""Settings of simulated users: behaviour models, choice within a slate, dynamics, environments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class SimulatorSettings:
    """Behaviour models. The judge is fitted on other users, with another architecture and seed."""

    members: int = 2
    epochs: int = 8
    batch_size: int = 1024
    learning_rate: float = 5e-3
    negatives: int = 4
    """Unclicked items sampled for each click where the data set has no impressions."""
    unshown: Literal["drawn", "catalogue"] = "drawn"
    """What a choice is held against where no impressions are logged: the drawn items, each a click or none, or the
    whole catalogue (a softmax; a uniform sample of it for networks that read item by item)."""
    judge_user_share: float = 0.5
    calibration_user_share: float = 0.5
    """Share of the judge's users on whom its network is not fitted but corrected, and its error measured."""
    replicates: int = 200
    """Judges on as many samples of those users, whose spread is in every judged interval."""
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
    blend: bool = False
    """Where no impressions are logged: weigh what follows what, likeness of texts, repeats and popularity beside the
    network (`llmrec.simulator.blend`); not with gru and lstm, which are fed event by event."""
    bootstrap: bool = False
    """Fit each member of an ensemble on users drawn with replacement."""
    calibration: Literal["held-out", "everything"] = "held-out"
    """What calibrates: held-out impressions, or these and the fitted ones, which is steadier where the held-out ones
    are few and every item has many impressions, but blind to overfitting."""


@dataclass(frozen=True, kw_only=True)
class ChoiceSettings:
    """How the places of a slate share a user's attention (`llmrec.simulator.choice`).

    `position_bias` (position): P(place k is looked at) = (k + 1) ** -position_bias, k from 0. `perseverance`
    (dynamic-bayesian): P(an unsatisfied user goes on to the next place).
    """

    model: Literal["independent", "position", "cascade", "dynamic-bayesian", "logit"] = "independent"
    position_bias: float = 1.0
    perseverance: float = 0.9
    by_rank: tuple[float, ...] = ()
    """Measured numbers of the places, where there are any: P(looked at) in place of position_bias (position), what is
    added to the log-odds (logit)."""
    fitted: bool = False
    """Finds by_rank, or the perseverance, in the slates of the training period, which must be logged with positions.
    The keys below are of that fit."""
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
