"""One module a training stage, for `accelerate launch -m llmrec.train.STAGE`."""
