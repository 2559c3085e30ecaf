"""Serving with a log: which version makes a slate, and what stands in the log of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmrec.online.cycle import Cycle
from llmrec.online.events import LoggedState, Served
from llmrec.online.explore import Explorer
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.seeding import stream_seed
from llmrec.types import State

Drawn = Callable[[LanguagePolicy, float], Explorer]
"""How slates of a policy are drawn, with its temperature times the second argument."""
_PARTS = 10_000


@dataclass
class Server:
    """Makes slates with the served version, and a share of them with the one before while the new one is on trial.

    Attributes:
        cycle: says what is served, and whether a version is on trial.
        explorer: turns a version's policy into slates, its temperature times `Cycle.heat`.
    """

    cycle: Cycle
    explorer: Drawn

    def __post_init__(self) -> None:
        self._held: dict[tuple[int, float], Explorer] = {}

    def version_of(self, name: str) -> int:
        """The version that makes the slate of that name; by slates and not by users, so that pairs are alike."""
        trial, updater = self.cycle.trial, self.cycle.updater
        if trial is not None:
            drawn = stream_seed(updater.seed, "online", "trial", trial.new, name) % _PARTS
            return trial.old if drawn < self.cycle.settings.trial_share * _PARTS else trial.new
        number = updater.versions.serving().number
        assert number is not None  # Cycle.alone
        return number

    def slates(self, states: Sequence[State], k: int, names: Sequence[str]) -> list[Served]:
        """A slate of `k` items for each state, ready for `EventLog.serve`; give them out when that has returned."""
        versions = [self.version_of(name) for name in names]
        made: dict[int, Served] = {}
        ids, heat = list(self.cycle.updater.row_of), self.cycle.heat
        for version in sorted(set(versions)):
            rows = [row for row, own in enumerate(versions) if own == version]
            explorer = self._explorer(version, heat)
            proposed = explorer.propose([states[row] for row in rows], k, [names[row] for row in rows])
            for row, slate in zip(rows, proposed, strict=True):
                items, told = tuple(ids[item] for item in slate.items_K), LoggedState.of(states[row], ids)
                user, how = states[row].user_id, explorer.name
                made[row] = Served(names[row], user, items, slate.propensity_K, version, how, told)
        # what is neither served nor on trial is not served again soon
        self._held = {(version, heat): self._held[version, heat] for version in set(versions)}
        return [made[row] for row in range(len(states))]

    def _explorer(self, version: int, heat: float) -> Explorer:
        if (version, heat) not in self._held:
            updater = self.cycle.updater
            self._held[version, heat] = self.explorer(updater.policy(updater.versions.version(version)), heat)
        return self._held[version, heat]
