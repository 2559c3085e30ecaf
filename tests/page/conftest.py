"""A run with hostile titles, its warm start beside it, its users and its report, shared by the tests of the page."""

from __future__ import annotations

import json

import polars as pl
import pytest

from llmrec.dataset.store import Dataset
from llmrec.evaluation.reporting.record import RECORD, write_record
from llmrec.page.studio import Studio
from llmrec.page.systems import BESIDE, NAMED, load_systems
from tests.evaluation.sample import sample_report
from tests.service.conftest import write_run

HOSTILE = [
    "<img src=x onerror=alert(1)> lamp",
    "{{#each value}}{{this}}{{/each}} ${alert(2)} rug",
    "[kettle](javascript:alert(3)) **bold** `code`",
    '" onfocus=alert(4) autofocus x="',
    "</bdi></li><script>alert(5)</script>",
]
TITLES = [f"{kind} {look}" for kind in ("kettle", "lamp", "rug") for look in ("red", "blue", "old")] + HOSTILE
CATEGORIES = [title.split()[0] for title in TITLES[:9]] + [HOSTILE[0]] * 5
USERS = [*(f"user-{n}" for n in range(5)), "<b>user</b>"]


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with run/ (PPO), beside/ (SFT) and data/."""
    place = tmp_path_factory.mktemp("page")
    ids = [f"i{n}" for n in range(len(TITLES))]
    events = [
        (user, f"i{(3 * n + m) % len(ids)}", 10 * m + n, "click") for n, user in enumerate(USERS) for m in range(4)
    ]
    events += [("user-1", "i3", 14, "conversion")]
    data = Dataset.build(
        pl.DataFrame(
            {"item_id": ids, "title": TITLES, "categories": [[c] for c in CATEGORIES], "price": [1.5] * len(ids)}
        ),
        pl.DataFrame({"user_id": USERS, "profile": [f"Likes {TITLES[-1 - n % 5]}." for n in range(len(USERS))]}),
        pl.DataFrame(events, schema=["user_id", "item_id", "time", "kind"], orient="row"),
        name="home",
        domain="shop",
        click="click",
        conversion="conversion",
    )
    data.save(place / "data")
    write_run(place / "run", data, seed=0)
    write_run(place / BESIDE, data, seed=1)
    (place / BESIDE / NAMED).write_text('{"name": "SFT"}')
    (place / "run" / "metrics.json").write_text(json.dumps({"improved": True}))
    write_record(place / "run" / RECORD, sample_report())
    return place


@pytest.fixture(scope="session")
def studio(home):
    return Studio(load_systems(home / "run", data=home / "data"))
