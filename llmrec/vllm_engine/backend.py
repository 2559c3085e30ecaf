"""vLLM's offline engine as the model of a policy: one question a prefix, answered with the log-probabilities of its
legal tokens.

`LLM.beam_search` takes no logits processor's arguments, so it cannot be held to a catalogue. `LLM.generate` with one
token a request does what it does inside, and gives the log-probabilities that our own search needs: lists and
certificates are those of `llmrec.policy`, and exact search is exact.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmrec.errors import RequestError, RunError
from llmrec.export import read_facts, read_items
from llmrec.policy.asked import AskedModel, Question
from llmrec.policy.loading import load_config
from llmrec.storage import shown
from llmrec.vllm_engine.arguments import ON, WRITTEN

NAME = "vLLM"
PROCESSOR = "llmrec.vllm_engine.processor:CatalogueProcessor"
_OWN = ("model", "logits_processors", "logprobs_mode", "max_logprobs", "additional_config", "runner", "task")


class VllmAnswerer:
    """Asks `vllm.LLM`; prompts are read once by its cache of prefixes."""

    def __init__(self, llm: Any, sampling_params: Any) -> None:
        self.llm, self.sampling_params = llm, sampling_params

    def ask(self, questions: Sequence[Question]) -> list[Mapping[int, float]]:
        """See `policy.asked.Answerer`."""
        if not questions:
            return []
        prompts = [{"prompt_token_ids": question.tokens} for question in questions]
        # greedy: which token is taken does not matter, and no kernel for top-k and top-p stands in the way
        params = [
            self.sampling_params(
                max_tokens=1,
                temperature=0.0,
                logprobs=question.legal,
                detokenize=False,
                extra_args={ON: True, WRITTEN: question.written},
            )
            for question in questions
        ]
        answers = self.llm.generate(prompts, params, use_tqdm=False)
        return [
            {int(token): float(one.logprob) for token, one in answer.outputs[0].logprobs[0].items()}
            for answer in answers
        ]


def require_vllm() -> None:
    """Raises `RunError` where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise RunError(
            "--backend vllm needs vLLM, which is not installed here; install it where its GPU is (pip install vllm), "
            "or leave --backend out."
        )


def read_engine_arguments(settings: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` of the command line as arguments of `vllm.LLM`; values are JSON, or text where they are none.

    Raises:
        RequestError: no KEY=VALUE, or a key that llmrec sets itself.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        key, is_there, value = setting.partition("=")
        if not is_there or not key.isidentifier():
            raise RequestError(f"--engine {setting!r} is not of the form KEY=VALUE; give an argument of vllm.LLM.")
        if key in _OWN:
            raise RequestError(f"--engine {key}=... is set by llmrec itself; leave it out.")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def open_vllm(folder: Path, arguments: Mapping[str, Any] | None = None) -> AskedModel:
    """Starts vLLM on a run folder with whole weights, as a policy's model.

    Args:
        folder: the run folder; nothing of its weights is loaded here but by vLLM.
        arguments: further arguments of `vllm.LLM`, such as gpu_memory_utilization or tensor_parallel_size.

    Raises:
        RunError: vLLM is not installed, cannot load the model, or the weights are an adapter or in another form.
        RequestError: several processes were started, of which each would start an engine.
    """
    require_vllm()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RequestError(
            "--backend vllm runs in one process; start it without a launcher and let vLLM use several GPUs by "
            "--engine tensor_parallel_size=2."
        )
    if (form := read_facts(folder)["weights"]) != "full":
        raise RunError(
            f"{shown(folder)} holds its weights as {form!r}, which vLLM does not load; make a folder of whole ones "
            f"by llmrec export {shown(folder)} --to merged --out NEW."
        )
    catalogue, _ = read_items(folder)
    config = load_config(str(folder))
    # processors of this interface belong to the first model runner; versions before the second know no such variable
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
    import vllm

    own = {
        "model": str(folder),
        "logits_processors": [PROCESSOR],
        # after the processor: normalised over what it lets through
        "logprobs_mode": "processed_logprobs",
        "max_logprobs": int(catalogue.index.degree_M.max()),
        "additional_config": {ON: str(folder)},
    }
    try:
        llm = vllm.LLM(**{"enable_prefix_caching": True, **dict(arguments or {}), **own})
    except (ValueError, TypeError, RuntimeError) as error:
        said = " ".join(str(error).split())[:300]
        raise RunError(f"vLLM does not start on {shown(folder)} ({said}); see its output above.") from None
    rows = config.get_text_config().vocab_size
    return AskedModel(VllmAnswerer(llm, vllm.SamplingParams), config, rows, name=NAME)
