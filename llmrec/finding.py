"""Where a run and its data set are: a folder or a Hub repository, what the run was made from and what it obeys."""

from __future__ import annotations

import difflib
from pathlib import Path

from llmrec.config_tree import read_yaml
from llmrec.dataset.store import MANIFEST
from llmrec.errors import ConfigError, RunError
from llmrec.export import CARD, read_facts
from llmrec.files import read_json
from llmrec.rules import Rule, parse_rules
from llmrec.storage import work_folder


def run_folder(model: str | Path, *, revision: str | None = None) -> Path:
    """The run folder `model`, or that of the Hub repository USER/NAME, downloaded to the Hub's cache.

    Raises:
        RunError: neither a folder nor a Hub id, or the repository cannot be read.
    """
    folder = Path(model).expanduser()
    if folder.exists():
        return folder
    near = _near(folder)
    hub = str(model).count("/") == 1 and not str(model).startswith((".", "~", "/"))
    if not hub or (near and revision is None):
        mend = f"did you mean {near[0]}?" if near else f"give a run folder (with {CARD}) or a Hub id USER/NAME."
        more = " For a Hub repository of that name give --revision main." if hub else ""
        raise RunError(f"{model} does not exist; {mend}{more}")
    from llmrec.hub import fetch_run

    try:
        return fetch_run(str(model), revision=revision)
    except RunError as error:
        raise RunError(f"There is no folder {model} here, so it was looked up on the Hub. {error}") from None


def _near(folder: Path) -> list[Path]:
    """Run folders with a name like that of `folder`, beside it or under runs/, the likeliest first."""
    places = (folder.parent, Path("runs")) if len(folder.parts) == 1 else (folder.parent,)
    there = {
        place.name: place
        for parent in reversed(places)
        if parent.is_dir()
        for place in sorted(parent.iterdir())[:1000]
        if (place / CARD).is_file()
    }
    return [there[name] for name in difflib.get_close_matches(folder.name, list(there), n=1)]


def default_data(folder: Path) -> Path | None:
    """The data set of the run in `folder`, if it is still there: in its working folder, or where it was read from.

    What lies where the run read it is taken only if it has the contents that the run folder names.
    """
    data = work_folder(folder) / "data"
    kept = next((place for place in (data / "dataset", data / "world" / "dataset") if place.is_dir()), None)
    return kept or _source(folder)


def _source(folder: Path) -> Path | None:
    """The saved data set (`--dataset folder`) that the run was made from, unchanged."""
    recorded = recorded_source(folder)
    if recorded is None:
        return None
    wanted = read_facts(folder).get("dataset", {}).get("content_hash")
    for place in (recorded, folder.parent / recorded):
        try:
            if (place / MANIFEST).is_file() and read_json(place / MANIFEST).get("content_hash") == wanted:
                return place
        except (RunError, OSError, AttributeError):
            continue
    return None


def recorded_source(folder: Path) -> Path | None:
    """The source that a run on a saved data set names in its configuration."""
    if not (folder / "config.yaml").is_file():
        return None
    data = read_yaml(folder / "config.yaml").get("data")
    if not isinstance(data, dict) or data.get("dataset") != "folder" or not isinstance(data.get("source"), str):
        return None
    return Path(data["source"])


def rules_of(folder: Path) -> tuple[Rule, ...]:
    """The rules of a run's configuration.

    Raises:
        ConfigError: rules that cannot be read.
    """
    path = folder / "config.yaml"
    given = read_yaml(path).get("rules", []) if path.is_file() else []
    if not isinstance(given, list):
        raise ConfigError(f"Key 'rules' of {path} must hold a list of rules (docs/rules.md).")
    return parse_rules(given, str(path))
