"""A finished run as the warm start of online learning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from llmrec.errors import RunError
from llmrec.export import CARD, read_bundle
from llmrec.files import matching, sha256_of
from llmrec.online.update import OnlineSettings, Updater
from llmrec.online.versions import Versions
from llmrec.pipeline.opening import read_config
from llmrec.storage import shown
from llmrec.training.improvement import WarmStart
from llmrec.written import file_hash

_DECIDES = matching(
    *("*.safetensors", "tokenizer*", "catalogue/*", "identifiers/*", "prompts/*", "adapter_config.json"),
)


def deployed(run: Path, versions: Path, settings: OnlineSettings, *, seed: int | None = None) -> Updater:
    """An updater that goes on from what the run folder `run` recommends by.

    Args:
        run: the run folder; what clicks and conversions are worth stands in its configuration.
        versions: where versions go.
        settings: of updates.
        seed: of updates; by default the run's.

    Raises:
        RunError: no run folder.
        ConfigError: settings that cannot work.
    """
    if not (run / CARD).is_file():
        raise RunError(f"{shown(run)} is not a run folder ({CARD} is missing); give a folder that `llmrec run` made.")
    settings.check()
    config = read_config(run)
    own = config.seed if seed is None else seed
    return Updater(Versions(versions), _start(run, own), config.reward, settings, own, origin_of(run))


def origin_of(run: Path) -> str:
    """A hash of all that a run folder recommends by: weights, tokenizer, catalogue and wording."""
    names = sorted(name for name in _DECIDES(run) if (run / name).is_file())
    return sha256_of(json.dumps([(name, file_hash(run / name)) for name in names]))


def _start(run: Path, seed: int) -> Callable[[], WarmStart]:
    def start() -> WarmStart:
        policy = read_bundle(run).policy
        return WarmStart(policy.model, policy.tokenizer, policy.catalogue, policy.renderer, policy.repeat, seed)

    return start
