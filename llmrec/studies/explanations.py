"""Do reasons tell what decides? A world in which one item of the history decides the answer, and nothing else does.

Titles are made-up words. Each history holds one key among fillers, at any place; the key's partner is chosen next. A
nano model learns that by SFT. Then each new state's top item is explained. Asked are: is the key the part with the
largest effect; how fast does the item's log-probability fall when items go in the order of their effects, of the
attention that they get, of their recency, or at random; and does the packed pass equal separate runs, at what speed.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import ModelConfig, SFTSettings
from llmrec.config_tree import Overrides
from llmrec.evaluation.significance import paired_bootstrap
from llmrec.explain import Parted, explained
from llmrec.explain.effects import attribute
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.modes import evaluating
from llmrec.policy.nano import make_nano, train_tokenizer
from llmrec.policy.variants import variant_log_probs
from llmrec.progress import console
from llmrec.seeding import numpy_stream
from llmrec.studies.answer import Answer, Sheet, signed
from llmrec.studies.study import Pooled, SeedRows, Study, over_seeds
from llmrec.text.render import StateRenderer
from llmrec.training.sft import train_sft
from llmrec.types import Example, FloatArray, Interaction, Item, State

KEYS, FILLERS, LENGTH = 10, 20, 6
EFFECTS, ATTENTION, RECENCY, RANDOM = "effects", "attention weights", "recency", "random order"
ORDERS = (EFFECTS, ATTENTION, RECENCY, RANDOM)
AREA = "area"
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ha", "ke", "li", "mo", "nu")


def explanations(
    seeds: Sequence[int],
    out: Path,
    *,
    examples: int = 1500,
    epochs: float = 4.0,
    states: int = 60,
    overrides: Overrides | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Plants a cause, trains and explains for each seed.

    Args:
        seeds: of worlds, trainings and random orders.
        out: folder of the answer.
        examples: choices that are learnt.
        epochs: passes over them.
        states: new ones that are explained.
        overrides: not used; every study takes them.
        json_file: the figures are also written here.
    """
    del overrides

    def measure(seed: int) -> SeedRows:
        items, learnt, asked, digest = planted(seed, examples, states)
        policy = trained(items, learnt, seed, epochs)
        return _measured(policy, items, asked, seed, digest)

    return Study(seeds, measure, _answer).run(out, json_file)


def planted(seed: int, examples: int, states: int) -> tuple[list[Item], list[Example], list[Example], str]:
    """Items (keys, their partners, fillers), choices to learn, choices to explain, and a hash of all of it."""
    random = numpy_stream(seed, "explanations", "world")
    words = ["".join(pair).capitalize() for pair in itertools.product(SYLLABLES, SYLLABLES)]
    titles = random.permutation(words)[: 2 * KEYS + FILLERS].tolist()
    items = [Item(f"i{n}", title) for n, title in enumerate(titles)]
    made = []
    for n in range(examples + states):
        key, place = int(random.integers(KEYS)), int(random.integers(LENGTH))
        past = (2 * KEYS + random.choice(FILLERS, LENGTH - 1, replace=False)).tolist()
        past.insert(place, key)
        history = tuple(Interaction(int(item), "click", at) for at, item in enumerate(past))
        made.append(Example(State(f"u{n}", "", history, time=LENGTH), target=KEYS + key))
    digest = hashlib.sha256(repr((titles, made)).encode()).hexdigest()[:12]
    return items, made[:examples], made[examples:], digest


def trained(items: Sequence[Item], learnt: Sequence[Example], seed: int, epochs: float) -> LanguagePolicy:
    """A nano model after SFT on the choices."""
    titles = [item.title for item in items]
    tokenizer = train_tokenizer([*titles * 3, "History: (clicked); Next product:"], 400)
    renderer = StateRenderer(items, tokenizer, domain="shop", language="en", max_tokens=128)
    catalogue = Catalogue.from_titles(
        [item.item_id for item in items], renderer.titles, tokenizer, answer_prefix=renderer.answer_prefix
    )
    model = make_nano(tokenizer, ModelConfig(nano_hidden=64, nano_layers=2), seed)
    settings = SFTSettings(
        layout="rows",
        likelihood="catalogue",
        mixture={"next_item": 1.0},
        examples=len(learnt),
        epochs=epochs,
        batch_size=32,
        learning_rate=2e-3,
        save_every=10**6,
    )
    with tempfile.TemporaryDirectory() as folder:
        parts = (model, tokenizer, catalogue, renderer, list(learnt), items, settings)
        made = train_sft(*parts, seed=seed, out=Path(folder))
    return LanguagePolicy(made.model.eval(), tokenizer, catalogue, renderer, repeat="exclude")


def _measured(
    policy: LanguagePolicy, items: Sequence[Item], asked: Sequence[Example], seed: int, digest: str
) -> SeedRows:
    slates = policy.recommend([example.state for example in asked], 1)
    right = [slate.items_K[0] == example.target for slate, example in zip(slates, asked, strict=True)]
    random = numpy_stream(seed, "explanations", "random order")
    found, areas, error = [], {order: list[float]() for order in ORDERS}, 0.0
    seconds = {"packed": 0.0, "separate": 0.0}
    for example, slate in zip(asked, slates, strict=True):
        state, item = example.state, slate.items_K[0]
        parted = Parted(state, items)
        scores = explained(policy, state)
        start = time.perf_counter()
        (one,) = attribute(scores, parted, [item])
        seconds["packed"] += time.perf_counter() - start
        gap, spent = _separate(policy, parted, one.log_score, one.nats_P, item)
        error, seconds["separate"] = max(error, gap), seconds["separate"] + spent
        found.append(one.effects[0].part.item_id == f"i{example.target - KEYS}")
        count = len(parted.parts)
        orders = {
            EFFECTS: np.argsort(-np.array(one.nats_P), kind="stable"),
            ATTENTION: np.argsort(-attention(policy, parted), kind="stable"),
            RECENCY: np.arange(count)[::-1],
            RANDOM: random.permutation(count),
        }
        for name, order in orders.items():
            areas[name].append(area(policy, parted, order.tolist(), item))
    console.print(f"  top item right {np.mean(right):.3f}, cause found first {np.mean(found):.3f}")
    facts = {"right": float(np.mean(right)), "found first": float(np.mean(found)), "largest gap": error, **seconds}
    rows = {name: {AREA: np.array(values)} for name, values in areas.items()}
    users = [f"{seed}/{n}" for n in range(len(asked))]
    return SeedRows(seed, digest, rows, {AREA: users}, facts)


def _separate(
    policy: LanguagePolicy, parted: Parted, log_score: float, nats_P: Sequence[float], item: int
) -> tuple[float, float]:
    """Largest gap between the effects and those of runs one by one, and the seconds that these took."""
    start = time.perf_counter()
    items = torch.tensor([[item]])
    variants = [parted.without(gone).state for gone in [(), *((n,) for n in range(len(parted.parts)))]]
    # what `attribute` asks beside: everything gone, the history gone, and the pair with the largest effects
    largest = np.argsort(-np.abs(nats_P))[:2].tolist()
    variants += [parted.without(range(len(parted.parts))).state, parted.without(largest).state]
    with torch.no_grad(), evaluating(policy.model):
        found = [float(policy.log_prob([state], items)) for state in variants]
    spent = time.perf_counter() - start
    gaps = [abs(log_score - found[0])]
    gaps += [abs(nats - (found[0] - without)) for nats, without in zip(nats_P, found[1:-2], strict=True)]
    return max(gaps), spent


def area(policy: LanguagePolicy, parted: Parted, order: Sequence[int], item: int) -> float:
    """Mean loss of log pi over the deletions of the first 1, 2, ... parts of an order, in nats: larger is better."""
    states = [parted.without(order[:count]).state for count in range(len(order) + 1)]
    renderer: Any = policy.renderer
    rows = renderer.token_ids_many(states)
    log_pi = variant_log_probs(policy.model, policy.tokenizer, policy.index, rows, [item])[:, 0]
    return float(np.mean(log_pi[0] - log_pi[1:]))


def attention(policy: LanguagePolicy, parted: Parted) -> FloatArray:
    """Attention of the prompt's last token to the tokens of each part, the mean of all heads and layers: (P,)."""
    renderer: Any = policy.renderer
    states = [parted.state, *(parted.without([n]).state for n in range(len(parted.parts)))]
    whole, *without = renderer.token_ids_many(states)
    config = policy.model.config.get_text_config()
    kept, config._attn_implementation = config._attn_implementation, "eager"
    try:
        with torch.no_grad(), evaluating(policy.model):
            out = policy.model(input_ids=torch.tensor([whole]), output_attentions=True)
    finally:
        config._attn_implementation = kept
    weight_L = torch.stack(out.attentions)[:, 0, :, -1].mean((0, 1)).double().numpy()
    sums = []
    for row in without:
        # the tokens that are gone stand between what both begin with and what both end with
        begun = next((n for n, (a, b) in enumerate(zip(whole, row, strict=False)) if a != b), len(row))
        sums.append(weight_L[begun : begun + len(whole) - len(row)].sum())
    return np.array(sums)


def _answer(found: Pooled) -> Answer:
    columns = ("order of leaving out", "area, nats", f"{EFFECTS} less this, by state (95%)")
    rows, less = [], {}
    for name in ORDERS:
        gap = ""
        if name != EFFECTS:
            own = paired_bootstrap(found.rows(EFFECTS, AREA), found.rows(name, AREA), users=found.users(AREA))
            gap, less[name] = signed(own, 3), {"mean": own.mean, "low": own.low, "high": own.high}
        rows.append((name, f"{found.rows(name, AREA).mean():.3f}", gap))
    facts = [one.facts for one in found.seeds]
    first = over_seeds([fact["found first"] for fact in facts])
    ratio = [fact["separate"] / fact["packed"] for fact in facts]
    gap = max(fact["largest gap"] for fact in facts)
    figures = {
        "area": {name: found.means(name, AREA) for name in ORDERS},
        "less": less,
        "found_first": first,
        "right": over_seeds([fact["right"] for fact in facts]),
        "largest_gap": gap,
        "separate_over_packed_seconds": over_seeds(ratio),
    }
    sentences = [
        f"The planted cause has the largest effect in {100 * np.mean(first['by_seed']):.1f}% of the states "
        f"(by seed {', '.join(f'{100 * share:.1f}%' for share in first['by_seed'])}); the top item is right in "
        f"{100 * np.mean([fact['right'] for fact in facts]):.1f}%.",
        f"Effects of the packed pass and of separate runs differ by at most {gap:.1e} nats; separate runs take "
        f"{np.mean(ratio):.1f} times as long.",
    ]
    note = f"{len(found.rows(EFFECTS, AREA))} states; mean loss of log pi of the top item while all parts go."
    return Answer(
        "Reasons: do they tell what decides?", figures, (Sheet("Deletion", columns, rows, note),), sentences
    )
