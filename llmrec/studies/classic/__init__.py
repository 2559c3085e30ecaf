"""Classic RL recommenders beside the language-model policies of a run: one world, one reward, one judge."""
