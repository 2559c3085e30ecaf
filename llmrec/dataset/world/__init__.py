"""Generated worlds with known truth."""

from llmrec.dataset.world.truth import WorldParameters, WorldTruth
from llmrec.dataset.world.world import OptimalItems, World, generate_world

__all__ = ["OptimalItems", "World", "WorldParameters", "WorldTruth", "generate_world"]
