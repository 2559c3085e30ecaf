"""Texts as vectors: the mean or the last hidden state of a causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from llmrec.policy.modes import base_model, decoder_of, device_of, trial


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """Texts (n,) to float32 (n, H): the mean over a text's tokens of the hidden states before the output head.

    With `last` it is the state of the last token alone, which has read the whole text and is about to say what
    follows.

    Texts are padded on the right whatever the tokenizer's side is: in a causal model no token sees what follows it,
    so a text's vector does not depend on its batch. A text without a token gets zeros.

    Attributes:
        model: a causal language model.
        tokenizer: its tokenizer.
        max_tokens: a text's tokens after these are left out; with `last` those before the last so many.
        batch_tokens: most tokens of a batch, padding counted.
        last: the last token's hidden state instead of the mean.
    """

    model: Any
    tokenizer: Any
    max_tokens: int = 256
    batch_tokens: int = 8192
    last: bool = False

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """The vectors of `texts`, in their order."""
        encoded = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        rows = [row[-self.max_tokens :] if self.last else row[: self.max_tokens] for row in encoded]
        out = np.zeros(
            (len(rows), int(base_model(self.model).config.get_text_config().hidden_size)), dtype=np.float32
        )
        # taken from the end: the longest first, in batches of about one length and bounded tokens
        order = sorted((i for i, row in enumerate(rows) if row), key=lambda i: len(rows[i]))
        while order:
            width = len(rows[order[-1]])
            count = max(1, self.batch_tokens // width)
            order, part = order[:-count], order[-count:]
            out[part] = self._pooled([rows[i] for i in part])
        return out

    def _pooled(self, rows: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        width = max(map(len, rows))
        ids, mask = np.zeros((len(rows), width), dtype=np.int64), np.zeros((len(rows), width), dtype=np.int64)
        for b, row in enumerate(rows):
            ids[b, : len(row)], mask[b, : len(row)] = row, 1
        device = device_of(self.model)
        with trial(self.model):
            mask_BL = torch.from_numpy(mask).to(device)
            answer = decoder_of(self.model)(
                input_ids=torch.from_numpy(ids).to(device), attention_mask=mask_BL, use_cache=False
            )
            hidden_BLH, keep_BL1 = answer.last_hidden_state.float(), mask_BL.unsqueeze(-1)
            length_B = mask_BL.sum(1)
            if self.last:
                pooled_BH = hidden_BLH[torch.arange(len(rows), device=device), length_B - 1]
            else:
                pooled_BH = (hidden_BLH * keep_BL1).sum(1) / length_B[:, None]
        vectors: npt.NDArray[np.float32] = pooled_BH.cpu().numpy()
        return vectors
