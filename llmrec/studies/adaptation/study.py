"""How soon does a policy adapt? Asked on generated worlds, whose true values judge.

*A new domain*: five users' sessions of a domain that no training met. The meta-trained adapter and a fresh one get
the same inner steps on the same sessions (plain fine-tuning is the fresh one), a library picks or mixes adapters of
known domains, and "joint" is the control that learnt the same tasks without an inner loop. Gains are over the warm
start as it is. Cheap recommenders are fitted on the same five users.

*In context*: people nobody knows are met turn by turn, with satiation and all other dynamics off, by one policy that
reads the running session: the mean true value of the later turns less that of the first ones. The same policy with
the session's feedback hidden is the control.

*Many domains at once*: the warm start over all domains against one on each, on the same lessons of that domain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmrec.adaptation.context import Told, without_feedback, without_session
from llmrec.adaptation.inner import InnerSettings
from llmrec.adaptation.meta import MetaSettings, meta_train
from llmrec.adaptation.tasks import Tasks
from llmrec.adaptation.ways import FewSteps, Library, library_of, with_adapter
from llmrec.baselines.registry import baseline
from llmrec.config import EnvironmentSettings, LoraSettings
from llmrec.config_tree import from_tree
from llmrec.errors import RequestError
from llmrec.evaluation.ranking import slates_to_items
from llmrec.evaluation.sessions import simulate_sessions
from llmrec.evaluation.significance import Interval, bootstrap_interval
from llmrec.evaluation.table import Comparison
from llmrec.files import read_json, write_json
from llmrec.progress import console, silent
from llmrec.seeding import numpy_stream
from llmrec.simulator.environments.world_users import WorldUsers
from llmrec.studies.adaptation.setting import Domain, Setting, StudySettings
from llmrec.studies.adaptation.turns import FIRST, LATER, RISE, rise_of, turns_plot, turns_sheet
from llmrec.studies.answer import Answer, forest, signed
from llmrec.studies.study import Pooled, SeedRows, Study, over_seeds
from llmrec.training.lora import load_adapter
from llmrec.types import FloatArray, Ranker, State

START, PLAIN = "warm start", "fine-tuned"
NEAREST, MIXED = "library, nearest", "library, mixture"
ADAPTED, BEFORE = "{}, adapted", "{}, before"
CHEAP = ("popularity", "covisitation-fixed", "content", "linucb")
KNOWING, HIDDEN, SHOWN = "in context", "session hidden", "feedback hidden"
VALUE = "true value@10"
SUPPORT, SLATE, TURNS = 5, 4, 10
PARTS = NEW_DOMAIN, IN_CONTEXT, MANY_DOMAINS = "new-domain", "in-context", "many-domains"

INNER = InnerSettings(
    learns="off_policy", steps=10, batch_size=16, learning_rate=3e-3, lora=LoraSettings(rank=8, alpha=16)
)
META = {
    "reptile": MetaSettings(method="reptile", steps=40, tasks=3, rate=0.5, inner=INNER),
    "fomaml": MetaSettings(method="fomaml", steps=40, tasks=3, rate=3e-3, optimizer="adam", inner=INNER),
    "joint": MetaSettings(method="joint", steps=40, tasks=3, rate=3e-3, optimizer="adam", inner=INNER),
}
"""Chosen on seed 100: imitation of what was shown there gained nothing at rates of 3e-3 and 5e-4."""


def run_adaptation(
    seeds: Sequence[int],
    out: Path,
    *,
    methods: Sequence[str] = ("reptile", "joint"),
    parts: Sequence[str] = PARTS,
    draws: int = 2,
    asked: int = 60,
    played: int = 40,
    sizes: Sequence[tuple[str, Any]] = (),
    inner: Sequence[tuple[str, Any]] = (),
    steps: int | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Measures every seed (resuming what is there), prints the answer and returns its figures.

    Args:
        seeds: each has worlds of its own, and another unseen domain than the seed before.
        out: stages and answer are kept here.
        methods: how adapters are meta-trained: reptile, fomaml, joint.
        parts: what is asked: new-domain, in-context, many-domains.
        draws: of five users of the unseen domain.
        asked: other users of it who are recommended to.
        played: users whose sessions are played.
        sizes: other values of `StudySettings`, by key.
        inner: other values of the inner steps, by key.
        steps: outer steps of the meta-training.
        json_file: the figures are also written here.

    Raises:
        RequestError: an unknown method, or nobody to ask.
    """
    if not set(methods) <= META.keys() or not methods or not set(parts) <= set(PARTS) or NEW_DOMAIN not in parts:
        raise RequestError(
            f"Give methods among {', '.join(META)}, and parts among {', '.join(PARTS)}, the first always."
        )
    if min(draws, asked, played) < 1:
        raise RequestError("Give one draw, one user asked and one user played, or more.")
    settings = from_tree(StudySettings, dict(sizes), "--size")
    own = from_tree(InnerSettings, asdict(INNER) | dict(inner), "--inner")
    metas = {name: replace(META[name], inner=own, steps=steps or META[name].steps) for name in methods}

    def measure(seed: int) -> SeedRows:
        setting = Setting.of(seed, settings, out)
        key = {"base": str(setting.data_hash), "settings": asdict(settings), "meta": repr(metas), "draws": draws}

        def build(folder: Path, scratch: Path) -> None:
            found = new_domain(setting, metas, own, draws, asked, scratch)
            write_json(folder / "rows.json", {side: values.tolist() for side, values in found["rows"].items()})
            write_json(folder / "facts.json", {"users": found["users"], "facts": found["facts"]})

        folders = {NEW_DOMAIN: setting.work.stage(NEW_DOMAIN, {**key, "asked": asked}, build)}

        def play(folder: Path, _: Path) -> None:
            write_json(folder / "rows.json", {n: v.tolist() for n, v in in_context(setting, played).items()})

        def each(folder: Path, scratch: Path) -> None:
            write_json(folder / "rows.json", many_domains(setting, asked, scratch))

        plain = {**key, "meta": "", "draws": 0}
        if IN_CONTEXT in parts:
            folders[IN_CONTEXT] = setting.work.stage(IN_CONTEXT, {**plain, "played": played}, play)
        if MANY_DOMAINS in parts:
            folders[MANY_DOMAINS] = setting.work.stage(MANY_DOMAINS, {**plain, "asked": asked}, each)
        return _rows(setting, folders)

    return Study(seeds, measure, answer_of, unit="seed").run(out, json_file)


def _rows(setting: Setting, folders: Mapping[str, Path]) -> SeedRows:
    facts = read_json(folders[NEW_DOMAIN] / "facts.json")
    values = {side: np.array(row) for side, row in read_json(folders[NEW_DOMAIN] / "rows.json").items()}
    users = [f"{setting.seed}/{user}" for user in facts["users"]]
    more = {
        "unseen": setting.unseen.place.name,
        "trained": [domain.place.name for domain in setting.trained],
        **{part: read_json(folder / "rows.json") for part, folder in folders.items() if part != NEW_DOMAIN},
        **facts["facts"],
    }
    return SeedRows(
        setting.seed, setting.data_hash, {side: {VALUE: row} for side, row in values.items()}, {VALUE: users}, more
    )


def new_domain(
    setting: Setting, metas: Mapping[str, MetaSettings], inner: InnerSettings, draws: int, asked: int, scratch: Path
) -> dict[str, Any]:
    """True values of everybody's lists for new users of the unseen domain, (draws * users,) by side."""
    unseen, tokenizer, base = setting.unseen, setting.tokenizer, setting.model()
    policy = unseen.place.policy(base, tokenizer)
    places = [domain.place for domain in setting.trained]
    tasks = Tasks(places, "domain", SUPPORT, 15, seed=setting.seed)
    adapters = {}
    for name, meta in metas.items():
        folder = scratch / name
        if not (folder / "done" / "adapter_config.json").is_file():
            made = meta_train(setting.model(), tokenizer, tasks, meta, seed=setting.seed, scratch=folder)
            made.adapter.save(folder / "done")
        adapters[name] = load_adapter(folder / "done")
    with silent():
        steps = replace(inner, steps=4 * inner.steps)
        shelf = library_of(places, places[0].policy(base, tokenizer), steps, seed=setting.seed, scratch=scratch / "l")
    stream = numpy_stream(setting.seed, "adaptation", "study")
    people = unseen.new
    rows: dict[str, list[FloatArray]] = {}
    users: list[str] = []
    routes: list[dict[str, float]] = []
    for draw in range(draws):
        order = [people[n] for n in stream.permutation(len(people))]
        support, others = order[:SUPPORT], sorted(order[SUPPORT : SUPPORT + asked])
        sessions, states = unseen.sessions(support), unseen.states(others)
        users += others

        def note(side: str, ranker: Ranker, states: list[State] = states, others: list[str] = others) -> None:
            rows.setdefault(side, []).append(_value(unseen, ranker, states, others))

        console.print(f"  draw {draw + 1} of {draws}: {len(sessions)} slates of {SUPPORT} users", style="dim")
        with silent():
            note(START, policy)
            given = {"place": unseen.place, "settings": inner, "scratch": scratch / "inner", "seed": draw}
            note(PLAIN, FewSteps(**given).adapt(policy, sessions))  # type: ignore[arg-type]
            for name, adapter in adapters.items():
                if draw == 0:
                    rows[BEFORE.format(name)] = []
                note(BEFORE.format(name), with_adapter(policy, adapter))
                adapted = FewSteps(**given, start=adapter).adapt(policy, sessions)  # type: ignore[arg-type]
                note(ADAPTED.format(name), adapted)
            for side, route in ((NEAREST, "nearest"), (MIXED, "mixture")):
                library = Library(shelf, unseen.place, route)  # type: ignore[arg-type]
                note(side, library.adapt(policy, sessions))
                routes.append(dict(library.chosen))
        events = unseen.world.dataset.events.filter(pl.col("user_id").is_in(support))
        for name in CHEAP:
            spec = baseline(name)
            note(f"{name} of the same 5", spec.make(spec.settings, setting.seed).fit(unseen.world.dataset, events))
        best = unseen.world.optimum(others, 10).value_BK.mean(axis=1)
        rows.setdefault("true optimum", []).append(np.asarray(best))
    facts = {"routes": routes, "inner": asdict(inner), "meta": {n: asdict(m) for n, m in metas.items()}}
    return {"rows": {side: np.concatenate(parts) for side, parts in rows.items()}, "users": users, "facts": facts}


def _value(domain: Domain, ranker: Ranker, states: Sequence[State], users: Sequence[str]) -> FloatArray:
    items_BK = slates_to_items(ranker.recommend(states, 10), 10)
    return domain.value(users, items_BK)


def in_context(setting: Setting, played: int) -> dict[str, FloatArray]:
    """True value of each turn of sessions with strangers, (users, turns), by domain and system."""
    model, tokenizer = setting.model(), setting.tokenizer
    found: dict[str, FloatArray] = {}
    for kind, domain in (("known domain", setting.trained[0]), ("unseen domain", setting.unseen)):
        policy = domain.place.policy(model, tokenizer)
        sides: dict[str, Ranker] = {
            **{KNOWING: policy, HIDDEN: Told(policy, without_session)},
            **{SHOWN: Told(policy, without_feedback)},
        }
        if kind == "known domain":
            events = domain.world.dataset.events.filter(~pl.col("user_id").is_in(list(domain.new)))
            for name in ("popularity", "group-popularity", "covisitation-fixed"):
                spec = baseline(name)
                sides[name] = spec.make(spec.settings, setting.seed).fit(domain.world.dataset, events)
        row_of = domain.world.dataset.user_index
        user_N = np.array([row_of[user] for user in domain.new[:played]], dtype=np.int64)
        sizes = EnvironmentSettings(
            slate_size=SLATE, turns=TURNS, remembered_turns=setting.settings.remembered // SLATE
        )
        for side, ranker in sides.items():
            console.print(f"  {kind}: {side} meets {len(user_N)} strangers for {TURNS} turns", style="dim")
            figures = simulate_sessions(ranker, WorldUsers.of(domain.strangers), user_N, sizes, seed=setting.seed)
            assert figures.turn_BT is not None
            found[f"{kind}/{side}"] = figures.turn_BT / SLATE
    return found


def many_domains(setting: Setting, asked: int, scratch: Path) -> dict[str, Any]:
    """True values by domain, (users,): the warm start over all domains, and one on that domain's lessons alone."""
    tokenizer, found = setting.tokenizer, {}
    together = setting.model()
    for n, domain in enumerate(setting.trained):
        folder = scratch / f"each-{n}"
        if not (folder / "cost.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            setting.fit([domain], folder, scratch / f"trainer-{n}")
        users = domain.new[:asked]
        states = domain.states(users)
        sides = {"at once": together, "one each": setting.model(folder)}
        found[domain.place.name] = {
            side: _value(domain, domain.place.policy(model, tokenizer), states, users).tolist()
            for side, model in sides.items()
        }
    return found


def answer_of(found: Pooled) -> Answer:
    """Gains over the warm start, how they compare with plain fine-tuning, and what feedback does within sessions."""
    adapted = [side for side in found.sides if side.endswith("adapted")]
    metas = {side: found.difference(side, START, VALUE) for side in found.sides if side != START}
    rows = {side: {VALUE: asdict(gain)} for side, gain in metas.items()}
    against = {side: found.difference(side, PLAIN, VALUE) for side in adapted}
    ratios = {side: _ratios(found, side) for side in adapted}
    plain = metas[PLAIN]
    sentences = [f"{PLAIN} gains {signed(plain)} over the warm start, {_seeds(found, PLAIN)}"]
    for side in adapted:
        times = f"{metas[side].mean / plain.mean:.2f} times" if plain.mean > 0 else "where nothing is gained by"
        sentences.append(
            f"{side} gains {signed(metas[side])}, {_seeds(found, side)}: {times} plain fine-tuning; "
            f"less it {signed(against[side])}"
        )
    tables: list[Any] = [
        found.comparison("True value of an item, new users of a domain nobody trained on", [VALUE], START)
    ]
    facts = found.seeds[0].facts
    plots: dict[str, Comparison | str] = {"gains": forest("Gain over the warm start", rows)}
    played: dict[str, Any] = {}
    domains: dict[str, Any] = {}
    if IN_CONTEXT in facts:
        played, plots["turns"], said = _in_context(found)
        sentences += said
        curves = {side: of["turns"] for side, of in played.items()}
        rises = {side: Interval(**of["rise"]) for side, of in played.items()}
        title = "First sessions of strangers, whose profile alone is known at turn 1"
        tables.append(turns_sheet(title, curves, rises, SLATE))
    if MANY_DOMAINS in facts:
        domains, said = _domains(found)
        sentences += said
    figures = {
        "gains": {side: row[VALUE] for side, row in rows.items()},
        "gains_by_seed": {side: over_seeds(_gains(found, side)) for side in found.sides if side != START},
        "less_fine_tuned": {side: asdict(gain) for side, gain in against.items()},
        "times_fine_tuned": ratios,
        "in_context": played,
        "many_domains": domains,
        "seeds": [dict(one.facts) for one in found.seeds],
    }
    return Answer("Quick adaptation", figures, tables, sentences, plots)


def _gains(found: Pooled, side: str) -> list[float]:
    pairs = zip(found.means(side, VALUE), found.means(START, VALUE), strict=True)
    return [mine - theirs for mine, theirs in pairs]


def _ratios(found: Pooled, side: str) -> list[float | None]:
    """By seed; None where plain fine-tuning gains nothing."""
    pairs = zip(_gains(found, side), _gains(found, PLAIN), strict=True)
    return [mine / theirs if theirs > 0 else None for mine, theirs in pairs]


def _seeds(found: Pooled, side: str) -> str:
    return "by seed " + ", ".join(f"{gain:+.3f}" for gain in _gains(found, side))


def _in_context(found: Pooled) -> tuple[dict[str, Any], str, list[str]]:
    """By domain and system: the curve over turns, and the later turns less the first ones with intervals."""
    played: dict[str, Any] = {}
    for side in found.seeds[0].facts[IN_CONTEXT]:
        rows = [rise_of(np.array(one.facts[IN_CONTEXT][side])) for one in found.seeds]
        rise = bootstrap_interval(np.concatenate([row[RISE] for row in rows]))
        turn_BT = np.concatenate([np.array(one.facts[IN_CONTEXT][side]) for one in found.seeds])
        played[side] = {
            "users": len(turn_BT),
            "turns": turn_BT.mean(axis=0).tolist(),
            "first": float(np.concatenate([row[FIRST] for row in rows]).mean()),
            "later": float(np.concatenate([row[LATER] for row in rows]).mean()),
            "rise": asdict(rise),
            "rise_by_seed": over_seeds([float(row[RISE].mean()) for row in rows]),
        }
    kinds = list(dict.fromkeys(side.split("/")[0] for side in played))
    panels = {kind: {side: of["turns"] for side, of in played.items() if side.startswith(kind)} for kind in kinds}
    sentences = [f"{side}: {RISE} {signed(Interval(**of['rise']))}" for side, of in played.items()]
    return played, turns_plot(panels), sentences


def _domains(found: Pooled) -> tuple[dict[str, Any], list[str]]:
    from llmrec.evaluation.significance import paired_bootstrap

    once, each = (
        np.concatenate([np.array(of[side]) for one in found.seeds for of in one.facts[MANY_DOMAINS].values()])
        for side in ("at once", "one each")
    )
    gain = paired_bootstrap(once, each)
    by_seed = [
        float(np.mean([np.mean(of["at once"]) - np.mean(of["one each"]) for of in one.facts[MANY_DOMAINS].values()]))
        for one in found.seeds
    ]
    figures = {"at once": float(once.mean()), "one each": float(each.mean()), "gain": asdict(gain)}
    said = f"Trained on all domains at once {once.mean():.4f}, on each alone {each.mean():.4f}: {signed(gain)}"
    return {**figures, "by_seed": over_seeds(by_seed)}, [said]
