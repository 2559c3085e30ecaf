"""The model that SFT starts from: one from the Hub or a folder, or the nano model, pretrained here and cached.

The nano model is cached by everything that decides it (texts, sizes, seed), under LLMREC_CACHE or ~/.cache/llmrec.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import RunConfig
from llmrec.dataset.examples import History
from llmrec.errors import RunError
from llmrec.files import check_writable, new_folder, read_json, sha256_of
from llmrec.pipeline.data import RunData
from llmrec.pipeline.wording import text_key, told_preferences, wording_of
from llmrec.pipeline.work import Work, is_first, wait_for_all
from llmrec.policy.gguf import GGUFOrigin, is_gguf, origin_of
from llmrec.policy.loading import (
    check_folder,
    check_positions,
    check_vocabulary,
    is_local,
    load_config,
    load_tokenizer,
    save_causal_lm,
    unpacked,
)
from llmrec.policy.nano import check_nano, make_nano, train_tokenizer
from llmrec.printing import one_line
from llmrec.progress import console
from llmrec.seeding import numpy_stream
from llmrec.storage import cache_folder, resolve
from llmrec.text.documents import documents
from llmrec.text.render import StateRenderer
from llmrec.text.shipped import make_wording
from llmrec.training.sft import train_lm
from llmrec.training.sft_data import longest_answer
from llmrec.types import Item, State

NANO = "nano"
LINEAGE = "lineage.json"
"""Beside the weights of a finished run that is gone on with (`pipeline.update`)."""
TOKENIZER_TEXTS = 6000
SHARED = 5
"""Users at least whose profiles have a word that may be among a tokenizer's tokens, unless an item's text has it."""
_HAN = "\u3400-\u9fff"
_WORD = re.compile(rf"[{_HAN}]|[^\W{_HAN}]+")


@dataclass(frozen=True, slots=True)
class Base:
    """Where the base model is: a Hub id or a folder. `nano` tells that it was made here.

    `gguf` is the file that the folder was unpacked from, in words that mean something on another machine.
    """

    name: str
    revision: str | None
    nano: bool
    gguf: GGUFOrigin | None = None
    lineage: dict[str, Any] | None = None
    """Of a finished run that is gone on with: which one, on what data, and what it went on from itself."""

    @property
    def published(self) -> str | None:
        """The Hub id under which others find it; None where it is a folder of this machine."""
        if self.gguf is not None:
            return self.gguf.published
        return None if self.nano or is_local(self.name) else self.name

    @property
    def described(self) -> str:
        """What it is called where it is handed on: no path of this machine."""
        if self.gguf is not None:
            return self.gguf.described
        if self.lineage is not None:
            return f"the run {self.lineage['run']} on {self.lineage['dataset']['name']}"
        return self.published or f"a model in a folder {Path(self.name).name}"


def check_base(config: RunConfig, catalogue: Catalogue | None = None) -> None:
    """Refuses, from its tokenizer and settings alone, a named model that a run could not be finished with.

    Args:
        config: the run's.
        catalogue: the items as they are written, once that is known.

    Raises:
        RunError: the model is missing, without weights, of another kind, quantised, or does not fit its tokenizer.
        ConfigError: prompt and answer are longer than what it reads.
    """
    name, revision = config.model.name, config.model.revision
    if name == NANO:
        return check_nano(config.model)
    check_folder(name)
    tokenizer, settings = load_tokenizer(name, revision), load_config(name, revision)
    check_vocabulary(name, tokenizer, settings.get_text_config().vocab_size)
    answer = longest_answer(config.sft, catalogue, identified=config.identifiers.scheme != "title")
    check_positions(name, settings, config.text.max_tokens, answer)


def base_model(config: RunConfig, data: RunData, work: Work) -> Base:
    """Finds or makes the base model.

    Raises:
        LLMRecError: the named model cannot be used; see `check_base`.
    """
    if config.model.name != NANO:
        check_base(config)
        check_cards_fit(config, data, load_tokenizer(config.model.name, config.model.revision))
        return named_base(config)
    states = training_states(config, data)
    whole = list(_nano_texts(config, data, states))
    common = common_profiles(states, data.dataset.item_list)
    corpus = whole if common == states else list(_nano_texts(config, data, common))
    # The texts themselves are in the key, not the data set's hash: runs that differ in events after the training
    # period, or in nothing that the model reads, share one pretraining.
    key = sha256_of(repr(_decides_nano(config)), *whole, *([] if corpus is whole else ["common words"]))
    cached = cache_folder() / "nano" / key[:24]
    base = Base(str(cached), None, nano=True)
    if work.finished_only:  # a warm start with weights of its own needs no more of it than its name
        return base
    if cached.is_dir():
        console.print(f"nano model: from the cache ({one_line(cached)})", style="dim")
        return base

    check_cache(cached)

    def build(out: Path, scratch: Path) -> None:
        tokenizer = train_tokenizer(corpus, config.model.nano_vocabulary)
        check_cards_fit(config, data, tokenizer)
        model = make_nano(tokenizer, config.model, config.seed)
        renderer = make_renderer(config, data, tokenizer, titles_only=True)
        texts = list(documents(data.dataset.item_list, states, renderer))
        sequences = config.model.nano_pretrain_sequences
        made = train_lm(
            model, tokenizer, texts, config.text.max_tokens, sequences, seed=config.seed, out=scratch / "trainer"
        )
        save_causal_lm(made.model, tokenizer, out)

    place = work.stage("nano", key, build, together=True)
    # One process writes; the others may load only when the folder is whole, hence the barrier.
    if is_first():
        _keep(place, cached)
    wait_for_all()
    return base


def named_base(config: RunConfig) -> Base:
    """The base model that `config.model` names: a Hub id, a folder, or what a GGUF file was unpacked to."""
    name, revision = config.model.name, config.model.revision
    if not is_gguf(name):
        told = Path(name) / LINEAGE
        return Base(name, revision, nano=False, lineage=read_json(told) if told.is_file() else None)
    folder = unpacked(name)
    return Base(str(folder), None, nano=False, gguf=origin_of(folder))


def _keep(place: Path, cached: Path) -> None:
    """Copies the finished stage to the cache, unless another run has done it meanwhile."""
    with new_folder(cached, mark="config.json", wait=True) as folder:
        for file in place.iterdir():
            if file.is_file() and file.name != "stage.json":
                (folder / file.name).write_bytes(file.read_bytes())


def check_cache(cached: Path) -> None:
    """Refuses, before anything is trained for it, a cache that cannot be written."""
    try:
        check_writable(resolve(cached))
    except RunError as error:
        raise RunError(f"{error} It is the cache of llmrec; LLMREC_CACHE names another folder for it.") from None


def make_renderer(
    config: RunConfig,
    data: RunData,
    tokenizer: Any,
    identifiers: Sequence[str] | None = None,
    *,
    titles_only: bool = False,
) -> StateRenderer:
    """The renderer of states for this run and `tokenizer`.

    With `titles_only` entries name items by title alone, whatever `text.history` and `text.card` say.
    """
    return StateRenderer(
        data.dataset.item_list,
        tokenizer,
        max_tokens=config.text.max_tokens,
        identifiers=identifiers,
        history="title" if titles_only else config.text.history,
        **wording_of(config, data.dataset, cards=not titles_only),
    )


def check_cards_fit(config: RunConfig, data: RunData, tokenizer: Any) -> None:
    """Raises `ConfigError` where an item card alone takes more than a prompt may, in the tokens of `tokenizer`."""
    items, known = data.dataset.item_list[:1], wording_of(config, data.dataset)
    StateRenderer(items, tokenizer, max_tokens=config.text.max_tokens, **known)


def training_states(config: RunConfig, data: RunData) -> list[State]:
    """For each user of the training period: the last state, and one at a random earlier event."""
    history = History(data.dataset, config.data.history_events, events=data.split.train)
    random = numpy_stream(config.seed, "nano", "states")
    states = []
    for user in sorted(set(data.split.train["user_id"].to_list())):
        last = history.state(user, None)
        states.append(last)
        if len(last.history) > 2:
            states.append(history.state(user, last.history[int(random.integers(2, len(last.history)))].time))
    # a line that asks for weights is in words, and so a thing to read before what it asks for is learnt
    return told_preferences(config, data.dataset, states, "nano")


def _nano_texts(config: RunConfig, data: RunData, states: list[State]) -> Iterable[str]:
    """What the tokenizer learns from: item texts, and a sample of states as they will be worded."""
    wording = make_wording(data.dataset.item_list, **wording_of(config, data.dataset, cards=False))
    # Byte-pair merges settle on far fewer texts than a large log has; every n-th state keeps all kinds of users in.
    per_state = max(1, len(states) // TOKENIZER_TEXTS)
    yield from documents(data.dataset.item_list, list(islice(states, 0, None, per_state)), wording)


def common_profiles(states: Sequence[State], items: Sequence[Item]) -> list[State]:
    """The states without the words of profiles that fewer than `SHARED` users have and no item's text has.

    A tokenizer that is handed on lists its tokens in clear: a name or an address of one person must not be one.
    """
    profiles = {state.user_id: set(_WORD.findall(state.profile)) for state in states}
    users = Counter(word for words in profiles.values() for word in words)
    rare = {word for word, number in users.items() if number < SHARED}
    for item in items if rare else ():
        rare.difference_update(*map(_WORD.findall, (item.title, item.description, *item.categories, item.brand)))
    return [
        replace(state, profile=_WORD.sub(lambda word: "" if word.group() in rare else word.group(), state.profile))
        if rare & profiles[state.user_id]
        else state
        for state in states
    ]


def _decides_nano(config: RunConfig) -> dict[str, Any]:
    tree = config.tree()
    sizes = {k: v for k, v in tree["model"].items() if k.startswith("nano_")}
    # It learns the language of titles and of what tasks say of items; entries longer than titles are SFT's to teach.
    text = {k: v for k, v in text_key(config).items() if k not in ("history", "card")}
    return {"sizes": sizes, "text": text, "seed": config.seed, "history": config.data.history_events}
