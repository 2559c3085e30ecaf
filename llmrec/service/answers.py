"""What the service says and writes down of a slate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmrec.catalogue.filters import Filters
from llmrec.explain import Explanation
from llmrec.online.events import LoggedState, Served
from llmrec.policy.language_policy import Certified
from llmrec.recommender import Recommendation
from llmrec.service import wire
from llmrec.service.batches import Job
from llmrec.service.deployed import Deployed
from llmrec.types import Slate


def wire_state(body: wire.StateBody, deployed: Deployed) -> tuple[Any, int]:
    """The state that a request gives, and how many of its interactions are with items that are not there."""
    told = [[one.choice() for one in part] for part in (body.history, body.session)]
    logged = LoggedState(body.profile, tuple(told[0]), tuple(told[1]), body.context, body.time)
    state = logged.state(None, deployed.row_of)
    lost = sum(map(len, told)) - len(state.history) - len(state.session)
    return state, lost


def answer_of(
    job: Job, asked: Filters | None, slate: Slate, reasons: Mapping[int, Explanation] | None = None
) -> Recommendation:
    """A slate that was made under `asked`, with its note."""
    return job.deployed.recommender.answer(replace(job.request, filters=asked), slate, job.k, reasons)


def served(job: Job, slate: Slate, chances: tuple[float, ...], exploration: str) -> Served:
    """A slate as the log keeps it."""
    ids = job.deployed.item_ids
    items = tuple(ids[item] for item in slate.items_K)
    # What was asked in free text and by nobody who can ask to be forgotten is not kept: such slates teach nothing.
    state = None if job.user_id is None else LoggedState.of(job.request.state, ids)
    return Served(job.name, job.user_id, items, chances, job.deployed.version, exploration, state)


def body_of(
    job: Job, asked: Filters | None, slate: Slate, told: Recommendation, chances: tuple[float, ...]
) -> wire.RecommendAnswer:
    """The answer to a request, without what is certain of a list by the policy."""
    items = []
    for place, (item, chance) in enumerate(zip(told.items, chances, strict=True), 1):
        log_prob, why = wire.number(item.log_prob), item.explanation
        items.append(
            wire.ChoiceBody(
                place=place,
                item_id=item.item_id,
                title=item.title,
                log_probability=log_prob,
                probability=None if log_prob is None else min(math.exp(log_prob), 1.0),
                propensity=chance,
                reason=None if why is None else why.sentence,
                without=None if why is None else why.without or None,
            )
        )
    return wire.RecommendAnswer(
        slate_id=job.name if items else None,
        source="model",
        version=job.deployed.version,
        catalogue=job.deployed.catalogue,
        items=items,
        certificate=None,
        tokens=None,
        rules=_rules(job, asked, slate),
        note=told.note,
        related=told.related,
        matches=[match.title for match in told.matches],
        wishes=[wish.text for wish in told.wishes],
        words=list(told.words),
    )


def certificate_of(one: Certified) -> wire.CertificateBody:
    """What is known for certain of a list."""
    bound = None if one.bound is None else wire.number(one.bound)
    return wire.CertificateBody(proven=one.proven, exact_places=one.exact_places, bound=bound)


def tokens_of(one: Certified) -> wire.TokensBody | None:
    """Tokens of the prompt."""
    if not one.tokens:  # a draw reads all of its prompt
        return None
    return wire.TokensBody(prompt=one.tokens, cached=one.cached, read=one.tokens - one.cached)


def _rules(job: Job, asked: Filters | None, slate: Slate) -> wire.RulesBody | None:
    book = job.deployed.recommender.book
    if book is None:
        return None
    whole = not book.remarks(asked or Filters(), slate, job.k)
    return wire.RulesBody(count=len(book.rules), hash=job.deployed.rules_hash, complete=whole)
