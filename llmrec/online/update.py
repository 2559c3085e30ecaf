"""One update: learn from the log, be judged by held-out users of it, and be served, or not.

The served adapter goes on (`training.anchor`), by the policy gradient on slates with their propensities or towards
the optimum of what each item is expected to earn (`OnlineSettings.learner`). The candidate becomes a version whatever
comes of it. It is promoted where logged feedback of users that no update has learnt from values it significantly
above the served version; else it is never served.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmrec.config import GateSettings, OffPolicySettings, RewardSettings, TiltedSettings
from llmrec.errors import ConfigError, RequestError, RunError
from llmrec.evaluation.off_policy import off_policy_gain, off_policy_value
from llmrec.evaluation.significance import Interval
from llmrec.online.events import Logged
from llmrec.online.layer import ItemLayer
from llmrec.online.log import EventReader
from llmrec.online.replay import Replay, parted, replay
from llmrec.online.versions import Version, Versions
from llmrec.online.worth import ItemWorth
from llmrec.pipeline.logged import LoggedImpressions
from llmrec.pipeline.promotion import signed
from llmrec.policy.adapters import load_adapter_onto
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.storage import shown
from llmrec.training.anchor import Anchor
from llmrec.training.improvement import Checkpointing, Improved, WarmStart
from llmrec.training.logged import logged_slates
from llmrec.training.lora import adapter_of, load_adapter, make_lora
from llmrec.training.off_policy import check_off_policy, train_off_policy
from llmrec.training.tilted import check_tilted, train_tilted
from llmrec.types import FloatArray

ADAPTER = "adapter"
Learner = Literal["off-policy", "tilted", "none"]
"""How an update learns, see `OnlineSettings.learner`."""


@dataclass(frozen=True, kw_only=True)
class CycleSettings:
    """When a served policy is updated, and what is watched meanwhile."""

    every: int = 1000
    """Mature slates between two updates; 0 leaves it to `every_days`."""
    every_days: float = 0.0
    """Days of the log between two updates; 0 leaves it to `every`."""
    least: int = 400
    """Mature slates without which an update is not tried: behind an alarm, those since the change."""
    drift_level: float = 0.01
    """Probability at most of ever calling a change that is none, of each served version, watched on into the next
    one's time, and each way in which slates are drawn; 0 watches for none."""
    search_slates: int = 2000
    """Behind an alarm slates are drawn hotter until an update is promoted, or so many have ripened; 0 for never."""
    search_heat: float = 3.0
    """How much hotter: times the temperature, and as much again once an update behind the alarm was refused. A
    policy that is sure hardly shows anything else, and the log of its slates cannot tell what has become better."""
    trial_share: float = 0.3
    """Share of the slates that the version before goes on to make after a promotion, to be compared with."""
    trial_pairs: int = 200
    """Pairs of slates after which the new version serves alone; 0 makes no trial."""
    worse_level: float = 0.05
    """Probability at most of ever taking back a version that is no worse."""

    def check(self) -> None:
        """Raises `ConfigError` for what cannot work."""
        if min(self.every, self.every_days, self.trial_pairs, self.search_slates) < 0:
            raise ConfigError("Keys cycle.every, every_days, trial_pairs and search_slates must be 0 or more.")
        if self.every == self.every_days == 0:
            raise ConfigError("Set cycle.every or cycle.every_days above 0.")
        if not 1 <= self.search_heat <= 100:
            raise ConfigError(f"Key 'cycle.search_heat' is {self.search_heat}; it must lie in 1..100.")
        if self.least < 1:
            raise ConfigError(f"Key 'cycle.least' is {self.least}; an update needs at least one slate.")
        for key in ("trial_share", "worse_level"):
            if not 0 < getattr(self, key) < 1:
                raise ConfigError(f"Key 'cycle.{key}' is {getattr(self, key)}; it must lie between 0 and 1.")
        if not 0 <= self.drift_level < 1:
            raise ConfigError(f"Key 'cycle.drift_level' is {self.drift_level}; it must be below 1, and 0 or more.")


@dataclass(frozen=True, kw_only=True)
class OnlineSettings:
    """What an update is made of."""

    learner: Learner = "off-policy"
    """off-policy: the policy gradient on what was shown. tilted: what every item earns beside what the served policy
    says of it is fitted to the slates (b log pi + a, see `online.worth`), and the policy learns
    (pi^(b + beta) exp(a))^(1 / (beta + c)), with beta and c as in the section `tilted`. none: the adapter stays."""
    item_worths: bool = False
    """Puts the optimum that `tilted` would learn on top of what was learnt, as numbers beside the adapter and without
    any training (`online.layer`)."""
    off_policy: OffPolicySettings = field(default_factory=OffPolicySettings)
    """`kl_coefficient` is the tether to the served version; `lora` the rank of the first adapter of both learners."""
    tilted: TiltedSettings = field(
        default_factory=lambda: TiltedSettings(kl_coefficient=0.001, entropy_coefficient=0.2)
    )
    """For `learner: tilted` and `item_worths`; the higher beta + c, in rewards, the more their slates explore."""
    pull: float = 0.0
    """Of the proximal term."""
    newest: int = 4000
    """Slates that are kept for replay, the newest ones."""
    held_out: float = 0.25
    """Share of the users that judge and never teach."""
    gate: GateSettings = field(default_factory=GateSettings)
    """`weight_cap`, and `effective_samples` without which nothing is promoted."""
    samples: int = 1000
    """Of the bootstrap over users."""
    position_bias: float | None = None
    """P(a slate's place k = 0, 1, ... is looked at) = (k + 1) ** -position_bias; null: not known, so that the first
    place alone judges, and all places teach as they are."""
    cycle: CycleSettings = field(default_factory=CycleSettings)
    """When to update, and what is watched (`llmrec.online.cycle`)."""

    def check(self) -> None:
        """Raises `ConfigError` for what cannot work."""
        check_off_policy(self.off_policy)
        check_tilted(self.tilted)
        if self.off_policy.estimator != "top-k":
            raise ConfigError("An update learns by off_policy.estimator: top-k; set it.")
        if self.learner == "none" and not self.item_worths:
            raise ConfigError("With learner: none and item_worths: false no update learns anything; set one of them.")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"The share of held-out users is {self.held_out}; it must lie between 0 and 1.")
        if self.newest < 1 or self.samples < 1:
            raise ConfigError("Replay and bootstrap need at least one slate and one sample; set newest and samples.")
        if self.position_bias is not None and not 0 <= self.position_bias <= 5:
            raise ConfigError(f"Key 'position_bias' is {self.position_bias}, but it must lie in 0..5, or be null.")
        self.cycle.check()

    def looks(self, places: int) -> FloatArray | None:
        """P(a place is looked at), (places,); None where it is not known."""
        if self.position_bias is None:
            return None
        return np.asarray(np.arange(1, places + 1, dtype=np.float64) ** -self.position_bias)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a candidate; `gain` is None where the held-out log could not value it."""

    number: int
    promoted: bool
    reason: str
    gain: Interval | None = None
    effective_samples: float = 0.0


@dataclass(frozen=True)
class Updater:
    """Makes updates of one policy.

    Attributes:
        versions: where they go.
        start: a fresh warm start at each call, with a plain model: an adapter is put on it in place.
        reward: what clicks and conversions are worth.
        seed: of the updates.
        origin: tells the warm start from any other; versions of another one are refused.
    """

    versions: Versions
    start: Callable[[], WarmStart]
    reward: RewardSettings
    settings: OnlineSettings
    seed: int
    origin: str = ""

    def begin(self) -> Version:
        """Serves the warm start itself, as a version with an adapter that changes nothing; the one there, if any.

        Raises:
            RunError: the folder holds versions of another model.
        """
        self.settings.check()
        first = next(iter(self.versions.numbers()), None)
        if first is None:
            start = self.start()
            model = make_lora(start.model, self.settings.off_policy.lora, seed=start.seed)
            facts = {"made": "warm start", "origin": self.origin}
            first = self.versions.add(lambda folder: adapter_of(model).save(folder / ADAPTER), facts).number
        version = self.versions.version(first)
        if version.facts.get("origin", "") != self.origin:
            raise RunError(
                f"{shown(self.versions.folder)} holds versions of another model than this run's; name the run that "
                "they began from, or a new folder."
            )
        if self.versions.serving().number is None:
            self.versions.promote(first, "the warm start")
        return version

    @cached_property
    def row_of(self) -> Mapping[str, int]:
        """Item index of each item id."""
        return {item: row for row, item in enumerate(self.start().catalogue.item_ids)}

    def policy(self, version: Version) -> LanguagePolicy:
        """What a version serves, freshly loaded; the function for `HotSwap`."""
        start = self.start()
        return _policy(_under(ItemLayer.load(version.folder, start.catalogue.item_ids), start), version)

    def update(self, reader: EventReader, scratch: Path, *, after: int = 0, until: int | None = None) -> Verdict:
        """Learns from the newest mature slates behind `after`, and puts what came of it to the gate.

        An update that was killed goes on where it was: with the same log up to `until`, the version that was made is
        found again, judged alike and promoted, if it was not yet.

        Args:
            reader: the log.
            scratch: of the trainer; a killed update goes on from its checkpoints there.
            after: sequence number up to which the log is not looked at, as after an alarm of `drift.Drift`.
            until: sequence number of the last slate that is looked at; by default that of the newest mature one.

        Raises:
            RequestError: nothing is served yet, or too little is logged.
            DataError: nothing that was logged earned anything.
        """
        self.settings.check()
        self._served()
        before = None if until is None else until + 1
        newest: deque[Logged] = deque(reader.slates(after, before=before), maxlen=self.settings.newest)
        learnt, held = parted(newest, self.settings.held_out, self.seed)
        taught, judged = self._replay(learnt), self._replay(held)
        if not len(taught.log) or not len(judged.log):
            raise RequestError(
                f"The log has {len(learnt)} slates to learn from and {len(held)} to judge by whose window is over, "
                "or knows their items no longer; serve more before the next update."
            )
        last = newest[-1].seq
        candidate = self._made_at(last) or self._learn(taught, last, scratch)
        return self.judge(candidate.number, judged, against=int(candidate.facts["from"]))

    def _made_at(self, seq: int) -> Version | None:
        """The newest version, if it was made of the log up to `seq`."""
        numbers = self.versions.numbers()
        newest = self.versions.version(numbers[-1]) if numbers else None
        return newest if newest is not None and newest.facts.get("last_seq") == seq else None

    def _learn(self, taught: Replay, last: int, scratch: Path) -> Version:
        """A new version: the served adapter gone on with, and what is put on top of it."""
        served, settings, start = self._served(), self.settings, self.start()
        adapter, item_ids = load_adapter(served.folder / ADAPTER), start.catalogue.item_ids
        layer = ItemLayer.load(served.folder, item_ids)
        if settings.learner == "none":
            policy = _policy(start, served)
        else:
            anchor = Anchor(adapter, settings.pull)
            below = replace(_under(layer, start), seed=self.seed + last, anchor=anchor)
            learn = self._by_gradient if settings.learner == "off-policy" else self._by_worth
            model = learn(below, served, taught, Checkpointing(scratch)).model
            adapter = adapter_of(model)
            policy = LanguagePolicy(model, start.tokenizer, start.catalogue, start.renderer, start.repeat)
        if settings.item_worths:
            layer = ItemLayer.of(self._told(policy, taught), policy, taught.log.states, settings.tilted)

        def write(folder: Path) -> None:
            adapter.save(folder / ADAPTER)
            if layer is not None:
                layer.save(folder, item_ids)

        facts = {"made": "update", "from": served.number, "slates": len(taught.log.states), "last_seq": last}
        return self.versions.add(write, facts)

    def _by_gradient(
        self, start: WarmStart, served: Version, taught: Replay, checkpointing: Checkpointing
    ) -> Improved:
        del served
        groups = np.zeros(len(start.catalogue), dtype=np.int64)  # propensities are logged: none is fitted by group
        settings = self.settings.off_policy
        slates = logged_slates(taught.log, self._looked_at(taught), settings, groups, seed=start.seed)
        return train_off_policy(start, slates, settings, checkpointing)

    def _by_worth(self, start: WarmStart, served: Version, taught: Replay, checkpointing: Checkpointing) -> Improved:
        worth = self._told(self.policy(served), taught)
        settings, slope = self.settings.tilted, max(worth.slope, 0.0)
        # b log pi + a at the temperature beta + c, as a tether of b and what is left of the temperature beside it
        settings = replace(
            settings,
            kl_coefficient=settings.kl_coefficient + slope,
            entropy_coefficient=settings.entropy_coefficient - slope,
        )
        log, newest = taught.log, slice(-settings.states, None)
        return train_tilted(start, log.states[newest], log.seen[newest], worth, settings, checkpointing)

    def _told(self, policy: LanguagePolicy, taught: Replay) -> ItemWorth:
        worth = self.worth(policy, taught)
        if worth is None:
            raise RequestError(
                "No impression of the log tells what items are worth; log propensities with slates of items that the "
                "policy may show."
            )
        return worth

    def worth(self, policy: LanguagePolicy, told: Replay) -> ItemWorth | None:
        """What each item earned beside what `policy` says of it; None where no impression tells."""
        logged = self._logged(told)
        if logged is None:
            return None
        log_prob_M = logged.log_prob(policy)
        shown = np.isfinite(log_prob_M)  # the rest the policy would not show, and has no log pi of
        if not shown.any():
            return None
        return ItemWorth.fit(logged.item_M[shown], log_prob_M[shown], logged.reward_M[shown], len(self.row_of))

    def _logged(self, found: Replay) -> LoggedImpressions | None:
        """The impressions that count, their rewards over P(their place is looked at)."""
        looks = self.settings.looks(_places(found))
        return LoggedImpressions.of(found.log, len(found.log.states), self.seed, self.reward, examination_K=looks)

    def judge(self, number: int, held: Replay, *, against: int | None = None) -> Verdict:
        """Promotes version `number` where held-out feedback values it significantly above what is served.

        Args:
            number: of the candidate.
            held: what held-out users did.
            against: the version that is served, for a judgement that is made once more.
        """
        against = self._served().number if against is None else against
        verdict = self._verdict(number, held, self.versions.version(against))
        serving = self.versions.serving()
        if not verdict.promoted or serving.number == number:
            return verdict
        if serving.number != against:  # somebody has promoted or rolled back meanwhile
            return replace(verdict, promoted=False, reason=f"version {against} is not served any more")
        self.versions.promote(number, verdict.reason)
        return verdict

    def _verdict(self, number: int, held: Replay, served: Version) -> Verdict:
        gate = self.settings.gate
        logged = self._logged(held)
        if logged is None:
            return Verdict(number, False, "the held-out log has no propensities")
        ours, theirs = (logged.weights(self.policy(self.versions.version(n))) for n in (number, served.number))
        if not (np.isfinite(ours).all() and ours.any() and theirs.any()):
            return Verdict(number, False, "the candidate has no finite probability for what was shown")
        draw: dict[str, Any] = {"cap": gate.weight_cap, "users": logged.users_M, "seed": self.seed}
        draw["samples"] = self.settings.samples
        value = off_policy_value(ours, logged.reward_M, **draw)
        gain, effective = off_policy_gain(ours, theirs, logged.reward_M, **draw), value.effective_samples
        said = f"held-out feedback values it by {signed(gain)} against version {served.number}"
        if effective < gate.effective_samples:
            reason = f"only {effective:.0f} effective samples of held-out feedback tell of it"
            return Verdict(number, False, reason, gain, effective)
        return Verdict(number, gain.mark(value.value.mean) == "▲", said, gain, effective)

    def _served(self) -> Version:
        number = self.versions.serving().number
        if number is None:
            raise RequestError("Nothing is served yet; call begin first.")
        return self.versions.version(number)

    def _replay(self, slates: list[Logged]) -> Replay:
        return replay(slates, self.row_of, self.reward)

    def _looked_at(self, taught: Replay) -> FloatArray:
        """Rewards over P(their place is looked at), as the gate has them, where that is known."""
        looks = self.settings.looks(_places(taught))
        if looks is None:
            return taught.reward_M
        return np.asarray(taught.reward_M / looks[taught.log.position_M.astype(np.int64)])


def _under(layer: ItemLayer | None, start: WarmStart) -> WarmStart:
    """The start with a layer on top of every policy over its items."""
    return start if layer is None else replace(start, catalogue=layer.on(start.catalogue))


def _policy(start: WarmStart, version: Version) -> LanguagePolicy:
    """The policy of a version's adapter; consumes the start's model."""
    model = load_adapter_onto(start.model, version.folder / ADAPTER, start.tokenizer)
    return LanguagePolicy(model, start.tokenizer, start.catalogue, start.renderer, start.repeat)


def _places(found: Replay) -> int:
    """Places of the longest slate."""
    return 1 + int(found.log.position_M.max(initial=0))
