"""Meta-training: over tasks, find the adapter from which few inner steps lead far.

Reptile (Nichol, Achiam and Schulman 2018) moves the adapter to where the inner steps of the tasks lead; first-order
MAML (Finn, Abbeel and Levine 2017) along the gradient of each task's query loss at the adapted weights, as if these
did not depend on where they started. "joint" takes that gradient at the adapter itself: plain learning of all tasks
at once, which is multi-task learning and the control of the other two.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmrec.adaptation.inner import InnerSettings, fresh_adapter, gradient_at, inner_steps
from llmrec.adaptation.tasks import Task, Tasks
from llmrec.errors import ConfigError, RunError
from llmrec.files import new_file, read_json, sha256_of, write_json
from llmrec.progress import Bar, silent
from llmrec.seeding import stream_seed
from llmrec.training.lora import Adapter

METHODS = ("reptile", "fomaml", "joint")
_BETAS = (0.9, 0.999)
STATE, FACTS = "meta.safetensors", "meta.json"


@dataclass(frozen=True, kw_only=True)
class MetaSettings:
    """How an adapter is meta-trained."""

    method: Literal["reptile", "fomaml", "joint"] = "reptile"
    steps: int = 40
    """Outer steps."""
    tasks: int = 3
    """Tasks of an outer step, whose directions are averaged."""
    rate: float = 0.5
    """Of the outer step: with sgd the share of the way (reptile) or the rate of descent; with adam Adam's."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    inner: InnerSettings = field(default_factory=InnerSettings)
    save_every: int = 10
    """Outer steps between states that a killed training goes on from."""

    def check(self) -> None:
        """Raises `ConfigError` for what cannot work."""
        if self.method not in METHODS:
            raise ConfigError(f"Key 'method' is {self.method!r}; choose one of {', '.join(METHODS)}.")
        if self.optimizer not in ("sgd", "adam"):
            raise ConfigError(f"Key 'optimizer' is {self.optimizer!r}; choose sgd or adam.")
        for key in ("steps", "tasks", "rate", "save_every"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"Key {key!r} is {getattr(self, key)}; it must be above 0.")
        self.inner.check()


@dataclass(frozen=True)
class MetaTrained:
    """What meta-training leaves: the adapter, and for each outer step its number and the length of the step."""

    adapter: Adapter
    curve: list[dict[str, float]]


def meta_train(
    model: Any,
    tokenizer: Any,
    tasks: Tasks,
    settings: MetaSettings,
    *,
    seed: int,
    scratch: Path,
    start: Adapter | None = None,
    on_step: Callable[[int, Adapter], object] | None = None,
) -> MetaTrained:
    """Meta-trains an adapter of the plain `model` over `tasks`.

    Args:
        model: left as it is.
        tokenizer: of the model.
        tasks: the distribution.
        settings: method, steps, inner steps.
        seed: of the adapter that begins and of the inner steps.
        scratch: of the inner trainers; a killed training goes on from the last state that it kept there.
        start: an adapter to go on from, in place of a fresh one.
        on_step: called behind each outer step with its number and the adapter.

    Raises:
        ConfigError: settings that cannot work.
        DataError: a task without anything to learn from.
        RunError: a gradient that is not finite.
    """
    settings.check()
    first = fresh_adapter(model, settings.inner.lora, seed) if start is None else start
    outer = _Outer(first, settings)
    decides = sha256_of(repr((settings, seed, tasks.kind, tasks.support, tasks.query, tasks.seed, _sums(first))))
    curve = outer.resume(scratch, decides)
    with _settled(), Bar(f"Meta-training ({settings.method})", settings.steps - len(curve)) as bar:
        for step in range(len(curve), settings.steps):
            adapter = outer.adapter
            ways = [
                _direction(
                    model, tokenizer, task, adapter, settings, stream_seed(seed, "adaptation", step, n), scratch
                )
                for n, task in enumerate(tasks.draw(step, settings.tasks))
            ]
            length = outer.step(mean_of(ways))
            curve.append({"step": step + 1.0, "length": length})
            if (step + 1) % settings.save_every == 0 and step + 1 < settings.steps:
                outer.keep(scratch, decides, curve)
            if on_step is not None:
                on_step(step + 1, outer.adapter)
            bar.advance(1)
    return MetaTrained(outer.adapter, curve)


@contextmanager
def _settled() -> Iterator[None]:
    """Leaves what is there now out of garbage collection, which every trainer asks for at its end."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _direction(
    model: Any, tokenizer: Any, task: Task, adapter: Adapter, settings: MetaSettings, seed: int, scratch: Path
) -> dict[str, Tensor]:
    """The gradient of one task for the outer step: what is descended."""
    given: dict[str, Any] = {"seed": seed % 2**31, "scratch": scratch / "inner"}
    with silent():
        if settings.method == "joint":
            return gradient_at(task.place, model, tokenizer, adapter, task.query, settings.inner, **given)
        adapted = inner_steps(task.place, model, tokenizer, adapter, task.support, settings.inner, **given)
        if settings.method == "reptile":
            return {name: tensor - adapted.tensors[name] for name, tensor in adapter.tensors.items()}
        return gradient_at(task.place, model, tokenizer, adapted, task.query, settings.inner, **given)


def mean_of(ways: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean over tasks, tensor by tensor."""
    return {name: torch.stack([way[name] for way in ways]).mean(dim=0) for name in ways[0]}


class _Outer:
    """The adapter that is meta-trained, with its optimiser."""

    def __init__(self, first: Adapter, settings: MetaSettings) -> None:
        self._config = first.config
        self._tensors = {name: tensor.detach().clone().requires_grad_() for name, tensor in first.tensors.items()}
        kinds: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
        more = {"betas": _BETAS} if settings.optimizer == "adam" else {}
        self._optimizer = kinds[settings.optimizer](list(self._tensors.values()), lr=settings.rate, **more)

    @property
    def adapter(self) -> Adapter:
        """A copy of it."""
        return Adapter(self._config, {name: tensor.detach().clone() for name, tensor in self._tensors.items()})

    def step(self, gradient: Mapping[str, Tensor]) -> float:
        """Descends `gradient`; the length of the step."""
        before = {name: tensor.detach().clone() for name, tensor in self._tensors.items()}
        for name, tensor in self._tensors.items():
            tensor.grad = gradient[name].to(tensor.dtype)
        self._optimizer.step()
        moved = [(tensor.detach() - before[name]).square().sum() for name, tensor in self._tensors.items()]
        length = float(torch.stack(moved).sum().sqrt())
        if not length < float("inf"):
            raise RunError("The outer step of the meta-training is not finite; lower its rate.")
        return length

    def keep(self, scratch: Path, decides: str, curve: list[dict[str, float]]) -> None:
        """Writes down where it is, whole or not at all."""
        scratch.mkdir(parents=True, exist_ok=True)
        found = {f"adapter.{name}": tensor.detach() for name, tensor in self._tensors.items()}
        for name, tensor in self._tensors.items():
            for key, value in self._optimizer.state.get(tensor, {}).items():
                found[f"{key}.{name}"] = torch.as_tensor(value)
        with new_file(scratch / STATE) as place:
            save_file({key: tensor.contiguous().clone() for key, tensor in found.items()}, place)
        write_json(scratch / FACTS, {"decides": decides, "curve": curve, "sha256": _hash(scratch / STATE)})

    def resume(self, scratch: Path, decides: str) -> list[dict[str, float]]:
        """Goes on from what `keep` wrote for the same training; the curve up to there."""
        try:
            facts = read_json(scratch / FACTS)
            if facts["decides"] != decides or facts["sha256"] != _hash(scratch / STATE):
                return []
        except (RunError, OSError, KeyError, TypeError):
            return []
        found = load_file(scratch / STATE)
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(found[f"adapter.{name}"])
                keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in found]
                if keys:
                    self._optimizer.state[tensor] = {key: found[f"{key}.{name}"] for key in keys}
        return list(facts["curve"])


def _hash(place: Path) -> str:
    return sha256_of(place.read_bytes())


def _sums(adapter: Adapter) -> list[tuple[str, float]]:
    return [(name, float(tensor.double().sum())) for name, tensor in sorted(adapter.tensors.items())]
