"""The examination of simulators, side by side: yardsticks, reward and judge as a run fits them, and on everybody.

A cell is one row of one data set under one seed, asked once and kept. Reward and judge share no users in a run, and
users who are met at gate and test are in neither: each learns from a part of the log. "everybody" is the reward's
kind of model on all training users, which is what co-visitation learns from. Settings are chosen on the validation
period (co-visitation's, and the blend's weights), everything is fitted on the training period.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.baselines.registry import baseline
from llmrec.config import RunConfig
from llmrec.dataset.examples import examples
from llmrec.dataset.importers import import_dataset
from llmrec.dataset.split import Part, make_split
from llmrec.errors import ConfigError, DataError
from llmrec.evaluation.exam import Questions, answers, marks
from llmrec.evaluation.significance import paired_bootstrap
from llmrec.files import read_json, sha256_of, write_json
from llmrec.pipeline.data import RunData, open_data
from llmrec.pipeline.exam import informed_shares
from llmrec.pipeline.recipes import recipe_for
from llmrec.pipeline.simulation import log_of, simulator_stage
from llmrec.pipeline.work import Work
from llmrec.progress import Bar, console
from llmrec.simulator.ensemble import Predictor, fit_ensemble
from llmrec.simulator.metrics import fit_report
from llmrec.studies.answer import Answer, Sheet, forest, signed
from llmrec.studies.simulators import SOURCES
from llmrec.types import IntArray, Prediction, State

VERSION = 1
WORLD = "world"
YARDSTICKS = ("popularity", "covisitation", "gru4rec")
VARIANTS: dict[str, dict[str, Any]] = {
    "before": {},
    "now": {"simulator.blend": True, "simulator.unshown": "catalogue"},
}
"""Settings of a log without impressions."""
EVERYBODY = ", everybody"
ROWS = (*YARDSTICKS, *VARIANTS, *(name + EVERYBODY for name in VARIANTS))


class Scored:
    """A recommender's scores in the place of P(click): in their order, between 0 and 1, and no probabilities."""

    def __init__(self, ranker: Any) -> None:
        self.ranker = ranker

    def predict_all(self, states: Sequence[State]) -> Prediction:
        """Scores of every item, (B, N)."""
        score_BN = np.asarray(self.ranker.score(states), dtype=np.float64)
        return Prediction(0.5 + np.arctan(score_BN) / np.pi, np.zeros_like(score_BN))

    def predict(self, states: Sequence[State], items_BK: IntArray) -> Prediction:
        """Scores of the items `items_BK`."""
        found = np.take_along_axis(self.predict_all(states).click_BK, np.asarray(items_BK).clip(min=0), axis=1)
        return Prediction(found, np.zeros_like(found))


@dataclasses.dataclass(frozen=True)
class Examination:
    """One data set under one seed.

    Attributes:
        name: of `simulators.SOURCES`, or "world": the demo's.
        seed: of fits and samples, and of the world.
        folder: where cells and fitted simulators are kept.
        part: whose choices are asked about.
        events: how many of them, at most.
        overrides: of the configuration, on top of everything.
    """

    name: str
    seed: int
    folder: Path
    part: Part = "test"
    events: int = 1000
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name != WORLD and self.name not in SOURCES:
            raise ConfigError(f"Data set {self.name!r} is unknown; choose of {', '.join((*SOURCES, WORLD))}.")

    def rows(self, asked: Sequence[str]) -> list[str]:
        """Those of `asked` that there are: a world logs what it shows, so nothing of it depends on the variant."""
        unknown = sorted(set(asked) - set(ROWS))
        if unknown:
            raise ConfigError(f"Row {unknown[0]!r} is unknown; choose of {', '.join(ROWS)}.")
        return [row for row in asked if self.name != WORLD or row in (*YARDSTICKS, "now")]

    def config(self, variant: str) -> RunConfig:
        """The demo's configuration for the world, a run's defaults for a log."""
        if self.name == WORLD:
            return RunConfig.read(recipe_for("demo"), {"seed": self.seed, **self.overrides})
        return RunConfig.read(None, {"seed": self.seed, **VARIANTS[variant], **self.overrides})

    def data(self) -> RunData:
        """Data set and split; for a world its truth too."""
        config = self.config("before")
        if self.name == WORLD:
            return open_data(config, Work(self.folder / f"{WORLD}-{self.seed}"))
        source = SOURCES[self.name]
        path = Path(os.environ.get("LLMREC_DATA", "data")) / source.folder
        if not path.is_dir():
            raise DataError(f"{path} does not exist; set LLMREC_DATA to the folder that holds {self.name}.")
        dataset = import_dataset(source.kind, path, **dict(source.options))
        return RunData(dataset, make_split(dataset, source.split))

    def cell(self, row: str, data: RunData) -> dict[str, Any]:
        """What was found of one row, by the name of each simulator in it; from its file if that is of these settings.

        "ndcg_E" are the NDCG@10 of each choice, "users_E" whose they are.
        """
        path = self.folder / f"exam-{self.name}-{self.seed}-{row.replace(', ', '-')}-{self.part}.json"
        variant = row.removesuffix(EVERYBODY)
        config = self.config(variant if variant in VARIANTS else "before")
        told = [VERSION, data.dataset.manifest.content_hash, row, self.part, self.events, config.tree()]
        key = sha256_of(repr(told))
        if path.is_file():
            kept: dict[str, Any] = read_json(path)
            if kept.get("key") == key:
                return kept
        models, fits, facts = self._models(row, config, data)
        asked = examples(
            data.dataset,
            data.split,
            self.part,
            history_events=config.data.history_events,
            limit=self.events,
            seed=self.seed,
        )
        questions = Questions.of(data.dataset, data.split.train, asked, seed=self.seed)
        shares = informed_shares(config, data, models)
        found = {}
        for name, model in models.items():
            said = answers(model, questions)
            figures = marks(said, questions, {}, name=name, samples=config.evaluation.bootstrap)
            figures |= {"ndcg_E": said.ndcg_E.tolist(), "click": fits.get(name)}
            found[name] = figures | ({"informed_share": asdict(shares[name])} if name in shares else {})
        whole = {"key": key, "row": row, "users_E": questions.users, "found": found, "facts": facts}
        whole["content_hash"] = data.dataset.manifest.content_hash
        write_json(path, whole)
        return whole

    def _models(
        self, row: str, config: RunConfig, data: RunData
    ) -> tuple[dict[str, Predictor], dict[str, Any], dict[str, Any]]:
        """The simulators of a row, their fit of clicks on the test period, and what is told of them."""
        if row in YARDSTICKS:
            spec = baseline(row)
            # the settings of a network are the default ones: choosing them takes many trainings
            tuned = None if spec.random else self._valid(data)
            ranker = spec.fitted(data.dataset, data.split.train, tuned, seed=self.seed)
            return {row: Scored(ranker)}, {}, {"settings": str(getattr(ranker, "settings", ""))}
        train, valid, test = (log_of(config, data, part) for part in ("train", "valid", "test"))
        if row.endswith(EVERYBODY):
            settings = config.simulator
            model = fit_ensemble(
                data.dataset,
                train,
                architecture=settings.reward_architecture,
                seed=self.seed,
                settings=settings,
                valid=valid,
            )
            fit = fit_report(model, test, train=train, seed=self.seed)["click"]
            return {row: model}, {row: fit}, {"members": model.facts["members"]}
        work = Work(self.folder / f"{self.name}-{self.seed}-{row}")
        made = simulator_stage(config, data, work)
        models: dict[str, Predictor] = {f"reward {row}": made.reward, f"judge {row}": made.judge}
        fits = {f"{name} {row}": made.fit[name]["click"] for name in ("reward", "judge")}
        return models, fits, {"members": made.reward.facts["members"], "judge": made.judge.facts}

    def _valid(self, data: RunData) -> Any:
        return examples(data.dataset, data.split, "valid", limit=self.events, seed=self.seed)


def run_exam(
    out: Path,
    names: Sequence[str],
    rows: Sequence[str] | None,
    seeds: Sequence[int],
    *,
    json_file: Path | None = None,
    part: Part = "test",
    events: int = 1000,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Asks what is not in `out` yet, prints the tables and returns their figures."""
    asked = [Examination(name, seed, out, part, events, overrides or {}) for name in names for seed in seeds]
    cells: dict[str, list[dict[str, Any]]] = {}
    wanted = list(ROWS if rows is None else rows)
    with Bar("Cells (data set, row)", sum(len(one.rows(wanted)) for one in asked), every_s=5.0) as bar:
        for one in asked:
            console.print(f"{one.name} {one.seed}", style="bold")
            data = one.data()
            for row in one.rows(wanted):
                cells.setdefault(one.name, []).append(one.cell(row, data) | {"seed": one.seed})
                bar.advance(note=f"{one.name} {row}")
    hashes = {name: sorted({cell["content_hash"] for cell in found}) for name, found in cells.items()}
    answer = exam_answer(cells, part)
    return answer.finish(out, json_file, seeds=list(seeds), dataset_hashes=hashes)


def exam_answer(cells: Mapping[str, Sequence[Mapping[str, Any]]], part: str) -> Answer:
    """A table for each data set, and a plot of NDCG@10 and of the AUC among items of equal popularity."""
    sheets, figures, plots = [], {}, {}
    for name, row_cells in cells.items():
        rows = table_rows(row_cells)
        figures[name] = rows
        sheets.append(_sheet(name, part, rows))
        drawn = {
            row["row"]: {
                "NDCG@10": row["ndcg"],
                **({"AUC, equal popularity": row["auc"]} if row["auc"] else {}),
            }
            for row in rows
            if row["seed"] == rows[0]["seed"]
        }
        plots[f"examination of {name}"] = forest(f"{name}: what simulators know", drawn)
    return Answer("Simulators under examination", {"rows": figures}, sheets, (), plots)


def table_rows(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The figures of each simulator, with the paired difference of its NDCG@10 to co-visitation's."""
    base = {cell["seed"]: cell["found"]["covisitation"]["ndcg_E"] for cell in cells if cell["row"] == "covisitation"}
    rows = []
    for cell in cells:
        for name, found in cell["found"].items():
            row = {key: value for key, value in found.items() if key != "ndcg_E"}
            row |= {"row": name, "seed": cell["seed"], "minus": None}
            if name != "covisitation" and cell["seed"] in base:
                pair = (np.array(found["ndcg_E"]), np.array(base[cell["seed"]]))
                row["minus"] = asdict(paired_bootstrap(*pair, users=cell["users_E"], seed=cell["seed"]))
            rows.append(row)
    return rows


def _sheet(name: str, part: str, rows: Sequence[Mapping[str, Any]]) -> Sheet:
    several = len({row["seed"] for row in rows}) > 1
    known = any("informed_share" in row for row in rows)
    heads = ["simulator", "NDCG@10", "less co-visitation's", "AUC, equal popularity", "another's state"]
    heads += ["calibration error of clicks", "verdict", *(["of the informed headroom"] if known else [])]
    table = []
    for row in rows:
        click = row["click"] or {}
        cells = [
            f"{row['row']} ({row['seed']})" if several else str(row["row"]),
            _within(row["ndcg"]),
            "" if row["minus"] is None else signed(row["minus"]),
            "" if row["auc"] is None else _within(row["auc"], 3),
            "" if row["auc_other"] is None else f"{row['auc_other']['mean']:.3f}",
            "" if "calibration_error" not in click else _calibration(click),
            str(row["verdict"]),
        ]
        table.append(
            [*cells, *([_within(row["informed_share"], 2) if "informed_share" in row else ""] if known else [])]
        )
    note = f"{rows[0]['events']} choices of {rows[0]['users']} users of the {part} period; 95% intervals over users."
    return Sheet(name, heads, table, note)


def _within(found: Mapping[str, Any], digits: int = 4) -> str:
    return f"{found['mean']:.{digits}f} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"


def _calibration(click: Mapping[str, Any]) -> str:
    error, low, high = (click[f"calibration_error{end}"] for end in ("", "_low", "_high"))
    return f"{error:.4f} ({low:.4f} to {high:.4f})"
