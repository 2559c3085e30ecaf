"""PPO and REINFORCE over sessions: an environment in place of independent draws, slots of slates in place of items.

What they change against `PPOTrainer`:

- a rollout plays one session of up to T turns for each of its rows; each turn's prompt is rendered from the text
  state with the session so far, by the renderer that deploys the policy;
- the action of a turn is a slate of K items in order without replacement, with one ratio a slot;
- credit: the slots of a turn are steps with discount and lambda 1 between them, and so is the end of the slate, where
  nothing is chosen; the session's gamma and lambda stand between it and the next turn. A session that is cut off goes
  on in the critic's value of the next state; one that the user left ends. With `credit: item` a slot's advantage leaves
  out the errors of the slate's later slots;
- the critic gives a value a slot, and one of the end of the slate, from the hidden state after the prompt;
- the loss is divided by the slots of sessions that nobody leaves, a constant: a mean over the turns that took place
  would weigh a turn by how long other sessions were;
- rewards may be scaled, never shifted: a shift would pay for staying or for leaving.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from llmrec.policy.modes import evaluating
from llmrec.policy.scoring import TokenScores, exact_kl_BGL
from llmrec.policy.without_replacement import sample_without_replacement
from llmrec.training.advantages import gae_steps, mean_and_variance, moments, whiten
from llmrec.training.losses import clipped_policy_loss, clipped_value_loss, moved_kl
from llmrec.training.rollout import ScoreRequest
from llmrec.training.session_source import SessionSource
from llmrec.training.slates import SlotBatch, TurnSlates, normalised, slots_of, together, whole
from llmrec.training.trl_seam.ppo import PPOTrainer
from llmrec.training.trl_seam.reinforce import ReinforceConfig
from llmrec.training.trl_seam.rollouts import Rows


@dataclass(frozen=True, slots=True)
class Played:
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


@dataclass(frozen=True, slots=True)
class Steps:
    """Sessions laid out slot by slot, the end of each slate behind its slots: (N, T, K + 1), and what comes last."""

    reward: Tensor
    value: Tensor
    step: Tensor
    last_N: Tensor

    def at(self, turns: TurnSlates, values: Tensor) -> Tensor:
        """Of values (N, T, S) those of the rows of `turns`: (R, S)."""
        return values[turns.session_R, turns.turn_R]


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
        played = self._scaled(self._play(inputs))
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
        self._log_values(batches)
        self._move(slates, batches)
        if not self.args.whiten:
            return batches
        everywhere = [torch.ones_like(b.advantage_RK, dtype=torch.bool) for b in batches]
        advantages = whiten([b.advantage_RK for b in batches], everywhere, self._sum)
        return [replace(b, advantage_RK=a) for b, a in zip(batches, advantages, strict=True)]

    def _play(self, rows: Rows) -> Played:
        """One session for each of the rows, to its end."""
        device = self.accelerator.device
        play = self.source.begin(rows)
        turns: list[TurnSlates] = []
        named: dict[str, float] = {}
        left_N = torch.zeros(len(rows), dtype=torch.bool, device=device)
        cut_rows: list[int] = []
        cut_states: list[Any] = []
        while play.goes_on:
            at, states = torch.from_numpy(play.row_A).to(device), play.states()
            ids, mask = self.source.encode(states, device)
            here = [rows[row] for row in play.row_A.tolist()]
            exclude = self.source.taken(here, play.shown(), states, device)
            drawn = sample_without_replacement(
                self.base,
                ids,
                mask,
                self.source.slate,
                self.index,
                keys_B=self.source.keys(here, len(turns)),
                exclude=exclude,
            )
            items = drawn.items_BK.cpu().numpy()
            done = play.turn(items)
            reward = self.source.reward(states, items, done)
            for name, values in reward.terms.items():
                named[name] = named.get(name, 0.0) + float(values.sum())
            turn = torch.full_like(at, len(turns))
            earned = torch.from_numpy(reward.total_BK).float().to(device)
            log_prob, weight = drawn.log_prob_BK, normalised(drawn.weight_BK).float()
            turns.append(TurnSlates(at, turn, ids, mask, exclude, drawn.items_BK, log_prob, weight, earned))
            left_N[at] = torch.from_numpy(done.left_A).to(device)
            cut_rows += done.row_A[done.cut_A].tolist()
            cut_states += done.after
        self._log_sessions(turns, left_N, named)
        return Played(turns, len(rows), left_N, self._after(turns[0], cut_rows, cut_states))

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

    def _scaled(self, played: Played) -> Played:
        """Rewards over their deviation, where the settings ask for it."""
        if self.controls.settings.reward_normalisation == "none":
            return played
        reward = torch.cat([t.reward_RK.flatten() for t in played.turns]).double()
        sums = self._sum(torch.stack([torch.ones_like(reward).sum(), reward.sum(), reward.square().sum()]))
        _, scale = self.controls.normalised(*sums.tolist())
        return replace(played, turns=[replace(t, reward_RK=t.reward_RK / (scale + 1e-8)) for t in played.turns])

    # Values and credit.

    def _asked(self, part: TurnSlates) -> tuple[ScoreRequest, TokenScores]:
        """What a minibatch asks of the model, with the critic's features, and the reference's scores."""
        request = ScoreRequest(
            part.prompt_ids_RP, part.prompt_mask_RP, part.items_RK, self.index, exclude=part.exclude_RE
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
        self, played: Played, slates: Sequence[TurnSlates], asked: Sequence[tuple[ScoreRequest, TokenScores]]
    ) -> Steps:
        """Rewards and values laid out session by session; the first rollout sets the critic's units."""
        shape = (played.sessions, self.source.turns, self.source.slate + 1)
        reward, value = (torch.zeros(shape, device=self.accelerator.device) for _ in range(2))
        step = torch.zeros(shape, dtype=torch.bool, device=reward.device)
        for part in slates:
            reward[part.session_R, part.turn_R, :-1] = part.reward_RK
            step[part.session_R, part.turn_R] = True
        steps = Steps(reward, value, step, reward.new_zeros(played.sessions))
        if not bool(self.base.critic.ready):
            self._set_units(steps)
        for part, (request, _) in zip(slates, asked, strict=True):
            value[part.session_R, part.turn_R] = self._values(request)
        if self.source.session.bootstrap:
            rows, ids, mask = played.cut
            some = torch.zeros((len(ids), 1), dtype=torch.long, device=ids.device)
            after = self._values(self._asked_state(ScoreRequest(ids, mask, some, self.index)))
            steps.last_N[rows] = after[: len(rows), 0]
        return steps

    def _asked_state(self, request: ScoreRequest) -> ScoreRequest:
        if self.args.critic_input != "reference":
            return request
        return replace(request, features_BGLH=_root(self._reference_scores(request)))

    def _set_units(self, steps: Steps) -> None:
        _, returns = self._gae(steps, lam=1.0)
        found, where = returns.double(), steps.step
        sums = [where.sum((0, 1)).double(), (found * where).sum((0, 1)), (found.square() * where).sum((0, 1))]
        self.base.critic.set_units(self._sum(torch.stack(sums)))

    def _credit(self, steps: Steps) -> tuple[Tensor, Tensor]:
        """Advantages of slots (N, T, K), and returns (N, T, K + 1)."""
        advantage, returns = self._gae(steps, lam=self.source.session.gae_lambda)
        return self._of_slots(advantage), returns

    def _of_slots(self, advantage_NTS: Tensor) -> Tensor:
        """Advantages of the slots: the whole rest's, or their own error and that of the turns after the slate."""
        slots, end = advantage_NTS[..., :-1], advantage_NTS[..., -1:]
        if self.source.session.credit == "slate":
            return slots
        return slots - advantage_NTS[..., 1:] + end

    def _gae(self, steps: Steps, *, lam: float) -> tuple[Tensor, Tensor]:
        """GAE over all steps of each session, (N, T, K + 1); after the last of them stands `last_N`."""
        sessions, turns, places = steps.reward.shape
        discount, trace = torch.ones((turns, places)), torch.ones((turns, places))
        discount[:, -1], trace[:, -1] = self.source.session.gamma, lam
        flat = (sessions, turns * places)
        advantage, returns = gae_steps(
            steps.reward.view(flat),
            steps.value.view(flat),
            steps.step.view(flat),
            discount_BS=discount.view(1, -1).expand(flat).to(steps.reward.device),
            trace_BS=trace.view(1, -1).expand(flat).to(steps.reward.device),
            last_value_B=steps.last_N,
        )
        return advantage.view_as(steps.reward), returns.view_as(steps.reward)

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
        whole_R = whole(items, slate, part.exclude_RE, len(part.items_RK), part.items_RK.device)
        return SlotBatch(
            request,
            whole_R,
            part.weight_RK,
            slots_of(part.log_prob_RK, whole_R).float(),
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

    def _log_values(self, batches: Sequence[SlotBatch]) -> None:
        """Explained variance 1 - Var(R - V) / Var(R) over the whole rollout, before the update."""
        sums = []
        for batch in batches:
            there = torch.ones_like(batch.return_RS, dtype=torch.bool)
            pair = (moments(batch.return_RS - batch.value_RS, there), moments(batch.return_RS, there))
            sums.append(torch.stack(pair))
        left, whole_one = (mean_and_variance(s)[1] for s in self._sum(torch.stack(sums).sum(0)))
        explained = 1.0 - float(left / whole_one) if float(whole_one) > 0 else 0.0
        self._metrics["train"]["explained_variance"].append(explained)

    def _move(self, slates: Sequence[TurnSlates], batches: Sequence[SlotBatch]) -> None:
        """Logs KL to the reference and entropy of a single draw, means over turns, and moves the coefficients."""
        sums = torch.zeros(3, dtype=torch.float64, device=self.accelerator.device)
        for part, batch in zip(slates, batches, strict=True):
            ratio = part.log_prob_RK - batch.reference.item_log_prob_BG
            for place, value in enumerate((ratio, -part.log_prob_RK)):
                sums[place] += (part.weight_RK * value).sum()
            sums[2] += len(part.items_RK)
        kl, entropy, turns = self._sum(sums).tolist()
        metrics = self._metrics["train"]
        metrics["rollout_kl"].append(kl / turns)
        metrics["rollout_entropy"].append(entropy / turns)
        metrics["kl_coefficient"].append(self.controls.kl_coefficient)
        metrics["entropy_coefficient"].append(self.controls.entropy_coefficient)
        self.controls.after_rollout(kl / turns, entropy / turns)

    # The update.

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        """Policy loss + value loss over slots, beta KL - entropy bonus of a single draw a turn.

        KL and entropy of a turn count K times, so that the sum over turns and slots is divided by one number of
        slots: for K = 1 this is the loss of `PPOTrainer`. Prefixes and weights are fixed; the score-function term is
        dropped.
        """
        batch: SlotBatch = inputs
        scores, more = self._answer(model, batch.request)
        slot_RK = slots_of(scores.item_log_prob_BG, batch.whole_R)
        everywhere = torch.ones_like(slot_RK, dtype=torch.bool)
        policy, outside = self._slot_loss(slot_RK, batch, everywhere)
        unit = self.base.critic.scale
        values = (more["value_BS"] / unit, batch.value_RS / unit, batch.return_RS / unit)
        value = clipped_value_loss(*values, torch.ones_like(values[0], dtype=torch.bool), self.args.value_clip)
        weight_RK, places = batch.weight_RK, slot_RK.shape[1]
        kl = places * (weight_RK * exact_kl_BGL(scores, batch.reference).sum(-1)).sum()
        entropy = places * (weight_RK * scores.entropy_BGL.sum(-1)).sum()
        penalty = self.controls.kl_coefficient * kl - self.controls.entropy_coefficient * entropy
        loss: Tensor = (policy + self.args.value_coefficient * value + penalty) / batch.slots
        sums = [policy, value, kl, entropy, moved_kl(slot_RK, batch.old_slot_RK, everywhere)]
        named = dict(zip(("policy_loss", "value_loss", "kl", "entropy", "moved_kl"), sums, strict=True))
        self._log_update(named, batch.slots, outside / slot_RK.numel())
        return loss

    def _slot_loss(self, slot_RK: Tensor, batch: SlotBatch, there_RK: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's loss, summed over slots, and how many of them were clipped."""
        return clipped_policy_loss(slot_RK, batch.old_slot_RK, batch.advantage_RK, there_RK, self.args.epsilon)


class SessionReinforceTrainer(SessionTrainer):
    """-(R - b) log P(item k | items before it) over slots, R the discounted reward of the rest of the session.

    The baseline b is the critic's value of the slot, the mean return of the rollouts before this one, or 0. Without a
    critic a session that is cut off is worth nothing from there on, and where rewards are normalised the mean is 0.
    """

    args: ReinforceConfig

    def _credit(self, steps: Steps) -> tuple[Tensor, Tensor]:
        if self.args.baseline == "critic":
            advantage, returns = self._gae(steps, lam=1.0)
            return self._of_slots(advantage), returns
        nothing = replace(steps, value=torch.zeros_like(steps.value), last_N=torch.zeros_like(steps.last_N))
        _, returns = self._gae(nothing, lam=1.0)
        gained, there = self._of_slots(returns), steps.step[..., :-1]
        before = 0.0
        if self.args.baseline == "running" and self.controls.settings.reward_normalisation == "none":
            before, found = self.controls.reward.mean, gained[there].double()
            sums = [torch.ones_like(found).sum(), found.sum(), found.square().sum()]
            self.controls.reward.add(*self._sum(torch.stack(sums)).tolist())
        return torch.where(there, gained - before, 0.0), returns

    def _slot_loss(self, slot_RK: Tensor, batch: SlotBatch, there_RK: Tensor) -> tuple[Tensor, Tensor]:
        return -(batch.advantage_RK * slot_RK).sum(), torch.zeros((), device=slot_RK.device)


def _root(scores: TokenScores) -> Tensor:
    """The hidden state after the prompt, (R, 1, 1, H)."""
    return scores.hidden_BGLH[:, :1, :1]
