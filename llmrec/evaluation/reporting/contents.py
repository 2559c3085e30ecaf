"""What a report of one run holds. All text in it is untrusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmrec.evaluation.plots import Curve, Reliability
from llmrec.evaluation.significance import Interval
from llmrec.evaluation.table import Comparison
from llmrec.evaluation.verdict import Verdict

PLOTTED = ("HR@10", "NDCG@10", "coverage@10", "value", "value@1", "click_rate", "conversion_rate")
"""Metrics that are drawn where a table has them, unless a report names others."""


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What the run's data set is. `split` says in words how it was divided; `proxy` what stands in for a signal,
    `feedback` how conversions, clicks and impressions hang together, `imported` what its import assumed and left
    out.
    """

    name: str
    counts: Mapping[str, int]
    content_hash: str
    click: str
    conversion: str
    split: str
    repeat: str
    domain: str = ""
    source: str = ""
    terms: str = ""
    proxy: str = ""
    feedback: str = ""
    imported: str = ""


@dataclass(frozen=True, kw_only=True)
class SlateChange:
    """One user's slates as titles, best first; `history` (oldest first) is what the user did before.

    `history_did`, `before_did` and `after_did` say what was done with each of them ("click", "conversion", another
    kind of event, or ""); they are empty where that is not known.
    """

    user: str
    history: Sequence[str]
    before: Sequence[str]
    after: Sequence[str]
    history_did: Sequence[str] = ()
    before_did: Sequence[str] = ()
    after_did: Sequence[str] = ()

    def marked(self, part: Literal["history", "before", "after"]) -> list[tuple[str, str]]:
        """The titles of a part with what was done with each."""
        titles: Sequence[str] = getattr(self, part)
        did: Sequence[str] = getattr(self, f"{part}_did")
        return list(zip(titles, did if len(did) == len(titles) else [""] * len(titles), strict=True))


@dataclass(frozen=True, kw_only=True)
class RewardModelFacts:
    """A reward model that was learned from preferences.

    `agreement` is the share of `pairs` held-out preferences that it orders as the users did (chance is 1/2).
    """

    curve: Curve = ()
    agreement: Interval | None = None
    pairs: int = 0
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class MeasuredRows:
    """What a table was measured on: tables with equal `MeasuredRows` may be compared row by row.

    Attributes:
        kind: what the table shows, such as "ranking" or "judge".
        data: content hash of the data set.
        rows: digest of the test rows in their order.
        measure: digest of what measured them (the judge, the weights of its value, the places shown), or "".
    """

    kind: str
    data: str
    rows: str
    measure: str = ""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Everything a report shows of a run; empty parts are left out.

    Attributes:
        title: heading.
        date: when the run ended, as text.
        command: the command line that made the run.
        changes: configuration keys that differ from the defaults, (default, chosen).
        data: the data set.
        model: the base model.
        handed_on: the system that the run folder holds.
        machine: facts by name.
        versions: package versions by name.
        seeds: seeds by what they decide.
        seconds: duration of each stage.
        verdict: what reinforcement learning brought.
        changed: a sentence on what people see of the improvement.
        headroom: a sentence on how much of what can be found was found; only a generated world knows.
        tables: comparisons, each shown as a figure too.
        rows: what each of the tables was measured on; empty where that was not recorded.
        samples: bootstrap samples of the tables.
        plotted: metrics of all tables that are drawn.
        groups: comparisons within groups of users or items, the reference against the improved policy.
        sft_curve: entries with step and loss.
        algorithm: what improved the policy.
        curve: its entries, with step and whatever it logs.
        reward_model: the learned reward model, where there is one.
        pilot: what the reward could make of SFT at best, before anything was trained; None where nobody asked.
        pilot_said: what followed from it.
        gate: the checkpoints' figures on validation data, SFT as the reference.
        gate_curve: for each checkpoint its step and its figures, from step 0 (SFT) on.
        decisions: a sentence for each checkpoint.
        promotion: a sentence on what was promoted.
        reliability: reliability of the simulators by model and signal.
        simulator: further figures of the simulators by model and signal (auc, log_loss, ...).
        exam: a sentence for each simulator that was examined.
        slates: a few users' slates before and after reinforcement learning.
        slate_names: the two systems whose slates are shown.
        visits: what the marks beside the items of the slates mean; "" where there are none.
        illegal: share of illegal recommendations by system.
        worse: sentences on what got worse.
        notes: sentences on what limits the result.
        reproduce: commands that make the run again.
    """

    title: str
    date: str
    command: str
    data: DataFacts
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    model: str = ""
    handed_on: str = ""
    machine: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    verdict: Verdict | None = None
    headroom: str = ""
    changed: str = ""
    tables: Sequence[Comparison] = ()
    rows: Sequence[MeasuredRows] = ()
    samples: int = 1000
    plotted: Sequence[str] = PLOTTED
    groups: Sequence[Comparison] = ()
    sft_curve: Curve = ()
    algorithm: str = "PPO"
    curve: Curve = ()
    reward_model: RewardModelFacts | None = None
    pilot: Comparison | None = None
    pilot_said: str = ""
    gate: Comparison | None = None
    gate_curve: Curve = ()
    decisions: Sequence[str] = ()
    promotion: str = ""
    reliability: Mapping[str, Reliability] = field(default_factory=dict)
    simulator: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    exam: Sequence[str] = ()
    slates: Sequence[SlateChange] = ()
    slate_names: tuple[str, str] = ("SFT", "PPO")
    visits: str = ""
    illegal: Mapping[str, float] = field(default_factory=dict)
    worse: Sequence[str] = ()
    notes: Sequence[str] = ()
    reproduce: Sequence[str] = ()
