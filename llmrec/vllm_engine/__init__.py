"""vLLM in the place of torch: the catalogue as a logits processor, and searches over its engine (docs/vllm.md).

Nothing here imports vLLM but `processor`, which vLLM itself loads, and `backend` when it is started.
"""
