"""Cold users: what is a profile worth where there is no past?

Asked are users without any training event, at events of the test period that come after their first three. Of those
three a state holds the first k = 0, 1 or 3 and nothing else, so the targets are the same for every k and only what is
known differs. Counts within groups of people (age, gender, occupation: `baselines.popularity.GroupPopularity`,
attributes and smoothing chosen on validation rows) are what a language model that reads profiles has to beat; itself
without profiles says what the profile adds.

Every system and mixture is weighed by the same conditional logit (`parts`), fitted for each k on the validation rows
of users who are cold there; what a system says without it stands beside it as "as it is".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.baselines.registry import baseline
from llmrec.dataset.examples import Examples, examples
from llmrec.dataset.split import Part as Period
from llmrec.errors import DataError
from llmrec.seeding import numpy_stream
from llmrec.studies.answer import Answer, forest, signed
from llmrec.studies.cold.parts import Asked, K, Part, Weighed, baseline_part, popularity_part
from llmrec.studies.cold.setting import COUNTS, SENTENCES, WORDS, Rows, Setting
from llmrec.studies.study import Pooled, SeedRows, Study
from llmrec.types import Example, FloatArray

AS_IS, SILENT = ", as it is", ", no profile"
NO_LM = "all without LM"
GROUPS = "group-popularity"
KNOWN = (0, 1, 3)
"""Events of the user that a state holds."""
EACH = 8
"""Rows of one user, at most: people count alike."""
NDCG, HR = f"NDCG@{K}", f"HR@{K}"


def cold_users(seeds: Sequence[int], out: Path, json_file: Path | None, rows: Rows, **which: Any) -> dict[str, Any]:
    """Asks all systems for cold users, at most `EACH` rows of one; arguments of `items.cold_items`."""

    def measure(seed: int) -> SeedRows:
        return rows_of(Setting.of(seed, out, **which), rows)

    return Study(seeds, measure, answer_of, unit="seed").run(out, json_file)


def rows_of(setting: Setting, limits: Rows) -> SeedRows:
    """What all systems give under one seed."""
    data = setting.data
    assert data.withheld is not None
    if not data.dataset.users["profile"].str.strip_chars().str.len_chars().gt(0).any():
        raise DataError(f"No user of {data.dataset.manifest.name!r} has a profile, so there is nothing to ask for.")
    valid, test = cold_rows(setting, "valid", limits.valid), cold_rows(setting, "test", limits.test)
    parts = _parts(setting, known(valid, 0))
    rows: dict[str, dict[str, FloatArray]] = {}
    for k in KNOWN:
        fit, asked = (
            Asked.of(known(found, k), parts, data, setting.work, f"{period} k={k}")
            for period, found in (("valid", valid), ("test", test))
        )
        weights_B = np.ones(len(valid))
        for name, members in _systems(parts).items():
            gains = asked.gains(Weighed.fit(members, fit, weights_B).score(asked))
            rows.setdefault(name, {}).update(_named(gains, k))
        for part in parts:
            gains = asked.gains(asked.features[part.name][0])
            rows.setdefault(part.name + AS_IS, {}).update(_named(gains, k))
    users = [str(example.state.user_id) for example in test]
    users = [f"{setting.seed}/{user}" for user in users] if data.world is not None else users
    counts = {"valid": len(valid), "test": len(test), "users": len(set(users))}
    facts = {**setting.facts, "rows": counts, "settings": {part.name: part.facts for part in parts}}
    return SeedRows(setting.seed, data.withheld.data_hash, rows, dict.fromkeys(rows[NO_LM], users), facts)


def cold_rows(setting: Setting, period: Period, limit: int) -> Examples:
    """Events of users who trained nothing, at most `EACH` a user, after at least as many as the states may hold.

    Raises:
        DataError: there is no such event.
    """
    data = setting.data
    assert data.withheld is not None
    trained = {*data.split.train["user_id"].to_list(), *data.withheld.events.train["user_id"].to_list()}
    everything = examples(
        data.dataset, data.split, period, history_events=10**9, seed=setting.seed, withheld=data.withheld
    )
    by_user: dict[str, list[int]] = {}
    for row, example in enumerate(everything):
        user = example.state.user_id
        if user is not None and user not in trained and len(example.state.history) >= max(KNOWN):
            by_user.setdefault(user, []).append(row)
    stream = numpy_stream(setting.seed, "cold users", period)
    kept = [
        int(row)
        for _, own in sorted(by_user.items())
        for row in stream.choice(own, size=min(EACH, len(own)), replace=False)
    ]
    if not kept:
        raise DataError(f"The {period} part has no user without training events; split by time, or widen it.")
    chosen = sorted(stream.choice(kept, size=min(limit, len(kept)), replace=False).tolist())
    return Examples([everything.rows[row] for row in chosen], [everything.seen[row] for row in chosen])


def known(found: Examples, k: int) -> Examples:
    """The rows with the first k events of their users as all that is known of them."""
    cut = [dataclasses.replace(e.state, history=e.state.history[:k]) for e in found]
    return Examples([Example(s, e.target, e.feedback) for s, e in zip(cut, found, strict=True)], found.seen)


def _parts(setting: Setting, valid: Examples) -> list[Part]:
    found = [popularity_part(setting.data, setting.seed)]
    for name in (GROUPS, COUNTS, WORDS, SENTENCES):
        if baseline(name).available:
            found.append(baseline_part(baseline(name), setting.data, valid, setting.seed))
    for part in setting.models:
        found += [part, Part(part.name + SILENT, _silent(part), part.facts, [part.key, "silent"])]
    return found


def _silent(part: Part) -> Any:
    """The same part at states without profiles."""
    return lambda states: part.features([dataclasses.replace(state, profile="") for state in states])


def _systems(parts: Sequence[Part]) -> dict[str, tuple[str, ...]]:
    names = [part.name for part in parts]
    cheap = tuple(name for name in names if not name.startswith("LM"))
    models = [name for name in names if name.startswith("LM") and not name.endswith(SILENT)]
    found = {name: (name,) for name in names} | {NO_LM: cheap}
    return found | {f"all with {name}": (*cheap, name) for name in models}


def _named(gains: dict[str, FloatArray], k: int) -> dict[str, FloatArray]:
    return {f"{name} k={k}": gain_B for name, gain_B in gains.items()}


def answer_of(found: Pooled) -> Answer:
    """A table by k; each language model against groups and against itself without profiles."""
    models = [s for s in found.sides if s.startswith("LM") and SILENT not in s and AS_IS not in s]
    reference = models[-1] if models else GROUPS
    counts = found.seeds[0].facts["rows"]
    measures = [f"{name} k={k}" for name in (NDCG, HR) for k in KNOWN]
    title = f"{counts['test']} events of {counts['users']} users without training events, differences to {reference}"
    pairs = [(model, base) for model in models for base in (GROUPS, model + SILENT)]
    pairs += [(f"all with {model}", NO_LM) for model in models]
    claims = {f"{a} against {b}": {m: found.difference(a, b, m) for m in measures} for a, b in pairs}
    plain = {name: {m: asdict(d) for m, d in of.items()} for name, of in claims.items()}
    values = {side: {m: float(np.mean(found.rows(side, m))) for m in measures} for side in found.sides}
    figures = {"rows": counts, "values": values, "claims": plain, "facts": [dict(one.facts) for one in found.seeds]}
    sentences = [
        f"{name}, {NDCG}: " + ", ".join(f"k={k} {signed(of[f'{NDCG} k={k}'])}" for k in KNOWN)
        for name, of in claims.items()
    ]
    tables = [found.comparison(title, measures, reference)]
    plots = {"claims": forest("Difference for cold users", plain)} if plain else {}
    return Answer("Cold users with a profile", figures, tables, sentences, plots)
