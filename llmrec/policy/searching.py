"""How a policy, or a mixture with one, is searched: the options that both take and hand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from llmrec.types import IntArray


class Search(TypedDict, total=False):
    """Options of a search over the catalogue.

    Attributes:
        beams: width of the search; wider is slower and never worse on the whole.
        exclude_seen: leave out seen items; by default as the data set's rule about repeats says.
        seen: all items each user has seen, beside those in the state.
        batch_size: states decoded at once; by default what suits the device (of a mixture 64).
    """

    beams: int | None
    exclude_seen: bool | None
    seen: Sequence[IntArray] | None
    batch_size: int | None


def require_options(options: Mapping[str, object]) -> None:
    """Refuses what is no option of a search, as Python refuses an unknown argument.

    Raises:
        TypeError: there is one.
    """
    unknown = options.keys() - Search.__annotations__.keys()
    if unknown:
        raise TypeError(
            f"There is no option {min(unknown)!r} of a search; give some of {', '.join(Search.__annotations__)}."
        )
