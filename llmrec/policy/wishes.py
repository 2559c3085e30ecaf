"""Wishes of a free prompt as a filter over the catalogue."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from llmrec.catalogue.filters import Attributes, Filters
from llmrec.text.wishes import Wish


def wished(
    wishes: Sequence[Wish], attributes: Attributes, given: Filters | None = None, *, hidden: Sequence[int] = ()
) -> Filters | None:
    """The filter that holds all of `wishes` and what the caller asked for; None where the two leave no item.

    Args:
        wishes: what the prompt asks for; all of them together.
        attributes: of the items.
        given: the caller's own filter.
        hidden: item indices that are left out in any case: what leaves only these leaves nothing.
    """
    asked = given or Filters()
    if not wishes:
        return asked
    passes_N = attributes.passes(asked)
    for wish in wishes:
        passes_N = passes_N & attributes.passes(_single(wish))
    open_N = passes_N.copy()
    open_N[list(hidden)] = False
    if not open_N.any():
        return None
    if len(wishes) == 1 and given is None:
        return _single(wishes[0])
    # "eco" and "yoga" together: categories of one filter are alternatives, so what is left is named item by item
    ids = list(attributes.item_index)
    of_these = None if asked.candidates is None else set(asked.candidates)
    left = [n for n in np.flatnonzero(passes_N).tolist() if of_these is None or ids[n] in of_these]
    return dataclasses.replace(asked, candidates=tuple(ids[n] for n in left)) if open_N[left].any() else None


def _single(wish: Wish) -> Filters:
    if wish.kind == "category":
        return Filters(categories=(str(wish.value),))
    if wish.kind == "brand":
        return Filters(brands=(str(wish.value),))
    return Filters(price=(None, wish.most))
