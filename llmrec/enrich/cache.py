"""Drafts by content, one small file each, whole or not there: a run that was killed goes on where it was."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from llmrec.enrich.types import SENTIMENTS, Author, Draft, Opinion, Source
from llmrec.errors import RunError
from llmrec.files import read_json, sha256_of, write_json
from llmrec.storage import resolve

FORMAT = 1


class DraftCache:
    """Drafts in a folder, by the hash of source and author. It holds no id of a person, but what was written of them.

    Args:
        folder: made at the first draft that is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = resolve(folder)

    def key(self, source: Source, author: Author) -> str:
        """The name of a draft: hex SHA-256 of what decides it."""
        return sha256_of(str(FORMAT), source.content_hash, author.key)

    def get(self, source: Source, author: Author) -> Draft | None:
        """The draft that is kept; None where there is none, or a damaged one."""
        place = self._place(self.key(source, author))
        if not place.is_file():
            return None
        # A file that is not what we wrote is written anew: a draft can always be had again.
        with contextlib.suppress(RunError, ValueError, KeyError, TypeError):
            return _draft(read_json(place))
        return None

    def put(self, source: Source, author: Author, draft: Draft) -> None:
        """Keeps a draft; failures are not kept, so they are tried again."""
        if draft.failure:
            return
        tree: dict[str, Any] = {"sentences": list(draft.sentences), "cut": draft.cut}
        if draft.opinion is not None:
            tree["opinion"] = {
                "sentiment": draft.opinion.sentiment,
                "aspects": [list(a) for a in draft.opinion.aspects],
            }
        write_json(self._place(self.key(source, author)), tree)

    def _place(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _draft(tree: Any) -> Draft:
    sentences = tuple(tree["sentences"])
    if not all(isinstance(sentence, str) for sentence in sentences):
        raise TypeError("sentences must be text")
    opinion = None
    if "opinion" in tree:
        sentiment, aspects = tree["opinion"]["sentiment"], tree["opinion"]["aspects"]
        if sentiment not in SENTIMENTS:
            raise ValueError("unknown sentiment")
        opinion = Opinion(sentiment, tuple((str(name), str(side)) for name, side in aspects))
    return Draft(sentences, bool(tree["cut"]), opinion)
