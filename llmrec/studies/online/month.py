"""The month that is played: its people, its slates and how its policies learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmrec.config import GateSettings, LoraSettings, OffPolicySettings, TiltedSettings
from llmrec.errors import ConfigError
from llmrec.online.update import CycleSettings, Learner, OnlineSettings

FROZEN, UPDATED, RETRAINED = "frozen", "updated", "trained anew"
TILTED, GRADIENT = "updated, item worths learnt", "updated, policy gradient"
ALONE = "item worths alone, drawn and gated alike"
RERANKED = "frozen, ordered by item worths fitted anew"
COUNTS, MEANS, INFORMED = "co-visitation, counted anew", "item means, counted anew", "informed optimum"
ARMS: Mapping[str, str] = {
    "frozen": FROZEN,
    "updated": UPDATED,
    "learnt": TILTED,
    "gradient": GRADIENT,
    "alone": ALONE,
    "reordered": RERANKED,
    "anew": RETRAINED,
    "covisitation": COUNTS,
    "means": MEANS,
}
"""All arms, by short names."""
LEARNERS: Mapping[str, tuple[Learner, bool]] = {
    UPDATED: ("none", True),
    TILTED: ("tilted", False),
    GRADIENT: ("off-policy", False),
    ALONE: ("none", True),
}
"""How the arms learn that go on learning, and whether item worths are put on top."""
BEFORE, AFTER, END = "before the shift", "after the shift", "last days"


@dataclass(frozen=True, kw_only=True)
class Month:
    """What is played.

    Attributes:
        days: of the month; demand shifts in its middle.
        visits: slates a day.
        places: items of a slate.
        block: days between two trainings anew, and two counts.
        temperature: at which a policy's slates are drawn.
        epsilon: share of places at which counts explore.
        after: days behind the month in which a bad version is tried.
        arms: that play, by their short names; frozen and updated, which the others are held against, always do.
    """

    days: int = 30
    visits: int = 100
    places: int = 5
    block: int = 5
    temperature: float = 0.3
    epsilon: float = 0.1
    after: int = 8
    arms: tuple[str, ...] = tuple(ARMS)

    def __post_init__(self) -> None:
        unknown = sorted({*self.arms} - {*ARMS})
        if unknown:
            raise ConfigError(f"No arm of the month is called {unknown[0]!r}; there are {', '.join(ARMS)}.")
        object.__setattr__(self, "arms", tuple(arm for arm in ARMS if arm in {"frozen", "updated", *self.arms}))

    @property
    def played(self) -> list[str]:
        """The arms, by what tables call them."""
        return [ARMS[arm] for arm in self.arms]

    @property
    def learning(self) -> list[str]:
        """Those that go on learning."""
        return [arm for arm in self.played if arm in LEARNERS]

    def settings_of(self, arm: str = UPDATED) -> OnlineSettings:
        """Of an arm that goes on; chosen on worlds that are not asked here."""
        learner, item_worths = LEARNERS[arm]
        return OnlineSettings(
            learner=learner,
            item_worths=item_worths,
            tilted=TiltedSettings(
                kl_coefficient=0.001,
                # what is written down is sure of more than what an adapter learns in so few steps
                entropy_coefficient=0.1 if item_worths else 0.2,
                depth=60,
                states=1500,
                epochs=3.0,
                batch_size=32,
                learning_rate=3e-3,
                save_every=1000,
            ),
            off_policy=OffPolicySettings(
                slate=self.places,
                draws=1,
                batch_size=32,
                epochs=3.0,
                learning_rate=3e-3,
                kl_coefficient=0.005,
                lora=LoraSettings(rank=16),
                save_every=1000,
            ),
            gate=GateSettings(effective_samples=40.0),
            position_bias=0.0,
            cycle=CycleSettings(every=2 * self.visits, least=2 * self.visits, trial_pairs=30, search_heat=10.0),
        )
