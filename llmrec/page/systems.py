"""What stands side by side on the page: the warm start, the improved policy, a baseline, and other runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from llmrec.config import RunConfig
from llmrec.dataset.store import Dataset
from llmrec.errors import RequestError, RunError
from llmrec.export import read_bundle
from llmrec.files import read_json
from llmrec.pipeline.opening import open_run
from llmrec.pipeline.result import SFT, label, last_label
from llmrec.printing import short_line
from llmrec.recommender import Recommender, Request
from llmrec.service.fallback import Fallback
from llmrec.storage import work_folder
from llmrec.types import Slate

BASELINE = "co-visitation"
BESIDE, NAMED = "beside", "beside.json"
"""In a Space: the policy that the run did not hand on, and its name."""
Role = Literal["warm start", "improved", "baseline", "other run"]


@dataclass(frozen=True)
class System:
    """One recommender of the page.

    Attributes:
        name: shown above its slate.
        role: what it is of the run.
        recommender: reads requests; its policy answers unless `fallback` does.
        fallback: the baseline.
    """

    name: str
    role: Role
    recommender: Recommender
    fallback: Fallback | None = None

    def slate(self, request: Request, k: int) -> Slate:
        """At most k items for a request, best first.

        Raises:
            RequestError: a filter that leaves nothing.
        """
        if self.fallback is not None:
            items = self.fallback.items(request, k, None)
            return Slate(items, (0.0,) * len(items))
        return self.recommender.slate(request, k, ranker=self.recommender.bundle.policy)

    def reasons(self, request: Request, items: Sequence[int], k: int) -> dict[int, str]:
        """Why each of these items stands in the slate, in a sentence; without what would have to be unknown."""
        ranker = None if self.fallback is None else self.fallback.covisitation
        found = self.recommender.reasons(request, items, k, ranker=ranker, without=False)
        return {item: told.sentence for item, told in found.items()}


@dataclass(frozen=True)
class Loaded:
    """A run with all that the page compares.

    Attributes:
        run: the run folder.
        reader: reads users, profiles and prompts for all systems.
        systems: by name, in the order of the page.
        absent: what could not be put beside it, and why.
    """

    run: Path
    reader: Recommender
    systems: dict[str, System]
    absent: tuple[str, ...] = ()


def load_systems(run: Path, others: Sequence[Path] = (), data: Path | None = None) -> Loaded:
    """Loads a run folder, what it began with or ended with, a baseline where there are events, and other runs.

    Args:
        run: a run folder; its working folder, where it is there, holds the policy that was not handed on.
        others: run folders on the same catalogue.
        data: the data set's folder, by default the run's own.

    Raises:
        RunError: not a run folder, or another run with another catalogue.
        DataError: `data` is not a data set.
    """
    reader = Recommender.load(run, data=data)
    config = RunConfig.read(run / "config.yaml")
    improved = bool(read_json(run / "metrics.json").get("improved"))
    own = label(config.algorithm) if improved else SFT
    found = {own: System(own, "improved" if improved else "warm start", reader)}
    absent: list[str] = []
    beside = _beside(run, config, improved, reader, absent)
    if beside is not None:
        found[beside.name] = beside
    if SFT in found:  # before and after are read from left to right
        found = {SFT: found.pop(SFT), **found}
    if _events(reader) is not None:
        found[BASELINE] = System(BASELINE, "baseline", reader, Fallback(reader, config))
    else:
        absent.append(f"{BASELINE}: there is no data set to count, give --data.")
    for folder in others:
        named = short_line(folder.resolve().name)
        name = named if named not in found else short_line(folder)
        found[name] = System(name, "other run", _other(folder, reader))
    return Loaded(run, reader, found, tuple(absent))


def _events(reader: Recommender) -> Dataset | None:
    data = reader.fitted_data()
    return data if data is not None and data.events.height else None


def _beside(run: Path, config: RunConfig, improved: bool, reader: Recommender, absent: list[str]) -> System | None:
    """The policy that was not handed on: the warm start of an improved run, else the last checkpoint."""
    name = SFT if improved else last_label(config.algorithm)
    role: Role = "warm start" if improved else "improved"
    kept = run.parent / BESIDE
    if (kept / NAMED).is_file():
        return System(str(read_json(kept / NAMED)["name"]), role, Recommender(read_bundle(kept), reader.data))
    if not work_folder(run).is_dir():
        absent.append(f"{name}: the working folder {work_folder(run).name} is not beside the run.")
        return None
    try:
        policy = open_run(run).policy("sft" if improved else "last")
    except RunError as error:
        absent.append(f"{name}: {error}")
        return None
    if policy.catalogue.item_ids != reader.bundle.policy.catalogue.item_ids:
        absent.append(f"{name}: items came and went since the training.")
        return None
    return System(name, role, Recommender(replace(reader.bundle, policy=policy), reader.data))


def _other(folder: Path, reader: Recommender) -> Recommender:
    other = Recommender(read_bundle(folder), reader.data)
    if other.bundle.policy.catalogue.item_ids != reader.bundle.policy.catalogue.item_ids:
        raise RunError(
            f"--other {folder} has other items than {reader.bundle.folder}, so their slates cannot stand side by "
            "side; give a run on the same catalogue."
        )
    return other


def chosen(loaded: Loaded, names: Sequence[str]) -> list[System]:
    """The systems of these names in the page's order.

    Raises:
        RequestError: none, or an unknown name.
    """
    strangers = [name for name in names if name not in loaded.systems]
    if strangers or not names:
        raise RequestError(f"Choose at least one of {', '.join(loaded.systems)}.")
    return [system for name, system in loaded.systems.items() if name in names]
