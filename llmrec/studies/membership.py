"""Whom was a policy trained on? Membership inference against warm starts, beside what counts give away.

Users are shared out at random into members, on whom everything is trained, others like them, and a third part for the
attacker. Attacked is the mean log-probability of what a user chose in the training period, given what came before;
"calibrated" takes off what a policy that was trained on the attacker's own people says of the same choices (Watson et
al. 2022), since some choices are likely whoever trained. Co-visitation fitted on the members is attacked likewise:
what a model of counts gives away is the yardstick.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from llmrec.baselines.registry import baseline
from llmrec.config import RunConfig
from llmrec.config_tree import Overrides
from llmrec.dataset.examples import Examples, examples
from llmrec.dataset.split import PARTS
from llmrec.errors import DataError
from llmrec.evaluation.membership import SURE, leak_of
from llmrec.evaluation.significance import Interval
from llmrec.pipeline.base_model import base_model
from llmrec.pipeline.data import RunData, open_data
from llmrec.pipeline.recipes import with_defaults
from llmrec.pipeline.run import check_config
from llmrec.pipeline.sft import sft_policy, sft_stage
from llmrec.pipeline.work import Work
from llmrec.progress import Bar
from llmrec.seeding import numpy_stream
from llmrec.studies.answer import Answer, Sheet
from llmrec.studies.study import Pooled, SeedRows, Study
from llmrec.types import Example, FloatArray, State

MEMBERS, OTHERS, ATTACKER = "members", "others", "attacker"
GROUPS = (MEMBERS, OTHERS, ATTACKER)
COUNTS = "covisitation-fixed"
POLICY = "LM"
CALIBRATED = ", calibrated"
LEAST = 1e-9
"""Least probability that counts are taken to give."""
BATCH = 32


@dataclass(frozen=True)
class Groups:
    """The data of each third of the users, cut at the same moments as the whole."""

    data: Mapping[str, RunData]

    @classmethod
    def of(cls, whole: RunData, seed: int) -> Groups:
        """Shares out the users with training events at random; the others leave."""
        trained = sorted(whole.split.train["user_id"].unique().to_list())
        if len(trained) < 2 * len(GROUPS):
            raise DataError(f"Only {len(trained)} users have training events; {2 * len(GROUPS)} are the least.")
        order = numpy_stream(seed, "membership", "groups").permutation(len(trained))
        own = {group: {trained[n] for n in order[k :: len(GROUPS)]} for k, group in enumerate(GROUPS)}
        everybody = set(whole.dataset.users["user_id"])
        return cls({group: _only(whole, everybody - users) for group, users in own.items()})


def _only(whole: RunData, gone: set[str]) -> RunData:
    stay = ~pl.col("user_id").is_in(list(gone))
    train, valid, test = (whole.split.part(part).filter(stay) for part in PARTS)
    split = dataclasses.replace(whole.split, train=train, valid=valid, test=test)
    return dataclasses.replace(whole, dataset=whole.dataset.without_users(gone), split=split, world=None)


def run_membership(
    seeds: Sequence[int],
    out: Path,
    overrides: Overrides | None = None,
    *,
    dataset: str = "world",
    source: str | Path | None = None,
    users: int = 300,
    each: int = 10,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Trains two policies a seed, on members and on the attacker's people, and attacks the first.

    Args:
        seeds: of groups, trainings and, on generated worlds, data.
        out: stages and answer are kept here.
        overrides: of the recipe of the data set.
        dataset: an importer's name, folder or world.
        source: of the data set.
        users: of members and of others, at most.
        each: training events of one user that are looked at, at most.
        json_file: the figures are also written here.
    """

    def measure(seed: int) -> SeedRows:
        own: dict[str, Any] = {"data.dataset": dataset, "seed": seed}
        own |= {} if source is None else {"data.source": source}
        config = with_defaults(None, {**own, **(overrides or {})})
        check_config(config)
        whole = open_data(config, Work(out / f"data-{seed}"))
        groups = Groups.of(whole, seed)
        policies = {
            group: _policy(config, groups.data[group], Work(out / f"{group}-{seed}")) for group in (MEMBERS, ATTACKER)
        }
        member = groups.data[MEMBERS]
        counts: Any = baseline(COUNTS).fitted(member.dataset, member.split.train)
        rows: dict[str, dict[str, FloatArray]] = {}
        for group in (MEMBERS, OTHERS):
            asked, of_B = _asked(config, groups.data[group], users, each)
            said = {
                name: _means(_in_parts(ask, asked, f"{group}: {name}"), of_B)
                for name, ask in (
                    (POLICY, _of_policy(policies[MEMBERS])),
                    (ATTACKER, _of_policy(policies[ATTACKER])),
                    (COUNTS, _of_counts(counts)),
                )
            }
            said[POLICY + CALIBRATED] = said[POLICY] - said[ATTACKER]
            rows[group] = {name: said[name] for name in (POLICY, POLICY + CALIBRATED, COUNTS)}
        return SeedRows(seed, whole.dataset.manifest.content_hash, rows, facts={"sft": config.tree()["sft"]})

    return Study(seeds, measure, answer_of, unit="seed").run(out, json_file)


def _policy(config: RunConfig, data: RunData, work: Work) -> Any:
    return sft_policy(config, data, sft_stage(config, data, base_model(config, data, work), work))


def _asked(config: RunConfig, data: RunData, users: int, each: int) -> tuple[Examples, list[str]]:
    """Training choices of a group's users, and whose they are."""
    found = examples(data.dataset, data.split, "train", history_events=config.data.history_events, seed=config.seed)
    by_user: dict[str, list[int]] = {}
    for row, example in enumerate(found):
        by_user.setdefault(str(example.state.user_id), []).append(row)
    stream = numpy_stream(config.seed, "membership", "asked")
    names = sorted(by_user)
    chosen = sorted(stream.choice(len(names), min(users, len(names)), replace=False).tolist())
    kept = [
        int(row)
        for n in chosen
        for row in sorted(stream.choice(by_user[names[n]], min(each, len(by_user[names[n]])), replace=False))
    ]
    asked = Examples([found.rows[row] for row in kept], [found.seen[row] for row in kept])
    return asked, [str(example.state.user_id) for example in asked]


def _of_policy(policy: Any) -> Callable[[Sequence[Example]], FloatArray]:
    def ask(part: Sequence[Example]) -> FloatArray:
        items_B1 = torch.tensor([[example.target] for example in part], device=policy.model.device)
        with torch.no_grad():
            found: FloatArray = (
                policy.log_prob([example.state for example in part], items_B1)[:, 0].double().cpu().numpy()
            )
        return found

    return ask


def _of_counts(counts: Any) -> Callable[[Sequence[Example]], FloatArray]:
    def ask(part: Sequence[Example]) -> FloatArray:
        states: list[State] = [example.state for example in part]
        share_BN = counts.distribution(states)
        found: FloatArray = np.log(share_BN[np.arange(len(part)), [example.target for example in part]] + LEAST)
        return found

    return ask


def _in_parts(ask: Callable[[Sequence[Example]], FloatArray], asked: Examples, what: str) -> FloatArray:
    found = []
    with Bar(what, len(asked)) as bar:
        for start in range(0, len(asked), BATCH):
            part = asked.rows[start : start + BATCH]
            found.append(ask(part))
            bar.advance(len(part))
    return np.concatenate(found)


def _means(value_B: FloatArray, of_B: Sequence[str]) -> FloatArray:
    """The mean of each user's figures, users in rising order."""
    _, user_B = np.unique(np.array(of_B), return_inverse=True)
    found: FloatArray = np.bincount(user_B, value_B) / np.bincount(user_B)
    return found


def answer_of(found: Pooled) -> Answer:
    """What each attack finds, over the people of all seeds."""
    sheet, figures = [], {}
    for name in found.measures(MEMBERS):
        leaks = [leak_of(one.rows[MEMBERS][name], one.rows[OTHERS][name], seed=one.seed) for one in found.seeds]
        figures[name] = {"auc": _mean([leak.auc for leak in leaks]), "found": _mean([leak.found for leak in leaks])}
        sheet.append((name, _told(figures[name]["auc"]), _told(figures[name]["found"])))
    people = {group: [len(one.rows[group][POLICY]) for one in found.seeds] for group in (MEMBERS, OTHERS)}
    heads = ("attack on", "area under ROC (a coin: 0.5)", f"members found at {SURE:.0%} false alarms")
    note = f"{sum(people[MEMBERS])} members, {sum(people[OTHERS])} others; 95% bootstrap intervals over people"
    title = "Can it be told whom the policy was trained on?"
    return Answer(title, {"attacks": figures, "people": people}, [Sheet(title, heads, sheet, note)])


def _mean(parts: Sequence[Interval]) -> dict[str, float]:
    """The mean over seeds, whose people are independent given the data: variances of means add."""
    mean = float(np.mean([part.mean for part in parts]))
    half = float(np.sqrt(np.sum([((part.high - part.low) / 2) ** 2 for part in parts]))) / len(parts)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _told(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
