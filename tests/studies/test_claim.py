"""Arithmetic of the claim, by hand."""

import numpy as np
import pytest

from llmrec.studies.claim import Claim


def test_share_of_the_headroom_by_hand():
    claim = Claim(
        values={
            s: {"value": v} for s, v in {"SFT": [1.0, 2.0], "PPO": [1.5, 2.0], "true optimum": [3.0, 4.0]}.items()
        }
    )
    assert claim.closed("PPO", "value") == pytest.approx([0.25, 0.0])
    assert claim.closed("true optimum", "value") == pytest.approx([1.0, 1.0])
    assert np.isfinite(claim.closed("SFT", "value")).all()
