"""Kinds of events: the words that logs use, and what they are proposed to stand for. Nothing is applied unasked."""

from __future__ import annotations

import dataclasses
import re
import shlex

import polars as pl

from llmrec.dataset.importers.mapping import TableMapping
from llmrec.dataset.importers.reading import Ledger, RawTable
from llmrec.dataset.importers.values import look_like_floats, without_zeros
from llmrec.dataset.schema import show
from llmrec.errors import ConfigError, DataError
from llmrec.types import EVENT_KINDS

_USUAL = {
    "impression": "impression impressions impress imp expose exposure exposed show shown display displayed",
    "click": "click clicks clicked pv view views viewed pageview detail detailpage open read play played watch "
    "watched listen visit fav favorite favourite like liked likes bookmark wishlist wish want save "
    "saved share follow productdetail itemview viewitem",
    "cart": "cart carts carted addtocart atc basket addtobasket addedtocart add",
    "conversion": "buy buys bought purchase purchases purchased transaction transactions order ordered orders "
    "checkout conversion conversions convert converted pay paid payment sale sold subscribe download install",
    "rating": "rating rate rated ratings review reviewed stars score",
    "ignore": "removefromcart remove removed delete deleted unlike dislike unfollow refund return returned cancel "
    "search",
}
USUAL = {word: kind for kind, words in _USUAL.items() for word in words.split()}
"""Usual words for kinds of events, in lower case without marks, and the kind that they are proposed to be."""
_SHOWN = 8
_FEW = 50


def plain_word(text: str) -> str:
    """A word as `USUAL` has it: lower case, letters only."""
    return re.sub(r"[^a-z]", "", text.lower()[:60])


def proposal(words: list[str]) -> str:
    """The options that say what kinds are, for as many of `words` as are usual; YOURS=KIND for the others."""
    return " ".join(f"--kind {shlex.quote(w[:40])}={USUAL.get(plain_word(w), 'KIND')}" for w in words[:_SHOWN])


def read_kinds(raw: RawTable, mapping: TableMapping, ledger: Ledger) -> RawTable:
    """Events with the kinds that the mapping says, without those to be ignored.

    Raises:
        ConfigError: The mapping names a kind that there is not.
        DataError: A kind is not mapped, and bad rows are not skipped.
    """
    for word, kind in mapping.kinds.items():
        if kind not in (*EVENT_KINDS, "ignore"):
            raise ConfigError(
                f"Kind {show(word, 40)} is mapped to {show(kind, 40)}; choose of {', '.join(EVENT_KINDS)} or ignore."
            )
    if "kind" not in raw.frame.columns:
        kind = mapping.default_kind or ("rating" if "value" in raw.frame.columns else "click")
        if kind not in EVENT_KINDS:
            raise ConfigError(f"default_kind is {show(kind, 40)}; choose of {', '.join(EVENT_KINDS)}.")
        ledger.assume(f"{raw.path.name}: no column of kinds, every event is a {kind} (--option default_kind).")
        return _with(raw, pl.repeat(kind, raw.frame.height, dtype=pl.String, eager=True).alias("kind"))
    column = raw.frame["kind"]
    if look_like_floats(column) and not any("." in word for word in mapping.kinds):
        raw = _with(raw, without_zeros(column)[0])
    known: dict[str, str] = {**{kind: kind for kind in EVENT_KINDS}, **mapping.kinds}
    counted = raw.frame["kind"].value_counts(sort=True)
    strange = counted.filter(~pl.col("kind").is_in(list(known)))
    if strange.height:
        raw = raw.drop_bad(
            ~raw.frame["kind"].is_in(list(known)), "an unknown kind", ledger, _unknown(strange, counted.height)
        )
    kinds = raw.frame["kind"].replace_strict(known, return_dtype=pl.String) if raw.frame.height else raw.frame["kind"]
    ignored = kinds == "ignore"
    raw = _with(raw, kinds)
    return raw.leave_out(ignored, "a kind to be ignored", ledger)


def _unknown(strange: pl.DataFrame, distinct: int) -> str:
    """What is wrong with kinds that no mapping names, without place."""
    words = strange["kind"].to_list()
    counts = ", ".join(f"{show(w, 20)} ({n:,})" for w, n in strange.head(_SHOWN).iter_rows())
    if distinct > _FEW:
        return (
            f"the column of kinds holds {distinct:,} distinct values ({counts}, …), which are no kinds of events; "
            "map another column"
        )
    first = show(words[0], 40)
    return f"kind {first} is not known (found: {counts}); say what they are, as with {proposal(words)} (or ignore)"


def _with(raw: RawTable, column: pl.Series) -> RawTable:
    return dataclasses.replace(raw, frame=raw.frame.with_columns(column.alias("kind")))


def no_events(raw: RawTable) -> DataError:
    """The error where nothing is left."""
    return DataError(f"{raw.path} has no event that counts; look at its kinds and at the rows left out.")
