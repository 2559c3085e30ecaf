"""The cycle of a served policy: watch what comes of its slates, update it, and take back what turns out worse.

Everything follows from the event log and the versions: slates are looked at in order, once their windows are over.
What was decided stands in `cycle.json` beside the versions, written when it has been done; whatever a kill leaves
undone is decided again from the same slates, with the same result.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from llmrec.config import RewardSettings
from llmrec.config_tree import from_tree
from llmrec.errors import ConfigError, DataError, RequestError, RunError
from llmrec.files import read_json, write_json
from llmrec.locks import locked
from llmrec.online.drift import Worse
from llmrec.online.events import Logged
from llmrec.online.log import EventReader
from llmrec.online.update import Updater
from llmrec.online.watch import Watch
from llmrec.storage import shown, storage_errors

CYCLE = "cycle.json"
FORMAT = "llmrec-cycle-1"
_DAY = 86_400
Kind = Literal["begun", "changed", "alarm", "promoted", "refused", "kept", "taken back"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, and by which slate.

    Attributes:
        kind: begun (the first version is served), changed (somebody has changed what is served), alarm (rewards have
            fallen), promoted or refused (an update), kept or taken back (a promoted version after its trial).
        seq: of the last slate that was looked at.
        time: of the log, in seconds.
        version: that it is about.
        reason: in words.
        after: of an alarm, the last slate before the change.
    """

    kind: Kind
    seq: int
    time: int
    version: int
    reason: str = ""
    after: int = 0


@dataclass(frozen=True, slots=True)
class Trial:
    """A promoted version `new`, compared with the one before it since the slate `seq`."""

    new: int
    old: int
    seq: int


@dataclass(frozen=True, slots=True)
class Former:
    """The version before the served one. It is still watched: what took its place is to earn no less.

    Attributes:
        version: its number.
        seq: the slate behind which its own rewards are watched.
        joined: the slate behind which those of the served version are watched with them: the promotion, or the end of
            the trial, during which the two versions stand side by side and each speaks for itself.
    """

    version: int
    seq: int
    joined: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What `cycle.json` holds.

    Attributes:
        seq: the last slate that was looked at.
        time: when it was served, by the log.
        served: the version that was served then; 0 before there was one.
        life: the slate behind which the rewards of that version are watched.
        former: the version before it, where it was put to the test against that one and nothing has gone wrong since.
        after: slates up to this one are left out of updates.
        updated: the last slate of the last update.
        updated_at: its time; that of the first slate before there was an update.
        pending: whether an alarm waits for its update.
        trial: the comparison that runs.
        decisions: all of them.
    """

    seq: int = 0
    time: int = 0
    served: int = 0
    life: int = 0
    former: Former | None = None
    after: int = 0
    updated: int = 0
    updated_at: int = 0
    pending: bool = False
    trial: Trial | None = None
    decisions: tuple[Decision, ...] = ()

    @property
    def alarm(self) -> Decision | None:
        """The last alarm, if nothing was promoted since; slates are to be drawn hotter for a while behind it."""
        turns = [one for one in self.decisions if one.kind in ("alarm", "promoted", "changed")]
        return turns[-1] if turns and turns[-1].kind == "alarm" else None

    @classmethod
    def read(cls, folder: Path) -> Progress:
        """What the cycle on the versions in `folder` has come to.

        Raises:
            RunError: the file is of another format, or damaged.
        """
        if not (folder / CYCLE).is_file():
            return cls()
        told = read_json(folder / CYCLE)
        if not isinstance(told, dict) or told.pop("format", None) != FORMAT:
            raise RunError(f"{shown(folder / CYCLE)} is not of the format {FORMAT}; begin in a new folder.")
        try:
            return from_tree(cls, told, str(folder / CYCLE))
        except (ConfigError, TypeError) as error:
            raise RunError(
                f"{shown(folder / CYCLE)} is damaged ({error}); put a backup of it in its place."
            ) from None


def slate_reward(logged: Logged, reward: RewardSettings) -> float:
    """What a slate earned, a place on the average; `replay` counts the same way."""
    earned = 0.0
    for item in logged.served.items_K:
        bought = logged.counted("conversion", item)
        clicked = bought or logged.counted("click", item) or logged.counted("cart", item)
        earned += reward.click * clicked + reward.conversion * bought
    return earned / len(logged.served.items_K)


class Cycle:
    """Watches a log and looks after the versions of one policy.

    Args:
        updater: makes, judges and promotes versions.
        reader: the log.
    """

    def __init__(self, updater: Updater, reader: EventReader) -> None:
        self.updater, self.reader = updater, reader
        self.settings, self.folder = updater.settings.cycle, updater.versions.folder
        self.progress = Progress.read(self.folder)
        self._watch: Watch
        self._former: Watch | None
        self._begin_watch()

    @contextlib.contextmanager
    def alone(self) -> Iterator[Cycle]:
        """Keeps other processes from looking after the same versions, and serves the first one where none is.

        Raises:
            Busy: another process does.
            RunError: the versions are of another model.
        """
        with storage_errors(self.folder):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.folder.with_name(f".{self.folder.name}.cycle.lock"), self.folder):
                self.updater.begin()
                self.progress = Progress.read(self.folder)
                self._begin_watch()
                self._note_served()
                yield self

    @property
    def trial(self) -> Trial | None:
        """The comparison that runs: `settings.trial_share` of the slates are then made by its older version."""
        return self.progress.trial

    @property
    def heat(self) -> float:
        """What the temperature of slates is to be multiplied by: above 1 behind an alarm that is not yet answered."""
        alarm = self.progress.alarm
        if alarm is None:
            return 1.0
        # what has been looked at since, and not what stands in the log: the same for a simulation that was killed
        if self.reader.count(alarm.seq, self.progress.seq) >= self.settings.search_slates:
            return 1.0
        refused = any(one.kind == "refused" and one.seq >= alarm.seq for one in self.progress.decisions)
        return float(self.settings.search_heat ** (2 if refused else 1))

    @property
    def pairs(self) -> int:
        """Pairs of slates that the trial has compared."""
        return self._worse.pairs

    def step(self) -> list[Decision]:
        """Looks at the slates that have ripened and does what is due; returns what was decided."""
        before = len(self.progress.decisions)
        self._note_served()
        for logged in self.reader.slates(self.progress.seq):
            self._take(logged)
            if self._is_due():
                self._update()
        self._save()
        return list(self.progress.decisions[before:])

    def update(self) -> list[Decision]:
        """Looks at the slates that have ripened, and then makes an update, due or not; returns what was decided.

        Raises:
            RequestError: too little has ripened, or a version is on trial.
        """
        before = len(self.progress.decisions)
        self._note_served()
        for logged in self.reader.slates(self.progress.seq):
            self._take(logged)
        self._save()
        self._end_untested(self._untested)
        trial = self.progress.trial
        if trial is not None:
            raise RequestError(
                f"Version {trial.new} is on trial against version {trial.old} ({self.pairs} of "
                f"{self.settings.trial_pairs} pairs of slates); update when that is over, or take it back."
            )
        ripe, least = self._ripe(), self.settings.least
        if ripe < least or not self._counted:
            since = "since the change" if self.progress.after else "so far"
            raise RequestError(
                f"{ripe} slates have ripened {since}, {self._counted} of them after the last update, and an update "
                f"needs {least} (cycle.least) and new ones; serve more first."
            )
        self._update()
        return list(self.progress.decisions[before:])

    def _note_served(self) -> None:
        """Takes note of a version that somebody else has promoted or taken back."""
        serving, known = self.updater.versions.serving(), self.progress.served
        if serving.number is not None and serving.number != known:
            old = known if known and serving.before[-1:] == (known,) else None
            self._decide("changed" if known else "begun", serving.number, serving.reason, old=old)

    def _take(self, logged: Logged) -> None:
        """One slate, seen by both tests, and what they say of it."""
        version, progress = logged.served.version, self.progress
        first = progress.updated_at or logged.time
        self.progress = replace(progress, seq=logged.seq, time=logged.time, updated_at=first)
        self._counted += 1
        after = self._feed(logged)
        if after is not None:
            self._decide("alarm", version, f"its slates earn less than they did, about since {after}", after=after)
        trial, settings = self.progress.trial, self.settings
        if trial is None:
            return
        if self._worse.alarm:
            why = f"it earned less than version {trial.old} in {self.pairs} pairs of slates"
            if self.updater.versions.serving().number == trial.new:
                self.updater.versions.roll_back(why)
            self._decide("taken back", trial.new, why)
        elif self.pairs >= settings.trial_pairs:
            self._decide("kept", trial.new, f"not found worse than version {trial.old} in {self.pairs} pairs")

    def _feed(self, logged: Logged) -> int | None:
        """Gives a slate to both tests; the last slate before rewards fell, if that has just been found."""
        version, trial = logged.served.version, self.progress.trial
        reward = slate_reward(logged, self.updater.reward)
        if trial is not None and logged.seq > trial.seq and version in (trial.new, trial.old):
            new = version == trial.new
            self._untested += new and not self.pairs
            # An older version's slate goes with the new one before it: what was served before the promotion does not
            # count, and pairs stay close in time.
            if not self._worse.waits(new=new) and (new or self._worse.waits(new=True)) and not self._worse.alarm:
                self._worse.add(min(max(reward, 0.0), self._worse.most), new=new)
        found = [watch.add(logged, reward) for watch in self._watching(logged)]
        return next((seq or self.progress.after for seq in found if seq is not None), None)

    def _watching(self, logged: Logged) -> Iterator[Watch]:
        """The watches that a slate concerns."""
        version, progress, former = logged.served.version, self.progress, self.progress.former
        if not self.settings.drift_level:
            return
        if version == progress.served and logged.seq > progress.life:
            yield self._watch
        if former is not None and self._former is not None and logged.seq > former.seq:
            joined = former.joined is not None and logged.seq > former.joined
            if version == former.version or (joined and version == progress.served):
                yield self._former

    def _is_due(self) -> bool:
        self._end_untested(self._untested - self.settings.trial_pairs)
        progress, settings = self.progress, self.settings
        if progress.trial is not None:
            return False
        days = (progress.time - progress.updated_at) / _DAY
        by_slates = 0 < settings.every <= self._counted
        by_days = 0 < settings.every_days <= days
        return (progress.pending or by_slates or by_days) and self._ripe() >= settings.least

    def _ripe(self) -> int:
        """Slates that an update may learn from or be judged by."""
        return self.reader.count(self.progress.after, self.progress.seq)

    def _update(self) -> None:
        scratch = self.folder.with_name(f"{self.folder.name}.work")
        try:
            found = self.updater.update(self.reader, scratch, after=self.progress.after, until=self.progress.seq)
        except (DataError, RequestError) as error:  # nothing earned anything, or nobody is held out
            self._decide("refused", 0, f"no update was made: {error}")
            return
        old = self.progress.served if found.promoted else None
        self._decide("promoted" if found.promoted else "refused", found.number, found.reason, old=old)
        # behind the decision: a killed update goes on from its checkpoints
        shutil.rmtree(scratch, ignore_errors=True)

    def _end_untested(self, slates: int) -> None:
        """Ends a trial whose older version nobody serves, once the new one has made so many slates alone."""
        trial = self.progress.trial
        if trial is not None and not self.pairs and slates > 0:
            self._decide("kept", trial.new, f"version {trial.old} was not served beside it")

    def _decide(self, kind: Kind, version: int, reason: str, *, after: int = 0, old: int | None = None) -> None:
        """Writes a decision down, when what it says has been done, and watches on.

        Args:
            kind: see `Decision`.
            version: that it is about.
            reason: in words.
            after: of an alarm.
            old: the version that a new one is to be compared with.
        """
        was, seq = self.progress, self.progress.seq
        time = was.time or self.reader.marks()["time"]
        served = self.updater.versions.serving().number or 0
        tried = kind in ("promoted", "refused")
        trial = was.trial
        if old is not None:
            trial = Trial(version, old, seq) if self.settings.trial_pairs else None
        elif kind in ("kept", "taken back", "changed", "begun"):
            trial = None
        life, former = was.life, was.former
        if kind == "taken back" and former is not None and served == former.version:
            # the older version has been served, and watched, all the time
            life, former = former.seq, None
            self._watch, self._former = self._former or self._watch, None
        elif served != was.served or kind == "alarm":
            life, former = seq, None if old is None else Former(old, was.life, None if trial else seq)
            self._former = None if old is None else self._watch
            self._watch = self._new_watch(life)
        elif kind == "kept" and former is not None:
            former = replace(former, joined=seq)
        self.progress = replace(
            was,
            served=served,
            life=life,
            former=former,
            after=after if kind == "alarm" else was.after,
            pending=kind == "alarm" or (was.pending and not tried),
            updated=seq if tried else was.updated,
            updated_at=time if tried else was.updated_at,
            trial=trial,
            decisions=(*was.decisions, Decision(kind, seq, time, version, reason, after)),
        )
        self._save()
        if trial != was.trial:
            self._begin_trial()
        if tried:
            self._counted = 0

    def _save(self) -> None:
        if self.folder.is_dir():
            write_json(self.folder / CYCLE, {"format": FORMAT, **asdict(self.progress)})

    def _begin_watch(self) -> None:
        """Both tests as they stood at the last slate that was looked at, from the log."""
        progress = self.progress
        former = progress.former
        self._watch = self._new_watch(progress.life)
        self._former = None if former is None else self._new_watch(former.seq)
        self._begin_trial()
        self._counted = self.reader.count(progress.updated, progress.seq)
        first = min([progress.life, *(one.seq for one in (progress.trial, former) if one is not None)])
        for logged in self.reader.slates(first, before=progress.seq + 1):
            self._feed(logged)

    def _new_watch(self, seq: int) -> Watch:
        return Watch(seq, self.settings.drift_level, seed=self.updater.seed)

    def _begin_trial(self) -> None:
        reward = self.updater.reward
        most = max(reward.click + reward.conversion, reward.click, 1e-9)
        self._worse, self._untested = Worse(self.settings.worse_level, most=most), 0
