"""Written profiles: how much of what is written is grounded, and does it help to rank?

Profiles are written from the training part alone (leave-last-out: all of a user but the last two moments), by rule
for every user and, where a model is named, by it for the first users. Then a ranker that reads profiles (TF-IDF words
of history, request and profile: `baselines.likeness.ContentProfile`) ranks each user's last choices

- *without* the profile, with the profile as it was *given*, and with the one that was *written*,
- at states that hold the last h = 0, 1, 5 or 20 choices and nothing else of the user, or all: a written profile is a
  memory of what a state has no room for, so it should matter most where the state holds least,
- alone and mixed with counts (co-visitation and popularity), the strong control: what they know a text need not say.

Weights (of the profile, of the decay of the history, of the mixture) are chosen on validation rows for each h and
kind of profile by itself; test rows are ranked once. What a model wrote for some users is ranked with the weights of
the texts by rule, on those users' rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.baselines.base import FittableRanker, ScoreRecommender, exclude
from llmrec.baselines.likeness import ContentProfile, ContentSettings
from llmrec.baselines.popularity import Popularity
from llmrec.baselines.registry import baseline
from llmrec.dataset.authorship import check_texts
from llmrec.dataset.examples import Examples, examples
from llmrec.dataset.importers import import_dataset
from llmrec.dataset.split import Part, Split, make_split
from llmrec.dataset.store import Dataset
from llmrec.enrich.cache import DraftCache
from llmrec.enrich.checks import Checks
from llmrec.enrich.enriched import Enriched, Wish, enrich
from llmrec.enrich.extractive import ExtractiveWriter
from llmrec.enrich.grounding import Ground
from llmrec.enrich.types import Written
from llmrec.enrich.writing import shares
from llmrec.errors import ConfigError
from llmrec.evaluation.ranking import score_metrics
from llmrec.evaluation.table import Comparison
from llmrec.progress import track
from llmrec.studies.answer import Answer, Sheet, forest, signed
from llmrec.studies.study import Pooled, SeedRows, Study
from llmrec.types import FloatArray, State

K = 10
EVERYTHING = 10**6
KNOWN = {"0": 0, "1": 1, "5": 5, "20": 20, "all": EVERYTHING}
"""Choices that a state holds; with all of them rankers also know the user's training events by the user's id."""
NDCG = f"NDCG@{K}"
POPULAR, FOLLOWS, COUNTS = "popularity", "co-visitation", "counts"
NONE, GIVEN, RULE, MODEL = "no profile", "given profile", "written by rule", "written by the model"
WORDS, MIXED = "words, ", "counts and words, "
_DECAYS = (0.8, 0.95)
_PROFILES = (0.25, 0.5, 1.0, 2.0)
_FOLLOWING = (0.0, 0.25, 0.5, 0.75, 1.0)
_SHARES = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75)


def enrichment(
    *,
    seeds: Sequence[int],
    out: Path,
    dataset: str = "movielens",
    source: Path | None = None,
    model: str | None = None,
    users: int = 40,
    tokens: int = 60,
    batch: int = 8,
    cache: Path | None = None,
    rows: int | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Writes profiles, ranks with them and returns the figures.

    Args:
        seeds: orders of equal scores and, where `rows` are fewer than there are, which are drawn.
        out: the answer is kept here, and what a model wrote.
        dataset: an importer's name, or folder.
        source: of the data set.
        model: a causal language model that writes for the first `users` users; without one only the rule writes.
        users: how many.
        tokens: of one answer of the model.
        batch: prompts that the model answers together.
        cache: where drafts are kept, `out`/drafts by default.
        rows: validation rows, and test rows, at most.
        json_file: the figures are also written here.
    """
    found: list[tuple[Dataset, Split, dict[str, Enriched]]] = []

    def texts() -> tuple[Dataset, Split, dict[str, Enriched]]:
        if not found:
            given = _data(dataset, source)
            split = make_split(given, "leave-last-out")
            found.append((given, split, _written(given, split, model, users, tokens, batch, cache or out / "drafts")))
        return found[0]

    def measure(seed: int) -> SeedRows:
        return rows_of(*texts(), seed, rows)

    return Study(seeds, measure, answer_of, unit="seed").run(out, json_file)


def _data(kind: str, source: Path | None) -> Dataset:
    if kind == "world":
        from llmrec.config import WorldConfig
        from llmrec.dataset.world.world import generate_world

        return generate_world(WorldConfig(users=80, items=30, slates_per_user=6), 0).dataset
    if source is None:
        raise ConfigError(f"Data set {kind!r} needs a source; give --source with its folder or file.")
    return Dataset.load(source) if kind == "folder" else import_dataset(kind, source)


def _written(
    given: Dataset, split: Split, model: str | None, users: int, tokens: int, batch: int, cache: Path
) -> dict[str, Enriched]:
    """The data set by who wrote its profiles."""
    language, domain = given.manifest.language, given.manifest.domain
    checks = Checks(language)
    made = {RULE: enrich(given, split, ExtractiveWriter(language, domain), checks, Wish(what=("users",)))}
    if model is not None:
        from llmrec.enrich.model_writer import ModelWriter
        from llmrec.enrich.prompting import Prompts

        writer = ModelWriter(model, Prompts(language, domain), tokens=tokens, batch=batch)
        wish = Wish(what=("users",), users=users)
        made[MODEL] = enrich(given, split, writer, checks, wish, cache=DraftCache(cache))
    for one in made.values():
        check_texts(one.dataset, split)
    return made


def rows_of(given: Dataset, split: Split, made: Mapping[str, Enriched], seed: int, limit: int | None) -> SeedRows:
    """NDCG@10 of every side at every h, and the shares of grounded sentences."""
    parts: dict[Part, Examples] = {
        part: examples(given, split, part, history_events=EVERYTHING, limit=limit, seed=seed)
        for part in ("valid", "test")
    }
    rankers = _rankers(given, split, seed)
    profiles = {NONE: {}, GIVEN: _profiles(given)} | {kind: _profiles(one.dataset) for kind, one in made.items()}
    drawn_B = np.ones(len(parts["test"]), dtype=bool)
    if MODEL in made:
        known = {text.source.subject for text in made[MODEL].texts}
        drawn_B = np.array([example.state.user_id in known for example in parts["test"]])
    rows: dict[str, dict[str, FloatArray]] = {}
    chosen: dict[str, Any] = {}
    for h, events in track(KNOWN.items(), "Ranking"):
        for side, gain_B, settings in _sides(rankers, parts, profiles, events):
            of = rows.setdefault(side, {})
            if not side.endswith(MODEL):
                of[f"{NDCG} h={h}"] = gain_B
            if MODEL in made:
                of[f"{NDCG} h={h}, model's users"] = gain_B[drawn_B]
            chosen.setdefault(side, {})[f"h={h}"] = settings
    people = [str(example.state.user_id) for example in parts["test"]]
    some = [user for user, is_drawn in zip(people, drawn_B, strict=True) if is_drawn]
    users = {f"{NDCG} h={h}": people for h in KNOWN} | {f"{NDCG} h={h}, model's users": some for h in KNOWN}
    facts = {
        "rows": {
            "valid": len(parts["valid"]),
            "test": len(people),
            "users": len(set(people)),
            "drawn": len(set(some)),
        },
        "settings": chosen,
        "writing": {kind: _writing(one, given.manifest.language) for kind, one in made.items()},
    }
    return SeedRows(seed, given.manifest.content_hash, rows, users, facts)


def _profiles(dataset: Dataset) -> dict[str, str]:
    return dict(zip(dataset.users["user_id"], dataset.users["profile"], strict=True))


def _rankers(given: Dataset, split: Split, seed: int) -> dict[str, ScoreRecommender]:
    """All of them learn from the training part alone, for validation and test rows alike."""
    spec = baseline("covisitation-fixed")
    made: dict[str, FittableRanker] = {
        POPULAR: Popularity(seed=seed),
        FOLLOWS: spec.make(spec.settings, seed),
        WORDS: ContentProfile(ContentSettings(categories=True), seed=seed),
    }
    return {name: one.fit(given, split.train) for name, one in made.items()}  # type: ignore[misc]


def _sides(
    rankers: Mapping[str, ScoreRecommender],
    parts: Mapping[Part, Examples],
    profiles: Mapping[str, Mapping[str, str]],
    h: int,
) -> Iterable[tuple[str, FloatArray, dict[str, float]]]:
    """Every side at states of h choices: its gains on the test rows and what was chosen on the validation rows."""
    said = {
        part: {name: _weights(rankers[name], _states(found, h, {})) for name in (POPULAR, FOLLOWS)}
        for part, found in parts.items()
    }
    for name in (POPULAR, FOLLOWS):
        yield name, _gains(said["test"][name], parts["test"]), {}
    follows = max(_FOLLOWING, key=lambda share: float(_gains(_both(said["valid"], share), parts["valid"]).mean()))
    counted = {part: _both(of, follows) for part, of in said.items()}
    yield COUNTS, _gains(counted["test"], parts["test"]), {"co-visitation": follows}
    best: dict[str, tuple[dict[str, float], dict[str, float]]] = {}
    for kind, texts in profiles.items():
        if kind == MODEL:
            best[kind] = best[RULE]  # too few users to choose anything on
        else:
            best[kind] = _choose(rankers[WORDS], parts["valid"], texts, h, counted["valid"], plain=kind == NONE)
        alone, mixed = best[kind]
        states = _states(parts["test"], h, texts)
        yield WORDS + kind, _gains(_set(rankers[WORDS], alone).score(states), parts["test"]), alone
        words_BN = _weights(_set(rankers[WORDS], mixed), states)
        both_BN = mixed["share"] * words_BN + (1 - mixed["share"]) * counted["test"]
        yield MIXED + kind, _gains(both_BN, parts["test"]), mixed


def _choose(
    words: ScoreRecommender, valid: Examples, texts: Mapping[str, str], h: int, counted_BN: FloatArray, *, plain: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """The best weights alone and in the mixture, by NDCG on validation rows; of equal ones the first."""
    states = _states(valid, h, texts)
    alone: tuple[float, dict[str, float]] = (-1.0, {})
    mixed: tuple[float, dict[str, float]] = (-1.0, {})
    for decay in _DECAYS if h > 1 else _DECAYS[:1]:
        for profile in (0.0,) if plain else _PROFILES if h else _PROFILES[2:3]:
            settings = {"history_decay": decay, "profile": profile}
            ranker = _set(words, settings)
            value = float(_gains(ranker.score(states), valid).mean())
            alone = max(alone, (value, settings), key=lambda pair: pair[0])
            said_BN = _weights(ranker, states)
            for share in _SHARES:
                value = float(_gains(share * said_BN + (1 - share) * counted_BN, valid).mean())
                mixed = max(mixed, (value, {**settings, "share": share}), key=lambda pair: pair[0])
    return alone[1], mixed[1]


def _both(said: Mapping[str, FloatArray], follows: float) -> FloatArray:
    return follows * said[FOLLOWS] + (1 - follows) * said[POPULAR]


def _set(words: ScoreRecommender, settings: Mapping[str, float]) -> ScoreRecommender:
    kept = {name: value for name, value in settings.items() if name != "share"}
    words.settings = dataclasses.replace(words.settings, **kept)  # type: ignore[attr-defined]
    return words


def _weights(ranker: ScoreRecommender, states: Sequence[State]) -> FloatArray:
    """Scores divided by their sum: (B, N)."""
    score_BN = np.maximum(ranker.score(states), 0.0)
    total_B1 = score_BN.sum(axis=1, keepdims=True)
    found_BN: FloatArray = score_BN / np.where(total_B1 > 0, total_B1, 1.0)
    return found_BN


def _states(found: Examples, h: int, texts: Mapping[str, str]) -> list[State]:
    """The rows' states with their last h choices and the profile of `texts`.

    A state with an id is known by its training events too, whatever it holds; so only those with everything keep it.
    """
    return [
        dataclasses.replace(
            example.state,
            user_id=example.state.user_id if h == EVERYTHING else None,
            history=example.state.history[-h:] if h else (),
            profile=texts.get(example.state.user_id or "", ""),
        )
        for example in found
    ]


def _gains(score_BN: FloatArray, found: Examples) -> FloatArray:
    """NDCG@10 of each row among the items that its user has not chosen yet: (B,)."""
    asked_BN = exclude(score_BN, found.seen)
    return score_metrics(asked_BN, [example.target for example in found], k=(K,)).per_row[NDCG]


def _writing(made: Enriched, language: str) -> list[dict[str, Any]]:
    """By writer: sentences, the grounded share as written and as it stands in the data set, why sentences went."""
    by_author = shares(made.texts)
    found = []
    for author, one in by_author.items():
        kept = [text for text in made.texts if text.author == author]
        stands, holds = _standing(kept, language)
        found.append(
            {
                "writer": author.writer,
                "model": author.model,
                "model_hash": author.model_hash[:12],
                "prompts": author.prompts[:12],
                **asdict(one),
                "grounded_before": one.grounded_share,
                "standing": stands,
                "grounded_after": holds / stands if stands else 1.0,
            }
        )
    return found


def _standing(texts: Sequence[Written], language: str) -> tuple[int, int]:
    """How many sentences stand in the data set, and of how many the source holds all that they name."""
    verdicts = [
        not Ground.of(text.source, language).ungrounded(sentence) for text in texts for sentence in text.sentences
    ]
    return len(verdicts), sum(verdicts)


def answer_of(found: Pooled) -> Answer:
    """Tables of writing and of ranking, and the paired differences that a written profile makes."""
    facts = found.seeds[0].facts
    counts = facts["rows"]
    title = f"{NDCG} of {counts['test']} last choices of {counts['users']} users, by choices h that the state holds"
    measures = [f"{NDCG} h={h}" for h in KNOWN]
    everyone = [side for side in found.sides if not side.endswith(MODEL)]
    tables: list[Sheet | Comparison] = [_sheet(facts["writing"])]
    tables.append(_comparison(found, title, everyone, measures, WORDS + GIVEN))
    claims = {
        f"{lead}{RULE} against {base}": {m: found.difference(lead + RULE, lead + base, m) for m in measures}
        for lead in (WORDS, MIXED)
        for base in (NONE, GIVEN)
    }
    if any(side.endswith(MODEL) for side in found.sides):
        own = [f"{NDCG} h={h}, model's users" for h in KNOWN]
        tables.append(
            _comparison(
                found, f"The same of the {counts['drawn']} users of the model", found.sides, own, WORDS + GIVEN
            )
        )
        claims |= {
            f"{lead}{MODEL} against {base}": {m: found.difference(lead + MODEL, lead + base, o) for m, o in both}
            for lead in (WORDS, MIXED)
            for base in (GIVEN, RULE)
            for both in [list(zip(measures, own, strict=True))]
        }
    plain = {name: {m: asdict(d) for m, d in of.items()} for name, of in claims.items()}
    sentences = [
        f"{name}: " + ", ".join(f"h={h} {signed(of[f'{NDCG} h={h}'])}" for h in KNOWN) for name, of in claims.items()
    ]
    figures = {
        "writing": facts["writing"],
        "rows": counts,
        "settings": facts["settings"],
        "values": {
            side: {m: float(found.rows(side, m).mean()) for m in found.measures(side)} for side in found.sides
        },
        "claims": plain,
    }
    return Answer(
        "Written profiles", figures, tables, sentences, {"claims": forest("What a written profile adds", plain)}
    )


def _comparison(
    found: Pooled, title: str, sides: Sequence[str], measures: Sequence[str], reference: str
) -> Comparison:
    values: dict[str, dict[str, FloatArray | float]] = {s: {m: found.rows(s, m) for m in measures} for s in sides}
    return Comparison.of(title, values, reference=reference, users=found.users(measures[0]))


def _sheet(writing: Mapping[str, Sequence[Mapping[str, Any]]]) -> Sheet:
    rows = [
        [
            f"{one['writer']} {one['model']}".strip() + (f" ({kind})" if len(of) > 1 and not place else ""),
            f"{one['texts']:,}",
            f"{one['sentences']:,}",
            f"{one['grounded_before']:.1%}",
            f"{one['standing']:,}",
            f"{one['grounded_after']:.1%}",
            ", ".join(f"{reason} {count}" for reason, count in one["dropped"].items()) or "none",
        ]
        for kind, of in writing.items()
        for place, one in enumerate(of)
    ]
    columns = ("writer", "texts", "sentences", "grounded", "left", "of these grounded", "went")
    return Sheet("What was written", columns, rows)
