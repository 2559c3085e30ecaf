"""The logits processor that vLLM loads; everything it does is `policy.constrained_rows`, which needs no vLLM.

vllm serve RUN --logits-processors llmrec.vllm_engine.processor:CatalogueProcessor
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from llmrec.catalogue.filters import Attributes, Filters
from llmrec.errors import RequestError
from llmrec.export import read_items
from llmrec.finding import run_folder
from llmrec.policy.constrained_rows import ConstrainedRows
from llmrec.policy.filtered import FilterBook
from llmrec.vllm_engine.arguments import ON, Asked, read_arguments


class CatalogueProcessor(LogitsProcessor):  # type: ignore[misc]
    """Lets through only tokens that go on to an allowed item, in rows whose request says `"llmrec": true`.

    The catalogue is that of the run folder that vLLM has loaded as its model, or of the one that
    `additional_config["llmrec"]` names.
    """

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raises `ValueError` for arguments that cannot be read; vLLM then refuses this request alone."""
        try:
            read_arguments(sampling_params.extra_args)
        except RequestError as error:
            raise ValueError(str(error)) from None

    @classmethod
    def needs_output_token_ids(cls) -> bool:
        """Engines that schedule ahead fill in what was drawn before they ask."""
        return True

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        del is_pin_memory
        named = getattr(vllm_config, "additional_config", None)
        place = named.get(ON) if isinstance(named, dict) else None
        catalogue, items = read_items(run_folder(place or vllm_config.model_config.model))
        book = FilterBook(catalogue.index.to(device), Attributes.of(items))
        self._rows = ConstrainedRows(book, catalogue.end_token)

    def is_argmax_invariant(self) -> bool:
        """The best token of all may be none of the catalogue's."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follows what the engine did with its rows: removed, added, moved, in this order."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._rows.drop(row)
        for row, params, prompt, output in batch_update.added:
            asked = _asked(params)
            if asked is None:
                self._rows.drop(row)
                continue
            begun = (prompt or [])[-asked.written :] if asked.written else []
            self._rows.put(row, asked.filters, output, begun)
        for source, target, direction in batch_update.moved:
            if direction == MoveDirectionality.SWAP:
                self._rows.swap(source, target)
            else:
                self._rows.move(source, target)

    def apply(self, logits: Tensor) -> Tensor:
        """Sets what no allowed item goes on with to -inf, in place."""
        self._rows.restrict(logits)
        return logits


def _asked(params: Any) -> Asked | None:
    """What a request asks for; nothing at all where it cannot be read, since an error here would end the engine."""
    try:
        return read_arguments(params.extra_args)
    except RequestError:  # by an engine that does not validate
        return Asked(Filters(candidates=()))
