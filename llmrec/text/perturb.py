"""What a recommender sees, changed on purpose: mistyped titles, gaps in the history, other wording.

A perturbation maps states and item texts to a `View`. Items keep their index, their id and the tokens that a policy
answers with, states keep their user and moment, and what was chosen is not touched: figures with and without are of
the same rows. `hostile` holds the perturbations that somebody means.

Other words for an item (`renamed`) are what another shop, or a person, would call it: rules, no model, the same every
time. Rules cover part of what a person would vary (tests of language models call such edits meaning-preserving:
Ribeiro et al. 2020, "Beyond Accuracy: Behavioral Testing of NLP Models with CheckList"). They need no other model,
whose own taste would be measured with the policy's.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmrec.errors import ConfigError
from llmrec.seeding import numpy_stream
from llmrec.types import Interaction, Item, State

_GROUPS = """
small little compact mini; large big; kit set; bag pouch; cover case; cup mug; pan skillet; lamp light; bottle flask;
rug mat; soft plush; strong sturdy; heavy-duty rugged; wireless cordless; deluxe premium; basic plain; vintage retro;
antique old-time; handmade handcrafted; organic natural; recycled reclaimed; smart intelligent; automatic self-acting;
budget low-cost; all-weather weatherproof; slim thin; gloves mitts; pack bundle; replacement spare; holder stand;
tube pipe; tape strip; screw bolt; sheet panel; clear transparent; film movie; story tale; war battle; night evening;
house home; man gentleman; woman lady; boy lad; girl lass; child kid; king ruler; dead lifeless; death demise;
murder homicide; love romance; great grand; last final; first initial; strange odd; secret hidden; lost missing;
city town; road street; sea ocean; song tune; guide handbook; introduction primer; course class; advanced expert;
beginners novices; fast quick; modern contemporary; new fresh; happy glad; hard tough; easy simple; gift present;
garden yard; kitchen cookery; sofa couch; rubbish trash; picture image; doctor physician; fear dread; friends pals
"""
SYNONYMS: dict[str, str] = {
    word: group[(place + 1) % len(group)]
    for group in (text.split() for text in _GROUPS.replace("\n", " ").split(";"))
    for place, word in enumerate(group)
}
"""Each word's substitute, in lower case."""
DESCRIPTION_WORDS = 6

_BRACKETED = re.compile(r"\s*[(\[（【][^()\[\]（）【】]*[)\]）】]")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")


def renamed(title: str, taken: Collection[str] = ()) -> str:
    """`title` in other words, none of them equal to one of `taken`; the title itself where no rule applies.

    Brackets go and words give way to synonyms. Where no word has one, the title is turned about a comma: "Red Kettle"
    becomes "Kettle, Red"; a title without spaces gets words around it.
    """
    bare = " ".join(_BRACKETED.sub("", title).split()) or title
    other: str = _WORD.sub(_synonym, bare)
    candidates: list[str] = [_turned(bare), f"{_turned(bare)}…"]
    # A new name that is another item's own would change what the state says, not how it says it.
    for candidate in [other, *candidates] if other != bare else candidates:
        if candidate not in taken and candidate != title:
            return candidate
    return title


def described(item: Item) -> str:
    """The item without its title: categories, brand and the first words of its description; "?" where it has none."""
    words = item.description.split()[:DESCRIPTION_WORDS]
    own = {word.casefold() for word in _WORD.findall(item.title)}
    kept = " ".join(word for word in words if word.casefold().strip(".,;:") not in own)
    parts = [*item.categories[-2:], item.brand, kept]
    return ", ".join(part for part in (p.strip() for p in parts) if part) or "?"


def _synonym(found: re.Match[str]) -> str:
    word = found[0]
    other = SYNONYMS.get(word.casefold(), word)
    if other is word:
        return word
    return other.upper() if word.isupper() and len(word) > 1 else other.capitalize() if word[0].isupper() else other


def _turned(title: str) -> str:
    words = title.split()
    if len(words) < 2:
        return f"“{title}”"
    middle = (len(words) + 1) // 2
    first, second = (" ".join(half).strip(" ,") for half in (words[:middle], words[middle:]))
    return f"{second}, {first}" if first and second else f"“{title}”"


@dataclass(frozen=True, slots=True)
class View:
    """What is seen in place of the truth.

    Attributes:
        states: one for each state, in order.
        items: one for each item, in item-index order and with the same ids; the same object where no text changed.
        wording: the domain whose templates word the states; None for their own.
        promoted: the item that hostile text promotes.
    """

    states: Sequence[State]
    items: Sequence[Item]
    wording: str | None = None
    promoted: int | None = None


@dataclass(frozen=True, kw_only=True)
class Perturbation(ABC):
    """A named, seeded map from states and item texts to what is seen. `seed` names the random stream."""

    seed: int = 0

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in a table."""

    @abstractmethod
    def view(self, states: Sequence[State], items: Sequence[Item]) -> View:
        """The view; the same for the same state whatever stands beside it."""

    def stream(self, *name: object) -> np.random.Generator:
        """The random numbers of one item or state."""
        return numpy_stream(self.seed, "perturb", type(self).__name__, *name)


@dataclass(frozen=True, kw_only=True)
class Typos(Perturbation):
    """Mistyped titles: each letter is, with probability `rate`, swapped with the next, left out or doubled."""

    rate: float = 0.1

    def __post_init__(self) -> None:
        _check_share("rate", self.rate)

    @property
    def name(self) -> str:
        """With the rate."""
        return f"typos {self.rate:.0%}"

    def view(self, states: Sequence[State], items: Sequence[Item]) -> View:
        """Item by item."""
        new = [replace(i, title=with_typos(i.title, self.rate, self.stream(i.item_id))) for i in items]
        return View(states, new)


@dataclass(frozen=True, kw_only=True)
class DroppedHistory(Perturbation):
    """Events that nobody logged: each interaction of history and session is missing with probability `share`."""

    share: float = 0.5

    def __post_init__(self) -> None:
        _check_share("share", self.share)

    @property
    def name(self) -> str:
        """With the share."""
        return f"history dropped {self.share:.0%}"

    def view(self, states: Sequence[State], items: Sequence[Item]) -> View:
        """State by state."""
        return View([self._dropped(state) for state in states], items)

    def _dropped(self, state: State) -> State:
        rng = self.stream(*_identity(state))

        def kept(past: tuple[Interaction, ...]) -> tuple[Interaction, ...]:
            return tuple(one for one, luck in zip(past, rng.random(len(past)), strict=True) if luck >= self.share)

        return replace(state, history=kept(state.history), session=kept(state.session))


@dataclass(frozen=True, kw_only=True)
class ShuffledHistory(Perturbation):
    """An order that got lost: interactions of the history change places, and times stay in ascending order."""

    @property
    def name(self) -> str:
        """Its name."""
        return "history shuffled"

    def view(self, states: Sequence[State], items: Sequence[Item]) -> View:
        """State by state."""
        return View([self._shuffled(state) for state in states], items)

    def _shuffled(self, state: State) -> State:
        order = self.stream(*_identity(state)).permutation(len(state.history)).tolist()
        moved = [replace(state.history[j], time=at.time) for j, at in zip(order, state.history, strict=True)]
        return replace(state, history=tuple(moved))


@dataclass(frozen=True, kw_only=True)
class OtherWording(Perturbation):
    """Templates of another domain than the policy learnt: other labels, other words for what the user did."""

    domain: str

    @property
    def name(self) -> str:
        """With the domain."""
        return f"wording of {self.domain}"

    def view(self, states: Sequence[State], items: Sequence[Item]) -> View:
        """States and items as they are."""
        return View(states, items, wording=self.domain)


@dataclass(frozen=True, kw_only=True)
class Renamed(Perturbation):
    """Titles in words that training has not seen: synonyms and turned halves (`renamed`)."""

    @property
    def name(self) -> str:
        """Its name."""
        return "titles renamed"

    def view(self, states: Sequence[State], items: Sequence[Item]) -> View:
        """Item by item; no item gets a title that another has."""
        taken = {item.title for item in items}
        new = [replace(item, title=renamed(item.title, taken)) for item in items]
        return View(states, new)


@dataclass(frozen=True, kw_only=True)
class Described(Perturbation):
    """Titles gone: an item is called by its categories, brand and first words of the description."""

    @property
    def name(self) -> str:
        """Its name."""
        return "titles gone"

    def view(self, states: Sequence[State], items: Sequence[Item]) -> View:
        """Item by item."""
        return View(states, [replace(item, title=described(item)) for item in items])


def with_typos(text: str, rate: float, rng: np.random.Generator) -> str:
    """`text` with mistyped letters; digits, spaces and signs stay, and so does the whole text if nothing were left.

    A letter goes with its combining marks. Two numbers are drawn for each letter, so that a higher rate adds typos.
    """
    units = _letters_with_marks(text)
    luck, kind = rng.random(len(units)), rng.integers(3, size=len(units))
    typed: list[str] = []
    at = 0
    while at < len(units):
        letter, following = units[at], units[at + 1] if at + 1 < len(units) else ""
        if luck[at] >= rate or not letter[0].isalpha():
            typed.append(letter)
        elif kind[at] == 0 and following[:1].isalpha():
            typed += [following, letter]
            at += 1
        elif kind[at] < 2:
            pass  # left out
        else:
            typed += [letter, letter]
        at += 1
    text_typed = "".join(typed)
    return text_typed if text_typed.strip() else text


def _letters_with_marks(text: str) -> list[str]:
    units: list[str] = []
    for character in text:
        if units and unicodedata.category(character).startswith("M"):
            units[-1] += character
        else:
            units.append(character)
    return units


def _identity(state: State) -> tuple[object, ...]:
    return state.user_id, state.time, *(i.item for i in (*state.history, *state.session))


def _check_share(key: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"The {key} of a perturbation is {value}; it must lie between 0 and 1.")
