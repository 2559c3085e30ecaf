"""Robustness of a run's policy beside baselines: from run folders to tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from llmrec.baselines import Covisitation, Popularity
from llmrec.baselines.covisitation import COUNTS_ONLY
from llmrec.baselines.registry import baseline
from llmrec.config import RunConfig
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError, RequestError
from llmrec.evaluation.facts import machine_facts, package_versions
from llmrec.export import Bundle, read_bundle
from llmrec.files import write_json
from llmrec.pipeline.base_model import NANO, Base
from llmrec.pipeline.data import RunData
from llmrec.pipeline.sft import SFTStage, sft_policy, targets
from llmrec.pipeline.systems import Policy
from llmrec.pipeline.work import DONE
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Mixture
from llmrec.recommender import default_data
from llmrec.screen import results
from llmrec.studies.robustness import CLEAN, Robustness, robustness_table, standard_perturbations
from llmrec.studies.views import Refitted
from llmrec.types import Ranker


def run_robustness(
    folders: Sequence[Path],
    *,
    data: Path | None = None,
    limit: int | None = 500,
    k: int = 10,
    beams: int = 20,
    seed: int = 0,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Ranks the test period's events, clean and perturbed, with the runs' policies, a warm start and three baselines.

    Baselines are popularity, co-visitation of counts alone (it knows no text) and co-visitation with text likeness
    (fitted anew to changed texts); the latter's settings are chosen on the validation period. The warm start is that
    of the first run, where its working folder is still there.

    Args:
        folders: run folders of one data set; several are also ranked as one ensemble.
        data: the data set's folder; by default the one beside the first run.
        limit: rank a uniform sample of this many events.
        k: length of the lists.
        beams: width of the beam search, at least k.
        seed: run seed of perturbations, samples and ties.
        json_file: the figures are also written here.

    Raises:
        DataError: no data set.
        RequestError: runs of other items than the data set's.
    """
    alike = len({folder.name for folder in folders}) < len(folders)
    bundles = {str(folder) if alike else folder.name: read_bundle(folder) for folder in folders}
    place = data or default_data(folders[0])
    if place is None:
        raise DataError(f"{folders[0]}.work holds no data set; give its folder with --data.")
    dataset, config = Dataset.load(place), RunConfig.read(folders[0] / "config.yaml")
    for name, bundle in bundles.items():
        if list(dataset.items["item_id"]) != list(bundle.policy.catalogue.item_ids):
            raise RequestError(f"The items of {place} are not those of {name}; give the run's data set with --data.")
    split = make_split(dataset, config.data.split, config.data.valid_fraction, config.data.test_fraction)
    run_data = RunData(dataset, split)
    rows = targets(config, run_data, "test", limit)
    warm = _warm_start(folders[0], config, run_data)
    systems = _baselines(config, run_data, seed)
    systems |= {} if warm is None else {"SFT": Policy(warm, max(beams, k))}
    systems |= _policies(bundles, max(beams, k))
    perturbations = standard_perturbations(dataset.manifest.domain, seed)
    found = robustness_table(
        systems, rows, dataset, perturbations, k=k, samples=config.evaluation.bootstrap, seed=seed
    )
    return report(found, dataset, {"events": len(rows), "seed": seed, "beams": max(beams, k)}, json_file)


def report(found: Robustness, dataset: Dataset, facts: Mapping[str, Any], json_file: Path | None) -> dict[str, Any]:
    """Prints the tables and gives the figures with the data's hash, the machine and `facts`; writes them, too."""
    for table in found.tables.values():
        results().print(table.to_rich())
    results().print(relative_table(found))
    figures = found.to_json() | {
        **facts,
        "data_hash": dataset.manifest.content_hash,
        "machine": machine_facts(),
        "versions": package_versions(),
    }
    if json_file is not None:
        write_json(json_file, figures)
    return figures


def relative_table(found: Robustness) -> Table:
    """The relative change of the main metric: perturbations by systems."""
    title = f"Relative change of {found.metric} (95% interval, paired by event, clustered by user)"
    table = Table(title=title, title_justify="left")
    table.add_column("perturbation")
    for name in found.tables:
        table.add_column(name, justify="right")
    for row in next(iter(found.tables.values())).systems:
        if row != CLEAN:
            cells = [found.relative[name].get(row) for name in found.tables]
            texts = ["–" if c is None else f"{c.mean:+.1%} ({c.low:+.1%} to {c.high:+.1%})" for c in cells]
            table.add_row(row, *(text.replace("-", "−") for text in texts))
    return table


def _baselines(config: RunConfig, data: RunData, seed: int) -> dict[str, Ranker]:
    dataset, train = data.dataset, data.split.train
    valid = targets(config, data, "valid", config.gate.events)
    chosen = baseline("covisitation").chosen(dataset, train, valid, seed=seed)
    settings = None if chosen is None else chosen.settings
    return {
        "popularity": Popularity(seed=seed).fit(dataset, train),
        "covisitation, counts": Covisitation(COUNTS_ONLY, seed=seed).fit(dataset, train),
        "covisitation": Refitted(lambda d: Covisitation(settings, seed=seed).fit(d, train), dataset),
    }


def _warm_start(folder: Path, config: RunConfig, data: RunData) -> LanguagePolicy | None:
    stage = folder.with_name(f"{folder.name}.work") / "sft"
    if not (stage / DONE).is_file():
        return None
    base = Base(config.model.name, config.model.revision, nano=config.model.name == NANO)
    return sft_policy(config, data, SFTStage(stage, base, []))


def _policies(bundles: dict[str, Bundle], beams: int) -> dict[str, Ranker]:
    policies: dict[str, Ranker] = {name: Policy(bundle.policy, beams) for name, bundle in bundles.items()}
    if len(bundles) > 1:
        policies["ensemble"] = Mixture.ensemble([bundle.policy for bundle in bundles.values()])
    return policies
