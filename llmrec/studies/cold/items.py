"""Cold items: who ranks items that nobody had chosen yet?

A tenth of the items is withheld from everything that learns or reads a state (`dataset.withheld`), while their texts
stay. Asked are their events of the test period: at each state of a user, which of *all* items comes next? Counts know
nothing of such an item, so popularity is 0 there by construction. What is said in figures:

- *new*: NDCG@10 and HR@10 of the events of withheld items, among all items.
- *known*: the same of the events of all other items, by the same scores. Whoever shows nothing but new items finds
  them all, so one figure alone says little; the harmonic mean of both is a third (Xian et al. 2017).
- *among new*: of the new events again, with the new items alone to choose from: who understands the texts?

Every system, and every mixture of some, is put to these by the same rule (`parts`): one conditional logit over what
it says, what it says of the item on the average, and whether the item is new, fitted on rows of the validation period
where events of items that are new there (others than the test's) count as much together as events of known ones. So
offsets that training gives to what it saw are taken away from all alike (calibrated stacking in generalised zero-shot
learning, Chao et al. 2016). What each system says without that stands beside it as "as it is".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.dataset.examples import Examples
from llmrec.errors import DataError
from llmrec.evaluation.significance import Interval
from llmrec.pipeline.sft import targets
from llmrec.progress import console
from llmrec.studies.answer import Answer, forest, signed
from llmrec.studies.cold.parts import Asked, K, Part, Weighed
from llmrec.studies.cold.setting import CHEAP, SASREC, SENTENCES, WORDS, Rows, Setting
from llmrec.studies.study import Pooled, SeedRows, Study
from llmrec.types import BoolArray, FloatArray

AS_IS = ", as it is"
NO_LM = "all without LM"
NDCG, HR = f"NDCG@{K}", f"HR@{K}"
BOTH = f"{NDCG} of both"
RIVALS = (WORDS, SENTENCES, SASREC)
"""What a language model is held against on new items."""


def cold_items(seeds: Sequence[int], out: Path, json_file: Path | None, rows: Rows, **which: Any) -> dict[str, Any]:
    """Asks all systems for new items and returns the figures; see `cold_starts`, and `Setting.of` for `which`."""

    def measure(seed: int) -> SeedRows:
        return rows_of(Setting.of(seed, out, **which), rows)

    return Study(seeds, measure, answer_of, unit="seed").run(out, json_file)


def rows_of(setting: Setting, limits: Rows) -> SeedRows:
    """What all systems give under one seed."""
    config, data = setting.config, setting.data
    assert data.withheld is not None
    new_valid = targets(config, data, "valid", limits.valid, new_items=True)
    known_valid = targets(config, data, "valid", limits.valid)
    new = targets(config, data, "test", limits.test, new_items=True)
    known = targets(config, data, "test", limits.known)
    for period, found in (("validation", new_valid), ("test", new)):
        if not len(found):
            raise DataError(f"The {period} part has no event of new items; raise data.withheld or widen the part.")
    valid = joined(new_valid, known_valid)
    parts = [*setting.cheap_parts(valid), *setting.models]
    is_new_N = np.zeros(data.dataset.n_items, dtype=bool)
    is_new_N[data.withheld.all_items] = True
    fit = Asked.of(valid, parts, data, setting.work, "valid")
    weights_B = np.repeat([1 / len(new_valid), 1 / max(1, len(known_valid))], [len(new_valid), len(known_valid)])
    test = {"new": new, "known": known}
    asked = {kind: Asked.of(found, parts, data, setting.work, kind) for kind, found in test.items()}
    rows: dict[str, dict[str, FloatArray]] = {}
    coefficients: dict[str, list[float]] = {}
    for name, members in systems(parts).items():
        weighed = Weighed.fit(members, fit, weights_B, [is_new_N.astype(np.float32)])
        rows[name] = _gains(asked, {kind: weighed.score(found) for kind, found in asked.items()}, is_new_N)
        coefficients[name] = np.round(weighed.coefficients, 4).tolist()
    for part in parts:
        rows[part.name + AS_IS] = _gains(
            asked, {k: found.features[part.name][0] for k, found in asked.items()}, is_new_N
        )
    users = {kind: [_user(setting, user) for user in found.users] for kind, found in asked.items()}
    by_measure = {m: users["known" if m.endswith("known") else "new"] for m in rows[parts[0].name]}
    counts = {
        "valid, new": len(new_valid),
        "valid, known": len(known_valid),
        "new": len(new),
        "known": len(known),
    }
    settings = {part.name: part.facts for part in parts}
    facts = {**setting.facts, "rows": counts, "settings": settings, "coefficients": coefficients}
    return SeedRows(setting.seed, data.withheld.data_hash, rows, by_measure, facts)


def joined(*found: Examples) -> Examples:
    """Several examples as one, in order."""
    return Examples([row for part in found for row in part.rows], [seen for part in found for seen in part.seen])


def systems(parts: Sequence[Part]) -> dict[str, tuple[str, ...]]:
    """Each part alone, all that is no language model together, and each language model with them."""
    names = [part.name for part in parts]
    cheap = tuple(name for name in names if name in CHEAP)
    found = {name: (name,) for name in names} | {NO_LM: cheap}
    return found | {f"all with {name}": (*cheap, name) for name in names if name not in CHEAP}


def _gains(asked: dict[str, Asked], scores: dict[str, FloatArray], is_new_N: BoolArray) -> dict[str, FloatArray]:
    """By measure one figure a row."""
    found = {f"{name} {kind}": gain_B for kind in asked for name, gain_B in asked[kind].gains(scores[kind]).items()}
    among = asked["new"].gains(scores["new"], is_new_N)
    return found | {f"{name} among new": gain_B for name, gain_B in among.items()}


def _user(setting: Setting, user: str) -> str:
    """Generated worlds call their users alike, and they are other people under each seed."""
    return f"{setting.seed}/{user}" if setting.data.world is not None else user


def answer_of(found: Pooled) -> Answer:
    """Tables, and each language model against what knows texts; each mixture with it against the one without."""
    models = [side for side in found.sides if side.startswith("LM") and not side.endswith(AS_IS)]
    reference = models[-1] if models else NO_LM
    counts = found.seeds[0].facts["rows"]
    new = (f"{NDCG} new", f"{HR} new", f"{NDCG} among new", f"{HR} among new")
    seeds = len(found.seeds)
    title = f"Events of items that are new ({counts['new'] * seeds} rows, {seeds} seeds), differences to {reference}"
    known = f"Events of known items by the same scores ({counts['known'] * seeds} rows)"
    tables = [
        found.comparison(title, new, reference),
        found.comparison(known, (f"{NDCG} known", f"{HR} known"), reference, plain=both(found)),
    ]
    pairs = [(model, rival) for model in models for rival in RIVALS if rival in found.sides]
    pairs += [(f"all with {model}", NO_LM) for model in models]
    claims = {
        f"{side} against {base}": {m: found.difference(side, base, m) for m in (*new[:3], f"{NDCG} known")}
        for side, base in pairs
    }
    figures = {
        "rows": counts,
        "values": {
            side: {m: float(np.mean(found.rows(side, m))) for m in found.measures(side)} for side in found.sides
        },
        "both": {side: of[BOTH] for side, of in both(found).items()},
        "claims": {name: {m: asdict(d) for m, d in of.items()} for name, of in claims.items()},
        "facts": [dict(one.facts) for one in found.seeds],
    }
    sentences = [
        _sentence(name, of[f"{NDCG} new"], of[f"{HR} new"], of[f"{NDCG} known"]) for name, of in claims.items()
    ]
    plot = forest(
        "Difference on events of new items",
        {name: {m: asdict(d) for m, d in of.items()} for name, of in claims.items()},
    )
    console.print()
    return Answer("Cold items", figures, tables, sentences, {"claims": plot} if claims else {})


def both(found: Pooled) -> dict[str, dict[str, float]]:
    """The harmonic mean of NDCG on new and on known items of each side: near 0 where either is."""
    means = {s: [float(found.rows(s, f"{NDCG} {kind}").mean()) for kind in ("new", "known")] for s in found.sides}
    return {side: {BOTH: 2 * new * old / (new + old) if new + old else 0.0} for side, (new, old) in means.items()}


def _sentence(name: str, ndcg: Interval, hr: Interval, known: Interval) -> str:
    word = (
        "significantly above" if ndcg.above_zero else "significantly below" if ndcg.below_zero else "not told apart"
    )
    return (
        f"{name}: {word} on new items, {NDCG} {signed(ndcg)}, {HR} {signed(hr)}; on known ones {NDCG} {signed(known)}"
    )
