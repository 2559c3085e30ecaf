"""Where classic agents learn: data, simulators and states of a run, and the systems that they are compared with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmrec.agents import (
    Agent,
    DQNSettings,
    Meeting,
    PolicyGradientSettings,
    StateFeatures,
    TabularAgent,
    TabularSettings,
    load_agent,
    train_tabular,
)
from llmrec.agents.features import Float32Array
from llmrec.config import RunConfig
from llmrec.files import read_json, write_json
from llmrec.pipeline.algorithms.rollouts import RolloutStates
from llmrec.pipeline.data import RunData
from llmrec.pipeline.simulation import Simulators
from llmrec.pipeline.work import Work
from llmrec.rewards import RewardFunction
from llmrec.types import IntArray, Ranker

if TYPE_CHECKING:
    from llmrec.agents.deep import DeepAgent

Settings = TabularSettings | DQNSettings | PolicyGradientSettings
Cost = tuple[float, float]
"""Transitions (rows that SFT imitated, items that RL drew) and seconds."""


@dataclass(frozen=True)
class Place:
    """What all agents share.

    Attributes:
        config: of the run.
        data: of the run.
        simulators: the reward's behaviour model teaches; the judge is asked at the end alone.
        reward: values an item at a state.
        features: what agents see of a state.
        item_NE: items as vectors, for networks and clusters.
        starts: states at which RL draws its items.
        work: finished agents are kept here.
        systems: by name, what agents are compared with.
        costs: by system; `agent` adds its own.
    """

    config: RunConfig
    data: RunData
    simulators: Simulators
    reward: RewardFunction
    features: StateFeatures
    item_NE: Float32Array
    starts: RolloutStates
    work: Work
    systems: dict[str, Ranker]
    costs: dict[str, Cost]

    def hidden(self, seen: list[IntArray]) -> list[IntArray] | None:
        """`seen` where such items may not be shown; None where repeats are allowed."""
        return seen if self.data.dataset.manifest.repeat == "exclude" else None

    def agent(self, name: str, settings: Settings, meeting_of: Callable[[], Meeting]) -> Agent:
        """The agent `name`, trained unless it is there; adds its transitions and CPU seconds to `costs`.

        Raises:
            RunError: a network without stable-baselines3.
        """

        def build(out: Path, _: Path) -> None:
            cpu = time.process_time()
            agent = self._trained(settings, meeting_of())
            agent.save(out / "agent")
            assert agent.trained is not None  # both trainings set it
            write_json(out / "trained.json", asdict(agent.trained) | {"cpu_s": time.process_time() - cpu})

        key = [self.data.dataset.manifest.content_hash, self.config.tree(), settings.tree(), name]
        folder = self.work.stage(name.replace(" ", "-").replace(",", ""), key, build)
        facts = read_json(folder / "trained.json")
        self.costs[name] = (float(facts["transitions"]), float(facts["cpu_s"]))
        return load_agent(folder / "agent", self.data.dataset.item_list)

    def _trained(self, settings: Settings, meeting: Meeting) -> TabularAgent | DeepAgent:
        repeat, seed = self.data.dataset.manifest.repeat, self.config.seed
        if isinstance(settings, TabularSettings):
            return train_tabular(meeting, self.features, settings, item_NE=self.item_NE, repeat=repeat, seed=seed)
        from llmrec.agents.deep import train_deep  # needs stable-baselines3

        return train_deep(meeting, self.features, self.item_NE, settings, repeat=repeat, seed=seed)
