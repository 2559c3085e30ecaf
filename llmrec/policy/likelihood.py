"""The likelihood that a model gives to the text of every item: what it knows without having been trained on a log.

    s(i | prompt) = sum over the tokens of i of log P(token | prompt, tokens before)

P is the softmax over the model's whole vocabulary, as it was pretrained, and the tokens of an item include what ends
it: without its end "Batman" would have all that "Batman Forever" has. pi is unfit for this. It is normalised among
legal tokens, so that forced ones are free, and an untrained model then prefers whatever begins with an unlikely token
that few items share ("101 Dalmatians").

*All items at once.* The prompt is read once and every node of the tree that is needed once, in pieces that fit the
cache: `read_tree`. It is the plain twin of the search, and the faster way on a small catalogue.

*Only what tells items apart.* Most tokens of a title come after the one that decides which item it is, and the state
says little about them. With `tokens` (how many tokens of an item are read at a state, and none behind the one that
decides it) the rest has the likelihood that it has without a state: 1,682 film titles are a tree of 16,147 prefixes,
of which 596 do not decide, 213 of them within the first token. It is an approximation of s; in s less s without a
state the rest cancels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llmrec.catalogue.allowed import ranges, take
from llmrec.catalogue.index import PrefixIndex
from llmrec.errors import RequestError
from llmrec.policy.decoding import walker_of
from llmrec.policy.edges import Edges
from llmrec.policy.heads import checked_head
from llmrec.policy.modes import device_of, evaluating
from llmrec.policy.walks import token_log_probs

PIECE = 192
"""Nodes of a state that are read together: more see one another in a mask that grows with their square."""


@torch.no_grad()
def read_tree(
    model: Any,
    prompt_ids_BP: Tensor,
    prompt_mask_BP: Tensor,
    index: PrefixIndex,
    *,
    tokens: int | None = None,
) -> Tensor:
    """log P of the token into every node that is read, given its prefix: (B, M) float64, 0 elsewhere.

    The model is in evaluation mode meanwhile.

    Args:
        model: a Hugging Face or PEFT causal language model.
        prompt_ids_BP: token ids.
        prompt_mask_BP: 1 at tokens, 0 at padding.
        index: the catalogue's prefix index.
        tokens: of each item that are read at most; None reads items to their end.

    Raises:
        RequestError: tokens below 1, or prompt and item are longer than the model can read.
        RunError: logits are not finite, or the model's head is of an unknown kind.
    """
    index, head = index.to(device_of(model)), checked_head(model)
    nodes, users = nodes_to_read(index, tokens), len(prompt_ids_BP)
    value_BM = torch.zeros((users, index.n_nodes), dtype=torch.float64, device=index.device)
    with evaluating(model):
        walker = walker_of(model, prompt_ids_BP, prompt_mask_BP, index)
        for piece in torch.split(nodes, PIECE):
            user_U = torch.arange(users, device=index.device).repeat_interleave(len(piece))
            edges = Edges.of(index, user_U, piece.repeat(users), None)
            value_E = token_log_probs(head, walker.hidden(edges.user_U, edges.node_U), edges)
            value_BM[edges.user_U[edges.state_E], edges.child_E] = value_E
            walker.forget()
    return value_BM


def nodes_to_read(index: PrefixIndex, tokens: int | None) -> Tensor:
    """The nodes whose next tokens are read, each below those before it where it lies below any: (R,).

    Raises:
        RequestError: tokens below 1.
    """
    if tokens is not None and tokens < 1:
        raise RequestError(f"Reading {tokens} tokens of an item says nothing about it; read at least 1.")
    read_M = index.degree_M > 0 if tokens is None else (index.size_M > 1) & (index.depth_M < tokens)
    read_M[0] = True  # the only item's first token, too
    nodes = torch.nonzero(read_M).view(-1)
    low, _ = index.range_of(nodes)
    # by first row and then depth: a walk through the tree, so that a piece shares most of its ancestors
    return nodes[torch.argsort(low * (index.max_length + 1) + take(index.depth_M, nodes).long())]


def is_read(index: PrefixIndex, tokens: int | None) -> Tensor:
    """Whether the token into each node is read: bool (M,)."""
    nodes = nodes_to_read(index, tokens)
    children, _ = ranges(take(index.first_child_M, nodes).long(), take(index.degree_M, nodes).long())
    out = torch.zeros(index.n_nodes, dtype=torch.bool, device=index.device)
    out[children] = True
    return out


def among_legal(index: PrefixIndex, value_BM: Tensor) -> Tensor:
    """The values of `read_tree` normalised among the legal tokens of each prefix: log pi of each token, (B, M).

    Where every prefix that branches was read, sums along items are log pi(item | state): one reading tells both.
    """
    parents = torch.nonzero(index.degree_M > 1).view(-1)
    child_E, parent_E = ranges(take(index.first_child_M, parents).long(), take(index.degree_M, parents).long())
    value_BE = value_BM[:, child_E]
    place_BE = parent_E.expand_as(value_BE)
    top_BP = value_BM.new_full((len(value_BM), len(parents)), -torch.inf)
    top_BP = top_BP.scatter_reduce(1, place_BE, value_BE, "amax")
    total_BP = torch.zeros_like(top_BP).scatter_add(1, place_BE, (value_BE - top_BP.gather(1, place_BE)).exp())
    out_BM = torch.zeros_like(value_BM)
    out_BM[:, child_E] = value_BE - (top_BP + total_BP.log()).gather(1, place_BE)
    return out_BM


def item_sums(index: PrefixIndex, value_BM: Tensor) -> Tensor:
    """Sums of node values along each item, by item index: (B, N)."""
    total_BN = value_BM.new_zeros((len(value_BM), index.n_items))
    for level in range(index.max_length):
        node_R = index.path_NL[:, level].long()
        total_BN += torch.where(node_R >= 0, value_BM[:, node_R.clamp(min=0)], 0.0)
    return total_BN[:, index.row_of_item_N]
