"""A batch of requests of one kind through the policy, each with the answer that it would get alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from llmrec.catalogue.filters import Filters
from llmrec.errors import RequestError
from llmrec.online.explore import WithoutReplacement
from llmrec.policy.language_policy import Certified
from llmrec.recommender.words import in_tiers
from llmrec.service.batches import Drawn, Job
from llmrec.types import IntArray, Slate

_NONE = np.zeros(0, dtype=np.int64)


def decoded(jobs: Sequence[Job], seed: int) -> list[Drawn | RequestError]:
    """What the policy gives for jobs of one group, or why it refuses one of them.

    Args:
        jobs: of one group.
        seed: of draws that explore.
    """
    try:
        return [*(_explored(jobs, seed) if jobs[0].explore is not None else _ranked(jobs))]
    except RequestError as error:
        if len(jobs) == 1:
            return [error]
    # one of them asks for what cannot be: the others are answered all the same
    return [found for job in jobs for found in decoded([job], seed)]


def _ranked(jobs: Sequence[Job]) -> list[Drawn]:
    first = jobs[0]
    options: dict[str, Any] = {"exclude_seen": first.exclude_seen, "exact": first.exact}
    if any(job.filters is not None for job in jobs):
        options["filters"] = [job.filters or Filters() for job in jobs]
    if all(job.tiered for job in jobs):
        found = in_tiers(
            partial(_tier, jobs, options), first.size, [j.filters for j in jobs], [j.request.tiers for j in jobs]
        )
    else:
        found = _certified(jobs, first.size, options)
    cut = [shortened(one, job.k) for one, job in zip(found, jobs, strict=True)]
    return [Drawn(one, (1.0,) * len(one.slate.items_K), "") for one in cut]


def _certified(jobs: Sequence[Job], k: int, options: Mapping[str, Any]) -> list[Certified]:
    policy, kept = jobs[0].deployed.policy, jobs[0].deployed.kept
    states, names = [job.request.state for job in jobs], [job.user_id for job in jobs]
    return policy.certified(states, k, seen=_seen(jobs), kept=kept, names=names, **options)


def _tier(
    jobs: Sequence[Job], options: Mapping[str, Any], rows: Sequence[int], k: int, filters: Sequence[Filters]
) -> list[Certified]:
    return _certified([jobs[row] for row in rows], k, {**options, "filters": list(filters)})


def _explored(jobs: Sequence[Job], seed: int) -> list[Drawn]:
    first, policy = jobs[0], jobs[0].deployed.policy
    assert first.explore is not None
    explorer = WithoutReplacement(policy, seed, first.explore[1], first.exclude_seen)
    # equal seeds draw with equal luck, whatever the slates are called
    names = [job.name if job.explore is None or job.explore[0] is None else f"seed {job.explore[0]}" for job in jobs]
    states = [job.request.state for job in jobs]
    asked = [job.filters or Filters() for job in jobs] if any(job.filters is not None for job in jobs) else None
    made = explorer.propose(states, first.size, names, seen=_seen(jobs), filters=asked)
    width = max(max(len(one.items_K) for one in made), 1)
    items_BK = torch.tensor([[*one.items_K, *[0] * (width - len(one.items_K))] for one in made])
    with torch.no_grad():
        log_prob_BK = policy.log_prob(states, items_BK).tolist()
    found = []
    for job, one, log_probs in zip(jobs, made, log_prob_BK, strict=True):
        count = min(job.k, len(one.items_K))
        slate = Slate(one.items_K[:count], tuple(log_probs[:count]))
        # a slate that was drawn is no claim to be the best
        certified = Certified(slate, False, None)
        found.append(Drawn(certified, one.propensity_K[:count], explorer.name))
    return found


def shortened(one: Certified, k: int) -> Certified:
    """The first k items: what is cut off bounds what is outside, as the list's own bound does."""
    items, log_probs = one.slate.items_K, one.slate.log_probs_K
    if len(items) <= k:
        return one
    slate = Slate(items[:k], log_probs[:k])
    if one.bound is None:
        return replace(one, slate=slate)
    bound = max(one.bound, log_probs[k])
    return replace(one, slate=slate, proven=one.proven or log_probs[k - 1] >= bound, bound=bound)


def _seen(jobs: Sequence[Job]) -> list[IntArray]:
    return [_NONE if job.request.seen is None else job.request.seen for job in jobs]
