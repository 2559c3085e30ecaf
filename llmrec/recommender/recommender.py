"""A finished policy with its catalogue, its rules and, where there are data, its users."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from llmrec.assortment import change_items
from llmrec.catalogue.filters import Attributes, Filters
from llmrec.dataset.store import Dataset
from llmrec.enrich.review import decided_items, read_decisions
from llmrec.errors import RequestError
from llmrec.explain import Explainer, Explanation, Unsaid
from llmrec.export import Bundle, read_bundle
from llmrec.finding import default_data, rules_of, run_folder
from llmrec.policy.filtered import passing
from llmrec.policy.language_policy import Certified, LanguagePolicy
from llmrec.policy.mixture import Mixture, Scorer
from llmrec.policy.wishes import wished
from llmrec.printing import short_line
from llmrec.recommender.answers import Recommendation, Request, recommended
from llmrec.recommender.users import KnownUsers
from llmrec.recommender.words import Lookup, Tiers, in_tiers
from llmrec.rules import Exposure, ForbiddenWords, Rule, RuleBook, read_rules
from llmrec.storage import work_folder
from llmrec.text.forbidden import Forbidden
from llmrec.text.free_prompt import Resolved, Wish, resolve_prompt
from llmrec.text.objectives import preferring
from llmrec.text.relatedness import KnownWords
from llmrec.types import IntArray, Item, Ranker, Slate, State

UNRELATED = (
    "No word of “{prompt}” has to do with any item of the catalogue, so this list is little more than what anybody "
    "would be shown."
)

UNREWARDED = (
    "This run handed on its warm start, which knows the words of what to prefer and never learnt to follow them."
)


class Recommender:
    """A trained policy with its catalogue; `data` (optional) knows the users."""

    def __init__(self, bundle: Bundle, data: Dataset | None = None) -> None:
        self.bundle = bundle
        self._users = KnownUsers(bundle, data)
        self._fused: Mixture | None = None
        self._known_words: KnownWords | None = None
        self._lookup: Lookup | None = None
        self._rules: tuple[Rule, ...] = ()
        self._book: RuleBook | None = None
        self._exposure = Exposure()
        decisions = read_decisions(work_folder(bundle.folder))
        self._refused, self._accepted = decided_items(bundle.items, decisions)
        if bundle.policy.filters is None:
            bundle.policy.set_attributes(Attributes.of(bundle.items))

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        revision: str | None = None,
        data: Path | str | None = None,
        rules: Path | str | Sequence[Rule] | None = None,
        engine: Callable[[Path], Any] | None = None,
    ) -> Self:
        """Loads a run folder, or a Hub repository USER/NAME (downloaded to the Hub's cache).

        Args:
            model: the folder or repository.
            revision: branch, tag or commit of a repository.
            data: the data set's folder, by default the run's own.
            rules: a file of rules, or rules, that every answer obeys (docs/rules.md), in place of the run's own;
                None: those of the run's configuration.
            engine: given the folder, what runs the model in place of torch (`llmrec.vllm_engine.backend.open_vllm`).

        Raises:
            RunError: not a run folder, or the repository cannot be read.
            DataError: `data` is not a data set.
            ConfigError: rules that cannot be read, contradict one another or name what no item has.
        """
        asked = read_rules(Path(rules)) if isinstance(rules, str | Path) else rules
        folder = run_folder(model, revision=revision)
        bundle = read_bundle(folder, engine)
        place = Path(data) if data is not None else default_data(folder)
        recommender = cls(bundle, Dataset.load(place) if place is not None else None)
        # items may have come and gone since the run's own rules were written
        own = asked is None
        recommender.set_rules(rules_of(folder) if asked is None else asked, known=not own)
        return recommender

    def set_rules(self, rules: Sequence[Rule], *, known: bool = True) -> None:
        """From now on every answer obeys these rules; none of them ends all.

        Args:
            rules: what must hold.
            known: whether all that they name must be in the catalogue.

        Raises:
            ConfigError: rules that contradict one another or name what no item has.
        """
        self._book = RuleBook.of(rules, self.bundle.items, known=known) if rules else None
        self._rules, self._exposure = tuple(rules), Exposure()
        self._tell()

    def over(self, bundle: Bundle) -> Recommender:
        """A recommender of other items or of another policy, over the same data and under the same rules: they are
        read anew for its items, and what was shown today counts on.

        Raises:
            ConfigError: the rules leave nothing of these items.
        """
        made = Recommender(bundle, self.data)
        made.set_rules(self._rules, known=False)
        made._exposure = self._exposure
        return made

    @property
    def rules(self) -> tuple[Rule, ...]:
        """What every answer obeys."""
        return self._rules

    @property
    def book(self) -> RuleBook | None:
        """The rules with their items; None where there are none."""
        return self._book

    @property
    def exposure(self) -> Exposure:
        """What was shown today."""
        return self._exposure

    def _tell(self) -> None:
        """Lets the policy know which items the rules are about."""
        filters = self.bundle.policy.filters
        if self._book is not None and filters is not None:
            self.bundle.policy.set_attributes(self._book.attributes(filters.attributes))

    def set_stock(self, in_stock: Iterable[str]) -> None:
        """Says which items (by id) are in stock, for `Filters(in_stock=True)`; call it whenever that changes."""
        assert self.bundle.policy.filters is not None
        self.bundle.policy.set_attributes(self.bundle.policy.filters.attributes.with_stock(in_stock))

    def known(self, item_ids: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Ids that the catalogue has, and those that it has not: each once, in order."""
        there = set(self.bundle.policy.catalogue.item_ids)
        ids = tuple(dict.fromkeys(item_ids))
        return tuple(i for i in ids if i in there), tuple(i for i in ids if i not in there)

    def change_items(self, *, add: Sequence[Item] = (), remove: Collection[str] = ()) -> None:
        """Takes items out and then new ones in, in memory, without training; see `llmrec.assortment`.

        Rules hold for new items, too. The items that stay keep their stock; new ones are out of stock until
        `set_stock` names them. A mixture ends, since its second score is of the items as they were: call `fuse`
        again. Users' events with items that are gone do not count any more.

        Raises:
            CatalogueError: an id that is there already, is unknown or repeats, no item left, no title, or additions
                to a run whose items are written by atomic identifiers.
        """
        self.bundle = change_items(self.bundle, add=add, remove=remove)
        # all of them count items by their old indices
        self._users, self._fused = KnownUsers(self.bundle, self.data), None
        self._known_words = self._lookup = None
        if self._rules:
            self._book = RuleBook.of(self._rules, self.bundle.items, known=False)
            self._tell()

    def fuse(self, weight: float, scorer: Scorer | None = None) -> None:
        """From now on mixes pi with a second score: p = weight * pi + (1 - weight) * s, both normalised.

        Args:
            weight: the policy's share, from 0 to 1; `llmrec.policy.mixture_weights.fit` fits it on validation events.
            scorer: states to scores (B, N) of at least 0; by default co-visitation counted on all events of `data`.

        Raises:
            RequestError: a weight outside 0 .. 1, or no scorer and no data to count, or those of other items.
        """
        if not 0.0 <= weight <= 1.0:
            raise RequestError(f"The policy's weight is {weight}; it must lie between 0 and 1.")
        if scorer is None:
            data = self.fitted_data()
            if data is None:
                raise RequestError("Mixing with co-visitation needs events to count; give the data set's folder.")
            from llmrec.baselines import Covisitation

            scorer = Covisitation().fit(data, data.events).score
        self._fused = Mixture([self.bundle.policy, scorer], [weight, 1.0 - weight])

    @property
    def ranker(self) -> LanguagePolicy | Mixture:
        """What ranks: the policy, or the mixture that `fuse` made of it."""
        return self._fused or self.bundle.policy

    def told(self) -> dict[str, Any]:
        """What answers depend on beside run and data, as JSON takes it: rules, stock, refusals, mixture."""
        filters = self.bundle.policy.filters
        stock_N = None if filters is None else filters.attributes.stock_N
        return {
            "rules": [repr(rule) for rule in self._rules],
            "refused": sorted(self._refused),
            "stock": None if stock_N is None else np.flatnonzero(stock_N).tolist(),
            "mixture": None if self._fused is None else self._fused.weights_GP.tolist(),
        }

    def recommend(
        self,
        *,
        user: str | None = None,
        prompt: str | None = None,
        state: State | None = None,
        k: int = 10,
        before: int | None = None,
        filters: Filters | None = None,
        exclude_seen: bool | None = None,
        exact: bool = False,
        read_filters: bool = False,
        by_words: bool = True,
        prefer: Mapping[str, int] | None = None,
        explain: bool | int = False,
    ) -> Recommendation:
        """The top k items by log pi (log p after `fuse`) for exactly one of a known user, a free prompt or a `State`.

        Args:
            user: a user id of the data set; one without events is a cold start.
            prompt: free text; catalogue titles named in it become liked items, the rest is context.
            state: a state made by hand.
            k: number of items, at most the catalogue's size.
            before: only events earlier than this time (seconds) are used; all of them by default.
            filters: what the items must be; it takes items away and changes no score.
            exclude_seen: leave out what the user has seen; by default as the data set's manifest says.
            exact: search until the list is proven, which a beam search is not.
            read_filters: whether categories, brands and prices that the prompt asks for become filters, beside
                `filters`; `wishes` of the answer say which. Where they leave nothing they are let go, which `note`
                says.
            by_words: whether items that have words of the prompt (but for titles named in it) in title, brand or
                categories come before the others, those that have most of them first; and what is like a named title,
                where the prompt asks for that. Without caps and floors only.
            prefer: what to weigh how much, 0 to 3 by the terms of the reward that the run states (`reward.stated`);
                those that are not named count 0. Without it all count as the run was set.
            explain: whether each item says why it is recommended (`llmrec.explain`), or how many of the first do.

        Raises:
            RequestError: not exactly one of the three, an unknown user, a k that cannot be met, a filter that is
                unknown or leaves nothing, weights that the run does not state, or `explain` below 1.
        """
        explained = _to_explain(explain, k)
        who: dict[str, Any] = {"user": user, "prompt": prompt, "state": state, "before": before, "prefer": prefer}
        request = self.read(**who, filters=filters, read_filters=read_filters, by_words=by_words, k=k)
        if self._book is not None:
            (asked,) = self._book.today([request.filters or Filters()], [k], self._exposure)
            request = replace(request, filters=asked)
        options: dict[str, Any] = {"exclude_seen": exclude_seen, "exact": exact}
        slate = self.slate(request, k, **options)
        reasons = self.reasons(request, slate.items_K[:explained], k, **options)
        self.shown(slate)
        return self.answer(request, slate, k, reasons)

    def slate(
        self, request: Request, k: int, *, ranker: LanguagePolicy | Mixture | None = None, **options: Any
    ) -> Slate:
        """The list of a request, by `ranker` in place of the recommender's own where one is given.

        Args:
            request: as it was read.
            k: items, at most.
            ranker: who ranks.
            options: `exclude_seen` and `exact` of the recommendation.

        Raises:
            RequestError: a filter that leaves nothing.
        """
        by, known = ranker or self.ranker, None if request.seen is None else [request.seen]

        def decode(rows: Sequence[int], count: int, filters: Sequence[Filters]) -> list[Certified]:
            (slate,) = by.recommend([request.state], count, seen=known, filters=filters, **options)
            return [Certified(slate, False, None)]

        if request.tiered(request.filters):
            # what was chosen since the prompt was read
            ids = self.bundle.policy.catalogue.item_ids
            gone = {ids[row] for row in request.state.seen()}
            tiers = tuple(left for tier in request.tiers if (left := tuple(i for i in tier if i not in gone)))
            return in_tiers(decode, k, [request.filters], [tiers])[0].slate
        (slate,) = by.recommend([request.state], k, seen=known, filters=request.filters, **options)
        return slate

    def shown(self, slate: Slate) -> None:
        """Counts a slate for floors of a day."""
        if self._book is not None:
            self._exposure.add([slate], self._book.groups)

    def read(
        self,
        *,
        user: str | None = None,
        prompt: str | None = None,
        state: State | None = None,
        before: int | None = None,
        filters: Filters | None = None,
        read_filters: bool = False,
        by_words: bool = True,
        prefer: Mapping[str, int] | None = None,
        k: int = 10,
    ) -> Request:
        """What `recommend` reads of the same arguments, without recommending: for callers that decode many at once.

        `filters` of what is returned hold the rules, too: a slate of `k` that is decoded under them obeys, but for
        floors of a day, which `book.today` or, where nobody counts what is shown, `book.alone` adds.

        Raises:
            RequestError: not exactly one of user, prompt and state, an unknown user, or weights that the run does not
                state.
        """
        if sum(x is not None for x in (user, prompt, state)) != 1:
            raise RequestError("Give exactly one of user, prompt and state.")
        who: dict[str, Any] = {"user": user, "prompt": prompt, "state": state, "before": before}
        request = self._read(**who, filters=filters, read_filters=read_filters, by_words=by_words, k=k)
        return self.preferring(request, prefer)

    def preferring(self, request: Request, prefer: Mapping[str, int] | None) -> Request:
        """The request as its state asks for weights; the same where none are given.

        Raises:
            RequestError: a run that states none, a term that it does not state, or a weight that is none.
        """
        if not prefer:
            return request
        stated = self.bundle.facts.get("stated")
        if not stated:
            raise RequestError(
                "This run does not read what to prefer; train one with reward.stated, for example "
                "--set reward.stated=[click,conversion]."
            )
        state = preferring(request.state, prefer, self.bundle.facts["language"], stated["terms"])
        note = request.note if stated["rewarded"] else f"{request.note} {UNREWARDED}".strip()
        return replace(request, state=state, note=note)

    def _read(
        self,
        *,
        user: str | None,
        prompt: str | None,
        state: State | None,
        before: int | None,
        filters: Filters | None,
        read_filters: bool,
        by_words: bool,
        k: int,
    ) -> Request:
        if user is not None:
            state, seen = self.user_state(user, before)
            note = "" if state.history else f"User {user} has no history: a cold start from the profile alone."
            return Request(state, seen, self.under_rules(state, filters, k), note=note)
        if state is not None:
            return Request(state, None, self.under_rules(state, filters, k))
        assert prompt is not None
        liked = self.bundle.facts["liked"]  # named items enter the state as what the policy saw in training
        value = 5.0 if liked == "rating" else None
        # a category's name is then no title: "something in War" names no film
        named = read_filters or by_words
        resolved = resolve_prompt(prompt, self.bundle.items, feedback=liked, value=value, wishes=named)
        read = resolved.wishes if read_filters else ()
        filters, wishes, note = self._asked(read, filters, resolved.state, k)
        filters = self.under_rules(resolved.state, filters, k)
        related = bool(resolved.matches or resolved.wishes) or self._words().related(prompt)
        if not related:
            note = f"{UNRELATED.format(prompt=short_line(prompt))} {note}".strip()
        words, tiers = self._named(prompt, resolved, filters) if by_words else ((), ())
        matches = tuple(resolved.matches)
        return Request(resolved.state, None, filters, matches, resolved.rest, wishes, note, related, words, tiers)

    def _named(self, prompt: str, resolved: Resolved, filters: Filters | None) -> tuple[tuple[str, ...], Tiers]:
        """The catalogue's words in a prompt, and the items that come first for them."""
        if self._lookup is None:
            self._lookup = Lookup(self.bundle.items)
        book = self.bundle.policy.filters
        assert book is not None
        may_N = passing(book.attributes, [filters or Filters()])[0]
        may_N[list(resolved.state.seen())] = False
        return self._lookup.find(prompt, resolved, may_N)

    def _words(self) -> KnownWords:
        if self._known_words is None:
            self._known_words = KnownWords(self.bundle.items)
        return self._known_words

    def under_rules(self, state: State, filters: Filters | None, k: int) -> Filters | None:
        """What rules (but for floors of a day), refused items (`llmrec review`) and a caller's filter together ask of
        a slate of `k`."""
        if self._refused and (refused := self.known(sorted(self._refused))[0]):
            asked = filters or Filters()  # a person has looked at them and said no
            filters = replace(asked, exclude=tuple(dict.fromkeys((*asked.exclude, *refused))))
        if self._book is None:
            return filters
        return self._book.lasting([state], k, [] if filters is None else [filters])[0]

    def reasons(
        self,
        request: Request,
        items: Sequence[int],
        k: int,
        *,
        ranker: Ranker | None = None,
        without: bool = True,
        **options: Any,
    ) -> dict[int, Explanation]:
        """Why each of some items of a slate of `k` is recommended; `options` are those of the recommendation.

        Args:
            request: what was asked.
            items: item indices.
            k: places of the slate.
            ranker: who recommended them, where it was another one (a baseline) on the same catalogue.
            without: whether what would undo the recommendation is searched for, which takes longest.
            options: `exclude_seen` and `exact` of the recommendation.
        """
        if not items:
            return {}
        policy, facts = ranker or self.ranker, self.bundle.facts
        words = [word for rule in self._rules if isinstance(rule, ForbiddenWords) for word in rule.words]
        unsaid = Unsaid(Forbidden(tuple(words)).filter(), self._refused, self._accepted)
        named: dict[str, Any] = {"domain": facts["domain"], "language": facts["language"], "unsaid": unsaid}
        # what would undo a place is looked for among all items, and words put this one before them
        named |= {} if without and not request.tiers else {"most_sets": 0}
        explainer = Explainer(policy, self.bundle.items, **named)
        options["filters"] = request.filters
        found = explainer.explain(request.state, items, k=k, seen=request.seen, **options)
        return dict(zip(items, found, strict=True))

    def answer(
        self, request: Request, slate: Slate, k: int, reasons: Mapping[int, Explanation] | None = None
    ) -> Recommendation:
        """A slate as a recommendation; what it lacks is said in its note."""
        note = request.note
        if self._book is not None:
            note = " ".join(filter(None, (note, *self._book.remarks(request.filters or Filters(), slate, k))))
        elif len(slate.items_K) < k:
            filters = request.filters
            why = "leaving out what was seen" if filters is None else f"the filter ({filters})"
            note = f"{note} Only {len(slate.items_K)} of {k} items are left after {why}.".strip()
        told = reasons or {}
        items = tuple(
            recommended(self.bundle.items[i], float(p), told.get(i))
            for i, p in zip(slate.items_K, slate.log_probs_K, strict=True)
        )
        return Recommendation(
            items, request.matches, request.rest, note, request.wishes, request.related, request.words
        )

    def _asked(
        self, wishes: tuple[Wish, ...], filters: Filters | None, state: State, k: int
    ) -> tuple[Filters | None, tuple[Wish, ...], str]:
        """The caller's filter with the prompt's wishes, those that hold, and a word where they had to be let go."""
        if not wishes:
            return filters, (), ""
        assert self.bundle.policy.filters is not None
        given = self.under_rules(state, filters, k)  # what rules forbid cannot be had by asking for it
        found = wished(wishes, self.bundle.policy.filters.attributes, given, hidden=state.seen())
        if found is None:
            said = ", ".join(repr(short_line(wish.text)) for wish in wishes)
            return filters, (), f"No item is all that was asked for ({said}), so this is read as context alone."
        return found, wishes, ""

    def has_user(self, user: str) -> bool:
        """Whether the data set, where there is one, knows the user."""
        return self._users.has(user)

    def user_state(self, user: str, before: int | None = None) -> tuple[State, IntArray]:
        """What is known of a user of the data set strictly before `before` (seconds), and all that the user has seen.

        Raises:
            RequestError: there is no data set, one of other items, or no such user in it.
        """
        return self._users.state(user, before)

    @property
    def data(self) -> Dataset | None:
        """The data set as it was given."""
        return self._users.data

    def fitted_data(self) -> Dataset | None:
        """The data set, where there is one, with exactly the catalogue's items.

        Raises:
            RequestError: its items are neither the catalogue's nor those that the recorded changes began with.
        """
        return self._users.fitted()


def _to_explain(explain: bool | int, k: int) -> int:
    """How many of the first items say why."""
    if isinstance(explain, bool):
        return k if explain else 0
    if explain < 1:
        raise RequestError(f"explain is {explain}; give the number of items that are explained, at least 1.")
    return explain
