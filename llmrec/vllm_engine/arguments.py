"""What a request to vLLM says of its item: flat keys of `SamplingParams.extra_args` (`vllm_xargs` over HTTP)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.filters import Filters
from llmrec.errors import RequestError
from llmrec.printing import short_line

ON = "llmrec"
"""The key that makes a request one of the catalogue; all others begin with it."""
CANDIDATES, EXCLUDE, CATEGORIES, BRANDS = (
    f"{ON}_{name}" for name in ("candidates", "exclude", "categories", "brands")
)
LEAST, MOST, WRITTEN = (f"{ON}_{name}" for name in ("min_price", "max_price", "written"))


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that must end in an item.

    Attributes:
        filters: what the item must be.
        written: how many of the prompt's last tokens are the item's first.
    """

    filters: Filters
    written: int = 0


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)


def _is_price(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    ON: (lambda value: value in (True, False, 0, 1), "true or false"),
    **dict.fromkeys((CANDIDATES, EXCLUDE, CATEGORIES, BRANDS), (_are_texts, "a list of texts")),
    **dict.fromkeys((LEAST, MOST), (_is_price, "a finite number")),
    WRITTEN: (_is_count, "a whole number of at least 0"),
}


def read_arguments(extra: Mapping[str, Any] | None) -> Asked | None:
    """What `extra_args` of a request asks for; None where it has nothing to do with the catalogue.

    Raises:
        RequestError: a key of ours that is unknown or of a wrong kind, or one without "llmrec": true.
    """
    own = {key: value for key, value in (extra or {}).items() if key == ON or key.startswith(f"{ON}_")}
    for key, value in own.items():
        if key not in _KINDS:
            raise RequestError(f"extra_args has the key {short_line(key)!r}; there are {', '.join(_KINDS)}.")
        fits, kind = _KINDS[key]
        if not fits(value):
            raise RequestError(f"Key {key!r} of extra_args must be {kind}.")
    if not own.get(ON):
        if len(own) > (ON in own):
            raise RequestError(f"Keys of extra_args that begin with {ON}_ need {ON!r}: true beside them.")
        return None
    low, high = own.get(LEAST), own.get(MOST)
    if low is not None and high is not None and low > high:
        raise RequestError(f"{LEAST} {low:g} is above {MOST} {high:g}; give the lower bound first.")
    filters = Filters(
        tuple(own.get(CATEGORIES, ())),
        tuple(own.get(BRANDS, ())),
        (low, high),
        candidates=tuple(own[CANDIDATES]) if CANDIDATES in own else None,
        exclude=tuple(own.get(EXCLUDE, ())),
    )
    return Asked(filters, int(own.get(WRITTEN, 0)))


def sampling_arguments(catalogue: Catalogue, filters: Filters | None = None) -> dict[str, Any]:
    """Arguments of `vllm.SamplingParams` that draw one item from pi_F: `SamplingParams(**sampling_arguments(...))`.

    `seed`, `n` and `logprobs` may be added; another temperature draws from pi at that temperature.

    Args:
        catalogue: of the run.
        filters: what the item must be; F.

    Raises:
        RequestError: a filter that rows of an engine cannot obey: stock, named groups and bounds on a slate.
    """
    asked = filters or Filters()
    if asked.in_stock or asked.without or asked.within or asked.bounds_slate:
        raise RequestError(
            f"vLLM's rows cannot obey the filter ({asked}): stock, groups and bounds on a slate are not told to it; "
            "give the items that are left as candidates."
        )
    low, high = asked.price
    told: dict[str, Any] = {
        CATEGORIES: list(asked.categories),
        BRANDS: list(asked.brands),
        EXCLUDE: list(asked.exclude),
        LEAST: low,
        MOST: high,
    }
    extra = {ON: True, **{key: value for key, value in told.items() if value not in (None, [])}}
    extra |= {} if asked.candidates is None else {CANDIDATES: list(asked.candidates)}
    return {
        "max_tokens": int(catalogue.lengths_N.max()),
        "temperature": 1.0,
        "top_p": 1.0,
        "min_p": 0.0,
        "stop_token_ids": [catalogue.end_token],
        "extra_args": extra,
    }
