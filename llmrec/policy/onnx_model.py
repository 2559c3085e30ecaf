"""A decoder as an ONNX graph, and onnxruntime in the place of torch where a policy reads and searches.

The graph gives hidden states of new tokens from their ids, positions, a mask (which key each token sees) and the keys
and values of what was read before, and the keys and values of the new ones. Whatever a policy does (shared prompts,
beams over the prefix tree, filters, certificates) asks for no more, so it is the same code on another engine. The
rows of the output head, one product an edge, stay with torch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DynamicCache

from llmrec.errors import RunError
from llmrec.policy.loading import load_config
from llmrec.policy.modes import base_model, decoder_of
from llmrec.policy.packing import window_of
from llmrec.policy.sharing import supports_sharing

FILE, WEIGHTS, HEAD = "decoder.onnx", "decoder.onnx.data", "head.safetensors"
OPSET = 18
ALIGNED = 4096
"""Bytes whose multiples weights begin at, so that they can be mapped into memory."""
HIDDEN = "last_hidden_state"
PAST = ("past_key", "past_value")
_EXAMPLE = (2, 5, 7)
"""Rows, new tokens and earlier tokens of the example that the graph is traced with; all three may be others."""


class _Traced(nn.Module):
    """What becomes the graph: lists of keys and values in the place of transformers' cache."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, input_ids: Tensor, seen: Tensor, position_ids: Tensor, keys: list[Tensor], values: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        cache, before = DynamicCache(), keys[0].shape[2]
        for layer, (key, value) in enumerate(zip(keys, values, strict=True)):
            cache.update(key, value, layer)
        named = {"input_ids": input_ids, "attention_mask": seen, "position_ids": position_ids}
        hidden = self.decoder(**named, past_key_values=cache, use_cache=True).last_hidden_state
        return (
            hidden,
            [one.keys[:, :, before:] for one in cache.layers],
            [v.values[:, :, before:] for v in cache.layers],
        )


def require_packages(*names: str) -> None:
    """Raises `RunError` where a package is missing."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise RunError(f"ONNX needs the package {name}; install it by pip install 'llmrec[onnx]'.")


@torch.no_grad()
def save_onnx(model: Any, folder: Path) -> None:
    """Writes the decoder's graph in 32-bit floats, the output head and the configuration into `folder`.

    Raises:
        RunError: a package is missing, or the model's layers do not share a prompt between rows as the graph does.
    """
    require_packages("onnx", "onnxscript", "onnxruntime")
    model = base_model(model).float().cpu().eval()
    if not supports_sharing(model) or window_of(model) is not None or model.config._attn_implementation != "sdpa":
        raise RunError(
            f"{type(model).__name__} cannot be exported to ONNX here: its layers keep states, have a window or "
            "need another attention; choose another format (--to merged, int8 or int4)."
        )
    try:
        _by_running(model, folder)
        same = _same(model, folder)
    except OSError:
        raise  # the disk, which has nothing to do with the graph
    except Exception:  # whatever the exporter raises for an operation that it does not know
        same = False
    if not same:
        (folder / WEIGHTS).unlink(missing_ok=True)
        _by_shapes(model, folder)
    _write_head(model, folder)
    model.config.save_pretrained(folder)


def _example(model: Any) -> tuple[list[str], tuple[Any, ...]]:
    """Names and values of the inputs that the graph is made with."""
    layers, heads, width = _cache_shape(model)
    rows, new, past = _EXAMPLE
    ids = torch.zeros((rows, new), dtype=torch.long)
    positions = torch.arange(past, past + new).expand(rows, new).contiguous()
    seen = torch.ones((rows, 1, new, past + new), dtype=torch.bool)
    # tensors of their own: one that is given twice would be one input of the graph
    keys, values = ([torch.zeros((rows, heads, past, width)) for _ in range(layers)] for _ in PAST)
    return ["input_ids", "seen", "position_ids", *_names(layers)], (ids, seen, positions, keys, values)


def _outputs(inputs: list[str]) -> list[str]:
    return [HIDDEN, *(name.removeprefix("past_") for name in inputs[3:])]


def _by_running(model: Any, folder: Path) -> None:
    """The graph of what one call computes: seconds for thirty layers."""
    names, example = _example(model)
    free = {name: {0: "rows", 1: "tokens"} for name in ("input_ids", "position_ids", HIDDEN)}
    free |= {"seen": {0: "rows", 2: "tokens", 3: "keys"}} | {name: {0: "rows", 2: "past"} for name in names[3:]}
    free |= {name: {0: "rows", 2: "tokens"} for name in _outputs(names)[1:]}
    traced = _Traced(decoder_of(model)).eval()
    with _quiet():
        torch.onnx.export(
            traced,
            example,
            str(folder / FILE),
            dynamo=False,
            opset_version=OPSET,
            export_params=False,
            do_constant_folding=False,
            input_names=names,
            output_names=_outputs(names),
            dynamic_axes=free,
        )
    _move_weights(dict(traced.named_parameters()), folder)


def _by_shapes(model: Any, folder: Path) -> None:
    """The same by shapes that are symbols, which takes 20 times as long and knows more operations."""
    names, example = _example(model)
    layers = len(example[3])
    B, Q, P = (torch.export.Dim(name) for name in ("rows", "tokens", "past"))
    free = {0: B, 2: P}
    shapes = ({0: B, 1: Q}, {0: B, 2: Q, 3: torch.export.Dim.DYNAMIC}, {0: B, 1: Q}, [free] * layers, [free] * layers)
    with _quiet():
        program: Any = torch.onnx.export(
            _Traced(decoder_of(model)).eval(),
            example,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=names,
            output_names=_outputs(names),
            verbose=False,
        )
    program.save(str(folder / FILE))


def _same(model: Any, folder: Path) -> bool:
    """Whether the graph in `folder` computes what the model does, at other shapes than those of its example."""
    decoder = _decoder(folder)
    ids = torch.arange(2 * 11).view(2, 11) % model.config.vocab_size
    wanted = decoder_of(model)(input_ids=ids).last_hidden_state
    cache = DynamicCache()
    first = decoder(ids[:, :4], past_key_values=cache)
    rest = decoder(ids[:, 4:], past_key_values=cache)
    found = torch.cat([first.last_hidden_state, rest.last_hidden_state], 1)
    return bool((found - wanted).norm() <= 1e-4 * wanted.norm())


def _write_head(model: Any, folder: Path) -> None:
    """Rows of embedding and output head, which torch reads."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    tensors = {"embedding": embedding.contiguous()}
    if head.weight.data_ptr() != embedding.data_ptr():
        tensors["head"] = head.weight.contiguous()
    if head.bias is not None:
        tensors["bias"] = head.bias.contiguous()
    save_file(tensors, folder / HEAD)


def _move_weights(weights: dict[str, Tensor], folder: Path) -> None:
    """Makes of the weights, which are inputs of the graph, what lies in a file beside it: protobuf ends at 2 GB."""
    import onnx

    model = onnx.load(str(folder / FILE), load_external_data=False)
    given = [one for one in model.graph.input if one.name not in weights]
    kept = [one.name for one in model.graph.input if one.name in weights]
    del model.graph.input[:]
    model.graph.input.extend(given)
    with (folder / WEIGHTS).open("wb") as file:
        for name in kept:
            weight = weights[name].detach().contiguous()
            file.write(bytes(-file.tell() % ALIGNED))
            held = model.graph.initializer.add(name=name, data_type=onnx.TensorProto.FLOAT, dims=weight.shape)
            held.data_location = onnx.TensorProto.EXTERNAL
            place = {"location": WEIGHTS, "offset": file.tell(), "length": weight.nbytes}
            for key, value in place.items():
                held.external_data.add(key=key, value=str(value))
            weight.numpy().tofile(file)
    (folder / FILE).write_bytes(model.SerializeToString())


def load_onnx(folder: Path) -> OnnxCausalLM:
    """What `save_onnx` wrote, on onnxruntime's processor provider.

    Raises:
        RunError: onnxruntime is missing, or the graph is none or not one that was written here.
    """
    decoder = _decoder(folder)
    config = load_config(str(folder))
    config._attn_implementation = "sdpa"  # the mask is of booleans
    return OnnxCausalLM(config, decoder, load_file(folder / HEAD)).eval()


def _decoder(folder: Path) -> OnnxDecoder:
    require_packages("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(folder / FILE), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever onnxruntime raises for what it cannot read
        raise RunError(f"{folder / FILE} cannot be loaded ({type(error).__name__}); export the run again.") from None
    layers = sum(one.name.startswith(PAST[0]) for one in session.get_inputs())
    if not layers or session.get_outputs()[0].name != HIDDEN:
        raise RunError(f"{folder / FILE} is no graph that llmrec export wrote; export the run again.")
    return OnnxDecoder(session, layers)


class OnnxDecoder:
    """Calls the graph as transformers' decoders are called; the cache is transformers' own."""

    def __init__(self, session: Any, layers: int) -> None:
        self.session, self.layers = session, layers
        shape = next(one.shape for one in session.get_inputs() if one.name.startswith(PAST[0]))
        self.heads, self.width = int(shape[1]), int(shape[3])

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
    ) -> SimpleNamespace:
        """Hidden states (B, Q, H) of new tokens; what they add to the cache is put there."""
        rows, new = input_ids.shape
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = torch.arange(past, past + new).expand(rows, new)
        if attention_mask is None:
            attention_mask = torch.arange(past + new) <= torch.arange(past, past + new).unsqueeze(1)
        feed = {
            "input_ids": input_ids,
            "seen": attention_mask.expand(rows, 1, new, past + new),
            "position_ids": position_ids,
        }
        nothing = torch.zeros((rows, self.heads, 0, self.width))
        for layer in range(self.layers):
            held = past_key_values.layers[layer] if past else None
            both = (nothing, nothing) if held is None else (held.keys, held.values)
            feed |= {f"{name}_{layer}": value for name, value in zip(PAST, both, strict=True)}
        hidden, *added = self.session.run(None, {name: value.contiguous().numpy() for name, value in feed.items()})
        if past_key_values is not None:
            keys, values = added[: self.layers], added[self.layers :]
            for layer, (key, value) in enumerate(zip(keys, values, strict=True)):
                past_key_values.update(torch.from_numpy(key), torch.from_numpy(value), layer)
        return SimpleNamespace(last_hidden_state=torch.from_numpy(hidden))


class OnnxCausalLM(nn.Module):
    """What a policy asks of a causal language model, of which only embedding and head are torch's."""

    def __init__(self, config: Any, decoder: OnnxDecoder, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.config, self._decoder = config, decoder
        rows, width = tensors["embedding"].shape
        self.embedding = nn.Embedding(rows, width, _weight=tensors["embedding"])
        self.lm_head = nn.Linear(width, rows, bias="bias" in tensors, device="meta")
        self.lm_head.weight = nn.Parameter(tensors.get("head", tensors["embedding"]))
        if "bias" in tensors:
            self.lm_head.bias = nn.Parameter(tensors["bias"])
        self.requires_grad_(False)

    def get_decoder(self) -> OnnxDecoder:
        """The graph."""
        return self._decoder

    def get_input_embeddings(self) -> nn.Embedding:
        """Its rows are those within the graph."""
        return self.embedding

    def get_output_embeddings(self) -> nn.Linear:
        """The output head."""
        return self.lm_head

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        """Logits of all tokens."""
        del use_cache
        return SimpleNamespace(logits=self.lm_head(self._decoder(input_ids).last_hidden_state))


def _cache_shape(model: Any) -> tuple[int, int, int]:
    """Layers, heads and width of what the model's cache holds."""
    cache = DynamicCache()
    decoder_of(model)(input_ids=torch.zeros((1, 2), dtype=torch.long), past_key_values=cache, use_cache=True)
    return len(cache.layers), cache.layers[0].keys.shape[1], cache.layers[0].keys.shape[3]


def _names(layers: int) -> list[str]:
    return [f"{name}_{layer}" for name in PAST for layer in range(layers)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what the exporter says of itself off the terminal."""
    before, inside = logging.root.manager.disable, cast(Any, torch._C)
    logging.disable(logging.WARNING)
    printed = inside._jit_onnx_log  # a whole graph, from below Python, where an operation is not known
    inside._jit_onnx_log = lambda *_: None
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        inside._jit_onnx_log = printed
        logging.disable(before)
