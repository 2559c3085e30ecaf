"""Saved agents of any kind, read again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llmrec.agents.agent import FACTS, FEATURES, Agent
from llmrec.agents.features import StateFeatures, load_arrays
from llmrec.agents.tabular import TABULAR, TabularAgent
from llmrec.errors import RunError
from llmrec.files import read_json
from llmrec.types import Item


def load_agent(folder: Path, items: Sequence[Item]) -> Agent:
    """The agent that `Agent.save` wrote to `folder`, for the same catalogue.

    Nothing in the folder is executed: arrays, weights and JSON alone are read.

    Raises:
        RunError: the folder holds no agent, a part of it cannot be read, or it is one of another catalogue.
    """
    facts = read_json(folder / FACTS)
    kind = facts.get("kind") if isinstance(facts, dict) else None
    features = StateFeatures.load(folder / FEATURES, items)
    try:
        if kind == TABULAR:
            return TabularAgent.restore(features, facts, load_arrays(folder / "table.npz"))
        if kind in ("dqn", "a2c"):
            from llmrec.agents.deep import DeepAgent  # here: it needs stable-baselines3

            item_NE = load_arrays(folder / "items.npz")["item"].astype(np.float32)
            return DeepAgent.restore(folder, features, facts, item_NE)
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder / FACTS} or an array beside it lacks {error}; save the agent anew.") from None
    raise RunError(f"{folder / FACTS} tells of an agent of kind {kind!r}; this version knows tabular, dqn and a2c.")
