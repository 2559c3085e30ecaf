"""Words that written text must not hold: harmful ones listed here, and those that a person forbids.

The list is short and of our own choosing: words that no description, profile or reason needs. It is no judgement of
items. A film may have such a word in its title; then a person should look (`llmrec review`), and nothing is decided.
What a person forbids in a file is left out everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmrec.bounded import read_ids
from llmrec.errors import RequestError
from llmrec.printing import one_line
from llmrec.text.titles import words_of

HARMFUL: dict[str, tuple[str, ...]] = {
    "sexual": ("porn", "pornographic", "pornography", "xxx", "hentai", "incest", "色情", "淫秽", "裸聊", "乱伦"),
    "minors": ("child porn", "underage sex", "lolita", "未成年色情", "幼女"),
    "self-harm": ("suicide", "suicidal", "self harm", "kill yourself", "自杀", "自残"),
    "hate": ("racial slur", "subhuman", "master race", "white power", "ethnic cleansing", "种族清洗", "劣等民族"),
    "drugs": ("cocaine", "heroin", "crystal meth", "methamphetamine", "冰毒", "海洛因", "可卡因"),
    "weapons": ("bomb making", "pipe bomb", "nerve agent", "make explosives", "制造炸弹", "自制炸药"),
    "violence": ("behead", "beheading", "torture porn", "snuff", "虐杀", "斩首"),
}
FORBIDDEN = "forbidden"
"""The category of a person's own words."""
_ITEM = "item:"


@dataclass(frozen=True, slots=True)
class Found:
    """A word that was found: its category and how the list writes it."""

    category: str
    word: str


class WordFilter:
    """Finds listed words in texts, whole words without regard to case and accents.

    Args:
        words: by category; several words are a phrase.
    """

    def __init__(self, words: Mapping[str, Sequence[str]]) -> None:
        self._phrases = [
            (Found(category, word), f" {' '.join(w.text for w in words_of(word))} ")
            for category, listed in words.items()
            for word in listed
        ]

    def find(self, text: str) -> list[Found]:
        """What of the list stands in `text`, in the order of the list."""
        asked = f" {' '.join(w.text for w in words_of(text))} "
        return [found for found, phrase in self._phrases if phrase.strip() and phrase in asked]


@dataclass(frozen=True)
class Forbidden:
    """What a person forbids: words or phrases, and items by id."""

    words: tuple[str, ...] = ()
    items: frozenset[str] = frozenset()

    def filter(self) -> WordFilter:
        """The harmful words and these."""
        return WordFilter({**HARMFUL, FORBIDDEN: self.words})


def read_forbidden(path: Path) -> Forbidden:
    """Words and items of a file, one a line; a line "item:ID" forbids an item, "# " begins a remark.

    Raises:
        RequestError: the file is missing, too large or no text.
    """
    try:
        listed = read_ids(path)
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RequestError(
            f"{path} cannot be read ({one_line(reason, 160)}); write one word, or item:ID, a line."
        ) from None
    items = frozenset(line[len(_ITEM) :].strip() for line in listed if line.startswith(_ITEM))
    words = tuple(line for line in listed if not line.startswith(_ITEM))
    return Forbidden(words, items)
