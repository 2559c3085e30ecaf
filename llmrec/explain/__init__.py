"""Why an item is recommended: what its score loses without a part of the state, in words, and what would undo it."""

from llmrec.explain.counterfactual import Counterfactual
from llmrec.explain.effects import Effect, Joint, Whole
from llmrec.explain.explainer import Explainer, Explanation
from llmrec.explain.parts import Part, Parted, Variant
from llmrec.explain.scores import Explained, explained
from llmrec.explain.sentences import Unsaid

__all__ = [
    "Counterfactual",
    "Effect",
    "Explained",
    "Explainer",
    "Explanation",
    "Joint",
    "Part",
    "Parted",
    "Unsaid",
    "Variant",
    "Whole",
    "explained",
]
