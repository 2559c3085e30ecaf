"""Who and what policies are put to at the gate: users and events of the validation period, and four measures.

(a) The reward's own simulator, as it is and less its members' disagreement; (b) the judge; (c) NDCG on held-out
validation events; (d) where the log has propensities and the policy probabilities, the off-policy value of logged
feedback. A policy is measured by itself; two sets of figures of the same panel are paired row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from llmrec.config import OffPolicySettings, RewardSettings, RunConfig
from llmrec.dataset.examples import Examples
from llmrec.dataset.impressions import Impressions
from llmrec.dataset.world.truth import examination_K
from llmrec.evaluation.off_policy import off_policy_gain, off_policy_value
from llmrec.evaluation.ranking import ranking_metrics, slates_to_items
from llmrec.evaluation.sessions import SessionFigures
from llmrec.evaluation.significance import (
    Interval,
    UserFigures,
    bootstrap_means,
    paired_bootstrap,
    paired_replicas,
    relative_draws,
)
from llmrec.evaluation.simulated import BATCH, Judge, Replicated, Simulated, simulate
from llmrec.evaluation.witnesses import Witnesses
from llmrec.pipeline.algorithms.sessions import SessionArena, judged_sessions
from llmrec.pipeline.data import RunData
from llmrec.pipeline.logged import LoggedImpressions, stands_for
from llmrec.pipeline.promotion import Score, ranking_change, refusals
from llmrec.pipeline.ruled import judging_rules, rules_key, shown
from llmrec.pipeline.sft import targets
from llmrec.pipeline.simulation import Met, Simulators, log_of, met_states, met_users
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.rewards import RewardFunction
from llmrec.simulator.behaviour import BehaviourModel
from llmrec.simulator.judge import log_weights
from llmrec.simulator.log import read_log
from llmrec.training.obeyed import Obeyed
from llmrec.types import FloatArray, IntArray, Ranker, Slate, State

Judged = Simulated | SessionFigures
"""What the judge expects of each user: of an impression, or of a session."""


@dataclass(frozen=True, slots=True)
class PolicyFigures:
    """A policy's figures row by row: simulators by user, NDCG by event, importance weights by logged impression."""

    reward_B: FloatArray
    pessimistic_B: FloatArray
    judged: Judged
    ndcg_M: FloatArray
    weight_M: FloatArray | None = None


@dataclass(frozen=True)
class Panel:
    """The users, events and logged impressions of a gate, and who values slates; made by `Panel.of`.

    Attributes:
        config: of the run.
        slate: places that are shown.
        reward: clicks and conversions as the reward's simulator expects them.
        pessimistic: the same less `gate.pessimism` deviations of its members.
        judge: never a reward.
        states: one a user; `seen` what each has seen beside it.
        examples: held-out events that are ranked.
        logged: impressions with propensities; None where there are none.
        witnesses: where `gate.judged` asks for them, what the log says of the judge.
        sessions: where the training is of sessions, those of the panel's users, who behave as the judge expects; the
            value of a session is what is judged then.
        rules: what the lists that are judged obey, as those will that are shown; None for none.
    """

    config: RunConfig
    slate: int
    reward: RewardFunction
    pessimistic: RewardFunction
    judge: Judge
    states: list[State]
    seen: list[IntArray]
    examples: Examples
    logged: LoggedImpressions | None
    witnesses: Witnesses | None = None
    sessions: SessionArena | None = None
    rules: Obeyed | None = None

    @classmethod
    def of(cls, config: RunConfig, data: RunData, simulators: Simulators, items: int) -> Panel:
        """The panel of a run whose policies choose among `items` items."""
        # Clicks and conversions alone: what further terms (novelty, margins) ask for is no opinion of users, and
        # judge and logged feedback, which stand beside this figure, know nothing of it.
        plain = RewardSettings(click=config.reward.click, conversion=config.reward.conversion)
        careful = replace(plain, pessimism=config.gate.pessimism)
        # The validation period: the training has not seen it, and the test period stays untouched for the last word.
        log, met = log_of(config, data, "valid"), met_users(config, data)
        rows = met_states(config, log, met.gate)
        states, seen = [log.states[r] for r in rows], [log.seen[r] for r in rows]
        judge, sessions = simulators.judge, None
        if in_sessions(config):
            sessions = judged_sessions(config, data, judge, states, seen)
        return cls(
            config,
            min(config.gate.slate, items),
            RewardFunction(simulators.reward, plain),
            RewardFunction(simulators.reward, careful, slate=True),
            judge,
            states,
            seen,
            targets(config, data, "valid", config.gate.events),
            LoggedImpressions.of(
                log,
                config.gate.events,
                config.seed,
                plain,
                without_replacement=config.section(OffPolicySettings).without_replacement,
                examination_K=_examination(config, data, simulators),
            ),
            None if sessions else witnesses_of(config, log, judge, met, config.gate.events),
            sessions,
            judging_rules(config, data),
        )

    @property
    def metric(self) -> str:
        """The ranking metric's name."""
        return f"NDCG@{self.slate}"

    def measure(self, policy: Ranker) -> PolicyFigures:
        """All figures of a policy; importance weights only of a language model's, which has probabilities."""
        lists = shown(policy, self.rules)
        slates = lists.recommend(self.states, self.slate, seen=self.seen)
        found = lists.recommend([e.state for e in self.examples], self.slate, seen=self.examples.seen)
        lists_BK = slates_to_items(found, self.slate)  # as wide where all of them are short
        ranked = ranking_metrics(lists_BK, [e.target for e in self.examples], k=(self.slate,))
        return PolicyFigures(
            slate_values(self.reward, self.states, slates),
            slate_values(self.pessimistic, self.states, slates),
            self.judged(lists, slates),
            ranked.per_row[self.metric],
            self.logged.weights(policy) if self.logged is not None and isinstance(policy, LanguagePolicy) else None,
        )

    def judged(self, policy: Ranker, slates: Sequence[Slate]) -> Judged:
        """What the judge expects: of a policy's slates, with what witnesses say of it, or of sessions with it."""
        if self.sessions is not None:
            return self.sessions.play(policy, self.config, doubt=True)
        weights: dict[str, Any] = {"click": self.config.reward.click, "conversion": self.config.reward.conversion}
        found = simulate(slates, self.states, self.judge, **weights)
        if self.witnesses is None:
            return found
        return found.corrected(self.witnesses.error(self.witnesses.lists(policy, self.slate)), **weights)

    def draws(self, found: PolicyFigures, base: PolicyFigures) -> FloatArray:
        """The judge's gain over `base` in bootstrap samples that are the same for all policies, (S,)."""
        after, before = found.judged, base.judged
        both = (after.replicas.get("value"), before.replicas.get("value"))
        apart_RB = None if both[0] is None or both[1] is None else paired_replicas(both[0], both[1])
        value_B = after.per_user["value"] - before.per_user["value"]
        return bootstrap_means(value_B, apart_RB, users=after.users_B, name=("gate",), **self._draw)

    def ranking_draws(self, found: PolicyFigures, base: PolicyFigures) -> FloatArray:
        """The relative change of the ranking metric in samples that are the same for all policies, (S,).

        0 in all of them where `base` ranks nothing: it cannot fall.
        """
        if float(base.ndcg_M.mean()) <= 0:
            return np.zeros(self.config.evaluation.bootstrap)
        users = [str(e.state.user_id) for e in self.examples]
        return relative_draws(found.ndcg_M, base.ndcg_M, users=users, **self._draw)

    def score(self, step: int, found: PolicyFigures, base: PolicyFigures) -> Score:
        """The figures of checkpoint `step` beside those of SFT, and what refuses it if it were the only one."""
        users, draw = [str(e.state.user_id) for e in self.examples], self._draw
        gate = self.config.gate
        ranking = ranking_change(found.ndcg_M, base.ndcg_M, gate, metric=self.metric, users=users, **draw)
        # Users are the unit that is drawn anew: slates of one user, and events of one user, are not independent.
        people = base.judged.users_B
        score: Score = {
            "step": step,
            "metric": self.metric,
            "judged": judged_measure(self.config),
            "sft": self._means(base),
            "reward_value": float(found.reward_B.mean()),
            "reward_gain": asdict(paired_bootstrap(found.reward_B, base.reward_B, users=people, **draw)),
            "pessimistic_value": float(found.pessimistic_B.mean()),
            "pessimistic_gain": asdict(
                paired_bootstrap(found.pessimistic_B, base.pessimistic_B, users=people, **draw)
            ),
            "judge_value": found.judged.means["value"],
            "judge_gain": asdict(gain(found.judged, base.judged, **draw)),
            "ndcg": float(found.ndcg_M.mean()),
            "ndcg_change": asdict(paired_bootstrap(found.ndcg_M, base.ndcg_M, users=users, **draw)),
            "ndcg_relative": {"mean": ranking.relative, "low": ranking.low, "level": 0.95},
            "ranking": asdict(ranking),
            "off_policy": self._off_policy(found, base),
        }
        refused = refusals(score, gate, ranking)
        return score | {"refused": refused, "admissible": not refused}

    @property
    def _draw(self) -> dict[str, Any]:
        return {"samples": self.config.evaluation.bootstrap, "seed": self.config.seed}

    def _means(self, found: PolicyFigures) -> dict[str, float | None]:
        """SFT's own figures."""
        logged = None
        if self.logged is not None and found.weight_M is not None and found.weight_M.any():
            # Truncated and normalised by the sum of weights (SNIPS, Swaminathan and Joachims 2015): biased a little,
            # but one impression of tiny propensity cannot carry the figure.
            cut_M = np.minimum(found.weight_M, self.config.gate.weight_cap)
            logged = float(cut_M @ self.logged.reward_M / cut_M.sum())
        return {
            "reward": float(found.reward_B.mean()),
            "pessimistic": float(found.pessimistic_B.mean()),
            "judge": found.judged.means["value"],
            "ndcg": float(found.ndcg_M.mean()),
            "off_policy": logged,
        }

    def _off_policy(self, found: PolicyFigures, base: PolicyFigures) -> dict[str, Any] | None:
        """The value of logged feedback; None without propensities, or where a policy shows nothing of the log."""
        log, base_M = self.logged, base.weight_M
        if log is None or found.weight_M is None or base_M is None or not (found.weight_M.any() and base_M.any()):
            return None
        common: dict[str, Any] = {"cap": self.config.gate.weight_cap, "users": log.users_M, **self._draw}
        value = off_policy_value(found.weight_M, log.reward_M, **common)
        gain = off_policy_gain(found.weight_M, base_M, log.reward_M, **common)
        return {
            "value": value.value.mean,
            "interval": asdict(value.value),
            "gain": asdict(gain),
            "ips": value.ips,
            "effective_samples": value.effective_samples,
            "impressions": value.rows,
            "capped": value.capped,
            "places": log.note,
        }


def gain(after: UserFigures, before: UserFigures, **draw: Any) -> Interval:
    """The judged gain with its paired interval; `draw`: samples, seed."""
    return after.minus(before, **draw)["value"]


def gate_key(config: RunConfig) -> dict[str, Any]:
    """The gate's settings as part of stages' keys, which are as before there was a choice of `judged` and `met`."""
    before = {"judged": "model", "met": "first"}
    own = {key: value for key, value in config.tree()["gate"].items() if key not in before or value != before[key]}
    own |= {"witnesses": "over propensities"} if "judged" in own else {}  # they were matched before
    return own | rules_key(config)


def in_sessions(config: RunConfig) -> bool:
    """Whether a slate is judged by what it does to the turns after it."""
    return config.session.turns > 1


def judged_measure(config: RunConfig) -> str:
    """What the judge's figure is the value of."""
    return f"a session of up to {config.session.turns} turns" if in_sessions(config) else "an impression"


def witnesses_of(
    config: RunConfig, log: Impressions, judge: Judge, met: Met, limit: int, *, shown: bool = False
) -> Witnesses | None:
    """Those of a log, of `limit` states at most, who are not met; None where nobody asks for them.

    Args:
        config: of the run.
        log: impressions of the period.
        judge: who is put right.
        met: users who are met.
        limit: of states.
        shown: whether they are wanted unasked where the log has propensities, without which they may mislead.
    """
    unasked = config.gate.judged == "model"
    if not isinstance(judge, Replicated) or (unasked and not shown):
        return None
    look_M: FloatArray = np.ones(len(log))
    if isinstance(judge, BehaviourModel):
        _, look_M = log_weights(judge, read_log(log, judge.space.n_items), config.simulator)
    in_order = config.section(OffPolicySettings).without_replacement
    count_M = stands_for(log, look_M, without_replacement=in_order)
    if unasked and count_M is None:
        return None
    asked: dict[str, Any] = {"left_out": met.all, "limit": limit, "seed": config.seed}
    return Witnesses.of(log, judge, look_M=look_M, count_M=count_M, **asked)


def _examination(config: RunConfig, data: RunData, simulators: Simulators) -> FloatArray | None:
    """P(a place of a logged slate is looked at): a generated world's own, or as the judge has fitted it."""
    if data.world is not None:
        return examination_K(config.world.slate_size, config.world.position_bias)
    curve_K: FloatArray | None = getattr(simulators.judge, "examination_K", None)
    return curve_K


def slate_values(reward: RewardFunction, states: Sequence[State], slates: Sequence[Slate]) -> FloatArray:
    """Expected reward an impression of each user's slate, (B,)."""
    items_BK = slates_to_items(slates)
    parts = [slice(start, start + BATCH) for start in range(0, len(states), BATCH)]
    total_BK = np.concatenate([reward(states[part], items_BK[part]).total_BK for part in parts])
    # A mean over the places that are filled: a user to whom little is left to show is not worth less for it.
    shown_BK = items_BK >= 0
    value_B: FloatArray = (total_BK * shown_BK).sum(axis=1) / np.maximum(shown_BK.sum(axis=1), 1)
    return value_B
