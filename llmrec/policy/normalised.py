"""The distribution over a small catalogue under several normalisations, exactly and differentiably.

    local       product over tokens of the softmax among legal tokens: pi, as it is deployed
    global      softmax over items of the sum of their tokens' logits
    likelihood  softmax over items of the sum of their tokens' log-probabilities in the whole vocabulary
    vocabulary  that sum as it is: what a language model is trained by; it sums to less than 1 over the catalogue

A local normalisation has to spread a prefix's mass over what goes on from it, however ill that fits (label bias,
Lafferty, McCallum and Pereira 2001); a global one lets any token raise or lower its item alone. All are proper
likelihoods of the item, with the same network. Here the normaliser is a sum over all items, so each state costs the
whole tree.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from llmrec.catalogue.index import PrefixIndex
from llmrec.policy.edges import Edges
from llmrec.policy.heads import checked_head
from llmrec.policy.likelihood import item_sums, nodes_to_read
from llmrec.policy.modes import device_of
from llmrec.policy.packing import align, packed_hidden, plain_hidden, require_room
from llmrec.policy.sharing import supports_sharing

Normalisation = Literal["local", "global", "likelihood", "vocabulary"]
NORMALISATIONS: tuple[Normalisation, ...] = ("vocabulary", "local", "likelihood", "global")


def catalogue_log_probs(
    model: Any, prompt_ids_BP: Tensor, prompt_mask_BP: Tensor, index: PrefixIndex, normalisation: Normalisation
) -> Tensor:
    """log-probability of every item under `normalisation`: (B, N) float64, differentiable.

    Args:
        model: a Hugging Face or PEFT causal language model, in whatever mode it is.
        prompt_ids_BP: token ids.
        prompt_mask_BP: 1 at tokens, 0 at padding.
        index: the catalogue's prefix index; all of its prefixes are read.
        normalisation: see the module.

    Raises:
        RequestError: prompt and item together are longer than the model can read.
        RunError: the model's head is of an unknown kind.
    """
    head, index = checked_head(model), index.to(device_of(model))
    prompts = align(prompt_ids_BP.to(index.device), prompt_mask_BP.to(index.device))
    require_room(model, prompts, index)
    users, nodes = len(prompts.length_B), nodes_to_read(index, None)
    user_U = torch.arange(users, device=index.device).repeat_interleave(len(nodes))
    edges = Edges.of(index, user_U, nodes.repeat(users), None)
    packed = supports_sharing(model, prompts.ids_BP.shape[1] + index.max_length)
    hidden_UH = (packed_hidden if packed else plain_hidden)(model, prompts, index, edges.user_U, edges.node_U)
    if normalisation == "local":
        value_E = edges.log_probs(hidden_UH, head, index, 1.0)
    else:
        logits_UV = head.all_logits(hidden_UH)
        value_E = logits_UV[edges.state_E, edges.token_E.long()].double()
        if normalisation != "global":
            value_E = value_E - torch.logsumexp(logits_UV, -1).double()[edges.state_E]
    value_BM = torch.zeros((users, index.n_nodes), dtype=torch.float64, device=index.device)
    value_BM = value_BM.index_put((edges.user_U[edges.state_E], edges.child_E), value_E)
    sum_BN = item_sums(index, value_BM)
    return torch.log_softmax(sum_BN, -1) if normalisation in ("global", "likelihood") else sum_BN
