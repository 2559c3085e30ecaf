"""The row "before SFT": what the pretrained base model recommends by the likelihood of items, without any training.

The base model's pi says nothing of this (`policy.likelihood`). How much of each item's likelihood without a state is
taken off, and how much of the training period's counts is added, is chosen on validation events.
"""

from __future__ import annotations

from llmrec.baselines.base import item_counts, positives
from llmrec.config import RunConfig
from llmrec.pipeline.base_model import Base
from llmrec.pipeline.data import RunData
from llmrec.pipeline.item_tokens import name_items
from llmrec.pipeline.sft import targets
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.likelihood_ranker import LikelihoodRanker
from llmrec.policy.loading import load_configured, load_tokenizer
from llmrec.progress import console

TOKENS = 2
"""Of an item that are read at a state: about as many prefixes as a beam search reads."""


def before_sft(config: RunConfig, data: RunData, base: Base) -> LikelihoodRanker | None:
    """The base model as a ranker, its shares chosen on validation events.

    Returns:
        None where the row would say nothing: a nano model, which was pretrained on this data alone, items written in
        new tokens, which no pretrained model knows, or no validation event (`evaluation.before_sft`: 0 wants none).
    """
    if base.nano or config.identifiers.scheme != "title" or not config.evaluation.before_sft:
        return None
    valid = targets(config, data, "valid", config.evaluation.before_sft)
    if not len(valid):
        return None
    policy = base_policy(config, data, base)
    count_N = item_counts(positives(data.dataset, data.split.train), data.dataset.n_items)
    start = LikelihoodRanker(policy, tokens=TOKENS, count_N=count_N)
    k = min(10, data.dataset.n_items)
    found = start.calibrated([e.state for e in valid], [e.target for e in valid], seen=valid.seen, k=k)
    shares = found.ranker.shares
    console.print(
        f"  before SFT: likelihood less {shares.prior:g} of that without a state, plus {shares.popularity:g} times"
        f" the log of counts (NDCG@{k} {max(found.ndcg):.4f} on {len(valid)} validation events)",
        style="dim",
    )
    return found.ranker


def base_policy(config: RunConfig, data: RunData, base: Base) -> LanguagePolicy:
    """The base model with the catalogue and the wording that SFT will have, untrained."""
    tokenizer = load_tokenizer(base.name, base.revision)
    model = load_configured(config.model, base.name, revision=base.revision)
    naming = name_items(config, data, model, tokenizer)
    return LanguagePolicy(model, tokenizer, naming.catalogue, naming.renderer, data.dataset.manifest.repeat)
