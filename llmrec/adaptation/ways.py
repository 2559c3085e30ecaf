"""Three ways of adapting behind one call: `adapt(policy, sessions)` gives the policy that serves from now on.

    policy = FewSteps(place, InnerSettings(steps=8), scratch, start=meta_trained.adapter).adapt(policy, sessions)

The policy that is given is left as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from peft import PeftModel

from llmrec.adaptation.inner import InnerSettings, fresh_adapter, inner_steps
from llmrec.adaptation.sessions import Sessions
from llmrec.adaptation.tasks import Place
from llmrec.config import LoraSettings
from llmrec.errors import ConfigError, RunError
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.training.lora import Adapter, adapter_of, make_lora, put_adapter, weigh_adapters
from llmrec.types import FloatArray

_ROUNDS = 200


class Adaptation(Protocol):
    """Makes a policy of what it was and of the first sessions of somebody or something new."""

    def adapt(self, policy: LanguagePolicy, sessions: Sessions) -> LanguagePolicy:
        """The adapted policy; `policy` stays as it was."""
        ...


@dataclass(frozen=True)
class InContext:
    """The state tells it all: a policy that was trained over tasks reads feedback, and nothing is computed here.

    Sessions of a person stand in that person's own state (`State.session`, `State.history`) when the policy is asked.
    """

    def adapt(self, policy: LanguagePolicy, sessions: Sessions) -> LanguagePolicy:
        """The policy itself."""
        return policy


@dataclass(frozen=True)
class FewSteps:
    """A few inner steps of an adapter: from a meta-trained one (MAML, Reptile), or from a fresh one (fine-tuning).

    Attributes:
        place: where the sessions took place; its items and wording are those of the policy.
        settings: the inner steps.
        scratch: folder of the trainer.
        start: the adapter to start from; None begins a fresh one, which is plain fine-tuning.
        seed: of the fresh adapter and of the order of rows.
    """

    place: Place
    settings: InnerSettings
    scratch: Path
    start: Adapter | None = None
    seed: int = 0

    def adapt(self, policy: LanguagePolicy, sessions: Sessions) -> LanguagePolicy:
        """The policy with the adapter that the steps leave.

        Raises:
            ConfigError: settings that cannot work.
            DataError: the sessions teach nothing.
            RunError: the policy has an adapter already, or `start` was made for another model.
        """
        self.settings.check()
        model = copy.deepcopy(plain_model(policy))
        start = self.start or fresh_adapter(model, self.settings.lora, self.seed)
        made = inner_steps(
            self.place,
            model,
            policy.tokenizer,
            start,
            sessions,
            self.settings,
            seed=self.seed,
            scratch=self.scratch,
        )
        return with_adapter(policy, made, model)


@dataclass(frozen=True)
class Library:
    """Adapters by name, of which a task takes the nearest, or a mixture.

    What is near is told by the sessions: an adapter is worth log pi of what was chosen, weighed by what it earned
    over how likely it was shown. "nearest" takes the best adapter whole, "mixture" the sum of all with the weights
    under which a mixture of the policies makes the choices likeliest (EM), as one adapter of the summed ranks.

    Attributes:
        adapters: by name.
        place: where the sessions took place.
        route: how they are chosen.
        prior: pseudo-choices that are spread over the adapters: so many more are needed before one is left out.
    """

    adapters: dict[str, Adapter]
    place: Place
    route: Literal["nearest", "mixture"] = "nearest"
    prior: float = 1.0
    chosen: dict[str, float] = field(default_factory=dict)

    def adapt(self, policy: LanguagePolicy, sessions: Sessions) -> LanguagePolicy:
        """The policy with the adapter, or the weighted sum of adapters, that the sessions ask for.

        Raises:
            ConfigError: an empty library or an unknown route.
            DataError: nothing was chosen in the sessions.
            RunError: adapters that do not fit the model, or one another.
        """
        if not self.adapters or self.route not in ("nearest", "mixture"):
            raise ConfigError("A library needs one adapter or more, and a route: nearest or mixture.")
        weights = self.weights(policy, sessions)
        self.chosen.clear()
        self.chosen.update(weights)
        if self.route == "nearest":
            return with_adapter(policy, self.adapters[max(weights, key=lambda name: weights[name])])
        kept = [name for name, weight in weights.items() if weight > 1e-3]
        total = sum(weights[name] for name in kept)
        parts, shares = [self.adapters[name] for name in kept], [weights[name] / total for name in kept]
        return with_adapter(policy, weigh_adapters(parts, shares))

    def weights(self, policy: LanguagePolicy, sessions: Sessions) -> dict[str, float]:
        """What each adapter counts in these sessions, with the sum 1: 1 of the nearest, or the mixture's."""
        log_PB, weight_B = self.evidence(policy, sessions)
        if self.route == "nearest":
            best = int(np.argmax(log_PB @ weight_B))
            return {name: float(n == best) for n, name in enumerate(self.adapters)}
        return dict(zip(self.adapters, mixture_weights(log_PB, weight_B, self.prior).tolist(), strict=True))

    def evidence(self, policy: LanguagePolicy, sessions: Sessions) -> tuple[FloatArray, FloatArray]:
        """log pi of what was chosen under each adapter, (P, B), and what each choice counts, (B,).

        Choices stand as often as they count (`Sessions.choices`), so the counts are 1.
        """
        examples = sessions.choices(self.place.group_N, 0)
        states = [example.state for example in examples]
        items = torch.tensor([[example.target] for example in examples])
        found = []
        for adapter in self.adapters.values():
            adapted = with_adapter(policy, adapter)
            with torch.no_grad():
                found.append(adapted.log_prob(states, items)[:, 0].double().cpu().numpy())
        return np.stack(found), np.ones(len(examples))


def mixture_weights(log_PB: FloatArray, weight_B: FloatArray, prior: float = 1.0) -> FloatArray:
    """Weights (P,) of a mixture that make B weighed choices likeliest, by EM (Dempster, Laird and Rubin 1977).

    Args:
        log_PB: log-probability of each choice under each part.
        weight_B: what each choice counts.
        prior: pseudo-choices, spread evenly over the parts.
    """
    likely_PB = np.exp(log_PB - log_PB.max(axis=0))
    share_P = np.full(len(log_PB), 1.0 / len(log_PB))
    for _ in range(_ROUNDS):
        joint_PB = share_P[:, None] * likely_PB
        count_P = (weight_B * joint_PB / joint_PB.sum(axis=0)).sum(axis=1) + prior / len(log_PB)
        share_P = count_P / count_P.sum()
    return np.asarray(share_P)


def plain_model(policy: LanguagePolicy) -> Any:
    """The policy's model.

    Raises:
        RunError: it has an adapter, which would have to be merged first.
    """
    if isinstance(policy.model, PeftModel):
        raise RunError("The policy has an adapter already; merge it into the weights before it is adapted.")
    return policy.model


def with_adapter(policy: LanguagePolicy, adapter: Adapter, model: Any | None = None) -> LanguagePolicy:
    """The policy with `adapter` on a copy of its plain model (or on `model`, which is used up).

    Raises:
        RunError: the adapter was made for another model.
    """
    plain = copy.deepcopy(plain_model(policy)) if model is None else model
    own = LoraSettings(rank=int(adapter.config.r), alpha=int(adapter.config.lora_alpha))
    made = put_adapter(make_lora(plain, own), adapter)
    adapted = LanguagePolicy(made.eval(), policy.tokenizer, policy.catalogue, policy.renderer, policy.repeat)
    if policy.filters is not None:
        adapted.set_attributes(policy.filters.attributes)
    return adapted


def adapter_in(policy: LanguagePolicy) -> Adapter | None:
    """The adapter that an adapted policy has; None where it was adapted in context."""
    return adapter_of(policy.model) if isinstance(policy.model, PeftModel) else None


def library_of(
    places: Sequence[Place], policy: LanguagePolicy, settings: InnerSettings, *, seed: int, scratch: Path
) -> dict[str, Adapter]:
    """An adapter for each place, by inner steps on all of its sessions from one fresh adapter."""
    model = copy.deepcopy(plain_model(policy))
    first = fresh_adapter(model, settings.lora, seed)
    return {
        place.name: inner_steps(
            place, model, policy.tokenizer, first, place.sessions, settings, seed=seed, scratch=scratch
        )
        for place in places
    }
