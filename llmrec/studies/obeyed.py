"""Do rules hold? Random rules, random requests, every kind of ranker, and a plain reading of the rules beside them.

Items and people are made up. A set of rules is drawn as it would stand in a file and read as a file is; a ranker then
answers requests under it. The checker shares nothing with what it checks: it reads the file's plain lists, item by
item and person by person, knows each person's age as a number (the ranker has the profile's words alone), and where a
floor is short it asks an integer program whether it had to be. The language model is not trained: rules hold or not
whatever it thinks.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.optimize import Bounds, LinearConstraint, milp

from llmrec.baselines import Covisitation, Popularity
from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.filters import Attributes
from llmrec.config import ModelConfig
from llmrec.config_tree import Overrides
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, RequestError
from llmrec.online.explore import EpsilonGreedy, Explorer, UnderRules, WithoutReplacement
from llmrec.pipeline.systems import Reranked
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Mixture
from llmrec.policy.nano import make_nano, train_tokenizer
from llmrec.policy.retrieved import Retrieved
from llmrec.progress import console, track
from llmrec.rules import RuleBook, Ruled, parse_rules
from llmrec.seeding import numpy_stream
from llmrec.studies.answer import Answer, Sheet
from llmrec.studies.study import Pooled, SeedRows, Study
from llmrec.text.render import StateRenderer
from llmrec.types import Interaction, Item, Ranker, Reward, Slate, State

TOPICS = ("wine", "horror", "toys", "garden", "yoga", "games", "books", "tea")
BRANDS = ("Acme", "Borel", "Cado", "Dune", "Elm")
JOBS = ("student", "nurse", "baker", "pilot")
WORDS = ("lucky", "bet", "free", "gun smoke", "night")
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ha", "ke", "li", "mo", "nu")
K = 10
EPSILON = 0.4
Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Person:
    """Somebody who asks, as the checker knows them; None is unknown."""

    age: int | None
    gender: str | None
    job: str | None

    @property
    def profile(self) -> str:
        """In words, one of several wordings."""
        who = self.gender or "person"
        age = self.age
        told = f"A {who}" if age is None else (f"A {age}-year-old {who}", f"A {who}, {age} years old",
                                               f"{who}; age: {age}", f"A {who} aged {age}")[age % 4]  # fmt: skip
        return told + ("." if self.job is None else f"; occupation: {self.job}.")


def obeyed(
    seeds: Sequence[int],
    out: Path,
    *,
    requests: int = 10_000,
    sets: int = 100,
    items: int = 200,
    overrides: Overrides | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Draws rules and requests for each seed, counts what is broken and takes the time.

    Args:
        seeds: of items, people, rules and the untrained model.
        out: folder of the answer.
        requests: of a seed.
        sets: sets of rules that they are divided among.
        items: of the catalogue.
        overrides: not used; every study takes them.
        json_file: the figures are also written here.
    """
    del overrides
    return Study(seeds, lambda seed: _measured(seed, requests, sets, items), _answer).run(out, json_file)


def made_items(seed: int, count: int) -> list[Item]:
    """Items of one or two topics, some without; some texts hold words that may be forbidden."""
    random = numpy_stream(seed, "obeyed", "items")
    made = []
    for n in range(count):
        title = " ".join("".join(random.choice(SYLLABLES, 2)).capitalize() for _ in range(2))
        topics = tuple(dict.fromkeys(random.choice(TOPICS, int(random.integers(0, 3))).tolist()))
        said = str(random.choice(WORDS)) if random.random() < 0.2 else ""
        price = None if random.random() < 0.2 else float(random.integers(1, 50))
        made.append(
            Item(f"i{n}", title, f"Made with {said}." if said else "", topics, str(random.choice(BRANDS)), price)
        )
    return made


def made_person(random: np.random.Generator) -> Person:
    """Somebody, of whom some facts are unknown."""
    return Person(
        None if random.random() < 0.25 else int(random.integers(8, 70)),
        None if random.random() < 0.2 else str(random.choice(("man", "woman"))),
        None if random.random() < 0.3 else str(random.choice(JOBS)),
    )


def made_rules(random: np.random.Generator, items: Sequence[Item]) -> list[dict[str, Any]]:
    """One to six rules as they would stand in a file."""

    def some() -> dict[str, Any]:
        kind = int(random.integers(5))
        if kind == 0:
            return {"ids": [items[int(n)].item_id for n in random.choice(len(items), 3, replace=False)]}
        if kind == 1:
            return {"brands": [str(random.choice(BRANDS))], "price": {"high": float(random.integers(5, 50))}}
        if kind == 2:
            return {"words": [str(random.choice(WORDS))]}
        return {"categories": random.choice(TOPICS, int(random.integers(1, 3)), replace=False).tolist()}

    rules: list[dict[str, Any]] = []
    for _ in range(int(random.integers(1, 7))):
        kind = int(random.integers(6))
        unknown = str(random.choice(("forbid", "allow")))
        to = {"gender": [str(random.choice(("man", "woman")))]} if random.random() < 0.5 else {
            "occupation": [str(random.choice(JOBS))]}  # fmt: skip
        if kind == 0:
            rules.append({"never": some(), "to": to, "unknown": unknown})
        elif kind == 1:
            rules.append({"minimum_age": int(random.integers(10, 30)), "items": some(), "unknown": unknown})
        elif kind == 2:
            rules.append({"forbidden_words": [str(random.choice(WORDS))]})
        elif kind == 3:
            rules.append({"at_most": int(random.integers(1, 4)), "items": some()})
        elif kind == 4:
            rules.append({"at_most": int(random.integers(1, 4)), "per": "category"})
        else:
            amount: Any = int(random.integers(1, 4)) if random.random() < 0.5 else "20%"
            rules.append({"at_least": amount, "items": some()})
    return rules


def is_of(item: Item, wanted: Tree) -> bool:
    """Whether an item is one that a rule names."""
    price = wanted.get("price") or {}
    return (
        ("ids" not in wanted or item.item_id in wanted["ids"])
        and ("categories" not in wanted or any(topic in wanted["categories"] for topic in item.categories))
        and ("brands" not in wanted or item.brand in wanted["brands"])
        and (not price or (item.price is not None and price.get("low", 0) <= item.price <= price["high"]))
        and ("words" not in wanted or holds(item, wanted["words"]))
    )


def holds(item: Item, words: Sequence[str]) -> bool:
    """Whether a text of an item holds one of the words."""
    texts = (item.title, item.description, item.brand, *item.categories)
    return any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in words for text in texts)


def may_see(item: Item, person: Person, rules: Sequence[Tree]) -> bool:
    """Whether no rule takes this item from this person."""
    for rule in rules:
        if "forbidden_words" in rule and holds(item, rule["forbidden_words"]):
            return False
        if "minimum_age" in rule and is_of(item, rule["items"]):
            too_young = rule["unknown"] == "forbid" if person.age is None else person.age < rule["minimum_age"]
            if too_young:
                return False
        if "never" in rule and is_of(item, rule["never"]):
            known = {"gender": person.gender, "occupation": person.job}
            meant = [
                rule["unknown"] == "forbid" if known[name] is None else known[name] in values
                for name, values in rule["to"].items()
            ]
            if all(meant):
                return False
    return True


def broken(
    slate: Slate, k: int, items: Sequence[Item], person: Person, hidden: Sequence[int], rules: Sequence[Tree]
) -> list[str]:
    """What of the rules a slate breaks, by a plain reading; a floor only where it could have been met better."""
    shown = [items[n] for n in slate.items_K]
    found = [f"{item.item_id} is forbidden" for item in shown if not may_see(item, person, rules)]
    found += ["an item twice"] if len(set(slate.items_K)) < len(shown) else []
    found += ["seen"] if set(slate.items_K) & set(hidden) else []
    floors: list[tuple[Tree, int]] = []
    for rule in rules:
        if "at_least" in rule:
            least = (
                rule["at_least"] if isinstance(rule["at_least"], int) else -(-k * int(rule["at_least"][:-1]) // 100)
            )
            floors.append((rule["items"], least))
        if "at_most" in rule and "per" in rule:
            first = [item.categories[0] for item in shown if item.categories]
            found += [f"too many of {topic}" for topic in set(first) if first.count(topic) > rule["at_most"]]
        elif "at_most" in rule and sum(is_of(item, rule["items"]) for item in shown) > rule["at_most"]:
            found.append("too many of a group")
    missing = sum(max(least - sum(is_of(item, wanted) for item in shown), 0) for wanted, least in floors)
    if missing or len(shown) < k:
        open_items = [n for n, item in enumerate(items) if n not in set(hidden) and may_see(item, person, rules)]
        least_missing, most = best_counts([items[n] for n in open_items], floors, rules, k)
        found += ["a floor that could be met"] if missing > least_missing else []
        found += ["an empty place that could be filled"] if missing == least_missing and len(shown) < most else []
    return found


def best_counts(
    items: Sequence[Item], floors: Sequence[tuple[Tree, int]], rules: Sequence[Tree], k: int
) -> tuple[int, int]:
    """The fewest items that a slate's floors can lack, and the most items of such a slate, by an integer program."""
    if not items:
        return sum(least for _, least in floors), 0
    n, f = len(items), len(floors)
    rows, low, high = [np.r_[np.ones(n), np.zeros(f)]], [0.0], [float(k)]
    for at, (wanted, least) in enumerate(floors):
        rows.append(np.r_[[float(is_of(item, wanted)) for item in items], np.eye(f)[at]])
        low.append(least)
        high.append(np.inf)
    for rule in rules:
        groups = [rule["items"]] if "at_most" in rule and "items" in rule else []
        members = [[float(is_of(item, wanted)) for item in items] for wanted in groups]
        if "per" in rule:
            members = [[float(item.categories[:1] == (topic,)) for item in items] for topic in TOPICS]
        for member in members:
            rows.append(np.r_[member, np.zeros(f)])
            low.append(0.0)
            high.append(rule["at_most"])
    # what floors lack weighs more than any number of items
    cost = np.r_[-np.ones(n), np.full(f, k + 1.0)]
    variables = Bounds(0, np.r_[np.ones(n), np.full(f, np.inf)])
    solved = milp(cost, constraints=LinearConstraint(np.array(rows), low, high), integrality=1, bounds=variables)
    chosen = np.round(solved.x).astype(int)
    return int(chosen[n:].sum()), int(chosen[:n].sum())


def rankers(seed: int, items: Sequence[Item]) -> dict[str, tuple[Ranker, dict[str, Any]]]:
    """Every kind of ranker over the items, with the options of its requests."""
    random = numpy_stream(seed, "obeyed", "events")
    events = pl.DataFrame(
        {
            "user_id": [f"u{n % 40}" for n in range(800)],
            "item_id": [items[int(n)].item_id for n in random.integers(0, len(items), 800)],
            "time": list(range(800)),
            "kind": ["click"] * 800,
        }
    )
    table = pl.DataFrame({"item_id": [i.item_id for i in items], "title": [i.title for i in items]})
    users = pl.DataFrame({"user_id": [f"u{n}" for n in range(40)]})
    named: dict[str, Any] = {"name": "made-up", "domain": "shop", "click": "click", "conversion": "conversion"}
    data = Dataset.build(table, users, events, **named)
    tokenizer = train_tokenizer([*(item.title for item in items), "Profile: History: (clicked); Next product:"], 400)
    renderer = StateRenderer(items, tokenizer, domain="shop", language="en", max_tokens=96)
    prefix = renderer.answer_prefix
    ids = [item.item_id for item in items]
    catalogue = Catalogue.from_titles(ids, renderer.titles, tokenizer, answer_prefix=prefix)
    model = make_nano(tokenizer, ModelConfig(nano_hidden=32, nano_layers=1), seed).eval()
    policy = LanguagePolicy(model, tokenizer, catalogue, renderer, "exclude", Attributes.of(items))
    covisitation = Covisitation().fit(data, data.events)
    popularity = Popularity().fit(data, data.events)
    mixture = Mixture([policy, covisitation.score], [0.6, 0.4])
    return {
        "policy, beam search": (policy, {}),
        "policy, best first": (policy, {"exact": True}),
        "mixture": (mixture, {}),
        "policy among 60 nearest": (Retrieved(policy, covisitation, 60), {}),
        "co-visitation": (covisitation, {}),
        "popularity": (popularity, {}),
        "co-visitation, reranked": (Reranked(covisitation, _by_name, len(items)), {}),  # type: ignore[arg-type]
        "policy, drawn without replacement": (_Drawn(WithoutReplacement(policy, seed), items), {}),
        "policy, drawn at temperature 3": (_Drawn(WithoutReplacement(policy, seed, 3.0), items), {}),
        "policy, epsilon": (_Drawn(EpsilonGreedy(policy, len(items), EPSILON, seed), items), {}),
        "mixture, epsilon": (_Drawn(EpsilonGreedy(mixture, len(items), EPSILON, seed), items), {}),
        "popularity, epsilon": (_Drawn(EpsilonGreedy(popularity, len(items), EPSILON, seed), items), {}),
    }


@dataclass
class _Drawn:
    """Slates of an explorer where a ranker is asked for; every one has a luck of its own."""

    explorer: Explorer
    items: Sequence[Item]
    book: RuleBook | None = None
    count: int = 0

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[np.ndarray] | None = None) -> list[Slate]:
        """See `types.Ranker`; log-probabilities are those of the places."""
        names = [str(self.count + n) for n in range(len(states))]
        self.count += len(states)
        own = self.explorer if self.book is None else UnderRules(self.explorer, self.book, self.items)
        made = own.propose(states, k, names, seen=seen)
        return [Slate(one.items_K, tuple(np.log(one.propensity_K).tolist())) for one in made]


def _by_name(states: Sequence[State], items_BK: np.ndarray) -> Reward:
    """A reward that knows nothing: some fixed order of items."""
    del states
    return Reward(np.sin(items_BK * 12.9898) % 1.0)


def _measured(seed: int, requests: int, sets: int, count: int) -> SeedRows:
    items = made_items(seed, count)
    digest = hashlib.sha256(repr(items).encode()).hexdigest()[:12]
    random = numpy_stream(seed, "obeyed", "requests")
    everyone = rankers(seed, items)
    per_set = -(-requests // sets)
    facts: dict[str, Any] = {
        name: {"requests": 0, "broken": 0, "short": 0, "refused": 0, "seconds": 0.0, "seconds without": 0.0}
        for name in everyone
    }
    contradictory = 0
    reasons: list[str] = []
    for turn in track(range(sets), "sets of rules"):
        name = list(everyone)[turn % len(everyone)]
        ranker, options = everyone[name]
        while True:
            trees = made_rules(random, items)
            try:
                book = RuleBook.of(parse_rules(trees, "the set"), items)
                break
            except ConfigError:
                contradictory += 1
        asked = min(per_set, requests - turn * per_set)
        people = [made_person(random) for _ in range(asked)]
        seen = [random.choice(len(items), int(random.integers(0, 12)), replace=False) for _ in people]
        states = [
            State(None, person.profile, tuple(Interaction(int(i), "click", t) for t, i in enumerate(own)))
            for person, own in zip(people, seen, strict=True)
        ]
        k = int(random.integers(3, K + 1))
        own = facts[name]
        own["seconds without"] += _timed(partial(ranker.recommend, states, k, **options))[1]
        ruled = replace(ranker, book=book) if isinstance(ranker, _Drawn) else Ruled(ranker, book, items)
        slates, spent = _timed(partial(_answers, ruled, states, k, options))
        own["seconds"] += spent
        for state, person, slate in zip(states, people, slates, strict=True):
            own["requests"] += 1
            hidden = state.seen()
            if slate is None:  # refused: then nothing may be left of what was to choose from
                own["refused"] += 1
                left = [n for n, i in enumerate(items) if n not in hidden and may_see(i, person, trees)]
                wrong = ["refused in vain"] if left and "nearest" not in name else []
            else:
                own["short"] += len(slate.items_K) < k
                wrong = broken(slate, k, items, person, hidden, trees)
                # what was drawn must say how likely it was
                if isinstance(ranker, _Drawn) and any(value > 0 for value in slate.log_probs_K):
                    wrong.append("no chance")
                if "nearest" in name:  # among its candidates alone floors and places may be out of reach
                    wrong = [one for one in wrong if "could be" not in one]
            own["broken"] += bool(wrong)
            reasons += wrong
    console.print(f"  {sum(o['requests'] for o in facts.values()):,} requests, broken: {reasons[:5] or 'none'}")
    return SeedRows(seed, digest, facts={"by ranker": facts, "contradictory": contradictory, "reasons": reasons[:20]})


def _answers(ruled: Any, states: Sequence[State], k: int, options: dict[str, Any]) -> list[Slate | None]:
    """The slates of all requests; one by one where one of them leaves nothing. None: refused."""
    try:
        return list(ruled.recommend(states, k, **options))
    except RequestError:
        found: list[Slate | None] = []
        for state in states:
            try:
                found += ruled.recommend([state], k, **options)
            except RequestError:
                found.append(None)
        return found


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()  # of this process alone, whatever else the machine does
    return call(), time.process_time() - start


def _answer(found: Pooled) -> Answer:
    names = list(found.seeds[0].facts["by ranker"])
    total = {
        name: {key: sum(one.facts["by ranker"][name][key] for one in found.seeds) for key in
               found.seeds[0].facts["by ranker"][name]}
        for name in names
    }  # fmt: skip
    rows = [
        (
            name,
            f"{own['requests']:,}",
            str(own["broken"]),
            str(own["short"]),
            str(own["refused"]),
            f"{1000 * own['seconds without'] / max(own['requests'], 1):.2f}",
            f"{1000 * own['seconds'] / max(own['requests'], 1):.2f}",
        )
        for name, own in total.items()
    ]
    columns = (
        "ranker",
        "requests",
        "broken",
        "shorter than k",
        "nothing left",
        "CPU ms without rules",
        "CPU ms with",
    )
    asked, wrong = (sum(own[key] for own in total.values()) for key in ("requests", "broken"))
    figures = {
        "requests": asked,
        "broken": wrong,
        "by_ranker": total,
        "reasons": [reason for one in found.seeds for reason in one.facts["reasons"]],
    }
    return Answer(
        "Rules: do they hold?",
        figures,
        (Sheet("Random requests under random rules", columns, rows),),
        [f"{wrong} of {asked:,} answers break a rule, by a plain reading that shares no code with the search."],
    )
