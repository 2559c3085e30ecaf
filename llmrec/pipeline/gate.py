"""The trust gate: every checkpoint is scored by four measures, of which the training has seen one.

(a) the reward's own simulator, as it is and less its members' disagreement; (b) the judge; (c) NDCG on held-out
validation events; (d) where the log has propensities, the off-policy value of logged feedback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from peft import PeftModel

from llmrec.config import OffPolicySettings, RewardSettings, RunConfig
from llmrec.dataset.examples import Examples
from llmrec.dataset.world.truth import examination_K
from llmrec.errors import ConfigError
from llmrec.evaluation.off_policy import off_policy_gain, off_policy_value
from llmrec.evaluation.ranking import ranking_metrics, slates_to_items
from llmrec.evaluation.significance import bootstrap_means, paired_bootstrap, paired_replicas
from llmrec.evaluation.simulated import BATCH, Simulated, simulate
from llmrec.files import new_folder, read_json, write_json
from llmrec.pipeline.algorithms import learning_of
from llmrec.pipeline.data import RunData
from llmrec.pipeline.logged import LoggedImpressions
from llmrec.pipeline.promotion import Score, in_a_line, out_of_patience, ranking_change, refusals, settled
from llmrec.pipeline.sft import targets
from llmrec.pipeline.simulation import Simulators, first_states, log_of, met_users
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.loading import save_causal_lm
from llmrec.progress import console
from llmrec.rewards import RewardFunction
from llmrec.training.lora import adapter_of
from llmrec.types import FloatArray, Slate, State

DRAWS = "draws.npy"
"""The judge's gain of a checkpoint in bootstrap samples, beside its score."""


@dataclass(frozen=True, slots=True)
class CheckpointFigures:
    """A policy's figures row by row: simulators by user, NDCG by event, importance weights by logged impression."""

    reward_B: FloatArray
    pessimistic_B: FloatArray
    judged: Simulated
    ndcg_M: FloatArray
    weight_M: FloatArray | None


class Gate:
    """Scores checkpoints; figures and adapters outlive a kill. Called by the trainer, it answers "stop" to end it."""

    def __init__(
        self, config: RunConfig, data: RunData, sft: LanguagePolicy, simulators: Simulators, folder: Path
    ) -> None:
        self.config, self.folder, self.sft, self.judge = config, folder, sft, simulators.judge
        self.slate = min(config.gate.slate, len(sft.catalogue.item_ids))
        # Clicks and conversions alone: what further terms (novelty, margins) ask for is no opinion of users, and
        # judge and logged feedback, which stand beside this figure, know nothing of it.
        plain = RewardSettings(click=config.reward.click, conversion=config.reward.conversion)
        self.reward = RewardFunction(simulators.reward, plain)
        careful = replace(plain, pessimism=config.gate.pessimism)
        self.pessimistic = RewardFunction(simulators.reward, careful, slate=True)
        # The validation period: the training has not seen it, and the test period stays untouched for the last word.
        log = log_of(config, data, "valid")
        rows = first_states(log, met_users(config, data).gate)
        self.states = [log.states[r] for r in rows]
        self.seen = [log.seen[r] for r in rows]
        self.logged = LoggedImpressions.of(
            log,
            config.gate.events,
            config.seed,
            plain,
            without_replacement=config.section(OffPolicySettings).without_replacement,
            examination_K=_examination(config, data, simulators),
        )
        self.examples: Examples = targets(config, data, "valid", config.gate.events)
        console.print(f"  {who_judges(config, simulators)}", style="dim")
        # Once, before the training: every checkpoint is paired with the same figures of SFT, row by row.
        self.base = self._measure(sft)

    @property
    def metric(self) -> str:
        """The ranking metric's name."""
        return f"NDCG@{self.slate}"

    def _measure(self, policy: LanguagePolicy) -> CheckpointFigures:
        slates = policy.recommend(self.states, self.slate, seen=self.seen)
        weights = self.config.reward
        found = policy.recommend([e.state for e in self.examples], self.slate, seen=self.examples.seen)
        lists_BK = slates_to_items(found, self.slate)  # as wide where all of them are short
        ranked = ranking_metrics(lists_BK, [e.target for e in self.examples], k=(self.slate,))
        return CheckpointFigures(
            slate_values(self.reward, self.states, slates),
            slate_values(self.pessimistic, self.states, slates),
            simulate(slates, self.states, self.judge, click=weights.click, conversion=weights.conversion),
            ranked.per_row[self.metric],
            None if self.logged is None else self.logged.weights(policy),
        )

    def __call__(self, step: int, model: Any) -> Literal["stop"] | None:
        """Scores the checkpoint of `step` (once), keeps its adapter, and says whether patience is out."""
        place = self.folder / f"step-{step:06d}"
        if not (place / "score.json").is_file():
            policy = LanguagePolicy(model, self.sft.tokenizer, self.sft.catalogue, self.sft.renderer, self.sft.repeat)
            found = self._measure(policy)
            self._keep(place, model, self._score(step, found), self._draws(found))
            console.print(f"  {in_a_line(self.scores(step)[-1])}", style="dim")
        scores = self.scores(step)
        return "stop" if out_of_patience(scores, self.config.gate.patience) else None

    def scores(self, last: int | None = None) -> list[Score]:
        """Of all checkpoints up to step `last`, with the judge's gains corrected for their number."""
        # A resumed training passes checkpoints again that were scored before the kill; later ones must not end it
        # earlier than they ended it then.
        found = [score for score in read_scores(self.folder) if last is None or score["step"] <= last]
        draws = [np.load(self.folder / f"step-{score['step']:06d}" / DRAWS) for score in found]
        return settled(found, draws, self.config.gate)

    def _draws(self, found: CheckpointFigures) -> FloatArray:
        """The judge's gain over SFT in bootstrap samples that are the same for all checkpoints, (S,)."""
        after, before = found.judged, self.base.judged
        both = (after.replicas.get("value"), before.replicas.get("value"))
        apart_RB = None if both[0] is None or both[1] is None else paired_replicas(both[0], both[1])
        draw: dict[str, Any] = {"samples": self.config.evaluation.bootstrap, "seed": self.config.seed}
        value_B = after.per_user["value"] - before.per_user["value"]
        return bootstrap_means(value_B, apart_RB, users=after.users_B, name=("gate",), **draw)

    def _keep(self, place: Path, model: Any, score: Score, draws_S: FloatArray) -> None:
        with new_folder(place, mark="score.json") as out:
            if isinstance(model, PeftModel):
                adapter_of(model).save(out / "adapter")
            else:
                (out / "model").mkdir()
                save_causal_lm(model, self.sft.tokenizer, out / "model")
            np.save(out / DRAWS, draws_S)
            write_json(out / "score.json", score)

    def _score(self, step: int, found: CheckpointFigures) -> Score:
        base, users = self.base, [str(e.state.user_id) for e in self.examples]
        draw: dict[str, Any] = {"samples": self.config.evaluation.bootstrap, "seed": self.config.seed}
        ranking = ranking_change(found.ndcg_M, base.ndcg_M, self.config.gate, metric=self.metric, users=users, **draw)
        # Users are the unit that is drawn anew: slates of one user, and events of one user, are not independent.
        people = base.judged.users_B
        score: Score = {
            "step": step,
            "metric": self.metric,
            "sft": self._means(base),
            "reward_value": float(found.reward_B.mean()),
            "reward_gain": asdict(paired_bootstrap(found.reward_B, base.reward_B, users=people, **draw)),
            "pessimistic_value": float(found.pessimistic_B.mean()),
            "pessimistic_gain": asdict(
                paired_bootstrap(found.pessimistic_B, base.pessimistic_B, users=people, **draw)
            ),
            "judge_value": found.judged.means["value"],
            "judge_gain": asdict(found.judged.minus(base.judged, **draw)["value"]),
            "ndcg": float(found.ndcg_M.mean()),
            "ndcg_change": asdict(paired_bootstrap(found.ndcg_M, base.ndcg_M, users=users, **draw)),
            "ndcg_relative": {"mean": ranking.relative, "low": ranking.low, "level": 0.95},
            "ranking": asdict(ranking),
            "off_policy": self._off_policy(found, draw),
        }
        refused = refusals(score, self.config.gate, ranking)
        return score | {"refused": refused, "admissible": not refused}

    def _means(self, found: CheckpointFigures) -> dict[str, float | None]:
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

    def _off_policy(self, found: CheckpointFigures, draw: dict[str, Any]) -> dict[str, Any] | None:
        """The value of logged feedback; None without propensities, or where a policy shows nothing of the log."""
        log, base_M = self.logged, self.base.weight_M
        if log is None or found.weight_M is None or base_M is None or not (found.weight_M.any() and base_M.any()):
            return None
        common: dict[str, Any] = {"cap": self.config.gate.weight_cap, "users": log.users_M, **draw}
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


def _examination(config: RunConfig, data: RunData, simulators: Simulators) -> FloatArray | None:
    """P(a place of a logged slate is looked at): a generated world's own, or as the judge has fitted it."""
    if data.world is not None:
        return examination_K(config.world.slate_size, config.world.position_bias)
    curve_K: FloatArray | None = getattr(simulators.judge, "examination_K", None)
    return curve_K


def read_scores(folder: Path) -> list[Score]:
    """The scores of all checkpoints under `folder`, in order of steps."""
    return [dict(read_json(place / "score.json")) for place in sorted(folder.glob("step-*"))]


def slate_values(reward: RewardFunction, states: Sequence[State], slates: Sequence[Slate]) -> FloatArray:
    """Expected reward an impression of each user's slate, (B,)."""
    items_BK = slates_to_items(slates)
    parts = [slice(start, start + BATCH) for start in range(0, len(states), BATCH)]
    total_BK = np.concatenate([reward(states[part], items_BK[part]).total_BK for part in parts])
    # A mean over the places that are filled: a user to whom little is left to show is not worth less for it.
    shown_BK = items_BK >= 0
    value_B: FloatArray = (total_BK * shown_BK).sum(axis=1) / np.maximum(shown_BK.sum(axis=1), 1)
    return value_B


def check_trust(config: RunConfig) -> None:
    """Refuses, before anything is made, a judge that is none, and settings of the gate that cannot work.

    Raises:
        ConfigError: reward and judge would share architecture or users, or a setting is out of range.
    """
    simulator, gate = config.simulator, config.gate
    if simulator.reward_architecture == simulator.judge_architecture:
        raise ConfigError(
            "Keys 'simulator.reward_architecture' and 'simulator.judge_architecture' are both "
            f"{simulator.judge_architecture!r}; a judge must be of another architecture than the reward."
        )
    if not 0 < simulator.judge_user_share < 1:
        raise ConfigError(
            f"Key 'simulator.judge_user_share' is {simulator.judge_user_share}; it must lie between 0 and 1, so that "
            "reward and judge are fitted on different users."
        )
    if config.reward.pessimism and simulator.members < 2:
        raise ConfigError(
            f"Key 'reward.pessimism' is {config.reward.pessimism}, but one member never disagrees; set "
            "'simulator.members' to 2 or more."
        )
    _check_gate(config)
    if gate.patience is not None and gate.patience < 1:
        raise ConfigError(f"Key 'gate.patience' is {gate.patience}; it must be 1 or more, or null for no early end.")


def _check_gate(config: RunConfig) -> None:
    for key in ("users", "events", "slate"):
        if getattr(config.gate, key) < 1:
            raise ConfigError(f"Key 'gate.{key}' is {getattr(config.gate, key)}, but it must be at least 1.")
    if not 0 < config.gate.held_out < 0.5:
        raise ConfigError(
            f"Key 'gate.held_out' is {config.gate.held_out}; it must lie between 0 and 0.5, so that users are left "
            "to fit reward and judge on."
        )
    for key in ("ndcg_tolerance", "pessimism", "effective_samples", "smallest_gain"):
        if not getattr(config.gate, key) >= 0:
            raise ConfigError(f"Key 'gate.{key}' is {getattr(config.gate, key)}, but it must be 0 or more.")
    if not config.gate.weight_cap > 0:
        raise ConfigError(f"Key 'gate.weight_cap' is {config.gate.weight_cap}, but it must be above 0.")


def who_judges(config: RunConfig, simulators: Simulators) -> str:
    """A sentence on where the reward came from and what judges: other users, another architecture and seed."""
    members = simulators.reward.members
    reward = f"{len(members)} × {config.simulator.reward_architecture}, fitted on {_users(members[0])}"
    judge = f"{config.simulator.judge_architecture}, fitted on {_users(simulators.judge)}"
    calibrated = getattr(simulators.judge, "facts", {}).get("calibration_users")
    judge += "" if calibrated is None else f" and corrected on {calibrated:,} others"
    source = learning_of(config).simulator(config.improvement).format(simulator=reward)
    return f"{source} The judge is another model with another seed ({judge}), and never a reward."


def _users(model: object) -> str:
    """How many users a behaviour model was fitted on, none of which the other was."""
    users = getattr(model, "facts", {}).get("users")
    return "users of its own" if users is None else f"{users:,} users of its own"
