"""The rows of supervised fine-tuning: a mixture of tasks, augmented, in an order that wastes little padding.

Everything is made before training starts, from named streams of the run's seed: the same seed gives the same rows in
the same order, so a resumed training only has to skip what it has seen.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import SFTSettings
from llmrec.dataset.history import RANK
from llmrec.dataset.timelines import Timelines
from llmrec.errors import ConfigError, DataError
from llmrec.progress import Bar
from llmrec.seeding import numpy_stream
from llmrec.text.tasks import TEXT_ANSWERS, Facts
from llmrec.training.likeness import Likeness
from llmrec.training.timelines import windows
from llmrec.types import EventKind, Example, Interaction, Item, State

NEXT_ITEM = "next_item"
ID_TASKS = ("title_from_id", "id_from_title", "attributes_from_id")
"""Tasks that tie the tokens of an item's identifier to its words; left out where titles are the identifiers."""
ITEM_TASKS = (
    *("title_from_description", "description_from_title", "item_from_attributes", "item_from_prompt"),
    *ID_TASKS,
)
PREFIX_SHARE = 0.1
"""Share of next-item rows whose history is cut at a random earlier choice, which becomes the target."""
LIKED_SHARE = {"categories": 0.75, "some": 0.5}
"""Share of the prompts of item_from_prompt that name items, by `sft.request_facts`; the others name facts."""
SERVED_SHARE = 0.5
"""Share of these that stand as the history of an unknown user, as titles in a request are read when serving."""
BEST_RATING = 5.0
TEXT_ANSWER_TOKENS = 64
MEGABATCH = 16
"""Batches that are sorted by length together."""

_CHUNK = 512


@dataclass(frozen=True, slots=True)
class SFTRow:
    """Token ids of prompt and answer; the loss is on the last `answer` tokens alone. `item`: the one they write."""

    input_ids: tuple[int, ...]
    answer: int
    item: int | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """`input_ids`."""
        return self.input_ids

    def labels(self) -> list[int]:
        """The answer's tokens behind -100 for each token of the prompt."""
        # -100 is what torch's cross-entropy leaves out
        cut = len(self.input_ids) - self.answer
        return [-100] * cut + list(self.input_ids[cut:])


def task_counts(mixture: Mapping[str, float], examples: int, *, identified: bool = True) -> dict[str, int]:
    """Rows of each task in one epoch: every example once as next item, the other tasks in proportion.

    Without next_item in the mixture the tasks share `examples` rows. Unless items are `identified` by tokens of their
    own, `ID_TASKS` get none; the others keep their proportions.

    Raises:
        ConfigError: an unknown task, a negative weight, or no weight above 0.
    """
    known = (NEXT_ITEM, *ITEM_TASKS)
    for task, weight in mixture.items():
        if task not in known:
            raise ConfigError(f"Key 'sft.mixture' has the unknown task {task!r}; known tasks: {', '.join(known)}.")
        if weight < 0:
            raise ConfigError(f"Key 'sft.mixture.{task}' is {weight}; it must not be negative.")
    left_out = () if identified else ID_TASKS
    weights = {task: 0.0 if task in left_out else mixture.get(task, 0.0) for task in known}
    unit = weights[NEXT_ITEM] or sum(weights.values())
    if unit <= 0:
        only = "" if identified else f" (there is no {', '.join(ID_TASKS)} under identifiers.scheme: title)"
        raise ConfigError(f"Key 'sft.mixture' has no weight above 0{only}; give next_item a weight such as 0.8.")
    return {task: round(examples * weight / unit) for task, weight in weights.items()}


def build_rows(
    examples: Sequence[Example],
    items: Sequence[Item],
    catalogue: Catalogue,
    renderer: Any,
    tokenizer: Any,
    settings: SFTSettings,
    *,
    seed: int,
) -> list[SFTRow]:
    """All rows of all epochs, in training order.

    Raises:
        DataError: there is nothing to learn from.
        ConfigError: a bad mixture or a share outside 0..1.
    """
    if not examples:
        raise DataError("There is no training example: the training part of the split has no event of the target.")
    liked_by = weakest(e.state.history for e in examples)
    encoder = RowEncoder.of(settings, items, catalogue, renderer, tokenizer, liked_by)
    chosen = sample_examples(examples, settings.examples, seed)
    counts = task_counts(settings.mixture, len(chosen), identified=renderer.wording.identified)
    rows: list[SFTRow] = []
    # an epoch's last, partial batch joins the next one, or all later batches would be shifted
    left: list[SFTRow] = []
    with Bar("SFT rows", round(sum(counts.values()) * settings.epochs)) as bar:
        for epoch in range(math.ceil(settings.epochs)):
            # the last epoch may be a part of one
            share = min(1.0, settings.epochs - epoch)
            made = left + _epoch(encoder, chosen, counts, settings, seed, epoch, share, bar)
            ordered = by_length(made, settings.batch_size, numpy_stream(seed, "sft", "order", epoch))
            full = len(ordered) // settings.batch_size * settings.batch_size
            rows, left = rows + ordered[:full], ordered[full:]
    rows += left
    if not rows:
        raise DataError(
            "The SFT mixture gives no row; raise 'sft.epochs', 'sft.examples' or a weight of 'sft.mixture'."
        )
    return rows


def timeline_steps(
    timelines: Timelines,
    items: Sequence[Item],
    catalogue: Catalogue,
    renderer: Any,
    tokenizer: Any,
    settings: SFTSettings,
    *,
    seed: int,
) -> Iterator[list[list[SFTRow]]]:
    """The units of each optimiser step from windows of timelines: a window's rows, or one row of another task.

    A step has about `settings.batch_size` rows. Of next items there are `epochs` times `examples` (or all choices, if
    there are fewer), and each choice comes once before any comes again; the other tasks are mixed in evenly.

    Raises:
        DataError: there is nothing to learn from.
        ConfigError: a bad mixture.
    """
    if not len(timelines):
        raise DataError("There is no training example: the training part of the split has no event of the target.")
    liked_by = weakest(user.history for user in timelines.users)
    encoder = RowEncoder.of(settings, items, catalogue, renderer, tokenizer, liked_by)
    number, identified = min(settings.examples, len(timelines)), renderer.wording.identified
    counts = task_counts(settings.mixture, number, identified=identified)
    wanted = {task: round(settings.epochs * count) for task, count in counts.items()}
    choices = max(1, wanted.pop(NEXT_ITEM))
    rng = numpy_stream(seed, "sft", "tasks")
    others = [task for task, count in wanted.items() for _ in range(count)]
    others = [others[place] for place in rng.permutation(len(others))]
    step: list[list[SFTRow]] = []
    seen, asked, rows, steps = 0, 0, 0, 1
    with Bar("SFT timelines", choices + len(others)) as bar:
        for window in _windows(timelines, renderer, settings, choices, seed):
            seen += len(window)
            due = round(len(others) * seen / choices)
            tasks = (encoder.item_task(t, window[int(rng.integers(len(window)))], rng) for t in others[asked:due])
            for unit in (encoder.next_items(window), *([row] for row in tasks if row is not None)):
                step.append(unit)
                rows += len(unit)
                # by the sum over all steps: a long window in one makes the next ones shorter
                if rows >= settings.batch_size * steps:
                    yield step
                    step, steps = [], steps + 1
            bar.advance(len(window) + due - asked)
            asked = due
    if step:
        yield step


def _windows(
    timelines: Timelines, renderer: Any, settings: SFTSettings, wanted: int, seed: int
) -> Iterator[list[Example]]:
    """Windows with `wanted` choices together, the last one cut; a pass over all timelines after the other."""
    for turn in itertools.count():
        for window in windows(timelines, renderer, settings, numpy_stream(seed, "sft", "windows", turn)):
            yield window[:wanted]
            wanted -= len(window)
            if wanted <= 0:
                return


def longest_answer(settings: SFTSettings, catalogue: Catalogue | None = None, *, identified: bool = False) -> int:
    """Tokens of the longest answer that the mixture teaches: a text's where it has a task of texts, or an item's.

    Without a catalogue what is known before there is one.
    """
    tasks = [task for task in TEXT_ANSWERS if identified or task not in ID_TASKS]
    texts = settings.epochs > 0 and any(settings.mixture.get(task, 0.0) > 0 for task in tasks)
    return max(TEXT_ANSWER_TOKENS if texts else 1, 1 if catalogue is None else catalogue.index.max_length)


def by_length(rows: Sequence[SFTRow], batch: int, rng: np.random.Generator) -> list[SFTRow]:
    """`rows` shuffled, then sorted by length within stretches of 16 batches, the batches shuffled again.

    A batch holds rows of nearly one length and padding is rare. The last batch may be smaller and stays last.
    """
    order = rng.permutation(len(rows))
    stretch = batch * MEGABATCH
    # Sorted within stretches and shuffled across: sorting all of an epoch would feed short histories first, and
    # shuffling all of it would pad every row to the longest of its batch.
    order = np.concatenate([_sorted(rows, order[i : i + stretch]) for i in range(0, len(rows), stretch)])
    full = len(order) // batch
    batches = order[: full * batch].reshape(full, batch)[rng.permutation(full)].ravel()
    return [rows[i] for i in np.concatenate([batches, order[full * batch :]])]


def _sorted(rows: Sequence[SFTRow], index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    # by answer within a length: the head is asked for the columns that hold answers in any row of a batch
    return np.array(sorted(index, key=lambda i: (len(rows[i].input_ids), rows[i].answer)), dtype=np.int64)


def sample_examples(examples: Sequence[Example], limit: int, seed: int) -> list[Example]:
    """At most `limit` examples, drawn evenly by the run's seed, in their order."""
    if len(examples) <= limit:
        return list(examples)
    chosen = numpy_stream(seed, "sft", "examples").choice(len(examples), size=limit, replace=False)
    return [examples[i] for i in np.sort(chosen)]


def _epoch(
    encoder: RowEncoder,
    examples: Sequence[Example],
    counts: Mapping[str, int],
    settings: SFTSettings,
    seed: int,
    epoch: int,
    share: float,
    bar: Bar,
) -> list[SFTRow]:
    rng = numpy_stream(seed, "sft", "rows", epoch)
    rows: list[SFTRow] = []
    if counts[NEXT_ITEM]:
        chosen = rng.permutation(len(examples))[: round(share * counts[NEXT_ITEM])].tolist()
        # anew in every epoch: other cuts and other gaps of the same histories
        augmented = [augment(examples[index], settings, rng) for index in chosen]
        for start in range(0, len(augmented), _CHUNK):
            chunk = augmented[start : start + _CHUNK]
            rows += encoder.next_items(chunk)
            bar.advance(len(chunk))
    for task in ITEM_TASKS:
        for _ in range(round(share * counts[task])):
            row = encoder.item_task(task, examples[int(rng.integers(len(examples)))], rng)
            rows += [row] if row is not None else []
            bar.advance()
    return rows


def augment(example: Example, settings: SFTSettings, rng: np.random.Generator) -> Example:
    """Cuts the history at an earlier choice now and then, and drops interactions at random.

    A cut keeps only what happened strictly before the new target, of feedback at least as strong as the target's
    kind asks for, and never a target that the shortened history already holds.
    """
    if rng.random() < PREFIX_SHARE:
        example = _prefix(example, settings.target, rng)
    state = example.state
    # one number an interaction, kept or not, so that the stream does not depend on what is dropped
    keep = rng.random(len(state.history)) >= settings.history_dropout
    history = tuple(h for h, kept in zip(state.history, keep, strict=True) if kept)
    return dataclasses.replace(example, state=dataclasses.replace(state, history=history))


def _prefix(example: Example, target: EventKind, rng: np.random.Generator) -> Example:
    history = example.state.history
    # a policy that is to name conversions is not taught mere clicks
    able = [h for h in history if RANK[h.feedback] >= RANK[target]]
    if not able:
        return example
    new = able[int(rng.integers(len(able)))]
    # strictly earlier: events of one moment have no order, and one of them must not give away another
    before = tuple(h for h in history if h.time < new.time)
    # it would teach to name what the history holds, which recommending excludes
    if any(h.item == new.item for h in before):
        return example
    state = State(example.state.user_id, example.state.profile, before, time=new.time)
    return Example(state, new.item, new.feedback)


class RowEncoder:
    """Turns examples and items into rows; answers that are items are the catalogue's own tokens."""

    def __init__(
        self,
        items: Sequence[Item],
        catalogue: Catalogue,
        renderer: Any,
        tokenizer: Any,
        liked_by: EventKind = "click",
        answers: Literal["choices", "catalogue"] = "choices",
        facts: Literal["categories", "some"] = "categories",
    ) -> None:
        self.items, self.catalogue, self.renderer, self.tokenizer = items, catalogue, renderer, tokenizer
        self.liked_by, self.answers, self.facts = liked_by, answers, facts

    @classmethod
    def of(
        cls,
        settings: SFTSettings,
        items: Sequence[Item],
        catalogue: Catalogue,
        renderer: Any,
        tokenizer: Any,
        liked_by: EventKind,
    ) -> Self:
        """The encoder whose requests are those that `settings` asks for."""
        return cls(
            items, catalogue, renderer, tokenizer, liked_by, settings.request_answers, facts=settings.request_facts
        )

    @cached_property
    def likeness(self) -> Likeness:
        """Which items are like an item, by their texts."""
        return Likeness(self.items)

    def next_items(self, examples: Sequence[Example]) -> list[SFTRow]:
        """The states as prompts and the chosen items as answers."""
        prompts = self.renderer.token_ids_many([example.state for example in examples])
        return [
            _row(ids, self.catalogue.token_ids(example.target), example.target)
            for ids, example in zip(prompts, examples, strict=True)
        ]

    def item_task(self, task: str, example: Example, rng: np.random.Generator) -> SFTRow | None:
        """One of `ITEM_TASKS` about a random item; None where that item lacks the text for it.

        For item_from_prompt half of the prompts or more (`LIKED_SHARE`) name one or two items that are like an answer
        (`Likeness`) and ask for it: the example's target, which is what users choose among what a request names, or
        any item of the catalogue (`sft.request_answers`). What follows on a history, like it or not, is the
        next-item task's. The others say what the answer is (`sft.request_facts`).
        """
        item = int(rng.integers(len(self.items)))
        if task == "item_from_prompt":
            return self._request(item, example, rng)
        return self._task_row(task, item, variant=int(rng.integers(8)))

    def _request(self, item: int, example: Example, rng: np.random.Generator) -> SFTRow | None:
        liked: list[int] = []
        if rng.random() < LIKED_SHARE[self.facts]:
            asked = example.target if self.answers == "choices" else item
            near = self.likeness.of(asked)
            if len(near):
                item = asked
                liked = rng.choice(near, min(len(near), int(rng.integers(1, 3))), replace=False).tolist()
        facts = None
        if self.facts == "some":
            facts = Facts.drawn(self.items[item], rng) if not liked else Facts(cheaper=self._less(item, liked, rng))
        if liked and rng.random() < SERVED_SHARE:
            less = str(rng.choice(self.renderer.wording.cheaper)) if facts is not None and facts.cheaper else ""
            prompt = self.renderer.token_ids(_asked(liked, self.liked_by, less))
            return _row(prompt, self.catalogue.token_ids(item), item)
        return self._task_row("item_from_prompt", item, liked=liked, facts=facts, variant=int(rng.integers(8)))

    def _less(self, item: int, liked: Sequence[int], rng: np.random.Generator) -> bool:
        """Whether a request that names `liked` says that the answer costs less: half of those that may."""
        price, others = self.items[item].price, [self.items[other].price for other in liked]
        return price is not None and all(o is not None and price < o for o in others) and bool(rng.random() < 0.5)

    def _task_row(self, task: str, item: int, **options: Any) -> SFTRow | None:
        text = self.renderer.task_text(task, item, **options)
        if text is None:
            return None
        answer = self._text(text.answer) if text.answer is not None else self.catalogue.token_ids(text.target_item)
        return _row(text.prompt_ids, answer, text.target_item)

    def _text(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(tokens) >= TEXT_ANSWER_TOKENS:
            return tokens[:TEXT_ANSWER_TOKENS]  # cut, so it does not teach that the text ends here
        return [*tokens, self.tokenizer.eos_token_id]


def weakest(histories: Iterable[Sequence[Interaction]]) -> EventKind:
    """The weakest feedback that the histories hold: what counts as liking an item; a click where they hold none.

    In a request nothing stronger may stand for it: that something was bought tells what goes with it, and a policy
    that is taught to answer a bought kettle with kettles does not learn that people then want mugs.
    """
    kinds = {interaction.feedback for history in histories for interaction in history}
    return min(kinds, key=RANK.__getitem__, default="click")


def _asked(liked: Sequence[int], kind: EventKind, rest: str = "") -> State:
    """The state of "I liked A and B" and the `rest` of a request, as `text.free_prompt.resolve_prompt` makes it."""
    value = BEST_RATING if kind == "rating" else None
    return State(history=tuple(Interaction(item, kind, 0, value) for item in liked), context=rest)


def _row(prompt: Sequence[int], answer: Sequence[int], item: int | None) -> SFTRow:
    return SFTRow((*map(int, prompt), *map(int, answer)), len(answer), item)
