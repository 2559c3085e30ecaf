"""Where a push goes, and what runs and data sets share of it: a repository, a branch, one commit, a collection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from huggingface_hub import CommitInfo, HfApi

from llmrec.errors import RunError
from llmrec.hub.client import one_sentence
from llmrec.hub.collections import add_to_collection

Kind = Literal["model", "dataset"]
INSTEAD: dict[Kind, str] = {"model": "a run folder", "dataset": "a data set's folder"}
"""What may be given in the place of a repository of each kind."""


@dataclass(frozen=True)
class Target:
    """Where a push goes.

    Attributes:
        repository: USER/NAME; made (private unless `public`) if it does not exist.
        kind: of the repository.
        public: make a new repository public. One that exists keeps its visibility.
        revision: branch to commit to; made from main if it does not exist.
        create_pr: open a pull request with the commit instead.
        collection: a collection that it is put into (see `add_to_collection`).

    Raises:
        RunError: a branch together with a pull request.
    """

    repository: str
    kind: Kind
    public: bool = False
    revision: str | None = None
    create_pr: bool = False
    collection: str | None = None

    def __post_init__(self) -> None:
        if self.create_pr and self.revision is not None:
            raise RunError(
                "A pull request (--create-pr) goes against main, so it takes no branch; leave out --revision "
                f"{self.revision}."
            )

    def push(self, commit: Callable[[HfApi], CommitInfo]) -> str:
        """Makes repository and branch where they are missing, lets `commit` commit, and returns the commit's address.

        Raises:
            RunError: no login, no right to write, or the Hub cannot be reached.
        """
        api, repository, kind = HfApi(), self.repository, self.kind
        with one_sentence(repository, self.revision, instead=INSTEAD[kind]):
            if not (self.create_pr and api.repo_exists(repository, repo_type=kind)):
                api.create_repo(repository, repo_type=kind, private=not self.public, exist_ok=True)
            if self.revision is not None and not self.create_pr:
                api.create_branch(repository, repo_type=kind, branch=self.revision, exist_ok=True)
            made = commit(api)
        address = str(made.pr_url if self.create_pr else made.commit_url)
        if self.collection is not None:
            add_to_collection(self.collection, repository, kind=kind, private=not self.public, pushed=address)
        return address
