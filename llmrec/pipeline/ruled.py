"""Which rules a run has, and which of them its training obeys (docs/rules.md)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmrec.config import RunConfig
from llmrec.pipeline.data import RunData
from llmrec.pipeline.systems import Reranked
from llmrec.rules import Rule, Ruled, parse_rules
from llmrec.training.obeyed import Obeyed, about_items
from llmrec.types import Ranker

RULES = "the configuration"
RULED = (
    "All lists obey the run's rules, those of the baselines too. Whom they leave nothing has an empty list, and an "
    "event of an item that they forbid is a miss in every row."
)


def run_rules(config: RunConfig, data: RunData) -> Obeyed | None:
    """What every list of the finished run obeys, and every list of its comparison; None where there are no rules.

    Raises:
        ConfigError: rules that contradict one another or name what no item has.
    """
    return Obeyed.of(parse_rules(config.rules, RULES), data.dataset.item_list) if config.rules else None


def asked_of_training(config: RunConfig) -> tuple[Rule, ...]:
    """The rules that draws of the training are to obey, as `rules_in_training` says.

    Raises:
        ConfigError: a rule that cannot be read.
    """
    if config.rules_in_training == "none":
        return ()
    rules = parse_rules(config.rules, RULES)
    return rules if config.rules_in_training == "all" else about_items(rules)


def training_rules(config: RunConfig, data: RunData) -> Obeyed | None:
    """The same, ready for the run's items; None where there are none."""
    rules = asked_of_training(config)
    return Obeyed.of(rules, data.dataset.item_list) if rules else None


def judging_rules(config: RunConfig, data: RunData) -> Obeyed | None:
    """What lists obey at the gate and in the pilot: all rules, as those lists will that are shown.

    None where there are none, and where the training is to know of none.
    """
    return None if config.rules_in_training == "none" else run_rules(config, data)


def shown(ranker: Ranker, rules: Obeyed | None) -> Ranker:
    """A ranker as people meet it: under the rules, where there are any.

    Somebody whom they leave nothing gets an empty list. What puts a short list in another order is given one of items
    that may be shown, so that it is as long as without rules.
    """
    if rules is None:
        return ranker
    if isinstance(ranker, Reranked):
        ranker = replace(ranker, system=candidates(ranker.system, rules))
    return Ruled(ranker, rules.book, (), attributes=rules.attributes, may_be_empty=True)


def candidates(ranker: Ranker, rules: Obeyed | None) -> Ranker:
    """A ranker among the items that rules leave one by one, for lists that are put in another order first."""
    if rules is None:
        return ranker
    return shown(ranker, replace(rules, book=replace(rules.book, rules=about_items(rules.book.rules))))


def ruled_note(rules: Obeyed | None) -> str:
    """What a table says of rules; "" where there are none."""
    return "" if rules is None else RULED


def ruled_facts(rules: Obeyed | None) -> dict[str, int]:
    """What figures say of rules: how many of them every list obeys."""
    return {"rules_of_all_lists": 0 if rules is None else len(rules.book.rules)}


def rules_key(config: RunConfig) -> dict[str, Any]:
    """What of the rules decides a training and its gate, for the key of a stage; nothing where there are none."""
    if config.rules_in_training == "none" or not config.rules:
        return {}
    return {"rules": [config.rules_in_training, config.tree()["rules"]]}
