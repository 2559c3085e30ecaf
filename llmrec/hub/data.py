"""Data sets on the Hugging Face Hub: the folder that `Dataset.save` wrote and a card, as one commit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, snapshot_download

from llmrec.dataset.store import MANIFEST, Dataset
from llmrec.errors import DataError, RunError
from llmrec.evaluation.table import markdown
from llmrec.hub.client import one_sentence
from llmrec.hub.pushing import INSTEAD, Target
from llmrec.printing import short_line
from llmrec.storage import resolve

TABLES = ("items", "users", "events", "rows")
CARD_NAME = "README.md"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGER = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))

CARD = """---
{header}---

# {name}: users, items and events

A log of {users} users and {items} items with {events} events, in the format of llmrec ({kinds}).

```python
from llmrec.hub import fetch_dataset

dataset = fetch_dataset("USER/NAME")  # this repository; revision="..." for one of its commits
```

On the command line: `llmrec data pull USER/NAME mydata`, then `llmrec run --dataset folder --source mydata`.

## Tables

| table | columns | rows |
|---|---|---:|
{tables}

`time` is in seconds. What stands for a click: `{click}`; for a conversion: `{conversion}`. {proxy} Items
of the history may {repeat}be recommended again.

## Where it is from

- Source: {source}
- Terms: {terms}
- Content hash of all values: `{hash}`; it is checked when the data set is read.

## Limits

**These are rows of persons**, under the ids that the log has. Whoever may read this repository may read what each of
them did.
A log shows what was shown: what nobody was offered, nobody chose.
"""


def push_dataset(
    folder: Path,
    repository: str,
    *,
    public: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    collection: str | None = None,
) -> str:
    """Uploads a data set with a card as one commit and returns the commit's address.

    Args:
        folder: of a data set (`llmrec data import`); it is read whole and checked first.
        repository: USER/NAME; made (private unless `public`) if it does not exist.
        public: make a new repository public, and with it what every user did. One that exists keeps its visibility.
        revision: branch to commit to; made from main if it does not exist.
        create_pr: open a pull request with the commit instead.
        collection: a collection that it is put into (see `add_to_collection`).

    Raises:
        DataError: not a data set, or a broken one.
        RunError: as `push_run`.
    """
    target = Target(repository, "dataset", public, revision, create_pr, collection)
    folder = resolve(folder)
    dataset = Dataset.load(folder)
    names = [MANIFEST, *(f"{table}.parquet" for table in TABLES if (folder / f"{table}.parquet").is_file())]
    adds = [CommitOperationAdd(name, str(folder / name)) for name in names]
    adds.append(CommitOperationAdd(CARD_NAME, data_card(dataset).encode()))
    message = f"llmrec data set {short_line(dataset.manifest.name)}"

    def commit(api: HfApi) -> CommitInfo:
        return api.create_commit(
            repository, adds, repo_type="dataset", commit_message=message, revision=revision, create_pr=create_pr
        )

    return target.push(commit)


def fetch_dataset(repository: str, *, revision: str | None = None) -> Dataset:
    """Downloads a data set (into the Hub's cache), checks it, and returns it.

    Its manifest says in `hub` which commit of which repository it is, so that the card of a run on it can name it.

    Args:
        repository: USER/NAME.
        revision: branch, tag or commit; main by default.

    Raises:
        RunError: no such repository or revision for this login.
        DataError: it is not a data set of llmrec, or a broken one.
    """
    names = [MANIFEST, *(f"{table}.parquet" for table in TABLES)]
    with one_sentence(repository, revision, instead=INSTEAD["dataset"]):
        folder = Path(snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=names))
    if not (folder / MANIFEST).is_file():
        raise DataError(f"The Hub data set {repository} is not one of llmrec ({MANIFEST} is missing).")
    dataset = Dataset.load(folder)
    dataset.manifest = dataclasses.replace(dataset.manifest, hub=f"{repository}@{folder.name}")
    return dataset


def pull_dataset(repository: str, out: Path, *, revision: str | None = None) -> Dataset:
    """`fetch_dataset` into the new folder `out`, which is there whole or not at all.

    Raises:
        RunError: `out` is there already, or as `fetch_dataset`.
        DataError: as `fetch_dataset`.
    """
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise RunError(f"{out} exists; name a new folder.")
    dataset = fetch_dataset(repository, revision=revision)
    dataset.save(out)
    return dataset


def data_card(dataset: Dataset) -> str:
    """README.md of a data set's repository, with the Hub's metadata; all that others wrote is harmless in it."""
    manifest = dataset.manifest
    tables = {table: frame for table in TABLES if (frame := getattr(dataset, table)) is not None}
    events = dataset.events.height
    header: dict[str, Any] = {
        "pretty_name": short_line(manifest.name),
        "language": [manifest.language],
        "tags": ["recommender-system", "implicit-feedback", manifest.domain, "llmrec"],
        "size_categories": [next((name for limit, name in (*_SIZES, *_LARGER) if events < limit), "n>1B")],
        "configs": [{"config_name": table, "data_files": f"{table}.parquet"} for table in tables],
    }
    kinds = {kind: manifest.counts.get(kind, 0) for kind in ("impression", "click", "cart", "conversion", "rating")}
    return CARD.format(
        header=yaml.safe_dump(header, sort_keys=False, allow_unicode=True),
        name=markdown(manifest.name),
        users=f"{dataset.users.height:,}",
        items=f"{dataset.n_items:,}",
        events=f"{events:,}",
        kinds=", ".join(f"{count:,} of kind {kind}" for kind, count in kinds.items() if count),
        tables="\n".join(
            f"| `{table}.parquet` | {', '.join(f'`{column}`' for column in frame.columns)} | {frame.height:,} |"
            for table, frame in tables.items()
        ),
        click=manifest.click,
        conversion=manifest.conversion,
        proxy=markdown(manifest.proxy),
        repeat="" if manifest.repeat == "allow" else "not ",
        source=markdown(manifest.source) or "not said",
        terms=markdown(manifest.terms) or "not said",
        hash=manifest.content_hash,
    )
