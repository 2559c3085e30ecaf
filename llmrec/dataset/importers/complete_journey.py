"""The Complete Journey (84.51°, a year of a grocer's baskets), as the R package `completejourney` lays it out.

Products may stand for themselves or for their product type; the transactions are purchases, so nothing says what a
household looked at and left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import polars as pl

from llmrec.dataset.importers.reading import find_file, need_file, number, read_csv_rows
from llmrec.dataset.store import Dataset
from llmrec.errors import DataError
from llmrec.progress import console

SOURCE = "https://www.8451.com/area51"
TERMS = "CC0 by the R package completejourney; 84.51° asks to be named as the source."
PROXY = (
    "The log holds purchases only: a purchase stands for a click too, so a conversion after a click is certain here."
)
_ENDINGS = ("csv", "csv.gz")
_PRODUCT = (
    "product_id",
    "manufacturer_id",
    "department",
    "brand",
    "product_category",
    "product_type",
    "package_size",
)
_SALE = ("household_id", "basket_id", "product_id", "sales_value", "transaction_timestamp")
_HOUSEHOLD = ("household_id", "age", "income", "home_ownership", "marital_status", "household_comp")
_EVENTS = {
    **{"user_id": pl.String, "item_id": pl.String, "time": pl.Int64, "value": pl.Float64, "session": pl.String},
}

Product = dict[str, str]


def import_complete_journey(
    source: Path, *, level: Literal["product", "type"] = "product", name: str | None = None
) -> Dataset:
    """Imports a folder with transactions, products and (optional) demographics, each .csv or .csv.gz.

    A line of a basket is a conversion with the amount paid (USD) as its value and the basket as its session; the
    times name no zone and are taken as UTC. Only products that were bought become items; sales of products that the
    products file does not list are left out (counted on the console). Prices are left out: the log tells them by its
    sales alone, the later ones included.

    Args:
        source: The folder. `transactions` is taken before `transactions_sample`.
        level: "product", or "type" for product types: lines of a basket with one type are added up, and products
            without a type are left out with their lines (counted on the console).
        name: Name of the data set; by default after the level.

    Raises:
        DataError: A file or column is missing, or a line is broken; named with its number.
    """
    if source.is_file():
        raise DataError(f"{source} is a file; give the folder that holds transactions.csv and products.csv.")
    sales_path = need_file(source, *_names("transactions"), *_names("transactions_sample"))
    products = {row["product_id"]: row for _, row in _table(need_file(source, *_names("products")), _PRODUCT)}
    events = _read_sales(sales_path, products)
    if level == "type":
        events = _by_type(events, products)
    bought = dict.fromkeys(events["item_id"])
    items = _product_items(products, bought) if level == "product" else _type_items(products, bought)
    households = find_file(source, *_names("demographics"))
    users = [] if households is None else [_household(row) for _, row in _table(households, _HOUSEHOLD)]
    return Dataset.build(
        pl.DataFrame(items),
        pl.DataFrame(users, schema={"user_id": pl.String, "profile": pl.String}),
        events.with_columns(kind=pl.lit("conversion")),
        name=name or f"complete-journey-{level}",
        domain="shop",
        source=SOURCE,
        terms=TERMS,
        repeat="allow",
        click="conversion",
        conversion="conversion",
        proxy=PROXY,
        currency="USD",
        add_missing_users=True,
    )


def _names(table: str) -> list[str]:
    return [f"{table}.{ending}" for ending in _ENDINGS]


def _table(path: Path, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows with `columns`; R's NA is empty text."""
    for line, row in read_csv_rows(path, columns, description=f"Reading {path.name}"):
        yield line, {name: "" if value == "NA" else value for name, value in row.items()}


def _read_sales(path: Path, products: dict[str, Product]) -> pl.DataFrame:
    rows, unlisted = [], 0
    for line, row in _table(path, _SALE):
        if row["product_id"] not in products:
            unlisted += 1
            continue
        paid = number(row["sales_value"], path, line, "sales_value")
        time = _seconds(row["transaction_timestamp"], path, line)
        rows.append((row["household_id"], row["product_id"], time, paid, row["basket_id"]))
    if not rows:
        raise DataError(f"{path} holds no sale of a product of the products file; fetch both again.")
    if unlisted:
        console.print(f"Left out {unlisted} sales of products that are not in the products file.")
    return pl.DataFrame(rows, schema=_EVENTS, orient="row")


def _seconds(text: str, path: Path, line: int) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise DataError(
            f"{path}, line {line}: transaction_timestamp is {text[:40]!r}, but it must be like 2017-01-28 19:06:53."
        ) from None
    return int(moment.replace(tzinfo=UTC).timestamp())


def _by_type(events: pl.DataFrame, products: dict[str, Product]) -> pl.DataFrame:
    """One line for each household, moment and product type."""
    types = {product_id: row["product_type"] for product_id, row in products.items()}
    typed = events.with_columns(pl.col("item_id").replace_strict(types, return_dtype=pl.String))
    kept = typed.filter(pl.col("item_id") != "")
    if kept.height < typed.height:
        console.print(f"Left out {typed.height - kept.height} lines of products without a type.")
    by = ["user_id", "item_id", "time", "session"]
    return kept.group_by(by, maintain_order=True).agg(pl.col("value").sum())


def _product_items(products: dict[str, Product], bought: Iterable[str]) -> list[dict[str, object]]:
    wanted = set(bought)
    return [_product_item(row) for product_id, row in products.items() if product_id in wanted]


def _product_item(row: Product) -> dict[str, object]:
    what = row["product_type"] or row["product_category"] or row["department"] or "product"
    maker = f"{row['brand']} brand, maker {row['manufacturer_id']}"
    return {
        "item_id": row["product_id"],
        "title": ", ".join(filter(None, [_plain(what), _plain(row["package_size"]).lower()])),
        "categories": _distinct([row["department"], row["product_category"]]),
        "brand": maker,
    }


def _type_items(products: dict[str, Product], bought: Iterable[str]) -> list[dict[str, object]]:
    """A type's categories are those of all its products, in the order of the file, four at most."""
    groups: dict[str, list[str]] = {kind: [] for kind in bought}
    for row in products.values():
        if row["product_type"] in groups:
            groups[row["product_type"]] += [row["department"], row["product_category"]]
    return [
        {"item_id": kind, "title": _plain(kind), "categories": _distinct(names)[:4], "brand": ""}
        for kind, names in sorted(groups.items())
    ]


def _distinct(names: Iterable[str]) -> list[str]:
    return [_plain(name) for name in dict.fromkeys(names) if name.strip()]


def _plain(text: str) -> str:
    """ "FRZN ICE" becomes "Frzn ice": capitals alone would read as shouting."""
    return " ".join(text.split()).capitalize()


def _household(row: dict[str, str]) -> dict[str, str]:
    """For example "A household of 2 adults no kids; aged 65+; income 35-49K; homeowner; married."."""
    parts = [
        f"A household of {row['household_comp'].lower()}" if row["household_comp"] else "A household",
        f"aged {row['age']}" if row["age"] else "",
        f"income {row['income']}" if row["income"] else "",
        row["home_ownership"].lower(),
        row["marital_status"].lower(),
    ]
    return {"user_id": row["household_id"], "profile": "; ".join(filter(None, parts)) + "."}
