"""What the gate and pessimism are worth where the reward can be exploited: a study on worlds whose truth is known.

Some items of a generated world are worth the least in truth, and the reward's simulator is made to overrate them: one
member of its ensemble does (the others disagree, so pessimism sees it), or all do (only the judge, held-out events
and logged feedback see it). The policy is improved against that reward; what counts is its true value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.config import RunConfig
from llmrec.config_tree import Overrides
from llmrec.dataset.world.world import World
from llmrec.errors import RequestError
from llmrec.evaluation.simulated import Simulated, simulate
from llmrec.pipeline.improve import ImprovedStage, improve_stage
from llmrec.pipeline.measure import Arena
from llmrec.pipeline.recipes import recipes_root
from llmrec.pipeline.simulation import Simulators
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.progress import console
from llmrec.simulator.ensemble import Ensemble, Predictor
from llmrec.studies.answer import Answer, Sheet, forest, signed
from llmrec.studies.study import Pooled, Prepared, SeedRows, Study, over_seeds
from llmrec.types import BoolArray, IntArray, Prediction, Slate, State

PLANTED = 5
BELIEF = 0.95
MEASURES = {"top_item": "top item", "slate": "slate"}


@dataclass(frozen=True, slots=True)
class Variant:
    """How many of the reward's members are exploitable (None: all), and how pessimistic the reward is."""

    name: str
    exploited: int | None
    pessimism: float = 0.0


VARIANTS = (
    Variant("honest reward", 0),
    Variant("one member exploitable", 1),
    Variant("one member exploitable, pessimism", 1, 1.0),
    Variant("all members exploitable", None),
    Variant("all members exploitable, pessimism", None, 1.0),
)


class Overrating:
    """A behaviour model that believes in some items whoever sees them: both probabilities are `belief` there."""

    def __init__(self, inner: Predictor, items: IntArray, belief: float = BELIEF) -> None:
        self.inner, self.items, self.belief = inner, items, belief

    def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction:
        """The inner model's answer, overwritten at the planted items."""
        return self._overwritten(self.inner.predict(states, items_BK), np.isin(items_BK, self.items))

    def predict_all(self, states: Sequence[State]) -> Prediction:
        """The same for the whole catalogue."""
        found = self.inner.predict_all(states)
        planted_BN = np.zeros(found.click_BK.shape, dtype=bool)
        planted_BN[:, self.items] = True
        return self._overwritten(found, planted_BN)

    def _overwritten(self, found: Prediction, planted_BK: BoolArray) -> Prediction:
        return Prediction(
            np.where(planted_BK, self.belief, found.click_BK), np.where(planted_BK, self.belief, found.conversion_BK)
        )


def worst_items(world: World, config: RunConfig, count: int = PLANTED) -> IntArray:
    """The items whose true value, averaged over all users, is least."""
    users = world.dataset.users["user_id"].to_list()
    # The worst in truth: whatever of them is shown is the exploit's doing, and costs the most that it can.
    value_N = world.value_BN(users, config.reward.click, config.reward.conversion).mean(axis=0)
    return np.sort(np.argsort(value_N, kind="stable")[:count]).astype(np.int64)


def exploitable(simulators: Simulators, items: IntArray, members: int | None) -> Simulators:
    """The simulators with the first `members` of the reward's ensemble (None: all) overrating `items`."""
    own = simulators.reward.members
    number = len(own) if members is None else members
    planted = [Overrating(member, items) if n < number else member for n, member in enumerate(own)]
    return replace(simulators, reward=Ensemble(planted))


@dataclass(frozen=True, slots=True)
class Deployed:
    """The slates of a policy and their true value: of the top item alone (what PPO's draws are about), and of all."""

    slates: list[Slate]
    true: dict[str, Simulated]

    @property
    def values(self) -> dict[str, float]:
        """Mean true values."""
        return {name: found.means["value"] for name, found in self.true.items()}


def deployed(config: RunConfig, arena: Arena, policy: LanguagePolicy) -> Deployed:
    """What the policy would show, and its true value."""
    k, reward = config.gate.slate, config.reward
    slates = policy.recommend(arena.states, k, beams=20, seen=arena.seen)
    found = {
        name: simulate(
            slates, arena.states, arena.judges["truth"], k=n, click=reward.click, conversion=reward.conversion
        )
        for name, n in zip(MEASURES, (1, k), strict=True)
    }
    return Deployed(slates, found)


def run_trust(
    seeds: Sequence[int],
    out: Path,
    overrides: Overrides | None = None,
    *,
    variants: Sequence[Variant] = VARIANTS,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Runs all variants on every seed (resuming what is there), prints the table and returns its figures."""

    def measure(seed: int) -> SeedRows:
        config = RunConfig.read(recipes_root() / "trust.yaml", {"seed": seed, **(overrides or {})})
        ready = Prepared.of(config, out / f"seed-{seed}")
        arena, found = ready.arena(), {}
        for variant in variants:
            console.print(f"world {seed}: {variant.name}", style="bold")
            found[variant.name] = run_variant(ready, arena, variant)
        return SeedRows(seed, ready.data_hash, facts=found)

    return Study(seeds, measure, answer_of, least=2).run(out, json_file)


def run_variant(ready: Prepared, arena: Arena, variant: Variant) -> dict[str, Any]:
    """Improves against the variant's reward; true values of SFT, of the last and of the promoted checkpoint."""
    config, world = ready.config, ready.data.world
    if world is None:
        raise RequestError("This study needs a generated world, whose truth is known; leave data.dataset at 'world'.")
    if variant.pessimism:
        config = replace(config, reward=replace(config.reward, pessimism=variant.pessimism))
    planted = worst_items(world, config)
    simulators = exploitable(ready.simulators, planted, variant.exploited)
    name = variant.name.replace(", ", "-").replace(" ", "-")
    # A stage of its own for each variant: the planted beliefs are no setting, so the key alone would not tell them
    # apart.
    stage = improve_stage(config, ready.data, ready.sft, simulators, ready.work, name=name)
    before = deployed(config, arena, ready.policy())
    last = deployed(config, arena, ready.policy(stage.last))
    kept = before  # SFT, where none was promoted
    if stage.promoted is not None:
        kept = deployed(config, arena, ready.policy(stage.promoted))
    shown = np.concatenate([slate.items_K for slate in last.slates])
    return {
        "planted_items": planted.tolist(),
        "planted_share": float(np.isin(shown, planted).mean()),
        "gate": _gate(stage),
        "sft": before.values,
        "last": _against(config, last, before),
        "deployed": _against(config, kept, before),
    }


def _gate(stage: ImprovedStage) -> dict[str, Any]:
    kept = ("step", "reward_gain", "pessimistic_gain", "judge_gain", "ndcg_relative", "off_policy", "refused")
    scores = [{key: score[key] for key in kept} for score in stage.checkpoints]
    promoted = None if stage.promoted is None else int(stage.promoted.name.rsplit("-", 1)[1])
    return {"promoted": promoted, "verdict": stage.verdict, "checkpoints": scores}


def _against(config: RunConfig, after: Deployed, before: Deployed) -> dict[str, Any]:
    """True values, and the difference to SFT with its paired interval over users."""
    draw = {"samples": config.evaluation.bootstrap, "seed": config.seed}
    gains = {name: asdict(found.minus(before.true[name], **draw)["value"]) for name, found in after.true.items()}
    return {name: {"value": value, "gain": gains[name]} for name, value in after.values.items()}


def answer_of(found: Pooled) -> Answer:
    """Means over seeds, and t-intervals of the differences to SFT."""
    names, number = list(found.seeds[0].facts), len(found.seeds)
    variants = {name: _over([one.facts[name] for one in found.seeds]) for name in names}
    sheets = [_sheet(variants, measure, words, number) for measure, words in MEASURES.items()]
    whose = {"last_gain": "last checkpoint", "deployed_gain": "deployed"}
    gains = {
        name: {
            f"{words}, {who}": row[key][measure] for measure, words in MEASURES.items() for key, who in whose.items()
        }
        for name, row in variants.items()
    }
    plots = {"gains": forest("True value over SFT", gains)}
    return Answer("The gate where the reward can be exploited", {"variants": variants}, sheets, plots=plots)


def _over(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    gains = {
        f"{who}_gain": {name: over_seeds([row[who][name]["gain"]["mean"] for row in rows]) for name in MEASURES}
        for who in ("last", "deployed")
    }
    sft = {name: float(np.mean([row["sft"][name] for row in rows])) for name in MEASURES}
    share = float(np.mean([row["planted_share"] for row in rows]))
    return {"by_seed": list(rows), "sft": sft, **gains, "planted_share": share}


def _sheet(variants: Mapping[str, Any], measure: str, words: str, number: int) -> Sheet:
    heads = ("reward", "SFT", "last checkpoint (no gate)", "planted items shown", "what the gate deploys", "promoted")
    rows = []
    for name, found in variants.items():
        last, kept = (signed(found[f"{who}_gain"][measure]) for who in ("last", "deployed"))
        promoted = sum(row["gate"]["promoted"] is not None for row in found["by_seed"])
        share = f"{100 * found['planted_share']:.0f}%"
        rows.append((name, f"{found['sft'][measure]:.4f}", last, share, kept, f"{promoted} of {number}"))
    return Sheet(f"True value of the {words} over SFT, mean of {number} worlds (95% t-interval)", heads, rows)
