"""Texts as vectors by a sentence-transformers model: a Hub id, or a folder whose `modules.json` says its pooling."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.errors import ConfigError

MODULE, EXTRA = "sentence_transformers", "embeddings"
VARIABLE = "LLMREC_EMBEDDINGS"
"""Environment variable that names the model where no setting does."""
_KEPT = 200_000


class SentenceEncoder:
    """Texts (n,) to float32 (n, H), as the model's own modules say: pooling, normalisation, a longest text.

    Args:
        model: a loaded `SentenceTransformer`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._cache: dict[str, npt.NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """The vectors of `texts`; those met before are looked up."""
        if len(self._cache) > _KEPT:
            self._cache.clear()
        fresh = [text for text in dict.fromkeys(texts) if text not in self._cache]
        if fresh:
            found = self.model.encode(fresh, show_progress_bar=False, convert_to_numpy=True)
            self._cache.update(zip(fresh, np.asarray(found, dtype=np.float32), strict=True))
        return np.stack([self._cache[text] for text in texts])


def sentence_encoder(name: str | None = None, *, asked: str = "The encoder of sentences") -> SentenceEncoder:
    """The sentence-transformers model `name`, by default that of `LLMREC_EMBEDDINGS`; kept for the last two names.

    Args:
        name: Hub id or folder.
        asked: what needs it, for errors.

    Raises:
        ConfigError: no name, the package is not installed, or the model cannot be loaded.
    """
    name = name or os.environ.get(VARIABLE)
    if not name:
        raise ConfigError(
            f"{asked} needs a model: set {VARIABLE} to a folder or a Hub id such as "
            "sentence-transformers/all-MiniLM-L6-v2."
        )
    check_model(name, asked)
    place = Path(name).expanduser()
    try:
        return _loaded(str(place) if place.exists() else name)
    except ImportError:
        raise ConfigError(
            f"{asked} needs sentence-transformers, which is not installed: pip install llmrec[{EXTRA}]."
        ) from None
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{asked} cannot load the sentence-transformers model {name!r} ({reason}).") from error


def check_model(name: str, asked: str) -> None:
    """Refuses a folder that is none or holds no model, before anything is loaded; a Hub id passes.

    Raises:
        ConfigError: see above.
    """
    place = Path(name).expanduser()
    if place.is_dir():
        if not (place / "config.json").is_file() and not (place / "modules.json").is_file():
            raise ConfigError(f"{asked}: the folder {name!r} holds no model (no modules.json and no config.json).")
    elif place.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ConfigError(f"{asked}: {name!r} is no folder; give that of a sentence-transformers model, or a Hub id.")


@lru_cache(maxsize=2)
def _loaded(name: str) -> SentenceEncoder:
    from sentence_transformers import SentenceTransformer

    # nothing that is fetched is unpickled, and no code of strangers runs
    options: dict[str, Any] = {"trust_remote_code": False, "model_kwargs": {"use_safetensors": True}}
    return SentenceEncoder(SentenceTransformer(name, **options))
