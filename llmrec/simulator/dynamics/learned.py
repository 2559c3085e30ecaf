"""A learned transition P(S' | S, A): which interest state a user is in after consuming A in state S.

    states = cluster_states(recent_MD, count=8, seed=0)               # k-means on embeddings of recent history
    log = TransitionLog(states.assign(before_MD), action_MA, states.assign(after_MD), user_M)
    train, held_out = split_users(log, 0.2, seed=0)
    model = fit_transition(train, count=8)
    compare_transition(model, train, held_out, seed=0)["gain_over_no_change"]

The model is a multinomial logistic regression with L2: one softmax over the K next states, whose scores are linear in
the action with weights of their own for every present state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.cluster import MiniBatchKMeans

from llmrec.errors import DataError, RunError
from llmrec.files import new_folder, read_json, write_json
from llmrec.progress import Bar
from llmrec.seeding import numpy_stream, stream_seed
from llmrec.types import FloatArray, IntArray

DTYPE = np.float64


@dataclass(frozen=True, slots=True)
class InterestStates:
    """K interest states: the centres of clusters of history embeddings, shape (K, D)."""

    centre_KD: npt.NDArray[np.float64]

    def assign(self, vector_MD: npt.ArrayLike) -> IntArray:
        """The nearest state of each vector (Euclidean, ties to the lower): shape (M,)."""
        vector = finite_matrix(vector_MD, "history vector")
        if vector.shape[1] != self.centre_KD.shape[1]:
            raise DataError(
                f"History vectors have {vector.shape[1]} dimensions, but interest states {self.centre_KD.shape[1]}; "
                "embed both with one encoder."
            )
        distance_MK = (self.centre_KD**2).sum(axis=1) - 2 * vector @ self.centre_KD.T
        return np.asarray(distance_MK.argmin(axis=1), dtype=np.int64)


def cluster_states(vector_MD: npt.ArrayLike, count: int, *, seed: int) -> InterestStates:
    """`count` interest states by k-means (mini-batches, best of 3 starts) on embeddings of recent histories.

    Raises:
        DataError: Numbers that are not finite, or fewer distinct vectors than states.
    """
    vector = finite_matrix(vector_MD, "history vector")
    if count < 2 or len(np.unique(vector, axis=0)) < count:
        raise DataError(
            f"{count} interest states cannot be made of {len(np.unique(vector, axis=0))} distinct history vectors; "
            "ask for 2 or more, and for no more than there are vectors."
        )
    state = stream_seed(seed, "simulator", "interest states") % 2**32
    found = MiniBatchKMeans(n_clusters=count, random_state=state, batch_size=4096, n_init=3).fit(vector)
    return InterestStates(np.asarray(found.cluster_centers_, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class TransitionLog:
    """M logged steps: state before, action (one-hot category, embedding of what was consumed), state after, user."""

    state_M: IntArray
    action_MA: npt.NDArray[np.floating]
    next_M: IntArray
    user_M: npt.NDArray[Any]

    def __post_init__(self) -> None:
        finite_matrix(self.action_MA, "action")
        for name in ("state_M", "next_M", "user_M"):
            if len(getattr(self, name)) != len(self.action_MA):
                raise DataError(
                    f"There are {len(self.action_MA)} actions but {len(getattr(self, name))} values of {name}; "
                    "align them."
                )

    def __len__(self) -> int:
        return len(self.state_M)

    def part(self, keep_M: npt.NDArray[Any]) -> TransitionLog:
        """The steps at `keep_M`."""
        return TransitionLog(self.state_M[keep_M], self.action_MA[keep_M], self.next_M[keep_M], self.user_M[keep_M])


def split_users(log: TransitionLog, share: float, *, seed: int) -> tuple[TransitionLog, TransitionLog]:
    """The log without, and of, a random `share` of its users; raises `DataError` with fewer than two users."""
    users = np.unique(log.user_M)
    if len(users) < 2:
        raise DataError("The log is of one user only, so none can be held out; a learned transition needs two.")
    count = min(len(users) - 1, max(1, round(share * len(users))))
    held = numpy_stream(seed, "simulator", "transition users").choice(users, count, replace=False)
    held_M = np.isin(log.user_M, held)
    return log.part(~held_M), log.part(held_M)


class LearnedTransition:
    """P(next = j | state = i, action a) = softmax over j of bias[i, j] + a . weight[i, :, j].

    Attributes:
        weight_KAK: Weights by present state, action feature and next state, without `bias_KK`.
        curve: Penalised log-likelihood (nats) after each step of the fit.
    """

    def __init__(self, bias_KK: FloatArray, weight_KAK: FloatArray, curve: Sequence[float] = ()) -> None:
        self.bias_KK, self.weight_KAK, self.curve = bias_KK, weight_KAK, tuple(curve)

    @property
    def states(self) -> int:
        """K."""
        return len(self.bias_KK)

    def log_probabilities(self, state_B: npt.ArrayLike, action_BA: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """log P(next state) in nats: shape (B, K); raises `DataError` for states or actions that do not fit."""
        state, action = np.asarray(state_B), finite_matrix(action_BA, "action")
        require_states(state, self.states)
        if action.shape != (len(state), self.weight_KAK.shape[1]):
            raise DataError(
                f"Actions of shape {action.shape} do not fit {len(state)} states; give one row a state and "
                f"{self.weight_KAK.shape[1]} features."
            )
        score_BK = np.empty((len(state), self.states))
        for k in range(self.states):
            rows = np.flatnonzero(state == k)
            score_BK[rows] = self.bias_KK[k] + action[rows] @ self.weight_KAK[k]
        return np.asarray(log_softmax(score_BK, axis=1))

    def sample(
        self, state_B: npt.ArrayLike, action_BA: npt.ArrayLike, uniforms_B: npt.NDArray[np.floating]
    ) -> IntArray:
        """Next states, by inverting the distribution function at numbers in [0, 1): shape (B,)."""
        reach_BK = np.cumsum(np.exp(self.log_probabilities(state_B, action_BA)), axis=1)
        return np.asarray((uniforms_B[:, None] >= reach_BK[:, :-1]).sum(axis=1), dtype=np.int64)

    def save(self, folder: Path) -> None:
        """Writes `transition.safetensors` and `transition.json` into a new `folder`, whole or not at all."""
        with new_folder(folder, mark="transition.json") as work:
            tensors = {"bias": self.bias_KK, "weight": self.weight_KAK}
            save_file(
                {k: np.ascontiguousarray(v, dtype=DTYPE) for k, v in tensors.items()}, work / "transition.safetensors"
            )
            write_json(
                work / "transition.json", {"kind": "transition", "states": self.states, "curve": list(self.curve)}
            )


def load_transition(folder: Path) -> LearnedTransition:
    """Reads what `LearnedTransition.save` wrote; raises `RunError` for anything else."""
    facts, path = read_json(folder / "transition.json"), folder / "transition.safetensors"
    if not isinstance(facts, dict) or facts.get("kind") != "transition":
        raise RunError(f"{folder / 'transition.json'} does not describe a learned transition; fit it anew.")
    try:
        tensors = load_file(path)
        bias, weight = tensors["bias"], tensors["weight"]
        if bias.shape != (facts["states"],) * 2 or weight.shape != (len(bias), weight.shape[1], len(bias)):
            raise ValueError(f"shapes {bias.shape} and {weight.shape}")
        return LearnedTransition(bias, weight, [float(v) for v in facts["curve"]])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, IndexError) as error:
        raise RunError(f"{path} cannot be read as a learned transition ({error}); fit it anew.") from None


def fit_transition(log: TransitionLog, *, count: int, l2: float = 1.0, max_steps: int = 300) -> LearnedTransition:
    """Fits P(S' | S, A) by maximum likelihood with an L2 penalty of l2 / 2 on all numbers (concave; L-BFGS).

    Each present state is a softmax regression of its own; a state that never occurs is uniform. Actions should be
    scaled to about 1.

    Raises:
        DataError: An empty log, one user, a state outside 0 .. count - 1, or no change of state in the whole log.
    """
    if not len(log):
        raise DataError("There is no step to fit a transition on; widen the period.")
    require_states(log.state_M, count)
    require_states(log.next_M, count)
    if len(np.unique(log.user_M)) < 2:
        raise DataError("The log is of one user only; a learned transition needs two users at least.")
    if len(np.unique(np.concatenate([log.state_M, log.next_M]))) < 2:
        raise DataError(
            "The log knows one interest state only, so there is no transition to learn; make more states."
        )
    features = log.action_MA.shape[1]
    weights = np.zeros((count, features + 1, count))
    value = 0.0
    curve = []
    with Bar("fit of the interest transition", count) as bar:
        for k in range(count):
            rows = np.flatnonzero(log.state_M == k)
            weights[k], part = _softmax_regression(log.action_MA[rows], log.next_M[rows], count, l2, max_steps)
            value += part
            curve.append(value)
            bar.advance(note=f"{value:.1f}")
    return LearnedTransition(weights[:, 0], weights[:, 1:], curve)


def _softmax_regression(
    action_MA: FloatArray, next_M: IntArray, count: int, l2: float, max_steps: int
) -> tuple[npt.NDArray[np.float64], float]:
    """Weights (1 + A, K), the intercept first, and the penalised log-likelihood."""
    feature_MF = np.column_stack([np.ones(len(action_MA)), action_MA]).astype(DTYPE)
    shape = (feature_MF.shape[1], count)
    if not len(next_M):
        return np.zeros(shape), 0.0
    target_MK = np.zeros((len(next_M), count))
    target_MK[np.arange(len(next_M)), next_M] = 1.0

    def objective(flat: FloatArray) -> tuple[float, npt.NDArray[np.float64]]:
        weight = flat.reshape(shape)
        log_p = log_softmax(feature_MF @ weight, axis=1)
        gradient = feature_MF.T @ (np.exp(log_p) - target_MK) + l2 * weight
        return float(-(target_MK * log_p).sum() + 0.5 * l2 * (weight**2).sum()), gradient.ravel()

    options = {"maxiter": max_steps, "maxfun": 2 * max_steps, "ftol": 1e-12, "gtol": 1e-6 * len(next_M)}
    found = minimize(objective, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(shape), -float(found.fun)


def finite_matrix(values: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    """`values` as a matrix of finite numbers; raises `DataError` naming the first bad row."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise DataError(f"The {name}s have shape {array.shape}; give one row each.")
    if not np.isfinite(array).all():
        raise DataError(f"The {name} of row {int(np.argmin(np.isfinite(array).all(axis=1)))} is not finite.")
    return array


def require_states(state_M: npt.NDArray[Any], count: int) -> None:
    """Raises `DataError` where a state is not one of 0 .. count - 1."""
    if len(state_M) and (state_M.min() < 0 or state_M.max() >= count):
        row = int(np.argmax((state_M < 0) | (state_M >= count)))
        raise DataError(f"Row {row} has interest state {state_M[row]}; it must be one of 0..{count - 1}.")
