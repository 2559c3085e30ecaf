"""API keys: from a file or the environment, kept as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from llmrec.errors import RequestError
from llmrec.storage import shown

VARIABLE = "LLMREC_API_KEYS"
SHORTEST = 16
ADMIN = "admin "
"""Stands before a key that may change the catalogue."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Hashes of the keys that are let in; `admin` of those that may change the catalogue as well."""

    plain: tuple[bytes, ...] = ()
    admin: tuple[bytes, ...] = ()

    @classmethod
    def read(cls, file: Path | None) -> Self:
        """Keys of `file`, one a line, else of LLMREC_API_KEYS, divided by commas or lines; else none.

        A line `admin KEY` names a key that may change the catalogue.

        Raises:
            RequestError: a file that cannot be read, or a key that is too short or no plain text.
        """
        if file is None:
            source, text = VARIABLE, os.environ.get(VARIABLE, "")
        else:
            source = shown(file)
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                raise RequestError(
                    f"{source} cannot be read as keys; give a text file with one key a line."
                ) from None
        lines = [line.strip() for line in text.replace(",", "\n").splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        if file is not None and not lines:
            raise RequestError(f"{source} holds no key; write one a line, of at least {SHORTEST} characters.")
        plain: list[bytes] = []
        admin: list[bytes] = []
        for place, line in enumerate(lines, 1):
            key = line.removeprefix(ADMIN).strip()
            if len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
                raise RequestError(  # the key itself is not said: messages end in logs
                    f"Key {place} of {source} is not at least {SHORTEST} ASCII characters without spaces; make one "
                    "by `openssl rand -hex 24`."
                )
            (admin if line.startswith(ADMIN) else plain).append(_hash(key))
        return cls(tuple(plain), tuple(admin))

    @property
    def any(self) -> bool:
        """Whether keys are asked for at all."""
        return bool(self.plain or self.admin)

    def allows(self, given: str | None, *, admin: bool = False) -> bool:
        """Whether a request with the key `given` is let in. All keys are compared, so time tells nothing."""
        if not self.any:
            return True
        found = False
        hashed = _hash(given or "")
        for own in self.admin if admin else (*self.plain, *self.admin):
            found |= hmac.compare_digest(own, hashed)
        return found


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def given_key(authorization: str | None, own: str | None) -> str | None:
    """The key of the headers `Authorization: Bearer KEY` or `X-API-Key: KEY`."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else own
