"""Six domains as environments: generated worlds with the dynamics that fit what is offered there."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any, Literal, cast

from llmrec.config import (
    BudgetSettings,
    DriftSettings,
    DynamicsSettings,
    EnvironmentSettings,
    NoveltySettings,
    PatienceSettings,
    ReturnSettings,
    SatiationSettings,
    ScenarioSettings,
    TrustSettings,
    WorldConfig,
)
from llmrec.dataset.world import World, generate_world
from llmrec.errors import ConfigError
from llmrec.simulator.environments.population import Population
from llmrec.simulator.environments.single import RecEnv
from llmrec.simulator.environments.vector import VectorRecEnv
from llmrec.simulator.environments.world_users import WorldUsers

_DRIFT, _TRUST = DriftSettings(enabled=True), TrustSettings(enabled=True)
_SATIATION, _NOVELTY = SatiationSettings(enabled=True), NoveltySettings(enabled=True)
_BUDGET, _PATIENCE = BudgetSettings(enabled=True, initial=500.0), PatienceSettings(enabled=True)
_RETURN = ReturnSettings(enabled=True)

DOMAINS: dict[str, DynamicsSettings] = {
    "shop": DynamicsSettings(drift=_DRIFT, trust=_TRUST, budget=_BUDGET, patience=_PATIENCE, comeback=_RETURN),
    "film": DynamicsSettings(drift=_DRIFT, trust=_TRUST, satiation=_SATIATION, patience=_PATIENCE),
    "music": DynamicsSettings(drift=_DRIFT, satiation=_SATIATION, novelty=_NOVELTY, patience=_PATIENCE),
    "news": DynamicsSettings(drift=_DRIFT, trust=_TRUST, novelty=_NOVELTY, patience=_PATIENCE, comeback=_RETURN),
    "course": DynamicsSettings(drift=_DRIFT, trust=_TRUST, budget=_BUDGET, patience=_PATIENCE),
    "social": DynamicsSettings(
        drift=_DRIFT, trust=_TRUST, satiation=_SATIATION, patience=_PATIENCE, comeback=_RETURN
    ),
}
"""What moves users in each domain; any of it can be replaced by the `dynamics` of an environment."""

SCENARIOS = ("none", "cold-start", "popularity-loop", "clickbait", "seasonality", "shift", "adversarial-text")


@lru_cache(maxsize=4)
def _world(config: WorldConfig, seed: int) -> World:
    return generate_world(config, seed)


def domain_users(
    domain: str,
    *,
    language: str = "en",
    users: int = 500,
    items: int = 300,
    slates_per_user: int = 4,
    scenario: str | ScenarioSettings = "none",
    world_seed: int = 0,
) -> WorldUsers:
    """The users of a generated world of a domain; the last four worlds are kept.

    Raises:
        ConfigError: An unknown domain, language or scenario, or sizes that cannot be met.
    """
    if domain not in DOMAINS:
        raise ConfigError(f"There is no domain {domain!r}; choose one of {', '.join(DOMAINS)}.")
    if isinstance(scenario, str) and scenario not in SCENARIOS:
        raise ConfigError(f"There is no scenario {scenario!r}; choose one of {', '.join(SCENARIOS)}.")
    kind = scenario if isinstance(scenario, ScenarioSettings) else ScenarioSettings(kind=cast(Any, scenario))
    config = WorldConfig(
        domain=cast(Any, domain),
        language=cast(Literal["en", "zh"], language),
        users=users,
        items=items,
        slates_per_user=slates_per_user,
        # A world's logged slates cannot be longer than its catalogue.
        slate_size=min(10, items),
        scenario=kind,
    )
    return WorldUsers.of(_world(config, world_seed))


def _parts(domain: str, options: dict[str, Any]) -> tuple[Population, dict[str, Any]]:
    """Population and the environment's own arguments, out of the arguments of `gymnasium.make`."""
    world = {key: options.pop(key) for key in _WORLD_KEYS if key in options}
    population = options.pop("population", None) or domain_users(domain, **world)
    sizes = {key: options.pop(key) for key in ("slate_size", "turns") if key in options}
    settings = dataclasses.replace(options.pop("settings", None) or EnvironmentSettings(), **sizes)
    # The domain's own dynamics stand first, so that the caller's replace them.
    return population, {"dynamics": DOMAINS[domain], **options, "settings": settings}


_WORLD_KEYS = ("language", "users", "items", "slates_per_user", "scenario", "world_seed")


def make_single(domain: str, **options: Any) -> RecEnv:
    """Entry point of the registered ids: the arguments of `domain_users` and of `RecEnv`, `slate_size`, `turns`."""
    population, rest = _parts(domain, options)
    return RecEnv(population, **rest)


def make_vector(domain: str, num_envs: int = 1, **options: Any) -> VectorRecEnv:
    """Vector entry point of the registered ids; see `make_single`."""
    population, rest = _parts(domain, options)
    return VectorRecEnv(population, num_envs, **rest)
