"""The examination of a run's simulators, before anything is trained on them (`evaluation.exam`, docs/simulator.md).

Both are asked about held-out choices of the validation period. A judge that turns out to be popularity in disguise is
refused (`gate.exam`): it would praise a policy for showing everybody the same, and call what knows people worse.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmrec.baselines.popularity import Popularity
from llmrec.baselines.registry import baseline
from llmrec.config import RewardSettings, RunConfig
from llmrec.dataset.examples import Examples, examples
from llmrec.errors import ConfigError
from llmrec.evaluation.exam import Questions, answers, marks, yardstick
from llmrec.evaluation.significance import Interval
from llmrec.evaluation.simulated import simulate
from llmrec.files import read_json, write_json
from llmrec.pipeline.data import RunData
from llmrec.pipeline.headroom import share_closed
from llmrec.pipeline.simulation import Simulators, first_states, log_of
from llmrec.pipeline.systems import INFORMED, Greedy, TruthJudge, best_known
from llmrec.pipeline.work import Unfinished, Work, say, stage_key
from llmrec.rewards import RewardFunction
from llmrec.seeding import numpy_stream
from llmrec.simulator.ensemble import Predictor
from llmrec.types import FloatArray, Ranker

KNOWN_USERS = 100
"""Users of a generated world for whom the best that can be known is computed, some hundredths of a second each."""


def check_exam(config: RunConfig) -> None:
    """Refuses, before anything is made, settings of the examination that cannot work; raises `ConfigError`."""
    if config.gate.exam_events < 1:
        raise ConfigError(f"Key 'gate.exam_events' is {config.gate.exam_events}, but it must be at least 1.")
    for name in config.gate.exam_beside:
        baseline(name).require()


def examined(config: RunConfig, data: RunData, simulators: Simulators, work: Work) -> Simulators:
    """The simulators with what the examination found, said on the terminal.

    Raises:
        ConfigError: the judge is popularity in disguise, and `gate.exam` is refuse.
    """
    gate = config.gate
    key = {
        "simulator": stage_key(work.folder / "simulator"),
        "exam": [gate.exam_events, gate.exam_beside, gate.slate, config.evaluation.bootstrap],
        "value": [config.reward.click, config.reward.conversion],
    }

    def build(out: Path, _: Path) -> None:
        write_json(out / "exam.json", examine_run(config, data, simulators))

    try:
        found: dict[str, Any] = read_json(work.stage("exam", key, build) / "exam.json")
    except Unfinished:  # a run of before there was an examination, which is opened and not made
        return simulators
    for said in sentences(found):
        say(f"  {said}", style="dim" if "disguise" not in said else None)
    require_judge(config, found, logged=data.dataset.has_impressions)
    return dataclasses.replace(simulators, exam=found)


def require_judge(config: RunConfig, exam: Mapping[str, Any], *, logged: bool = True) -> None:
    """Raises `ConfigError` where the judge may not judge; `logged` says whether impressions are."""
    # counts know people where a network that was taught by drawn negatives learnt what is popular
    other = "" if logged or config.simulator.blend else "set simulator.blend=true, "
    if config.gate.exam == "refuse" and exam["judge"]["verdict"] == "popularity in disguise":
        raise ConfigError(
            f"{exam['judge']['sentence'].rstrip('.')}: such a judge cannot tell a policy that knows people from one "
            f"that shows everybody the same; {other}choose another simulator.judge_architecture (it is "
            f"{config.simulator.judge_architecture!r}), give more data, or set gate.exam=warn to go on with it."
        )


def sentences(exam: Mapping[str, Any]) -> list[str]:
    """What was found about each simulator, one sentence each."""
    return [str(found["sentence"]) for found in exam.values()]


def examine_run(config: RunConfig, data: RunData, simulators: Simulators) -> dict[str, Any]:
    """The marks of reward and judge by name, as plain values."""
    asked = examples(
        data.dataset,
        data.split,
        "valid",
        history_events=config.data.history_events,
        limit=config.gate.exam_events,
        seed=config.seed,
        withheld=data.withheld,
    )
    return examine(
        config,
        data,
        {"reward": simulators.reward, "judge": simulators.judge},
        asked,
        {name: baseline(name).fitted(data.dataset, data.split.train, seed=config.seed) for name in beside(config)},
    )


def beside(config: RunConfig) -> Sequence[str]:
    """The yardsticks' names, popularity apart."""
    return [name for name in config.gate.exam_beside if name != Popularity.name]


def examine(
    config: RunConfig,
    data: RunData,
    models: Mapping[str, Predictor],
    asked: Examples,
    yardsticks: Mapping[str, Any],
) -> dict[str, Any]:
    """The marks of several simulators on the same questions.

    Args:
        config: weights of click and conversion, slate, bootstrap and seed.
        data: data set, split and, where there is one, the world.
        models: simulators by the name that sentences call them.
        asked: held-out choices that none of them was fitted on.
        yardsticks: fitted baselines with a `score`, by name.
    """
    questions = Questions.of(data.dataset, data.split.train, asked, seed=config.seed)
    ndcg = {Popularity.name: yardstick(questions.popularity, questions)}
    ndcg |= {name: yardstick(ranker.score, questions) for name, ranker in yardsticks.items()}
    found = {}
    shares = informed_shares(config, data, models)
    for name, model in models.items():
        figures = marks(answers(model, questions), questions, ndcg, name=name, samples=config.evaluation.bootstrap)
        if name in shares:
            share = figures["informed_share"] = dataclasses.asdict(shares[name])
            figures["sentence"] = (
                f"{figures['sentence'].rstrip('.')}; its best slates close {share['mean']:.0%} "
                f"({share['low']:.0%} to {share['high']:.0%}) of the way from popularity to the informed optimum."
            )
        found[name] = figures
    return found


def informed_shares(config: RunConfig, data: RunData, models: Mapping[str, Predictor]) -> dict[str, Interval]:
    """(d): how far each model's own best slates lie between popularity and what can be known, in true value.

    Empty for data without a known truth, and where popularity leaves nothing to gain.
    """
    if data.world is None:
        return {}
    click, conversion = config.reward.click, config.reward.conversion
    best = best_known(data.world, click, conversion).get(INFORMED)
    if best is None:
        return {}
    log = log_of(config, data, "valid")
    people = sorted({str(user) for user in log.user_ids if user is not None})
    drawn = numpy_stream(config.seed, "exam", "users").permutation(len(people))[:KNOWN_USERS]
    rows = first_states(log, {people[place] for place in drawn})
    states, seen = [log.states[row] for row in rows], [log.seen[row] for row in rows]
    k = min(config.gate.slate, data.dataset.n_items)
    rankers: dict[str, Ranker] = {
        name: Greedy(
            RewardFunction(model, RewardSettings(click=click, conversion=conversion)),
            data.dataset.n_items,
            data.dataset.manifest.repeat,
        )
        for name, model in models.items()
    }
    popular = Popularity(seed=config.seed).fit(data.dataset, data.split.train)

    truth = TruthJudge(data.world)

    def value(ranker: Ranker) -> FloatArray:
        return simulate(
            ranker.recommend(states, k, seen=seen), states, truth, k=k, click=click, conversion=conversion
        ).value_B

    base_B, best_B = value(popular), value(best)
    if best_B.mean() <= base_B.mean():
        return {}
    draw: dict[str, Any] = {"samples": config.evaluation.bootstrap, "seed": config.seed}
    users = [str(state.user_id) for state in states]
    return {
        name: share_closed(base_B, value(ranker), best_B, users=users, **draw) for name, ranker in rankers.items()
    }
