"""Whether a sentence says more than its source: every name, number and quotation in it has to stand there.

The check is deterministic and knows no model. What it looks for:

- *numbers*: digits anywhere ("1990s" holds 1990) and number words from two on, English and Chinese; their values are
  compared, so "twenty-five" stands for 25. Left alone are "one", "first", "second", halves, and vague words.
- *names*: in text of Latin letters every word with a capital letter; words side by side are one name, as are words
  joined by "of" or "the", and a name must stand in one fact as it is, whole. At the beginning of a sentence a capital
  proves nothing, so there a word passes if it is among the ordinary ones listed here. In Chinese text: every Latin
  word, and what stands around the dot of a transliterated name.
- *quotations*: whatever stands between quotation or title marks, whole.
- *addresses*: of the net.
- *known names*: the catalogue's categories in any letters, as sentences write "horror" and not "Horror".

A source may be told wrongly with its own words ("hates" for "likes"), and other names in small letters are not seen;
both are beyond such a check. What it promises is that no name with a capital, no number and no quotation comes from
nowhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from llmrec.enrich.types import Reason, Source
from llmrec.text.titles import words_of

_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3040-\u30ff\uac00-\ud7af"
_WORD = re.compile(rf"[{_HAN}]+|[^\W_{_HAN}]+(?:['’‘.\-‐‑&+][^\W_{_HAN}]+)*")
_LATIN_WORD = re.compile(rf"[^\W\d_{_HAN}][^\W_{_HAN}]*(?:['’.\-&+][^\W_{_HAN}]+)*")
_DIGITS = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?")
_QUOTED = re.compile(
    r'"([^"\n]{1,300})"|“([^“”\n]{1,300})”|«([^«»\n]{1,300})»|《([^《》\n]{1,300})》|〈([^〈〉\n]{1,300})〉'
    r"|「([^「」\n]{1,300})」|『([^『』\n]{1,300})』|【([^【】\n]{1,300})】|(?<!\w)[‘']([^‘’'\n]{2,300})[’'](?!\w)"
)
_ADDRESS = re.compile(
    r"\w+://\S+|\bwww\.\S+|\S+@\S+\.\w+|\b[\w-]+\.(?:com|org|net|io|cn|ru|info|biz)\b", re.IGNORECASE
)
_JOINED_WORDS = "of the de la le du des von van der den di da del"
_JOINED = frozenset(_JOINED_WORDS.split())
"""Between two words with capitals these make one name of them."""
_PRONOUN = frozenset({"i", "i'm", "i've", "i'd", "i'll"})
_ORDINARY_WORDS = """
a about above according across additionally after again all along already also although always among an and any
anyone apart appreciates are aren around article articles as aside at available based because before being belongs
besides best better between blamed blames both brand but buys by can categories category choices chooses chose
chosen clearly collectors combines comes comfortable compared complained complains complaints considering course
courses customer customers description despite did didn disliked dislikes do does doesn doing don drawn during
each earlier easy either enjoyed enjoys especially even every everyone everything excellent fans favorite
favorites favors favourite favourites favours features few film films finally find finds first follows for
frequently from fully furthermore gave generally genre genres given gives good gravitates great had has hasn have
haven having he her here high him his history how however ideal if important in includes including indeed interest
interested interests into is isn it item items its just keen known large lately later latest leans less like liked
likely likes listener listeners listens little long looking loved lover lovers loves made mainly makes many mix
mixed more moreover most mostly movie movies much my never new next no nobody none nor not notable noted now of
offers often on once one only or other others otherwise our out over overall particularly people perfect perhaps
person popular post posts praised praises preferred preferring prefers previously price primarily probably product
products rarely rated rates rather rating ratings reader readers reading really recent recently regarding
regularly related review reviewers reviews same second see seeks seems several she shopper shoppers short should
shows similar simple since small so some someone something sometimes somewhat song songs still strong student
students such suitable suits summary taste tastes tends than thanks that the their them then there therefore these
they thing things this those though through throughout thus title to together too towards tracks typically under
unlike until up use used useful user users uses usually various very viewer viewers viewing wants was wasn watched
watches watching we well were what when where whereas whether which while who whose why wide will with within
without works would written yet you your
"""
ORDINARY = frozenset(_ORDINARY_WORDS.split())
"""What may begin a sentence with a capital without being a name."""
_UNIT_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen"""
_TEN_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
_DECADE_WORDS = "twenties thirties forties fifties sixties seventies eighties nineties"
_ORDINAL_WORDS = "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "dozen": 12}
_SCALES |= {f"{word}s": value for word, value in _SCALES.items()}
_SMALL = {
    **{word: value for value, word in enumerate(_UNIT_WORDS.split())},
    **{word: 10 * value for value, word in enumerate(_TEN_WORDS.split(), 2)},
    **{word: 10 * value for value, word in enumerate(_DECADE_WORDS.split(), 2)},
    **{word: value for value, word in enumerate(_ORDINAL_WORDS.split(), 3)},
}
_ZH_DIGITS = dict(zip("〇零一二三四五六七八九两", [0, 0, *range(1, 10), 2], strict=True))
_ZH_SCALES = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8}
_ZH_NUMBER = re.compile(r"[〇零一二三四五六七八九两十百千万亿]+")
_ZH_MEASURES = frozenset("部个本次年岁位件首元块名种天月号集星成倍款门条篇场季人台套双页分")
_ZH_IDIOM_WORDS = """十分 万一 千万 百般 万分 百分之百 一一 三三两两 五花八门 千方百计 四面八方 七上八下 万万 成千上万
一五一十 三心二意 百年一遇"""
_ZH_IDIOMS = tuple(_ZH_IDIOM_WORDS.split())
_ZH_DOT = re.compile(rf"([{_HAN}]{{1,2}})[·・•‧]([{_HAN}]{{1,2}})")
_ABBREVIATED = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|prof|st|jr|sr|vs|vol|no|inc|ltd|co|feat|ft|approx|etc)|\b[A-Za-z]|^[\s\-*•]*\d{1,2})\.$",
    re.IGNORECASE,
)
_END = {
    "en": re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s+[^\sa-z]|\s*$)|\n+"),
    "zh": re.compile(r"[。！？!?…]+[”’」』》）]*|\n+"),
}
_LETTER_SHARE = {"en": 0.9, "zh": 0.3}


@dataclass(frozen=True, slots=True)
class Mention:
    """Something in a sentence that has to stand in the source."""

    reason: Reason
    text: str


def _digits_plain(text: str) -> str:
    """Compatibility forms, accents and case taken away, digits of all scripts as 0 to 9."""
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in plain if not unicodedata.combining(c)).casefold()
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in plain)


def tokens(text: str) -> list[str]:
    """Words without case and accents; of Chinese each character."""
    return [word.text for word in words_of(text)]


class Ground:
    """What a source holds, ready to be asked.

    Args:
        texts: the facts' texts; a name has to stand in one of them.
        language: "en" or "zh", of the sentences.
        known: names that count whatever their letters, such as the catalogue's categories ("horror").
    """

    def __init__(self, texts: Iterable[str], language: str, known: Iterable[str] = ()) -> None:
        kept = list(texts)
        self.language, self.known = language, known
        # A mark between facts: no name is put together of the end of one and the beginning of the next.
        self._text = " \x00 ".join(f" {' '.join(tokens(text))} " for text in kept)
        self._numbers = {number for text in kept for _, number in numbers(text)}

    @classmethod
    def of(cls, source: Source, language: str, known: Iterable[str] = ()) -> Ground:
        """The ground of one source: its facts, but not the counts and values that only order them."""
        return cls((fact.text for fact in source.facts), language, known)

    def holds(self, text: str) -> bool:
        """Whether the words of `text` stand in one fact, side by side."""
        asked = " ".join(tokens(text))
        return bool(asked) and f" {asked} " in self._text

    def ungrounded(self, sentence: str) -> list[Mention]:
        """What in the sentence does not stand in the source."""
        found = [Mention("address", match[0]) for match in _ADDRESS.finditer(sentence) if not self.holds(match[0])]
        for match in _QUOTED.finditer(sentence):
            said = next(group for group in match.groups() if group is not None)
            if tokens(said) and not self.holds(said):
                found.append(Mention("quotation", said))
        found += [Mention("number", text) for text, number in numbers(sentence) if number not in self._numbers]
        found += [Mention("name", name) for name in self._names(sentence)]
        said = f" {' '.join(tokens(sentence))} "
        found += [Mention("name", name) for name in self.known if _says(said, name) and not _says(self._text, name)]
        return found

    def _names(self, sentence: str) -> Iterator[str]:
        if self.language == "zh":
            yield from (m[0] for m in _LATIN_WORD.finditer(sentence) if not self._named([m[0]]))
            yield from (m[0] for m in _ZH_DOT.finditer(sentence) if not self.holds(m[1] + m[2]))
            return
        for words, first in _runs(sentence):
            if self._named(words):
                continue
            # The beginning of a sentence has its capital anyway; what follows it is looked at by itself.
            rest = words[1:] if first and re.split("['’]", words[0].casefold())[0] in ORDINARY else words
            while rest and rest[0].casefold() in _JOINED:
                rest = rest[1:]
            if rest and (rest is words or not self._named(rest)):
                yield " ".join(rest)

    def _named(self, words: Sequence[str]) -> bool:
        name = " ".join(words)
        # as it is, without what makes it a possessive, or as the singular of what is said: "Comedies" of "Comedy"
        forms = (name, re.sub(r"['’]s?$", "", name), re.sub(r"s$", "", name), re.sub(r"ies$", "y", name))
        return any(map(self.holds, dict.fromkeys(forms)))


def _says(said: str, name: str) -> bool:
    """Whether a name, or its plural, is among the words, each between spaces."""
    words = " ".join(tokens(name))
    return bool(words) and any(f" {form} " in said for form in (words, f"{words}s", re.sub("y$", "ies", words)))


def _runs(sentence: str) -> Iterator[tuple[list[str], bool]]:
    """Words with capitals that stand side by side, and whether they begin the sentence.

    Small words such as "of" stay within a run if another capital follows.
    """
    run: list[str] = []
    waiting: list[str] = []
    first, end, began = False, 0, False
    for match in _WORD.finditer(sentence):
        word, between = match[0], sentence[end : match.start()]
        if run and between.strip(" \t-–/&+"):
            yield run, first
            run, waiting = [], []
        end = match.end()
        if _capital(word) and word.casefold().replace("’", "'") not in _PRONOUN:
            if not run:
                first = not began
            run += [*waiting, word]
            waiting = []
        elif run and word.casefold() in _JOINED:
            waiting.append(word)
        elif run:
            yield run, first
            run, waiting = [], []
        began = True
    if run:
        yield run, first


def _capital(word: str) -> bool:
    return any(c.isupper() or c.istitle() for c in word) or bool(re.match(f"[{_HAN}]", word))


def numbers(text: str) -> Iterator[tuple[str, str]]:
    """The numbers in a text as (how it is written, value): digits, English and Chinese number words."""
    plain = _digits_plain(text)
    for match in _DIGITS.finditer(plain):
        yield match[0], _value(match[0].replace(",", ""))
    yield from _english_numbers(plain)
    yield from _chinese_numbers(plain)


def _value(digits: str) -> str:
    whole, _, part = digits.partition(".")
    part = part.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{part}" if part else "")


def _english_numbers(plain: str) -> Iterator[tuple[str, str]]:
    run: list[str] = []
    end = 0
    for match in re.finditer(r"[a-z]+", plain):
        word, between = match[0], plain[end : match.start()]
        scaled = bool(run) and run[-1] in _SCALES
        if run and (between not in (" ", "-") or not (_is_number(word) or (word == "and" and scaled))):
            yield from _spelled(run)
            run = []
        end = match.end()
        if _is_number(word) or (run and word == "and"):
            run.append(word)
    yield from _spelled(run)


def _is_number(word: str) -> bool:
    return word in _SMALL or word in _SCALES


def _spelled(run: list[str]) -> Iterator[tuple[str, str]]:
    words = run[:-1] if run and run[-1] == "and" else run
    if not words or words == ["one"]:
        return
    total, part = 0, 0
    for word in words:
        if word == "and":
            continue
        if word in _SCALES:
            scale = _SCALES[word]
            part = max(part, 1) * scale
            if scale >= 1000:
                total, part = total + part, 0
        else:
            part += _SMALL[word]
    yield " ".join(words), str(total + part)


def _chinese_numbers(plain: str) -> Iterator[tuple[str, str]]:
    for match in _ZH_NUMBER.finditer(plain):
        word, after = match[0], plain[match.end() : match.end() + 1]
        around = plain[max(0, match.start() - 3) : match.end() + 3]
        if any(idiom in around and idiom[0] in around and word in idiom for idiom in _ZH_IDIOMS):
            continue
        # A single numeral is a number before a measure word; "一" is part of too many words to be one.
        if len(word) > 1 or (word not in "一〇零" and after in _ZH_MEASURES and after):
            yield word, str(_chinese_value(word))


@lru_cache(maxsize=4096)
def _chinese_value(word: str) -> int:
    if not any(c in _ZH_SCALES for c in word):
        return int("".join(str(_ZH_DIGITS[c]) for c in word))  # 一九九四
    total, section, digit = 0, 0, 0
    for character in word:
        if character in _ZH_DIGITS:
            digit = _ZH_DIGITS[character]
            continue
        scale = _ZH_SCALES[character]
        if scale >= 10**4:
            total, section, digit = (total + (section + digit or 1) * scale), 0, 0
        else:
            section, digit = section + (digit or 1) * scale, 0
    return total + section + digit


def sentences_of(text: str, language: str, whole: Iterable[str] = ()) -> list[str]:
    """The sentences of a text, without what lists put before them.

    Args:
        text: the text.
        language: "en" or "zh".
        whole: titles that may hold full stops; none of them is cut in two.
    """
    kept = [
        match.span()
        for title in dict.fromkeys(whole)
        if re.search(r"[.!?。！？…]", title)
        for match in re.finditer(re.escape(title), text, re.IGNORECASE)
    ]
    found, start = [], 0
    for match in _END[language].finditer(text):
        inside = any(low <= match.start() < high for low, high in kept)
        if "\n" not in match[0] and (inside or _ABBREVIATED.search(text[start : match.start() + 1])):
            continue
        found.append(text[start : match.end()])
        start = match.end()
    found.append(text[start:])
    trimmed = (re.sub(r"^(?:(?:[-*•]|\d{1,2}[.)])\s+)+", "", " ".join(part.split())) for part in found)
    return [part for part in trimmed if part]


def is_whole(sentence: str) -> bool:
    """Whether a sentence has its end."""
    return bool(re.search(r"[.!?。！？…][\"'”’)\]」』》）]*$", sentence))


def speaks(sentence: str, language: str) -> bool:
    """Whether the letters of a sentence are those of its language."""
    letters = [c for c in sentence if c.isalpha()]
    if not letters:
        return False
    if language == "zh":
        own = sum(bool(re.match(f"[{_HAN}]", c)) for c in letters)
    else:
        own = sum("LATIN" in unicodedata.name(c, "") for c in letters)
    return own >= _LETTER_SHARE[language] * len(letters)
