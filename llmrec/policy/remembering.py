"""Parts of a mixture that answer from memory what they were asked before: several fits over the same states cost one.

What a policy says costs a reading of the model, so it is kept by what a state holds (a digest), and in a folder where
one is given: a study that was stopped goes on behind its last batch, and another mixture of the same policy reads
what is new to it. Scores are cheap and are kept by the states' identity, for as long as the fits go on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from llmrec.catalogue.filters import Filters
from llmrec.files import new_file, read_json, sha256_of, write_json
from llmrec.policy.filtered import hidden_items, padded
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.mixture_parts import Scorer
from llmrec.policy.searching import Search
from llmrec.progress import track
from llmrec.types import FloatArray, Slate, State
from llmrec.written import intact

KEY = "key.json"
LISTS, VALUES = "lists", "values"


def remembered(scorer: Scorer) -> Scorer:
    """The scorer with what it said of each batch of states, known by identity."""
    said: dict[tuple[int, ...], FloatArray] = {}

    def score(states: Sequence[State]) -> FloatArray:
        place = tuple(id(state) for state in states)
        if place not in said:
            said[place] = scorer(states)
        return said[place]

    return score


class Readings:
    """What one policy said: lists by question and state, log-probabilities by state and item.

    With a folder each batch is a file of its own there, written whole or not at all, which holds digests of states
    and item indices, and no user's row.

    Attributes:
        lists: by the names that `RememberedPolicy` gives to a question about a state.
        values: log pi of items over the whole catalogue, by the name of a state.
    """

    def __init__(self, folder: Path | None = None, key: object = None) -> None:
        """Opens `folder`; what another `key` (all that decides the policy) left there is removed.

        Raises:
            RunError: a file there is damaged, or the place cannot be written.
        """
        self.folder = folder
        self.lists: dict[str, Slate] = {}
        self.values: dict[str, dict[int, float]] = {}
        if folder is not None:
            self._open(folder, sha256_of(json.dumps(key, sort_keys=True, default=str)))

    def add_lists(self, names: Sequence[str], slates: Sequence[Slate]) -> None:
        """Keeps the lists of a batch."""
        self.lists.update(zip(names, slates, strict=True))
        self._keep(LISTS, names, [s.items_K for s in slates], [s.log_probs_K for s in slates])

    def add_values(
        self, names: Sequence[str], items: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]
    ) -> None:
        """Keeps the log-probabilities of a batch's items."""
        for name, own, found in zip(names, items, log_probs, strict=True):
            self.values.setdefault(name, {}).update(zip(own, found, strict=True))
        self._keep(VALUES, names, items, log_probs)

    def _keep(
        self, kind: str, names: Sequence[str], items: Sequence[Sequence[int]], log_probs: Sequence[Sequence[float]]
    ) -> None:
        if self.folder is None:
            return
        flat = [item for own in items for item in own]
        digest = sha256_of(*names, np.asarray(flat, np.int64).tobytes())[:16]
        with new_file(self.folder / f"{kind}-{digest}.npz") as place, place.open("wb") as file:
            np.savez(
                file,
                names=np.array(names, dtype="U64"),
                counts=np.array([len(own) for own in items], np.int64),
                items=np.array(flat, np.int64),
                log_probs=np.array([value for own in log_probs for value in own], np.float64),
            )

    def _open(self, folder: Path, digest: str) -> None:
        mark = folder / KEY
        files = sorted(folder.glob(f"{LISTS}-*.npz")) + sorted(folder.glob(f"{VALUES}-*.npz"))
        with intact(mark, f"remove {mark} to read the model anew"):
            known = mark.is_file() and read_json(mark)["key"] == digest
        if not known:
            for file in files:
                file.unlink()
            write_json(mark, {"key": digest})
            return
        for file in files:
            with intact(file, "remove it, and what it held is read anew"):
                self._load(file)

    def _load(self, file: Path) -> None:
        with np.load(file, allow_pickle=False) as found:
            names, ends = found["names"].tolist(), np.cumsum(found["counts"])[:-1]
            items = [own.tolist() for own in np.split(found["items"], ends)]
            log_probs = [own.tolist() for own in np.split(found["log_probs"], ends)]
        for name, own, values in zip(names, items, log_probs, strict=True):
            if file.name.startswith(LISTS):
                self.lists[name] = Slate(tuple(own), tuple(values))
            else:
                self.values.setdefault(name, {}).update(zip(own, values, strict=True))


class RememberedPolicy(LanguagePolicy):
    """The policy with the lists that it gave and the items that it scored; without gradients.

    The model is read for what is new alone, in the batches in which the policy itself would read it. A value is that
    of its first reading: batched otherwise it may differ in its last digits.
    """

    def __init__(self, policy: LanguagePolicy, readings: Readings | None = None) -> None:
        """Takes the place of `policy`; `readings` are kept by the caller, and of this policy."""
        vars(self).update(vars(policy))
        self.readings = Readings() if readings is None else readings

    def recommend(
        self,
        states: Sequence[State],
        k: int,
        *,
        filters: Filters | Sequence[Filters] | None = None,
        exact: bool = False,
        **search: Unpack[Search],
    ) -> list[Slate]:
        """As the policy's; with filters it is asked each time."""
        if filters:
            return super().recommend(states, k, filters=filters, exact=exact, **search)
        seen, exclude_seen = search.get("seen"), search.get("exclude_seen")
        hide = self.repeat == "exclude" if exclude_seen is None else exclude_seen
        hidden = [own.tolist() for own in hidden_items(states, seen)] if hide else [None] * len(states)
        question = json.dumps({"k": k, "beams": search.get("beams"), "exact": exact})
        names = [
            sha256_of(question, _name(state), json.dumps(own)) for state, own in zip(states, hidden, strict=True)
        ]
        known = self.readings.lists
        new = [b for b, name in enumerate(names) if name not in known]
        batches = (
            [part for part, _, _ in self.batches([states[b] for b in new], search.get("batch_size"))] if new else []
        )
        for part in track(batches, "recommend") if len(batches) > 1 else batches:
            rows = [new[at] for at in part]
            given = None if seen is None else [seen[b] for b in rows]
            own: Search = {**search, "seen": given, "batch_size": len(rows)}
            found = super().recommend([states[b] for b in rows], k, exact=exact, **own)
            self.readings.add_lists([names[b] for b in rows], found)
        return [known[name] for name in names]

    @torch.no_grad()
    def log_prob(self, states: Sequence[State], items_BG: Tensor, **options: Any) -> Tensor:
        """As the policy's over the whole catalogue; with options that change it the policy is asked each time."""
        if options.keys() - {"batch_size"}:
            return super().log_prob(states, items_BG, **options)
        names, asked = [_name(state) for state in states], items_BG.tolist()
        known = [self.readings.values.setdefault(name, {}) for name in names]
        new = [sorted(set(row) - own.keys()) for row, own in zip(asked, known, strict=True)]
        rows = [b for b, items in enumerate(new) if items]
        if rows:
            wanted = [new[b] for b in rows]
            wanted_BX = torch.from_numpy(padded([np.array(items, np.int64) for items in wanted]).clip(min=0))
            found = super().log_prob([states[b] for b in rows], wanted_BX, **options).double().tolist()
            values = [own[: len(items)] for own, items in zip(found, wanted, strict=True)]  # behind stands padding
            self.readings.add_values([names[b] for b in rows], wanted, values)
        return torch.tensor([[own[item] for item in row] for row, own in zip(asked, known, strict=True)]).double()


def _name(state: State) -> str:
    """A state's name: a digest of all it holds."""
    return sha256_of(repr(state))
