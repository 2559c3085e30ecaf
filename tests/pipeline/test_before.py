"""The row "before SFT": which base models have it, and what it is made of."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.baselines.base import item_counts, positives
from llmrec.config import ModelConfig, RunConfig
from llmrec.dataset.split import make_split
from llmrec.dataset.world.world import generate_world
from llmrec.errors import ConfigError
from llmrec.pipeline.base_model import Base
from llmrec.pipeline.before import TOKENS, base_policy, before_sft
from llmrec.pipeline.data import RunData
from llmrec.pipeline.measure import check_evaluation
from llmrec.pipeline.sft import targets
from llmrec.policy.likelihood_ranker import LikelihoodRanker
from llmrec.policy.loading import save_causal_lm
from llmrec.policy.nano import make_nano, train_tokenizer
from tests.overrides import given

TINY = ["world.users=30", "world.items=24", "world.slates_per_user=3", "data.history_events=4", "text.max_tokens=96"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A world, and a folder with an untrained model."""
    config = RunConfig.read(None, given(*TINY, "evaluation.before_sft=12"))
    world = generate_world(config.world, 0)
    data = RunData(world.dataset, make_split(world.dataset, "time"), world)
    tokenizer = train_tokenizer([f"{i.title} {i.description}" for i in world.dataset.item_list] * 2, 400)
    folder = tmp_path_factory.mktemp("base")
    save_causal_lm(make_nano(tokenizer, ModelConfig(nano_hidden=32, nano_layers=2), 0), tokenizer, folder)
    return config, data, Base(str(folder), None, nano=False)


def test_it_is_the_base_model_with_the_shares_that_are_best_on_validation_events(small):
    config, data, base = small
    found = before_sft(config, data, base)
    valid = targets(config, data, "valid", 12)
    counts = item_counts(positives(data.dataset, data.split.train), data.dataset.n_items)
    again = LikelihoodRanker(base_policy(config, data, base), tokens=TOKENS, count_N=counts)
    states, chosen = [e.state for e in valid], [e.target for e in valid]
    best = again.calibrated(states, chosen, seen=valid.seen)
    assert found.shares == best.ranker.shares
    assert found.score(states[:2]) == pytest.approx(best.ranker.score(states[:2]))
    assert np.array_equal(found.count_N, counts)


def test_who_has_no_such_row(small):
    config, data, base = small
    assert before_sft(config, data, Base(base.name, None, nano=True)) is None
    for change in ("evaluation.before_sft=0", "identifiers.scheme=atomic"):
        assert before_sft(RunConfig.read(None, given(*TINY, change)), data, base) is None
    with pytest.raises(ConfigError, match="at least 0"):
        check_evaluation(RunConfig.read(None, given("evaluation.before_sft=-1")))
