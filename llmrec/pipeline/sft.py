"""The SFT stage with its teacher, and policies put together again from what stages saved."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from peft import PeftModel

from llmrec.baselines import Covisitation
from llmrec.baselines.base import item_counts, positives
from llmrec.baselines.interpolation import Interpolation
from llmrec.baselines.registry import baseline
from llmrec.catalogue.catalogue import Catalogue
from llmrec.catalogue.identifiers import Identifiers
from llmrec.config import RunConfig
from llmrec.dataset.examples import Examples, examples
from llmrec.dataset.split import Part, Split
from llmrec.dataset.timelines import Timelines, timelines
from llmrec.errors import ConfigError, DataError
from llmrec.evaluation.leaks import check_leaks
from llmrec.files import read_json, write_json
from llmrec.pipeline.base_model import Base, check_base, make_renderer
from llmrec.pipeline.data import RunData
from llmrec.pipeline.item_tokens import Naming, load_identifiers, name_items, naming_key
from llmrec.pipeline.ruled import training_rules
from llmrec.pipeline.simulation import log_of, widening
from llmrec.pipeline.wording import text_key, told_preferences
from llmrec.pipeline.work import Work, say, stage_seconds
from llmrec.policy.adapters import load_adapter_onto
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.loading import PRECISION, load_configured, load_tokenizer, save_causal_lm
from llmrec.progress import console
from llmrec.seeding import numpy_stream
from llmrec.training.improvement import WarmStart
from llmrec.training.lora import adapter_of
from llmrec.training.propensities import item_groups
from llmrec.training.sft import Lessons, check_sft, train_sft
from llmrec.training.sft_data import ID_TASKS, NEXT_ITEM, SFTRow, build_rows
from llmrec.training.teacher import Teacher, check_teacher
from llmrec.training.weighting import BY_PROPENSITY, BY_VALUE, weighted_examples
from llmrec.types import Example

PRECISION_FILE = "precision.json"
COST_FILE = "cost.json"
ALL = "all"
HELD_OUT = 0.1
"""Share of the training events, the last ones, on which the teacher's settings are chosen."""
ROWS = 2000
CHECKED_STATES = 2000
"""States of a large log that are looked at before anything is trained."""


@dataclass(frozen=True, slots=True)
class SFTStage:
    """A finished warm start: `folder` holds the weights (or adapter), how items are written and the loss curve."""

    folder: Path
    base: Base
    curve: list[dict[str, float]]

    @property
    def has_adapter(self) -> bool:
        """Whether SFT left a LoRA adapter on the base model rather than weights of its own."""
        return (self.folder / "adapter").is_dir()

    @property
    def precision(self) -> dict[str, str] | None:
        """What it was trained in and why (`policy.precision`); None of a stage that an older version made."""
        place = self.folder / PRECISION_FILE
        return read_json(place) if place.is_file() else None

    @property
    def cpu_seconds(self) -> float:
        """Seconds of the processor that its training took; of the whole stage by the clock, where an older version
        made it."""
        place = self.folder / COST_FILE
        return float(read_json(place)["cpu_seconds"]) if place.is_file() else stage_seconds(self.folder)

    @property
    def identifiers(self) -> Identifiers | None:
        """How items are called in tokens of their own; None where titles are their names."""
        return load_identifiers(self.folder)


def targets(config: RunConfig, data: RunData, part: Part, limit: int | None, *, new_items: bool = False) -> Examples:
    """Examples of a part of the split whose targets are the feedback that SFT imitates.

    With `new_items` the targets are withheld items: "valid" and "test" have a set each.
    """
    return examples(
        data.dataset,
        data.split,
        part,
        signal=config.sft.target,
        history_events=config.data.history_events,
        limit=limit,
        seed=config.seed,
        withheld=data.withheld,
        new_items=new_items,
    )


def imitated(config: RunConfig, data: RunData, limit: int | None = None) -> list[Example]:
    """What SFT learns from: training examples, drawn in proportion to what they count (`sft.weighting`).

    With `limit` those of a uniform sample of this many states, to see whether there is something to learn from.

    Raises:
        DataError: choices cannot be weighed as `sft.weighting` asks.
    """
    weighting, reward = config.sft.weighting, config.reward
    if weighting.kind == "none":
        return targets(config, data, "train", config.sft.examples).rows
    if weighting.kind in BY_PROPENSITY and not data.dataset.has_impressions:
        raise DataError(
            f"Key 'sft.weighting.kind' is {weighting.kind}, but {data.dataset.manifest.name!r} logs no impressions: "
            "nothing tells how likely an item was to be shown. Set it to none or value."
        )
    return weighted_examples(
        log_of(config, data, "train", limit),
        weighting,
        config.sft.examples,
        target=config.sft.target,
        click=reward.click,
        conversion=reward.conversion,
        group_N=item_groups(data.dataset.item_list),
        seed=config.seed,
    )


def lessons_of(config: RunConfig, data: RunData) -> Lessons:
    """What the warm start learns from, drawn by the run's seed."""

    def read_timelines() -> Timelines:
        shown = config.data.history_events
        return timelines(data.dataset, data.split, signal=config.sft.target, history_events=shown)

    # a window is one row of one text, and lines differ from choice to choice
    whole = config.sft.weighting.kind == "none" and not config.reward.stated
    return Lessons(
        _asking(config, data, imitated(config, data)),
        data.dataset.item_list,
        make_teacher(config, data),
        read_timelines if whole else None,
        None if data.withheld is None else data.withheld.all_items,
    )


def _asking(config: RunConfig, data: RunData, rows: list[Example]) -> list[Example]:
    """The choices in states that ask for weights (`reward.stated`), which say nothing here of what was chosen.

    So a line is no news to the policy that learning from rewards starts from.
    """
    told = told_preferences(config, data.dataset, [row.state for row in rows], "sft")
    return [dataclasses.replace(row, state=state) for row, state in zip(rows, told, strict=True)]


def check_warm_start(config: RunConfig) -> None:
    """Refuses, before anything is made, settings of SFT that cannot work.

    Raises:
        ConfigError: a key below `sft`, by itself or with the model's.
    """
    if config.model.quantization != "none" and config.sft.weights == "full":
        raise ConfigError("Keys 'model.quantization' and 'sft.weights': weights in 4 bits are not trained; set lora.")
    if config.sft.skip and (config.model.name == "nano" or config.identifiers.scheme != "title"):
        raise ConfigError(
            "Key 'sft.skip' takes the model for a policy as it is, which the nano model and new identifiers are not; "
            "leave it out."
        )
    if config.sft.skip and {"continued_sft", ALL}.intersection(config.evaluation.controls):
        raise ConfigError(
            "Keys 'sft.skip' and 'evaluation.controls': where there was no warm start nothing says how much of it "
            "costs as much; leave continued_sft out of the controls."
        )
    if config.reward.stated and config.sft.layout == "timelines":
        raise ConfigError(
            "Keys 'sft.layout' and 'reward.stated': a timeline is one row of many choices, which cannot ask for "
            "weights one by one; set sft.layout to auto or rows."
        )
    check_sft(config.sft, taught=config.sft.teacher.kind != "none", identified=config.identifiers.scheme != "title")


def check_targets(config: RunConfig, data: RunData) -> None:
    """Refuses, before anything is trained, a split whose parts hold nothing to learn from or to rank, and leaks.

    Raises:
        DataError: a part without a target, or a test that training would know (`check_leaks`).
    """
    limits: dict[Part, int] = {"train": 1, "valid": 1, "test": config.evaluation.test_events}
    for part, limit in limits.items():
        rows = targets(config, data, part, limit)
        if not len(rows):
            why = (
                f"all of its {rows.dropped_repeats} are repeats, which the data set's rule (repeat: exclude) forbids"
                if rows.dropped_repeats
                else widening(config, data, part)
            )
            raise DataError(f"The {part} part of the split has no {config.sft.target} that could be ranked; {why}.")
        if part == "train" and config.sft.weighting.kind != "none":
            imitated(config, data, CHECKED_STATES)
        if part == "test":
            check_leaks(data.dataset, data.split.train, rows, data.split.name)


def sft_stage(config: RunConfig, data: RunData, base: Base, work: Work) -> SFTStage:
    """Warm-starts the base model on the training period."""
    tree = config.tree()
    key = {
        "base": [base.name, base.revision],
        "data": data.dataset.manifest.content_hash,
        "config": [tree["sft"], text_key(config, data.dataset), tree["data"], tree["model"]["dtype"], config.seed],
        "identifiers": naming_key(config),
    } | ({} if config.model.quantization == "none" else {"quantization": config.model.quantization})
    if data.withheld is not None:
        key["compared"] = "with all but what is withheld"
    if base.lineage is not None:
        key["lineage"] = base.lineage
    if config.sft.weighting.kind in BY_VALUE:
        key["reward"] = [config.reward.click, config.reward.conversion]
    if config.reward.stated:
        key["stated"] = list(config.reward.stated)

    def build(out: Path, scratch: Path) -> None:
        tokenizer = load_tokenizer(base.name, base.revision)
        model = load_configured(
            config.model, base.name, revision=base.revision, quantization=config.model.quantization
        )
        precision = getattr(model, PRECISION)
        if not base.nano:
            say(f"  precision: {precision.sentence}", style="dim")
        # Before the rows are worded: identifiers add rows to the vocabulary, and every prompt is counted in the
        # tokens that the trained model will read.
        naming = name_items(config, data, model, tokenizer)
        check_base(config, naming.catalogue)
        if config.sft.skip:
            _keep_as_it_is(out, model, tokenizer, naming, precision.facts())
            return
        lessons = lessons_of(config, data)
        result = train_sft(
            model,
            tokenizer,
            naming.catalogue,
            naming.renderer,
            lessons.examples,
            lessons.items,
            config.sft,
            seed=config.seed,
            out=scratch / "trainer",
            report_to=config.report_to,
            new_tokens=naming.new_tokens,
            teacher=lessons.teacher,
            timelines=lessons.timelines,
            withheld=lessons.withheld,
        )
        naming.save(out)
        if result.adapter is None:
            (out / "model").mkdir()
            save_causal_lm(result.model, tokenizer, out / "model")
        else:
            result.adapter.save(out / "adapter")
            # An adapter holds no tokenizer of its own, and added tokens would be lost with the base model's.
            tokenizer.save_pretrained(out / "adapter")
        write_json(out / "curve.json", result.curve)
        write_json(out / COST_FILE, {"seconds": result.seconds, "cpu_seconds": result.cpu_seconds})
        write_json(out / PRECISION_FILE, precision.facts())

    folder = work.stage("sft", key, build, together=True)
    return SFTStage(folder, base, read_json(folder / "curve.json"))


def _keep_as_it_is(out: Path, model: Any, tokenizer: Any, naming: Naming, precision: dict[str, str]) -> None:
    """Writes the stage of a model that is a policy already."""
    naming.save(out)
    (out / "model").mkdir()
    save_causal_lm(model, tokenizer, out / "model")
    write_json(out / "curve.json", [])
    write_json(out / COST_FILE, {"seconds": 0.0, "cpu_seconds": 0.0})
    write_json(out / PRECISION_FILE, precision)


def sft_policy(config: RunConfig, data: RunData, stage: SFTStage) -> LanguagePolicy:
    """The warm-started policy, freshly loaded (an SFT adapter is merged into its base)."""
    if stage.has_adapter:
        tokenizer = load_tokenizer(str(stage.folder / "adapter"))
        base = load_configured(config.model, stage.base.name, revision=stage.base.revision)
        # Merged, so that the adapter of the improvement is the only one: switched off, it leaves SFT and not the base
        # model as the reference.
        model = load_adapter_onto(base, stage.folder / "adapter", tokenizer).merge_and_unload().eval()
    else:
        tokenizer = load_tokenizer(str(stage.folder / "model"))
        model = load_configured(config.model, str(stage.folder / "model"))
    catalogue, identifiers = Catalogue.load(stage.folder / "catalogue"), stage.identifiers
    renderer = make_renderer(config, data, tokenizer, None if identifiers is None else identifiers.texts())
    return LanguagePolicy(model, tokenizer, catalogue, renderer, data.dataset.manifest.repeat)


def warm_start(config: RunConfig, data: RunData, policy: LanguagePolicy) -> WarmStart:
    """A policy as trainers start from it."""

    def rehearsed(wanted: int) -> list[SFTRow]:
        without = (NEXT_ITEM,) if config.identifiers.scheme != "title" else (NEXT_ITEM, *ID_TASKS)
        others = {task: weight for task, weight in config.sft.mixture.items() if weight > 0 and task not in without}
        if not others:
            return []
        settings = dataclasses.replace(config.sft, mixture=others, examples=wanted, epochs=1.0)
        given = (data.dataset.item_list, policy.catalogue, policy.renderer, policy.tokenizer, settings)
        # a stream of its own: not the warm start's rows once more
        seed = int(numpy_stream(config.seed, "rehearsal").integers(2**31))
        return build_rows(imitated(config, data), *given, seed=seed)

    repeat = data.dataset.manifest.repeat
    return WarmStart(
        policy.model,
        policy.tokenizer,
        policy.catalogue,
        policy.renderer,
        repeat,
        config.seed,
        rehearsed,
        rules=training_rules(config, data),
    )


def save_improved(model: Any, tokenizer: Any, checkpoint: Path) -> None:
    """Writes a checkpoint that `improved_policy` reads: the adapter where there is one, else all weights."""
    if isinstance(model, PeftModel):
        adapter_of(model).save(checkpoint / "adapter")
    else:
        (checkpoint / "model").mkdir()
        save_causal_lm(model, tokenizer, checkpoint / "model")


def improved_policy(config: RunConfig, data: RunData, stage: SFTStage, checkpoint: Path) -> LanguagePolicy:
    """The policy of a checkpoint: its adapter merged into the warm-started weights, or its own weights."""
    policy = sft_policy(config, data, stage)
    if (checkpoint / "model").is_dir():
        model = load_configured(config.model, str(checkpoint / "model"))
    else:
        adapted = load_adapter_onto(policy.model, checkpoint / "adapter", policy.tokenizer)
        model = adapted.merge_and_unload().eval()
    return LanguagePolicy(model, policy.tokenizer, policy.catalogue, policy.renderer, policy.repeat)


def make_teacher(config: RunConfig, data: RunData) -> Teacher | None:
    """What `sft.teacher` asks for; None where it asks for nothing.

    Co-visitation's settings are chosen on the last tenth of the training events, with the counts of those before
    them; then all of them are counted.

    Raises:
        ConfigError: settings that cannot be used.
    """
    settings = config.sft.teacher
    if settings.kind == "none":
        return None
    check_teacher(settings)
    dataset, train = data.dataset, data.split.train
    counts = item_counts(positives(dataset, train), dataset.n_items)
    if settings.kind == "interpolation":
        mixture = Interpolation(seed=config.seed).fit(dataset, train)
        return Teacher(mixture.score, counts, settings, dataset.manifest.repeat)
    spec, inner = baseline("covisitation-fixed"), inner_split(train)
    # A split inside the training period: the teacher may not have chosen anything by the rows that judge the student.
    rows = examples(dataset, inner, "valid", history_events=config.data.history_events, limit=ROWS, seed=config.seed)
    found = spec.chosen(dataset, inner.train, rows)
    if found is not None:
        console.print(f"  teacher: {dataclasses.asdict(found.settings)}", style="dim")
    teacher = Covisitation(None if found is None else found.settings, seed=config.seed).fit(dataset, train)
    return Teacher(teacher.score, counts, settings, dataset.manifest.repeat)


def inner_split(train: pl.DataFrame) -> Split:
    """The training events with their last tenth as validation part; events of equal time stay together."""
    times = np.sort(train["time"].to_numpy())
    cut = int(times[min(len(times) - 1, round((1 - HELD_OUT) * len(times)))]) if len(times) else 0
    time = pl.col("time")
    return Split(train.filter(time < cut), train.filter(time >= cut), train.clear(), "time", cut, None)
