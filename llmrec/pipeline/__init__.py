"""The main job: data -> simulators -> base model -> SFT -> PPO -> evaluation -> a run folder."""
