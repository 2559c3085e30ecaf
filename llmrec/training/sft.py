"""Supervised warm start: the policy learns to name the item that the user chose next.

Against a plain `trl.SFTTrainer` run: rows are tokenised beforehand (an item's answer is the catalogue's tokens and
nothing else), the loss is on the answer alone, batches hold rows of one length, and a training that was killed goes
on from its last complete checkpoint to the same result. The embedded model's language-model pretraining takes the
same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.index import PrefixIndex
from llmrec.config import SFTSettings
from llmrec.dataset.timelines import Timelines
from llmrec.errors import ConfigError, DataError
from llmrec.policy.modes import base_model, device_of
from llmrec.policy.sharing import supports_sharing
from llmrec.progress import console
from llmrec.seeding import numpy_stream
from llmrec.training.arguments import world_size
from llmrec.training.imitation import StateLessons, train_imitation
from llmrec.training.improvement import (
    Checkpointing,
    Fitted,
)
from llmrec.training.lora import Adapter, adapter_of, check_lora, make_lora, merge
from llmrec.training.packed import pack
from llmrec.training.row_fitting import FitPlan, fit_packed, fit_rows
from llmrec.training.sft_data import (
    NEXT_ITEM,
    TEXT_ANSWER_TOKENS,
    SFTRow,
    build_rows,
    sample_examples,
    task_counts,
    timeline_steps,
)
from llmrec.training.teacher import Teacher, check_teacher
from llmrec.training.weighting import check_weighting
from llmrec.types import EventKind, Example, IntArray, Item

MICRO_TOKENS = {False: 2048, True: 32_768}
"""By default, on a CPU and on a GPU: products are as fast with more, and activations take memory by the token (1.4 MB
of a model with 30 layers of width 576 in float32)."""
SMALL = 50_000_000
"""Parameters up to which `weights: auto` trains all of them."""


@dataclass(frozen=True, slots=True)
class SFTResult:
    """A trained model (plain, in evaluation mode; with weights in 4 bits under its adapter), its loss curve and time.

    `adapter` is what LoRA added to the first weights, None where all weights were trained. `curve` holds one
    dictionary per 10 steps or fewer: step, loss (nats per answer token), learning_rate, grad_norm. `seconds` are
    those of the training, `cpu_seconds` of the processor, all threads of the main process together.
    """

    model: Any
    curve: list[dict[str, float]]
    seconds: float
    cpu_seconds: float
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True)
class Lessons:
    """What a warm start learns from.

    Attributes:
        examples: states with the item chosen; at most `settings.examples` of them are used, drawn by the seed.
        items: the catalogue's items in item-index order, for the text tasks.
        teacher: what `settings.teacher` is about; with one the mixture may have no epoch.
        timelines: gives the users that `examples` come from, where the mixture may be learnt window by window
            (`settings.layout`).
        withheld: item indices that count as not there yet: where choices are learnt among legal tokens, no choice is
            compared with these. Against every choice of a whole log a new item would be learnt to be none.
    """

    examples: Sequence[Example]
    items: Sequence[Item]
    teacher: Teacher | None = None
    timelines: Callable[[], Timelines] | None = None
    withheld: IntArray | None = None

    def index(self, catalogue: Catalogue) -> PrefixIndex:
        """What a choice is compared with."""
        if self.withheld is None:
            return catalogue.index
        return catalogue.index.among(np.setdiff1d(np.arange(len(catalogue)), self.withheld))


def train_sft(
    model: Any,
    tokenizer: Any,
    catalogue: Catalogue,
    renderer: Any,
    examples: Sequence[Example],
    items: Sequence[Item],
    settings: SFTSettings,
    *,
    seed: int,
    out: Path,
    resume: bool = True,
    report_to: Sequence[str] = (),
    new_tokens: Sequence[int] = (),
    teacher: Teacher | None = None,
    timelines: Callable[[], Timelines] | None = None,
    withheld: IntArray | None = None,
) -> SFTResult:
    """Fine-tunes `model` on the mixture of `settings`, then on logged states and `teacher` together, if there is one.

    Args:
        model: a causal language model of transformers; trained in place (full) or merged into (LoRA).
        examples: as `items`, `teacher`, `timelines` and `withheld`: see `Lessons`.
        out: folder of the checkpoints; the caller may remove it when the model is saved.
        resume: go on from the last complete checkpoint in `out` that this very training made.
        new_tokens: ids of tokens that were added to `tokenizer` and `model`, whose rows LoRA must train too.

    Raises:
        ConfigError: a setting that cannot be used.
        DataError: nothing to learn from.
    """
    check_sft(settings, taught=teacher is not None, identified=renderer.wording.identified)
    lora = uses_lora(model, settings)
    trained = make_lora(model, settings.lora, seed=seed, new_tokens=new_tokens) if lora else model
    lessons = Lessons(examples, items, teacher, timelines, withheld)
    checkpointing = Checkpointing(out, report_to=report_to, resume=resume)
    fitted = learn(trained, tokenizer, catalogue, renderer, lessons, settings, seed=seed, checkpointing=checkpointing)
    if not lora:
        return SFTResult(trained, fitted.curve, fitted.seconds, fitted.cpu_seconds)
    adapter = adapter_of(trained)
    # Merged, what comes next finds a plain model, and the reference of reinforcement learning is its adapter switched
    # off. Into four bits merging would round: the adapter is put on the published weights later.
    left = trained if is_quantised(model) else merge(trained)
    return SFTResult(left, fitted.curve, fitted.seconds, fitted.cpu_seconds, adapter)


def learn(
    model: Any,
    tokenizer: Any,
    catalogue: Catalogue,
    renderer: Any,
    lessons: Lessons,
    settings: SFTSettings,
    *,
    seed: int,
    checkpointing: Checkpointing,
) -> Fitted:
    """Trains `model` in place (a plain one, or a PEFT model with one adapter) on the mixture, then by the teacher."""
    sizes = (settings.batch_size, settings.learning_rate, settings.warmup, settings.save_every)
    plan = FitPlan("SFT", *sizes, settings.dropout, micro_tokens(model, settings))
    out = checkpointing.out
    common: dict[str, Any] = {"seed": seed, "resume": checkpointing.resume, "report_to": checkpointing.report_to}
    found = Fitted([], 0.0, 0.0)
    if settings.epochs > 0:
        learnt = (lessons.items, catalogue, renderer, tokenizer, settings)
        index = lessons.index(catalogue) if learns_choices(base_model(model), settings) else None
        if lessons.timelines is not None and learns_timelines(base_model(model), settings, renderer.max_tokens):
            packed = pack(timeline_steps(lessons.timelines(), *learnt, seed=seed), world_size(), index=index)
            console.print(f"  timelines: {packed.packing.sentence}", style="dim")
            found = fit_packed(model, tokenizer, packed, plan, out=out, **common)
        else:
            rows = build_rows(lessons.examples, *learnt, seed=seed)
            found = fit_rows(model, tokenizer, rows, plan, out=out, index=index, **common)
    if lessons.teacher is None:
        return found
    # the same examples as in the mixture, by the same stream
    chosen = sample_examples(lessons.examples, settings.examples, seed)
    taught = train_imitation(
        model,
        tokenizer,
        catalogue,
        renderer,
        StateLessons(chosen, lessons.teacher, settings, _feedback(chosen), seed),
        settings,
        out=out.with_name(f"{out.name}-imitation"),
        **common,
    )
    # one curve over both halves
    first = found.curve[-1]["step"] if found.curve else 0.0
    curve = [{**row, "step": first + row["step"], "imitation": 1.0} for row in taught.curve]
    seconds, spent = found.seconds + taught.seconds, found.cpu_seconds + taught.cpu_seconds
    return Fitted(found.curve + curve, seconds, spent)


def learns_timelines(model: Any, settings: SFTSettings, tokens: int) -> bool:
    """Whether the mixture is learnt from windows of timelines, packed; says why not where they were asked for.

    Args:
        model: the model as it is loaded.
        settings: with `layout`: auto takes timelines above 50 M parameters.
        tokens: of the longest prompt.
    """
    asked = settings.layout == "timelines" or (settings.layout == "auto" and is_large(model))
    if not asked or not settings.mixture.get(NEXT_ITEM):
        return False
    if not supports_sharing(model, tokens + TEXT_ANSWER_TOKENS):
        # As a trial on the loaded model tells: recurrent layers, or a kernel without masks of this kind.
        name = type(base_model(model)).__name__
        console.print(f"  rows: {name} cannot read a timeline as one row, so each example is one", style="dim")
        return False
    return True


def learns_choices(model: Any, settings: SFTSettings) -> bool:
    """Whether items are learnt as choices among legal tokens: auto does so above 50 M parameters."""
    return settings.likelihood == "catalogue" or (settings.likelihood == "auto" and is_large(model))


def is_large(model: Any) -> bool:
    """Whether the model has more than 50 M parameters."""
    return bool(sum(parameter.numel() for parameter in model.parameters()) > SMALL)


def uses_lora(model: Any, settings: SFTSettings) -> bool:
    """Whether `settings` means LoRA for `model`: auto trains all weights up to 50 M parameters, none in 4 bits."""
    if settings.weights != "auto" and not is_quantised(model):
        return settings.weights == "lora"
    return is_quantised(model) or is_large(model)


def micro_tokens(model: Any, settings: SFTSettings) -> int:
    """Tokens that go through `model` at once, 0 for whole steps; see `settings.micro_tokens`."""
    if settings.micro_tokens is not None:
        return settings.micro_tokens
    return MICRO_TOKENS[device_of(model).type == "cuda"] if is_large(model) else 0


def is_quantised(model: Any) -> bool:
    """Whether weights are kept in 4 bits; an adapter is not merged into them, which would round them anew."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def train_lm(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    max_tokens: int,
    sequences: int,
    *,
    seed: int,
    out: Path,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    warmup: float = 0.05,
    save_every: int = 50,
    resume: bool = True,
    report_to: Sequence[str] = (),
) -> SFTResult:
    """Pretrains all weights of `model` as a language model on `texts`, packed into `sequences` of `max_tokens`.

    The texts are shuffled by the seed, each is ended by the tokenizer's end token, and they are repeated in a new
    order until the sequences are full.

    Raises:
        DataError: no text has a token.
    """
    rows = pack_texts(tokenizer, texts, max_tokens, sequences, seed=seed)
    plan = FitPlan("Pretraining", batch_size, learning_rate, warmup, save_every)
    fitted = fit_rows(model, tokenizer, rows, plan, seed=seed, out=out, resume=resume, report_to=report_to)
    return SFTResult(model, fitted.curve, fitted.seconds, fitted.cpu_seconds)


def pack_texts(tokenizer: Any, texts: Sequence[str], max_tokens: int, sequences: int, *, seed: int) -> list[SFTRow]:
    """`sequences` rows of exactly `max_tokens` tokens, cut from the stream of shuffled, ended texts."""
    wanted = max_tokens * sequences
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    # each text ended, so that the model learns where one stops although rows are cut anywhere
    documents = [np.array([*ids, tokenizer.eos_token_id], dtype=np.int64) for ids in encoded if ids]
    if not documents:
        raise DataError("There is no text to pretrain on: every item text and profile is empty.")
    parts: list[np.ndarray[Any, Any]] = []
    have, turn = 0, 0
    # texts are used evenly: all of them before any comes again
    while have < wanted:
        for index in numpy_stream(seed, "pretraining", "order", turn).permutation(len(documents)):
            parts.append(documents[index])
            have += len(documents[index])
            if have >= wanted:
                break
        turn += 1
    stream = np.concatenate(parts)[:wanted].reshape(sequences, max_tokens)
    return [SFTRow(tuple(ids), max_tokens) for ids in stream.tolist()]


def check_sft(settings: SFTSettings, *, taught: bool, identified: bool = False) -> None:
    """Raises `ConfigError` for what cannot work; cheap, so it can be called before a model loads.

    Args:
        settings: the section sft.
        taught: whether a teacher's lessons follow the mixture, which may then have no epoch.
        identified: whether items have tokens of their own.
    """
    for key in ("examples", "batch_size", "save_every", "learning_rate", "window"):
        if getattr(settings, key) <= 0:
            raise ConfigError(f"Key 'sft.{key}' is {getattr(settings, key)}; it must be above 0.")
    if settings.micro_tokens is not None and settings.micro_tokens < 0:
        raise ConfigError(f"Key 'sft.micro_tokens' is {settings.micro_tokens}; it must be 0 (whole steps) or more.")
    if settings.epochs < 0 or (settings.epochs == 0 and not taught):
        raise ConfigError(
            f"Key 'sft.epochs' is {settings.epochs}; it must be above 0 (0 is for a warm start by sft.teacher alone)."
        )
    if not 0 <= settings.history_dropout < 1:
        raise ConfigError(f"Key 'sft.history_dropout' is {settings.history_dropout}; it must be in [0, 1).")
    if not 0 <= settings.warmup <= 1:
        raise ConfigError(f"Key 'sft.warmup' is {settings.warmup}; it must be in [0, 1].")
    if settings.epochs > 0:
        task_counts(settings.mixture, settings.examples, identified=identified)
    check_lora(settings.lora, "sft.lora")
    check_weighting(settings.weighting)
    if settings.layout == "timelines" and settings.weighting.kind != "none":
        raise ConfigError(
            "Key 'sft.layout' is timelines, which take each choice once, but sft.weighting draws single "
            "examples; set sft.layout: auto."
        )
    if taught:
        check_teacher(settings.teacher)


def _feedback(examples: Sequence[Example]) -> EventKind:
    """The feedback that stands in histories, for those that are invented."""
    return next((h.feedback for example in examples for h in example.state.history), "click")
