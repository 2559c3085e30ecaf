"""Floors of a day (docs/rules.md) while several threads answer: what each list must hold when it is counted."""

from __future__ import annotations

from collections.abc import Sequence

from llmrec.catalogue.filters import Filters
from llmrec.recommender import Recommendation
from llmrec.service.batches import Drawn, Job

Made = tuple[Job, Drawn, Recommendation]


def asked_today(jobs: Sequence[Job], *, spare: bool = False) -> list[Filters | None]:
    """What the list of each job must obey: what holds at any time, and floors of a day as they are now.

    Args:
        jobs: of one group, in the order in which their lists are counted.
        spare: see `RuleBook.today`.
    """
    recommender = jobs[0].deployed.recommender
    lasting = [job.request.filters for job in jobs]
    if recommender.book is None or not recommender.book.daily:
        return lasting
    plain, places = [one or Filters() for one in lasting], [job.k for job in jobs]
    with recommender.exposure.lock:
        return [*recommender.book.today(plain, places, recommender.exposure, spare=spare)]


def counted(made: Sequence[Made]) -> tuple[list[Made], list[Job]]:
    """What is given out now, claimed and counted; and the jobs whose lists hold the floors of a day no more.

    The caller holds the count (`Exposure.counting`).
    """
    ours, left = [], []
    for job, drawn, told in made:
        recommender, slate = job.deployed.recommender, drawn.certified.slate
        book, exposure = recommender.book, recommender.exposure
        if job.claimed:
            continue
        if book is not None and not book.holds_today(job.filters or Filters(), slate, exposure):
            left.append(job)
        elif job.claim():
            recommender.shown(slate)
            ours.append((job, drawn, told))
    return ours, left
