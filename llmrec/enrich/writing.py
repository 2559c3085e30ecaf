"""Sources to texts: a writer in batches behind the cache, the checks, and by rule what is then still missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmrec.enrich.cache import DraftCache
from llmrec.enrich.checks import Checks
from llmrec.enrich.types import UNGROUNDED, Author, Draft, Dropped, Source, Writer, Written
from llmrec.progress import Bar
from llmrec.text.budget import chunks


def write_texts(
    sources: Sequence[Source],
    writer: Writer,
    checks: Checks,
    *,
    cache: DraftCache | None = None,
    fallback: Writer | None = None,
    what: str = "Writing texts",
) -> list[Written]:
    """One text a source, in their order.

    Args:
        sources: what to write from.
        writer: who writes.
        checks: what each sentence has to pass.
        cache: drafts that were written before; those that are new are kept there at once.
        fallback: who writes where the writer gave nothing that may stay.
        what: of the progress bar.
    """
    drafts = draft_all(sources, writer, cache, what)
    found = [_checked(source, writer.author, draft, checks) for source, draft in zip(sources, drafts, strict=True)]
    if fallback is None or fallback.author == writer.author:
        return found
    empty = [row for row, one in enumerate(found) if not one.sentences and one.opinion is None]
    again = fallback.write([sources[row] for row in empty])
    for row, draft in zip(empty, again, strict=True):
        first, second = found[row], _checked(sources[row], fallback.author, draft, checks)
        found[row] = Written(
            second.source, second.author, second.sentences, second.dropped, second.opinion,
            tried=first.author, failure=first.failure or "no sentence passed the checks", tried_dropped=first.dropped,
        )  # fmt: skip
    return found


def draft_all(sources: Sequence[Source], writer: Writer, cache: DraftCache | None, what: str) -> list[Draft]:
    """One draft a source, from the cache where it is there.

    Sources of like length share a batch. Where a draft may depend on its batch, that is written whole even if the
    cache holds a part of it, so that a run that was killed ends with the texts of one that was not.
    """
    author = writer.author
    one_of = {source.content_hash: source for source in sources}  # equal facts have equal texts
    hashes = sorted(one_of, key=lambda name: (_length(one_of[name]), name))
    found: dict[str, Draft] = {}
    if cache is not None:
        found = {name: kept for name in hashes if (kept := cache.get(one_of[name], author)) is not None}
    with Bar(what, len(hashes)) as bar:
        for names in chunks(hashes, writer.batch):
            missing = [name for name in names if name not in found]
            if missing:
                asked = names if writer.together else missing
                for name, draft in zip(asked, writer.write([one_of[name] for name in asked]), strict=True):
                    if name not in found:
                        found[name] = draft
                        if cache is not None:
                            cache.put(one_of[name], author, draft)
            bar.advance(len(names))
    return [found[source.content_hash] for source in sources]


def _length(source: Source) -> int:
    return sum(len(fact.text) for fact in source.facts)


def _checked(source: Source, author: Author, draft: Draft, checks: Checks) -> Written:
    kept, dropped = checks.sift(source, draft)
    opinion = draft.opinion
    # Aspects found by rule have the rule's own names ("price" for "cheap"); a model has to take them from the review.
    if opinion is not None and author.writer != "extractive":
        opinion = checks.opinion(source, opinion)
    return Written(source, author, kept, dropped, opinion, failure=draft.failure)


@dataclass(frozen=True, slots=True)
class Shares:
    """What became of one writer's sentences.

    Attributes:
        texts: that it was asked for.
        failed: of these, how many it gave no draft of.
        empty: how many had no sentence left and were given to the writer by rule.
        sentences: that it wrote.
        grounded: of these, how many say nothing that the source does not hold.
        dropped: by reason, how many went.
    """

    texts: int
    failed: int
    empty: int
    sentences: int
    grounded: int
    dropped: dict[str, int]

    @property
    def grounded_share(self) -> float:
        """Share of its sentences that are grounded; 1 where it wrote none."""
        return self.grounded / self.sentences if self.sentences else 1.0


def shares(texts: Sequence[Written]) -> dict[Author, Shares]:
    """By author, first ones before those who had to help out."""
    counts: dict[Author, Counter[str]] = {}
    for one in texts:
        if one.tried is not None:
            _count(counts.setdefault(one.tried, Counter()), (), one.tried_dropped, one.failure)
            counts[one.tried]["empty"] += 1
        _count(counts.setdefault(one.author, Counter()), one.sentences, one.dropped, "" if one.tried else one.failure)
    return {author: _shares(count) for author, count in counts.items()}


def _count(count: Counter[str], kept: Sequence[str], dropped: Sequence[Dropped], failure: str) -> None:
    count["texts"] += 1
    count["failed"] += bool(failure) and not kept and not dropped
    count["sentences"] += len(kept) + len(dropped)
    count.update(f"dropped {one.reason}" for one in dropped)


def _shares(count: Counter[str]) -> Shares:
    dropped = {name.removeprefix("dropped "): n for name, n in sorted(count.items()) if name.startswith("dropped ")}
    wrong = sum(dropped.get(reason, 0) for reason in UNGROUNDED)
    grounded = count["sentences"] - wrong
    return Shares(count["texts"], count["failed"], count["empty"], count["sentences"], grounded, dropped)
