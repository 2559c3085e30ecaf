"""Cold users: what is a profile worth where there is no past?

Asked are users without any training event, at events of the test period that come after their first ten (the
greatest k). Of those ten a state holds the first k = 0, 1, 3, 5 or 10 and nothing else, so the targets are the same
for every k and only what is known differs: figures over k are curves. With `first_session` targets are events of the
user's first session alone, which is then the unit. Counts within groups of people (age, gender, occupation:
`baselines.popularity.GroupPopularity`, attributes and smoothing chosen on validation rows) are what a language model
that reads profiles has to beat; itself without profiles says what the profile adds. Where a log tells what was
shown, items' mean rewards an impression stand beside counts, which know what was shown often and not what is liked.

Beside NDCG and HR of the targets stands the judged reward of the ten items shown: what the run's judge, who reads the
user's whole past, expects of them. A generated world's truth is asked in its place where there is one; there the
informed optimum stands beside the systems: what is best by all that its log shows of the user up to the k-th event,
choices of withheld items and what was shown and not chosen among it (docs/world.md). It is a ceiling of the reward.
The best list for all, by true means over the world's users, is the ceiling of whoever knows nobody.

Every system and mixture is weighed by the same conditional logit (`parts`), fitted for each k on the validation rows
of users who are cold there; what a system says without it stands beside it as "as it is".
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.baselines.registry import baseline
from llmrec.config import RewardSettings
from llmrec.dataset.examples import Examples, History, examples
from llmrec.dataset.split import Part as Period
from llmrec.dataset.world.world import World
from llmrec.errors import DataError, RequestError
from llmrec.evaluation.significance import Interval
from llmrec.evaluation.simulated import BATCH, Judge
from llmrec.pipeline.simulation import log_of, simulator_stage
from llmrec.pipeline.systems import TruthJudge
from llmrec.seeding import numpy_stream
from llmrec.simulator.log import read_log
from llmrec.simulator.metrics import item_means
from llmrec.studies.answer import Answer, forest, signed
from llmrec.studies.cold.parts import Asked, K, Part, Weighed, baseline_part, popularity_part
from llmrec.studies.cold.setting import COUNTS, SENTENCES, WORDS, Rows, Setting
from llmrec.studies.study import Pooled, SeedRows, Study
from llmrec.types import Example, FloatArray

AS_IS, SILENT = ", as it is", ", no profile"
NO_LM = "all without LM"
GROUPS = "group-popularity"
KNOWN = (0, 1, 3, 5, 10)
"""Events of the user that a state holds."""
GAP = 30 * 60
"""Seconds without an event that end a session."""
EACH = 8
"""Rows of one user, at most: people count alike."""
NDCG, HR, REWARD = f"NDCG@{K}", f"HR@{K}", f"judged reward@{K}"
POPULARITY = "popularity"
WORTH = "items' mean rewards"
INFORMED, FOR_ALL = "informed optimum", "best list for all"


def cold_users(
    seeds: Sequence[int],
    out: Path,
    json_file: Path | None,
    rows: Rows,
    *,
    events: Sequence[int] = KNOWN,
    first_session: bool = False,
    judged: bool = True,
    least: int | None = None,
    **which: Any,
) -> dict[str, Any]:
    """Asks all systems for cold users, at most `EACH` rows of one.

    Args:
        seeds: as `out`, `json_file` and `rows`: see `items.cold_items`.
        events: how many of the user's events a state holds, each k once, in rising order.
        first_session: whether targets are events of the user's first session alone.
        judged: whether the lists are judged too, by a judge that is fitted for it or by a world's truth.
        least: events of a user before the targets; by default the greatest of `events`.
        which: see `Setting.of`.

    Raises:
        RequestError: numbers of events that are none.
    """
    if not events or list(events) != sorted(set(events)) or events[0] < 0:
        raise RequestError(
            f"The numbers of events {list(events)} must rise from 0 or more; give --events 0 1 3 5 10."
        )

    least = max(events) if least is None else least
    if least < max(events):
        raise RequestError(f"A state holds up to {max(events)} events, so --least cannot be {least}; raise it.")

    def measure(seed: int) -> SeedRows:
        setting = Setting.of(seed, out, **which)
        asking = functools.partial(cold_rows, setting, least=least, first_session=first_session)
        found = asking("valid", rows.valid), asking("test", rows.test)
        return rows_of(setting, *found, tuple(events), judged=judged)

    def answer(found: Pooled) -> Answer:
        return answer_of(found, tuple(events))

    return Study(seeds, measure, answer, unit="seed").run(out, json_file)


def rows_of(
    setting: Setting, valid: Examples, test: Examples, events: Sequence[int] = KNOWN, *, judged: bool = True
) -> SeedRows:
    """What all systems give under one seed; they are fitted on the rows `valid`.

    Raises:
        DataError: the data set has no profiles.
    """
    data = setting.data
    assert data.withheld is not None
    if not data.dataset.users["profile"].str.strip_chars().str.len_chars().gt(0).any():
        raise DataError(f"No user of {data.dataset.manifest.name!r} has a profile, so there is nothing to ask for.")
    parts = _parts(setting, known(valid, 0))
    judge = _judge(setting) if judged else None
    world = data.world if judge is not None else None
    worth_N = np.zeros(0) if world is None else mean_worth(world, setting.config.reward)
    rows: dict[str, dict[str, FloatArray]] = {}
    for k in events:
        fit, asked = (
            Asked.of(known(found, k), parts, data, setting.work, f"{period} k={k}")
            for period, found in (("valid", valid), ("test", test))
        )
        weights_B = np.ones(len(valid))
        for name, members in _systems(parts).items():
            score_BN = Weighed.fit(members, fit, weights_B).score(asked)
            gains = asked.gains(score_BN) | _reward(setting, judge, test, asked, score_BN)
            rows.setdefault(name, {}).update(_named(gains, k))
        for part in parts:
            score_BN = asked.features[part.name][0]
            gains = asked.gains(score_BN) | _reward(setting, judge, test, asked, score_BN)
            rows.setdefault(part.name + AS_IS, {}).update(_named(gains, k))
        if world is not None:
            informed_BN = informed_scores(world, test, k, setting.config.reward)
            for name, score_BN in {INFORMED: informed_BN, FOR_ALL: np.tile(worth_N, (len(test), 1))}.items():
                gains = asked.gains(score_BN) | _reward(setting, judge, test, asked, score_BN)
                rows.setdefault(name, {}).update(_named(gains, k))
    users = [str(example.state.user_id) for example in test]
    users = [f"{setting.seed}/{user}" for user in users] if data.world is not None else users
    counts = {"valid": len(valid), "test": len(test), "users": len(set(users))}
    facts = {**setting.facts, "rows": counts, "settings": {part.name: part.facts for part in parts}}
    return SeedRows(setting.seed, data.withheld.data_hash, rows, dict.fromkeys(rows[NO_LM], users), facts)


def mean_worth(world: World, reward: RewardSettings) -> FloatArray:
    """The true value of every item in the mean over the world's users: (N,)."""
    users = [str(user) for user in world.dataset.users["user_id"]]
    parts = [users[low : low + BATCH] for low in range(0, len(users), BATCH)]
    summed_N = sum(world.value_BN(part, reward.click, reward.conversion).sum(axis=0) for part in parts)
    return np.asarray(summed_N / len(users))


def informed_scores(world: World, found: Examples, k: int, reward: RewardSettings) -> FloatArray:
    """Expected true values of all items by what the log shows of each row's user up to the k-th event: (B, N)."""
    log, states = History(world.dataset, 10**9), []
    for example in found:
        own = example.state.history
        # choices of one slate have one time, so one event more may be known; what is earlier than all is k = 0
        states.append(log.state(str(example.state.user_id), own[k - 1].time + 1 if k else own[0].time))
    # several rows of a user are one state
    once = list(dict.fromkeys(states))
    everything = world.dataset.n_items
    told = world.informed_optimum(once, everything, reward.click, reward.conversion, particles=128, least=32)
    value_BN = np.zeros((len(once), everything))
    np.put_along_axis(value_BN, told.items_BK, told.value_BK, axis=1)
    row_of = {state: row for row, state in enumerate(once)}
    return np.asarray(value_BN[[row_of[state] for state in states]])


def _judge(setting: Setting) -> Judge:
    """Who judges lists: a world's truth, else the judge that a run on these data would have."""
    if setting.data.world is not None:
        return TruthJudge(setting.data.world)
    return simulator_stage(setting.config, setting.data, setting.work).judge


def _reward(
    setting: Setting, judge: Judge | None, test: Examples, asked: Asked, score_BN: FloatArray
) -> dict[str, FloatArray]:
    """What the judge expects of the ten items that each row's scores put first, an item: (B,).

    It reads the user's whole past, whatever the systems were shown of it.
    """
    if judge is None:
        return {}
    open_BN = np.where(asked.open_BN, score_BN, -np.inf)
    items_BK = np.argsort(-open_BN, axis=1, kind="stable")[:, :K]
    weights = setting.config.reward
    found = []
    for low in range(0, len(test), BATCH):
        states = [example.state for example in test[low : low + BATCH]]
        said = judge.predict(states, items_BK[low : low + BATCH])
        found.append((said.click_BK * (weights.click + weights.conversion * said.conversion_BK)).mean(axis=1))
    return {REWARD: np.concatenate(found)}


def in_first_session(example: Example) -> bool:
    """Whether no gap between the user's events up to the target is longer than `GAP`."""
    times = [event.time for event in example.state.history]
    if example.state.time is None or not times:
        return False
    return bool(np.diff([*times, example.state.time]).max() <= GAP)


def cold_rows(
    setting: Setting, period: Period, limit: int, *, least: int = max(KNOWN), first_session: bool = False
) -> Examples:
    """Events of users who trained nothing, at most `EACH` a user, behind `least` others or more.

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
        enough = user is not None and user not in trained and len(example.state.history) >= least
        if user is not None and enough and (in_first_session(example) or not first_session):
            by_user.setdefault(user, []).append(row)
    stream = numpy_stream(setting.seed, "cold users", period)
    kept = [
        int(row)
        for _, own in sorted(by_user.items())
        for row in stream.choice(own, size=min(EACH, len(own)), replace=False)
    ]
    if not kept:
        raise DataError(
            f"The {period} part has no user without training events who has more than {least} events"
            f"{' in a first session' if first_session else ''}; split by time, widen it, or know fewer (--events)."
        )
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
    if (setting.data.split.train["kind"] == "impression").any():
        found.append(worth_part(setting))
    for part in setting.models:
        found += [part, Part(part.name + SILENT, _silent(part), part.facts, [part.key, "silent"])]
    return found


def worth_part(setting: Setting) -> Part:
    """The logarithm of items' mean rewards an impression in the training part; the same for all states."""
    data, weights = setting.data, setting.config.reward
    log = read_log(log_of(setting.config, data, "train"), data.dataset.n_items)
    found = item_means(log, np.arange(data.dataset.n_items), data.dataset.n_items)
    worth_N = found.click_BK * (weights.click + weights.conversion * found.conversion_BK)
    log_N = np.log(np.maximum(worth_N, 1e-9)).astype(np.float32)
    return Part(WORTH, lambda states: [np.tile(log_N, (len(states), 1))])


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


def answer_of(found: Pooled, events: Sequence[int] = KNOWN) -> Answer:
    """A table by k, and curves; each language model against popularity, groups and itself without profiles."""
    models = [s for s in found.sides if s.startswith("LM") and SILENT not in s and AS_IS not in s]
    reference = models[-1] if models else GROUPS
    counts = found.seeds[0].facts["rows"]
    kinds = [kind for kind in (NDCG, REWARD, HR) if f"{kind} k={events[0]}" in found.measures(reference)]
    measures = [f"{name} k={k}" for name in kinds for k in events]
    title = f"{counts['test']} events of {counts['users']} users without training events, differences to {reference}"
    pairs = [(model, base) for model in models for base in (POPULARITY, GROUPS, model + SILENT)]
    pairs += [(f"all with {model}", NO_LM) for model in models]
    pairs += [(model, base) for model in models for base in (WORTH, FOR_ALL) if base in found.sides]
    claims = {f"{a} against {b}": {m: found.difference(a, b, m) for m in measures} for a, b in pairs}
    plain = {name: {m: asdict(d) for m, d in of.items()} for name, of in claims.items()}
    values = {side: {m: float(np.mean(found.rows(side, m))) for m in measures} for side in found.sides}
    figures = {"rows": counts, "values": values, "claims": plain, "facts": [dict(one.facts) for one in found.seeds]}
    sentences = [
        f"{name}, {kind}: " + ", ".join(f"k={k} {signed(of[f'{kind} k={k}'])}" for k in events)
        for name, of in claims.items()
        for kind in kinds
        if kind != HR
    ]
    sentences += [_beats(model, claims[f"{model} against {POPULARITY}"], kinds) for model in models if events[0] == 0]
    tables = [found.comparison(title, [m for m in measures if m.startswith(kind)], reference) for kind in kinds]
    plots = {"claims": forest("Difference for cold users", plain)} if plain else {}
    curves = curves_of(values, events, [kind for kind in kinds if kind != HR])
    return Answer("Cold users with a profile", figures, tables, sentences, {**plots, "curves": curves})


def _beats(model: str, claim: Mapping[str, Interval], kinds: Sequence[str]) -> str:
    """Whether the profile alone beats popularity, said plainly."""
    said = []
    for kind in kinds:
        found = claim[f"{kind} k=0"]
        word = "beats" if found.low > 0 else "is worse than" if found.high < 0 else "does not beat"
        said.append(f"{word} popularity in {kind} ({signed(found)})")
    return f"With the profile alone (k=0) {model} " + ", ".join(said)


def curves_of(values: Mapping[str, Mapping[str, float]], events: Sequence[int], kinds: Sequence[str]) -> str:
    """Single systems over k, a panel a measure: SVG."""
    from llmrec.evaluation.plots import curve_figure  # matplotlib, for those who want a plot

    # few enough for their names to stand beside the lines; the tables have all
    single = (POPULARITY, WORTH, GROUPS, WORDS, SENTENCES, INFORMED, FOR_ALL)
    sides = [s for s in values if s in single or (s.startswith("LM") and AS_IS not in s and SILENT not in s)]
    rows = [
        {"step": float(k)} | {f"{kind}/{s}": values[s][f"{kind} k={k}"] for s in sides for kind in kinds}
        for k in events
    ]
    wanted = [(kind, tuple(f"{kind}/{side}" for side in sides)) for kind in kinds]
    return curve_figure(rows, wanted, label="Cold users over the events that are known", xlabel="events known (k)")
