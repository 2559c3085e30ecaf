"""How much of a system's ranking is left when what it sees is not as it was in training, and can text be abused?

Every system ranks the same held-out events as they are, and through each perturbation's view of states and item texts
(`views`). Targets, seen items and the items that may be recommended stay the same, so differences are paired by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmrec.baselines import Covisitation, Popularity
from llmrec.baselines.covisitation import COUNTS_ONLY
from llmrec.baselines.registry import baseline
from llmrec.config import RunConfig
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.errors import ConfigError, DataError, RequestError
from llmrec.export import read_bundle
from llmrec.finding import default_data
from llmrec.pipeline.data import RunData
from llmrec.pipeline.opening import open_run, read_config
from llmrec.pipeline.ruled import ruled_facts, ruled_note, run_rules, shown
from llmrec.pipeline.sft import targets
from llmrec.pipeline.systems import Policy
from llmrec.pipeline.work import Unfinished
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Mixture
from llmrec.printing import one_line
from llmrec.progress import console
from llmrec.storage import work_folder
from llmrec.studies.answer import Answer
from llmrec.studies.robustness_table import robustness_table, standard_perturbations
from llmrec.studies.table.perturbed import run_perturbed
from llmrec.studies.table.protocol import protocol_of
from llmrec.studies.views import Refitted
from llmrec.types import Ranker


def measure_robustness(
    run: Sequence[Path],
    *,
    table: Path | None = None,
    data: Path | None = None,
    beams: int | None = None,
    dataset: str | None = None,
    source: Path | None = None,
    only: Sequence[str] | None = None,
    test_events: int | None = None,
    k: int = 10,
    seed: int = 0,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Ranks the test period's events, clean and perturbed, with runs beside baselines, or with the rows of a table.

    Runs stand beside a warm start and three baselines: popularity, co-visitation of counts alone (it knows no text)
    and co-visitation with text likeness (fitted anew to changed texts), whose settings are chosen on the validation
    period. The warm start is that of the first run, where its working folder still holds it, and all lists obey the
    first run's rules.

    Args:
        run: run folders of one data set; several are also ranked as one ensemble.
        table: where eval/table.py made a table, instead of run folders; see `table.perturbed.run_perturbed`.
        data: the data set's folder of runs; by default the one beside the first.
        beams: width of the runs' beam search, at least k; 20 by default.
        dataset: of the table.
        source: of the table.
        only: of the table.
        test_events: rank a uniform sample of this many, 0 for all; by default 500 for runs and all for a table.
        k: length of the lists.
        seed: run seed of perturbations, samples and ties.
        json_file: the figures are also written here.

    Raises:
        ConfigError: options that do not belong together.
        DataError: no data set.
        RequestError: runs of other items than the data set's.
    """
    if bool(run) == (table is not None):
        raise ConfigError("Give run folders or a table's folder as --table, one of the two.")
    if k < 1 or (test_events or 0) < 0:
        raise ConfigError(f"--k is {k} and --test-events {test_events}; give at least 1 and 0.")
    of_runs, of_tables = {"data": data, "beams": beams}, {"dataset": dataset, "source": source, "only": only}
    for name, given in (of_tables if table is None else of_runs).items():
        if given is not None:
            other = "a table (--table)" if table is None else "run folders"
            raise ConfigError(f"--{name} belongs to {other}; leave it out.")
    if table is None:
        limit = 500 if test_events is None else test_events or None
        return _answer_of_runs(run, data, limit, k, max(beams or 20, k), seed).finish(None, json_file)
    if dataset is None:
        raise ConfigError("Give the table's data set as --dataset, as eval/table.py had it.")
    asked: dict[str, Any] = {"source": source, "only": only or (), "limit": test_events or None, "k": k, "seed": seed}
    return run_perturbed(protocol_of(dataset), table, json_file=json_file, **asked)


def _answer_of_runs(
    folders: Sequence[Path], data: Path | None, limit: int | None, k: int, beams: int, seed: int
) -> Answer:
    alike = len({folder.name for folder in folders}) < len(folders)
    bundles = {str(folder) if alike else folder.name: read_bundle(folder) for folder in folders}
    place = data or default_data(folders[0])
    if place is None:
        raise DataError(f"{folders[0]}.work holds no data set; give its folder with --data.")
    dataset, config = Dataset.load(place), read_config(folders[0])
    for name, bundle in bundles.items():
        if list(dataset.items["item_id"]) != list(bundle.policy.catalogue.item_ids):
            raise RequestError(f"The items of {place} are not those of {name}; give the run's data set with --data.")
    split = make_split(dataset, config.data.split, config.data.valid_fraction, config.data.test_fraction)
    run_data = RunData(dataset, split)
    rows = targets(config, run_data, "test", limit)
    warm = _warm_start(folders[0])
    systems = _baselines(config, run_data, seed)
    systems |= {} if warm is None else {"SFT": Policy(warm, beams)}
    systems |= {name: Policy(bundle.policy, beams) for name, bundle in bundles.items()}
    if len(bundles) > 1:
        systems["ensemble"] = Mixture.ensemble([bundle.policy for bundle in bundles.values()])
    rules = run_rules(config, run_data)
    systems = {name: shown(system, rules) for name, system in systems.items()}
    perturbations = standard_perturbations(dataset.manifest.domain, seed)
    found = robustness_table(
        systems, rows, dataset, perturbations, k=k, samples=config.evaluation.bootstrap, seed=seed
    )
    answer = found.answer(dataset, events=len(rows), seed=seed, beams=beams, **ruled_facts(rules))
    return replace(answer, sentences=tuple(filter(None, [ruled_note(rules)])))


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


def _warm_start(folder: Path) -> LanguagePolicy | None:
    """That of the run; None where its working folder is not there, or no longer holds this run."""
    if not work_folder(folder).is_dir():
        return None
    try:
        return open_run(folder).policy("sft")
    except Unfinished as error:
        console.print(f"SFT is left out: {one_line(error)}", style="dim")
        return None
