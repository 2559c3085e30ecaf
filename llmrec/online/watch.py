"""The rewards of a served version, watched for a fall: each way of drawing slates by itself."""

from __future__ import annotations

from llmrec.online.drift import Drift
from llmrec.online.events import Logged
from llmrec.seeding import stream_seed


class Watch:
    """Have rewards fallen since a slate? Hotter slates earn less by themselves, so those drawn alike are compared.

    Args:
        seq: the slate behind which the watch began.
        level: probability at most, for each way of drawing, of ever finding a fall where there is none.
        seed: of the updates' cycle.
    """

    def __init__(self, seq: int, level: float, *, seed: int) -> None:
        self.seq, self._level, self._seed = seq, level, seed
        self.drawn: dict[str, tuple[Drift, list[int]]] = {}
        """Of each way of drawing: the test, and the slates that it has seen."""

    def add(self, logged: Logged, reward: float) -> int | None:
        """Takes the next slate; the last one before a fall, if that has just been found (0 where there was none).

        Args:
            logged: a slate behind `seq`; they come in order.
            reward: what it earned, a place.
        """
        drawn = logged.served.exploration
        if drawn not in self.drawn:
            name = ("online", "drift", self.seq, *((drawn,) if self.drawn else ()))
            self.drawn[drawn] = Drift(self._level, seed=stream_seed(self._seed, *name)), []
        drift, seqs = self.drawn[drawn]
        seqs.append(logged.seq)
        if not drift.add(reward):
            return None
        return seqs[drift.since - 1] if drift.since else 0
