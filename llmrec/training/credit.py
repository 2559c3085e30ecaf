"""Credit for the tokens of an item on the way: what a prefix is worth, as a potential.

An item's reward comes with its last token, so a right first code earns nothing by itself. Let Phi(n) be what is
expected of the items below a prefix n,

    Phi(n) = sum over items i below n of pi(i | s) r(s, i)  /  sum over items i below n of pi(i | s),

with Phi of a whole item its reward. Token l then earns F_l = gamma Phi(n_l) - Phi(n_(l-1)) (Ng, Harada and Russell
1999, "Policy Invariance Under Reward Transformations"). With gamma = 1 an item's F add up to r - Phi(root): the
reward, less a number of the state alone. Whatever Phi is, the best policy stays the best one.

Adding F to the rewards and learning a critic V of what is left is the same as GAE with V + Phi in place of V
(Wiewiora 2003, "Potential-Based Shaping and Q-Value Initialization are Equivalent"), and so it is computed: the
critic learns what Phi gets wrong.

pi is the policy that draws, which at the first rollout is the reference. Phi is then its own value of a prefix, F_l
is the exact advantage of token l, and the expected gradient is that of the unshaped reward for every lambda of GAE.
Under lambda = 1 it is for any Phi, but a token is then credited with all that comes after it; under lambda = 0 with
F_l alone, so that a right first code is credited whatever code follows. Of a large catalogue only the policy's best
items are asked about: Phi then errs by what the others are worth, and a prefix that none of them begins with is worth
what the prefix above it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llmrec.catalogue.index import PrefixIndex


@dataclass(frozen=True, slots=True)
class Candidates:
    """M items of each of B states, whose rewards are asked for.

    Attributes:
        items_BM: item indices.
        log_prob_BM: log pi of each under the policy that draws; -inf for one that does not count.
    """

    items_BM: Tensor
    log_prob_BM: Tensor


def prefix_values(index: PrefixIndex, candidates: Candidates, value_BM: Tensor, items_BG: Tensor) -> Tensor:
    """Phi of the prefix before each token of items: (B, G, L) float64, 0 after an item's end.

    Args:
        index: the catalogue's tree.
        candidates: the items that are known.
        value_BM: what each of them is expected to earn.
        items_BG: the items whose prefixes are asked about.
    """
    there_BM = torch.isfinite(candidates.log_prob_BM)
    # relative to the best of the state: a common factor cancels, and none is lost to rounding
    log_BM = candidates.log_prob_BM.double().masked_fill(~there_BM, -torch.inf)
    chance_BM = (log_BM - log_BM.amax(1, keepdim=True)).exp().nan_to_num(0.0)
    known_BML, _ = index.prefixes(candidates.items_BM)
    asked_BGL, _ = index.prefixes(items_BG)
    user_B11 = torch.arange(len(items_BG), device=items_BG.device).view(-1, 1, 1)
    at = (known_BML >= 0) & there_BM.unsqueeze(-1)
    key_U, number = torch.unique((user_B11 * index.n_nodes + known_BML)[at], return_inverse=True)
    none_U = torch.zeros(len(key_U), dtype=torch.float64, device=items_BG.device)
    chance = chance_BM.unsqueeze(-1).expand_as(known_BML)[at]
    value = value_BM.double().unsqueeze(-1).expand_as(known_BML)[at]
    mass_U = none_U.index_add(0, number, chance)
    phi_U = none_U.index_add(0, number, chance * value) / mass_U
    key_BGL = user_B11 * index.n_nodes + asked_BGL
    place_BGL = torch.searchsorted(key_U, key_BGL).clamp(max=max(len(key_U) - 1, 0))
    phi_BGL = torch.zeros(asked_BGL.shape, dtype=torch.float64, device=items_BG.device)
    if not len(key_U):
        return phi_BGL
    met_BGL = (key_U[place_BGL] == key_BGL) & (mass_U[place_BGL] > 0)
    above_BG = phi_BGL[..., 0]
    for place in range(asked_BGL.shape[-1]):
        # no news below a prefix of which nothing is known
        above_BG = torch.where(met_BGL[..., place], phi_U[place_BGL[..., place]], above_BG)
        phi_BGL[..., place] = above_BG
    return phi_BGL.masked_fill(asked_BGL < 0, 0.0)
