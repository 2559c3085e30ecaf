"""Collections of the Hub: runs and data sets that belong together, under one title.

A library of adapters (docs/adaptation.md) is a collection of runs on one base model.
"""

from __future__ import annotations

from typing import Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from llmrec.errors import RunError
from llmrec.hub.client import one_sentence
from llmrec.printing import short_line


def add_to_collection(
    collection: str, repository: str, *, kind: Literal["model", "dataset"], private: bool = True, pushed: str = ""
) -> str:
    """Puts a repository into a collection, once, and returns the collection's name on the Hub (its slug).

    Args:
        collection: OWNER/NAME-ID, as the collection's address ends; or a title, under which one of your own is made
            if there is none.
        repository: USER/NAME.
        kind: of the repository.
        private: of a collection that is made.
        pushed: address of the commit that has just been made, so that a refusal says that it stands.

    Raises:
        RunError: no such collection, no right to write to it, or the Hub cannot be reached.
    """
    if not collection.strip():
        raise RunError("The collection has no name; give OWNER/NAME-ID or a title.")
    api = HfApi()
    try:
        with one_sentence(f"collection {short_line(collection)}", None, instead="a collection later"):
            try:
                slug = collection
                if "/" not in collection:
                    slug = api.create_collection(collection, private=private, exists_ok=True).slug
                api.add_collection_item(slug, item_id=repository, item_type=kind, exists_ok=True)
            except HfHubHTTPError as error:
                if error.response is None or error.response.status_code not in (401, 403, 404):
                    raise
                raise RunError(
                    f"there is no collection {short_line(collection)}, or your Hub login may not write to it; give "
                    "the title of one of your own."
                ) from None
    except RunError as error:
        raise RunError(
            f"{repository} was pushed ({pushed}), but it is not in the collection: {error}" if pushed else str(error)
        ) from None
    return slug
