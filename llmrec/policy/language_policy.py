"""The policy as the rest of the library sees it: states in, items and log-probabilities out."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, Unpack

import torch
from torch import Tensor

from llmrec.catalogue.allowed import Allowed
from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.filters import Attributes, Filters
from llmrec.errors import RequestError
from llmrec.policy.at_once import states_at_once
from llmrec.policy.best_first import BestFirst, best_first_search
from llmrec.policy.decoding import Samples, certified_beams, check_k, sample_items, walker_of
from llmrec.policy.filtered import FilterBook, FilteredCatalogue, hidden_items, one_each, padded
from llmrec.policy.kept import KeptPrompts
from llmrec.policy.modes import device_of, evaluating
from llmrec.policy.packing import padded_prompts
from llmrec.policy.prefill import Prefill, SharedPrefill
from llmrec.policy.scoring import score_items
from llmrec.policy.searching import Search, require_options
from llmrec.policy.slates import Found, bounded_slates
from llmrec.progress import track
from llmrec.seeding import torch_stream
from llmrec.types import IntArray, Slate, State


class Renderer(Protocol):
    """Turns a state into the token ids of its prompt."""

    def token_ids(self, state: State) -> list[int]:
        """Prompt tokens, ending right before the answer's first token."""
        ...


@dataclass(frozen=True)
class _Search:
    """The items of a search in exact order, as `slates.Source` has them."""

    search: BestFirst

    def following(self, states: Sequence[int], count: int) -> list[Found]:
        """See `slates.Source`."""
        wanted_B = torch.zeros(len(self.search.given_B), dtype=torch.bool)
        wanted_B[list(states)] = True
        items_BC, log_prob_BC = self.search.next_items(min(count, self.search.index.n_items), wanted_B)
        rows = zip(items_BC.tolist(), log_prob_BC.tolist(), strict=True)
        found = [[(i, p) for i, p in zip(items, values, strict=True) if i >= 0] for items, values in rows]
        return [found[b] for b in states]


@dataclass(frozen=True, slots=True)
class Certified:
    """A slate with what is known for certain of it.

    Attributes:
        slate: the items.
        proven: whether it is shown to be the exact list, up to ties.
        bound: log pi that an item outside of it can have at most; -inf where none is left, None where the search
            does not say (bounds on the slate, whose lists are always exact).
        tokens: of the prompt.
        cached: those of them that were kept from an earlier prompt.
    """

    slate: Slate
    proven: bool
    bound: float | None
    tokens: int = 0
    cached: int = 0

    @property
    def exact_places(self) -> int:
        """How many of the first places are exact for certain."""
        if self.proven:
            return len(self.slate.items_K)
        bound = math.inf if self.bound is None else self.bound
        return sum(log_prob >= bound for log_prob in self.slate.log_probs_K)


class LanguagePolicy:
    """A causal language model as a distribution pi(item | state) over a closed catalogue.

    Attributes:
        model: a Hugging Face or PEFT causal language model.
        tokenizer: its tokenizer.
        catalogue: the items.
        renderer: state to prompt.
        repeat: whether items of the history may be recommended again.
        filters: turns requests' filters into what is left; None until `attributes` are given.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        catalogue: Catalogue,
        renderer: Renderer,
        repeat: Literal["allow", "exclude"] = "exclude",
        attributes: Attributes | None = None,
    ) -> None:
        self.model, self.tokenizer, self.catalogue = model, tokenizer, catalogue
        self.renderer, self.repeat = renderer, repeat
        self.index = catalogue.index.to(device_of(model))
        self.filters = None if attributes is None else FilterBook(self.index, attributes)

    def set_attributes(self, attributes: Attributes) -> None:
        """What filters look at from now on; call it again with new stock or prices."""
        if self.filters is None:
            self.filters = FilterBook(self.index, attributes)
        else:
            self.filters.set_attributes(attributes)

    def encode(self, states: Sequence[State]) -> tuple[Tensor, Tensor]:
        """Prompt token ids and mask, (B, P) int64, padded on the left, on the model's device."""
        return self._pad(self._rows(states))

    def _rows(self, states: Sequence[State]) -> list[list[int]]:
        """Prompt token ids of each state."""
        many: Any = getattr(self.renderer, "token_ids_many", None)  # several times faster than one by one
        return many(states) if many is not None else [self.renderer.token_ids(state) for state in states]

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        return padded_prompts(rows, self.tokenizer, device_of(self.model))

    def exclude(self, states: Sequence[State], seen: Sequence[IntArray] | None = None) -> Tensor:
        """Items of each state, and of `seen` beside it, as (B, E) item indices padded with -1."""
        return torch.from_numpy(padded(hidden_items(states, seen)))

    def _excluded(
        self, states: Sequence[State], seen: Sequence[IntArray] | None, exclude_seen: bool | None
    ) -> Tensor | None:
        wanted = self.repeat == "exclude" if exclude_seen is None else exclude_seen
        return self.exclude(states, seen) if wanted else None

    def asked(
        self,
        states: Sequence[State],
        seen: Sequence[IntArray] | None,
        exclude_seen: bool | None,
        filters: Filters | Sequence[Filters] | None,
    ) -> FilteredCatalogue:
        """What is left for each state, by filters and, where they are left out, without seen items.

        Raises:
            RequestError: filters for a policy without attributes, or not one for each state.
        """
        wishes = one_each(filters, len(states))
        if self.filters is None and wishes:
            raise RequestError("This policy knows no attributes of its items; give it some before filtering by them.")
        book = self.filters or FilterBook(self.index, Attributes.of([]))
        return FilteredCatalogue.of(book, wishes, self._excluded(states, seen, exclude_seen))

    def batches(
        self, states: Sequence[State], size: int | None, groups: Sequence[object] = ()
    ) -> list[tuple[list[int], Tensor, Tensor]]:
        """Batches of states of like length, and of one group where `groups` are given: which states, ids and mask."""
        rows = self._rows(states)
        if size is None:
            size = states_at_once(self.model, max(map(len, rows), default=1), self.index.max_length)
        # The longest first: padding is rare within a batch, and if memory is short it is so at once and not after
        # minutes.
        order = sorted(range(len(rows)), key=lambda b: -len(rows[b]))
        # requests of one group share a dense filter, which is counted once for all of the batch
        together: dict[object, list[int]] = {}
        for b in order:
            together.setdefault(groups[b] if groups else None, []).append(b)
        parts = [group[i : i + size] for group in together.values() for i in range(0, len(group), size)]
        return [(part, *self._pad([rows[b] for b in part])) for part in parts]

    def recommend(
        self,
        states: Sequence[State],
        k: int,
        *,
        filters: Filters | Sequence[Filters] | None = None,
        exact: bool = False,
        **search: Unpack[Search],
    ) -> list[Slate]:
        """The k best items of each state by log pi over the whole catalogue; filters take items away before.

        Args:
            states: what to recommend for.
            k: items wanted; a slate is shorter where fewer items are allowed.
            filters: one for all states, or one for each. Under bounds on the slate it is always exact.
            exact: best-first search, which proves its list, in place of beam search.
            search: `beams`, `exclude_seen`, `seen` and `batch_size`, see `Search`.

        Raises:
            RequestError: k below 1 or above the catalogue's size, or a filter that leaves nothing or is unknown.
        """
        return [one.slate for one in self.certified(states, k, filters=filters, exact=exact, **search)]

    @torch.no_grad()  # not inference_mode: tensors that layers cache meanwhile must stay fit for training
    def certified(
        self,
        states: Sequence[State],
        k: int,
        *,
        filters: Filters | Sequence[Filters] | None = None,
        exact: bool = False,
        kept: KeptPrompts | None = None,
        names: Sequence[Hashable] = (),
        **search: Unpack[Search],
    ) -> list[Certified]:
        """`recommend` with a certificate for each slate; arguments and errors are the same.

        With `kept` (of this model) prompts are read from where they part from the last one of the same name, one name
        a state; the answers are the same.
        """
        require_options(search)
        check_k(k, len(self.catalogue))
        asked = self.asked(states, search.get("seen"), search.get("exclude_seen"), filters)
        slates = [Certified(Slate((), ()), True, None)] * len(states)
        batches = self.batches(states, search.get("batch_size"), asked.groups_B)
        for part, ids, mask in track(batches, "recommend") if len(batches) > 1 else batches:
            # A bound on the slate is no filter: which item it takes away depends on the items above.
            bounds = bool(asked.wishes_B) and asked.wishes_B[part[0]].bounds_slate
            allowed = None if bounds else asked.allowed(part)
            own = [names[b] for b in part] if kept is not None else ()
            read = partial(self._read, ids, mask, kept, own)
            walker = read()
            if bounds:
                found = self._bounded(ids, mask, k, asked, part, walker, read)
            else:
                found = self._decoded(ids, mask, k, search.get("beams"), allowed, exact, walker)
            cached = walker.cached_B.tolist() if isinstance(walker, SharedPrefill) else [0] * len(part)
            for b, slate, saved, tokens in zip(part, found, cached, mask.sum(1).tolist(), strict=True):
                slates[b] = replace(slate, tokens=tokens, cached=saved)
        return slates

    def _read(self, ids: Tensor, mask: Tensor, kept: KeptPrompts | None, names: Sequence[Hashable]) -> Prefill:
        with evaluating(self.model):
            return walker_of(self.model, ids, mask, self.index, kept, names)

    def _bounded(
        self,
        ids: Tensor,
        mask: Tensor,
        k: int,
        asked: FilteredCatalogue,
        part: list[int],
        walker: Prefill,
        read: Callable[[], Prefill],
    ) -> list[Certified]:
        """Slates of one batch whose filters bound them; each search walks by itself."""
        assert self.filters is not None

        def lists(within: tuple[str, ...]) -> _Search:
            allowed, own = asked.allowed(part, within), read() if within else walker
            return _Search(BestFirst(self.model, ids, mask, self.index, exclude=allowed, walker=own))

        wishes, attributes = asked.filters(part), self.filters.attributes
        slates = bounded_slates(lists(()), lambda name: lists((name,)), wishes, attributes, k)
        return [Certified(slate, True, None) for slate in slates]

    def _decoded(
        self,
        ids: Tensor,
        mask: Tensor,
        k: int,
        beams: int | None,
        allowed: Allowed | None,
        exact: bool,
        walker: Prefill,
    ) -> list[Certified]:
        """Slates of one batch."""
        decode = best_first_search if exact else partial(certified_beams, beams=beams)
        found = decode(self.model, ids, mask, k, self.index, exclude=allowed, walker=walker)
        # fewer where fewer are allowed; empty places are at the end
        kept_B = (found.items_BK >= 0).sum(1).tolist()
        columns = (found.items_BK, found.log_prob_BK, found.proven_B, found.bound_B)
        return [
            Certified(Slate(tuple(items[:n]), tuple(log_probs[:n])), proven, bound)
            for items, log_probs, proven, bound, n in zip(*(c.tolist() for c in columns), kept_B, strict=True)
        ]

    def sample(
        self,
        states: Sequence[State],
        draws: int,
        *,
        seed: int,
        name: tuple[object, ...] = (),
        exclude_seen: bool | None = None,
        seen: Sequence[IntArray] | None = None,
        filters: Filters | Sequence[Filters] | None = None,
        temperature: float = 1.0,
        batch_size: int | None = None,
    ) -> Samples:
        """Independent draws from pi_F, F leaving out what `recommend` would leave out.

        The draws depend on the states, their order and the stream (`seed`, `name`), not on `batch_size`.

        Raises:
            RequestError: a filter that leaves nothing, is unknown, or bounds a slate.
        """
        asked = self.asked(states, seen, exclude_seen, filters)
        asked.require_single_items()
        shape = (len(states), draws, self.index.max_length)
        # all at once and by state, so that batches may be of any size and in any order
        uniform = torch.rand(shape, generator=torch_stream(seed, "policy", "sample", *name), dtype=torch.float64)
        device = self.index.device
        items = torch.zeros(shape[:2], dtype=torch.long, device=device)
        token_log_prob = torch.zeros(shape, device=device)
        for part, ids, mask in self.batches(states, batch_size, asked.groups_B):
            drawn = sample_items(
                self.model,
                ids,
                mask,
                draws,
                self.index,
                uniform_BGL=uniform[part],
                exclude=asked.allowed(part),
                temperature=temperature,
            )
            items[part], token_log_prob[part] = drawn.items_BG, drawn.token_log_prob_BGL
        return Samples(items, token_log_prob.sum(-1), token_log_prob)

    def log_prob(
        self,
        states: Sequence[State],
        items_BG: Tensor,
        *,
        exclude_seen: bool = False,
        seen: Sequence[IntArray] | None = None,
        filters: Filters | Sequence[Filters] | None = None,
        temperature: float = 1.0,
        batch_size: int | None = None,
    ) -> Tensor:
        """log pi(item | state), (B, G), differentiable; with `exclude_seen` or `filters` log pi_F, as `sample` draws.

        An item that F leaves out scores -inf. `batch_size` states of like length are read at once, by default all.

        Raises:
            RequestError: as `sample` does.
        """
        asked = self.asked(states, seen, exclude_seen, filters)
        asked.require_single_items()
        order: list[int] = []
        parts: list[Tensor] = []
        for part, ids, mask in self.batches(states, batch_size or len(states), asked.groups_B):
            order += part
            allowed = asked.allowed(part)
            scores = score_items(
                self.model, ids, mask, items_BG[part], self.index, exclude=allowed, temperature=temperature
            )
            parts.append(scores.item_log_prob_BG)
        return torch.cat(parts)[torch.argsort(torch.tensor(order, device=parts[0].device))]
