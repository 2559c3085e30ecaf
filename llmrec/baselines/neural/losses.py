"""The two losses: the softmax over the whole catalogue, and the binary one with sampled negatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from llmrec.baselines.neural.networks import SequenceNet
from llmrec.baselines.neural.sequences import TokenRows
from llmrec.baselines.neural.settings import NeuralSettings


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
    drawn_MS = torch.randint(n_items - 1, (len(target_M), count), device=target_M.device)
    return drawn_MS + (drawn_MS >= target_M[:, None])
