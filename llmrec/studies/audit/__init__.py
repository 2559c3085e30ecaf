"""Does a result hold? Anybody's lists on public rows, searched for what flatters them, and measured again."""

from llmrec.studies.audit.audit import Audit, audit
from llmrec.studies.audit.faults import Finding
from llmrec.studies.audit.predictions import Predictions, read_predictions

__all__ = ["Audit", "Finding", "Predictions", "audit", "read_predictions"]
