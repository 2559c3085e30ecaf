"""What an experiment is: its design, the effects found, and what they say in plain sentences."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from llmrec.evaluation.effect import Effect
from llmrec.evaluation.significance import Interval
from llmrec.evaluation.table import Comparison

LABELS = {
    "value": "value",
    "click_rate": "clicks",
    "conversion_rate": "conversions",
    "revenue": "revenue",
    "turns": "turns",
    "retained": "retained",
    "visits": "visits",
    "regret": "regret",
}
"""Metrics in the order of the table, each a mean over users of a whole session; rates are per impression."""
PERCENT, LOWER = ("click_rate", "conversion_rate", "retained"), ("regret",)


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is decided before anybody is met.

    Attributes:
        primary: the metric that the verdict is about.
        metrics: what is tested, together (Holm); by default all that can differ.
        effect: the smallest difference that would matter, as a share of A's mean; sample sizes are for it.
        level: two-sided confidence, 1 - alpha.
        power: chance with which an effect is to be found.
        samples: bootstrap samples.
        sampled: counts what users did rather than what was to be expected of them.
        common: whether both systems meet the users with the same luck; else each has its own.
        regret: whether the population is asked for the best slates.
        gamma: discount between turns in the value.
        seed: of luck and bootstrap.
    """

    primary: str = "value"
    metrics: tuple[str, ...] | None = None
    effect: float = 0.02
    level: float = 0.95
    power: float = 0.8
    samples: int = 1000
    sampled: bool = False
    common: bool = True
    regret: bool = False
    gamma: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Experiment:
    """What two systems came to.

    Attributes:
        names: A (the reference) and B.
        design: what was decided beforehand.
        users: number of users, the same for both.
        effects: B less A by metric, in the order of the table.
        table: both systems; marks hold after Holm's correction over the metrics.
        lost: cumulative regret of each system by turn, mean over users with interval; empty where it is not known.
    """

    names: tuple[str, str]
    design: Design
    users: int
    effects: dict[str, Effect]
    table: Comparison
    lost: dict[str, list[Interval]] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """ "gain", "loss" or "none" of B against A on the primary metric."""
        return self.effects[self.design.primary].outcome

    @property
    def verdict(self) -> str:
        """Plain sentences: what the primary metric shows, how it was tested, what else differs."""
        a, b = self.names
        effect, say = self.effects[self.design.primary], self._numbers
        what = f"{LABELS[effect.metric]} ({say(effect, effect.mean_b)} against {say(effect, effect.mean_a)}"
        what += f"{_relative(effect)})"
        if effect.identical:
            same = f"{b} and {a} came to the same {LABELS[effect.metric]} with each of {self.users} users"
            return " ".join(filter(None, [f"No difference: {same}.", self._others()]))
        change = f"{say(effect, effect.difference.mean, sign=True)}, {_level(self.design.level)} interval "
        change += self.table.interval(effect.metric, effect.difference, sign=True)
        test = f"p = {_p_value(effect.adjusted)}" + self._correction()
        if effect.outcome == "none":
            head = f"No significant difference between {b} and {a} in {what}: {change}; {test}."
            return " ".join(filter(None, [head, self._could_see(effect), self._others()]))
        word = "better" if effect.outcome == "gain" else "worse"
        head = f"{b} is significantly {word} than {a} in {what}: {change}; {test}."
        return " ".join(filter(None, [head, self._others()]))

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries: design, table, effects with their sample sizes, cumulative regret, the verdict."""
        return {
            "a": self.names[0],
            "b": self.names[1],
            "users": self.users,
            "design": asdict(self.design),
            "outcome": self.outcome,
            "verdict": self.verdict,
            "effects": {metric: effect.to_json() for metric, effect in self.effects.items()},
            "cumulative_regret": {name: [asdict(at) for at in curve] for name, curve in self.lost.items()},
            "table": self.table.to_json(),
        }

    def effect_rows(self) -> list[list[str]]:
        """The metrics of both systems, their difference and its test, as rows of text; the head first."""
        a, b = self.names
        rows = [["", a, b, "difference", f"{_level(self.design.level)} interval", "p (Holm)"]]
        for metric, effect in self.effects.items():
            mark = self.table.cells[b][metric].mark
            rows.append(
                [
                    LABELS[metric],
                    self._numbers(effect, effect.mean_a),
                    f"{self._numbers(effect, effect.mean_b)} {mark or ' '}",
                    self._numbers(effect, effect.difference.mean, sign=True),
                    self.table.interval(metric, effect.difference, sign=True),
                    _p_value(effect.adjusted),
                ]
            )
        return rows

    def size_rows(self) -> list[list[str]]:
        """What pairing is worth, and the users that the design's effect takes, as rows of text; the head first."""
        share = f"{100 * self.design.effect:g}%"
        rows = [["", "variance unpaired", "detectable", f"users for {share}", "unpaired"]]
        for metric, effect in self.effects.items():
            ratio, pairs, groups = effect.variance_ratio, effect.users_needed, effect.users_unpaired
            rows.append(
                [
                    LABELS[metric],
                    "–" if ratio is None else f"{ratio:,.{0 if ratio >= 100 else 1}f} ×",
                    "–" if ratio is None else self._numbers(effect, effect.detectable),
                    "–" if pairs is None else f"{pairs:,}",
                    "–" if groups is None else f"2 × {groups:,}",
                ]
            )
        return rows

    def _numbers(self, effect: Effect, value: float, *, sign: bool = False) -> str:
        return self.table.number(effect.metric, value, sign=sign)

    def _correction(self) -> str:
        return f" after Holm's correction over {len(self.effects)} metrics" if len(self.effects) > 1 else ""

    def _could_see(self, effect: Effect) -> str:
        relative = f" ({100 * effect.detectable / abs(effect.mean_a):.1f}%)" if effect.mean_a else ""
        return (
            f"With {self.users} users a difference of {self._numbers(effect, effect.detectable)}{relative} would "
            f"have been found in {100 * self.design.power:g} of 100 experiments."
        )

    def _others(self) -> str:
        """Which of the other metrics differ."""
        said = []
        for outcome, word in (("gain", "better"), ("loss", "worse")):
            names = [
                f"{LABELS[m]} ({self._numbers(e, e.mean_a)} to {self._numbers(e, e.mean_b)})"
                for m, e in self.effects.items()
                if m != self.design.primary and e.outcome == outcome
            ]
            said += [f"Also significantly {word}: {', '.join(names)}."] if names else []
        return " ".join(said)


def _level(level: float) -> str:
    return f"{100 * level:g}%"


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"


def _relative(effect: Effect) -> str:
    return "" if effect.relative is None else f", {100 * effect.relative:+.1f}%".replace("-", "−")
