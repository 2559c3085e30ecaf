"""Users shared out to folds: what cross-fitting and cross-validation draw, in one place."""

from __future__ import annotations

from llmrec.errors import RequestError
from llmrec.seeding import numpy_stream
from llmrec.types import IntArray


def unit_folds(units: int, folds: int, seed: int, *name: object) -> IntArray:
    """The fold of each of so many units (users), drawn evenly by the stream `name`: (U,), values below `folds`.

    Units and not rows: two rows of a user in different folds would let a model see the user whom it is asked about.

    Raises:
        RequestError: fewer than two folds, or fewer units than folds.
    """
    if not 2 <= folds <= units:
        raise RequestError(f"Cross-fitting needs 2 folds or more and a user in each, not {folds} of {units}.")
    found: IntArray = numpy_stream(seed, *name).permutation(units) % folds
    return found
