"""The main job: data -> base model -> SFT -> simulator -> PPO -> evaluation -> a run folder."""
