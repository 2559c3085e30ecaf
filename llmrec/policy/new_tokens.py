"""New words for a tokenizer and new rows for a model: the tokens that semantic and atomic identifiers are written in.

The words are special tokens, so that no untrusted text can spell them: the cleaners of prompts and titles break up
whatever reads like one. A new row starts where the model's own rows lie. Rows left as they happen to be allocated, or
all equal, take much of a short training to come apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken
from torch import Tensor

from llmrec.catalogue.identifiers.embeddings import Vectors, reduced
from llmrec.errors import ConfigError
from llmrec.policy.modes import base_model
from llmrec.seeding import torch_stream

SPREAD = 1.0
"""Standard deviation of a new row around its mean, in standard deviations of the rows that are there."""
DESCRIBED_SPREAD = 0.5
"""The same for rows that start at the mean of other tokens."""
VECTOR_SPREAD = 2.5
"""The same for rows that start at given vectors: the part of a row that tells items apart should be heard at once."""


def add_words(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """Adds `words` to `tokenizer` as special tokens, each of them one token, and returns their ids.

    Raises:
        ConfigError: a word twice, or one that the tokenizer has already.
    """
    known = tokenizer.get_vocab()
    there = [word for word in words if word in known]
    if there:
        raise ConfigError(
            f"The tokenizer has {len(there)} of the identifiers' words already, {there[0]!r} among them; use a "
            "tokenizer to which no identifiers were added."
        )
    if len(set(words)) != len(words):
        twice = next(word for i, word in enumerate(words) if word in words[:i])
        raise ConfigError(
            f"The word {twice!r} stands twice among the identifiers' words; give each item words of its own."
        )
    tokenizer.add_tokens([AddedToken(word, special=True, normalized=False) for word in words], special_tokens=True)
    return [int(i) for i in tokenizer.convert_tokens_to_ids(list(words))]


@torch.no_grad()
def grow_embeddings(
    model: Any,
    tokenizer: Any,
    ids: Sequence[int],
    *,
    describe: Sequence[Sequence[int]] | None = None,
    vectors: Vectors | None = None,
    seed: int,
) -> None:
    """Gives `model` rows for the tokens `ids` that were added to `tokenizer`, in place.

    The embedding (and an output head of its own) grows only where the model has fewer rows than the tokenizer has
    tokens; some have spare rows. Each new row is drawn from a normal distribution: around the mean of all old rows,
    or of the rows of the tokens that describe it, with the old rows' spread in each dimension.

    Args:
        model: a causal language model without PEFT layers.
        tokenizer: has the new words; its other tokens are those that the model was trained on.
        ids: the new words' token ids.
        describe: for each word the ids of known tokens (it may have none), for example of the titles it stands for.
        vectors: for each word what it stands for, (n, D); a row starts at its direction, brought to the model's
            width. A word whose vector is 0 starts as without.
        seed: run seed.

    Raises:
        ConfigError: a PEFT model, or as many descriptions as there are not words.
    """
    if base_model(model) is not model:
        raise ConfigError("New tokens go into the model before its LoRA layers do; grow the embeddings first.")
    if describe is not None and len(describe) != len(ids):
        raise ConfigError(f"{len(ids)} new words but {len(describe)} descriptions; give one for each word.")
    if vectors is not None and len(vectors) != len(ids):
        raise ConfigError(f"{len(ids)} new words but {len(vectors)} vectors; give one for each word.")
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < len(tokenizer):
        # without transformers' own start, which draws from the global generator; the rows are written below
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    new = torch.tensor(list(ids), dtype=torch.long)
    # Rows beyond the tokenizer are spare ones, which were never trained and tell nothing of where rows lie.
    old = torch.ones(min(rows, len(tokenizer)), dtype=torch.bool)
    old[new[new < len(old)]] = False
    old_rows = old.nonzero().squeeze(1)
    placed = None if vectors is None else directions(vectors, embedding.shape[1], seed)
    _fill(embedding, new, old_rows, describe, placed, seed, "input")
    if head is None:
        return
    # tied weights are written once: the second time would start from the rows of the first
    if head.weight is not embedding:
        _fill(head.weight, new, old_rows, describe, placed, seed, "output")
    bias = getattr(head, "bias", None)
    if bias is not None:
        # 0 would make new tokens likelier or rarer than all others before anything is learnt
        bias[new.to(bias.device)] = bias[old_rows.to(bias.device)].mean()


def directions(vectors_nD: Vectors, width: int, seed: int) -> Tensor:
    """Vectors brought to `width` dimensions, each of mean square 1 (a vector of 0 stays): (n, width), float32.

    Wider ones lose their least dimensions (SVD); narrower ones are turned into the wider space by a random rotation,
    so that no dimension of the model is favoured.
    """
    kept = np.asarray(vectors_nD, dtype=np.float64)
    if kept.shape[1] > width:
        kept = np.asarray(reduced(kept, width, seed))
    given = torch.from_numpy(kept)
    # Q of a Gaussian matrix: a random rotation, which keeps angles and lengths and so who is like whom.
    rotation = torch.linalg.qr(
        torch.randn(width, width, dtype=torch.float64, generator=torch_stream(seed, "new tokens", "rotation"))
    )[0]
    turned = given @ rotation[: given.shape[1]]
    size = turned.square().mean(1, keepdim=True).sqrt()
    return torch.where(size > 1e-9, turned / size.clamp(min=1e-9), 0.0).float()


def _fill(
    weight: Tensor,
    new: Tensor,
    old: Tensor,
    describe: Sequence[Sequence[int]] | None,
    placed: Tensor | None,
    seed: int,
    name: str,
) -> None:
    """Writes the rows `new` of `weight` in place."""
    known = weight[old.to(weight.device)].float()
    mean_H, spread_H = known.mean(0), known.std(0)
    noise = torch.randn(len(new), weight.shape[1], generator=torch_stream(seed, "new tokens", name))
    start = mean_H.expand(len(new), -1).clone()
    scale = torch.full((len(new), 1), SPREAD)
    for i, tokens in enumerate(describe or ()):
        if len(tokens):
            start[i] = weight[torch.tensor(list(tokens), device=weight.device)].float().mean(0)
            scale[i] = DESCRIBED_SPREAD
    apart = scale * noise
    if placed is not None:
        there = placed.abs().sum(1) > 0
        start[there.to(start.device)] = mean_H
        apart[there] = VECTOR_SPREAD * placed[there]
    made = start + apart.to(weight.device) * spread_H
    weight[new.to(weight.device)] = made.to(weight.dtype)
