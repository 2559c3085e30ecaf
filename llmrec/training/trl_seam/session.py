"""PPO over sessions: an environment in place of independent draws, slots of slates in place of items.

What it changes against `PPOTrainer`:

- a rollout plays one session of up to T turns for each of its rows; each turn's prompt is rendered from the text
  state with the session so far, by the renderer that deploys the policy;
- the action of a turn is a slate of K items in order without replacement, with one ratio a slot;
- credit: the slots of a turn are steps with discount and lambda 1 between them, and so is the end of the slate, where
  nothing is chosen; the session's gamma and lambda stand between it and the next turn. A session that is cut off goes
  on in the critic's value of the next state; one that the user left ends (`llmrec.training.slates`). Where a
  place's reward depends on the places below it, each slot is credited with the whole slate's;
- the critic gives a value a slot, and one of the end of the slate, from the hidden state after the prompt;
- the loss is divided by the slots of sessions that nobody leaves, a constant: a mean over the turns that took place
  would weigh a turn by how long other sessions were;
- rewards may be scaled, never shifted: a shift would pay for staying or for leaving.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmrec.policy.drawn_slates import draw_in_places
from llmrec.policy.modes import evaluating
from llmrec.policy.scoring import TokenScores, exact_kl_BGL
from llmrec.policy.without_replacement import sample_without_replacement
from llmrec.simulator.environments.play import Play, PlayedTurn
from llmrec.training.losses import clipped_policy_loss, moved_kl, over_items
from llmrec.training.obeyed import Closed
from llmrec.training.session_source import SessionSource
from llmrec.training.slates import (
    SlotBatch,
    Steps,
    TurnSlates,
    normalised,
    of_slots,
    placed,
    slots_of,
    together,
    whole,
)
from llmrec.training.state_source import Rows, ScoreRequest
from llmrec.training.trl_seam.ppo import PPOTrainer
from llmrec.types import IntArray, Reward, State


@dataclass(frozen=True, slots=True)
class SessionRollout:
    """One process's sessions of a rollout.

    Attributes:
        turns: what was shown and earned, turn by turn.
        sessions: how many there are (N).
        left_N: whether the user left for good.
        cut: rows of N that were cut off, with the prompts (ids, mask) of the states that came after.
    """

    turns: list[TurnSlates]
    sessions: int
    left_N: Tensor
    cut: tuple[Tensor, Tensor, Tensor]


class SessionTrainer(PPOTrainer):
    """PPO over sessions; a `SlateCritic` must hang on the base model of `model`."""

    source: SessionSource

    def also(self, request: Any, scores: TokenScores) -> dict[str, Tensor]:
        """The critic's values of the slots, inside the wrapped forward."""
        if not request.with_more:
            return {}
        features = _root(scores) if request.features_BGLH is None else request.features_BGLH
        if self.args.critic_input == "policy":
            features = features.detach()
        return {"value_BS": self.base.critic(features[:, 0, 0])}

    # The rollout.

    @torch.no_grad()
    def _roll_out(self, inputs: Rows) -> Any:
        """Sessions, rewards, values and advantages of a new rollout, split into minibatches of whole sessions."""
        self._stopped = False
        played = self._play(inputs)
        self._count_flat(torch.cat([t.reward_RK.flatten() for t in played.turns]))
        played = self._scaled(played)
        # by session and not by row: the loss of a part is divided by the slots of so many whole sessions
        size = played.sessions // self.args.steps_per_generation
        slates = [
            together([t.rows(t.session_R // size == part) for t in played.turns])
            for part in range(self.args.steps_per_generation)
        ]
        asked = [self._asked(part) for part in slates]
        steps = self._steps(played, slates, asked)
        advantage, returns = self._credit(steps)
        batches = [
            self._batch(part, *pair, steps.at(part, advantage), steps.at(part, returns), steps, size)
            for part, pair in zip(slates, asked, strict=True)
        ]
        # every slot is a choice; forced tokens are a matter within slots
        everywhere = [torch.ones_like(b.return_RS, dtype=torch.bool) for b in batches]
        self._log_explained([(b.return_RS, b.value_RS, where) for b, where in zip(batches, everywhere, strict=True)])
        self._move(slates, batches)
        advantages = self._whitened([b.advantage_RK for b in batches], [b.there_RK for b in batches])
        return [replace(b, advantage_RK=a) for b, a in zip(batches, advantages, strict=True)]

    def _play(self, rows: Rows) -> SessionRollout:
        """One session for each of the rows, to its end."""
        device = self.accelerator.device
        play = self.source.begin(rows)
        turns: list[TurnSlates] = []
        named: dict[str, float] = {}
        left_N = torch.zeros(len(rows), dtype=torch.bool, device=device)
        cut_rows: list[int] = []
        cut_states: list[Any] = []
        while play.goes_on:
            turn, done, reward = self._turn(play, rows, len(turns))
            turns.append(turn)
            for name, values in reward.terms.items():
                named[name] = named.get(name, 0.0) + float(values.sum())
            # of those who are still there; what was said of the others before stays
            left_N[turn.session_R] = torch.from_numpy(done.left_A).to(device)
            cut_rows += done.row_A[done.cut_A].tolist()
            cut_states += done.after
        self._log_sessions(turns, left_N, named)
        return SessionRollout(turns, len(rows), left_N, self._after(turns[0], cut_rows, cut_states))

    def _turn(self, play: Play, rows: Rows, number: int) -> tuple[TurnSlates, PlayedTurn, Reward]:
        """A slate for everybody who is still there, and what it brought."""
        device, states = self.accelerator.device, play.states()
        here = [rows[row] for row in play.row_A.tolist()]
        at = torch.from_numpy(play.row_A).to(device)
        ids, mask = self.source.encode(states, device)
        # named by rollout, place and turn, as all that is drawn: processes and resuming change nothing
        keys = self.source.keys(here, number)
        exclude, items_RK, log_prob_RK, weight_RK = self._slates((ids, mask), keys, here, play.shown(), states)
        items = items_RK.cpu().numpy()
        done = play.turn(items)
        reward = _of_items(self.source.reward(states, items, done), items)
        earned, turn = torch.from_numpy(reward.total_BK).float().to(device), torch.full_like(at, number)
        shown = TurnSlates(at, turn, ids, mask, exclude, items_RK, log_prob_RK, weight_RK, earned)
        return shown, done, reward

    def _slates(
        self,
        prompts: tuple[Tensor, Tensor],
        keys: Tensor,
        rows: Rows,
        shown: Sequence[IntArray],
        states: Sequence[State],
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        """Slates in order without replacement, or place by place under what bounds them: exclusions (of each place,
        where they are bounded), items, log pi_F and weights.
        """
        source, index = self.source, self.index
        dense = source.dense(index)
        if source.bounds is None:
            exclude = source.taken(rows, shown, states, index.device)
            allowed = exclude if dense is None else index.allowed(exclude, dense=dense)
            free = sample_without_replacement(self.base, *prompts, source.slate, index, keys_B=keys, exclude=allowed)
            return exclude, free.items_BK, free.log_prob_BK, normalised(free.weight_BK).float()
        assert isinstance(source.seen, Closed)
        bounds, opened = [source.bounds[row["state"]] for row in rows], source.opened(rows, shown, states)
        passes_N = source.seen.passes_N
        drawn = draw_in_places(
            self.base, *prompts, index, bounds, opened, keys.tolist(), dense=dense, passes_N=passes_N
        )
        return placed(drawn, source.slate, index.device)

    def _after(self, first: TurnSlates, rows: list[int], states: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and prompts of the states after sessions that were cut off.

        Where there is none the first prompt stands in and nobody reads its value: all processes make equally many
        calls of the model.
        """
        device = self.accelerator.device
        if not states:
            none = torch.zeros(0, dtype=torch.long, device=device)
            return none, first.prompt_ids_RP[:1], first.prompt_mask_RP[:1]
        return torch.tensor(rows, device=device), *self.source.encode(states, device)

    def _scaled(self, played: SessionRollout) -> SessionRollout:
        """Rewards over their deviation, where the settings ask for it."""
        if self.controls.settings.reward_normalisation == "none":
            return played
        reward = torch.cat([t.reward_RK.flatten() for t in played.turns])
        # without the shift: sessions differ in length, and a constant a slot would pay for staying, or for leaving
        _, self._reward_unit = self.controls.normalised(*self._sums(reward).tolist())
        return replace(played, turns=[replace(t, reward_RK=t.reward_RK / self._reward_unit) for t in played.turns])

    # Values and credit.

    def _asked(self, part: TurnSlates) -> tuple[ScoreRequest, TokenScores]:
        """What a minibatch asks of the model, with the critic's features, and the reference's scores."""
        # an empty place needs some item to be scored, which counts for nothing
        items_RK = torch.where(part.items_RK >= 0, part.items_RK, part.items_RK[:, :1])
        request = ScoreRequest(
            part.prompt_ids_RP,
            part.prompt_mask_RP,
            items_RK,
            self.index,
            exclude=part.exclude_RE,
            dense=self.source.dense(self.index),
        )
        reference = self._reference_scores(request)
        if self.args.critic_input == "reference":
            request = replace(request, features_BGLH=_root(reference))
        return request, reference

    def _values(self, request: ScoreRequest) -> Tensor:
        """The critic's values (R, K + 1) at the rollout."""
        if request.features_BGLH is not None:
            values: Tensor = self.base.critic(request.features_BGLH[:, 0, 0])
            return values
        with evaluating(self.base):
            return self._answer(self.model, request)[1]["value_BS"]

    def _steps(
        self, played: SessionRollout, slates: list[TurnSlates], asked: Sequence[tuple[ScoreRequest, TokenScores]]
    ) -> Steps:
        """Rewards and values laid out step by step; the first rollout sets the critic's units."""
        sizes = (played.sessions, self.source.turns, self.source.session.gamma)
        steps = Steps.of(slates, *sizes, causal=self.source.causal)
        if not bool(self.base.critic.ready):
            self.base.critic.set_units(self._sum(steps.return_sums()))
        for part, (request, _) in zip(slates, asked, strict=True):
            steps.value[part.session_R, part.turn_R] = self._values(request)
        if self.source.session.bootstrap:
            rows, ids, mask = played.cut
            # any item: only the hidden state after the prompt is asked for
            some = torch.zeros((len(ids), 1), dtype=torch.long, device=ids.device)
            after = self._values(self._asked_state(ScoreRequest(ids, mask, some, self.index)))
            # value 0 of a slate: before any of its places is filled, all of the rest of the session
            steps.last_N[rows] = after[: len(rows), 0]
        return steps

    def _asked_state(self, request: ScoreRequest) -> ScoreRequest:
        if self.args.critic_input != "reference":
            return request
        return replace(request, features_BGLH=_root(self._reference_scores(request)))

    def _credit(self, steps: Steps) -> tuple[Tensor, Tensor]:
        """Advantages of slots (N, T, K), and returns (N, T, K + 1)."""
        advantage, returns = steps.gae(self.source.session.gae_lambda)
        return of_slots(advantage, self.source.session.credit), returns

    def _batch(
        self,
        part: TurnSlates,
        request: ScoreRequest,
        reference: TokenScores,
        advantage_RK: Tensor,
        return_RS: Tensor,
        steps: Steps,
        sessions: int,
    ) -> SlotBatch:
        slate, items = self.source.slate, self.index.n_items
        if isinstance(self.source.seen, Closed):  # the others are in no exclusion
            items = int(self.source.seen.passes_N.sum())
        whole_R = whole(items, slate, part.exclude_RE, len(part.items_RK), part.items_RK.device)
        there_RK = part.items_RK >= 0
        return SlotBatch(
            request,
            whole_R,
            there_RK,
            part.weight_RK,
            # computed in float64 and only then rounded: 1 - sum pi of a peaked policy has no digits in float32
            self._slots(part.log_prob_RK, whole_R, there_RK).float(),
            steps.at(part, steps.value),
            return_RS,
            advantage_RK,
            reference,
            sessions * self.source.turns * slate,
        )

    # What is logged, and what moves the coefficients.

    def _log_sessions(self, turns: Sequence[TurnSlates], left_N: Tensor, named: dict[str, float]) -> None:
        """Means a session: reward and its unweighted terms, turns played, and the share of users who left."""
        sessions, metrics = len(left_N), self._metrics["train"]
        metrics["reward"].append(self._mean(sum(float(t.reward_RK.sum()) for t in turns) / sessions))
        for name, total in sorted(named.items()):
            metrics[f"reward/{name}"].append(self._mean(total / sessions))
        metrics["turns"].append(self._mean(sum(len(t.session_R) for t in turns) / sessions))
        metrics["left"].append(self._mean(float(left_N.float().mean())))

    def _move(self, slates: Sequence[TurnSlates], batches: Sequence[SlotBatch]) -> None:
        """Logs KL to the reference and entropy of a single draw, means over turns, and moves the coefficients."""
        sums = torch.zeros(3, dtype=torch.float64, device=self.accelerator.device)
        for part, batch in zip(slates, batches, strict=True):
            ratio = part.log_prob_RK - batch.reference.item_log_prob_BG
            for place, value in enumerate((ratio, -part.log_prob_RK)):
                # weights of draws without replacement, so that the mean is that of single draws
                sums[place] += (part.weight_RK * value).sum()
            sums[2] += len(part.items_RK)
        kl, entropy, turns = self._sum(sums).tolist()
        self._moved(kl / turns, entropy / turns)

    # The update.

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        """Policy loss + value loss over slots, beta KL - entropy bonus of a single draw a turn.

        KL and entropy of a turn count K times, so that the sum over turns and slots is divided by one number of
        slots: for K = 1 this is the loss of `PPOTrainer`. Weights are fixed, and so is which states the sessions come
        to: the penalty is on what the policy does in them.
        """
        batch: SlotBatch = inputs
        scores, more = self._answer(model, batch.request)
        slot_RK = self._slots(scores.exact_BG, batch.whole_R, batch.there_RK).to(scores.log_prob_BGL.dtype)
        policy, outside = self._slot_loss(slot_RK, batch, batch.there_RK)
        every_step = torch.ones_like(batch.value_RS, dtype=torch.bool)
        value = self._value_loss(more["value_BS"], batch.value_RS, batch.return_RS, every_step)
        kl = self._over_slates(exact_kl_BGL(scores, batch.reference), scores, batch)
        entropy = self._over_slates(scores.entropy_BGL, scores, batch)
        sums = [policy, value, kl, entropy, moved_kl(slot_RK, batch.old_slot_RK, batch.there_RK)]
        return self._in_all(sums, batch.slots, outside / slot_RK.numel())

    def _slots(self, log_prob_RK: Tensor, whole_R: Tensor, there_RK: Tensor) -> Tensor:
        """log P(item k | items before it), (R, K), differentiable; 0 at empty places."""
        if self.source.bounds is not None:  # each place was drawn under its own F, which knows the items before it
            return torch.where(there_RK, log_prob_RK, 0.0)
        # Places filled before condition over whole items, 1 - sum pi(i_j). Masking them once more, token by token,
        # would be another distribution than the one that Gumbel noise has drawn.
        return slots_of(log_prob_RK, whole_R)

    def _over_slates(self, step_BGL: Tensor, scores: TokenScores, batch: SlotBatch) -> Tensor:
        """K times the mean of a single draw's sum of steps (KL, entropy), over all slates.

        Of bounded slates it is the sum over their places: the KL and the entropy of the slate's own distribution.
        """
        if self.source.bounds is None:
            # not independent: the draws of a slate exclude each other, and the others' mean would be biased
            single_RK = over_items(step_BGL, scores.log_prob_BGL, independent=False)
            return batch.there_RK.shape[1] * (batch.weight_RK * single_RK).sum()
        there = batch.there_RK.unsqueeze(-1)
        # one long item: which items stand above decides what is met at the places below, and what is open there
        steps, log_prob = (torch.where(there, x, 0.0).flatten(1) for x in (step_BGL, scores.log_prob_BGL))
        return over_items(steps.unsqueeze(1), log_prob.unsqueeze(1)).sum()

    def _slot_loss(self, slot_RK: Tensor, batch: SlotBatch, there_RK: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's loss, summed over slots, and how many of them were clipped."""
        return clipped_policy_loss(slot_RK, batch.old_slot_RK, batch.advantage_RK, there_RK, self.args.epsilon)


def _of_items(reward: Reward, items_AK: IntArray) -> Reward:
    """The reward without what terms may say of empty places."""
    there_AK = items_AK >= 0
    if there_AK.all():
        return reward
    terms = {name: np.where(there_AK, values, 0.0) for name, values in reward.terms.items()}
    return Reward(np.where(there_AK, reward.total_BK, 0.0), terms)


def _root(scores: TokenScores) -> Tensor:
    """The hidden state after the prompt, (R, 1, 1, H)."""
    return scores.hidden_BGLH[:, :1, :1]
