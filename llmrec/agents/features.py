"""What an agent sees of a state, in numbers: the same function in training and in deployment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.catalogue.identifiers.embeddings import covisitation_embedding, joined, text_embedding
from llmrec.errors import DataError, RunError
from llmrec.files import read_json, write_json
from llmrec.seeding import stream_seed
from llmrec.simulator.features import FeatureSpace
from llmrec.types import FloatArray, Item, State

Float32Array = npt.NDArray[np.float32]

_FLOOR = 0.1  # of the widest column: directions that hardly vary are not blown up to noise
_LIMIT = 5.0
_ARRAYS, _FACTS = "features.npz", "features.json"


class StateFeatures:
    """Profile, history and session of a state as one row of numbers.

    The rows are those that behaviour models read (`simulator.features`: text of the profile, recency-weighted means
    of texts, categories and prices by kind of feedback), and log(1 + shown, clicked, converted) of the session, so
    that an agent can tell how far a session is. Columns are centred and scaled to about 1 over the fitted states.
    """

    def __init__(self, space: FeatureSpace, mean_D: FloatArray, scale_D: FloatArray) -> None:
        self.space = space
        self.mean_D, self.scale_D = np.asarray(mean_D, np.float32), np.asarray(scale_D, np.float32)

    @classmethod
    def fit(
        cls, items: Sequence[Item], states: Sequence[State], shown_N: npt.ArrayLike | None = None, *, seed: int = 0
    ) -> StateFeatures:
        """Fits encoders and scales on the catalogue and on training states.

        Args:
            items: the catalogue.
            states: states of the training part.
            shown_N: impressions of each item in the training part; by default none.
            seed: run seed.

        Raises:
            DataError: no state or no item, or one that cannot be encoded.
        """
        if not len(states) or not len(items):
            raise DataError(f"Features need an item and a state to be fitted on, not {len(items)} and {len(states)}.")
        shown = np.zeros(len(items)) if shown_N is None else np.asarray(shown_N, dtype=np.float64)
        space = FeatureSpace.fit(items, states, shown, seed=stream_seed(seed, "agents", "features"))
        own = cls(space, np.zeros(1), np.ones(1))
        rows_SD = own._rows(states).astype(np.float64)
        deviation_D = rows_SD.std(axis=0)
        floor = max(_FLOOR * float(deviation_D.max()), 1e-6)
        return cls(space, rows_SD.mean(axis=0), np.maximum(deviation_D, floor))

    @property
    def width(self) -> int:
        """D, the length of a row."""
        return len(self.mean_D)

    def encode(self, states: Sequence[State]) -> Float32Array:
        """Rows of `states`, (B, D) float32 within -5..5; raises `DataError` for an item outside the catalogue."""
        if not len(states):
            return np.zeros((0, self.width), dtype=np.float32)
        rows_BD = (self._rows(states) - self.mean_D) / self.scale_D
        # a state far from all that was fitted must not blow up a network's values
        clipped_BD: Float32Array = np.clip(rows_BD, -_LIMIT, _LIMIT).astype(np.float32)
        return clipped_BD

    def _rows(self, states: Sequence[State]) -> FloatArray:
        kinds = ("click", "conversion")
        counts = [[len(s.session), *(sum(i.feedback == kind for i in s.session) for kind in kinds)] for s in states]
        return np.concatenate([self.space.encode(states).dense_SF, np.log1p(counts)], axis=1)

    def save(self, folder: Path) -> None:
        """Writes arrays and facts into `folder`."""
        arrays, values = self.space.state()
        np.savez(folder / _ARRAYS, mean=self.mean_D, scale=self.scale_D, **arrays)  # type: ignore[arg-type]
        write_json(folder / _FACTS, values)

    @classmethod
    def load(cls, folder: Path, items: Sequence[Item]) -> StateFeatures:
        """The inverse of `save` for the same catalogue; raises `RunError`."""
        values = read_json(folder / _FACTS)
        if values["known"] != [item.item_id for item in items]:
            raise RunError(f"{folder / _FACTS} was made for another catalogue; give the items it was trained with.")
        arrays = load_arrays(folder / _ARRAYS)
        return cls(FeatureSpace.restore(items, arrays, values), arrays["mean"], arrays["scale"])


def item_embeddings(
    items: Sequence[Item], item_lists: Sequence[Sequence[int]], dimensions: int = 64, *, seed: int = 0
) -> Float32Array:
    """Items as vectors (N, E): half the variance from their texts, half from what users take together.

    TF-IDF of the texts and mutual information of co-visits, each by truncated SVD to at most `dimensions` columns
    (`catalogue.identifiers.embeddings`). A part that knows nothing is left out; mean squared length 1.

    Args:
        items: the catalogue.
        item_lists: item indices that each user took, oldest first, of the training part.
        dimensions: of each part.
        seed: run seed.
    """
    own = stream_seed(seed, "agents", "embeddings")
    parts = [text_embedding(items, dimensions, own)]
    if any(len(row) > 1 for row in item_lists):
        parts.append(covisitation_embedding(item_lists, len(items), dimensions, own))
    return joined(parts, [1.0] * len(parts))


def load_arrays(path: Path) -> dict[str, Any]:
    """The arrays of an .npz file, without pickles; raises `RunError` where it is missing or broken."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise RunError(f"{path} does not exist; give the folder of a saved agent.") from None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read ({' '.join(str(error).split())[:120]}); save the agent anew."
        ) from None
