"""What stands for clicks and conversions, said at import, by check, and by a run before it trains."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from llmrec.cli.data import data_app
from llmrec.config import RunConfig
from llmrec.dataset import Dataset
from llmrec.errors import ConfigError, DataError
from llmrec.pipeline.data import open_data
from llmrec.pipeline.run import check_config
from llmrec.pipeline.work import Work
from tests.cli import tiny

START = 1_700_000_000
DAY = 86_400


def _write(path: Path, header: list[str], rows: list[tuple[object, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def _import(tmp_path: Path, header: list[str], rows: list[tuple[object, ...]], *more: str) -> tuple[str, Path]:
    """Imports a table of events about items i0..i29; returns what was printed and the folder."""
    events = _write(tmp_path / "log.csv", header, rows)
    items = _write(tmp_path / "things.csv", ["item_id", "title"], [(f"i{n}", f"Thing number {n}") for n in range(30)])
    words = ["import", "table", str(events), str(tmp_path / "data"), "--items", str(items), *more]
    result = CliRunner().invoke(data_app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split()), tmp_path / "data"


def _shop(delay: tuple[int, int], users: int = 80, share: float = 0.2) -> list[tuple[object, ...]]:
    """Twelve clicks of each user over 30 days; exactly `share` of the pairs are bought a while later."""
    random = np.random.default_rng(1)
    rows: list[tuple[object, ...]] = []
    for user in range(users):
        items = random.permutation(30)[:12]
        times = START + np.sort(random.integers(0, 30 * DAY, 12))
        for item, time in zip(items.tolist(), times.tolist(), strict=True):
            rows.append((f"u{user}", f"i{item}", "click", time))
    for place in random.permutation(len(rows))[: round(share * len(rows))].tolist():
        user, item, _, time = rows[place]
        rows.append((user, item, "conversion", int(str(time)) + int(random.integers(*delay))))
    return rows


LOG = ["user_id", "item_id", "kind", "time"]
RATED = ["user_id", "item_id", "value", "time"]


def _rated(values: list[float]) -> list[tuple[object, ...]]:
    return [(f"u{n % 7}", f"i{n % 30}", value, START + 60 * n) for n, value in enumerate(values)]


def test_a_scale_with_unrated_entries_decides_the_rules_and_is_said(tmp_path: Path) -> None:
    said, folder = _import(tmp_path, RATED, _rated([0, 8, 0, 5, 0, 10, 0, 7] * 5))
    assert "click is rating>=1, conversion is rating>=8." in said
    assert "ratings go from 0 to 10, and the 50% that are 0 are taken for not rated" in said
    assert "warning" not in said
    assert "20 clicks; 10 conversions, 10 of them linked to a click; 50.00% of what was clicked was converted" in said
    assert Dataset.load(folder).manifest.click == "rating>=1"


def test_a_rule_that_does_not_fit_is_said_at_import_and_by_check(tmp_path: Path) -> None:
    given = ["--option", "click=rating", "--option", "conversion=rating>=4"]
    said, folder = _import(tmp_path, RATED, _rated([0, 8, 0, 5, 0, 10, 0, 7] * 5), *given)
    result = CliRunner().invoke(data_app, ["check", str(folder)])
    for output in (said, " ".join(result.output.split())):
        assert "warning: zero-clicks, 20 in events" in output
        assert "warning: conversion-nearly-always, 20 in events" in output
    likes, _ = _import(tmp_path, RATED, _rated([0, 1] * 9), "--option", "conversion=rating>=4", "--force")
    assert "warning: no-conversions" in likes
    assert "values are 0 or 1, so import anew with a rule such as rating>=1" in likes


@pytest.mark.parametrize("delay", [(1, 60), (60, 1800)])
def test_a_shop_whose_purchases_follow_clicks_shows_its_rate(tmp_path: Path, delay: tuple[int, int]) -> None:
    said, folder = _import(tmp_path, LOG, _shop(delay))
    assert (
        "960 clicks; 192 conversions, 192 of them linked to a click; 20.00% of what was clicked was converted" in said
    )
    data = open_data(_config(folder), Work(tmp_path / "work"))
    assert data.dataset.manifest.counts["conversion"] == 192


def _config(folder: Path, **more: object) -> RunConfig:
    settings = {"data.dataset": "folder", "data.source": folder, **more}
    return RunConfig.read(None, settings)


def test_conversions_that_no_click_leads_to_stop_a_run_before_its_first_stage(tmp_path: Path) -> None:
    said, folder = _import(tmp_path, LOG, _shop((2 * DAY, 3 * DAY)))
    assert "error: unlinked-conversions, 192 in events: all 192 conversions belong to no click" in said
    work = Work(tmp_path / "work")
    with pytest.raises(DataError, match=r"all 192 conversions .*data\.link_window.* reward\.conversion=0") as caught:
        open_data(_config(folder), work)
    assert len(str(caught.value)) < 600
    assert not (tmp_path / "work").exists() or not any((tmp_path / "work").iterdir())
    open_data(_config(folder, **{"reward.conversion": 0}), work)
    open_data(_config(folder, **{"data.link_window": 3 * DAY}), work)
    result = CliRunner().invoke(data_app, ["check", str(folder), "--link-window", str(3 * DAY)])
    assert result.exit_code == 0
    assert "192 of them linked" in " ".join(result.output.split())


def test_a_run_says_before_it_trains_what_check_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = _shop((10, 20))
    _, folder = _import(tmp_path, LOG, [*rows, rows[0]], "--option", "name=x" + "y" * 900)
    capsys.readouterr()
    open_data(_config(folder), Work(tmp_path / "work"))
    shown = " ".join(capsys.readouterr().err.split())
    assert "warning: duplicate-events, 1 in events" in shown
    assert "feedback of the training part:" in shown


def test_a_window_below_0_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'data\.link_window' is -1"):
        check_config(_config(tmp_path, **{"data.link_window": -1}))


@pytest.mark.slow
def test_a_run_on_the_shop_learns_and_reports_its_conversions(tmp_path: Path, cache: Path) -> None:
    _, folder = _import(tmp_path, LOG, _shop((60, 1800), users=120))
    settings = [a for a in tiny.arguments() if not a.startswith("--set=world")]
    out = tmp_path / "run"
    done = tiny.llmrec("run", "--dataset", "folder", "--source", folder, "--out", out, *settings, cache=cache)
    found = tiny.metrics(out)
    train = found["funnel"]["train"]
    assert train["linked"] == train["conversions"] > 0
    assert train["conversion_rate"] == pytest.approx(0.2, abs=0.05)
    assert all(row["conversion_rate"] > 0.001 for row in found["means"]["judge"].values())
    for name in ("report.md", "README.md"):
        text = (out / name).read_text(encoding="utf-8")
        assert "of what was clicked was converted" in text
        assert "are no real click rates" in text
    assert "are no real click rates" in " ".join(done.stdout.split())
    assert "are no real click rates" in found["rates_note"]


def test_stars_keep_their_usual_rules(tmp_path: Path) -> None:
    _, folder = _import(tmp_path, RATED, _rated([1, 2, 3, 4, 5, 5, 4, 4] * 4))
    dataset = Dataset.load(folder)
    assert (dataset.manifest.click, dataset.manifest.conversion) == ("rating", "rating>=4")
    assert dataset.events["value"].dtype == pl.Float64
