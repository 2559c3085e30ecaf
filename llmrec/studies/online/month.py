"""The month that is played: its people, its slates and how its policies learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmrec.config import GateSettings, LoraSettings, OffPolicySettings, TiltedSettings
from llmrec.online.update import CycleSettings, Learner, OnlineSettings

FROZEN, UPDATED, RETRAINED = "frozen", "updated", "trained anew"
GRADIENT, RERANKED = "updated, policy gradient", "frozen, with item worths fitted anew"
COUNTS, MEANS, INFORMED = "co-visitation, counted anew", "item means, counted anew", "informed optimum"
ARMS = (FROZEN, UPDATED, GRADIENT, RERANKED, RETRAINED, COUNTS, MEANS)
LEARNERS: Mapping[str, Learner] = {UPDATED: "tilted", GRADIENT: "off-policy"}
"""How the arms learn that go on learning."""
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
    """

    days: int = 30
    visits: int = 100
    places: int = 5
    block: int = 5
    temperature: float = 0.5
    epsilon: float = 0.1
    after: int = 8

    @property
    def settings(self) -> OnlineSettings:
        """Of the policy that goes on; chosen on worlds that are not asked here."""
        return self.settings_of(LEARNERS[UPDATED])

    def settings_of(self, learner: Learner) -> OnlineSettings:
        """The same with a learner."""
        return OnlineSettings(
            learner=learner,
            tilted=TiltedSettings(
                kl_coefficient=0.001,
                entropy_coefficient=0.2,
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
            newest=1500,
            gate=GateSettings(effective_samples=40.0),
            position_bias=0.0,
            cycle=CycleSettings(every=2 * self.visits, least=2 * self.visits, trial_pairs=30),
        )
