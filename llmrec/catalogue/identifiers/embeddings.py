"""Items as vectors: from their texts, from a model, from a column, and from what users take together.

Every function returns float32 (N, D) in item order, centred and scaled to a total variance of 1, so that `joined` can
give each part its share. An item of which a part knows nothing stands at that part's centre, 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.sparse as sp

from llmrec.bounded import read_parquet
from llmrec.errors import DataError
from llmrec.printing import one_line
from llmrec.progress import Bar
from llmrec.seeding import stream_seed
from llmrec.types import Item
from llmrec.vectors.sentences import sentence_encoder
from llmrec.vectors.space import Encode, encoded, item_text
from llmrec.vectors.words import WordSpace, unspaced

Vectors = npt.NDArray[np.float32]

WINDOW, DECAY = 10, 0.8
"""Places between two items of a list that still count, and the weight that each further place costs."""
_SMOOTHING = 0.75
_POWERS = 7  # power iterations: the spectrum of mutual information falls slowly


def text_embedding(items: Sequence[Item], dimensions: int, seed: int) -> Vectors:
    """TF-IDF of "title title brand categories description" (`vectors.words`), by truncated SVD."""
    texts = [" ".join((i.title, i.title, i.brand, *i.categories, i.description)) for i in items]
    # Terms of one item alone say nothing of likeness; only where no term is shared do they count.
    space = WordSpace.fit(texts, characters=unspaced(texts), least=(2, 1))
    return scaled(reduced(space.rows_NV, dimensions, seed))


def model_embedding(items: Sequence[Item], encode: Encode) -> Vectors:
    """Vectors of the items' texts by `encode`, for example `policy.mean_hidden.TextEncoder` of the base model.

    Raises:
        DataError: `encode` gives another number of vectors, or one that is not finite.
    """
    return scaled(encoded([item_text(item) for item in items], encode, [item.item_id for item in items]))


def sentence_embedding(items: Sequence[Item], model_name: str) -> Vectors:
    """Vectors of the items' texts by a sentence-transformers model (Hub id or folder).

    Raises:
        ConfigError: the package is not installed, or the model cannot be loaded.
        DataError: a vector that is not finite.
    """
    encode = sentence_encoder(model_name, asked="identifiers.embedding: sentence-transformers (identifiers.source)")
    return model_embedding(items, encode)


def column_embedding(items: Sequence[Item], path: Path) -> Vectors:
    """Vectors that the user supplies (of images, audio, anything): Parquet with columns item_id and embedding.

    Rows of other items are left out.

    Raises:
        DataError: the file, a column or a row that cannot be used, by name and number (rows count from 1).
    """
    try:
        table = read_parquet(path)
    except FileNotFoundError:
        raise DataError(f"{path} (identifiers.source) does not exist; give a Parquet file.") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not a Parquet file ({one_line(error, 120)}).") from None
    missing = [name for name in ("item_id", "embedding") if name not in table.columns]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}; it needs item_id and embedding (lists of numbers).")
    kind = table.schema["embedding"]
    if not isinstance(kind, pl.List | pl.Array) or not (kind.inner or pl.Null()).is_numeric():
        raise DataError(f"Column 'embedding' of {path} holds {kind}; it must hold lists of numbers.")
    row_of = _rows_by_id(table["item_id"].cast(pl.String).to_list(), path)
    lists = table["embedding"].to_list()
    for item in items:
        if item.item_id not in row_of:
            raise DataError(f"{path} has no row for item {item.item_id!r}; add one to it.")
    width = len(lists[row_of[items[0].item_id]] or ()) if items else 0
    rows = [_checked(lists[row_of[item.item_id]], row_of[item.item_id], width, path) for item in items]
    return scaled(np.array(rows, dtype=np.float32))


def covisitation_embedding(item_lists: Sequence[Sequence[int]], n_items: int, dimensions: int, seed: int) -> Vectors:
    """Vectors of items that stand near one another in users' lists.

    Counts decay with distance (`DECAY` a place, up to `WINDOW`) and become positive pointwise mutual information with
    smoothed contexts (Levy, Goldberg and Dagan 2015, "Improving Distributional Similarity with Lessons Learned from
    Word Embeddings"). The vectors are (U + V) sqrt(S) of its truncated SVD: word and context vectors added, as they
    advise, or two items that are seen with each other alone would stand at right angles. Items without company get
    zeros.

    Args:
        item_lists: the item indices of each user, in the order of time.
    """
    weights_NN = _information(_company(item_lists, n_items))
    there_N = np.diff(weights_NN.indptr) > 0
    vectors_ND = np.zeros((n_items, 1), dtype=np.float32)
    if there_N.any():
        vectors_ND = _factor(weights_NN, dimensions, seed)
    return scaled(vectors_ND, there_N)


def joined(parts: Sequence[Vectors], shares: Sequence[float]) -> Vectors:
    """The parts side by side, each with its share of the total variance."""
    total = sum(shares)
    # Each part has a mean squared length of 1, so its share of squared distances is its share of the sum.
    weighted = [math.sqrt(share / total) * part for part, share in zip(parts, shares, strict=True)]
    return np.concatenate(weighted, axis=1).astype(np.float32)


def reduced(vectors: Any, dimensions: int, seed: int) -> npt.NDArray[np.floating]:
    """`vectors` (N, V), dense or sparse, by truncated SVD to at most `dimensions` columns."""
    from sklearn.decomposition import TruncatedSVD

    width = min(dimensions, vectors.shape[1] - 1, vectors.shape[0])
    if width < 1 or (width == vectors.shape[1] - 1 and not sp.issparse(vectors)):
        return vectors.toarray() if sp.issparse(vectors) else np.asarray(vectors)
    svd = TruncatedSVD(width, random_state=stream_seed(seed, "identifiers", "svd") % 2**32)
    return np.asarray(svd.fit_transform(vectors))


def scaled(vectors_ND: npt.NDArray[np.floating], there_N: npt.NDArray[np.bool_] | None = None) -> Vectors:
    """Centred, with a mean squared length of 1 over the rows of `there_N` (all); other rows are 0."""
    out_ND = np.zeros(vectors_ND.shape, dtype=np.float64)
    kept = np.ones(len(out_ND), dtype=np.bool_) if there_N is None else there_N
    if kept.any():
        part = vectors_ND[kept].astype(np.float64)
        part -= part.mean(axis=0)
        size = math.sqrt(float((part * part).sum(axis=1).mean()))
        out_ND[kept] = part / size if size > 1e-9 else 0.0
    return out_ND.astype(np.float32)


def _company(item_lists: Sequence[Sequence[int]], n_items: int) -> sp.csr_matrix:
    """Symmetric decayed counts of two items within the window, (N, N), the diagonal empty."""
    item = np.concatenate([np.asarray(row, dtype=np.int64) for row in item_lists] or [np.zeros(0, dtype=np.int64)])
    user = np.repeat(np.arange(len(item_lists)), [len(row) for row in item_lists])
    total = sp.csr_matrix((n_items, n_items), dtype=np.float64)
    with Bar("Counting co-visitation (places)", WINDOW) as bar:
        for distance in range(1, min(WINDOW, len(item) - 1) + 1):
            pair = (user[:-distance] == user[distance:]) & (item[:-distance] != item[distance:])
            weight = np.full(int(pair.sum()), DECAY ** (distance - 1))
            index = (item[:-distance][pair], item[distance:][pair])
            total = total + sp.csr_matrix((weight, index), shape=total.shape)
            bar.advance()
    return sp.csr_matrix(total + total.T)


def _information(counts_NN: sp.csr_matrix) -> sp.csr_matrix:
    """max(0, log(p(i, j) / (p(i) p'(j)))), where p' is proportional to count ^ 0.75."""
    marginal_N = np.asarray(counts_NN.sum(axis=1)).ravel()
    # Raising contexts to 0.75 lessens the bias of mutual information towards rare ones (Levy, Goldberg and Dagan
    # 2015).
    context_N = marginal_N**_SMOOTHING
    pairs = counts_NN.tocoo()
    share = pairs.data * context_N.sum() / (marginal_N[pairs.row] * context_N[pairs.col])
    # Positive part: pairs that were never seen would be minus infinity, and no log is long enough to tell rare from
    # never.
    value = np.maximum(np.log(share), 0.0)
    kept = value > 0
    return sp.csr_matrix((value[kept], (pairs.row[kept], pairs.col[kept])), shape=pairs.shape)


def _factor(weights_NN: sp.csr_matrix, dimensions: int, seed: int) -> npt.NDArray[np.floating]:
    """(U + V) sqrt(S) of the truncated SVD U S V^T, (N, D)."""
    width = min(dimensions, weights_NN.shape[0])
    if weights_NN.shape[0] <= 2 * dimensions:
        left, strength, right = np.linalg.svd(weights_NN.toarray())
    else:
        from sklearn.utils.extmath import randomized_svd

        start = stream_seed(seed, "identifiers", "covisitation") % 2**32
        left, strength, right = randomized_svd(weights_NN, width, n_iter=_POWERS, random_state=start)
    # The matrix is not symmetric (contexts are smoothed), so words and contexts have vectors of their own.
    return np.asarray((left[:, :width] + right[:width].T) * np.sqrt(strength[:width]))


def _rows_by_id(item_ids: Sequence[str], path: Path) -> dict[str, int]:
    row_of: dict[str, int] = {}
    for row, item_id in enumerate(item_ids):
        if row_of.setdefault(item_id, row) != row:
            raise DataError(f"{path}, row {row + 1}: item {item_id!r} stands in row {row_of[item_id] + 1} already.")
    return row_of


def _checked(vector: Sequence[float] | None, row: int, width: int, path: Path) -> Sequence[float]:
    if not vector or any(x is None or not math.isfinite(x) for x in vector):
        raise DataError(
            f"{path}, row {row + 1}: the embedding is empty or holds a value that is not a finite number."
        )
    if len(vector) != width:
        raise DataError(f"{path}, row {row + 1}: the embedding has {len(vector)} numbers, others have {width}.")
    return vector
