"""Best-of-n distillation in transformers' training loop: draw n, keep the best by the reward, fit it, again.

Each round draws for all of its states with the weights that it starts from, so that within a round the targets stand
still. They are kept in every checkpoint, and a training killed in the middle of a round goes on with the same ones.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmrec.config import BestOfNSettings
from llmrec.errors import RunError
from llmrec.files import read_json, write_json
from llmrec.policy.modes import evaluating
from llmrec.rewards.trl import GroupedReward
from llmrec.training.controls import Controls
from llmrec.training.state_source import Rows, ScoreRequest, StateSource
from llmrec.training.trl_seam.plain import PolicyTrainer, chunks
from llmrec.types import IntArray

FILE = "winners.json"
AT_ONCE = 32
"""States whose draws are made together."""


@dataclass(frozen=True, slots=True)
class Round:
    """The winners of a round by place, and its figures: mean reward of draws and winners, KL and entropy of draws."""

    number: int
    winners: list[int]
    figures: dict[str, float]


def kl_bound(draws: int) -> float:
    """log n - (n - 1) / n: what KL(best of n || policy) is at most, in nats (Beirami et al. 2024)."""
    return math.log(draws) - (draws - 1) / draws


def winners(reward_BG: Tensor) -> Tensor:
    """Which draw earned most, the first of several: (B,)."""
    # by comparison, since `argmax` may return any of equal ones, on a GPU another one each time
    best_B1 = reward_BG.amax(dim=1, keepdim=True)
    return (reward_BG == best_B1).int().argmax(dim=1)


class BestOfNTrainer(PolicyTrainer):
    """Rows carry `rollout` (the round) and `place`; `states_RP` says whose state stands at each place of a round."""

    def __init__(
        self,
        model: Any,
        source: StateSource,
        args: Any,
        controls: Controls,
        *,
        reward: GroupedReward,
        states_RP: IntArray,
        settings: BestOfNSettings,
        **rest: Any,
    ) -> None:
        super().__init__(model, source, args, controls, **rest)
        self.reward, self.states_RP, self.settings = reward, states_RP, settings
        self._round: Round | None = None

    def _prepared(self, rows: Rows) -> ScoreRequest:
        """What is asked of the rows' winners; the first rows of a round start it."""
        number = int(rows[0]["rollout"])
        # rows of a round stand together, so a new number is a new round
        if self._round is None or self._round.number != number:
            self._round = self._play(number)
        items = [[self._round.winners[row["place"]]] for row in rows]
        request = self.source.request(rows, self.index, self.index.device)
        return replace(request, items_BG=torch.tensor(items, device=self.index.device))

    def _loss(self, model: Any, prepared: ScoreRequest) -> Tensor:
        """-log pi(winner | state), a mean over the rows, in nats an item."""
        assert self._round is not None
        scores, _ = self._answer(model, prepared)
        for name, value in self._round.figures.items():
            self._metrics["train"][name] = [value]  # those of the latest round, not a mean over rounds
        return -scores.item_log_prob_BG.mean()

    # A round.

    def _play(self, number: int) -> Round:
        """Draws n items for every state of the round, each process for its share, and keeps the best ones."""
        places = len(self.states_RP[number])
        won = torch.zeros(places, dtype=torch.long, device=self.index.device)
        sums: dict[str, float] = defaultdict(float)
        # interleaved; places of the others stay 0, so that the sum over processes puts all winners together
        mine = range(self.accelerator.process_index, places, self.accelerator.num_processes)
        for part in chunks(mine, AT_ONCE):
            rows = [{"state": int(self.states_RP[number, p]), "rollout": number, "place": int(p)} for p in part]
            won[list(part)] = self._winners(rows, sums)
        names = sorted(sums)
        totals = self._sum(torch.tensor([sums[n] for n in names], dtype=torch.float64, device=won.device)).tolist()
        figures = {n: total / places for n, total in zip(names, totals, strict=True)}
        figures |= {"round": float(number), "kl_bound": kl_bound(self.settings.draws)}
        return Round(number, self._sum(won).tolist(), figures)

    def _winners(self, rows: Rows, sums: dict[str, float]) -> Tensor:
        """The best of each row's draws; adds the rows' figures to `sums`."""
        request, drawn = self._sample(rows, self.settings.draws)
        items_BG = drawn.items_BG
        reward_BG = self._rewards(rows, items_BG, sums)
        best = winners(reward_BG).unsqueeze(1)
        request = replace(request, items_BG=items_BG)
        with evaluating(self.base):
            log_prob_BG = request.score(self.base).item_log_prob_BG
        against = self._reference_scores(request).item_log_prob_BG
        for name, value in {
            "reward": reward_BG.mean(1).sum(),
            "best": reward_BG.gather(1, best).sum(),
            "rollout_kl": (log_prob_BG - against).mean(1).sum(),
            "rollout_entropy": -log_prob_BG.mean(1).sum(),
        }.items():
            sums[name] += float(value.detach())
        return items_BG.gather(1, best).squeeze(1)

    def _rewards(self, rows: Rows, items_BG: Tensor, sums: dict[str, float]) -> Tensor:
        draws = items_BG.shape[1]

        def add(name: str, mean: float) -> None:
            sums[name] += mean * len(rows)

        given = self.reward(
            state=[row["state"] for row in rows for _ in range(draws)],
            item=items_BG.flatten().tolist(),
            rollout=[int(rows[0]["rollout"])],
            log_metric=add,
        )
        reward_BG = torch.tensor(given, dtype=torch.float64, device=items_BG.device).view(items_BG.shape)
        if not bool(torch.isfinite(reward_BG).all()):
            raise RunError("The reward of some item is not finite, so no draw is the best; check the reward model.")
        return reward_BG

    # Checkpoints.

    def _save_more(self, folder: Path) -> None:
        super()._save_more(folder)
        if self._round is not None:
            write_json(folder / FILE, asdict(self._round))

    def _load_more(self, folder: Path) -> None:
        super()._load_more(folder)
        try:
            self._round = Round(**read_json(folder / FILE))
        except TypeError as error:
            raise RunError(f"{folder / FILE} cannot be read; start the training anew ({error!r}).") from None
