"""One update: learn from the log, be judged by held-out users of it, and be served, or not.

The served adapter goes on (`training.anchor`) by off-policy learning on slates with their propensities; KL and pull
hold it to what is served. The candidate becomes a version whatever comes of it. It is promoted where logged feedback
of users that no update has learnt from values it significantly above the served version; else it is never served.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import GateSettings, OffPolicySettings, RewardSettings
from llmrec.errors import ConfigError, RequestError
from llmrec.evaluation.off_policy import off_policy_gain, off_policy_value
from llmrec.evaluation.significance import Interval
from llmrec.online.events import Logged
from llmrec.online.log import EventReader
from llmrec.online.replay import Replay, parted, replay
from llmrec.online.versions import Version, Versions
from llmrec.pipeline.logged import LoggedImpressions
from llmrec.pipeline.promotion import signed
from llmrec.policy.adapters import load_adapter_onto
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.training.anchor import Anchor
from llmrec.training.improvement import Checkpointing, WarmStart
from llmrec.training.logged import logged_slates
from llmrec.training.lora import adapter_of, load_adapter, make_lora
from llmrec.training.off_policy import check_off_policy, train_off_policy
from llmrec.types import FloatArray

ADAPTER = "adapter"


@dataclass(frozen=True, kw_only=True)
class OnlineSettings:
    """What an update is made of."""

    off_policy: OffPolicySettings = field(default_factory=OffPolicySettings)
    """How it learns; `kl_coefficient` is the tether to the served version, `lora` the rank of the first adapter."""
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

    def check(self) -> None:
        """Raises `ConfigError` for what cannot work."""
        check_off_policy(self.off_policy)
        if self.off_policy.estimator != "top-k":
            raise ConfigError("An update learns by off_policy.estimator: top-k; set it.")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"The share of held-out users is {self.held_out}; it must lie between 0 and 1.")
        if self.newest < 1 or self.samples < 1:
            raise ConfigError("Replay and bootstrap need at least one slate and one sample; set newest and samples.")


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
        examination_K: P(a place is looked at); None where it is not known, and the first place alone judges.
    """

    versions: Versions
    start: Callable[[], WarmStart]
    reward: RewardSettings
    settings: OnlineSettings
    seed: int
    examination_K: FloatArray | None = None

    def begin(self) -> Version:
        """Serves the warm start itself, as a version with an adapter that changes nothing."""
        self.settings.check()
        start = self.start()
        model = make_lora(start.model, self.settings.off_policy.lora, seed=start.seed)
        first = self.versions.add(lambda folder: adapter_of(model).save(folder / ADAPTER), {"made": "warm start"})
        self.versions.promote(first.number, "the warm start")
        return first

    def policy(self, version: Version) -> LanguagePolicy:
        """What a version serves, freshly loaded; the function for `HotSwap`."""
        start = self.start()
        model = load_adapter_onto(start.model, version.folder / ADAPTER, start.tokenizer)
        return LanguagePolicy(model, start.tokenizer, start.catalogue, start.renderer, start.repeat)

    def update(self, reader: EventReader, scratch: Path, *, after: int = 0) -> Verdict:
        """Learns from the newest mature slates behind `after`, and puts what came of it to the gate.

        Args:
            reader: the log.
            scratch: of the trainer; a killed update goes on from its checkpoints there.
            after: sequence number up to which the log is not looked at, as after an alarm of `drift.Drift`.

        Raises:
            RequestError: nothing is served yet, or too little is logged.
            DataError: nothing that was logged earned anything.
        """
        self.settings.check()
        served = self._served()
        newest: deque[Logged] = deque(reader.slates(after), maxlen=self.settings.newest)
        learnt, held = parted(newest, self.settings.held_out, self.seed)
        taught, judged = self._replay(learnt), self._replay(held)
        if not len(taught.log) or not len(judged.log):
            raise RequestError(
                f"The log has {len(learnt)} slates to learn from and {len(held)} to judge by whose window is over, "
                "or knows their items no longer; serve more before the next update."
            )
        number = self.versions.serving().change
        start = replace(self.start(), seed=self.seed + number)
        anchor = Anchor(load_adapter(served.folder / ADAPTER), self.settings.pull)
        groups = np.zeros(len(start.catalogue), dtype=np.int64)  # propensities are logged: none is fitted by group
        settings = self.settings.off_policy
        slates = logged_slates(taught.log, self._looked_at(taught), settings, groups, seed=start.seed)
        made = train_off_policy(replace(start, anchor=anchor), slates, settings, Checkpointing(scratch))
        facts = {"made": "update", "from": served.number, "slates": len(slates), "last_seq": newest[-1].seq}
        candidate = self.versions.add(lambda folder: adapter_of(made.model).save(folder / ADAPTER), facts)
        return self.judge(candidate.number, judged)

    def judge(self, number: int, held: Replay) -> Verdict:
        """Promotes version `number` where held-out feedback values it significantly above what is served."""
        verdict = self._verdict(number, held)
        if verdict.promoted:
            self.versions.promote(number, verdict.reason)
        return verdict

    def _verdict(self, number: int, held: Replay) -> Verdict:
        gate, served = self.settings.gate, self._served()
        logged = LoggedImpressions.of(
            held.log, len(held.log.states), self.seed, self.reward, examination_K=self.examination_K
        )
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
        row_of: Mapping[str, int] = {item: row for row, item in enumerate(self.start().catalogue.item_ids)}
        return replay(slates, row_of, self.reward)

    def _looked_at(self, taught: Replay) -> FloatArray:
        """Rewards over P(their place is looked at), as the gate has them, where that is known."""
        if self.examination_K is None:
            return taught.reward_M
        curve_K = np.asarray(self.examination_K, dtype=np.float64)
        return np.asarray(taught.reward_M / curve_K[taught.log.position_M.astype(np.int64)])
