"""The networks look backwards only, whatever the padding; the losses are those of a plain loop over the places."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from llmrec.baselines.neural import training
from llmrec.baselines.neural.networks import GRU4RecNet, NCFNet, SASRecNet, SequenceNet
from llmrec.baselines.neural.sequences import TokenRows
from llmrec.baselines.neural.settings import GRU4RecSettings, NCFSettings, SASRecSettings
from llmrec.baselines.neural.training import batch_loss, drawn_others, scores

N = 7
CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {
    "sasrec": SASRecSettings(hidden=8, history=6, dropout=0.3),
    "gru4rec": GRU4RecSettings(hidden=8, history=6, dropout=0.3, layers=2),
    "ncf": NCFSettings(hidden=8, history=6, mlp=(6, 4)),
}
NAMES = tuple(SETTINGS)


def network(name: str, seed: int = 0) -> SequenceNet:
    """An untrained network whose weights are large enough for differences to be seen."""
    torch.manual_seed(seed)
    settings = SETTINGS[name]
    made: dict[str, Any] = {"sasrec": SASRecNet, "gru4rec": GRU4RecNet, "ncf": NCFNet}
    net: SequenceNet = made[name](N, settings).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net


def rows() -> TokenRows:
    tokens = np.array([[N, 1, 2, 5], [3, 3, N, N], [N, N, N, N]])  # two and three places of padding
    targets = np.array([[1, 2, 5, 0], [3, 6, -1, -1], [4, -1, -1, -1]])
    return TokenRows(tokens, np.array([4, 2, 1]), targets)


@pytest.mark.parametrize("name", NAMES)
def test_a_later_item_changes_nothing_before_it(name: str) -> None:
    net = network(name)
    before = torch.tensor([[N, 1, 2, 5, 4, 0]])
    with torch.no_grad():
        plain = net.logits(net.encode(before)[0])
        for place in range(1, 6):
            changed = before.clone()
            changed[0, place] = (before[0, place] + 1) % N
            other = net.logits(net.encode(changed)[0])
            assert torch.equal(other[:place], plain[:place])
            assert (other[place:] - plain[place:]).abs().amax(dim=1).min() > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_padding_and_the_company_of_other_rows_change_nothing(name: str) -> None:
    net, settings = network(name), SETTINGS[name]
    together = scores(net, rows(), N, settings)
    for row, (tokens, count) in enumerate(zip(rows().token_BL, rows().length_B, strict=True)):
        alone = TokenRows(tokens[None, :count], np.array([count]), np.full((1, count), -1))
        assert scores(net, alone, N, settings)[0] == pytest.approx(together[row], abs=1e-12)
    if settings.loss == "softmax":
        assert np.exp(together).sum(axis=1) == pytest.approx(1.0)


def test_scoring_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net, settings = network("sasrec"), SETTINGS["sasrec"]
    whole = scores(net, rows(), N, settings)
    monkeypatch.setattr(training, "SCORED_PAIRS", 1)
    assert scores(net, rows(), N, settings) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
def test_softmax_loss_is_that_of_a_plain_loop(name: str) -> None:
    net, twin, batch = network(name), network(name), rows()
    loss = batch_loss(net, batch, SETTINGS[name], CPU)
    loss.backward()
    total, count = torch.zeros((), dtype=torch.float64), 0
    for tokens, length, targets in zip(batch.token_BL, batch.length_B, batch.target_BL, strict=True):
        for place in range(length):
            prefix = torch.from_numpy(tokens[: place + 1])[None]
            vector = twin.encode(prefix)[0, -1]
            score = [vector @ twin.embeddings()[item] + twin.bias_N[item] for item in range(N)]  # type: ignore[operator, index]
            total = total + torch.stack(score).exp().sum().log() - score[int(targets[place])]
            count += 1
    (total / count).backward()
    assert count == 7
    assert loss.item() == pytest.approx(total.item() / count, abs=1e-12)
    for (key, found), wanted in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert found.grad is not None, key
        assert found.grad.numpy() == pytest.approx(wanted.grad.numpy(), abs=1e-10), key  # type: ignore[union-attr]


def test_binary_loss_is_that_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = torch.tensor([[(3 * m + s) % N for s in range(2)] for m in range(7)])
    monkeypatch.setattr(training, "drawn_others", lambda *_: drawn)
    net, batch = network("ncf"), rows()
    settings = NCFSettings(hidden=8, history=6, mlp=(6, 4), negatives=2)
    loss = batch_loss(net, batch, settings, CPU).item()
    total, m = 0.0, 0
    for tokens, length, targets in zip(batch.token_BL, batch.length_B, batch.target_BL, strict=True):
        for place in range(length):
            score = neumf(net, tokens[: place + 1])
            total += math.log1p(math.exp(-score[targets[place]]))
            total += sum(math.log1p(math.exp(score[item])) for item in drawn[m].tolist())
            m += 1
    assert loss == pytest.approx(total / 7, abs=1e-12)


def neumf(net: Any, tokens: np.ndarray) -> np.ndarray:
    """The paper's formula pair by pair: h . [p * q, relu(W relu(V [p, q]))]."""
    value = {key: tensor.detach().numpy() for key, tensor in net.named_parameters()}
    user = np.mean([value["read.weight"][token] for token in tokens], axis=0)
    found = []
    for item in range(N):
        product = user[:8] * value["product.weight"][item]
        first = np.hstack([value["of_user.weight"], value["of_item.weight"]])
        inner = np.maximum(0, first @ np.concatenate([user[8:], value["pair.weight"][item]]) + value["of_user.bias"])
        inner = np.maximum(0, value["layers.0.weight"] @ inner + value["layers.0.bias"])
        found.append(value["weigh.weight"][0] @ product + value["weigh.bias"][0] + value["last.weight"][0] @ inner)
    return np.array(found)


@pytest.mark.parametrize("name", NAMES)
def test_scores_of_pairs_are_those_of_the_whole_catalogue(name: str) -> None:
    net = network(name)
    with torch.no_grad():
        vectors = net.encode(torch.tensor([[N, 1, 2]]))[0]
        items = torch.tensor([[0, 6], [3, 3], [5, 1]])
        assert torch.allclose(net.pairs(vectors, items), net.logits(vectors).gather(1, items), atol=1e-12)


def test_negatives_are_uniform_over_the_other_items() -> None:
    torch.manual_seed(0)
    drawn = drawn_others(torch.tensor([0, 3, 6]), N, 14_000)
    for target, row in zip((0, 3, 6), drawn, strict=True):
        counts = torch.bincount(row, minlength=N)
        assert counts[target] == 0
        others = np.delete(counts.numpy(), target)
        assert others / 14_000 == pytest.approx(np.full(N - 1, 1 / 6), abs=0.015)
    assert drawn_others(torch.tensor([0]), 1, 4).shape == (1, 0)
