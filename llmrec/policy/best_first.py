"""Best-first search: the best items of a state together with the proof that there are none better.

A prefix's log-probability bounds all items below it from above, and one that leads to a single item has that item's
own. So prefixes are expanded in the order of their log-probability, and an item is proven as soon as no prefix that
is still open lies above it (A* with the bound 0 for all that is to come). Beam search certifies only the places above
the best prefix that it let go.

Items may be scored in another way than by log pi (`walks`): a prefix then stands at its sum plus the most that
any item below it may still get.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llmrec.catalogue.allowed import Allowed, take
from llmrec.catalogue.index import PrefixIndex
from llmrec.errors import RequestError
from llmrec.policy.decoding import Found, check_k, walker_of
from llmrec.policy.edges import Edges, table_places
from llmrec.policy.heads import checked_head
from llmrec.policy.modes import device_of, evaluating
from llmrec.policy.prefill import Prefill
from llmrec.policy.walks import Walk, walk_of

BATCH = 8
"""Prefixes of a user that are expanded together; more need fewer forwards and expand more in vain."""


class BestFirst:
    """A search that can go on: `next_items` gives the items of each state in their exact order, as many as wanted.

    A constraint on the whole slate (a maximum per category) takes items from it until the slate is full; walking down
    the exact order and taking what still fits is then optimal.

    Args:
        model: a Hugging Face or PEFT causal language model; must not change during the search.
        prompt_ids_BP: token ids.
        prompt_mask_BP: 1 at tokens, 0 at padding.
        index: the catalogue's prefix index.
        exclude: item indices (B, E) padded with -1, or a filter made beforehand. It prunes and changes no score.
        batch: prefixes of a state that are expanded at once.
        most: items of a state that will ever be asked for; what cannot be among them is then forgotten.
        walk: how items are scored; by default by log pi.
        walker: these prompts where they were read before, with the same model and index.

    Raises:
        RequestError: batch below 1, or prompt and item are longer than the model can read.
    """

    def __init__(
        self,
        model: Any,
        prompt_ids_BP: Tensor,
        prompt_mask_BP: Tensor,
        index: PrefixIndex,
        *,
        exclude: Tensor | Allowed | None = None,
        batch: int = BATCH,
        most: int | None = None,
        walk: Walk | None = None,
        walker: Prefill | None = None,
    ) -> None:
        if batch < 1:
            raise RequestError(f"A batch of {batch} expands nothing; expand at least 1 prefix at a time.")
        self.model, self.index, self.batch = model, index.to(device_of(model)), batch
        self.most = self.index.n_items if most is None else most
        self.walk = walk_of(checked_head(model), self.index, walk)
        self.allowed = self.index.exclusion(exclude)
        # the prompts are read here and the cache kept: the search may be gone on with at any later time
        with torch.no_grad(), evaluating(model):
            self.walker = walker or walker_of(model, prompt_ids_BP, prompt_mask_BP, self.index)
        # entries of each state, best first: open prefixes and finished items; -inf is an empty place
        self.node_BW = torch.zeros((len(prompt_ids_BP), 1), dtype=torch.long, device=self.index.device)
        user_B1 = torch.arange(len(self.node_BW), device=self.index.device).unsqueeze(1)
        allowed_B1 = self.index.is_allowed(self.node_BW, user_B1, self.allowed)
        start_B1 = self._more(self.node_BW)
        self.score_BW = start_B1.masked_fill(~allowed_B1, -torch.inf)
        self.expansions_B = torch.zeros_like(self.node_BW[:, 0])
        self.given_B = torch.zeros_like(self.expansions_B)

    def next_items(self, count: int, wanted_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The `count` items that follow those given before, in exact order of log pi.

        Args:
            count: items wanted.
            wanted_B: states that want them (bool); the others get none, at no cost, and keep their place.

        Returns:
            Item indices (B, count) and log pi; -1 and -inf where no item is left.

        Raises:
            RequestError: count below 1.
        """
        if count < 1:
            raise RequestError(f"{count} items are none; ask for at least 1.")
        wanted_B = torch.ones_like(self.given_B, dtype=torch.bool) if wanted_B is None else wanted_B
        # a goal of 0 is proven without work
        goal_B = torch.where(wanted_B.to(self.given_B.device), self.given_B + count, 0)
        self.prove(goal_B)
        items, log_prob = self._listed(self.given_B, count, goal_B)
        self.given_B = self.given_B + (items >= 0).sum(1)
        return items, log_prob

    @torch.no_grad()
    def prove(self, goal_B: Tensor, max_expansions: int | None = None) -> None:
        """Expands until the best goal_B[b] items of each state b are proven, or its budget of expansions is spent."""
        with evaluating(self.model):
            while bool((chosen_BW := self._chosen(goal_B, max_expansions)).any()):
                self._expand(chosen_BW)

    def found(self, k: int) -> Found:
        """The best k items so far, with what is known about those that are not among them."""
        finished, open_BW = self._kinds()
        nth_BW = finished.cumsum(1)
        first_B = torch.zeros_like(self.given_B)
        items, log_prob = self._listed(first_B, k, first_B + k)
        # What is not in the list: open prefixes bound all items below them, finished ones themselves.
        beyond = self.score_BW.masked_fill(finished & (nth_BW <= k), -torch.inf)
        proven_B = ~(open_BW & (nth_BW < k)).any(1)
        return Found(items, log_prob, proven_B, beyond.amax(1), self.expansions_B.clone())

    def _kinds(self) -> tuple[Tensor, Tensor]:
        """Which entries are finished items, and which are open prefixes."""
        there, ended = torch.isfinite(self.score_BW), self.walk.ends(self.node_BW)
        return there & ended, there & ~ended

    def _more(self, node: Tensor) -> Tensor:
        """The most that an item below each node gets beside its edges, float64."""
        if self.walk.more_M is None:
            return torch.zeros(node.shape, dtype=torch.float64, device=node.device)
        return take(self.walk.more_M, node)

    def _chosen(self, goal_B: Tensor, max_expansions: int | None) -> Tensor:
        """The best open prefixes of each state that stand above its goal-th finished item."""
        finished, open_BW = self._kinds()
        most_B = torch.full_like(self.expansions_B, self.batch)
        if max_expansions is not None:
            most_B = torch.minimum(most_B, max_expansions - self.expansions_B)
        # Entries are sorted, so the finished items to the left are those above: a prefix with `goal` of them above it
        # can add nothing, and when none other is open the list is proven.
        needed = open_BW & (finished.cumsum(1) < goal_B.unsqueeze(1))
        return needed & (needed.cumsum(1) <= most_B.unsqueeze(1))

    def _expand(self, chosen_BW: Tensor) -> None:
        """Replaces the chosen entries by their children."""
        user_U, _ = torch.nonzero(chosen_BW, as_tuple=True)
        node_U = self.node_BW[chosen_BW]
        edges = Edges.of(self.index, user_U, self.walk.settle(node_U), None)
        hidden = self.walker.hidden(edges.user_U, edges.node_U)
        # float64: a proof compares sums along different paths, which float32 would call equal or reorder
        own_E = self.walk.edge_values(edges, hidden).double()
        # what may be added below a child replaces what may be below its parent, so that scores only fall
        before_U = self.score_BW[chosen_BW] - self._more(node_U)
        value_E = before_U[edges.state_E] + own_E + self._more(edges.child_E)
        user_E = user_U[edges.state_E]
        self.expansions_B = self.expansions_B + chosen_BW.sum(1)
        self.score_BW = self.score_BW.masked_fill(chosen_BW, -torch.inf)
        open_E = edges.is_open(self.index, self.allowed)
        # pruned after the softmax over all children, so that scores are log pi and not log pi_F
        kept = slice(None) if open_E is None else open_E
        self._add(user_E[kept], edges.child_E[kept], value_E[kept])

    def _add(self, user_E: Tensor, node_E: Tensor, value_E: Tensor) -> None:
        """Adds entries (in order of user), sorts, and drops the columns that are empty or can never be asked for."""
        shape, at = table_places(user_E, len(self.node_BW))
        score = self.score_BW.new_full(shape, -torch.inf).index_put(at, value_E)
        node = self.node_BW.new_zeros(shape).index_put(at, node_E)
        # stable: of equal scores the older entry stays ahead, so that the order does not depend on the batch
        self.score_BW, order = torch.cat([self.score_BW, score], 1).sort(dim=1, descending=True, stable=True)
        self.node_BW = torch.cat([self.node_BW, node], 1).gather(1, order)
        finished, _ = self._kinds()
        # the first entry behind the last item that can be asked for stays: it is the bound
        behind = finished.cumsum(1) - finished.long() >= self.most
        useful = torch.isfinite(self.score_BW) & (behind.cumsum(1) <= 1)
        width = max(int(useful.sum(1).max()), 1)
        self.score_BW, self.node_BW = self.score_BW[:, :width], self.node_BW[:, :width]

    def _listed(self, first_B: Tensor, count: int, end_B: Tensor) -> tuple[Tensor, Tensor]:
        """Finished items number first .. min(first + count, end) - 1 of each state, in rows padded with -1."""
        finished, _ = self._kinds()
        place = finished.cumsum(1) - 1
        taken = finished & (place >= first_B.unsqueeze(1)) & (place < end_B.unsqueeze(1))
        user_X, _ = torch.nonzero(taken, as_tuple=True)
        at = (user_X, (place - first_B.unsqueeze(1))[taken])
        items = self.node_BW.new_full((len(first_B), count), -1)
        log_prob = self.score_BW.new_full((len(first_B), count), -torch.inf)
        return (
            items.index_put(at, self.index.item_of(self.node_BW[taken])),
            log_prob.index_put(at, self.score_BW[taken]),
        )


def best_first_search(
    model: Any,
    prompt_ids_BP: Tensor,
    prompt_mask_BP: Tensor,
    k: int,
    index: PrefixIndex,
    *,
    exclude: Tensor | Allowed | None = None,
    batch: int = BATCH,
    max_expansions: int | None = None,
    walk: Walk | None = None,
    walker: Prefill | None = None,
) -> Found:
    """The k best items of each prompt by log pi(item | state), proven exact unless the budget runs out before.

    The list without a budget is that of beam search with as many beams as items; exclusions prune and never change a
    score. The model is in evaluation mode meanwhile.

    Args:
        model: a Hugging Face or PEFT causal language model.
        prompt_ids_BP: token ids.
        prompt_mask_BP: 1 at tokens, 0 at padding.
        k: items wanted.
        index: the catalogue's prefix index.
        exclude: item indices (B, E) padded with -1, or a filter made beforehand.
        batch: prefixes of a state that are expanded at once.
        max_expansions: prefixes of a state that are expanded at most; a flat distribution may need very many.
        walk: how items are scored; by default by log pi.
        walker: these prompts where they were read before, with the same model and index.

    Raises:
        RequestError: k below 1 or above the catalogue's size, batch or max_expansions below 1.
        RunError: logits are not finite, or the model's head is of an unknown kind.
    """
    check_k(k, index.n_items)
    if max_expansions is not None and max_expansions < 1:
        raise RequestError(f"A budget of {max_expansions} expansions finds nothing; allow at least 1.")
    options: dict[str, Any] = {"exclude": exclude, "batch": batch, "most": k, "walk": walk, "walker": walker}
    search = BestFirst(model, prompt_ids_BP, prompt_mask_BP, index, **options)
    search.prove(torch.full_like(search.given_B, k), max_expansions)
    return search.found(k)
