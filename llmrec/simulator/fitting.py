"""Fitting a two-headed behaviour network on impressions: likelihood, a time-ordered check, early stopping.

As in the entire-space multi-task model (ESMM, Ma et al. 2018) both heads are trained together on all impressions and
P(click and conversion) = pCTR * pCVR. The loss differs from the paper's BCE(pCTR, click) + BCE(pCTR * pCVR, click and
conversion), which counts the clicks twice: it is the likelihood of the three outcomes of an impression (nothing, a
click, a click that converts). On generated worlds that predicted conversions better.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from llmrec.config import SimulatorSettings
from llmrec.errors import DataError
from llmrec.progress import Bar
from llmrec.seeding import numpy_stream
from llmrec.simulator.factorised import UserTensors
from llmrec.simulator.log import Log
from llmrec.types import FloatArray, IntArray

PATIENCE = 2
AVERAGE = 0.99
VALID_SHARE = 0.1


class Net(Protocol):
    """What the fitting asks of an architecture (a `torch.nn.Module`)."""

    def users(self, users: UserTensors) -> Tensor: ...  # noqa: D102
    def pairs(self, user_SX: Tensor, row_M: Tensor, item_M: Tensor) -> Tensor: ...  # noqa: D102
    def grid(self, user_SX: Tensor) -> Tensor: ...  # noqa: D102
    def penalty(self) -> Tensor: ...  # noqa: D102
    def parameters(self) -> Iterator[torch.nn.Parameter]: ...  # noqa: D102
    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...  # noqa: D102


@dataclass(frozen=True)
class FitCurve:
    """Mean loss per impression on the fitted and on the held-out part after each epoch, and the epoch kept."""

    train: tuple[float, ...]
    valid: tuple[float, ...]
    kept: int


def funnel_loss(logits_M2: Tensor, click_M: Tensor, conversion_M: Tensor) -> Tensor:
    """Mean of -log P(outcome): 1 - pCTR for nothing, pCTR (1 - pCVR) for a click, pCTR pCVR for a conversion.

    Args:
        logits_M2: Logits of pCTR and pCVR, (M, 2).
        click_M: 0 or 1.
        conversion_M: 0 or 1; 1 only where the click is 1.
    """
    click_loss_M = binary_cross_entropy_with_logits(logits_M2[:, 0], click_M, reduction="none")
    conversion_loss_M = binary_cross_entropy_with_logits(logits_M2[:, 1], conversion_M, reduction="none")
    return (click_loss_M + click_M * conversion_loss_M).mean()


def fit_net(net: Net, users: UserTensors, train: Log, valid: Log, settings: SimulatorSettings, seed: int) -> FitCurve:
    """Trains `net` in place and leaves it at the epoch with the least held-out loss.

    Args:
        net: A fresh network.
        users: The encoded states that the row numbers of both logs point to.
        train: Impressions to fit.
        valid: Later impressions, for early stopping.
        settings: Epochs, batch size (impressions) and learning rate (decays linearly to a tenth).
        seed: Seed of the order of the batches.
    """
    optimiser = torch.optim.AdamW(net.parameters(), lr=settings.learning_rate, weight_decay=1e-3)
    batches = _Batches(train, settings.batch_size)
    total = settings.epochs * batches.count
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, total_iters=total)
    average = AveragedModel(cast(torch.nn.Module, net), multi_avg_fn=get_ema_multi_avg_fn(AVERAGE))  # type: ignore[no-untyped-call]
    mean_net = cast(Net, average.module)  # a moving average of the weights: less noise than any single step
    best, kept, state = np.inf, -1, net.state_dict()
    train_curve, valid_curve = [], []
    with Bar("Behaviour model", total) as bar:
        for epoch in range(settings.epochs):
            losses = []
            for rows_S, row_M, at_M in batches.shuffled(numpy_stream(seed, "simulator", "batches", epoch)):
                optimiser.zero_grad(set_to_none=True)
                logits_M2 = net.pairs(net.users(users.rows(rows_S)), row_M, batches.item_M[at_M])
                data_loss = funnel_loss(logits_M2, batches.click_M[at_M], batches.conversion_M[at_M])
                (data_loss + net.penalty() / len(train)).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                average.update_parameters(cast(torch.nn.Module, net))
                losses.append(data_loss.item())
                bar.advance(note=f"loss {losses[-1]:.4f}")
            train_curve.append(float(np.mean(losses)))
            valid_curve.append(held_out_loss(mean_net, users, valid))
            if not np.isfinite(valid_curve[-1]):
                raise DataError("The behaviour model's loss is not finite; lower simulator.learning_rate.")
            if valid_curve[-1] < best:
                best, kept = valid_curve[-1], epoch
                state = {name: value.clone() for name, value in mean_net.state_dict().items()}
            elif epoch - kept >= PATIENCE:
                break
    net.load_state_dict(state)
    return FitCurve(tuple(train_curve), tuple(valid_curve), kept)


@torch.no_grad()
def pair_logits(net: Net, users: UserTensors, row_M: IntArray, item_M: IntArray, chunk: int = 65536) -> FloatArray:
    """Logits (M, 2) of pairs, `chunk` at a time; `row_M` must be sorted for speed, not for correctness."""
    parts = []
    for low in range(0, len(row_M), chunk):
        rows_S, row_m = np.unique(row_M[low : low + chunk], return_inverse=True)
        user_SX = net.users(users.rows(torch.from_numpy(rows_S)))
        parts.append(net.pairs(user_SX, torch.from_numpy(row_m), torch.from_numpy(item_M[low : low + chunk])))
    return torch.cat(parts).double().numpy() if parts else np.zeros((0, 2))


def held_out_loss(net: Net, users: UserTensors, log: Log) -> float:
    """The loss on `log`."""
    logits_M2 = torch.from_numpy(pair_logits(net, users, log.row_M, log.item_M))
    return float(funnel_loss(logits_M2, torch.from_numpy(log.click_M), torch.from_numpy(log.conversion_M)))


class _Batches:
    """Batches of whole states with all their impressions, so that each state is encoded once an epoch."""

    def __init__(self, log: Log, size: int) -> None:
        order = np.argsort(log.row_M, kind="stable")
        self.rows_S, self.start_S, self.count_S = np.unique(log.row_M[order], return_index=True, return_counts=True)
        self.item_M = torch.from_numpy(log.item_M[order])
        self.click_M = torch.from_numpy(log.click_M[order]).float()
        self.conversion_M = torch.from_numpy(log.conversion_M[order]).float()
        self.states = max(1, round(size / float(self.count_S.mean())))
        self.count = -(-len(self.rows_S) // self.states)

    def shuffled(self, stream: np.random.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields states (S,), the place of each impression's state among them (M,), and the impressions (M,)."""
        order = stream.permutation(len(self.rows_S))
        for low in range(0, len(order), self.states):
            part = order[low : low + self.states]
            count_S = self.count_S[part]
            row_M = np.repeat(np.arange(len(part)), count_S)
            within_M = np.arange(count_S.sum()) - np.repeat(np.cumsum(count_S) - count_S, count_S)
            at_M = self.start_S[part][row_M] + within_M
            yield torch.from_numpy(self.rows_S[part]), torch.from_numpy(row_M), torch.from_numpy(at_M)
