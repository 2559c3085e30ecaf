"""The study: every people of every shop, resuming what is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmrec.config import RunConfig
from llmrec.config_tree import Overrides
from llmrec.errors import RequestError
from llmrec.files import read_json, write_json
from llmrec.pipeline.recipes import recipes_root
from llmrec.pipeline.work import Work
from llmrec.progress import Bar
from llmrec.studies.gate_error.bench import GAINS, Bench, ask
from llmrec.studies.gate_error.shop import Shop
from llmrec.studies.gate_error.telling import answer_of
from llmrec.studies.gate_error.trainings import CHECKPOINTS, PATHS
from llmrec.studies.study import SeedRows, Study

PEOPLES = 8


def run_gate_error(
    seeds: Sequence[int],
    out: Path,
    overrides: Overrides | None = None,
    *,
    peoples: int = PEOPLES,
    power_peoples: int = 1,
    json_file: Path | None = None,
) -> dict[str, Any]:
    """Asks every people of every shop (resuming what is there), prints the tables and returns their figures."""
    if peoples < 1:
        raise RequestError("The gate's errors need a people to judge; give --peoples 1 or more.")

    def measure(seed: int) -> SeedRows:
        config = RunConfig.read(recipes_root() / "gate_error.yaml", {"seed": seed, **(overrides or {})})
        work = Work(out / f"shop-{seed}")

        def build(folder: Path, _: Path) -> None:
            shop = Shop.of(config, peoples)
            answers = []
            with Bar("Peoples at the gate", peoples) as bar:
                for number in range(1, peoples + 1):
                    answers.append(ask(Bench.of(shop, number), number, number <= power_peoples))
                    bar.advance()
            hashed = shop.world.dataset.manifest.content_hash
            write_json(folder / "answers.json", {"hash": hashed, "peoples": answers})

        key = {"config": config.tree(), "peoples": [peoples, power_peoples], "asked": [GAINS, CHECKPOINTS, PATHS]}
        found = read_json(work.stage("answers", key, build) / "answers.json")
        return SeedRows(seed, found["hash"], facts={"peoples": found["peoples"]})

    return Study(seeds, measure, answer_of, unit="shop").run(out, json_file)
