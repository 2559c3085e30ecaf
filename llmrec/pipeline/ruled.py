"""Which rules a run has, and which of them its training obeys (docs/rules.md)."""

from __future__ import annotations

from typing import Any

from llmrec.config import RunConfig
from llmrec.pipeline.data import RunData
from llmrec.rules import Rule, RuleBook, parse_rules
from llmrec.training.obeyed import Obeyed, about_items

RULES = "the configuration"


def run_rules(config: RunConfig, data: RunData) -> RuleBook:
    """What every list of the finished run obeys.

    Raises:
        ConfigError: rules that contradict one another or name what no item has.
    """
    return RuleBook.of(parse_rules(config.rules, RULES), data.dataset.item_list)


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
    if config.rules_in_training == "none" or not config.rules:
        return None
    return Obeyed.of(parse_rules(config.rules, RULES), data.dataset.item_list)


def rules_key(config: RunConfig) -> dict[str, Any]:
    """What of the rules decides a training and its gate, for the key of a stage; nothing where there are none."""
    if config.rules_in_training == "none" or not config.rules:
        return {}
    return {"rules": [config.rules_in_training, config.tree()["rules"]]}
