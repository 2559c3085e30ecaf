"""What a part of a mixture remembers is what it said, and it is asked for nothing twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Mixture
from llmrec.policy.mixture_weights import fit
from llmrec.studies.table.remembering import RememberedPolicy, remembered
from tests.policy.test_language_policy import STATES
from tests.policy.test_mixture import SEEN, N, kinds, whole  # noqa: F401


@pytest.fixture
def asked(monkeypatch):
    """What is asked of a policy itself: how many lists, and how many items of each call."""
    said = {"lists": 0, "items": []}
    recommend, log_prob = LanguagePolicy.recommend, LanguagePolicy.log_prob

    def counted_recommend(self, states, k, **options):
        said["lists"] += len(states)
        return recommend(self, states, k, **options)

    def counted_log_prob(self, states, items_BG, **options):
        said["items"].append(items_BG.shape)
        return log_prob(self, states, items_BG, **options)

    monkeypatch.setattr(LanguagePolicy, "recommend", counted_recommend)
    monkeypatch.setattr(LanguagePolicy, "log_prob", counted_log_prob)
    return said


def test_fits_over_the_same_states_cost_one_and_find_the_same(kinds, asked):  # noqa: F811
    policy = kinds["one"]
    targets = [int(np.setdiff1d(np.arange(N), seen)[b % 2]) for b, seen in enumerate(SEEN)]
    seen = [np.asarray(own[:1], dtype=np.int64) for own in SEEN]
    forms = [lambda states, p=power: np.arange(1.0, N + 1)[None].repeat(len(states), 0) ** p for power in (1.0, 3.0)]
    plain = [fit(Mixture([policy, form], depth=2), STATES, targets, k=2, seen=seen) for form in forms]
    asked["lists"], asked["items"] = 0, []
    kept = RememberedPolicy(policy)
    for form, expected in zip(forms, plain, strict=True):
        found = fit(Mixture([kept, remembered(form)], depth=2), STATES, targets, k=2, seen=seen)
        assert found.ndcg_W == pytest.approx(expected.ndcg_W)
        assert found.mixture.weights_GP.tolist() == expected.mixture.weights_GP.tolist()
    assert asked["lists"] == len(STATES)
    assert len(asked["items"]) == 1, "a score to another power proposes the same items"
    other = [*STATES[1:], STATES[0]]
    assert kept.recommend(other, 2) == policy.recommend(other, 2)


def test_only_new_items_are_scored(kinds, asked):  # noqa: F811
    policy = kinds["one"]
    kept = RememberedPolicy(policy)
    first, more = torch.tensor([[0, 1]] * len(STATES)), torch.tensor([[1, 2, 0, 2]] * len(STATES))
    for items in (first, more, more[:, :1]):
        assert kept.log_prob(STATES, items) == pytest.approx(policy.log_prob(STATES, items).detach(), rel=1e-6)
    own = [shape for shape in asked["items"] if shape not in ((len(STATES), 4),)]
    assert own.count((len(STATES), 1)) == 2, "one for item 2, and one by the policy itself"
    hidden = kept.log_prob(STATES, first, exclude_seen=True)
    assert hidden == pytest.approx(policy.log_prob(STATES, first, exclude_seen=True).detach(), rel=1e-6)
