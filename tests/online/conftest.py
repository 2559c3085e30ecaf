"""The trainers' tiny shop, and policies on it."""

from __future__ import annotations

import pytest

from llmrec.policy.language_policy import LanguagePolicy
from tests.training.conftest import shop  # noqa: F401  (a fixture)


@pytest.fixture
def policy_of(shop):  # noqa: F811
    """A policy with random weights whose distribution is not flat."""

    def made(repeat="allow", seed=0):
        return LanguagePolicy(shop.model(seed=seed), shop.tokenizer, shop.catalogue, shop.renderer, repeat)

    return made
