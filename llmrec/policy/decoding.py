"""The best items of a state, and independent draws of items, both over legal tokens only.

Decoding walks the prefix tree from branching to branching: forced tokens cost no step, and a prefix that leads to one
item is finished. Nothing is ever read from a checkpoint's generation configuration.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmrec.catalogue.allowed import Allowed, take
from llmrec.catalogue.index import PrefixIndex
from llmrec.errors import RequestError
from llmrec.policy.edges import Edges, require_roots, table_places
from llmrec.policy.engine import Engine
from llmrec.policy.heads import Head, checked_head
from llmrec.policy.kept import KeptPrompts
from llmrec.policy.modes import device_of, evaluating
from llmrec.policy.packing import align, require_room
from llmrec.policy.prefill import PlainPrefill, Prefill, SharedPrefill
from llmrec.policy.sharing import supports_sharing


@dataclass(frozen=True)
class Samples:
    """G independent draws for each of B prompts: item indices and log-probabilities under the sampling policy.

    `token_log_prob_BGL` is 0 at forced tokens and after the end; `log_prob_BG` is its sum over tokens.
    """

    items_BG: Tensor
    log_prob_BG: Tensor
    token_log_prob_BGL: Tensor


@dataclass(frozen=True)
class Found:
    """The best items found.

    Attributes:
        items_BK: item indices, best first; -1 where fewer were found.
        log_prob_BK: log pi; -inf where there is no item. float64 of a best-first search.
        proven_B: whether the list is shown to be the exact one.
        bound_B: log pi that an item outside the list can have at most; -inf where none is left. Places with
            `log_prob_BK >= bound_B` are exact, whether or not the search was ended early.
        expansions_B: prefixes whose continuations were computed.
    """

    items_BK: Tensor
    log_prob_BK: Tensor
    proven_B: Tensor
    bound_B: Tensor
    expansions_B: Tensor


def walker_of(
    model: Any,
    ids_BP: Tensor,
    mask_BP: Tensor,
    index: PrefixIndex,
    kept: KeptPrompts | None = None,
    names: Sequence[Hashable] = (),
) -> Prefill:
    """What walks down the tree from these prompts: in one row a prompt where the model allows it.

    What `kept` has of the prompts of these names is not read again, and they are kept; where the model does not allow
    rows to be shared nothing is.
    """
    prompts = align(ids_BP.to(index.device), mask_BP.to(index.device))
    require_room(model, prompts, index)
    if isinstance(model, Engine):
        own: Prefill = model.walker(prompts, index)
        return own
    shared = supports_sharing(model, prompts.ids_BP.shape[1] + index.max_length)
    return SharedPrefill(model, prompts, index, kept, names) if shared else PlainPrefill(model, prompts, index)


def beam_search(
    model: Any,
    prompt_ids_BP: Tensor,
    prompt_mask_BP: Tensor,
    k: int,
    index: PrefixIndex,
    *,
    beams: int | None = None,
    exclude: Tensor | Allowed | None = None,
) -> tuple[Tensor, Tensor]:
    """The k best items of each prompt by log pi(item | state), which exclusions prune but never change.

    With `beams` at least the catalogue's size the ranking is exact. The model is in evaluation mode meanwhile.

    Args:
        model: a Hugging Face or PEFT causal language model.
        prompt_ids_BP: token ids.
        prompt_mask_BP: 1 at tokens, 0 at padding.
        k: items wanted.
        index: the catalogue's prefix index.
        beams: width of the search, at least k; 2k and at least 20 by default.
        exclude: item indices (B, E) padded with -1, or a filter made beforehand.

    Returns:
        Item indices (B, k), best first, and log pi; -1 and -inf where fewer items are allowed.

    Raises:
        RequestError: k below 1 or above the catalogue's size, or beams below k.
    """
    found = certified_beams(model, prompt_ids_BP, prompt_mask_BP, k, index, beams=beams, exclude=exclude)
    return found.items_BK, found.log_prob_BK


@torch.no_grad()
def certified_beams(
    model: Any,
    prompt_ids_BP: Tensor,
    prompt_mask_BP: Tensor,
    k: int,
    index: PrefixIndex,
    *,
    beams: int | None = None,
    exclude: Tensor | Allowed | None = None,
    walker: Prefill | None = None,
) -> Found:
    """`beam_search` with what it can say for certain: the best prefix that it let go bounds all that it did not list.

    Args:
        model: see `beam_search`, as the others.
        prompt_ids_BP: token ids.
        prompt_mask_BP: 1 at tokens, 0 at padding.
        k: items wanted.
        index: the catalogue's prefix index.
        beams: width of the search.
        exclude: items to leave out.
        walker: these prompts where they were read before, with the same model and index.

    Raises:
        RequestError: see `beam_search`.
    """
    check_k(k, index.n_items)
    beams = max(2 * k, 20) if beams is None else beams
    if beams < k:
        raise RequestError(f"{beams} beams cannot hold {k} items; give at least as many beams as items.")
    index, head = index.to(device_of(model)), checked_head(model)
    exclusion = index.exclusion(exclude)
    with evaluating(model):
        walker = walker or walker_of(model, prompt_ids_BP, prompt_mask_BP, index)
        node = torch.zeros((len(prompt_ids_BP), 1), dtype=torch.long, device=index.device)
        users = torch.arange(len(node), device=index.device).unsqueeze(1)
        score = torch.zeros(node.shape, device=index.device)
        # a user who is left no item gets none, in a batch whose other users get theirs
        score = score.masked_fill(~index.is_allowed(node, users, exclusion), -torch.inf)
        bound, expansions = torch.full_like(score[:, 0], -torch.inf), torch.zeros_like(node[:, 0])
        score, live, bound = _living(index, node, score, k, bound)
        while bool(live.any()):
            expansions = expansions + live.sum(1)
            width = min(beams, index.n_items)
            node, score, bound = _extend(walker, head, index, exclusion, node, score, live, width, bound)
            score, live, bound = _living(index, node, score, k, bound)
    return _best(index, node, score, k, bound, expansions)


def _living(
    index: PrefixIndex, node_BK: Tensor, score_BK: Tensor, k: int, bound_B: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Drops beams below the k-th best finished item, which they cannot pass, and tells which are still to extend."""
    decided = index.is_decided(node_BK)
    if k <= score_BK.shape[1]:
        finished = score_BK.masked_fill(~decided, -torch.inf)
        # log pi only falls on the way down, so what lies below k finished items already will end below them
        below = score_BK < finished.topk(k, dim=1).values[:, -1:]
        bound_B = torch.maximum(bound_B, score_BK.masked_fill(~below, -torch.inf).amax(1))
        score_BK = score_BK.masked_fill(below, -torch.inf)
    return score_BK, torch.isfinite(score_BK) & ~decided, bound_B


def _extend(
    walker: Prefill,
    head: Head,
    index: PrefixIndex,
    exclusion: Allowed | None,
    node_BK: Tensor,
    score_BK: Tensor,
    live_BK: Tensor,
    beams: int,
    bound_B: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Replaces live beams by their children and keeps the best; finished beams compete with the score they have."""
    user_U, _ = torch.nonzero(live_BK, as_tuple=True)
    # All edges, whatever is excluded: a softmax over what a filter has left would rank by pi_F, whose seen items hand
    # their mass to their siblings. The filter takes children away afterwards.
    edges = Edges.of(index, user_U, index.settle(node_BK[live_BK]), None)
    hidden = walker.hidden(edges.user_U, edges.node_U)
    value_E = take(score_BK[live_BK], edges.state_E) + edges.log_probs(hidden, head, index, 1.0).to(score_BK.dtype)
    user_E = take(user_U, edges.state_E)
    open_E = edges.is_open(index, exclusion)
    if open_E is not None:
        value_E = value_E.masked_fill(~open_E, -torch.inf)
    shape, at = table_places(user_E, len(node_BK))
    value = score_BK.new_full(shape, -torch.inf).index_put(at, value_E)
    child = node_BK.new_zeros(shape).index_put(at, edges.child_E)
    value = torch.cat([score_BK.masked_fill(live_BK, -torch.inf), value], 1)
    child = torch.cat([node_BK, child], 1)
    # finished beams stand in the same contest: each of them would else hold a place that a better prefix could use
    score, kept = value.topk(min(beams + 1, value.shape[1]), dim=1)
    if score.shape[1] > beams:  # the best that is let go
        bound_B = torch.maximum(bound_B, score[:, beams])
    return child.gather(1, kept[:, :beams]), score[:, :beams], bound_B


def _best(
    index: PrefixIndex, node_BK: Tensor, score_BK: Tensor, k: int, bound_B: Tensor, expansions_B: Tensor
) -> Found:
    score, kept = score_BK.topk(min(k + 1, score_BK.shape[1]), dim=1)
    if score.shape[1] > k:
        bound_B = torch.maximum(bound_B, score[:, k])
    score, kept = score[:, :k], kept[:, :k]
    items = index.item_of(node_BK.gather(1, kept)).masked_fill(~torch.isfinite(score), -1)
    # k may be more than there are beams where the catalogue is small or filtered
    missing = (0, k - score.shape[1])
    pad = torch.nn.functional.pad
    items, score = pad(items, missing, value=-1), pad(score, missing, value=-torch.inf)
    # a list that is not full is the exact one where nothing was let go
    return Found(items, score, score[:, -1] >= bound_B, bound_B, expansions_B)


def check_k(k: int, n_items: int) -> None:
    """Raises `RequestError` unless 1 <= k <= n_items."""
    if k < 1:
        raise RequestError(f"-k {k} asks for no item; ask for at least 1.")
    if k > n_items:
        raise RequestError(f"-k {k} is more than the {n_items} items of the catalogue; ask for at most {n_items}.")


@torch.no_grad()
def sample_items(
    model: Any,
    prompt_ids_BP: Tensor,
    prompt_mask_BP: Tensor,
    draws: int,
    index: PrefixIndex,
    *,
    uniform_BGL: Tensor,
    exclude: Tensor | Allowed | None = None,
    temperature: float = 1.0,
    walker: Prefill | None = None,
) -> Samples:
    """Draws items independently from pi (or pi_F with exclusions) by the inverse distribution function.

    A draw depends on its prompt and its own row of `uniform_BGL`, on nothing else in the batch. The model is in
    evaluation mode meanwhile.

    Args:
        model: a Hugging Face or PEFT causal language model.
        prompt_ids_BP: token ids.
        prompt_mask_BP: 1 at tokens, 0 at padding.
        draws: G, draws for each prompt.
        index: the catalogue's prefix index.
        uniform_BGL: numbers in [0, 1), one for each token that may be chosen; L at least `index.max_length`.
        exclude: item indices (B, E) padded with -1, or a filter made beforehand.
        temperature: divides the logits.
        walker: these prompts where they were read before, with the same model and index.

    Raises:
        RequestError: everything is excluded for a user.
    """
    index, head = index.to(device_of(model)), checked_head(model)
    shape = (len(prompt_ids_BP), draws)
    if uniform_BGL.shape[:2] != shape or uniform_BGL.shape[2] < index.max_length:
        raise ValueError(f"uniform_BGL is {tuple(uniform_BGL.shape)}, not {(*shape, index.max_length)}.")
    uniform, exclusion = uniform_BGL.to(index.device), index.exclusion(exclude)
    node = torch.zeros(shape, dtype=torch.long, device=index.device)
    require_roots(index, len(node), exclusion)
    log_prob = torch.zeros((*shape, index.max_length), device=index.device)
    with evaluating(model):
        walker = walker_of(model, prompt_ids_BP, prompt_mask_BP, index) if walker is None else walker
        while bool((live := ~index.is_decided(node)).any()):
            user, draw = torch.nonzero(live, as_tuple=True)
            at = index.settle(node[live])
            # The number of a draw belongs to the depth of the token and not to a count of choices: what a filter
            # forces shifts none of the later ones, so that draws under two filters can be compared.
            level = index.depth_M[at].long()
            child, chosen = _choose(walker, head, index, exclusion, user, at, uniform[user, draw, level], temperature)
            # a draw whose prefix leads to one item is decided: its remaining tokens are forced and have
            # log-probability 0
            node[live] = child
            log_prob[user, draw, level] = chosen.to(log_prob.dtype)
    return Samples(index.item_of(node), log_prob.sum(-1), log_prob)


def _choose(
    walker: Prefill,
    head: Head,
    index: PrefixIndex,
    exclusion: Allowed | None,
    user_X: Tensor,
    node_X: Tensor,
    uniform_X: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """One choice of each draw: the child taken and its log-probability. Draws at one prefix share its computation."""
    # one key for (user, prefix): many of G draws stand at the same prefix, the root above all
    key_U, state_X = torch.unique(user_X * index.n_nodes + node_X, return_inverse=True)
    edges = Edges.of(index, key_U // index.n_nodes, key_U % index.n_nodes, exclusion)
    log_prob_E = edge_log_probs(walker, head, index, edges, temperature)
    edge_X = edges.draw(log_prob_E, state_X, uniform_X)
    return edges.child_E[edge_X], log_prob_E[edge_X]


def edge_log_probs(walker: Prefill, head: Head, index: PrefixIndex, edges: Edges, temperature: float) -> Tensor:
    """Log-probability of every edge, float64; 0 without any work where a filter has left a single one."""
    open_U = edges.count_U > 1
    log_prob_E = torch.zeros(len(edges.state_E), dtype=torch.float64, device=open_U.device)
    if not bool(open_U.any()):
        return log_prob_E
    choices = edges.only(open_U)
    hidden = walker.hidden(choices.user_U, choices.node_U)
    # a single edge keeps log 1 = 0 and costs no hidden state
    log_prob_E[open_U[edges.state_E]] = choices.log_probs(hidden, head, index, temperature)
    return log_prob_E
