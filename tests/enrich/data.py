"""A small data set with categories, reviews, a split by time and one user whose every choice lies in the test part."""

from __future__ import annotations

import polars as pl

from llmrec.dataset.split import Split, make_split
from llmrec.dataset.store import Dataset
from llmrec.enrich.reviews import Review

TITLES = {
    "en": ["Red Kettle", "Blue Mug", "Steel Knife", "Green Teapot", "Oak Board", "Late Lamp"],
    "zh": ["红水壶", "蓝杯子", "钢刀", "绿茶壶", "橡木板", "晚灯"],
}
CATEGORIES = {
    "en": ["Tea", "Tea", "Tools", "Tea", "Tools", "Light"],
    "zh": ["茶具", "茶具", "工具", "茶具", "工具", "灯具"],
}
PROFILES = {
    "en": ["A 34-year-old woman.", "", "A man who cooks."],
    "zh": ["一位34岁的女性。", "", "一位做饭的男性。"],
}


def dataset(language: str = "en", **options) -> Dataset:
    """Users a and b choose items 0 to 4 at times 0 to 9; item 5 and user c belong to times 80 to 99."""
    events = [("a", str(i % 5), "rating", i, float(1 + i % 5)) for i in range(10)]
    events += [("b", str(i % 3), "rating", 10 + i, 5.0) for i in range(3)]
    events += [("a", "5", "rating", 80, 5.0), ("b", "5", "rating", 90, 1.0), ("c", "5", "rating", 99, 5.0)]
    columns = ["user_id", "item_id", "kind", "time", "value"]
    settings = {
        "name": "kitchen",
        "domain": "shop",
        "language": language,
        "click": "rating",
        "conversion": "rating>=4",
    }
    return Dataset.build(
        pl.DataFrame(
            {
                "item_id": list("012345"),
                "title": TITLES[language],
                "categories": [[c] for c in CATEGORIES[language]],
                "description": ["Boils water."] + [""] * 5,
                "price": [12.5, None, None, None, None, None],
            }
        ),
        pl.DataFrame({"user_id": list("abc"), "profile": PROFILES[language]}),
        pl.DataFrame(events, schema=columns, orient="row"),
        **{**settings, **options},
    )


def split(found: Dataset) -> Split:
    """Training part: times 0 to 12."""
    return make_split(found, "time", valid_fraction=0.1, test_fraction=0.13)


REVIEWS = [
    Review("a", "0", "Great quality, but the delivery was late.", 0),
    Review("b", "1", "I love the design. Not cheap, the price is bad.", 11),
    Review("a", "5", "Terrible sound and awful smell.", 80),
]
