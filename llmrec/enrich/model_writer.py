"""The writer that is a causal language model on this machine: greedy, in batches, within its context."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from llmrec.enrich.prompting import Prompts, draft_of
from llmrec.enrich.types import Author, Draft, Source
from llmrec.errors import ConfigError
from llmrec.files import sha256_of
from llmrec.policy.gguf import is_gguf
from llmrec.policy.loading import (
    check_vocabulary,
    is_local,
    load_causal_lm,
    load_config,
    load_tokenizer,
    pick_device,
    positions,
    unpacked,
)
from llmrec.storage import resolve
from llmrec.text.budget import PromptEncoder
from llmrec.written import hashes_of

_PROMPT = 1024
"""Tokens of a prompt, at most, where the model could read more: facts are few, and time grows with them."""


class ModelWriter:
    """Writes with a causal language model, loaded as everywhere in llmrec.

    Args:
        name: Hub id, folder or GGUF file.
        prompts: the templates.
        revision: of a Hub repository.
        tokens: of an answer, at most.
        batch: prompts that are read and answered together; part of what decides a text, as sums of floats do.
        dtype: see `policy.precision.pick_precision`.

    Raises:
        RunError: the model cannot be loaded.
        ConfigError: its context is too short for any prompt.
    """

    def __init__(
        self, name: str, prompts: Prompts, *, revision: str | None = None, tokens: int = 80, batch: int = 8,
        dtype: str = "auto",
    ) -> None:  # fmt: skip
        config = load_config(name, revision)
        self.prompts, self._batch, self._tokens = prompts, batch, tokens
        self.tokenizer = load_tokenizer(name, revision)
        self.encoder = PromptEncoder(self.tokenizer)
        most = positions(config)
        self._room = _PROMPT if most is None else min(_PROMPT, most - tokens)
        if self._room < 1:
            raise ConfigError(
                f"The model {name!r} reads at most {most} tokens, and an answer alone may have {tokens}; lower "
                "--tokens or choose another model."
            )
        self.model: Any = load_causal_lm(name, revision=revision, dtype=dtype, device=pick_device())
        check_vocabulary(name, self.tokenizer, self.model.get_input_embeddings().num_embeddings)
        self._name, self._revision = name, revision

    @property
    def batch(self) -> int:
        """Prompts that are answered together."""
        return self._batch

    @property
    def together(self) -> bool:
        """Padding and the shapes of products depend on the longest prompt of a batch."""
        return True

    @cached_property
    def author(self) -> Author:
        """The model by name and the hash of its weights."""
        name = Path(self._name).name if is_local(self._name) else self._name
        settings = (
            ("tokens", str(self._tokens)),
            ("prompt", str(self._room)),
            ("batch", str(self._batch)),
            ("dtype", str(self.model.dtype).removeprefix("torch.")),
        )
        return Author("model", name, self._weights_hash(), self.prompts.hash, settings)

    def _weights_hash(self) -> str:
        if not is_local(self._name):
            return str(getattr(self.model.config, "_commit_hash", None) or self._revision or "")
        folder = unpacked(self._name) if is_gguf(self._name) else resolve(self._name)
        hashes = hashes_of(folder)
        decisive = sorted(n for n in hashes if n.endswith((".safetensors", ".json", ".jinja", ".model", ".txt")))
        return sha256_of(*(part for name in decisive for part in (name, hashes[name])))

    def write(self, sources: Sequence[Source]) -> list[Draft]:
        """Greedy answers to the prompts of one batch."""
        leads = [self.prompts.lead(source) for source in sources]
        prompts = [
            self.prompts.fitting(source, lambda text, lead=lead: len(self._encoded(text, lead)) <= self._room)  # type: ignore[misc]
            for source, lead in zip(sources, leads, strict=True)
        ]
        rows = [row for row, prompt in enumerate(prompts) if prompt is not None]
        drafts = [Draft(failure="the prompt does not fit into the model's context")] * len(sources)
        answers = self._answers([self._encoded(prompts[row] or "", leads[row]) for row in rows])
        for row, (text, cut) in zip(rows, answers, strict=True):
            drafts[row] = draft_of(leads[row] + text, sources[row], self.prompts.language, cut=cut)
        return drafts

    def _encoded(self, prompt: str, lead: str) -> list[int]:
        """The prompt's tokens, with the beginning of the answer behind them; that is our own text."""
        space = "" if self.encoder.chat else " "
        behind = self.tokenizer(space + lead, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return [*self.encoder.encode([prompt])[0], *behind]

    @torch.no_grad()
    def _answers(self, ids: Sequence[list[int]]) -> list[tuple[str, bool]]:
        """Answers to prompts as tokens, each with whether it was cut off."""
        if not ids:
            return []
        width, pad = max(map(len, ids)), self.tokenizer.pad_token_id
        device = self.model.device
        tokens_BL = torch.tensor([[pad] * (width - len(row)) + row for row in ids], device=device)
        mask_BL = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=device)
        # Whatever closes a turn or a text ends an answer, be it called the end token or not.
        ends = sorted({self.tokenizer.eos_token_id, *self.encoder.control_ids})
        how = GenerationConfig(max_new_tokens=self._tokens, do_sample=False, pad_token_id=pad, eos_token_id=ends)
        made_BL = self.model.generate(input_ids=tokens_BL, attention_mask=mask_BL, generation_config=how)[:, width:]
        found = []
        for row in made_BL.tolist():
            end = next((place for place, token in enumerate(row) if token in ends), None)
            text = self.tokenizer.decode(row if end is None else row[:end], skip_special_tokens=True)
            found.append((text, end is None))
        return found
