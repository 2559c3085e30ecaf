"""Fitting a two-headed behaviour network on impressions: likelihood, a time-ordered check, early stopping.

As in the entire-space multi-task model (ESMM, Ma et al. 2018) both heads are trained together on all impressions and
P(click and conversion) = pCTR * pCVR. The loss differs from the paper's BCE(pCTR, click) + BCE(pCTR * pCVR, click and
conversion), which counts the clicks twice: it is the likelihood of the three outcomes of an impression (nothing, a
click, a click that converts). On generated worlds that predicted conversions better.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from llmrec.config import SimulatorSettings
from llmrec.errors import DataError
from llmrec.progress import Bar
from llmrec.seeding import numpy_stream
from llmrec.simulator.log import Log
from llmrec.simulator.networks import Net
from llmrec.simulator.networks.factorised import FactorisedNet, UserTensors
from llmrec.simulator.networks.parts import CLICK, VALUE, TwoSided
from llmrec.simulator.objectives import Labels, Objective
from llmrec.types import FloatArray, IntArray

PATIENCE = 2
AVERAGE = 0.99
ALTERNATIVES, HELD_OUT = 256, 1024
"""Of a softmax over a part of the catalogue; held-out choices at a time."""


@dataclass(frozen=True)
class FitCurve:
    """Mean loss per impression on the fitted and on the held-out part after each epoch, and the epoch kept."""

    train: tuple[float, ...]
    valid: tuple[float, ...]
    kept: int


@dataclass(frozen=True)
class Batch:
    """Impressions of whole states: `row_M` and `item_M` are their pairs, `rows` the states that `row_M` points to."""

    rows: UserTensors
    row_M: Tensor
    item_M: Tensor
    labels: Labels


@dataclass(frozen=True)
class Imputation:
    """A first model whose expectations stand for the outcomes of items that nobody picked (doubly robust).

    The risk is that of the imputed outcomes over uniformly drawn items, plus the weighted difference of the logged
    outcome's loss and the imputed outcome's loss over the log (Wang et al. 2019, "Doubly Robust Joint Learning").
    """

    net: Net
    n_items: int

    def risk(self, net: Net, batch: Batch, objective: Objective, stream: np.random.Generator) -> Tensor:
        """The doubly robust risk of `net` on a batch."""
        row_M, item_M, labels = batch.row_M, batch.item_M, batch.labels
        # Uniform items stand for the target, a choice that nobody made; the imputed outcomes there need no
        # propensity.
        drawn_M = torch.from_numpy(stream.integers(0, self.n_items, len(row_M)))
        with torch.no_grad():
            guess_SX = self.net.users(batch.rows)
            drawn = self._labels(self.net.pairs(guess_SX, row_M, drawn_M), None)
            logged = self._labels(self.net.pairs(guess_SX, row_M, item_M), labels.value_M)
        user_SX = net.users(batch.rows)
        logits_MH = net.pairs(user_SX, row_M, item_M)
        # E over uniform items of the imputed loss + E over the log of w (loss - imputed loss): the second term takes
        # the imputation's error off, so either right weights or a right imputation suffices. No gradient reaches
        # `self.net`.
        everywhere_M = objective.losses(net.pairs(user_SX, row_M, drawn_M), drawn)
        residual_M = objective.losses(logits_MH, labels) - objective.losses(logits_MH, logged)
        weight_M = 1.0 if labels.weight_M is None else labels.weight_M
        return (everywhere_M + weight_M * residual_M).mean()

    def _labels(self, logits_MH: Tensor, known_M: Tensor | None) -> Labels:
        """Expected outcomes, the conversion given a click; values are nan where the log knows none."""
        value_M = logits_MH[:, VALUE] if logits_MH.shape[1] > VALUE else None
        if value_M is not None and known_M is not None:
            value_M = torch.where(torch.isfinite(known_M), value_M, torch.nan)
        return Labels(torch.sigmoid(logits_MH[:, 0]), torch.sigmoid(logits_MH[:, 1]), value_M=value_M)


@dataclass(frozen=True)
class Catalogue:
    """Choices against the whole catalogue: -log softmax of the click logits, in place of clicks among drawn items.

    A choice among a few drawn items says little in a large catalogue; one against all of it says what was left. A
    network that reads item by item is asked of `ALTERNATIVES` uniformly drawn ones instead, each of which stands for
    (N - 1) / `ALTERNATIVES` of the others (importance sampling; Bengio and Senecal 2003).
    """

    n_items: int

    def losses(self, net: Net, batch: Batch, objective: Objective, stream: np.random.Generator) -> Tensor:
        """Loss of each impression of a batch of choices, (M,)."""
        row_M, item_M = batch.row_M, batch.item_M
        user_SX = net.users(batch.rows)
        logits_MH = net.pairs(user_SX, row_M, item_M)
        own_M = logits_MH[:, CLICK]
        if isinstance(net, FactorisedNet | TwoSided):
            all_M = torch.logsumexp(net.grid(user_SX)[..., CLICK], dim=1)[row_M]
        else:
            drawn_A = torch.from_numpy(stream.integers(0, self.n_items, ALTERNATIVES))
            states = len(user_SX)
            place_Z, drawn_Z = torch.arange(states).repeat_interleave(ALTERNATIVES), drawn_A.repeat(states)
            score_SA = net.pairs(user_SX, place_Z, drawn_Z)[:, CLICK].reshape(states, ALTERNATIVES)
            # each stands for its share of the others; the choice itself stands apart
            other_MA = (drawn_A[None] != item_M[:, None]).to(score_SA.dtype)
            share_M1 = (self.n_items - 1) / other_MA.sum(dim=1, keepdim=True).clamp(min=1)
            weighed_MA = score_SA[row_M] + torch.log(other_MA * share_M1)
            all_M = torch.logsumexp(torch.cat([own_M[:, None], weighed_MA], dim=1), dim=1)
        return all_M - own_M + objective.after_choice(logits_MH, batch.labels)

    @torch.no_grad()
    def held_out(self, net: Net, users: UserTensors, log: Log, objective: Objective, labels: Labels) -> float:
        """Mean loss of the choices of `log`, with the same drawn items at each call."""
        stream, total = numpy_stream(0, "simulator", "catalogue", "held out"), 0.0
        if not len(log):
            return total
        batches = _Batches(log, labels, HELD_OUT)
        for batch in batches.shuffled(users, stream):
            total += float(self.losses(net, batch, objective, stream).sum())
        return total / len(log)


def fit_net(
    net: Net,
    users: UserTensors,
    train: Log,
    valid: Log,
    settings: SimulatorSettings,
    seed: int,
    *,
    objective: Objective | None = None,
    labels: tuple[Labels, Labels] | None = None,
    imputation: Imputation | None = None,
    catalogue: Catalogue | None = None,
) -> FitCurve:
    """Trains `net` in place and leaves it at the epoch with the least held-out loss.

    Args:
        net: A fresh network.
        users: The encoded states that the row numbers of both logs point to.
        train: Impressions to fit.
        valid: Later impressions, for early stopping.
        settings: Epochs, batch size (impressions) and learning rate (decays linearly to a fiftieth).
        seed: Seed of the order of the batches.
        objective: The loss; by default the funnel's likelihood.
        labels: Labels of both logs with weights, values and places; by default clicks and conversions alone.
        imputation: Makes the loss doubly robust.
        catalogue: Holds clicks against the whole catalogue; what was not clicked is then not read.
    """
    objective = objective or Objective()
    known, held_out = labels or (plain_labels(train), plain_labels(valid))
    size = settings.batch_size
    if catalogue is not None:
        # as many steps as with the drawn items
        size = max(1, round(size * float(train.click_M.mean())))
        (train, known), (valid, held_out) = _clicked(train, known), _clicked(valid, held_out)
    # Examination by place, where it is fitted, learns with the network through the same likelihood.
    own = [] if objective.examination is None else [p for p in objective.examination.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW([*net.parameters(), *own], lr=settings.learning_rate, weight_decay=1e-3)
    batches = _Batches(train, known, size)
    total = settings.epochs * batches.count
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, total_iters=total)
    average = AveragedModel(cast(torch.nn.Module, net), multi_avg_fn=get_ema_multi_avg_fn(AVERAGE))  # type: ignore[no-untyped-call]
    mean_net = cast(Net, average.module)  # a moving average of the weights: less noise than any single step
    best, kept, state = np.inf, -1, net.state_dict()
    train_curve, valid_curve = [], []
    with Bar("Behaviour model", total) as bar:
        for epoch in range(settings.epochs):
            losses = []
            draws = numpy_stream(seed, "simulator", "imputation", epoch)
            for batch in batches.shuffled(users, numpy_stream(seed, "simulator", "batches", epoch)):
                optimiser.zero_grad(set_to_none=True)
                if catalogue is not None:
                    data_loss = catalogue.losses(net, batch, objective, draws).mean()
                elif imputation is None:
                    data_loss = objective(net.pairs(net.users(batch.rows), batch.row_M, batch.item_M), batch.labels)
                else:
                    data_loss = imputation.risk(net, batch, objective, draws)
                # MAP: (sum of losses - log prior) / M is the mean loss plus penalty / M, so the prior weighs less the
                # more was logged.
                (data_loss + net.penalty() / len(train)).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                average.update_parameters(cast(torch.nn.Module, net))
                losses.append(data_loss.item())
                bar.advance(note=f"loss {losses[-1]:.4f}")
            train_curve.append(float(np.mean(losses)))
            # The moving average is what is judged and kept: the last iterate of a stochastic method is noisier than
            # the mean of its last hundred (Polyak and Juditsky 1992).
            ask = held_out_loss if catalogue is None else catalogue.held_out
            valid_curve.append(ask(mean_net, users, valid, objective, held_out))
            if not np.isfinite(valid_curve[-1]):
                raise DataError("The behaviour model's loss is not finite; lower simulator.learning_rate.")
            if valid_curve[-1] < best:
                best, kept = valid_curve[-1], epoch
                state = {name: value.clone() for name, value in mean_net.state_dict().items()}
            # Later impressions decide, not a random part: a model is used on what comes after its log.
            elif epoch - kept >= PATIENCE:
                break
    net.load_state_dict(state)
    return FitCurve(tuple(train_curve), tuple(valid_curve), kept)


def _clicked(log: Log, labels: Labels) -> tuple[Log, Labels]:
    at_M = np.flatnonzero(log.click_M > 0)
    return log.part(at_M), labels.at(torch.from_numpy(at_M))


def plain_labels(log: Log) -> Labels:
    """Clicks and conversions of a log, as float64."""
    return Labels(torch.from_numpy(log.click_M), torch.from_numpy(log.conversion_M))


@torch.no_grad()
def pair_logits(net: Net, users: UserTensors, row_M: IntArray, item_M: IntArray, chunk: int = 65536) -> FloatArray:
    """Logits (M, 2) of pairs, `chunk` at a time; `row_M` must be sorted for speed, not for correctness."""
    parts = []
    for low in range(0, len(row_M), chunk):
        rows_S, row_m = np.unique(row_M[low : low + chunk], return_inverse=True)
        user_SX = net.users(users.rows(torch.from_numpy(rows_S)))
        parts.append(net.pairs(user_SX, torch.from_numpy(row_m), torch.from_numpy(item_M[low : low + chunk])))
    return torch.cat(parts).double().numpy() if parts else np.zeros((0, 2))


@torch.no_grad()
def held_out_loss(net: Net, users: UserTensors, log: Log, objective: Objective, labels: Labels) -> float:
    """The loss on `log`."""
    return float(objective(torch.from_numpy(pair_logits(net, users, log.row_M, log.item_M)), labels))


class _Batches:
    """Batches of whole states with all their impressions, so that each state is encoded once an epoch."""

    def __init__(self, log: Log, labels: Labels, size: int) -> None:
        order = np.argsort(log.row_M, kind="stable")
        self.rows_S, self.start_S, self.count_S = np.unique(log.row_M[order], return_index=True, return_counts=True)
        self.item_M = torch.from_numpy(log.item_M[order])
        self.labels = labels.at(torch.from_numpy(order)).single()
        # `size` counts impressions, batches are of states: about as many states as hold so many impressions.
        self.states = max(1, round(size / float(self.count_S.mean())))
        self.count = -(-len(self.rows_S) // self.states)

    def shuffled(self, users: UserTensors, stream: np.random.Generator) -> Iterator[Batch]:
        """Yields all batches in a random order; `users` are what the log's rows point to."""
        order = stream.permutation(len(self.rows_S))
        for low in range(0, len(order), self.states):
            part = order[low : low + self.states]
            count_S = self.count_S[part]
            row_M = np.repeat(np.arange(len(part)), count_S)
            # 0, 1, ..., n - 1 for each state in turn, without a loop: running number less the number at which the
            # state began.
            within_M = np.arange(count_S.sum()) - np.repeat(np.cumsum(count_S) - count_S, count_S)
            at_M = torch.from_numpy(self.start_S[part][row_M] + within_M)
            rows = users.rows(torch.from_numpy(self.rows_S[part]))
            yield Batch(rows, torch.from_numpy(row_M), self.item_M[at_M], self.labels.at(at_M))
