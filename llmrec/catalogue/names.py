"""How a tokenizer called the tokens of a catalogue, kept so that another tokenizer is noticed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrec.errors import CatalogueError
from llmrec.files import sha256_of


@dataclass(frozen=True, eq=False)
class TokenNames:
    """A fingerprint of a tokenizer over some of its tokens.

    Attributes:
        ids_V: the V token ids it covers, ascending, int32.
        digest: SHA-256 over their vocabulary entries; empty where no tokenizer was given.
    """

    ids_V: npt.NDArray[np.int32]
    digest: str

    @classmethod
    def of(cls, tokenizer: Any, tokens_NL: npt.NDArray[np.integer]) -> TokenNames:
        """The fingerprint over all tokens of rows padded with -1.

        Raises:
            CatalogueError: a token that the tokenizer does not know.
        """
        used = used_tokens(tokens_NL)
        names = _names(tokenizer, used)
        if None in names:
            token = int(used[names.index(None)])
            item = int(np.flatnonzero((np.asarray(tokens_NL) == token).any(axis=1))[0])
            raise CatalogueError(
                f"Token {token}, in the sequence of item number {item}, is unknown to the tokenizer, which has "
                f"{len(tokenizer)} tokens; add the token to the tokenizer first."
            )
        return cls(used, _digest(names))

    def check(self, tokenizer: Any, mend: str) -> None:
        """Raises `CatalogueError`, ending with `mend`, where `tokenizer` calls a covered token otherwise."""
        if self.digest and _digest(_names(tokenizer, self.ids_V)) != self.digest:
            raise CatalogueError(f"The tokenizer has other names for the catalogue's tokens; {mend}")


NO_NAMES = TokenNames(np.zeros(0, dtype=np.int32), "")


def used_tokens(tokens_NL: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """The distinct tokens of rows padded with -1, ascending."""
    tokens = np.asarray(tokens_NL)
    used = np.zeros(int(tokens.max(initial=-1)) + 2, dtype=bool)
    used[tokens] = True  # the padding sets the last place
    return np.flatnonzero(used[:-1]).astype(np.int32)


def _names(tokenizer: Any, ids_V: npt.NDArray[np.integer]) -> list[str | None]:
    known = int(np.searchsorted(ids_V, len(tokenizer)))
    names: list[str | None] = tokenizer.convert_ids_to_tokens(ids_V[:known].tolist())
    return [*names, *[None] * (len(ids_V) - known)]


def _digest(names: list[str | None]) -> str:
    return sha256_of(*("" if name is None else name for name in names))
