"""Reward functions of one's own, named in the configuration as "package.module:function" or "file.py:function".

They are code, and naming one runs it: only a person's own configuration may, never one that came with a model.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from llmrec.config import TRUST_CODE, RewardSettings, Unvouched
from llmrec.errors import ConfigError
from llmrec.files import sha256_of
from llmrec.printing import short_line
from llmrec.rewards.next_item import known_targets
from llmrec.rewards.term import CustomReward, RewardTerm, needs_target
from llmrec.rewards.trl import TRLTerm, Written
from llmrec.types import Example, State

TRL_NAMES = frozenset({"prompts", "completions", "completion_ids"})


def load_custom(spec: str) -> Callable[..., Any]:
    """The function that `spec` names.

    Raises:
        ConfigError: it cannot be imported or called, or only a file names it.
    """
    if isinstance(spec, Unvouched):
        raise ConfigError(
            f"Key 'reward.custom' in a file names {short_line(spec)}, which is code that would run here; look at it, "
            f"then add --trust-code (or set {TRUST_CODE}=1), or name it yourself with --set reward.custom=..."
        )
    where, colon, name = spec.rpartition(":")
    if not (where and colon and name.isidentifier()):
        raise ConfigError(
            f"Key 'reward.custom' holds {spec!r}; write it as package.module:function or file.py:function."
        )
    function = getattr(_module(where, spec), name, None)
    if function is None:
        raise ConfigError(f"Key 'reward.custom' holds {spec!r}, but {where} has no {name!r}; name what it defines.")
    if not callable(function) or isinstance(function, type):
        raise ConfigError(f"Key 'reward.custom' holds {spec!r}, which is no function; name a function.")
    return function  # type: ignore[no-any-return]


def _module(where: str, spec: str) -> ModuleType:
    try:
        if not where.endswith(".py"):
            with _here():
                return importlib.import_module(where)
        path = Path(where)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {where}")
        found = importlib.util.spec_from_file_location(path.stem, path)
        assert found is not None
        assert found.loader is not None
        # not put into `sys.modules`: a file called random.py must not take the place of Python's
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        return module
    except Exception as error:  # whatever the person's own module raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"Key 'reward.custom' holds {spec!r}, which cannot be imported ({reason}); install the package, mend the "
            "module, or give the path of its file."
        ) from None


@contextlib.contextmanager
def _here() -> Iterator[None]:
    """Lets modules of the current folder be imported, as `python` does and a command of a package does not."""
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
        importlib.invalidate_caches()
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)


def custom_term(
    spec: str,
    weight: float,
    catalogue: Written | None,
    prompts: Callable[[Sequence[State]], Sequence[str]] | None,
    targets: Sequence[Example] = (),
) -> RewardTerm:
    """The function named by `spec` as a term, named by the function.

    A function with a parameter `prompts`, `completions` or `completion_ids`, or with `**fields`, is called in TRL's
    signature (`TRLTerm`), any other as `function(state, items_K)` (`CustomReward`). An attribute `list_level = True`
    of the function keeps it from independent draws. One with `needs_target = True` knows the logged next item: it is
    given the field `target`, or a third argument.

    Raises:
        ConfigError: It cannot be imported, takes other arguments, or needs texts that are not there.
    """
    function, name = load_custom(spec), spec.rpartition(":")[2]
    logged = known_targets(targets, name) if needs_target(function) else None
    if not _wants_trl(function):
        try:
            inspect.signature(function).bind(None, (), *([] if logged is None else [()]))
        except TypeError:
            wanted = "(state, items)" if logged is None else "(state, items, targets)"
            raise ConfigError(
                f"Reward {name!r} takes neither {wanted} nor TRL's (prompts, completions, completion_ids, "
                "**fields); change its parameters to one of these."
            ) from None
        marks = bool(getattr(function, "list_level", False)), getattr(function, "causal", None)
        return CustomReward(name, weight, function, *marks, logged=logged)
    if catalogue is None or prompts is None:
        raise ConfigError(
            f"Reward {name!r} in TRL's signature reads prompts and titles, which are not there before a policy is; "
            "write it as function(state, items) instead."
        )
    return TRLTerm(name, weight, function, catalogue, prompts, logged=logged)


def _wants_trl(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.name in TRL_NAMES or p.kind is p.VAR_KEYWORD for p in parameters)


def custom_digest(settings: RewardSettings) -> str:
    """SHA-256 over the sources of the modules of `settings.custom`, to tell a run whose functions have changed."""
    sources = []
    for spec in settings.custom:
        function = load_custom(spec)
        try:
            path = inspect.getsourcefile(inspect.unwrap(function))
        except TypeError:  # a builtin, or an object with __call__
            path = inspect.getsourcefile(type(function)) if inspect.getmodule(type(function)) else None
        sources.append(Path(path).read_text(encoding="utf-8") if path else spec)
    return sha256_of(*settings.custom, *sources)
