"""A stand-in for vLLM without a GPU: `LLM` and `SamplingParams` as far as llmrec calls them, over transformers.

Its engine does on purpose, and often, what vLLM's does now and then: a batch of few rows whose holes are filled by new
requests or by the last rows, rows that are swapped, prompts read in pieces (with draws that are thrown away), requests
that are preempted and come back with what they wrote, and, where it schedules ahead, outputs whose last token is filled
in only after `update_state`.
"""

from __future__ import annotations

import dataclasses
import importlib
import random
from collections import deque
from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM

from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

STUB = True


@dataclasses.dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    stop_token_ids: list | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True
    extra_args: dict | None = None


class _Request:
    def __init__(self, prompt, params):
        self.prompt, self.params, self.output, self.logprobs = list(prompt), params, [], []
        self.computed, self.drawn, self.finished = 0, None, False

    @property
    def tokens(self):
        return self.prompt + self.output


class LLM:
    def __init__(
        self,
        model,
        *,
        logits_processors=(),
        logprobs_mode="raw_logprobs",
        max_logprobs=20,
        additional_config=None,
        enable_prefix_caching=None,
        max_num_seqs=256,
        long_prefill_token_threshold=0,
        async_scheduling=False,
        preemption=0.0,
        seed=0,
    ):
        self.model = AutoModelForCausalLM.from_pretrained(model).double().eval()
        self.mode, self.most, self.rows_at_most = logprobs_mode, max_logprobs, max_num_seqs
        self.piece, self.ahead, self.preemption = long_prefill_token_threshold, async_scheduling, preemption
        self.random, self.draws = random.Random(seed), torch.Generator().manual_seed(seed)
        config = SimpleNamespace(model_config=SimpleNamespace(model=model), additional_config=additional_config or {})
        self.processors = []
        for name in logits_processors:
            module, _, kind = name.partition(":")
            found = getattr(importlib.import_module(module), kind)
            assert issubclass(found, LogitsProcessor)
            self.processors.append(found(config, torch.device("cpu"), False))
        assert not any(one.is_argmax_invariant() for one in self.processors)
        self.rows = []
        self.seen = {"moved": 0, "swapped": 0, "preempted": 0, "thrown away": 0, "filled in": 0, "replaced": 0}

    def generate(self, prompts, sampling_params, *, use_tqdm=True):
        params = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        groups = []
        for prompt, one in zip(prompts, params, strict=True):
            if one.logprobs is not None and self.most != -1 and one.logprobs > self.most:
                raise ValueError(f"Requested sample logprobs of {one.logprobs}, which is above {self.most}.")
            for processor in self.processors:
                processor.validate_params(one)
            groups.append([_Request(prompt["prompt_token_ids"], one) for _ in range(one.n)])
        waiting = deque(request for group in groups for request in group)
        while waiting or any(not request.finished for request in self.rows):
            self._step(waiting)
        return [
            SimpleNamespace(
                outputs=[SimpleNamespace(token_ids=list(one.output), logprobs=one.logprobs) for one in group]
            )
            for group in groups
        ]

    def _step(self, waiting):
        update = self._arranged(waiting)
        for processor in self.processors:
            processor.update_state(update)
        logits, partial = [], []
        for request in self.rows:
            left = len(request.tokens) - request.computed
            request.computed += min(left, self.piece) if self.piece else left
            read = request.prompt + [t if t >= 0 else request.drawn for t in request.output]
            with torch.no_grad():
                logits.append(self.model(input_ids=torch.tensor([read[: request.computed]])).logits[0, -1])
            partial.append(request.computed < len(read))
        raw = torch.stack(logits)
        for request in self.rows:
            if request.drawn is not None:
                request.output[-1], request.drawn = request.drawn, None
                self.seen["filled in"] += 1
        chosen = raw.clone()
        for processor in self.processors:
            chosen = processor.apply(chosen)
        for row, request in enumerate(self.rows):
            self._draw(request, raw[row], chosen[row], partial[row])

    def _arranged(self, waiting):
        """Rows for the next step, and the update that tells of them: removed, added, moved."""
        holes = [row for row, request in enumerate(self.rows) if request.finished]
        for row, request in enumerate(self.rows):
            if row not in holes and self.random.random() < self.preemption:
                if request.drawn is not None:  # the scheduler knows the token by then
                    request.output[-1], request.drawn = request.drawn, None
                request.computed = 0
                waiting.appendleft(request)
                holes.append(row)
                self.seen["preempted"] += 1
        holes.sort(reverse=True)
        added, moved = [], []
        while waiting and (holes or len(self.rows) < self.rows_at_most):
            request = waiting.popleft()
            if holes:
                row = holes.pop()
                self.seen["replaced"] += 1
            else:
                row = len(self.rows)
                self.rows.append(None)
            self.rows[row] = request
            added.append((row, request.params, request.prompt, request.output))
        removed = list(holes)
        while holes:
            last = len(self.rows) - 1
            if last in holes:
                holes.remove(last)
            else:
                row = holes.pop()
                self.rows[row] = self.rows[last]
                moved.append((last, row, MoveDirectionality.UNIDIRECTIONAL))
                self.seen["moved"] += 1
            self.rows.pop()
        if len(self.rows) > 1 and self.preemption and self.random.random() < 0.5:
            one, other = self.random.sample(range(len(self.rows)), 2)
            self.rows[one], self.rows[other] = self.rows[other], self.rows[one]
            moved.append((one, other, MoveDirectionality.SWAP))
            self.seen["swapped"] += 1
        return BatchUpdate(len(self.rows), removed, added, moved) if added or removed or moved else None

    def _draw(self, request, raw, chosen, partial):
        params = request.params
        scaled = chosen if params.temperature == 0 else chosen / params.temperature
        if params.temperature == 0:
            token = int(chosen.argmax())
        else:
            token = int(torch.multinomial(scaled.softmax(0), 1, generator=self.draws))
        if partial:
            self.seen["thrown away"] += 1
            return
        if params.logprobs is not None:
            told = torch.log_softmax(scaled if self.mode == "processed_logprobs" else raw, 0)
            best = [token, *told.topk(params.logprobs).indices.tolist()]
            request.logprobs.append({t: SimpleNamespace(logprob=float(told[t])) for t in best})
        request.output.append(-1 if self.ahead else token)
        request.drawn = token if self.ahead else None
        ends = token in (params.stop_token_ids or []) or len(request.output) == params.max_tokens
        if ends:
            request.finished = True
            if self.ahead:
                request.output[-1], request.drawn = token, None
