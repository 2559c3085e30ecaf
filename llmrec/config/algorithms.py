"""The sections of a configuration that algorithms have, by the algorithm's name: shipped ones and those of others."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from llmrec.config.improvement import (
    BestOfNSettings,
    ContinuedSFTSettings,
    GRPOSettings,
    OffPolicySettings,
    PPOSettings,
    PreferenceSettings,
    ReinforceSettings,
    RLHFSettings,
    RLOOSettings,
    SDPOSettings,
    TiltedSettings,
    UpdateSettings,
)

Algorithm = str
"""The name of an algorithm, and of its section."""
SECTIONS: dict[Algorithm, type[UpdateSettings]] = {
    "ppo": PPOSettings,
    "reinforce": ReinforceSettings,
    "grpo": GRPOSettings,
    "rloo": RLOOSettings,
    "dpo": PreferenceSettings,
    "sdpo": SDPOSettings,
    "rlhf": RLHFSettings,
    "off_policy": OffPolicySettings,
    "best_of_n": BestOfNSettings,
    "tilted": TiltedSettings,
    "continued_sft": ContinuedSFTSettings,
}
SHIPPED = tuple(SECTIONS)
ENTRY_POINTS = "llmrec.algorithms"
"""Installed packages name their algorithms in this group; the module that is named registers them when imported."""


def register_section(name: Algorithm, settings: type[UpdateSettings]) -> None:
    """Makes `name` a section of every configuration; the name of another class's section is refused.

    Raises:
        ValueError: the name is taken, or none that can be written in a configuration.
    """
    if not name.isidentifier() or SECTIONS.get(name, settings) is not settings:
        raise ValueError(f"{name!r} is no name, or taken by {SECTIONS.get(name)}; give the algorithm another.")
    SECTIONS[name] = settings


def sections_for(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """The settings of all algorithms; those of installed packages are imported where `tree` names them."""
    for name in {tree.get("algorithm"), *tree}:
        if isinstance(name, str) and name not in SECTIONS:
            for point in entry_points(group=ENTRY_POINTS, name=name):
                point.load()
    return dict(SECTIONS)


def default_sections() -> dict[Algorithm, UpdateSettings]:
    """The settings of all algorithms that are known, as they are by default."""
    return {name: settings() for name, settings in SECTIONS.items()}
