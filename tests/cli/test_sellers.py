"""The study of sellers on a finished run: its policy ranks in its own world."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.errors import RunError
from llmrec.studies.sellers import DEPTH, POLICY, opened_world, sellers_study


def test_the_policy_of_a_run_ranks_too(finished, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMREC_CACHE", str(cache))
    world, score_UN = opened_world(finished[0])
    shape = (world.dataset.users.height, world.dataset.n_items)
    assert score_UN.shape == shape
    # probabilities of the best items, each once: at most 1 a user, 0 beyond the list
    assert ((score_UN > 0).sum(1) == min(DEPTH, shape[1])).all()
    assert (score_UN.sum(1) <= 1 + 1e-4).all()
    found = sellers_study([0, 1], tmp_path, run=finished[0], sellers=3, rounds=40)
    assert found["recommenders"][POLICY]["settled"] is not None
    assert np.isfinite(found["recommenders"][POLICY]["learnt"]["surplus"])
    with pytest.raises(RunError, match="finished run"):
        sellers_study([0, 1], tmp_path, run=tmp_path, sellers=3, rounds=40)
