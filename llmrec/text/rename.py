"""Other words for an item: what another shop, or a person, would call it. Rules, no model; the same every time.

Rules cover part of what a person would vary (tests of language models call such edits meaning-preserving: Ribeiro et
al. 2020, "Beyond Accuracy: Behavioral Testing of NLP Models with CheckList"). They need no other model, whose own
taste would be measured with the policy's.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from llmrec.types import Item

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
