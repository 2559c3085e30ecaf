"""Run folders on the Hugging Face Hub: one commit up, one snapshot down. Safetensors only; nothing is unpickled.

The Hub's address and token are huggingface_hub's own (HF_ENDPOINT, HF_TOKEN, `hf auth login`).
"""

from __future__ import annotations

import glob
import warnings
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi, snapshot_download

from llmrec.errors import RunError
from llmrec.files import entries, read_json
from llmrec.hub.client import one_sentence
from llmrec.hub.pushing import Target
from llmrec.printing import one_line, short_line
from llmrec.progress import console
from llmrec.storage import resolve
from llmrec.written import check_written, forgotten_of, handed_on

# What a run folder holds (see export.py); whatever else a person left in it stays at home.
FILES = [
    "llmrec.json",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "*.safetensors",
    "decoder.onnx",
    "decoder.onnx.data",
    "model.gguf",
    "items.parquet",
    "config.yaml",
    "README.md",
    "report.md",
    "report.html",
    "catalogue/*",
    "identifiers/*",
    "prompts/*",
    "figures/*",
]
NEVER = ["*.pt", "*.bin", "*.pkl", "*.pickle", "*.ckpt", ".*", "*/.*", "events.parquet", "users.parquet"]


def push_run(
    folder: Path,
    repository: str,
    *,
    public: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    with_forgotten: bool = False,
    collection: str | None = None,
) -> str:
    """Uploads the run folder as one commit and returns the commit's address.

    Args:
        folder: a finished run folder.
        repository: USER/NAME; made (private unless `public`) if it does not exist.
        public: make a new repository public. One that exists keeps its visibility.
        revision: branch to commit to; made from main if it does not exist.
        create_pr: open a pull request with the commit instead.
        with_forgotten: hand on a run that was trained on users who have been forgotten since.
        collection: a collection that it is put into (see `add_to_collection`).

    Raises:
        RunError: not a run folder, one that was trained on forgotten users,
            a branch together with a pull request, no login, no right to write, or the Hub
            cannot be reached.
    """
    target = Target(repository, "model", public, revision, create_pr, collection)
    if not (folder / "llmrec.json").is_file():
        raise RunError(
            f"{folder} is not a run folder (llmrec.json is missing); give a folder that `llmrec run` made."
        )
    folder = resolve(folder)
    facts, names = read_json(folder / "llmrec.json"), handed_on(folder)
    check_written(folder)
    if (lost := forgotten_of(folder)) and not with_forgotten:
        raise RunError(
            f"{folder} was trained on {lost:,} users who have been forgotten since; make it anew by its own "
            "command with --force, or push it all the same with --with-forgotten."
        )
    kept = sorted({name.split("/")[0] for name in entries(folder)} - {name.split("/")[0] for name in names})
    if kept:
        console.print(f"Not sent, as llmrec did not write it: {one_line(', '.join(kept), 200)}.", style="dim")

    def commit(api: HfApi) -> CommitInfo:
        with warnings.catch_warnings():
            # a catalogue is a data file, and belongs to the model
            warnings.filterwarnings("ignore", message=".*data file.*to a model repository", category=UserWarning)
            return api.upload_folder(
                repo_id=repository,
                folder_path=str(folder),
                commit_message=f"llmrec run on {_name_of(facts)}",
                revision=revision,
                create_pr=create_pr,
                allow_patterns=[glob.escape(name) for name in names],
                ignore_patterns=NEVER,
            )

    return target.push(commit)


def _name_of(facts: Any) -> str:
    """The data set's name in llmrec.json; it is somebody's text."""
    dataset = facts.get("dataset") if isinstance(facts, dict) else None
    return short_line(dataset.get("name", "data") if isinstance(dataset, dict) else "data")


def fetch_run(repository: str, *, revision: str | None = None) -> Path:
    """Downloads a run folder (into the Hub's cache) and returns its place.

    Raises:
        RunError: no such repository or revision for this login, or it is not an llmrec run.
    """
    with one_sentence(repository, revision):
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=FILES, ignore_patterns=NEVER))
    if not (folder / "llmrec.json").is_file():
        raise RunError(f"The Hub repository {repository} is not an llmrec run (llmrec.json is missing).")
    return folder
