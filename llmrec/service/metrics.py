"""What Prometheus reads."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "Metrics"]
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The figures of one service, in a registry of its own."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        self.requests = Counter("llmrec_requests", "Requests answered.", ["route", "status"], registry=own)
        self.seconds = Histogram(
            "llmrec_request_seconds", "Time to answer.", ["route"], buckets=_SECONDS, registry=own
        )
        self.batch = Histogram("llmrec_batch_requests", "Requests decoded at once.", buckets=_SIZES, registry=own)
        self.decode = Histogram("llmrec_batch_seconds", "Time of a batch.", buckets=_SECONDS, registry=own)
        self.waiting = Gauge("llmrec_waiting_requests", "Requests that wait to be decoded.", registry=own)
        self.slates = Counter("llmrec_slates", "Slates served.", ["source"], registry=own)
        self.rules = Gauge("llmrec_rules", "Rules that every slate obeys.", registry=own)
        self.ruled = Counter(
            "llmrec_slates_under_rules",
            "Slates made under rules, by whether all places and floors could be had.",
            ["complete"],
            registry=own,
        )
        self.feedback = Counter("llmrec_feedback", "Feedback received.", ["kind"], registry=own)
        self.tokens = Counter("llmrec_prompt_tokens", "Tokens of prompts.", ["how"], registry=own)
        self.read, self.cached = self.tokens.labels("read"), self.tokens.labels("cached")
        self.kept = Gauge("llmrec_prefix_cache_bytes", "Bytes of prompts that are kept.", registry=own)
        self.most = Gauge("llmrec_prefix_cache_limit_bytes", "Bytes of prompts kept at most.", registry=own)
        self.version = Gauge("llmrec_policy_version", "The version that is served.", registry=own)
        self.catalogue = Gauge("llmrec_catalogue_version", "The version of the items.", registry=own)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)
