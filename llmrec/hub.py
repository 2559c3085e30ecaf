"""Run folders on the Hugging Face Hub: one commit up, one snapshot down. Safetensors only; nothing is unpickled.

The Hub's address and token are huggingface_hub's own (HF_ENDPOINT, HF_TOKEN, `hf auth login`).
"""

from __future__ import annotations

import contextlib
import errno
import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from llmrec.errors import LLMRecError, RunError
from llmrec.files import entries, read_json
from llmrec.printing import one_line, short_line
from llmrec.progress import console
from llmrec.storage import resolve
from llmrec.written import check_written, forgotten_of, handed_on

_OFFLINE = "HF_HUB_OFFLINE is set and {} is not in the Hub's cache here; unset it, or give a run folder."
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]  # of the HTTP client that huggingface_hub happens to use

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
) -> str:
    """Uploads the run folder as one commit and returns the commit's address.

    Args:
        folder: a finished run folder.
        repository: USER/NAME; made (private unless `public`) if it does not exist.
        public: make a new repository public. One that exists keeps its visibility.
        revision: branch to commit to; made from main if it does not exist.
        create_pr: open a pull request with the commit instead.
        with_forgotten: hand on a run that was trained on users who have been forgotten since.

    Raises:
        RunError: not a run folder, one that was trained on forgotten users,
            a branch together with a pull request, no login, no right to write, or the Hub
            cannot be reached.
    """
    if create_pr and revision is not None:
        raise RunError(
            f"A pull request (--create-pr) goes against main, so it takes no branch; leave out --revision {revision}."
        )
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
    api = HfApi()
    with _one_sentence(repository, revision):
        if not (create_pr and api.repo_exists(repository)):
            api.create_repo(repository, private=not public, exist_ok=True)
        if revision is not None and not create_pr:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            commit_message=f"llmrec run on {_name_of(facts)}",
            revision=revision,
            create_pr=create_pr,
            allow_patterns=[glob.escape(name) for name in names],
            ignore_patterns=NEVER,
        )
    return str(commit.pr_url if create_pr else commit.commit_url)


def _name_of(facts: Any) -> str:
    """The data set's name in llmrec.json; it is somebody's text."""
    dataset = facts.get("dataset") if isinstance(facts, dict) else None
    return short_line(dataset.get("name", "data") if isinstance(dataset, dict) else "data")


def fetch_run(repository: str, *, revision: str | None = None) -> Path:
    """Downloads a run folder (into the Hub's cache) and returns its place.

    Raises:
        RunError: no such repository or revision for this login, or it is not an llmrec run.
    """
    with _one_sentence(repository, revision):
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=FILES, ignore_patterns=NEVER))
    if not (folder / "llmrec.json").is_file():
        raise RunError(f"The Hub repository {repository} is not an llmrec run (llmrec.json is missing).")
    return folder


@contextlib.contextmanager
def _one_sentence(repository: str, revision: str | None) -> Iterator[None]:
    """Turns what huggingface_hub raises into one sentence with the mend."""
    try:
        yield
    except HFValidationError as error:
        raise RunError(
            f"{repository!r} is not a Hub id; write it as USER/NAME ({' '.join(str(error).split())})."
        ) from None
    except RevisionNotFoundError:
        raise RunError(f"The Hub repository {repository} has no revision {revision!r}.") from None
    except GatedRepoError:
        raise RunError(
            f"The Hub repository {repository} is gated; ask for access on its page, then try again."
        ) from None
    except (RepositoryNotFoundError, LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE:
            raise RunError(_OFFLINE.format(repository)) from None
        raise RunError(_not_there(repository)) from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 404):
            raise RunError(_not_there(repository)) from None
        if status == 429:
            raise RunError(
                f"The Hub has had too many requests from here and refuses {repository}; try again in some minutes."
            ) from None
        if status == 403:
            raise RunError(
                f"Your Hub login may not write to {repository}; use your own name or --create-pr."
            ) from None
        raise RunError(f"The Hub answered {status} for {repository}; nothing was changed, try again later.") from None
    except LLMRecError:
        raise
    except OfflineModeIsEnabled:
        raise RunError(_OFFLINE.format(repository)) from None
    except (OSError, _HTTP_ERROR) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise  # of the disk here, which the command line tells by itself
        raise RunError(f"The Hub cannot be reached ({one_line(error, 160)}); nothing was changed.") from None
    except Exception as error:  # of the Hub's client: an answer that it cannot read, a transfer that broke off
        raise RunError(
            f"The Hub's client failed on {repository} ({type(error).__name__}: {one_line(error, 160)}); try "
            "again, or update huggingface_hub."
        ) from error


def _not_there(repository: str) -> str:
    return (
        f"The Hub repository {repository} does not exist, or your login may not see it; check the name and log in "
        "with `hf auth login` (or set HF_TOKEN)."
    )
