"""Does a policy adapt to a stranger within a session, without a gradient? Asked on generated worlds.

A language model reads what a person has chosen in the running session and nothing else, and ranks. It is trained over
tasks: sessions of many people whose interests are known, as those of a simulator's users are, each state answered by
an item drawn from a power of its posterior mean value by all feedback so far. So inference is amortised over people
(prior-fitted networks, Müller et al. 2022; learning to reinforcement-learn, Wang et al. 2016), and where it is used
nothing is computed but the reading of a state. Then people who were never met come turn by turn, all dynamics off:
to the policy as it is, to itself with the choices hidden, and to itself with as many choices drawn from what was
shown, which tells what the choosing says from what the showing says. The posterior by the same choices, and by all
feedback, is what could be known; popularity, co-visitation and the best list for all stand beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmrec.adaptation.context import Told
from llmrec.baselines.registry import baseline
from llmrec.config import EnvironmentSettings, ModelConfig, SFTSettings
from llmrec.config_tree import from_tree
from llmrec.dataset.world.scenario import END
from llmrec.dataset.world.world import World
from llmrec.errors import RequestError
from llmrec.evaluation.sessions import simulate_sessions
from llmrec.evaluation.significance import bootstrap_interval
from llmrec.files import read_json, write_json
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.loading import save_causal_lm
from llmrec.progress import console
from llmrec.seeding import numpy_stream
from llmrec.simulator.environments.world_users import WorldUsers
from llmrec.studies.adaptation.setting import Domain, Setting, StudySettings
from llmrec.studies.adaptation.turns import FIRST, LATER, RISE, rise_of, turns_plot, turns_sheet
from llmrec.studies.answer import Answer, signed
from llmrec.studies.study import Pooled, SeedRows, Study, over_seeds
from llmrec.training.row_fitting import FitPlan, fit_rows
from llmrec.training.sft_data import build_rows
from llmrec.types import EventKind, Example, FloatArray, IntArray, Interaction, Slate, State

LEARNT, HIDDEN, DRAWN = "in context", "choices hidden", "choices drawn from what was shown"
BY_CHOICES, BY_ALL = "posterior by choices", "posterior by all feedback"
CHEAP = ("popularity", "covisitation-fixed")
PANELS = {
    "What it reads": (LEARNT, DRAWN, HIDDEN),
    "What could be known": (LEARNT, BY_CHOICES, BY_ALL),
    "Counts": (LEARNT, *CHEAP),
}
TURNS, SLATE = 10, 5
SHARPNESS = 12.0
"""Power of the posterior mean value that a lesson's answer is drawn from."""
SHOWING = (0.0, 3.0, 8.0, 20.0)
"""Powers of the posterior mean that lessons' slates are drawn from, by session: from chance to nearly the best."""
OUTCOMES: tuple[EventKind, ...] = ("impression", "click", "conversion")

SIZES = StudySettings(
    trained=1,
    users=4000,
    items=100,
    new=400,
    examples=1000,
    max_tokens=256,
    remembered=TURNS * SLATE,
    model=ModelConfig(nano_hidden=96, nano_layers=3, nano_vocabulary=2000, nano_pretrain_sequences=1000),
)


@dataclass(frozen=True)
class Posterior:
    """Ranks by the posterior mean value given a session's feedback, the interests of `people` being the prior.

    Self-normalised importance sampling with these people's true interests as particles, so it knows what no log
    tells. It is greedy, so no bound for whoever explores.

    Attributes:
        world: truth.
        people: whose interests are known.
        time: moment whose demand is known, too.
    """

    world: World
    people: Sequence[str]
    time: int = END

    @cached_property
    def chance_PN3(self) -> FloatArray:
        """P of each of `OUTCOMES` for each person and item."""
        click_PN = self.world.expected_click_BN(self.people, self.time)
        buy_PN = self.world.expected_conversion_BN(self.people)
        return np.stack([1 - click_PN, click_PN * (1 - buy_PN), click_PN * buy_PN], axis=-1)

    @cached_property
    def value_PN(self) -> FloatArray:
        """True value of each item for each person."""
        return self.world.value_BN(self.people, time=self.time)

    def mean_BN(self, log_BP: FloatArray) -> FloatArray:
        """Posterior mean value of each item from the log-likelihoods of the feedback under each person."""
        weight_BP = np.exp(log_BP - log_BP.max(axis=1, keepdims=True))
        mean_BN: FloatArray = (weight_BP / weight_BP.sum(axis=1, keepdims=True)) @ self.value_PN
        return mean_BN

    def recommend(self, states: Sequence[State], k: int, *, seen: Sequence[IntArray] | None = None) -> list[Slate]:
        """The k items of the greatest posterior mean at each state, with the logarithm of their value."""
        log_PN3 = np.log(self.chance_PN3)
        slates = []
        for state in states:
            told = [log_PN3[:, event.item, OUTCOMES.index(event.feedback)] for event in state.session]
            mean_N = self.mean_BN(np.sum([np.zeros(len(self.people)), *told], axis=0)[None])[0]
            items_K = np.argsort(-mean_N, kind="stable")[:k]
            slates.append(Slate(tuple(items_K.tolist()), tuple(np.log(mean_N[items_K]).tolist())))
        return slates


def chosen(state: State) -> State:
    """What was clicked or bought in the session, and nothing of the user, not even a profile."""
    return State(session=tuple(event for event in state.session if event.feedback != "impression"))


def nothing(state: State) -> State:
    """Nothing at all."""
    return State()


def everything(state: State) -> State:
    """The session alone, what was passed over, too."""
    return State(session=state.session)


def drawn(state: State) -> State:
    """As many choices as there were, of things that were shown but for their choosing: the same ones each time."""
    shown, real = state.session, chosen(state).session
    stream = numpy_stream(len(shown), "adaptation", "drawn", str(state.user_id))
    places = sorted(stream.permutation(len(shown))[: len(real)].tolist())
    told = (replace(shown[at], feedback=one.feedback) for at, one in zip(places, real, strict=True))
    return State(session=tuple(told))


def lessons(teacher: Posterior, sessions: int, seed: int) -> list[Example]:
    """The choices at every turn of sessions with people drawn anew, and an item that the posterior there favours."""
    stream = numpy_stream(seed, "adaptation", "strangers")
    person_S = stream.integers(len(teacher.people), size=sessions)
    log_PN3 = np.log(teacher.chance_PN3)
    log_SP = np.zeros((sessions, len(teacher.people)))
    told: list[tuple[Interaction, ...]] = [()] * sessions
    found = []
    for _ in range(TURNS):
        for s, mean_N in enumerate(teacher.mean_BN(log_SP)):
            state = chosen(State(session=told[s]))
            found.append(Example(state, int(some(stream, mean_N, SHARPNESS, 1)[0])))
            items_K = some(stream, mean_N, SHOWING[s % len(SHOWING)], SLATE)
            kinds = [int(stream.choice(3, p=teacher.chance_PN3[person_S[s], item])) for item in items_K]
            told[s] += tuple(Interaction(int(i), OUTCOMES[kind], 0) for i, kind in zip(items_K, kinds, strict=True))
            log_SP[s] += log_PN3[:, items_K, kinds].sum(axis=1)
    return found


def some(stream: np.random.Generator, mean_N: FloatArray, power: float, count: int) -> IntArray:
    """So many items drawn without replacement by a power of their means."""
    weight_N = mean_N**power
    return stream.choice(len(mean_N), size=count, replace=False, p=weight_N / weight_N.sum())


def run_strangers(
    seeds: Sequence[int],
    out: Path,
    *,
    sessions: int = 4000,
    played: int = 400,
    sizes: Sequence[tuple[str, Any]] = (),
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Trains and plays on every seed (resuming what is there), prints the answer and returns its figures.

    Args:
        seeds: each has a world of its own, of another domain than the seed before.
        out: stages and answer are kept here.
        sessions: of ten turns each, that lessons are made of.
        played: new users whose sessions are played, at most.
        sizes: other values of `SIZES`, by key.
        json_file: the figures are also written here.

    Raises:
        RequestError: nobody to meet, no lesson, or a warm start on more than one domain.
        ConfigError: a key or value that cannot be used.
    """
    settings = from_tree(StudySettings, asdict(SIZES) | dict(sizes), "--size")
    if min(played, sessions) < 1 or settings.trained != 1:
        raise RequestError(
            "Give one session and one user played, or more, and one domain that is trained on (--size trained=1)."
        )

    def measure(seed: int) -> SeedRows:
        setting = Setting.of(seed, settings, out)
        domain = setting.trained[0]
        data_hash = domain.world.dataset.manifest.content_hash
        key = {"world": data_hash, "settings": asdict(settings), "sessions": sessions, "played": played}

        def build(folder: Path, scratch: Path) -> None:
            rows, facts = strangers(setting, sessions, played, folder, scratch)
            write_json(folder / "rows.json", {side: turn_BT.tolist() for side, turn_BT in rows.items()})
            write_json(folder / "facts.json", facts)

        folder = setting.work.stage("strangers", key, build)
        rows = {side: np.array(turn_BT) for side, turn_BT in read_json(folder / "rows.json").items()}
        users = [f"{seed}/{user}" for user in domain.new[:played]]
        turns = {side: turn_BT.mean(axis=0).tolist() for side, turn_BT in rows.items()}
        facts = read_json(folder / "facts.json") | {"domain": domain.place.name, "turns": turns}
        measures = {side: rise_of(turn_BT) for side, turn_BT in rows.items()}
        return SeedRows(seed, data_hash, measures, dict.fromkeys((FIRST, LATER, RISE), users), facts)

    return Study(seeds, measure, answer_of, unit="seed").run(out, json_file)


def strangers(
    setting: Setting, sessions: int, played: int, out: Path, scratch: Path
) -> tuple[dict[str, FloatArray], dict[str, Any]]:
    """True value of each turn of sessions with new users, (users, turns) by system, and what it took."""
    domain, dataset = setting.trained[0], setting.trained[0].world.dataset
    met = domain.met
    teacher = Posterior(domain.world, met)
    policy, facts = taught(setting, lessons(teacher, sessions, setting.seed), out, scratch)
    sides = {LEARNT: Told(policy, chosen), HIDDEN: Told(policy, nothing), DRAWN: Told(policy, drawn)}
    events = dataset.events.filter(pl.col("user_id").is_in(met))
    for name in CHEAP:
        spec = baseline(name)
        sides[name] = Told(spec.make(spec.settings, setting.seed).fit(dataset, events), chosen)
    sides |= {BY_CHOICES: Told(teacher, chosen), BY_ALL: Told(teacher, everything)}
    new = domain.new[:played]
    known = {"best for all": _best_for_all(domain, met, new), "optimum": _optimum(domain, new)}
    return _meet(domain, sides, new, setting.seed), {**known, **facts}


def taught(
    setting: Setting, examples: Sequence[Example], out: Path, scratch: Path
) -> tuple[LanguagePolicy, dict[str, Any]]:
    """The warm start taught once over all the lessons, in an order of their own; written into `out`. What it took."""
    place, tokenizer, settings = setting.trained[0].place, setting.tokenizer, setting.settings
    sft = SFTSettings(examples=len(examples), epochs=1.0, batch_size=settings.batch_size, mixture={"next_item": 1.0})
    rows = build_rows(examples, place.items, place.catalogue, place.renderer, tokenizer, sft, seed=setting.seed)
    order = numpy_stream(setting.seed, "adaptation", "lessons").permutation(len(rows))
    steps = -(-len(rows) // settings.batch_size)
    plan = FitPlan("Lessons", settings.batch_size, settings.learning_rate, 0.05, min(250, steps))
    model = setting.model()
    given: dict[str, Any] = {"seed": setting.seed, "out": scratch / "trainer", "resume": True, "report_to": ()}
    fitted = fit_rows(model, tokenizer, [rows[n] for n in order], plan, **given)
    save_causal_lm(model, tokenizer, out)
    return place.policy(model, tokenizer), {"cpu_seconds": fitted.cpu_seconds, "lessons": len(rows)}


def _meet(domain: Domain, sides: dict[str, Told], users: Sequence[str], seed: int) -> dict[str, FloatArray]:
    """Sessions of these users with each side, of whom not even a profile is told; the same luck for all."""
    row_of = domain.world.dataset.user_index
    user_N = np.array([row_of[user] for user in users], dtype=np.int64)
    sizes = EnvironmentSettings(slate_size=SLATE, turns=TURNS, remembered_turns=TURNS)
    found: dict[str, FloatArray] = {}
    for side, ranker in sides.items():
        console.print(f"  {side} meets {len(user_N)} strangers for {TURNS} turns", style="dim")
        figures = simulate_sessions(ranker, WorldUsers.of(domain.strangers), user_N, sizes, seed=seed)
        assert figures.turn_BT is not None
        found[side] = figures.turn_BT / SLATE
    return found


def _best_for_all(domain: Domain, met: Sequence[str], new: Sequence[str]) -> float:
    """True value of an item of the list that is best on the average over everybody met before."""
    items_K = np.argsort(-domain.world.value_BN(met).mean(axis=0), kind="stable")[:SLATE]
    return float(domain.world.value_BN(new)[:, items_K].mean())


def _optimum(domain: Domain, new: Sequence[str]) -> float:
    return float(domain.world.optimum(new, SLATE).value_BK.mean())


def answer_of(found: Pooled) -> Answer:
    """The curve over turns, later turns less first ones, and the policy against the others."""
    sides = list(found.sides)
    turns = {side: np.mean([one.facts["turns"][side] for one in found.seeds], axis=0).tolist() for side in sides}
    rise = {side: bootstrap_interval(found.rows(side, RISE), users=found.users(RISE)) for side in sides}
    others = [side for side in sides if side != LEARNT]
    less = {side: {m: found.difference(LEARNT, side, m) for m in (RISE, LATER)} for side in others}
    sentences = [f"{side}: {RISE} {signed(gain)}" for side, gain in rise.items()]
    sentences += [
        f"{LEARNT} less {o}: rise {signed(of[RISE])}, {LATER} {signed(of[LATER])}" for o, of in less.items()
    ]
    facts = [one.facts for one in found.seeds]
    for name in ("best for all", "optimum"):
        sentences.append(f"{name}: {np.mean([of[name] for of in facts]):.4f}")
    figures = {
        "turns": turns,
        "rise": {side: asdict(gain) for side, gain in rise.items()},
        "rise_by_seed": {side: over_seeds(found.means(side, RISE)) for side in sides} if len(facts) > 1 else {},
        "less": {side: {m: asdict(gain) for m, gain in of.items()} for side, of in less.items()},
        "seeds": [dict(of) for of in facts],
    }
    title = "New users, of whom nothing is known at turn 1"
    return Answer(
        "Adapting in context",
        figures,
        [turns_sheet(title, turns, rise, SLATE)],
        sentences,
        {"turns": turns_plot({title: {side: turns[side] for side in of} for title, of in PANELS.items()})},
    )
