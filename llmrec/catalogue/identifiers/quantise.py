"""Vectors as a few small numbers: residual k-means with clusters of bounded size.

Residual quantisation (Lee et al. 2022, "Autoregressive Image Generation using Residual Quantization", eq. 3) gives a
vector x the codes c_1 ... c_L with c_l = argmin_k |r_(l-1) - e_(l,k)|^2, r_0 = x and r_l = r_(l-1) - e_(l,c_l).
Plain k-means leaves some clusters with a large part of the items and many with few, and then codes carry little
information and collide. Here a cluster of a level holds at most ceil((1 + SLACK) N / K) items: the assignment is the
transportation problem min sum_i |x_i - e_k(i)|^2 under these capacities. Its dual gives each full cluster a price
that is added to its distances. Prices are fitted on a sample, and an auction that starts from them settles the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from llmrec.progress import Bar
from llmrec.seeding import numpy_stream, stream_seed

Vectors = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int32]

SLACK = 0.05
"""How far a cluster may exceed an equal share of the items."""
SAMPLE = 64
"""Vectors per code that centres are fitted on; all vectors are assigned in the end."""
ITERATIONS = 12
_PRICE_STEPS = 6
_START = 16  # vectors per code that k-means++ chooses from
_CELLS = 1 << 22  # distances held at a time: 16 MB
_AUCTION, _ROUNDS = 4_000_000, (10, 1000)  # bids of an auction, and the bounds of its rounds
_RAISE = 0.3  # of the mean regret: a smaller raise costs rounds and gains little
_TURNS, _SMALL = 24, 4096


@dataclass(frozen=True, slots=True)
class Quantised:
    """Codes of N vectors, int32 (N, L), and the centres that they stand for, float32 (L, K, D)."""

    codes_NL: Codes
    codebooks_LKD: Vectors


def residual_kmeans(vectors_ND: Vectors, levels: int, codes: int, *, seed: int) -> Quantised:
    """Balanced residual k-means of `vectors_ND`.

    Fewer vectors than codes give codebooks of as many entries as there are vectors.

    Args:
        vectors_ND: finite float32 vectors, at least one.
        levels: L, codes a vector.
        codes: K, entries of each codebook.
        seed: run seed; the same seed gives the same codes.
    """
    left_ND = np.array(vectors_ND, dtype=np.float32)
    columns, books = [], []
    with Bar("Quantising items (levels)", levels) as bar:
        for level in range(levels):
            centres_KD, code_N = balanced_kmeans(left_ND, codes, seed=seed, name=("identifiers", level))
            left_ND -= centres_KD[code_N]
            columns.append(code_N)
            books.append(centres_KD)
            bar.advance()
    return Quantised(np.stack(columns, 1).astype(np.int32), np.stack(books))


def nearest_codes(vectors_MD: Vectors, codebooks_LKD: Vectors) -> Codes:
    """Codes of new vectors by frozen codebooks, int32 (M, L): the nearest centre of each level, without capacity."""
    left_MD = np.array(vectors_MD, dtype=np.float32)
    columns = []
    for centres_KD in codebooks_LKD:
        # Without capacity: a new item goes where it is nearest, however full that is, as nothing may move for it.
        code_M = _cheapest(left_MD, centres_KD, np.zeros(len(centres_KD), dtype=np.float32))[0]
        left_MD -= centres_KD[code_M]
        columns.append(code_M)
    return np.stack(columns, 1).astype(np.int32)


def reconstructed(codes_NL: Codes, codebooks_LKD: Vectors) -> Vectors:
    """What the codes stand for: the sum of their centres, (N, D)."""
    total: Vectors = np.sum([book[codes] for codes, book in zip(codes_NL.T, codebooks_LKD, strict=True)], axis=0)
    return total


def capacity_of(vectors: int, codes: int) -> int:
    """Most vectors that one of `codes` clusters may hold."""
    return math.ceil((1.0 + SLACK) * vectors / codes)


def balanced_kmeans(
    vectors_ND: Vectors, codes: int, *, seed: int, name: tuple[object, ...] = ()
) -> tuple[Vectors, npt.NDArray[np.int64]]:
    """Centres (K, D) and the cluster of each vector (N,), no cluster above `capacity_of(N, K)`.

    Centres start by k-means++ (Arthur and Vassilvitskii 2007) and are fitted on a sample under prices.
    """
    from sklearn.cluster import kmeans_plusplus

    codes = min(codes, len(vectors_ND))
    rng = numpy_stream(seed, *name, "sample")
    size = SAMPLE * codes
    chosen = np.sort(rng.choice(len(vectors_ND), size, replace=False)) if len(vectors_ND) > size else slice(None)
    sample_SD = vectors_ND[chosen]
    # k-means++ costs (vectors x codes) distances; a few vectors a code suffice for where to start.
    few_SD = sample_SD[:: max(1, len(sample_SD) // (_START * codes))]
    start = stream_seed(seed, *name, "start") % 2**32
    centres_KD = np.asarray(kmeans_plusplus(few_SD, codes, random_state=start)[0], dtype=np.float32)
    price_K = np.zeros(codes, dtype=np.float32)
    share = max(1.0, len(sample_SD) / codes * (1.0 + SLACK))
    for _ in range(ITERATIONS):
        cost_SK = _distances(sample_SD, centres_KD)
        price_K = fitted_prices(cost_SK, share, price_K)
        centres_KD = _means(sample_SD, (cost_SK + price_K).argmin(1), centres_KD)
    # Prices that are nearly right leave little to the auction, whose rounds go over all vectors.
    price_K = fitted_prices(_distances(sample_SD, centres_KD), share, price_K, steps=8 * _PRICE_STEPS)
    code_N = balanced_assignment(vectors_ND, centres_KD, capacity_of(len(vectors_ND), codes), price_K)
    return _means(vectors_ND, code_N, centres_KD), code_N


def balanced_assignment(
    vectors_ND: Vectors, centres_KD: Vectors, capacity: int, price_K: npt.NDArray[np.floating] | None = None
) -> npt.NDArray[np.int64]:
    """A cluster for each vector, (N,), at most `capacity` a cluster, of nearly least total squared distance.

    An auction (Bertsekas 1988) from `price_K` (see `fitted_prices`) on, cut off after a number of rounds that falls
    with N; what has no place by then gets the cheapest one that is free.

    Raises:
        ValueError: the clusters cannot hold all vectors.
    """
    if capacity * len(centres_KD) < len(vectors_ND):
        raise ValueError(f"{len(centres_KD)} clusters of {capacity} cannot hold {len(vectors_ND)} vectors.")
    start_K = np.zeros(len(centres_KD)) if price_K is None else np.asarray(price_K)
    code_N = _auctioned(vectors_ND, centres_KD, capacity, start_K.astype(np.float64))
    _place_the_rest(code_N, vectors_ND, centres_KD, capacity)
    return code_N


def _auctioned(
    vectors_ND: Vectors, centres_KD: Vectors, capacity: int, price_K: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """Clusters (N,) by auction, -1 for vectors still turned away at its end; `price_K` is changed in place.

    A vector without a place bids for its cheapest cluster what makes the second cheapest as good, and a little more.
    A cluster keeps the highest bids, and once it is full its price is the lowest that it holds.
    """
    code_N, bid_N = np.full(len(vectors_ND), -1, dtype=np.int64), np.full(len(vectors_ND), -np.inf)
    left, raise_by = np.arange(len(vectors_ND)), -1.0
    for _ in range(int(np.clip(_AUCTION // len(vectors_ND), *_ROUNDS))):
        best, regret = _cheapest(vectors_ND[left], centres_KD, price_K.astype(np.float32))
        raise_by = _RAISE * float(regret.mean()) if raise_by < 0 else raise_by
        # The bid that leaves the bidder indifferent to the second choice, and a raise without which equal bidders
        # would go on for ever.
        code_N[left], bid_N[left] = best, price_K[best] + regret + raise_by
        full_K = np.bincount(code_N, minlength=len(centres_KD)) >= capacity
        inside = np.flatnonzero(full_K[code_N])
        # Highest bids first within a cluster, ties by number: the same seed gives the same codes.
        order = inside[np.lexsort((inside, -bid_N[inside], code_N[inside]))]
        place = np.arange(len(order)) - np.searchsorted(code_N[order], code_N[order], side="left")
        last, left = order[place == capacity - 1], np.sort(order[place >= capacity])
        price_K[code_N[last]] = np.maximum(price_K[code_N[last]], bid_N[last])
        code_N[left] = -1
        if not len(left) or raise_by == 0:
            break
    return code_N


def _place_the_rest(code_N: npt.NDArray[np.int64], vectors_ND: Vectors, centres_KD: Vectors, capacity: int) -> None:
    """Gives each vector without a cluster the nearest with room, in place; those whom it helps most come first."""
    left, turn = np.flatnonzero(code_N < 0), 0
    room_K = capacity - np.bincount(code_N[code_N >= 0], minlength=len(centres_KD))
    while len(left):
        if turn >= _TURNS and len(left) > _SMALL:  # masses of equal vectors: any order is as good
            code_N[left] = np.repeat(np.arange(len(room_K)), room_K)[: len(left)]
            break
        open_O = np.flatnonzero(room_K)
        best, regret = _cheapest(vectors_ND[left], centres_KD[open_O], np.zeros(len(open_O), dtype=np.float32))
        asked = open_O[best]
        order = np.lexsort((left, -regret, asked))
        place = np.arange(len(left)) - np.searchsorted(asked[order], asked[order], side="left")
        taken = order[place < room_K[asked[order]]]
        code_N[left[taken]] = asked[taken]
        room_K -= np.bincount(asked[taken], minlength=len(room_K))
        left, turn = left[code_N[left] < 0], turn + 1


def fitted_prices(
    cost_SK: Vectors, share: float, price_K: Vectors, *, steps: int = _PRICE_STEPS
) -> npt.NDArray[np.float32]:
    """Prices (K,) under which no cluster is the cheapest of many more than `share` vectors, from `price_K` on.

    Subgradient steps on the dual of the transportation problem: a cluster asked for too often becomes dearer, one
    with room cheaper, never below 0. Steps shrink from a fraction of the typical gap between clusters.
    """
    if cost_SK.shape[1] < 2:
        return price_K
    two = np.partition(cost_SK[:: max(1, len(cost_SK) // 2048)], 1, axis=1)[:, :2]
    scale = float((two[:, 1] - two[:, 0]).mean())
    for step in range(steps):
        load_K = np.bincount((cost_SK + price_K).argmin(1), minlength=cost_SK.shape[1])
        # Bounded: one cluster that everybody asks for would else get a price from which no later step brings it back.
        excess_K = np.clip(load_K / share - 1.0, -1.0, 2.0)
        price_K = np.maximum(price_K + scale / (2.0 + 0.5 * step) * excess_K, 0.0).astype(np.float32)
    return price_K


def _cheapest(
    vectors_ND: Vectors, centres_KD: Vectors, price_K: Vectors
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The cheapest centre of each vector and what the second cheapest would cost more: two arrays (N,)."""
    best_N = np.zeros(len(vectors_ND), dtype=np.int64)
    regret_N = np.zeros(len(vectors_ND), dtype=np.float32)
    if len(centres_KD) < 2:
        return best_N, regret_N
    chunk = max(1, _CELLS // len(centres_KD))
    for start in range(0, len(vectors_ND), chunk):
        part = slice(start, start + chunk)
        cost = _distances(vectors_ND[part], centres_KD) + price_K
        rows = np.arange(len(cost))
        best_N[part] = best = cost.argmin(1)
        least = cost[rows, best]
        cost[rows, best] = np.inf
        regret_N[part] = cost.min(1) - least
    return best_N, regret_N


def _distances(vectors_ND: Vectors, centres_KD: Vectors) -> Vectors:
    """|x - e|^2 - |x|^2, (N, K): what is left out is the same for all centres of a vector."""
    # One matrix product in float32; |x|^2 would cost digits and change no argmin.
    product = vectors_ND @ centres_KD.T
    product *= -2.0
    product += np.einsum("kd,kd->k", centres_KD, centres_KD)
    return product


def _means(vectors_ND: Vectors, code_N: npt.NDArray[np.int64], centres_KD: Vectors) -> Vectors:
    """The mean of each cluster, (K, D); an empty one keeps its centre."""
    count_K = np.bincount(code_N, minlength=len(centres_KD))
    ones = np.ones(len(code_N), dtype=np.float32)
    member_KN = sp.csr_matrix((ones, (code_N, np.arange(len(code_N)))), shape=(len(centres_KD), len(code_N)))
    means_KD = (member_KN @ vectors_ND) / np.maximum(count_K, 1)[:, None]
    return np.where(count_K[:, None] > 0, means_KD, centres_KD).astype(np.float32)
