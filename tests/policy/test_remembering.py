"""What a part of a mixture remembers is what it said, and it is asked for nothing twice."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from llmrec.errors import RunError
from llmrec.policy import language_policy as language_policy_module
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture import Mixture
from llmrec.policy.mixture_weights import fit, fit_forms
from llmrec.policy.remembering import Readings, RememberedPolicy, remembered
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


TARGETS = [int(np.setdiff1d(np.arange(N), seen)[b % 2]) for b, seen in enumerate(SEEN)]


def falling(states):
    """The other end of the catalogue than `rising` proposes."""
    return np.arange(float(N), 0.0, -1.0)[None].repeat(len(states), 0)


def rising(states):
    """Items of high index first."""
    return falling(states)[:, ::-1]


@pytest.fixture
def read(monkeypatch):
    """How many states the model reads to score items, and which (state, item) pairs they are asked of."""
    said = {"states": 0}
    score = language_policy_module.score_items

    def counted(model, ids, mask, items_BG, index, **options):
        said["states"] += len(ids)
        return score(model, ids, mask, items_BG, index, **options)

    monkeypatch.setattr(language_policy_module, "score_items", counted)
    return said


@pytest.mark.parametrize("name", ["one", "both", "inner"])
def test_forms_are_fitted_from_one_reading_and_as_one_by_one(kinds, asked, read, name):  # noqa: F811
    part = kinds[name]
    mixture = Mixture([part, rising], depth=2)
    squared = [lambda states, s=score: s(states) ** 2 for score in (rising, falling)]
    forms = [[part, score] for score in (rising, falling, *squared)]
    # reading anew for each form, by policies that remember nothing
    expected = [fit(mixture.changed(parts=parts), STATES, TARGETS, k=2) for parts in forms]
    policies = len(Mixture([part, rising]).policies)
    assert asked["lists"] == len(forms) * policies * len(STATES)
    apart = read["states"]
    asked["lists"], read["states"] = 0, 0
    found = fit_forms(mixture, forms, STATES, TARGETS, k=2)
    assert asked["lists"] == policies * len(STATES)
    assert read["states"] <= apart / len(forms)
    for one, other in zip(found, expected, strict=True):
        assert one.mixture.weights_GP.tolist() == other.mixture.weights_GP.tolist()
        assert one.ndcg_W.tolist() == other.ndcg_W.tolist()
        lists = [fitted.mixture.recommend(STATES, 2) for fitted in (one, other)]
        for mine, theirs in zip(*lists, strict=True):
            assert mine.items_K == theirs.items_K
            assert mine.log_probs_K == pytest.approx(theirs.log_probs_K, rel=1e-5)
    assert {tuple(one.ndcg_W.tolist()) for one in found[:2]} != {tuple(found[0].ndcg_W.tolist())}, "forms differ"


def test_a_stopped_study_reads_only_what_it_has_not_read(kinds, asked, read, tmp_path, monkeypatch):  # noqa: F811
    policy = kinds["one"]
    mixture, forms = Mixture([policy, rising], depth=2), [[policy, rising], [policy, falling]]
    expected = fit_forms(mixture, forms, STATES, TARGETS, k=2, batch_size=2)
    whole_lists, whole_states = len(STATES), len(STATES)

    def study():
        kept = RememberedPolicy(policy, Readings(tmp_path / "kept", {"policy": 1}))
        return fit_forms(mixture, [[kept, parts[1]] for parts in forms], STATES, TARGETS, k=2, batch_size=2)

    decoded = LanguagePolicy.certified

    def breaking(self, states, k, **options):
        if asked["lists"] > 2:
            raise KeyboardInterrupt
        return decoded(self, states, k, **options)

    asked["lists"] = 0
    with monkeypatch.context() as patch:
        patch.setattr(LanguagePolicy, "certified", breaking)
        with pytest.raises(KeyboardInterrupt):
            study()
    asked["lists"], read["states"] = 0, 0
    found = study()
    assert asked["lists"] == whole_lists - 2, "the first batch of two was kept"
    assert read["states"] <= whole_states
    for again in (found, study()):
        assert [one.ndcg_W.tolist() for one in again] == [one.ndcg_W.tolist() for one in expected]
    assert (asked["lists"], read["states"]) == (whole_lists - 2, len(STATES)), "the last study read nothing"
    # another mixture of the same policy, on states that are other objects with the same contents
    copies = [dataclasses.replace(state) for state in STATES]
    other = RememberedPolicy(policy, Readings(tmp_path / "kept", {"policy": 1}))
    Mixture([other, rising, falling], depth=2).recommend(copies, 2)
    assert (asked["lists"], read["states"]) == (whole_lists - 2, len(STATES))


def test_readings_of_another_policy_are_removed_and_damage_is_named(kinds, asked, tmp_path):  # noqa: F811
    policy = kinds["one"]
    place = tmp_path / "kept"
    first = RememberedPolicy(policy, Readings(place, 1)).recommend(STATES, 2)
    asked["lists"] = 0
    assert RememberedPolicy(policy, Readings(place, 1)).recommend(STATES, 2) == first
    assert asked["lists"] == 0
    for question in ({"k": 3}, {"k": 2, "beams": 5}, {"k": 2, "exact": True}, {"k": 2, "exclude_seen": False}):
        asked["lists"] = 0
        found = RememberedPolicy(policy, Readings(place, 1)).recommend(STATES, **question)
        assert asked["lists"] == len(STATES)
        assert found == policy.recommend(STATES, **question)
    file = sorted(place.glob("lists-*.npz"))[0]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(RunError, match=rf"{file.name} is damaged.*remove it"):
        Readings(place, 1)
    assert not Readings(place, 2).lists
    assert [found.name for found in place.iterdir()] == ["key.json"]
    assert "u1" not in (place / "key.json").read_text()
