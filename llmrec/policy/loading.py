"""Any causal language model, by Hub id or path, in and out of memory. Safetensors or GGUF only; no remote code."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GenerationConfig
from transformers import __version__ as transformers_version
from transformers.utils import logging as transformers_logging

from llmrec.config import ModelConfig
from llmrec.errors import ConfigError, RunError, one_line
from llmrec.files import new_folder, write_json
from llmrec.policy.gguf import ORIGIN, check_gguf, is_gguf
from llmrec.policy.precision import pick_precision
from llmrec.progress import console
from llmrec.storage import cache_folder, resolve

CHECKPOINTING = "_llmrec_gradient_checkpointing"
"""Attribute of a loaded model: what `ModelConfig.gradient_checkpointing` says."""
PRECISION = "_llmrec_precision"
"""Attribute of a loaded model: the `Precision` that was chosen for it."""
Quantization = Literal["none", "4bit"]

transformers_logging.disable_progress_bar()  # ours show the stages; a bar a file drowns them


def pick_device() -> torch.device:
    """The GPU of this process if there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """The tokenizer of `name` (Hub id, folder or GGUF file), padding on the left, with a pad and an end token.

    Raises:
        RunError: there is none, it cannot be read, or it has no end token.
    """
    tokenizer = _or_run_error(AutoTokenizer.from_pretrained, name, revision, "tokenizer")
    # prompts end where the answer begins, so all of a batch's answers begin in one column
    tokenizer.padding_side = "left"
    if tokenizer.eos_token_id is None:
        raise RunError(f"The tokenizer of {name!r} has no end token (eos_token); set one and save it again.")
    if tokenizer.pad_token_id is None:
        # padding is masked wherever it stands, so any token will do
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_folder(name: str) -> None:
    """Raises `RunError` where `name` is a folder that holds no model; reads nothing."""
    folder = Path(name)
    if not (is_local(name) and folder.is_dir()):
        return
    lacks = [
        what
        for what, names in (("config.json", "config.json"), ("weights in safetensors", "*.safetensors"))
        if not any(folder.glob(names))
    ]
    if lacks:
        raise RunError(
            f"The folder {name} has no {' and no '.join(lacks)}, so it holds no model; give one that save_pretrained "
            "wrote, or a Hub id such as USER/NAME."
        )


def load_causal_lm(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: torch.device | None = None,
    quantization: Quantization = "none",
    whole: bool = False,
) -> Any:
    """A causal language model by Hub id, folder or GGUF file, in evaluation mode on `device`.

    Args:
        name: Hub id, folder or GGUF file, whose weights are turned back into floats.
        revision: of a Hub repository.
        dtype: see `pick_precision`; with 4 bits, what is computed in.
        device: by default `pick_device()`.
        quantization: "4bit" keeps linear layers but the head in 4 bits (NF4, its scales quantised too).
        whole: refuse weights that the model has no place for, as in a folder that was written here.

    Settings of generation that lie beside the weights are never read: nothing here generates by them, and some that
    are published cannot even be saved again.

    Raises:
        ConfigError: 4 bits without bitsandbytes.
        RunError: the model is missing, private, of another kind, quantised, damaged, or has no safetensors weights.
    """
    device = device or pick_device()
    precision = pick_precision(dtype, device, load_config(name, revision))
    chosen = precision.dtype
    more = {} if quantization == "none" else {"quantization_config": _four_bits(chosen), "device_map": {"": device}}
    # GenerationConfig() replaces what lies beside the weights: left out, transformers reads it.
    model, found = _or_run_error(
        AutoModelForCausalLM.from_pretrained,
        name,
        revision,
        "model",
        dtype=chosen,
        use_safetensors=True,
        generation_config=GenerationConfig(),
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, by name
        **more,
    )
    # transformers fills weights that are missing with random numbers and only warns
    _check_weights(name, found, whole=whole)
    setattr(model, PRECISION, precision)
    return (model if quantization == "4bit" else model.to(device)).eval()


def load_made(folder: Path, state: dict[str, torch.Tensor], device: torch.device) -> Any:
    """The model of `folder`'s configuration with weights that were made in memory, in evaluation mode on `device`.

    Raises:
        RunError: as `load_causal_lm` does.
    """
    name = str(folder)
    config = load_config(name)
    precision = pick_precision("auto", device, config)
    with _quiet():
        # the class itself: the auto class looks for a folder
        model, found = AutoModelForCausalLM._model_mapping[type(config)].from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=precision.dtype,
            generation_config=GenerationConfig(),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    _check_weights(name, found, whole=True)
    setattr(model, PRECISION, precision)
    return model.to(device).eval()


def _check_weights(name: str, found: dict[str, Any], *, whole: bool) -> None:
    """Refuses weights that do not fit the configuration; transformers would make up what is missing."""
    mend = "fetch or save the model again"
    for key, saved, wanted in sorted(found["mismatched_keys"]):
        raise RunError(
            f"The weights of {name!r} do not fit its config.json: {key} is {tuple(saved)}, not {tuple(wanted)}; "
            f"{mend}."
        )
    for what, keys in (("lack", found["missing_keys"]), ("hold", found["unexpected_keys"] if whole else ())):
        if keys:
            raise RunError(
                f"The weights of {name!r} {what} {len(keys)} parts {'that' if what == 'lack' else 'more than'} its "
                f"config.json names (such as {min(keys)!r}); {mend}."
            )


def check_vocabulary(name: str, tokenizer: Any, rows: int) -> None:
    """Raises `RunError` where `tokenizer` has more tokens than the model has rows of its embedding."""
    if len(tokenizer) > rows:
        raise RunError(
            f"The tokenizer of {name!r} has {len(tokenizer)} tokens, but its model only {rows} rows; give the "
            "tokenizer that the model was trained with, or save the model after "
            "model.resize_token_embeddings(len(tokenizer))."
        )


def positions(config: Any) -> int | None:
    """The most tokens that a model of this configuration can read at a time; None where it sets no bound."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else None


def check_positions(name: str, config: Any, max_tokens: int, answer: int) -> None:
    """Raises `ConfigError` where a prompt of `max_tokens` and an answer are more than the model can read.

    Models with rotary positions would go on beyond that, at positions which they have never seen.
    """
    most = positions(config)
    if most is not None and max_tokens + answer > most:
        mend = (
            f"set text.max_tokens to {most - answer} or less"
            if most > answer
            else (
                "choose another model, or leave tasks with long answers (description_from_title) out of sft.mixture"
            )
        )
        raise ConfigError(
            f"The model {name!r} reads at most {most} tokens, but a prompt may have {max_tokens} (text.max_tokens) "
            f"and an answer {answer}; {mend}."
        )


def load_config(name: str, revision: str | None = None) -> Any:
    """The configuration of a causal language model that can be trained here; reads no weights.

    Raises:
        RunError: it is missing, of another kind, or its weights are quantised.
    """
    config = _or_run_error(AutoConfig.from_pretrained, name, revision, "model")
    if type(config) not in AutoModelForCausalLM._model_mapping:  # what from_pretrained itself looks in
        raise RunError(
            f"The model {name!r} is a {config.model_type} model, which is no causal language model of transformers; "
            "choose one that is."
        )
    quantised = getattr(config, "quantization_config", None)
    if quantised:
        how = quantised.get("quant_method", "some method") if isinstance(quantised, dict) else quantised
        raise RunError(
            f"The weights of {name!r} are quantised ({one_line(str(how), 40)}), and an adapter is put on weights as "
            "they were published: give the model that it was made from, with model.quantization: 4bit to save memory."
        )
    return config


def load_configured(
    settings: ModelConfig, name: str, *, revision: str | None = None, quantization: Quantization = "none"
) -> Any:
    """`load_causal_lm` for training, as `settings` say; the model remembers whether activations are recomputed."""
    model = load_causal_lm(name, revision=revision, dtype=settings.dtype, quantization=quantization)
    setattr(model, CHECKPOINTING, settings.gradient_checkpointing)
    return model


def check_quantization(settings: ModelConfig) -> None:
    """Raises `ConfigError` where 4 bits are asked for and cannot be had; cheap."""
    if settings.quantization == "none":
        return
    _require_bitsandbytes()
    if not torch.cuda.is_available():  # on CPUs with AVX-512 its kernels for inference drop gradients in silence
        raise ConfigError(
            "Key 'model.quantization' is '4bit', which trains on a GPU only; there is none here, so set "
            "model.quantization: none."
        )


def _require_bitsandbytes() -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "Key 'model.quantization' is '4bit', but bitsandbytes is not installed; install it "
            "(pip install llmrec[quantization]) or set model.quantization: none."
        )


def _four_bits(dtype: torch.dtype) -> Any:
    _require_bitsandbytes()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _or_run_error(load: Any, name: str, revision: str | None, what: str, **options: Any) -> Any:
    asked = name
    if is_gguf(name):
        name = str(unpacked(name))
    elif is_local(name) and not Path(name).is_dir():
        raise RunError(f"{name} is not a folder; give a folder with a saved model or a Hub id such as USER/NAME.")
    try:
        with _quiet():
            return load(name, revision=revision, trust_remote_code=False, **options)
    # no fault of the model's files, and handled where memory is spoken of
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever transformers, tokenizers and safetensors raise for what they cannot read
        where = f" at revision {revision!r}" if revision else ""
        raise RunError(f"The {what} {asked!r}{where} cannot be loaded; {_mend(error, what)}.") from error


def unpacked(name: str) -> Path:
    """The folder with the weights of a GGUF file as ordinary floats (32 bits), and its tokenizer.

    Made once a file and kept in the cache, as turning weights back takes about a minute for 100 M of them.

    Raises:
        RunError: the file cannot be read (see `check_gguf`).
        ConfigError: the package gguf is not installed.
    """
    header = check_gguf(name)
    origin = header.origin()
    folder = resolve(cache_folder()) / "gguf" / origin.sha256[:24]
    if folder.is_dir():
        return folder
    console.print(f"turning the weights of {one_line(header.path.name, 80)} back into floats (once)", style="dim")
    place, options = str(header.path.parent), {"gguf_file": header.path.name, "trust_remote_code": False}
    with new_folder(folder, mark="config.json", wait=True) as out:
        try:
            with _quiet():
                tokenizer = AutoTokenizer.from_pretrained(place, **options)
                config = AutoConfig.from_pretrained(place, **options)
                if width := header.fields.get(f"{header.architecture}.attention.key_length"):
                    config.head_dim = int(width)  # transformers takes its own default
                model, found = AutoModelForCausalLM.from_pretrained(
                    place,
                    config=config,
                    dtype=torch.float32,
                    generation_config=GenerationConfig(),
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                    **options,
                )
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever transformers and gguf raise for what they cannot read
            raise RunError(f"The model {name!r} cannot be loaded; {_mend(error, 'model')}.") from error
        _check_weights(name, found, whole=False)
        # what transformers keeps of the file would make it take the floats for quantised weights
        for left in ("quantization_config", "_model_name_or_path"):
            if hasattr(model.config, left):
                delattr(model.config, left)
        model.hf_quantizer = None
        _name_special(tokenizer, header.fields)
        _fit_rows(model, len(tokenizer))
        save_causal_lm(model, tokenizer, out)
        write_json(out / ORIGIN, dataclasses.asdict(origin))
    return folder


def _name_special(tokenizer: Any, fields: dict[str, Any]) -> None:
    """Tells a tokenizer which tokens end, begin and pad, where the file says so and transformers left it out."""
    for kind, key in (("eos", "eos"), ("bos", "bos"), ("pad", "padding")):
        number = fields.get(f"tokenizer.ggml.{key}_token_id")
        if getattr(tokenizer, f"{kind}_token") is None and isinstance(number, int) and number < len(tokenizer):
            setattr(tokenizer, f"{kind}_token", tokenizer.convert_ids_to_tokens(number))


@torch.no_grad()
def _fit_rows(model: Any, tokens: int) -> None:
    """Rows of zeros for tokens that transformers gives to tokenizers of GGUF files and the model does not know."""
    known = len(model.get_input_embeddings().weight)
    if known < tokens:
        model.resize_token_embeddings(tokens, mean_resizing=False)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[known:] = 0.0


def _mend(error: Exception, what: str) -> str:
    """What to do about an error of loading, and its reason in brackets."""
    reason = f"({type(error).__name__}: {one_line(str(error), 200)})"
    if isinstance(error, ImportError):
        return f"it needs a package that is not installed here {reason}"
    if isinstance(error, SafetensorError):
        return f"a file of weights is damaged, fetch or save it again {reason}"
    if isinstance(error, OSError | ValueError):
        kind = "a causal language model in safetensors" if what == "model" else "a tokenizer beside the model"
        return f"check the id, your access (hf auth login) and that it is {kind} {reason}"
    return (
        f"its files are damaged, do not fit together, or are of a version that transformers {transformers_version} "
        f"does not read; fetch or save them again {reason}"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' reports of loading off the terminal: what matters of them is said in a sentence."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def is_local(name: str) -> bool:
    """Whether a model is named by a place on this machine rather than by a Hub id."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).exists()


def save_causal_lm(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes full weights (safetensors) and tokenizer into `folder`, which exists and is the caller's to rename."""
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
