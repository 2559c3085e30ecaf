"""log pi(item | state), exactly: a softmax over the legal tokens of each step, which sums to 1 over the catalogue.

With exclusions the distribution is pi_F: tokens that lead to no allowed item are masked and each step renormalised.
It sums to 1 over the allowed items, but it is not pi conditioned on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llmrec.catalogue.allowed import Allowed
from llmrec.catalogue.index import PrefixIndex
from llmrec.errors import RequestError
from llmrec.policy.edges import Edges, require_allowed
from llmrec.policy.heads import Head, checked_head
from llmrec.policy.modes import device_of
from llmrec.policy.packing import Prompts, align, packed_hidden, plain_hidden, require_room
from llmrec.policy.sharing import supports_sharing

Path = Literal["auto", "packed", "plain"]
Hidden = Callable[[Any, Prompts, PrefixIndex, Tensor, Tensor], Tensor]
"""Hidden states of (user, prefix) pairs, as `packed_hidden` gives them."""
_GATHER_COST = 32


@dataclass(frozen=True)
class TokenScores:
    """Scores of G items for each of B prompts, token by token.

    Attributes:
        log_prob_BGL: float32 (float64 for a float64 model); 0 at forced tokens and after the end; -inf where the
            item is excluded.
        entropy_BGL: entropy over the legal tokens in nats; 0 at forced tokens and after the end.
        choice_BGL: whether the step had more than one legal token.
        hidden_BGLH: the hidden state that predicts token l, at l = 0 and wherever there is a choice; 0 elsewhere.
        edges: the legal continuations of every distinct (user, prefix), once.
        edge_log_prob_E: their log-probabilities.
        state_BGL: which of those prefixes a token was chosen at; -1 where it was forced.
        exact_BG: log pi(item | state) of the items in float64: what 1 - pi can be told from, also of a peaked policy.
    """

    log_prob_BGL: Tensor
    entropy_BGL: Tensor
    choice_BGL: Tensor
    hidden_BGLH: Tensor
    edges: Edges
    edge_log_prob_E: Tensor
    state_BGL: Tensor
    exact_BG: Tensor

    @property
    def item_log_prob_BG(self) -> Tensor:
        """log pi(item | state): (B, G)."""
        return self.log_prob_BGL.sum(-1)

    def spread(self, value_U: Tensor) -> Tensor:
        """Values of prefixes laid out by token: (B, G, L), 0 at forced tokens and after the end."""
        # one more entry of 0, which state -1 (a forced token) reads
        return torch.nn.functional.pad(value_U, (0, 1))[self.state_BGL]


def score_items(
    model: Any,
    prompt_ids_BP: Tensor,
    prompt_mask_BP: Tensor,
    items_BG: Tensor,
    index: PrefixIndex,
    *,
    exclude: Tensor | Allowed | None = None,
    each: bool = False,
    temperature: float = 1.0,
    path: Path | Hidden = "auto",
) -> TokenScores:
    """Scores items under pi (or pi_F), differentiably in the model's parameters.

    Equal prefixes of a user's items are computed once; the head is computed for legal tokens only, and nothing is
    computed below a prefix that leads to one item.

    Args:
        model: a Hugging Face or PEFT causal language model, in whatever mode it is.
        prompt_ids_BP: token ids.
        prompt_mask_BP: 1 at tokens, 0 at padding (on either side).
        items_BG: item indices; may repeat.
        index: the catalogue's prefix index.
        exclude: item indices (B, E) padded with -1, or a filter made beforehand; it turns pi into pi_F, and an
            excluded item scores -inf.
        each: whether `exclude` has a row for each of the B * G items, in their order, in place of one a prompt: every
            item is then scored under its own pi_F.
        temperature: divides the logits.
        path: "packed" (one row a prompt), "plain" (one row an item), "auto" (packed where the model allows it), or
            another way to the same numbers (`variants.alike_hidden`).

    Raises:
        RequestError: everything is excluded for a user, a prompt is empty, an item is none of the catalogue's, or
            prompt and item are longer than the model can read.
        CatalogueError: a token is none of the model's.
        RunError: logits are not finite, the model's head is of an unknown kind, or its weights are sharded.
    """
    head, device = checked_head(model), device_of(model)
    index, items_BG = index.to(device), items_BG.to(device)
    prompts = align(prompt_ids_BP.to(device), prompt_mask_BP.to(device))
    _require_items(items_BG, len(prompts.length_B), index)
    require_room(model, prompts, index)
    before_BGL, after_BGL = index.prefixes(items_BG)
    exclusion = index.exclusion(exclude)
    # whom an exclusion is of: a prompt, or a prompt and a place
    users_BG = torch.arange(items_BG.numel() if each else len(items_BG), device=device)
    users_BG = (users_BG.view(items_BG.shape) if each else users_BG.view(-1, 1)).expand_as(items_BG)
    edges, state_BGL = _states(index, before_BGL, users_BG, exclusion)
    prompt_U = edges.user_U // items_BG.shape[1] if each else edges.user_U
    hidden_UH = _hidden(model, prompts, index, prompt_U, edges.node_U, path)
    exact_E = edge_log_probs(edges, hidden_UH, head, index, temperature)
    # Losses read float32. Only 1 - pi needs more, which `exact_BG` keeps.
    edge_log_prob = exact_E.to(torch.promote_types(hidden_UH.dtype, torch.float32))
    at = state_BGL >= 0
    edge = edges.find(state_BGL.clamp(min=0), after_BGL.clamp(min=0), index)
    user_BGL = users_BG.unsqueeze(-1).expand_as(after_BGL)
    allowed = (after_BGL < 0) | index.is_allowed(after_BGL.clamp(min=0), user_BGL, exclusion)
    exact = torch.where(at, exact_E[edge], 0.0).masked_fill(~allowed, -torch.inf)
    entropy_U = -edges.sum(edge_log_prob.exp() * edge_log_prob)
    # under pi_F a token may have siblings that are all excluded: it is forced then, with log-probability 0
    choice = at & (torch.nn.functional.pad(edges.count_U, (0, 1))[state_BGL] > 1)
    return TokenScores(
        exact.to(edge_log_prob.dtype),
        torch.nn.functional.pad(entropy_U, (0, 1))[state_BGL],
        choice,
        torch.nn.functional.pad(hidden_UH, (0, 0, 0, 1))[state_BGL],
        edges,
        edge_log_prob,
        state_BGL,
        exact.sum(-1),
    )


def _require_items(items_BG: Tensor, users: int, index: PrefixIndex) -> None:
    if items_BG.dim() != 2 or len(items_BG) != users or not items_BG.numel():
        raise RequestError(f"items_BG is {tuple(items_BG.shape)}; give one row of items for each of {users} prompts.")
    wrong = items_BG[(items_BG < 0) | (items_BG >= index.n_items)]
    if len(wrong):
        raise RequestError(
            f"items_BG holds item index {int(wrong[0])}; the catalogue's {index.n_items} items have indices 0 to "
            f"{index.n_items - 1}."
        )


def _states(
    index: PrefixIndex, before_BGL: Tensor, users_BG: Tensor, exclusion: Allowed | None
) -> tuple[Edges, Tensor]:
    """Distinct (user, prefix) pairs at which something is chosen, all roots included, and each token's pair."""
    users = users_BG.unsqueeze(-1).expand_as(before_BGL)
    # Equal prefixes of a user's items are one key: G draws of a state share most of their prefixes.
    key = torch.where(before_BGL >= 0, users * index.n_nodes + before_BGL, 0)
    branching = (before_BGL >= 0) & (index.degree_M[before_BGL.clamp(min=0)] > 1)
    # the root of every user, also where it does not branch: its hidden state is what a critic reads
    branching[..., 0] = True
    key_U = torch.unique(key[branching])
    edges = Edges.of(index, key_U // index.n_nodes, key_U % index.n_nodes, exclusion)
    require_allowed(edges)
    # under pi_F a prefix may have one allowed continuation left, or none below an excluded item
    kept = (edges.count_U > 1) | (edges.node_U == 0)
    # places of the pairs among those that are kept
    number = torch.where(kept, kept.cumsum(0) - 1, -1)
    state = number[torch.searchsorted(key_U, key).clamp(max=len(key_U) - 1)]
    return edges.only(kept), torch.where(branching, state, -1)


def _hidden(
    model: Any, prompts: Prompts, index: PrefixIndex, user_U: Tensor, node_U: Tensor, path: Path | Hidden
) -> Tensor:
    if callable(path):
        return path(model, prompts, index, user_U, node_U)
    length = prompts.ids_BP.shape[1] + index.max_length
    packed = supports_sharing(model, length) if path == "auto" else path == "packed"
    return (packed_hidden if packed else plain_hidden)(model, prompts, index, user_U, node_U)


def edge_log_probs(edges: Edges, hidden_UH: Tensor, head: Head, index: PrefixIndex, temperature: float) -> Tensor:
    """Like `edges.log_probs`, from one product with all tokens that occur where that is small.

    Every gather of rows of the head costs a gradient as large as the head (as much time as `_GATHER_COST` products
    with each of its rows), and `edges.log_probs` gathers once a depth.
    """
    # the columns of the head that are needed at all, each once
    token_R, place_E = torch.unique(edges.token_E, return_inverse=True)
    if len(hidden_UH) * len(token_R) > _GATHER_COST * head.model.config.get_text_config().vocab_size:
        return edges.log_probs(hidden_UH, head, index, temperature)
    logits = head.logits(hidden_UH, token_R)[edges.state_E, place_E]
    return edges.distribution(logits, index, temperature)


def exact_kl_BGL(scores: TokenScores, reference: TokenScores) -> Tensor:
    """KL(pi(. | prefix) || reference(. | prefix)) over the legal tokens of each step: (B, G, L), in nats.

    Summed over the tokens of items drawn from pi, its expectation is KL(pi || reference) over items. Both scores
    must be of the same prompts, items and exclusions. Differentiable in both.
    """
    # The edges are the same, since both scores walk the same items under the same exclusions. A sum over all legal
    # tokens: no noise from the token that was drawn, and never negative, unlike log pi / pi_ref of the draw.
    difference = scores.edge_log_prob_E - reference.edge_log_prob_E
    return scores.spread(scores.edges.sum(scores.edge_log_prob_E.exp() * difference))
