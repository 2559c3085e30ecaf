"""What keeps reinforcement learning stable: adaptive KL, an entropy floor, reward moments, and a guard on steps.

All of it is plain state that is the same on every process, is saved with a checkpoint, and is read back on resuming,
so that a resumed run goes on as the uninterrupted one.

- Adaptive KL (Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", section 2.2): after each
  rollout beta <- beta (1 + rate * clip(KL / target - 1, -0.2, 0.2)).
- Entropy floor: dual ascent on the constraint H >= floor; the bonus grows by rate * (floor - H) while H is below it
  and falls back to its configured value afterwards.
- Reward moments: count, mean and variance of all rewards so far (Chan et al. 1979), to normalise the next ones.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmrec.config import StabilitySettings
from llmrec.errors import ConfigError, RunError
from llmrec.files import read_json, write_json

FILE = "controls.json"
_BOUND = 0.2


@dataclass
class RunningMoments:
    """Count, mean and sum of squared deviations of a stream of numbers."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, count: float, total: float, squares: float) -> None:
        """Adds `count` numbers with sum `total` and sum of squares `squares`."""
        if count <= 0:
            return
        mean = total / count
        spread = max(squares - count * mean * mean, 0.0)
        # Deviations of two parts joined without going through sums of squares, which would cancel over a long
        # training (Chan, Golub and LeVeque 1979).
        whole, difference = self.count + count, mean - self.mean
        self.squares += spread + difference * difference * self.count * count / whole
        self.mean += difference * count / whole
        self.count = whole

    @property
    def deviation(self) -> float:
        """Standard deviation (biased); 1 before there is any spread."""
        variance = self.squares / self.count if self.count else 0.0
        return math.sqrt(variance) if variance > 0 else 1.0


@dataclass
class Controls:
    """Coefficients that move during a training, and the reward's moments.

    Args:
        settings: what is controlled, and how.
        kl_coefficient: beta at the start.
        entropy_coefficient: weight of the entropy bonus at the start, below which it never falls.
    """

    settings: StabilitySettings
    kl_coefficient: float
    entropy_coefficient: float
    reward: RunningMoments = field(default_factory=RunningMoments)
    flat_rollouts: int = 0
    least_entropy: float = field(init=False)

    def __post_init__(self) -> None:
        self.least_entropy = self.entropy_coefficient

    def after_rollout(self, kl: float, entropy: float) -> None:
        """Moves the coefficients by a rollout's KL to the reference and entropy, both in nats an item."""
        chosen = self.settings
        if chosen.kl_target is not None and math.isfinite(kl):
            # A proportional controller in log beta. The bound keeps one wild rollout from moving beta by more than
            # rate * 20%.
            error = min(max(kl / chosen.kl_target - 1, -_BOUND), _BOUND)
            self.kl_coefficient *= 1 + chosen.kl_rate * error
        if chosen.entropy_floor is not None and math.isfinite(entropy):
            # The multiplier of the constraint H >= floor climbs its own gradient. Kept within bounds: below the
            # configured bonus it would punish entropy, and without an upper bound a floor that cannot be met would
            # drown the reward.
            moved = self.entropy_coefficient + chosen.entropy_rate * (chosen.entropy_floor - entropy)
            self.entropy_coefficient = min(max(moved, self.least_entropy), chosen.entropy_most)

    def after_groups(self, flat: int, groups: int) -> None:
        """Counts rollouts in which no group had any spread left.

        Raises:
            RunError: there were too many of them in succession.
        """
        # in succession: a single flat rollout is luck, a row of them is a reward that does not tell items apart
        self.flat_rollouts = self.flat_rollouts + 1 if groups and flat == groups else 0
        if self.flat_rollouts >= self.settings.max_flat:
            raise RunError(
                f"In {self.flat_rollouts} rollouts in succession every group of draws earned one and the same "
                "reward, so there is nothing to learn from: give a reward that differs between items, more draws, or "
                "a policy with more entropy."
            )

    def normalised(self, count: float, total: float, squares: float) -> tuple[float, float]:
        """Shift and scale for this rollout's rewards, after its own moments were added: (r - shift) / scale."""
        if self.settings.reward_normalisation == "none":
            return 0.0, 1.0
        moments = RunningMoments() if self.settings.reward_normalisation == "batch" else self.reward
        moments.add(count, total, squares)
        return moments.mean, moments.deviation

    def save(self, folder: Path) -> None:
        """Writes `controls.json` into `folder`."""
        # Settings come from the configuration on resuming. Everything else decides what the next rollout does.
        kept = {k: v for k, v in asdict(self).items() if k not in ("settings", "least_entropy")}
        write_json(folder / FILE, kept)

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote.

        Raises:
            RunError: the file is missing or no such record.
        """
        try:
            kept: dict[str, Any] = dict(read_json(folder / FILE))
            self.reward = RunningMoments(**kept.pop("reward"))
            for name in ("kl_coefficient", "entropy_coefficient", "flat_rollouts"):
                setattr(self, name, kept[name])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{folder / FILE} cannot be read; start the training anew ({error!r}).") from None


@dataclass
class Guard:
    """Judges gradient norms; too many bad ones in succession end the training."""

    limit: float | None = None
    most: int = 10
    skipped: int = 0
    in_row: int = 0

    def judge(self, norm: float) -> str | None:
        """None for a norm to step with, else why the step is left out.

        Raises:
            RunError: as many steps in succession as `most` were left out.
        """
        # NaN compares false with every limit, so it is asked first
        if math.isfinite(norm) and (self.limit is None or norm <= self.limit):
            self.in_row = 0
            return None
        self.skipped, self.in_row = self.skipped + 1, self.in_row + 1
        what = f"is {norm:.3g}, above {self.limit:g}" if math.isfinite(norm) else "is not finite"
        reason = f"The norm of the gradient {what}."
        if self.in_row >= self.most:
            raise RunError(
                f"{reason} {self.in_row} steps in succession were left out for that ({self.skipped} in all); lower "
                "the learning rate, or check the reward."
            )
        return reason


def check_stability(settings: StabilitySettings, key: str) -> None:
    """Raises `ConfigError` that names `key` for a setting that cannot be used."""
    for name in ("kl_target", "entropy_floor", "skip_grad_norm"):
        value = getattr(settings, name)
        if value is not None and value <= 0:
            raise ConfigError(f"Key '{key}.{name}' is {value}; it must be above 0, or null to switch it off.")
    for name in ("max_skipped", "max_flat"):
        if getattr(settings, name) < 1:
            raise ConfigError(f"Key '{key}.{name}' is {getattr(settings, name)}; it must be 1 or more.")
    if settings.kl_rate >= 1 / _BOUND:
        raise ConfigError(
            f"Key '{key}.kl_rate' is {settings.kl_rate}; it must be below {1 / _BOUND:g}, or one quiet rollout would "
            "switch the KL term off for good."
        )
    for name in ("kl_rate", "entropy_rate", "entropy_most", "resample"):
        if getattr(settings, name) < 0:
            raise ConfigError(f"Key '{key}.{name}' is {getattr(settings, name)}; it must be 0 or more.")
