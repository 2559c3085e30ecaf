"""Training of the neural recommenders: one loop, early stopping on later events, a bound on the time.

Two losses: the softmax over the whole catalogue, and the binary one with sampled negatives.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmrec.baselines.base import exclude
from llmrec.baselines.neural.networks import SequenceNet
from llmrec.baselines.neural.sequences import HeldOut, Sequences, TokenRows
from llmrec.baselines.neural.settings import NeuralSettings
from llmrec.baselines.ties import expected_gain, ndcg_gain, target_places
from llmrec.errors import DataError
from llmrec.progress import Bar
from llmrec.seeding import numpy_stream, stream_seed
from llmrec.types import FloatArray

HELD_OUT_EVENTS = 2000
"""Held-out events that early stopping ranks after each epoch, at most (a uniform sample)."""
SCORED_PAIRS = 500_000
"""Scores computed at a time: bounds the memory of scoring."""

Stopped = Literal["epochs", "patience", "budget"]


def batch_loss(net: SequenceNet, rows: TokenRows, settings: NeuralSettings, device: torch.device) -> Tensor:
    """Mean loss over the targets of a batch.

    "softmax": -log softmax(scores over all N items) at the target. "bce": -log sigmoid(target's score) - sum over
    `negatives` uniformly drawn other items of log sigmoid(-score).
    """
    state_BLD = net.encode(torch.from_numpy(rows.token_BL).to(device))
    target_BL = torch.from_numpy(rows.target_BL).to(device)
    at_BL = target_BL >= 0
    state_MD, target_M = state_BLD[at_BL], target_BL[at_BL]
    if settings.loss == "softmax":
        return F.cross_entropy(net.logits(state_MD), target_M)
    item_MS = torch.cat([target_M[:, None], drawn_others(target_M, net.n_items, settings.negatives)], dim=1)
    score_MS = net.pairs(state_MD, item_MS)
    return -(F.logsigmoid(score_MS[:, 0]) + F.logsigmoid(-score_MS[:, 1:]).sum(dim=1)).mean()


def drawn_others(target_M: Tensor, n_items: int, count: int) -> Tensor:
    """Items other than the target, uniform, (M, count); none where there is no other."""
    if n_items < 2:
        return target_M.new_zeros((len(target_M), 0))
    # One of the N - 1 others, and past the target by one more: uniform without rejection.
    drawn_MS = torch.randint(n_items - 1, (len(target_M), count), device=target_M.device)
    return drawn_MS + (drawn_MS >= target_M[:, None])


@dataclass(frozen=True)
class FitRecord:
    """How a training went.

    Attributes:
        train_loss: mean loss of a target in each epoch.
        valid_ndcg: NDCG@10 on the held-out events after each epoch; empty without held-out events.
        kept: epochs of the weights that were kept; with `refit`, those that the second training ran.
        stopped: what ended the (first) training.
        refitted: whether the kept weights are those of a second training on all events.
        seconds: wall time of everything.
    """

    train_loss: tuple[float, ...]
    valid_ndcg: tuple[float, ...]
    kept: int
    stopped: Stopped
    refitted: bool
    seconds: float


@dataclass(frozen=True)
class Trainer:
    """Trains networks that `make` gives, under a name that its random streams carry.

    Args:
        make: gives a fresh network.
        settings: see `NeuralSettings`.
        seed: run seed.
        name: of the recommender.
        repeats: whether what a user has chosen before may be recommended.
    """

    make: Callable[[], SequenceNet]
    settings: NeuralSettings
    seed: int
    name: str
    repeats: bool

    def fit(self, sequences: Sequences, held_out: HeldOut | None = None) -> tuple[SequenceNet, FitRecord]:
        """A trained network in evaluation mode, and how it went.

        The network is that of the epoch with the best NDCG@10 on held-out events. Where none are given, they are the
        latest of `sequences`; with `refit` a network is then trained anew on all events for as many epochs, where the
        budget lasts for it.

        Raises:
            DataError: the loss is not finite.
        """
        start, settings = time.monotonic(), self.settings
        end = math.inf if settings.budget_seconds is None else start + settings.budget_seconds
        if held_out is not None:
            net, found = self._run(sequences, held_out, settings.epochs, end)
            return net, _record(found, False, start)
        cut = sequences.cut(settings.valid_fraction)
        if cut is not None:
            stream = numpy_stream(self.seed, "baseline", self.name, "held out")
            held_out = sequences.held_out(cut, settings.history, HELD_OUT_EVENTS, stream, repeats=self.repeats)
        if cut is None or not held_out:
            net, found = self._run(sequences, None, settings.epochs, end)
            return net, _record(found, False, start)
        # A second training takes less time than the first, so half of the budget is its share.
        share = end if not settings.refit else start + (end - start) / 2
        net, found = self._run(sequences.before(cut), held_out, settings.epochs, share)
        # The epochs are chosen by later events, and these are then learnt from as well.
        if settings.refit and found.stopped != "budget":
            again, second = self._run(sequences, None, found.kept, end)
            if second.stopped == "epochs":
                return again, _record(found, True, start)
        return net, _record(found, False, start)

    def _run(
        self, sequences: Sequences, held_out: HeldOut | None, epochs: int, end: float
    ) -> tuple[SequenceNet, _Run]:
        settings = self.settings
        with seeded(stream_seed(self.seed, "baseline", self.name, "weights"), settings):
            device = device_of(settings)
            net = self.make().to(device)
            optimiser = torch.optim.AdamW(
                net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
            )
            run = _Run()
            with Bar(f"Training {self.name} (epochs)", epochs) as bar:
                for epoch in range(epochs):
                    finished = self._epoch(net, optimiser, sequences, epoch, run, end)
                    if held_out is not None:
                        self._judge(net, held_out, run)
                    bar.advance(note=run.note())
                    if not finished or time.monotonic() > end:
                        run.stopped = "budget"
                        break
                    if held_out is not None and epoch + 1 - run.kept >= settings.patience:
                        run.stopped = "patience"
                        break
            if run.best is None:
                run.kept = len(run.train_loss)
            else:
                net.load_state_dict(run.best)
        return net.eval(), run

    def _epoch(
        self,
        net: SequenceNet,
        optimiser: torch.optim.Optimizer,
        sequences: Sequences,
        epoch: int,
        run: _Run,
        end: float,
    ) -> bool:
        """One pass over the events (at least one step); False where the time ended before it did."""
        settings, device = self.settings, device_of(self.settings)
        net.train()
        total, targets = 0.0, 0
        finished = True
        stream = numpy_stream(self.seed, "baseline", self.name, "batches", epoch)
        for rows in sequences.batches(settings.history, settings.batch_size, stream):
            optimiser.zero_grad(set_to_none=True)
            loss = batch_loss(net, rows, settings, device)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            count = int(rows.length_B.sum())
            total, targets = total + float(loss.detach()) * count, targets + count
            if time.monotonic() > end:
                finished = False
                break
        run.train_loss.append(total / max(1, targets))
        if not math.isfinite(run.train_loss[-1]):
            raise DataError(f"The loss of {self.name} is not finite in epoch {epoch + 1}; lower its learning_rate.")
        return finished

    def _judge(self, net: SequenceNet, held_out: HeldOut, run: _Run) -> None:
        run.valid_ndcg.append(held_out_ndcg(net, held_out, self.settings, repeats=self.repeats))
        if run.valid_ndcg[-1] > max(run.valid_ndcg[:-1], default=-1.0):
            run.kept = len(run.valid_ndcg)
            run.best = copy.deepcopy(net.state_dict())


@dataclass
class _Run:
    train_loss: list[float] = field(default_factory=list)
    valid_ndcg: list[float] = field(default_factory=list)
    kept: int = 0
    stopped: Stopped = "epochs"
    best: dict[str, Tensor] | None = None

    def note(self) -> str:
        judged = f", held-out NDCG@10 {self.valid_ndcg[-1]:.4f}" if self.valid_ndcg else ""
        return f"loss {self.train_loss[-1]:.4f}{judged}"


def _record(run: _Run, refitted: bool, start: float) -> FitRecord:
    seconds = time.monotonic() - start
    return FitRecord(tuple(run.train_loss), tuple(run.valid_ndcg), run.kept, run.stopped, refitted, seconds)


@torch.no_grad()
def scores(net: SequenceNet, rows: TokenRows, n_items: int, settings: NeuralSettings) -> FloatArray:
    """Scores of all items after each row's last token, (B, N) in double precision.

    Under "softmax" they are log-probabilities, under "bce" log-odds.
    """
    net.eval()
    device, step = device_of(settings), max(1, SCORED_PAIRS // n_items)
    found_BN = np.empty((len(rows.length_B), n_items))
    for low in range(0, len(found_BN), step):
        length_B = rows.length_B[low : low + step]
        token_BL = torch.from_numpy(rows.token_BL[low : low + step, : int(length_B.max())]).to(device)
        state_BD = net.encode(token_BL)[torch.arange(len(length_B)), torch.from_numpy(length_B - 1).to(device)]
        score_BN = net.logits(state_BD).double()
        found_BN[low : low + step] = (score_BN.log_softmax(-1) if settings.loss == "softmax" else score_BN).cpu()
    return found_BN


def held_out_ndcg(net: SequenceNet, held_out: HeldOut, settings: NeuralSettings, *, repeats: bool) -> float:
    """Mean NDCG@10 of the held-out events, equal scores at their expectation."""
    found_VN = scores(net, held_out.rows, net.n_items, settings)
    if not repeats:
        found_VN = exclude(found_VN, held_out.seen)
    places = target_places(found_VN, held_out.target_V)
    return float(expected_gain(*places, ndcg_gain(10)).mean())


def device_of(settings: NeuralSettings) -> torch.device:
    """Where the network lives."""
    return torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))


@contextlib.contextmanager
def threads(settings: NeuralSettings) -> Iterator[None]:
    """Sets torch's threads as the settings say and gives them back."""
    before = torch.get_num_threads()
    if settings.n_threads is not None:
        torch.set_num_threads(settings.n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def seeded(seed: int, settings: NeuralSettings) -> Iterator[None]:
    """torch's global stream (weights, dropout, negatives) from `seed`, and as it was before afterwards."""
    devices = [device_of(settings)] if device_of(settings).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
