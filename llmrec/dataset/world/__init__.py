"""Generated worlds with known truth."""

from llmrec.dataset.world.truth import Parameters, Truth
from llmrec.dataset.world.world import Optimum, World, generate_world

__all__ = ["Optimum", "Parameters", "Truth", "World", "generate_world"]
