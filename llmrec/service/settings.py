"""What a service allows, and what it does when it cannot keep up."""

from __future__ import annotations

from dataclasses import dataclass

from llmrec.errors import RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """Limits of a service; all of them bound memory or time.

    Attributes:
        batch: requests that are decoded at once, at most.
        waiting: requests that may wait; one more is answered with 429.
        gather: share of a batch's time for which the next one waits, at most, for as many as were answered; a lone
            request waits for nobody.
        deadline_s: seconds after which the fallback answers; a request may ask for less.
        cache: bytes of prompts that are kept, so that a returning user's is read from where it is new; 0 keeps none.
        k: items of an answer, at most.
        explain: items of an answer that say why, at most.
        body: bytes of a request, at most.
        body_s: seconds within which a request's body must have arrived.
        poll_s: seconds between two looks for a version of the policy that was promoted.
        grace_s: seconds that a shutdown waits for what is being answered.
        seed: of the draws of requests that explore.
    """

    batch: int = 32
    waiting: int = 256
    gather: float = 0.25
    deadline_s: float = 5.0
    cache: int = 1 << 28
    k: int = 100
    explain: int = 10
    body: int = 1 << 20
    body_s: float = 10.0
    poll_s: float = 1.0
    grace_s: float = 20.0
    seed: int = 0

    def check(self) -> None:
        """Raises `RequestError` for a limit that lets nothing through."""
        for name in ("batch", "waiting", "deadline_s", "k", "explain", "body", "body_s", "poll_s"):
            if not getattr(self, name) > 0:
                raise RequestError(f"The service's {name} is {getattr(self, name)}; it must be above 0.")
        for name in ("gather", "grace_s"):
            if not getattr(self, name) >= 0:
                raise RequestError(f"The service's {name} is {getattr(self, name)}; it must be 0 or more.")
