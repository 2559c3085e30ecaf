"""Items that come and go while a service runs: every state of the catalogue is a version, whole or not there.

A version holds all that differs from the run's own items, so that each can be served without those before it. It is
on the disk before it is served, and which one is served changes in a single rename.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmrec.assortment import change_items, repriced
from llmrec.errors import CatalogueError
from llmrec.export import Bundle
from llmrec.files import read_json, write_json
from llmrec.online.versions import Versions
from llmrec.printing import one_line
from llmrec.types import Item

CHANGES = "changes.json"


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs from the run's own items.

    Attributes:
        removed: ids of the run's items that are gone.
        added: items that came, in their order.
        in_stock: ids of the items in stock; None where nothing is known.
        prices: of the run's items that have another one now.
    """

    removed: tuple[str, ...] = ()
    added: tuple[Item, ...] = ()
    in_stock: tuple[str, ...] | None = None
    prices: tuple[tuple[str, float | None], ...] = ()

    def then(
        self,
        *,
        add: Sequence[Item] = (),
        remove: Collection[str] = (),
        in_stock: Collection[str] | None = None,
        prices: Mapping[str, float | None] | None = None,
    ) -> Changes:
        """These changes with further ones: items go first, then come; then stock and prices are set.

        Raises:
            CatalogueError: an item that comes is among those that came before.
        """
        own = {item.item_id: item for item in self.added if item.item_id not in set(remove)}
        ours = {item.item_id for item in self.added}
        removed = (*self.removed, *dict.fromkeys(i for i in remove if i not in ours))
        for item in add:
            if item.item_id in own:
                raise CatalogueError(
                    f"Item {one_line(item.item_id, 60)!r} is in the catalogue already; give the new item another id."
                )
            own[item.item_id] = item
        priced = {item_id: price for item_id, price in self.prices if item_id not in set(remove)}
        for item_id, price in (prices or {}).items():
            if item_id in own:
                own[item_id] = replace(own[item_id], price=price)
            else:
                priced[item_id] = price
        stock = self.in_stock if in_stock is None else tuple(dict.fromkeys(in_stock))
        if stock is not None and in_stock is None:  # what is gone is not in stock
            stock = tuple(i for i in stock if i not in set(remove) or i in own)
        return Changes(removed, tuple(own.values()), stock, tuple(priced.items()))

    def applied(self, bundle: Bundle) -> Bundle:
        """The run's own bundle with these items.

        Raises:
            CatalogueError: see `assortment.change_items`; a price or stock of an item that is not there.
        """
        made = change_items(bundle, add=self.added, remove=self.removed)
        if self.prices:
            made = repriced(made, dict(self.prices))
        if self.in_stock is not None:
            known = {item.item_id for item in made.items}
            for item_id in self.in_stock:
                if item_id not in known:
                    raise CatalogueError(
                        f"Item {one_line(item_id, 60)!r} cannot be in stock: the catalogue has no such item."
                    )
            if made.policy is bundle.policy:  # stock is told to a policy of its own, and not to the one that serves
                made = repriced(made, {})
            assert made.policy.filters is not None
            made.policy.set_attributes(made.policy.filters.attributes.with_stock(self.in_stock))
        return made

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Changes:
        """What `to_json` gave."""
        added = tuple(Item(**{**item, "categories": tuple(item["categories"])}) for item in tree["added"])
        stock = None if tree["in_stock"] is None else tuple(tree["in_stock"])
        return cls(tuple(tree["removed"]), added, stock, tuple((str(i), price) for i, price in tree["prices"]))


class Shelf:
    """The versions of a catalogue on the disk.

    Args:
        folder: their place.
    """

    def __init__(self, folder: Path) -> None:
        self.versions = Versions(folder)

    def current(self) -> tuple[int, Changes]:
        """The number of the version that is served, and its changes; 0 and none where there never was another."""
        number = self.versions.serving().number
        return (0, Changes()) if number is None else (number, self._read(number))

    def put(self, changes: Changes) -> int:
        """Serves these changes from now on; the number of their version."""
        if self.versions.serving().number is None:  # what a rollback of the first change goes back to
            self.versions.promote(self._add(Changes()), "the run's own items")
        number = self._add(changes)
        self.versions.promote(number, "items changed")
        return number

    def before(self) -> Changes:
        """What a rollback would go back to.

        Raises:
            RunError: there is nothing before what is served.
        """
        now = self.versions.serving()
        left = [n for n in now.before if n not in now.withdrawn]
        return self._read(left[-1]) if left else Changes()

    def roll_back(self) -> int:
        """Goes back to the version before the one that is served; its number.

        Raises:
            RunError: there is none.
        """
        number = self.versions.roll_back("rolled back").number
        assert number is not None
        return number

    def _add(self, changes: Changes) -> int:
        return self.versions.add(lambda folder: write_json(folder / CHANGES, changes.to_json())).number

    def _read(self, number: int) -> Changes:
        return Changes.from_json(read_json(self.versions.version(number).folder / CHANGES))
