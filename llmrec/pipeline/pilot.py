"""A pilot before reinforcement learning: what could a reward make of the warm start at best, and is that wanted?

What a training with a KL term moves towards is known before it begins. At a state the optimum of
J = E[r] - beta KL(pi || pi_ref) + c H is

    pi* ~ (pi_ref^beta exp(r))^(1 / (beta + c)),

whose order is that of beta log pi_ref + r (Korbak et al. 2022, "RL with KL penalties is better viewed as Bayesian
inference"). So the warm start's best items are put in that order for several beta, and the gate judges the lists as
it judges checkpoints. Training goes on with the coefficient whose lists it values most among admissible ones; where
none is, the reward leads away from what people want, and nothing is trained. It costs about as much as judging one
checkpoint.

Every list is a look at the gate's users and events. Intervals of checkpoints, and the limits of their ranking metric,
hold together with those of the pilot's lists (`promotion.settled`), so that choosing by them is paid for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import RLHFSettings, RolloutSettings, RunConfig, TiltedSettings
from llmrec.config.improvement import in_use
from llmrec.config.reward import COMPARING_TERMS
from llmrec.errors import ConfigError
from llmrec.evaluation.ranking import slates_to_items
from llmrec.evaluation.significance import Interval
from llmrec.evaluation.table import Cell, Comparison
from llmrec.files import read_json, write_json
from llmrec.pipeline.algorithms.reward import reward_key, run_reward
from llmrec.pipeline.data import RunData
from llmrec.pipeline.gate import RANKING
from llmrec.pipeline.measure import evaluation_key
from llmrec.pipeline.panel import Panel, PolicyFigures, gate_key
from llmrec.pipeline.promotion import Looks, Score, percent, settled, signed
from llmrec.pipeline.ruled import candidates
from llmrec.pipeline.sft import SFTStage, sft_policy
from llmrec.pipeline.simulation import Simulators
from llmrec.pipeline.work import Unfinished, Work, say, stage_key
from llmrec.rewards import RewardFunction, reading_next
from llmrec.seeding import numpy_stream
from llmrec.types import FloatArray, IntArray, Ranker, Slate, State

Tethered = RolloutSettings | TiltedSettings
"""Of algorithms that earn a reward under a KL term, whose optimum is known."""
BATCH = 256
"""States whose short lists are rewarded at a time."""


@dataclass(frozen=True, slots=True)
class PilotStage:
    """A finished pilot.

    Attributes:
        folder: of the stage.
        scores: what the gate says of the lists at each coefficient, which stands under `kl_coefficient`.
        kl_coefficient: what training goes on with; None: nothing is trained.
        sentence: what was found.
        flat_groups: share of states whose draws would all earn one and the same reward; None where a state has one.
        looks: the lists, as further looks at the gate's users.
    """

    folder: Path
    scores: list[Score]
    kl_coefficient: float | None
    sentence: str
    flat_groups: float | None
    looks: Looks

    def applied(self, config: RunConfig) -> RunConfig:
        """`config` with the coefficient that was found; as it is where there is none."""
        if self.kl_coefficient is None:
            return config
        settings = config.improvement
        assert isinstance(settings, Tethered)
        section = dataclasses.replace(settings, kl_coefficient=self.kl_coefficient)
        return dataclasses.replace(config, sections={**config.sections, config.algorithm: section})


def piloted(config: RunConfig, data: RunData, sft: SFTStage, simulators: Simulators, work: Work) -> PilotStage | None:
    """What the pilot found, said on the terminal; None where the configuration asks for none (`wants_pilot`)."""
    if not wants_pilot(config):
        return None
    tree = config.tree() | {"gate": gate_key(config)}
    tree[config.algorithm] = in_use(tree[config.algorithm])
    key = {
        "sft": stage_key(sft.folder),
        "simulator": stage_key(work.folder / "simulator"),
        "reward": reward_key(config),
        "config": [
            *(tree[name] for name in ("pilot", "gate", config.algorithm, "session", "choice")),
            *(evaluation_key(config), config.seed),
        ],
    }

    def build(out: Path, _: Path) -> None:
        found = run_pilot(config, data, sft_policy(config, data, sft), simulators)
        write_json(out / "pilot.json", {name: found[name] for name in ("scores", "flat_groups")})
        np.save(out / "draws.npy", found["draws"])
        np.save(out / RANKING, found["ranking"])

    try:
        folder = work.stage("pilot", key, build)
    except Unfinished:  # a run of before there was a pilot, which is opened and not made
        return None
    record = read_json(folder / "pilot.json")
    looks = Looks([score["judge_gain"]["mean"] for score in record["scores"]], np.load(folder / "draws.npy"))
    if (folder / RANKING).is_file():  # of a stage that an older version made they were not kept
        changes = [score["ranking"]["relative"] for score in record["scores"]]
        looks = dataclasses.replace(looks, relatives_K=changes, ranking_KS=np.load(folder / RANKING))
    scores = settled(record["scores"], list(looks.draws_KS), config.gate, ranking=list(looks.ranking_KS))
    best, sentence = chosen(scores, config)
    say(f"  {sentence}")
    return PilotStage(folder, scores, best, sentence, record["flat_groups"], looks)


def wants_pilot(config: RunConfig) -> bool:
    """Whether a pilot precedes the improvement.

    Under `auto` it does where `kl_coefficient` was left as it is by default: what somebody has chosen is not chosen
    anew.
    """
    if config.pilot.run == "never" or _unable(config):
        return False
    settings = config.improvement
    assert isinstance(settings, Tethered)
    untouched = settings.kl_coefficient == type(settings)().kl_coefficient
    return config.pilot.run == "always" or (untouched and config.reward.shuffle == "none")


def check_pilot(config: RunConfig) -> None:
    """Refuses, before anything is made, a pilot that cannot be run; raises `ConfigError`."""
    pilot = config.pilot
    if wants_pilot(config) and pilot.depth < config.gate.slate:
        raise ConfigError(
            f"Key 'pilot.depth' is {pilot.depth}, below the places of a list (gate.slate is {config.gate.slate}); "
            "raise it."
        )
    found = pilot.coefficients
    if not found or min(found) <= 0 or list(found) != sorted(set(found)):
        raise ConfigError(
            f"Key 'pilot.coefficients' is {list(found)}; give KL coefficients above 0, each larger than the one "
            "before."
        )
    reason = _unable(config)
    if pilot.run == "always" and reason:
        raise ConfigError(f"Key 'pilot.run' is always, but {reason}; set it to auto or never.")


def _unable(config: RunConfig) -> str:
    """Why the optimum is not known beforehand; empty where it is."""
    settings = config.improvement
    if not isinstance(settings, Tethered) or isinstance(settings, RLHFSettings):
        return f"{config.algorithm} does not learn from the reward of a simulator under a KL term"
    if isinstance(settings, RolloutSettings) and settings.stability.kl_target is not None:
        return f"{config.algorithm}.stability.kl_target moves the coefficient while it trains"
    if config.session.turns > 1:
        return "in sessions what an item is worth depends on all that follows (session.turns is above 1)"
    if known := reading_next(config.reward):
        return f"the reward knows the logged next item, which no list may know (reward.terms.{known[0]})"
    if comparing := sorted(COMPARING_TERMS & set(config.reward.terms)):
        return f"the reward compares draws, which a list has not (reward.terms.{comparing[0]})"
    return ""


class ShortList:
    """The best items of a policy, read once, with what the reward expects of each.

    Args:
        policy: gives log-probabilities.
        reward: of candidates one by one.
        depth: how many.
    """

    def __init__(self, policy: Ranker, reward: RewardFunction, depth: int) -> None:
        self.policy, self.reward, self.depth = policy, reward, depth
        self._known: dict[tuple[int, ...], tuple[list[Slate], list[FloatArray]]] = {}

    def of(self, states: Sequence[State], seen: Sequence[IntArray] | None) -> tuple[list[Slate], list[FloatArray]]:
        """Items with log-probabilities, and rewards, of each state; the states must outlive this object."""
        # by identity: the same panel asks for the same objects again
        key = tuple(map(id, states))
        if key not in self._known:
            slates = self.policy.recommend(states, self.depth, seen=seen)
            rewards: list[FloatArray] = []
            for start in range(0, len(states), BATCH):
                part = slates[start : start + BATCH]
                total_BK = self.reward(states[start : start + BATCH], slates_to_items(part)).total_BK
                rewards += [row[: len(slate.items_K)] for row, slate in zip(total_BK, part, strict=True)]
            self._known[key] = slates, rewards
        return self._known[key]


class Tilted:
    """Lists in the order of beta log pi + r, among a short list; `beta` None is the policy itself."""

    def __init__(self, short: ShortList, beta: float | None) -> None:
        self.short, self.beta = short, beta

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        """The k best items of each state; their scores stand where log-probabilities do."""
        found = []
        for slate, reward_K in zip(*self.short.of(states, seen), strict=True):
            log_prob_K = np.asarray(slate.log_probs_K, dtype=np.float64)
            score_K = log_prob_K if self.beta is None else self.beta * log_prob_K + reward_K
            order = np.argsort(-score_K, kind="stable")[:k].tolist()
            found.append(Slate(tuple(slate.items_K[j] for j in order), tuple(float(score_K[j]) for j in order)))
        return found


def run_pilot(config: RunConfig, data: RunData, policy: Any, simulators: Simulators) -> dict[str, Any]:
    """Scores of the lists at each coefficient, their bootstrap draws (K, S) and the share of flat groups."""
    panel = Panel.of(config, data, simulators, data.dataset.n_items)
    reward = run_reward(config, data, simulators, policy, slate_size=config.session.slate).for_ranking()
    short = ShortList(candidates(policy, panel.rules), reward, min(config.pilot.depth, data.dataset.n_items))
    base = panel.measure(Tilted(short, None))
    measured: list[PolicyFigures] = [panel.measure(Tilted(short, beta)) for beta in tried(config)]
    scores = [
        panel.score(place, found, base) | {"kl_coefficient": beta}
        for place, (beta, found) in enumerate(zip(tried(config), measured, strict=True))
    ]
    return {
        "scores": scores,
        "draws": np.stack([panel.draws(found, base) for found in measured]),
        "ranking": np.stack([panel.ranking_draws(found, base) for found in measured]),
        "flat_groups": flat_share(config, *short.of(panel.states, panel.seen)),
    }


def tried(config: RunConfig) -> list[float]:
    """KL coefficients whose lists are judged: `pilot.coefficients`, and the one that the algorithm has."""
    settings = config.improvement
    assert isinstance(settings, Tethered)
    own = {settings.kl_coefficient} if settings.kl_coefficient > 0 else set()
    return sorted({*config.pilot.coefficients, *own})


def flat_share(config: RunConfig, slates: Sequence[Slate], rewards: Sequence[FloatArray]) -> float | None:
    """Share of states whose draws, from the policy among its short list, all have one and the same reward."""
    settings = config.improvement
    if not isinstance(settings, RolloutSettings) or settings.draws == 1:
        return None
    uniform_BG = numpy_stream(config.seed, "pilot", "draws").random((len(slates), settings.draws))
    flat, states = 0, 0
    for slate, reward_K, uniform_G in zip(slates, rewards, uniform_BG, strict=True):
        if not slate.items_K:  # all of a small catalogue has been seen
            continue
        states += 1
        chance_K = np.exp(np.asarray(slate.log_probs_K) - max(slate.log_probs_K))
        mass_K = chance_K.cumsum()
        drawn_G = reward_K[np.minimum(np.searchsorted(mass_K, uniform_G * mass_K[-1], side="right"), len(mass_K) - 1)]
        flat += float(np.ptp(drawn_G)) <= 1e-6 * max(float(np.abs(drawn_G).max()), 1e-6)
    return flat / states if states else None


def chosen(scores: Sequence[Score], config: RunConfig) -> tuple[float | None, str]:
    """The coefficient to go on with, None for none, and a sentence on what was found.

    Admissible is what the gate would promote and what gains `gate.smallest_gain` percent or more.
    """
    least = config.gate.smallest_gain / 100
    wanted = [s for s in scores if s["admissible"] and s["judge_gain"]["mean"] >= least * abs(s["sft"]["judge"])]
    asked = ", ".join(f"{score['kl_coefficient']:g}" for score in scores)
    key = f"{config.algorithm}.kl_coefficient"
    if wanted:
        best = max(wanted, key=lambda score: score["judge_value"])
        ranking = best["ndcg_relative"]["mean"]
        return best["kl_coefficient"], (
            f"Pilot: of {key} {asked}, {best['kl_coefficient']:g} is gone on with. The best that the reward could "
            f"make there of the warm start's top {config.pilot.depth} is worth "
            f"{signed(Interval(**best['judge_gain']))} more to the judge, with {best['metric']} {percent(ranking)}."
        )
    nearest = max(scores, key=lambda score: score["judge_gain"]["mean"])
    share = nearest["judge_gain"]["mean"] / (abs(nearest["sft"]["judge"]) or 1.0)
    small = f"a gain of {percent(share)}, and less than {config.gate.smallest_gain:g}% is of no interest"
    why = "; ".join(nearest["refused"]) or f"the judge sees {small}"
    return None, (
        f"Pilot: at none of {key} {asked} is the best that the reward could make of the warm start's top "
        f"{config.pilot.depth} wanted, so nothing was trained on it (nearest, {nearest['kl_coefficient']:g}: {why}). "
        "Set pilot.run=never to train all the same."
    )


def pilot_table(pilot: PilotStage) -> Comparison:
    """SFT and the reordered lists under what measures them, on validation data."""
    first = pilot.scores[0]
    cells = {"SFT": {name: Cell(first["sft"][name]) for name in ("reward", "judge", "ndcg")}}
    for score in pilot.scores:
        beta = score["kl_coefficient"]
        gone_on = (
            "gone on with" if beta == pilot.kl_coefficient else "admissible" if score["admissible"] else "refused"
        )
        cells[f"best at KL coefficient {beta:g}, {gone_on}"] = {
            "reward": Cell(score["reward_value"], None, Interval(**score["reward_gain"])),
            "judge": Cell(score["judge_value"], None, Interval(**score["judge_gain"])),
            "ndcg": Cell(score["ndcg"], None, Interval(**score["ndcg_change"])),
        }
    labels = {"reward": "reward simulator", "judge": "judge", "ndcg": first["metric"]}
    note = "The warm start's best items in the order of the optimum at each coefficient, before any training."
    if pilot.flat_groups is not None:
        note += f" Of the states, {pilot.flat_groups:.0%} have draws that all earn the same."
    return Comparison("Pilot, on the validation period", cells, "SFT", labels=labels, note=note)
