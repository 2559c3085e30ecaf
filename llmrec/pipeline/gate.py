"""The trust gate: every checkpoint is judged, the best admissible one is promoted, or none."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel

from llmrec.config import RunConfig
from llmrec.dataset.examples import Examples
from llmrec.evaluation.ranking import ranking_metrics
from llmrec.evaluation.significance import paired_bootstrap
from llmrec.evaluation.simulated import Simulated, simulate
from llmrec.files import new_folder, read_json, write_json
from llmrec.pipeline.data import RunData
from llmrec.pipeline.policies import targets
from llmrec.pipeline.simulation import Simulators, log_of, one_state_per_user
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.loading import save_causal_lm
from llmrec.progress import console
from llmrec.seeding import numpy_stream
from llmrec.training.lora import adapter_of


class Gate:
    """Scores checkpoints by the judge and by validation events; figures and adapters outlive a kill."""

    def __init__(
        self, config: RunConfig, data: RunData, sft: LanguagePolicy, simulators: Simulators, folder: Path
    ) -> None:
        self.config, self.folder, self.sft, self.judge = config, folder, sft, simulators.judge
        log = log_of(config, data, "valid")
        rows = one_state_per_user(log, config.gate.users, numpy_stream(config.seed, "gate", "users"))
        self.states = [log.states[r] for r in rows]
        self.seen = [log.seen[r] for r in rows]
        self.examples: Examples = targets(config, data, "valid", config.gate.events)
        self.base = self._measure(sft)

    def _measure(self, policy: LanguagePolicy) -> tuple[Simulated, Any]:
        k, reward = self.config.gate.slate, self.config.reward
        k = min(k, len(policy.catalogue.item_ids))
        slates = policy.recommend(self.states, k, seen=self.seen)
        judged = simulate(slates, self.states, self.judge, click=reward.click, conversion=reward.conversion)
        found = policy.recommend([e.state for e in self.examples], k, seen=self.examples.seen)
        ranked = ranking_metrics(found, [e.target for e in self.examples], k=(k,))
        return judged, ranked.per_row[f"NDCG@{k}"]

    def __call__(self, step: int, model: Any) -> dict[str, Any]:
        """Judges the checkpoint of `step` (once) and keeps its adapter."""
        place = self.folder / f"step-{step:06d}"
        if (place / "score.json").is_file():
            return dict(read_json(place / "score.json"))
        policy = LanguagePolicy(model, self.sft.tokenizer, self.sft.catalogue, self.sft.renderer, self.sft.repeat)
        judged, ndcg = self._measure(policy)
        seed = self.config.seed
        gain = judged.minus(self.base[0], samples=self.config.evaluation.bootstrap, seed=seed)["value"]
        change = paired_bootstrap(ndcg, self.base[1], samples=self.config.evaluation.bootstrap, seed=seed)
        fall = -change.mean / max(float(np.mean(self.base[1])), 1e-12)
        score = {
            "step": step,
            "judge_value": judged.means["value"],
            "judge_gain": asdict(gain),
            "ndcg": float(np.mean(ndcg)),
            "ndcg_change": asdict(change),
            "admissible": bool(gain.above_zero and fall <= self.config.gate.ndcg_tolerance),
        }
        with new_folder(place) as out:
            if isinstance(model, PeftModel):
                adapter_of(model).save(out / "adapter")
            else:
                (out / "model").mkdir()
                save_causal_lm(model, self.sft.tokenizer, out / "model")
            write_json(out / "score.json", score)
        console.print(
            f"[dim]  checkpoint {step}: judge {gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f}) over SFT, "
            f"NDCG@{self.config.gate.slate} {change.mean:+.4f}[/dim]"
        )
        return score


def promote(checkpoints: list[dict[str, Any]]) -> tuple[dict[str, Any] | None, str]:
    """The admissible checkpoint that the judge values most, and the reason in a sentence."""
    admissible = [c for c in checkpoints if c["admissible"]]
    if not admissible:
        why = "no checkpoint gained significantly by the judge without losing too much NDCG on validation events"
        return None, f"No checkpoint was promoted: {why}; the SFT policy is kept."
    best = max(admissible, key=lambda c: c["judge_value"])
    gain = best["judge_gain"]
    return best, (
        f"Checkpoint {best['step']} was promoted: of {len(admissible)} admissible among {len(checkpoints)} the judge "
        f"values it most ({gain['mean']:+.4f} over SFT, 95% interval {gain['low']:+.4f} to {gain['high']:+.4f})."
    )
