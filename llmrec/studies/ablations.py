"""Ablations from one file: what does each part of the warm start add to the ranking of held-out events?

A file names a recipe, sides that each change some keys, and seeds. Every side is trained once for each seed and ranks
the same rows; figures are compared with the base side pair by pair. What is done is kept: stages of equal settings
are made once, whichever side or file asks for them, and a run that was stopped goes on.

    eval/ablations.py train/recipes/ablations-quick.yaml --out FOLDER
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.baselines import Popularity
from llmrec.baselines.interpolation import Interpolation
from llmrec.config import RunConfig, unvouched
from llmrec.config_tree import Overrides, from_tree, merged, override_tree, read_yaml
from llmrec.errors import ConfigError
from llmrec.evaluation.multiple import paired_holm
from llmrec.evaluation.ranking import coverage, ranking_metrics, slates_to_items
from llmrec.evaluation.significance import t_interval
from llmrec.evaluation.table import Comparison
from llmrec.pipeline.data import RunData
from llmrec.pipeline.recipes import recipe_for, recipes_root
from llmrec.pipeline.run import check_config
from llmrec.studies.answer import Answer, Sheet, signed
from llmrec.studies.study import Pooled, SeedRows, Study
from llmrec.studies.warm_starts import AblationSettings, Shared, Side
from llmrec.types import IntArray, Ranker


@dataclass(frozen=True)
class Ablation:
    """Sides that can be compared: settings that were checked, and the configuration that each comes to."""

    settings: AblationSettings
    sides: dict[str, Side]
    base: str

    @classmethod
    def of(cls, settings: AblationSettings, overrides: Overrides, where: str, beside: Path = Path()) -> Ablation:
        """Puts the sides together; `overrides` by dotted key lie between `set` and what is the sides' own.

        Args:
            settings: the file.
            overrides: of all sides.
            where: what errors call the file.
            beside: its folder, for a recipe that is a file.

        Raises:
            ConfigError: an unknown key, no side, a base that is no side, or sides that cannot be compared; it names
                the file and the side.
        """
        _check(settings, where)
        from_tree(RunConfig, settings.set, f"{where}, key 'set'")
        common = merged(unvouched(settings.set), override_tree(overrides))
        recipe = _recipe(settings, beside, common)
        sides = {}
        for name, side in settings.sides.items():
            from_tree(RunConfig, side.set, f"{where}, side {name!r}")
            config = RunConfig.read(recipe, merged(common, unvouched(side.set)) | {"seed": settings.seeds[0]})
            check_config(config)
            sides[name] = Side(config, side.ensemble)
        base = settings.base or next(iter(sides))
        _check_agreement(sides, base, where)
        return cls(settings, sides, base)


def ablate(
    file: Path | None,
    *,
    out: Path,
    quick: bool = False,
    source: str | None = None,
    overrides: Overrides | None = None,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Reads the YAML `file` (or, if `quick`, the shipped one on a generated world) and runs it; see `run_ablation`.

    Raises:
        ConfigError: neither or both of `file` and `quick`, or see `Ablation.of`.
    """
    if quick == (file is not None):
        raise ConfigError("Give either the YAML file of an ablation or --quick.")
    file = file or recipes_root() / "ablations-quick.yaml"
    ablation = read_ablation(file, ({} if source is None else {"data.source": source}) | dict(overrides or {}))
    return run_ablation(ablation, out, json_file=json_file)


def read_ablation(path: Path, overrides: Overrides | None = None) -> Ablation:
    """Reads a file; see `Ablation.of`."""
    settings = from_tree(AblationSettings, read_yaml(path), str(path))
    return Ablation.of(settings, overrides or {}, str(path), path.parent)


def tuned_baselines(config: RunConfig, data: RunData) -> dict[str, Ranker]:
    """Popularity, and co-visitation and interpolation with settings chosen on the training part's last tenth."""
    mixed = Interpolation(seed=config.seed).fit(data.dataset, data.split.train)
    popular = Popularity(seed=config.seed).fit(data.dataset, data.split.train)
    return {"popularity": popular, "covisitation": mixed.covisitation, "interpolation": mixed}


def ablation_answer(ablation: Ablation, found: Pooled) -> Answer:
    """Tables over the rows of all seeds, and differences to the base seed by seed.

    Intervals over rows hold for these trained models and other users; their p-values are Holm's, corrected for the
    number of sides. Student's t intervals over seeds hold for other trainings.
    """
    base, metrics = ablation.base, found.measures(ablation.base)
    others = [name for name in ablation.sides if name != base]
    table, adjusted = _table(ablation, found), _adjusted(ablation, found, others)
    by_seed = {
        name: {m: list(np.subtract(found.means(name, m), found.means(base, m))) for m in metrics} for name in others
    }
    over_seeds = None  # rows of one training say nothing of the next; with seeds, each is one observation
    if len(found.seeds) > 1:
        over_seeds = {name: {m: asdict(t_interval(by_seed[name][m])) for m in metrics} for name in others}
    figures = {
        "table": table.to_json(),
        "holm_adjusted_p": adjusted,
        "over_seeds": over_seeds,
        "by_seed": {
            str(one.seed): {name: {m: found.means(name, m)[at] for m in metrics} for name in found.sides}
            for at, one in enumerate(found.seeds)
        },
        "base": base,
        "ensembles": {name: side.ensemble for name, side in ablation.sides.items()},
        **record(ablation, found),
    }
    last = metrics[-1]
    rows = [
        (
            name,
            "–" if (over_rows := table.cells[name][last].difference) is None else signed(over_rows),
            f"{adjusted[name][last]:.3f}",
            "–" if over_seeds is None else signed(over_seeds[name][last]),
            " ".join(f"{value:+.4f}" for value in by_seed[name][last]),
        )
        for name in others
    ]
    heads = ("side", "over rows (users drawn)", "p (Holm)", "over seeds (Student's t)", "each seed")
    differences = Sheet(f"{last} minus that of {base} (95% intervals)", heads, rows)
    costs = facts_sheet(found.seeds[0].facts["sides"])
    return Answer("An ablation of the warm start", figures, (costs, table, differences))


def _table(ablation: Ablation, found: Pooled) -> Comparison:
    """All systems over the rows of all seeds, compared with the base side; coverage is the mean of the seeds."""
    settings, metrics, top = ablation.settings, found.measures(ablation.base), max(ablation.settings.k)
    rows, seeds = len(found.rows(ablation.base, metrics[0])), len(found.seeds)
    n_items = found.seeds[0].facts["shared"].data.dataset.n_items
    coverage = {
        name: {f"coverage@{top}": float(np.mean([one.facts["coverage"][name] for one in found.seeds]))}
        for name in found.sides
    }
    title = f"{rows} rows of {settings.part}, {seeds} seed{'s' * (seeds > 1)}, all {n_items} items ranked"
    return found.comparison(title, metrics, ablation.base, plain=coverage, seed=settings.seeds[0])


def _adjusted(ablation: Ablation, found: Pooled, others: Sequence[str]) -> dict[str, dict[str, float]]:
    """p-values of each side's difference to the base over rows after Holm's correction, by metric."""
    adjusted: dict[str, dict[str, float]] = {name: {} for name in others}
    for metric in found.measures(ablation.base) if others else ():
        base_B = found.rows(ablation.base, metric)
        # All sides are asked the same question of the same rows: a family, in which no false alarm is wanted.
        differences = {name: found.rows(name, metric) - base_B for name in others}
        tests = paired_holm(differences, users=found.users(metric), seed=ablation.settings.seeds[0])
        for name, tested in tests.items():
            adjusted[name][metric] = tested.adjusted
    return adjusted


def record(ablation: Ablation, found: Pooled) -> dict[str, Any]:
    """What figures stand with: what each side costs at the first seed, what was ranked, and the configurations."""
    return {
        "facts": found.seeds[0].facts["sides"],
        "part": ablation.settings.part,
        "trained_until_part": ablation.settings.until_part,
        "configurations": {name: side.config.tree() for name, side in ablation.sides.items()},
    }


def facts_sheet(facts: Mapping[str, Mapping[str, Any]]) -> Sheet:
    """What each side costs and how it writes items."""
    heads = ("side", "models", "tokens/item", "words added", "parameters", "colliding", "shared")
    more = ("perplexity a level", "prompt tokens", "SFT s", "decoded users/s")
    rows = [
        (
            name,
            str(fact["members"]),
            f"{fact['tokens_per_item']:.2f}",
            str(fact["words_added"]),
            f"{fact['parameters'] / 1e6:.2f} M",
            "–" if fact["colliding"] is None else str(fact["colliding"]),
            str(fact["shared"]),
            " ".join(f"{value:.0f}" for value in fact["perplexity"]) or "–",
            f"{fact['prompt_tokens']:.0f}",
            f"{fact['sft_seconds']:.0f}",
            f"{fact['users_per_second']:.1f}",
        )
        for name, fact in facts.items()
    ]
    title = "How each side writes items, and what it costs (first seed; CPU seconds of one process)"
    return Sheet(title, (*heads, *more), rows)


def run_ablation(
    ablation: Ablation,
    folder: Path,
    *,
    json_file: Path | None = None,
    baselines: Callable[[RunConfig, RunData], dict[str, Ranker]] = tuned_baselines,
    answer: Callable[[Ablation, Pooled], Answer] = ablation_answer,
) -> dict[str, Any]:
    """Trains what is missing, ranks all sides on the same rows, prints the answer and returns its figures.

    Args:
        ablation: from `read_ablation`.
        folder: data, stages and ranked lists are kept here.
        json_file: the figures are also written here.
        baselines: what stands beside the sides, fitted to the data of a seed.
        answer: what is made of all rows.

    Raises:
        ConfigError: sides whose rows differ, or a cut-off above the catalogue's size.
    """
    settings, base = ablation.settings, ablation.sides[ablation.base]

    def measure(seed: int) -> SeedRows:
        shared, k = Shared.of(settings, base, seed, folder), max(settings.k)
        states, seen = [example.state for example in shared.rows], shared.rows.seen
        beside = baselines(base.member(seed), shared.period)
        lists = {name: slates_to_items(system.recommend(states, k, seen=seen), k) for name, system in beside.items()}
        facts = {}
        for name, side in ablation.sides.items():
            lists[name], facts[name] = shared.ranked(name, side)
        return seed_rows(shared, lists, facts, own_users=base.config.data.dataset == "world")

    return Study(settings.seeds, measure, lambda found: answer(ablation, found), unit="seed").run(folder, json_file)


def seed_rows(
    shared: Shared, lists: Mapping[str, IntArray], facts: Mapping[str, Any], *, own_users: bool
) -> SeedRows:
    """HR and NDCG of every system on each row; one user's rows are not independent.

    Args:
        shared: seed, rows and data.
        lists: items (B, K) by system, baselines first.
        facts: what each side costs.
        own_users: whether other seeds have other users (generated worlds); else a user is one over all seeds.
    """
    rows, dataset, k = shared.rows, shared.data.dataset, sorted(shared.settings.k)
    measured = {}
    for name, items_BK in lists.items():
        found = ranking_metrics(items_BK, [row.target for row in rows], k=tuple(k)).per_row
        measured[name] = {metric: found[metric] for metric in found if metric.startswith(("HR", "NDCG"))}
    users = [f"{shared.seed}/{row.state.user_id}" if own_users else str(row.state.user_id) for row in rows]
    covered = {name: coverage(items_BK, dataset.n_items, k[-1]) for name, items_BK in lists.items()}
    known = {"sides": facts, "coverage": covered, "lists": lists, "shared": shared}
    hashed, metrics = dataset.manifest.content_hash, next(iter(measured.values()))
    return SeedRows(shared.seed, hashed, measured, dict.fromkeys(metrics, users), known)


def _recipe(settings: AblationSettings, beside: Path, common: Mapping[str, Any]) -> Path | None:
    if settings.recipe is None:
        return recipe_for(RunConfig.read(None, common).data.dataset)
    shipped = recipes_root() / f"{settings.recipe}.yaml"
    return shipped if shipped.is_file() else beside / settings.recipe


def _check(settings: AblationSettings, where: str) -> None:
    if not settings.sides:
        raise ConfigError(f"{where} names no side; give at least one below the key 'sides'.")
    if settings.base is not None and settings.base not in settings.sides:
        raise ConfigError(f"Key 'base' in {where} is {settings.base!r}; choose one of {', '.join(settings.sides)}.")
    if not settings.seeds or len(set(settings.seeds)) < len(settings.seeds):
        raise ConfigError(f"Key 'seeds' in {where} must hold at least one number, each once.")
    if not settings.k or min(settings.k) < 1:
        raise ConfigError(f"Key 'k' in {where} must hold at least one number, each 1 or more.")
    if settings.until_part and settings.part != "test":
        raise ConfigError(f"Key 'until_part' in {where} needs part: test; else it would train on what is ranked.")
    for name, side in settings.sides.items():
        if side.ensemble < 1:
            raise ConfigError(f"Key 'sides.{name}.ensemble' in {where} is {side.ensemble}; it must be at least 1.")
        if name in ("popularity", "covisitation"):
            raise ConfigError(f"Side {name!r} in {where} has the name of a baseline; call it something else.")
    for key, tree in (("set", settings.set), *((f"sides.{n}.set", s.set) for n, s in settings.sides.items())):
        if "seed" in tree:
            raise ConfigError(f"Key '{key}.seed' in {where} cannot be set; list the seeds under 'seeds'.")


def _check_agreement(sides: Mapping[str, Side], base: str, where: str) -> None:
    """Data and target must agree; how much of the history a state keeps may differ."""

    def asked(side: Side) -> object:
        config = side.config
        return dataclasses.replace(config.data, history_events=0), config.world, config.sft.target

    for name, side in sides.items():
        if asked(side) != asked(sides[base]):
            raise ConfigError(
                f"Side {name!r} in {where} has other data or another target than {base!r}; set them for all."
            )
