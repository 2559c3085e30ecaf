"""Ablations from one file: what does each part of the warm start add to the ranking of held-out events?

A file names a recipe, sides that each change some keys, and seeds. Every side is trained once for each seed and ranks
the same rows; figures are compared with the base side pair by pair. What is done is kept: stages of equal settings
are made once, whichever side or file asks for them, and a run that was stopped goes on.

    eval/ablations.py train/recipes/ablations-quick.yaml --out FOLDER
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.baselines import Popularity
from llmrec.baselines.interpolation import Interpolation
from llmrec.config import RunConfig, unvouched
from llmrec.config.ablations import AblationSettings
from llmrec.config_tree import Override, from_tree, read_yaml
from llmrec.dataset.examples import Examples
from llmrec.errors import ConfigError
from llmrec.evaluation.ranking import slates_to_items
from llmrec.files import read_json, sha256_of, write_json
from llmrec.pipeline.base_model import base_model
from llmrec.pipeline.data import RunData, open_data
from llmrec.pipeline.recipes import recipe_for, recipes_root
from llmrec.pipeline.run import check_config
from llmrec.pipeline.sft import sft_policy, targets
from llmrec.pipeline.wording import text_key
from llmrec.pipeline.work import Work
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Mixture
from llmrec.progress import console
from llmrec.studies.ablation_result import SeedRows, ablation_figures, print_figures
from llmrec.studies.identifiers import decoded, extended, facts_of, trained
from llmrec.types import IntArray, Ranker

MEMBER = 1000
"""Members of an ensemble have the seeds s, s + 1000, s + 2000, ..."""


@dataclass(frozen=True)
class Side:
    """One side of the comparison; its configuration still has the first seed."""

    config: RunConfig
    ensemble: int = 1

    def member(self, seed: int, number: int = 0) -> RunConfig:
        """The configuration of one member for one seed."""
        return dataclasses.replace(self.config, seed=seed + MEMBER * number)


@dataclass(frozen=True)
class Ablation:
    """A file that was read and checked."""

    settings: AblationSettings
    sides: dict[str, Side]
    base: str


def read_ablation(path: Path, overrides: Sequence[Override] = ()) -> Ablation:
    """Reads a file; `overrides` (`key=value`) lie between its `set` and those of the sides.

    Raises:
        ConfigError: an unknown key, no side, a base that is no side, or sides that cannot be compared; it names the
            file and the side.
    """
    settings = from_tree(AblationSettings, read_yaml(path), str(path))
    _check(settings, path)
    from_tree(RunConfig, settings.set, f"{path}, key 'set'")
    common = [*flat(unvouched(settings.set)), *overrides]
    recipe = _recipe(settings, path, common)
    sides = {}
    for name, side in settings.sides.items():
        from_tree(RunConfig, side.set, f"{path}, side {name!r}")
        config = RunConfig.read(recipe, [*common, *flat(unvouched(side.set)), f"seed={settings.seeds[0]}"])
        check_config(config)
        sides[name] = Side(config, side.ensemble)
    base = settings.base or next(iter(sides))
    _check_agreement(sides, base, path)
    return Ablation(settings, sides, base)


def flat(tree: Mapping[str, Any], above: str = "") -> Iterator[Override]:
    """A tree of keys as pairs of a dotted key and its value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def run_ablation(ablation: Ablation, folder: Path, *, json_file: Path | None = None) -> dict[str, Any]:
    """Trains what is missing, ranks all sides on the same rows, prints tables and returns their figures.

    Args:
        ablation: from `read_ablation`.
        folder: data, stages and ranked lists are kept here.
        json_file: the figures are also written here.

    Raises:
        ConfigError: sides whose rows differ, or a cut-off above the catalogue's size.
    """
    settings = ablation.settings
    found: list[SeedRows] = []
    for seed in settings.seeds:
        config = ablation.sides[ablation.base].member(seed)
        world = config.data.dataset == "world"
        given = open_data(config, Work(folder / (f"data-{seed}" if world else "data")))
        if max(settings.k) > given.dataset.n_items:
            raise ConfigError(f"Key 'k' goes up to {max(settings.k)}, but the catalogue has {given.dataset.n_items}.")
        rows = _rows(config, given, settings)
        console.print(f"seed {seed}: {len(rows)} rows of {settings.part}", style="bold")
        lists, facts = _baselines(config, _period(given, settings), rows, max(settings.k)), {}
        for name, side in ablation.sides.items():
            lists[name], facts[name] = _ranked(name, side, seed, given, rows, settings, folder)
        hashed = given.dataset.manifest.content_hash
        found.append(SeedRows(seed, rows, lists, facts, given.dataset.n_items, hashed, world))
    configs = {name: side.config for name, side in ablation.sides.items()}
    figures = ablation_figures(found, ablation.base, settings, configs)
    print_figures(figures)
    if json_file is not None:
        write_json(json_file, figures.to_json())
    return figures.to_json()


def _ranked(
    name: str, side: Side, seed: int, given: RunData, rows: Examples, settings: AblationSettings, folder: Path
) -> tuple[IntArray, dict[str, Any]]:
    """The side's lists (B, K) and what it costs, from its finished stages if there are any."""
    own = _rows(side.member(seed), given, settings)
    if _identity(own) != _identity(rows):
        raise ConfigError(f"Side {name!r} has other rows than the base; leave data and target alone.")
    names = [_stage_name(side.member(seed, m), seed, settings) for m in range(side.ensemble)]
    place = folder / "stages" / (names[0] if len(names) == 1 else f"ensemble-{sha256_of(*names)[:16]}")
    k, beams = max(settings.k), max(side.config.evaluation.beams, *settings.k)
    key = [names, [_hash(own), settings.part, k, beams], given.dataset.manifest.content_hash]

    def build(out: Path, _: Path) -> None:
        policies, facts = _trained(side, seed, names, given, own, settings, folder)
        system = policies[0] if len(policies) == 1 else Mixture.ensemble(policies)
        slates, speed = decoded(system, own, k, beams)
        np.save(out / "lists.npy", slates_to_items(slates, k))
        write_json(out / "facts.json", facts | {"users_per_second": speed, "members": len(policies)})

    stage = Work(place).stage(f"lists-{settings.part}", key, build)
    return np.load(stage / "lists.npy"), read_json(stage / "facts.json")


def _trained(
    side: Side,
    seed: int,
    names: Sequence[str],
    given: RunData,
    rows: Examples,
    settings: AblationSettings,
    folder: Path,
) -> tuple[list[LanguagePolicy], dict[str, Any]]:
    """The members' policies; the facts are those of the first, with the seconds of all."""
    data, policies, facts, total = _period(given, settings), [], {}, 0.0
    base = base_model(side.member(seed), given, Work(folder / "base"))  # one base model for all members
    for number, name in enumerate(names):
        config = side.member(seed, number)
        stage, seconds = trained(config, data, base, Work(folder / "stages" / name))
        total += seconds
        policies.append(sft_policy(config, data, stage))
        if not number:
            facts = dataclasses.asdict(facts_of(policies[0], stage, rows, seconds, 0.0))
    return policies, facts | {"sft_seconds": total}


def _rows(config: RunConfig, given: RunData, settings: AblationSettings) -> Examples:
    """The rows that are ranked: the same sample for all seeds."""
    return targets(dataclasses.replace(config, seed=settings.seeds[0]), given, settings.part, settings.limit)


def _period(given: RunData, settings: AblationSettings) -> RunData:
    return extended(given) if settings.until_part else given


def _baselines(config: RunConfig, data: RunData, rows: Examples, k: int) -> dict[str, IntArray]:
    """Popularity, and co-visitation and interpolation with settings chosen on the training part's last tenth."""
    states = [example.state for example in rows]
    mixed = Interpolation(seed=config.seed).fit(data.dataset, data.split.train)
    systems: dict[str, Ranker] = {
        "popularity": Popularity(seed=config.seed).fit(data.dataset, data.split.train),
        "covisitation": mixed.covisitation,
        "interpolation": mixed,
    }
    return {name: slates_to_items(system.recommend(states, k, seen=rows.seen), k) for name, system in systems.items()}


def _stage_name(config: RunConfig, data_seed: int, settings: AblationSettings) -> str:
    """A folder for each warm start; sides of equal settings share it."""
    tree = config.tree()
    decides = {key: tree[key] for key in ("seed", "data", "world", "identifiers", "model", "sft")}
    decides["text"] = text_key(config)
    period = settings.part if settings.until_part else "train"
    return sha256_of(json.dumps([decides, data_seed, period], sort_keys=True))[:16]


def _identity(rows: Examples) -> list[tuple[object, ...]]:
    return [(row.state.user_id, row.state.time, row.target) for row in rows]


def _hash(rows: Examples) -> str:
    return sha256_of(json.dumps(_identity(rows)), *(json.dumps(seen.tolist()) for seen in rows.seen))


def _recipe(settings: AblationSettings, path: Path, overrides: Sequence[Override]) -> Path | None:
    if settings.recipe is None:
        return recipe_for(RunConfig.read(None, overrides).data.dataset)
    shipped = recipes_root() / f"{settings.recipe}.yaml"
    return shipped if shipped.is_file() else path.parent / settings.recipe


def _check(settings: AblationSettings, path: Path) -> None:
    if not settings.sides:
        raise ConfigError(f"{path} names no side; give at least one below the key 'sides'.")
    if settings.base is not None and settings.base not in settings.sides:
        raise ConfigError(f"Key 'base' in {path} is {settings.base!r}; choose one of {', '.join(settings.sides)}.")
    if not settings.seeds or len(set(settings.seeds)) < len(settings.seeds):
        raise ConfigError(f"Key 'seeds' in {path} must hold at least one number, each once.")
    if not settings.k or min(settings.k) < 1:
        raise ConfigError(f"Key 'k' in {path} must hold at least one number, each 1 or more.")
    if settings.until_part and settings.part != "test":
        raise ConfigError(f"Key 'until_part' in {path} needs part: test; else it would train on what is ranked.")
    for name, side in settings.sides.items():
        if side.ensemble < 1:
            raise ConfigError(f"Key 'sides.{name}.ensemble' in {path} is {side.ensemble}; it must be at least 1.")
        if name in ("popularity", "covisitation"):
            raise ConfigError(f"Side {name!r} in {path} has the name of a baseline; call it something else.")
    for where, tree in (("set", settings.set), *((f"sides.{n}.set", s.set) for n, s in settings.sides.items())):
        if "seed" in tree:
            raise ConfigError(f"Key '{where}.seed' in {path} cannot be set; list the seeds under 'seeds'.")


def _check_agreement(sides: Mapping[str, Side], base: str, path: Path) -> None:
    """Data and target must agree; how much of the history a state keeps may differ."""

    def asked(side: Side) -> object:
        config = side.config
        return dataclasses.replace(config.data, history_events=0), config.world, config.sft.target

    for name, side in sides.items():
        if asked(side) != asked(sides[base]):
            raise ConfigError(
                f"Side {name!r} in {path} has other data or another target than {base!r}; set them for all."
            )
