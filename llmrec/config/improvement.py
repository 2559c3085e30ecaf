"""Settings of what improves a warm-started policy: one section an algorithm around shared parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from llmrec.config.training import LoraSettings


def in_use(section: dict[str, Any]) -> dict[str, Any]:
    """The plain values of a section without parts that are off and came later than others.

    What a stage or a checkpoint was made with is compared with what was written down: there a part that is off must
    not be told from one that did not exist.
    """
    # another section's key of the same name is a text
    credit = section.get("credit")
    off = isinstance(credit, dict) and credit.get("potential") == "none"
    return {name: value for name, value in section.items() if not (off and name == "credit")}


@dataclass(frozen=True, kw_only=True)
class StabilitySettings:
    """What keeps a training stable (`llmrec.training.controls`)."""

    kl_target: float | None = None
    """Nats an item from the reference; kl_coefficient then moves to keep the policy there (Ziegler et al. 2019)."""
    kl_rate: float = 0.1
    entropy_floor: float | None = None
    """Nats an item; below it entropy_coefficient grows by entropy_rate for each nat that is missing."""
    entropy_rate: float = 0.02
    entropy_most: float = 1.0
    """The entropy bonus never weighs more; in units of the reward a nat, as entropy_coefficient."""
    reward_normalisation: Literal["none", "running", "batch"] = "none"
    """Rewards less their mean over their standard deviation, over all rollouts so far or over the present one."""
    skip_grad_norm: float | None = None
    """A step whose gradient's norm is above this is left out; one that is not finite always is."""
    max_skipped: int = 10
    """So many steps left out in succession end the training with the reason."""
    resample: int = 0
    """How often a group of draws without any spread of reward is replaced by one of another state (Yu et al. 2025,
    DAPO)."""
    max_flat: int = 5
    """So many rollouts in succession without any spread in any group end the training with the reason; where states
    have no groups (one draw, sessions) the rollout is one."""


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """What every improvement has."""

    learning_rate: float = 1e-3
    warmup: float = 0.05
    max_grad_norm: float = 1.0
    weights: Literal["lora", "full"] = "lora"
    lora: LoraSettings = field(default_factory=LoraSettings)
    save_every: int = 25
    """Rollouts (or optimiser steps, where there are no rollouts) between checkpoints."""


@dataclass(frozen=True, kw_only=True)
class RehearsalSettings:
    """What is kept of the warm start beside ranking (`llmrec.training.rehearsal`; Ouyang et al. 2022, PPO-ptx)."""

    coefficient: float = 0.0
    """Weight of the warm start's other tasks (`sft.mixture` without next_item), in units of the reward a nat; 0
    rehearses nothing."""
    rows: int = 16
    """Rows of an optimiser step (all processes together)."""


@dataclass(frozen=True, kw_only=True)
class RolloutSettings(UpdateSettings):
    """What every algorithm has that draws items and learns from their rewards."""

    steps: int = 150
    """Rollouts; each is followed by `iterations` passes over its samples."""
    prompts: int = 32
    """States per rollout (all processes together)."""
    draws: int = 8
    """Independent draws per state (G)."""
    starts: Literal["slates", "users"] = "slates"
    """Where rollouts start: at logged slates drawn uniformly, or users in turn, at an early slate as likely as a late
    one. The first meets long histories above all, the second cold starts too."""
    iterations: int = 1
    minibatches: int = 2
    kl_coefficient: float = 0.02
    """beta of J = E[r] - beta KL(pi || pi_ref) + c H, in units of the reward a nat: the optimum of a state is
    pi ~ (pi_ref^beta exp(r))^(1 / (beta + c)), however advantages and rewards are scaled."""
    entropy_coefficient: float = 0.0
    """c, in units of the reward a nat of an item's entropy."""
    rehearsal: RehearsalSettings = field(default_factory=RehearsalSettings)
    stability: StabilitySettings = field(default_factory=StabilitySettings)


@dataclass(frozen=True, kw_only=True)
class CreditSettings:
    """Which of an item's tokens its reward is credited to (`llmrec.training.credit`; Ng, Harada and Russell 1999)."""

    potential: Literal["none", "expected"] = "none"
    """expected: a prefix is worth what the items below it are expected to earn under the policy that draws, so that a
    right first code is worth something before the item is written; gae_lambda below 1 then credits tokens apart."""
    candidates: int = 64
    """The policy's best items of a state, whose rewards are asked for; all items of a catalogue that is no larger."""


@dataclass(frozen=True, kw_only=True)
class PPOSettings(RolloutSettings):
    """PPO (Schulman et al. 2017) with critic and GAE, on the constrained policy."""

    clip: float = 0.2
    value_clip: float = 0.2
    """How far a value may move in a rollout, in standard deviations of the first rollout's rewards."""
    value_coefficient: float = 0.5
    target_kl: float | None = None
    """Nats an item (a slot, in sessions) between the policy and the one that drew; a step beyond ends the rollout."""
    gamma: float = 1.0
    gae_lambda: float = 1.0
    whiten: bool = True
    credit: CreditSettings = field(default_factory=CreditSettings)


@dataclass(frozen=True, kw_only=True)
class ReinforceSettings(RolloutSettings):
    """REINFORCE (Williams 1992): one step a rollout, no ratio, the reward less a baseline."""

    minibatches: int = 1
    baseline: Literal["critic", "running", "none"] = "critic"
    """A learned value of the state, the mean reward of earlier rollouts, or nothing."""
    value_coefficient: float = 0.5
    whiten: bool = False


@dataclass(frozen=True, kw_only=True)
class GRPOSettings(RolloutSettings):
    """GRPO (Shao et al. 2024) by `trl.GRPOTrainer`, its losses on the constrained policy."""

    loss: Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"] = "dr_grpo"
    """dr_grpo sums over choice points and divides by a constant: no bias by length of titles (Liu et al. 2025)."""
    clip: float = 0.2
    clip_high: float | None = None
    scale_rewards: Literal["group", "batch", "none"] = "batch"
    """What advantages are divided by: the deviation of all rewards of a rollout, that of the draws of a state, or
    nothing. By group, states in which all draws earn nearly the same pull as hard as those in which much is at
    stake."""
    ratio: Literal["token", "sequence"] = "token"
    """Importance ratios of tokens, or of whole items (GSPO, Zheng et al. 2025)."""
    stability: StabilitySettings = field(default_factory=lambda: StabilitySettings(resample=2))
    options: dict[str, Any] = field(default_factory=dict)
    """Further fields of `trl.GRPOConfig` that change the loss, by their names (delta, top_entropy_quantile, ...); all
    that have an effect here are in `llmrec.training.on_policy.GRPO_OPTIONS`."""


@dataclass(frozen=True, kw_only=True)
class RLOOSettings(RolloutSettings):
    """RLOO (Ahmadian et al. 2024) by `trl.RLOOTrainer`: reward less beta KL, less the mean of its siblings."""

    clip: float = 0.2
    normalise: bool = False
    """Whitens the advantages of a rollout."""
    stability: StabilitySettings = field(default_factory=lambda: StabilitySettings(resample=2))


@dataclass(frozen=True, kw_only=True)
class PreferenceSettings(UpdateSettings):
    """DPO (Rafailov et al. 2023) on pairs of a clicked item and one that was shown and not clicked."""

    beta: float = 0.1
    loss: str = "sigmoid"
    """A loss of `trl.DPOConfig` (one negative only), several joined by "+" (sigmoid+sft), or softmax: S-DPO (Chen et
    al. 2024) over all negatives."""
    negatives: int = 1
    target: Literal["click", "conversion"] = "click"
    """What makes an item the preferred one."""
    pairs: int = 8000
    """At most so many preferred items are used."""
    epochs: float = 1.0
    batch_size: int = 64
    learning_rate: float = 3e-4
    options: dict[str, Any] = field(default_factory=dict)
    """Further fields of `trl.DPOConfig` that change the loss, by their names (label_smoothing, use_weighting)."""


@dataclass(frozen=True, kw_only=True)
class SDPOSettings(PreferenceSettings):
    """S-DPO: DPO's settings with the loss over several negatives."""

    loss: str = "softmax"
    negatives: int = 4


@dataclass(frozen=True, kw_only=True)
class RewardModelSettings(UpdateSettings):
    """A reward model by `trl.RewardTrainer` on clicked-against-shown pairs (Bradley and Terry 1952)."""

    target: Literal["click", "conversion"] = "click"
    """What makes an item the preferred one."""
    pairs: int = 8000
    """At most so many preferred items are used."""
    held_out: int = 2000
    """At most so many pairs of the validation period tell how often the model agrees with users."""
    epochs: float = 1.0
    batch_size: int = 64
    learning_rate: float = 3e-4
    centre: float = 0.01
    """Weight of the squared sum of a pair's rewards, which keeps rewards around 0 (Eisenstein et al. 2023)."""


@dataclass(frozen=True, kw_only=True)
class RLHFSettings(PPOSettings):
    """PPO against a reward model."""

    reward_model: RewardModelSettings = field(default_factory=RewardModelSettings)


@dataclass(frozen=True, kw_only=True)
class OffPolicySettings(UpdateSettings):
    """Learning from logged slates alone, without a simulator.

    `estimator`: top-k (REINFORCE with the top-K correction, Chen et al. 2019) or doubly-robust (Dudik et al. 2011: a
    fitted reward for what the policy would show, corrected by what was logged).
    """

    estimator: Literal["top-k", "doubly-robust"] = "top-k"
    slate: int = 10
    """K of the correction: places that are shown. 1 is the policy gradient of one item, without a correction."""
    weight_cap: float = 10.0
    """Largest importance weight pi / mu."""
    propensities: Literal["auto", "logged", "fitted"] = "auto"
    """mu of the log, or fitted to what was shown; auto takes the log's where it has them."""
    without_replacement: bool = True
    """Logged propensities are of an item given the places above it, as a slate drawn without replacement logs them;
    false: of each place by itself. Only slates of two places or more are told apart by it."""
    draws: int = 4
    """Draws per state for KL and entropy, and for the fitted reward's part (doubly-robust)."""
    folds: int = 5
    """Of users: the fitted reward (doubly-robust) of a user's slates comes from a model that was fitted on the others
    alone. 1 takes the run's own reward, which was fitted on slates that it is asked about, and is biased by it."""
    examples: int = 4000
    """At most so many logged slates are used."""
    epochs: float = 1.0
    batch_size: int = 32
    """Slates of an optimiser step."""
    kl_coefficient: float = 0.02
    """As in other sections, against what `slate` draws earn together, each item counted once."""
    entropy_coefficient: float = 0.0
    learning_rate: float = 3e-4


@dataclass(frozen=True, kw_only=True)
class BestOfNSettings(UpdateSettings):
    """Best-of-n distillation: the best of n draws by the reward becomes the target of one more fine-tuning."""

    draws: int = 16
    """n."""
    prompts: int = 2000
    """Draws of states of each round."""
    rounds: int = 2
    """The next round draws from what the last one made."""
    epochs: float = 1.0
    batch_size: int = 64
    learning_rate: float = 3e-4


@dataclass(frozen=True, kw_only=True)
class TiltedSettings(UpdateSettings):
    """The optimum of reward and KL term, known in closed form, becomes the target of one more fine-tuning."""

    kl_coefficient: float = 0.02
    entropy_coefficient: float = 0.0
    """beta and c, as in the sections of what learns from draws: target ~ (pi_SFT^beta exp(r))^(1 / (beta + c))."""
    depth: int = 50
    """The warm start's best items of a state, which are put in the target's proportions; the others keep the share
    that they have together."""
    states: int = 4000
    """At most so many states of the training period are used."""
    starts: Literal["slates", "users"] = "slates"
    """Where states come from, as in the sections of what learns from draws."""
    epochs: float = 2.0
    batch_size: int = 32
    """States of an optimiser step."""
    learning_rate: float = 3e-4


@dataclass(frozen=True, kw_only=True)
class ContinuedSFTSettings(UpdateSettings):
    """The warm start continued without any reward: what else could be made of the compute of an improvement."""

    share: float = 1.0
    """How many more of the warm start's lessons (`sft`): 1 is as many again, drawn and augmented anew."""


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """Episodes of PPO and REINFORCE: `turns` slates of `slate` items each, with feedback written into the state.

    One turn of one item (the default) is the plain bandit, whose draws need no environment. In sessions `prompts` of
    the algorithm counts sessions, `draws` is 1; its own gamma, lambda and `starts` are refused, not being read.
    """

    turns: int = 1
    slate: int = 1
    gamma: float = 0.95
    """Discount between turns; inside a slate nothing is discounted."""
    gae_lambda: float = 0.95
    """Lambda of GAE between turns."""
    credit: Literal["slate", "item"] = "slate"
    """What a slot is credited with beside its own reward and the turns after: the slate's later slots too (unbiased;
    all of the slate where its places compete, as with choice.model logit), or not (far less noise; it leaves out what
    an item takes away from the places below it, as SlateQ does: Ie et al. 2019; refused with logit)."""
    remembered_turns: int = 5
    """Turns of the session that a text state tells of."""
    bootstrap: bool = True
    """Whether a session that is cut off after `turns` goes on in what the critic expects (Pardo et al. 2018)."""

    @property
    def plain(self) -> bool:
        """Whether this is the bandit."""
        return self.turns == 1 and self.slate == 1
