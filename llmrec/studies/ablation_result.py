"""The figures of an ablation: tables over all rows and seeds, and differences seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from llmrec.config import RunConfig
from llmrec.config.ablations import AblationSettings
from llmrec.dataset.examples import Examples
from llmrec.evaluation.facts import machine_facts, package_versions
from llmrec.evaluation.multiple import paired_holm
from llmrec.evaluation.ranking import coverage, ranking_metrics
from llmrec.evaluation.significance import Interval, t_interval
from llmrec.evaluation.table import Comparison
from llmrec.screen import results
from llmrec.types import FloatArray, IntArray

SHOWN = ("tokens_per_item", "prompt_tokens", "parameters", "sft_seconds", "users_per_second")


@dataclass(frozen=True)
class SeedRows:
    """What all systems recommended for the rows of one seed.

    Attributes:
        seed: of the training.
        rows: events ranked.
        lists: items (B, K) by system, baselines first.
        facts: what each side costs.
        n_items: size of the catalogue.
        data_hash: content hash of the data set.
        own_users: whether other seeds have other users (generated worlds).
    """

    seed: int
    rows: Examples
    lists: dict[str, IntArray]
    facts: dict[str, dict[str, Any]]
    n_items: int
    data_hash: str
    own_users: bool

    def users(self) -> list[str]:
        """Whose rows are not independent: one user's, over all seeds that share the user."""
        prefix = f"{self.seed}/" if self.own_users else ""
        return [f"{prefix}{row.state.user_id}" for row in self.rows]

    def metrics(self, name: str, k: Sequence[int]) -> dict[str, FloatArray]:
        """HR and NDCG of each row."""
        found = ranking_metrics(self.lists[name], [row.target for row in self.rows], k=tuple(k)).per_row
        return {metric: values for metric, values in found.items() if metric.startswith(("HR", "NDCG"))}


@dataclass(frozen=True)
class AblationFigures:
    """An ablation's answer.

    Attributes:
        table: all systems over the rows of all seeds, compared with the base side; intervals hold for these trained
            models and other users.
        adjusted: p-value of each side's difference to the base over rows, after Holm's correction for the number of
            sides, by metric.
        over_seeds: the mean difference of each side to the base over seeds with Student's t interval, which holds for
            other trainings; None with one seed.
        by_seed: means by seed, system and metric.
        facts: what each side costs, at the first seed.
        record: settings, data hashes, configurations and machine.
    """

    table: Comparison
    adjusted: dict[str, dict[str, float]]
    over_seeds: dict[str, dict[str, Interval]] | None
    by_seed: dict[int, dict[str, dict[str, float]]]
    facts: dict[str, dict[str, Any]]
    record: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries."""
        over = self.over_seeds
        return {
            "table": self.table.to_json(),
            "holm_adjusted_p": self.adjusted,
            "over_seeds": None
            if over is None
            else {n: {m: asdict(i) for m, i in r.items()} for n, r in over.items()},
            "by_seed": {str(seed): means for seed, means in self.by_seed.items()},
            "facts": self.facts,
            **self.record,
        }


def ablation_figures(
    found: Sequence[SeedRows], base: str, settings: AblationSettings, configs: Mapping[str, RunConfig]
) -> AblationFigures:
    """Pools the rows of all seeds, and compares seed by seed."""
    k, top = sorted(settings.k), max(settings.k)
    metrics = {name: [one.metrics(name, k) for one in found] for name in found[0].lists}
    values: dict[str, dict[str, FloatArray | float]] = {}
    for name, parts in metrics.items():
        values[name] = {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}
        values[name][f"coverage@{top}"] = float(np.mean([coverage(s.lists[name], s.n_items, top) for s in found]))
    users = [user for one in found for user in one.users()]
    count, seeds = sum(len(one.rows) for one in found), len(found)
    table = Comparison.of(
        f"{count} rows of {settings.part}, {seeds} seed{'s' * (seeds > 1)}, all {found[0].n_items} items ranked",
        values,
        reference=base,
        users=users,
        seed=settings.seeds[0],
    )
    by_seed = {
        one.seed: {name: {m: float(v.mean()) for m, v in metrics[name][at].items()} for name in metrics}
        for at, one in enumerate(found)
    }
    return AblationFigures(
        table,
        _adjusted(values, base, list(configs), users, settings.seeds[0]),
        _over_seeds(by_seed, base, list(configs)),
        by_seed,
        found[0].facts,
        {
            "base": base,
            "part": settings.part,
            "trained_until_part": settings.until_part,
            "seeds": list(settings.seeds),
            "data_hashes": {str(one.seed): one.data_hash for one in found},
            "configurations": {name: config.tree() for name, config in configs.items()},
            "ensembles": {name: side.ensemble for name, side in settings.sides.items()},
            "machine": machine_facts(),
            "versions": package_versions(),
        },
    )


def _adjusted(
    values: Mapping[str, Mapping[str, FloatArray | float]],
    base: str,
    sides: Sequence[str],
    users: Sequence[str],
    seed: int,
) -> dict[str, dict[str, float]]:
    others = [name for name in sides if name != base]
    found: dict[str, dict[str, float]] = {name: {} for name in others}
    for metric, base_B in values[base].items():
        if others and isinstance(base_B, np.ndarray):
            differences = {name: np.asarray(values[name][metric]) - base_B for name in others}
            for name, tested in paired_holm(differences, users=users, seed=seed).items():
                found[name][metric] = tested.adjusted
    return found


def _over_seeds(
    by_seed: Mapping[int, Mapping[str, Mapping[str, float]]], base: str, sides: Sequence[str]
) -> dict[str, dict[str, Interval]] | None:
    if len(by_seed) < 2:
        return None
    return {
        name: {
            metric: t_interval([means[name][metric] - means[base][metric] for means in by_seed.values()])
            for metric in next(iter(by_seed.values()))[base]
        }
        for name in sides
        if name != base
    }


def print_figures(figures: AblationFigures) -> None:
    """Tables for the terminal."""
    screen = results()
    screen.print(facts_table(figures.facts))
    screen.print(figures.table.to_rich())
    metric = figures.table.metrics[-2]
    screen.print(differences_table(figures, metric))


def differences_table(figures: AblationFigures, metric: str) -> Table:
    """Differences to the base, over rows and over seeds."""
    base = figures.table.reference
    table = Table(title=f"{metric} minus that of {base} (95% intervals)", title_justify="left")
    for head in ("side", "over rows (users drawn)", "p (Holm)", "over seeds (Student's t)", "each seed"):
        table.add_column(head, justify="left" if head == "side" else "right")
    for name in figures.facts:
        cell = figures.table.cells[name][metric]
        if cell.difference is not None:
            seeds = [means[name][metric] - means[base or ""][metric] for means in figures.by_seed.values()]
            over = "–" if figures.over_seeds is None else _signed(figures.over_seeds[name][metric])
            p = f"{figures.adjusted[name][metric]:.3f}"
            table.add_row(name, _signed(cell.difference), p, over, " ".join(f"{value:+.4f}" for value in seeds))
    return table


def facts_table(facts: Mapping[str, Mapping[str, Any]]) -> Table:
    """What each side costs."""
    table = Table(title="What each side costs (first seed; CPU seconds of one process)", title_justify="left")
    for head in ("side", "models", "tokens/item", "prompt tokens", "parameters", "SFT s", "decoded users/s"):
        table.add_column(head, justify="left" if head == "side" else "right")
    for name, fact in facts.items():
        tokens, prompt, parameters, seconds, speed = (float(fact[key]) for key in SHOWN)
        texts = (f"{tokens:.2f}", f"{prompt:.0f}", f"{parameters / 1e6:.2f} M", f"{seconds:.0f}", f"{speed:.1f}")
        table.add_row(name, str(fact["members"]), *texts)
    return table


def _signed(value: Interval) -> str:
    return f"{value.mean:+.4f} ({value.low:+.4f} to {value.high:+.4f})"
