"""Small shops, drawn, written in many ways and sometimes damaged, come back as they are or with every row accounted for.

The drawing, the writing and the comparison are in eval/fuzz_import.py, which knows nothing of how llmrec reads.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

EVAL = Path(__file__).resolve().parents[2] / "eval"


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(str(EVAL))
    import fuzz_import

    yield fuzz_import
    sys.modules.pop("fuzz_import", None)


def _check(outcomes):
    wrong = [(n, o.reason, o.style) for n, o in enumerate(outcomes) if o.kind in ("fault", "traceback")]
    assert not wrong, wrong[:3]
    whole = Counter(o.kind for o in outcomes if not o.style.damage)
    assert whole["refused"] <= 0.02 * whole.total(), [
        o for o in outcomes if o.kind == "refused" and not o.style.damage
    ]


def test_a_few_hundred_shops(fuzz):
    outcomes = fuzz.run(250, seed=3)
    _check(outcomes)
    assert len({(o.style.form, o.style.encoding, o.style.damage) for o in outcomes}) > 60


@pytest.mark.slow
def test_five_thousand_shops(fuzz):
    _check(fuzz.run(5000, seed=4))


def test_the_comparison_sees_what_is_lost_and_what_is_new(fuzz, tmp_path):
    """A reader that loses a row without a word, or swaps two cells, does not pass."""
    import polars as pl

    shop = fuzz.Shop([("a", "Kettle", 1.0, ["Tea"]), ("b", "Cup", None, ["Tea"])], [])
    shop.events = [(f"u{n % 3}", "ab"[n % 2], 1_500_000_000 + n, None) for n in range(12)]
    style = fuzz.Style()
    mapping = {}
    for table, (names, rows) in fuzz.tables(shop, style).items():
        mapping[table], _ = fuzz.write_table(tmp_path, table, names, rows, style, fuzz.random.Random(0))
    dataset = fuzz.import_table(tmp_path, mapping)
    assert fuzz.compare(shop, dataset, style, 0) == ""
    events = dataset.events
    dataset.events = events[1:]
    assert "account does not come out" in fuzz.compare(shop, dataset, style, 0)
    dataset.manifest.account["rows"]["events"] = {"in": 11, "out": 11}
    assert "1 events lost and 0 counted" in fuzz.compare(shop, dataset, style, 0)
    dataset.manifest.account["rows"]["events"] = {"in": 12, "out": 12}
    dataset.events = events.with_columns(pl.col("time") + 1)
    assert "12 events lost" in fuzz.compare(shop, dataset, style, 2)
