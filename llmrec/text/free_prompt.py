"""A free prompt becomes a state: catalogue titles named in it are liked items, the rest is context."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llmrec.text.escape import clean_text
from llmrec.text.titles import MAX_CHARACTERS, Hit, TitleIndex
from llmrec.text.wishes import Wish, WishIndex
from llmrec.types import EventKind, Interaction, Item, State

__all__ = ["Match", "Resolved", "TitleIndex", "Wish", "resolve_prompt"]

_FILLER_WORDS = """i ive i've we my me am liked like likes love loved enjoyed enjoy watched watch seen saw bought buy
read played listened have had just really also too and or but both the a an of such as well please recommend suggest
give show want more something anything similar to so much very films film movies movie what should next is are"""
_FILLER = frozenset(_FILLER_WORDS.split())
_JOINT_WORDS = "and or but with also plus then so , . ; : ! ? & - – —"
_JOINTS = frozenset(_JOINT_WORDS.split())
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])")
_ZH_FILLER = re.compile(
    "我们|我|喜欢过|喜欢|很爱|最爱|爱看|爱|看过|看了|买过|买了|听过|读过|用过|还有|以及|或者|和|跟|与|或|请|推荐|"
    "类似|一些|一个|一部|的|也|很|都|最近|非常|像|了|[、，。！？；：,.!?;: ]"
)
_ZH_JOINTS = re.compile("^(?:还有|以及|但是|但|和|跟|与|也|[、，。！？；：,. ])+|(?:和|跟|与|[、，；：, ])+$")
_MARKS = "\"“”„'‘’«»‹›《》「」『』〈〉()（）[] \t\n"


@dataclass(frozen=True, slots=True)
class Match:
    """An item named in a prompt: its index and title, the words that named it, and the similarity (0 to 100)."""

    item: int
    title: str
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Resolved:
    """How a prompt was read: the state to recommend for, what was matched, and the text left as context.

    `wishes` are what the text asks of its items outright, where that was looked for; their words stay in the context.
    """

    state: State
    matches: list[Match]
    rest: str
    wishes: tuple[Wish, ...] = ()


_last: tuple[Sequence[Item], TitleIndex] | None = None
_last_wishes: tuple[Sequence[Item], WishIndex] | None = None


def resolve_prompt(
    text: str,
    items: Sequence[Item] | TitleIndex,
    time: int | None = None,
    *,
    feedback: EventKind = "click",
    value: float | None = None,
    wishes: bool = False,
) -> Resolved:
    """Reads a free prompt such as "I liked Fargo and Se7en".

    Titles are found without regard to case, year, leading article and small misspellings, under any of their names;
    a title of one word counts only where it is capitalised or in quotation marks.

    Args:
        text: the prompt, at most `titles.MAX_CHARACTERS` of it.
        items: the catalogue in item-index order, or its index (kept for the last catalogue used).
        time: the moment of the request in seconds.
        feedback: what the liked items count as; choose what the policy saw in training.
        value: the rating, where `feedback` is "rating".
        wishes: whether categories, brands and prices are looked for (`wishes.WishIndex`). A category's name alone is
            then no title: "something in War" names no film.
    """
    index = items if isinstance(items, TitleIndex) else _index_of(items)
    text = text[:MAX_CHARACTERS]
    hits = index.find(text)
    wished: tuple[Wish, ...] = ()
    if wishes:
        book = _wishes_of(index.items)
        wished = tuple(book.find(text, hits))
        hits = [hit for hit in hits if not book.is_category(text, hit)]
    matches = [Match(h.item, index.items[h.item].title, text[h.start : h.end], h.score) for h in hits]
    rest = clean_text(_rest(text, hits), MAX_CHARACTERS)
    liked = dict.fromkeys(match.item for match in matches)
    before = 0 if time is None else time - 1
    history = tuple(Interaction(item, feedback, before, value) for item in liked)
    return Resolved(State(history=history, context=rest, time=time), matches, rest, wished)


def _index_of(items: Sequence[Item]) -> TitleIndex:
    """The index of a catalogue; that of the last one used is kept."""
    global _last
    if _last is None or _last[0] is not items or len(_last[1].items) != len(items):
        _last = (items, TitleIndex(items))
    return _last[1]


def _wishes_of(items: Sequence[Item]) -> WishIndex:
    """The names of a catalogue; those of the last one used are kept."""
    global _last_wishes
    if _last_wishes is None or _last_wishes[0] is not items or len(_last_wishes[1].items) != len(items):
        _last_wishes = (items, WishIndex(items))
    return _last_wishes[1]


def _rest(text: str, hits: Sequence[Hit]) -> str:
    """The text between the hits without what only introduced or joined them ("I liked", "and")."""
    if not hits:
        return text
    parts, place = [], 0
    for hit in hits:
        parts.append(text[place : hit.start])
        place = hit.end
    parts.append(text[place:])
    sentences = [sentence for part in parts for sentence in _SENTENCE.split(part)]
    return " ".join(sentence for sentence in map(_meaning, sentences) if sentence)


def _meaning(part: str) -> str:
    part = part.strip(_MARKS)
    words = part.split()
    bare = [word.casefold().strip(".,;:!?&-–—") for word in words]
    if all(not word or word in _FILLER for word in bare) or not _ZH_FILLER.sub("", part):
        return ""
    while words and (words[0].casefold() in _JOINTS or words[0].casefold().strip(",.;") in _JOINTS):
        words = words[1:]
    while words and words[-1].casefold() in _JOINTS:
        words = words[:-1]
    return _ZH_JOINTS.sub("", " ".join(words)).strip(",;:，；： ")
