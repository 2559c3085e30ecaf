"""Free requests with known answers: sentences about categories, brands, decades and named items of a catalogue.

A request is drawn from facts of the items, so which items answer it is known without a judge:

    category    "What have you got in yoga?"               items of the category
    attribute   "Anything made by Marlow?"                 items of the brand, or films of the decade
    both        "Something in yoga made by Marlow"         items of both
    like        "More things like Cork Yoga Block"         items of its rarest category
    cheaper     "Like Cork Yoga Block but cheaper"         those of them with a lower price

None of the sentences is one that `item_from_prompt` teaches. Where a catalogue has no categories, words that titles
share stand for them: a request is then answered by whatever has the word in its title, which suits those who count
words. A named item answers no request of its own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmrec.errors import RequestError
from llmrec.seeding import numpy_stream
from llmrec.text.titles import decade, without_year
from llmrec.types import FloatArray, Item, Slate

Kind = Literal["category", "attribute", "both", "like", "cheaper"]
KINDS: tuple[Kind, ...] = ("category", "attribute", "both", "like", "cheaper")
LEAST = 3
"""Items that answer a request, at least."""
MOST = 1 / 3
"""Share of the catalogue that answers a request, at most: else a list without a thought would."""
_WORD = re.compile(r"[A-Za-z]{5,}")

_ASKS: dict[str, tuple[str, ...]] = {
    "category": ("What have you got in {category}?", "Something in {category} would be nice", "{category}, please"),
    "brand": ("Anything made by {brand}?", "I only trust {brand}", "Show me what {brand} makes"),
    "decade": ("Anything from the {decade}?", "A film of the {decade}, please", "Show me the {decade}"),
    "category brand": ("Something in {category} made by {brand}", "{brand} and {category}, have you got that?"),
    "category decade": ("Something in {category} from the {decade}", "{category} of the {decade}, please"),
    "like": ("More things like {title}", "Something similar to {title}", "I loved {title}, what is like it?"),
    "cheaper": ("Like {title} but cheaper", "Something similar to {title}, only less expensive"),
}


@dataclass(frozen=True, slots=True)
class Request:
    """A free prompt and the items that answer it.

    Attributes:
        kind: what is asked for.
        text: the prompt.
        relevant: indices of the items that answer it, in rising order.
        about: what it is drawn from; requests about the same thing are no independent observations.
    """

    kind: Kind
    text: str
    relevant: tuple[int, ...]
    about: str

    def precision(self, slate: Slate, k: int) -> float:
        """Share of the first k places that answer the request; of as many places as there are answers, if fewer."""
        return len(set(slate.items_K[:k]) & set(self.relevant)) / min(k, len(self.relevant))


@dataclass(frozen=True, slots=True)
class _Topic:
    """What a request may be about: the form of its sentence, the words in it, and the items that answer it."""

    form: str
    values: Mapping[str, str]
    relevant: tuple[int, ...]


def draw_requests(items: Sequence[Item], count: int, seed: int, *, name: str = "test") -> list[Request]:
    """`count` requests; the kinds that the catalogue knows take turns.

    Args:
        items: the catalogue in item-index order.
        count: requests wanted.
        seed: run seed.
        name: of the draw; requests to choose settings on need another name than those that are read once.

    Raises:
        RequestError: the items have nothing that could be asked for.
    """
    pools = _pools(items)
    kinds = [kind for kind in KINDS if pools[kind]]
    if not kinds:
        raise RequestError(
            f"No free request can be drawn from these items: no category, brand, decade or word of a title is shared "
            f"by {LEAST} of them and by at most a third."
        )
    rng = numpy_stream(seed, "requests", name)
    return [_request(kinds[n % len(kinds)], pools, rng) for n in range(count)]


def precisions(requests: Sequence[Request], slates: Sequence[Slate], k: int) -> FloatArray:
    """`Request.precision` of each, (B,)."""
    return np.array([request.precision(slate, k) for request, slate in zip(requests, slates, strict=True)])


def _request(kind: Kind, pools: Mapping[Kind, Sequence[_Topic]], rng: np.random.Generator) -> Request:
    topic = pools[kind][int(rng.integers(len(pools[kind])))]
    asks = _ASKS[topic.form]
    text = asks[int(rng.integers(len(asks)))].format(**topic.values)
    return Request(kind, text[:1].upper() + text[1:], topic.relevant, " / ".join(topic.values.values()))


def _pools(items: Sequence[Item]) -> dict[Kind, list[_Topic]]:
    """Everything that each kind can be about, in a fixed order."""
    categories = _groups((n, name) for n, item in enumerate(items) for name in item.categories)
    told = categories or _groups((n, word) for n, item in enumerate(items) for word in _words(item.title))
    attributes = {
        "brand": _groups((n, item.brand) for n, item in enumerate(items)),
        "decade": _groups((n, _decade(item.title)) for n, item in enumerate(items)),
    }
    pools: dict[Kind, list[_Topic]] = {kind: [] for kind in KINDS}
    pools["category"] = [_Topic("category", {"category": name}, tuple(sorted(told[name]))) for name in sorted(told)]
    for form, groups in attributes.items():
        for value in sorted(groups):
            pools["attribute"].append(_Topic(form, {form: value}, tuple(sorted(groups[value]))))
            pools["both"] += [
                _Topic(f"category {form}", {"category": name, form: value}, tuple(sorted(both)))
                for name in sorted(told)
                # "Plymor made by Plymor" asks for one thing
                if name.lower() not in value.lower().split() and len(both := told[name] & groups[value]) >= LEAST
            ]
    for n, item in enumerate(items):
        own = [categories[name] - {n} for name in item.categories if name]
        # the rarest says the most: "yoga" rather than "handmade"
        company = min(own, key=len, default=set())
        values = {"title": without_year(item.title)}
        pools["like"].append(_Topic("like", values, tuple(sorted(company))))
        if item.price is not None:
            less = [m for m in sorted(company) if (price := items[m].price) is not None and price < item.price]
            pools["cheaper"].append(_Topic("cheaper", values, tuple(less)))
    most = MOST * len(items)
    return {kind: [topic for topic in pool if LEAST <= len(topic.relevant) <= most] for kind, pool in pools.items()}


def _groups(named: Iterable[tuple[int, str]]) -> dict[str, set[int]]:
    groups: defaultdict[str, set[int]] = defaultdict(set)
    for n, name in named:
        if name.strip():
            groups[name].add(n)
    return dict(groups)


def _words(title: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(title)}


def _decade(title: str) -> str:
    found = decade(title)
    return f"{found}s" if found else ""
