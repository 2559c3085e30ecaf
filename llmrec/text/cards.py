"""Item cards: what an entry of the history tells of an item beside its title.

A card has three levels. Level 0 is the title, level 1 adds the attributes, level 2 the beginning of the description.
The newest entries have the long card, older ones a shorter one (`CardSettings`). What a title says already its card
does not say again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from llmrec.config import CardSettings
from llmrec.errors import ConfigError
from llmrec.types import Item

TITLE, ATTRIBUTES, DESCRIPTION = 0, 1, 2
"""The levels of a card; each tells what those before it tell."""
TEMPLATE = "_common/card.jinja"
DESCRIPTION_CHARACTERS = 600
CATEGORIES, CATEGORY_CHARACTERS, BRAND_CHARACTERS, CURRENCY_CHARACTERS = 6, 40, 60, 8
PRICES = {
    "en": {"USD": "${}", "EUR": "€{}", "GBP": "£{}"},
    "zh": {"CNY": "{}元", "USD": "{}美元", "EUR": "{}欧元"},
}
"""How prices of some currencies are written; that of another stands before its name."""
_MARKS = str.maketrans({";": ",", "；": "，", "[": "(", "]": ")", "【": "（", "】": "）", "［": "(", "］": ")"})
"""A card's text ends neither its card nor its entry."""

Clean = Callable[[str, int], str]
Cut = Callable[[list[str], int], list[str]]
"""Texts and a number of tokens to the beginnings of those texts that it holds."""


def check_cards(settings: CardSettings, max_tokens: int) -> None:
    """Refuses settings that no card can have.

    Raises:
        ConfigError: a number below 0, an attribute twice, or a description as long as the whole prompt.
    """
    if len(set(settings.attributes)) < len(settings.attributes):
        raise ConfigError("Key 'text.card.attributes' names one twice; name each once.")
    for key, value in (("description", settings.description), ("recent", settings.recent)):
        if value is not None and value < 0:
            raise ConfigError(f"Key 'text.card.{key}' is {value}; it must not be negative.")
    if settings.description >= max_tokens:
        raise ConfigError(
            f"Key 'text.card.description' is {settings.description}, but text.max_tokens, for the whole prompt, is "
            f"{max_tokens}; make it less, or that more."
        )


def deciding(settings: CardSettings, currency: str = "") -> dict[str, Any]:
    """What of the settings decides how entries are worded, and nothing where cards are off."""
    attributes = [name for name in ("categories", "brand", "price") if name in settings.attributes]
    description = 0 if settings.recent == 0 else settings.description
    if settings.recent == 0 and settings.older == "title":
        attributes = []
    if not attributes and not description:
        return {}
    found: dict[str, Any] = {"attributes": attributes, "description": description}
    if settings.recent and (description or settings.older == "title"):
        found["recent"] = settings.recent
        found |= {"older": settings.older} if attributes else {}
    return found | ({"currency": currency} if "price" in attributes else {})


def attributes(item: Item, clean: Clean) -> dict[str, str | list[str]]:
    """Categories, brand and price of an item as clean text; empty where it has none."""
    price = "" if item.price is None else f"{item.price:.2f}".removesuffix(".00")
    categories = [clean(c, CATEGORY_CHARACTERS) for c in item.categories[:CATEGORIES] if c.strip()]
    return {"categories": categories, "brand": clean(item.brand, BRAND_CHARACTERS), "price": price}


class Cards:
    """The values of the template of cards.

    Args:
        items: the catalogue in item-index order.
        settings: what is told.
        clean: makes a text harmless.
        language: "en" or "zh"; decides how prices are written.
        currency: of the items' prices, such as "USD"; untrusted; empty where it is not known.
        cut: cuts descriptions to a number of tokens; without it they are left as long as they are.
        titled: whether entries name items by title, so that a card need not repeat what it says.
    """

    def __init__(
        self,
        items: Sequence[Item],
        settings: CardSettings,
        clean: Clean,
        *,
        language: str = "en",
        currency: str = "",
        cut: Cut | None = None,
        titled: bool = True,
    ) -> None:
        self.items, self.settings, self.currency = items, settings, currency
        self._clean, self._cut, self._titled, self._language = clean, cut, titled, language
        shown = clean(currency, CURRENCY_CHARACTERS).translate(_MARKS)
        self._price = PRICES.get(language, {}).get(shown.upper()) or "{} " + shown.translate({123: None, 125: None})
        self._descriptions: dict[int, str] = {}
        long = DESCRIPTION if settings.description else ATTRIBUTES if settings.attributes else TITLE
        short = ATTRIBUTES if settings.attributes and settings.older == "attributes" else TITLE
        self._long, self._short = long, min(long, short)

    @property
    def on(self) -> bool:
        """Whether anything but titles is told."""
        return bool(deciding(self.settings))

    @property
    def fields(self) -> tuple[str, ...]:
        """What cards tell beside titles: some of categories, brand, price, description."""
        told = deciding(self.settings)
        return (*told.get("attributes", ()), *(["description"] if told.get("description") else []))

    def without(self, fields: Collection[str]) -> Cards:
        """Cards of the same items that leave out some of `fields`."""
        kept = tuple(name for name in self.settings.attributes if name not in fields)
        description = 0 if "description" in fields else self.settings.description
        settings = replace(self.settings, attributes=kept, description=description)
        how: dict[str, Any] = {"currency": self.currency, "cut": self._cut, "titled": self._titled}
        return Cards(self.items, settings, self._clean, language=self._language, **how)

    def levels(self, count: int) -> list[int]:
        """The level of the card of each of `count` entries, oldest first."""
        recent = count if self.settings.recent is None else min(self.settings.recent, count)
        return [self._short] * (count - recent) + [self._long] * recent

    def prepare(self, items: Iterable[int]) -> None:
        """Cuts the descriptions of items together, many times faster than one by one."""
        new = [item for item in dict.fromkeys(items) if item not in self._descriptions]
        if not new or self._long < DESCRIPTION:
            return
        whole = [self._whole_description(self.items[item]) for item in new]
        cut = whole if self._cut is None else self._cut(whole, self.settings.description)
        self._descriptions.update(zip(new, cut, strict=True))

    def values(self, item: int, title: str, level: int) -> dict[str, Any]:
        """The values of the template of a card; `title` is what the entry calls the item."""
        told: dict[str, Any] = {"title": title, "categories": [], "brand": "", "price": "", "description": ""}
        if level >= ATTRIBUTES:
            told |= self._attributes(self.items[item], title)
        if level >= DESCRIPTION:
            self.prepare([item])
            told["description"] = self._descriptions[item]
        return told

    def made_up(self, word: str = "") -> dict[str, Any]:
        """Values of a card that tells all that is asked for: `word` everywhere, or the names of the values."""
        shown = {"title", *self.settings.attributes, *(["description"] if self.settings.description else [])}
        values = {name: word or name if name in shown else "" for name in ("title", "brand", "price", "description")}
        return {**values, "categories": [word or "categories"] if "categories" in shown else []}

    def _attributes(self, item: Item, title: str) -> dict[str, Any]:
        known = attributes(item, self._clean)
        said = title.casefold()

        def new(text: str) -> str:
            return "" if text.casefold() in said else text.translate(_MARKS)

        told: dict[str, Any] = {}
        if "categories" in self.settings.attributes:
            told["categories"] = list(filter(None, map(new, dict.fromkeys(known["categories"]))))
        if "brand" in self.settings.attributes:
            told["brand"] = new(str(known["brand"]))
        if "price" in self.settings.attributes and known["price"]:
            told["price"] = self._price.format(known["price"]).strip()
        return told

    def _whole_description(self, item: Item) -> str:
        title = self._clean(item.title, DESCRIPTION_CHARACTERS)
        text = self._clean(item.description, 2 * DESCRIPTION_CHARACTERS)
        if self._titled and title and text.casefold().startswith(title.casefold()):
            text = text[len(title) :].lstrip(" ,.;:!-–—，。；：！、")
        return self._clean(text, DESCRIPTION_CHARACTERS).translate(_MARKS)
