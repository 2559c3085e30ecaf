"""The comparison table in each of its forms, and the sentences drawn from it."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from llmrec.errors import RequestError
from llmrec.evaluation.significance import Interval, paired_bootstrap
from llmrec.evaluation.table import Cell, Comparison, markdown
from llmrec.evaluation.verdict import verdict, what_got_worse


def cell(mean: float, difference: tuple[float, float, float] | None = None) -> Cell:
    return Cell(mean, Interval(mean, mean - 0.01, mean + 0.01), Interval(*difference) if difference else None)


def table(metric: str, before: float, after: float, low: float, high: float, **options: object) -> Comparison:
    cells = {"SFT": {metric: cell(before)}, "PPO": {metric: cell(after, (after - before, low, high))}}
    return Comparison("judged", cells, "SFT", **options)  # type: ignore[arg-type]


def test_of_measures_intervals_and_paired_differences() -> None:
    rng = np.random.default_rng(0)
    sft = rng.random(200)
    ppo = sft + 0.1
    found = Comparison.of("t", {"SFT": {"value": sft, "size": 3}, "PPO": {"value": ppo}}, reference="SFT", seed=4)
    assert found.systems == ("SFT", "PPO")
    assert found.metrics == ("value", "size")
    assert found.cells["SFT"]["size"] == Cell(3.0)
    assert found.cells["SFT"]["value"].difference is None
    assert found.cells["PPO"]["value"].difference == paired_bootstrap(ppo, sft, seed=4, name=("value",))
    assert found.cells["PPO"]["value"].mark == "▲"
    with pytest.raises(RequestError, match="not among"):
        Comparison.of("t", {"SFT": {}}, reference="sft")


def test_markdown_table() -> None:
    found = table("click_rate", 0.10, 0.12, 0.01, 0.03, percent=("click_rate",), labels={"click_rate": "clicks"})
    assert found.to_markdown().splitlines()[:4] == [
        "| system | clicks |",
        "|---|---:|",
        "| SFT | 10.00% (9.00% to 11.00%) |",
        "| PPO | **12.00%** ▲ (11.00% to 13.00%) |",
    ]
    assert found.to_markdown(intervals=False).splitlines()[3] == "| PPO | **12.00%** ▲ |"


def test_absent_and_negative_figures() -> None:
    found = Comparison("t", {"a": {"x": Cell(-0.5)}, "b": {"y": Cell(0.25)}})
    assert found.to_markdown() == "| system | x | y |\n|---|---:|---:|\n| a | −0.5000 | – |\n| b | – | 0.2500 |\n"


def test_best_follows_the_direction_of_the_metric() -> None:
    found = Comparison("t", {"a": {"loss": Cell(1.0)}, "b": {"loss": Cell(2.0)}}, lower_is_better=("loss",))
    assert found.best("loss") == {"a"}
    assert Comparison("t", {"a": {"loss": Cell(1.0)}}).best("loss") == frozenset()


def test_select_takes_columns_in_the_order_asked_for() -> None:
    whole = Comparison("t", {"a": {"x": Cell(1.0), "y": Cell(2.0), "z": Cell(3.0)}, "b": {"x": Cell(0.0)}})
    assert whole.select(["z", "absent", "x"]).metrics == ("z", "x")
    assert whole.select(["z"]).systems == ("a", "b")


def test_json_holds_plain_numbers() -> None:
    found = json.loads(json.dumps(table("value", 0.2, 0.3, 0.05, 0.15).to_json()))
    assert found["reference"] == "SFT"
    assert found["systems"]["SFT"] == {
        "value": pytest.approx({"mean": 0.2, "low": 0.19, "high": 0.21, "level": 0.95})
    }
    difference = found["systems"]["PPO"]["value"]["difference"]
    assert (difference["low"], difference["high"]) == (0.05, 0.15)


def test_terminal_table_shows_markup_in_names_literally() -> None:
    out = io.StringIO()
    found = Comparison(
        "t", {"[red]a[/red]": {"x": cell(0.5)}, "b": {"x": cell(0.25, (0.1, 0.05, 0.2))}}, "[red]a[/red]"
    )
    Console(file=out, width=120).print(found.to_rich())
    assert "[red]a[/red]" in out.getvalue()
    assert "0.2500 ▲" in out.getvalue()


def test_headers_are_broken_before_names_of_systems() -> None:
    out = io.StringIO()
    metrics = {f"a long name of metric {number}": Cell(0.5) for number in range(6)}
    Console(file=out, width=100).print(Comparison("t", {"SFT top 20, reranked": metrics}).to_rich())
    lines = out.getvalue().splitlines()
    assert any("│ SFT top 20, reranked │" in line for line in lines)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("a|b", r"a\|b"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("[x](http://a.b)", r"\[x\](http\://a.b)"),
        ("www.a.b", r"www\.a.b"),
        ("two\nlines\u2028three\x1b[0m", "two lines three \\[0m"),
        ("# no heading", r"\# no heading"),
        ("1. no list", r"1\. no list"),
        ("snake_case _x_", r"snake_case \_x\_"),
        ("co-visitation", "co-visitation"),
        ("`a` *b* $c$ ~d~", r"\`a\` \*b\* \$c\$ \~d\~"),
    ],
)
def test_markdown_shows_text_literally(text: str, literal: str) -> None:
    assert markdown(text) == literal


@pytest.mark.parametrize(
    ("after", "low", "high", "outcome", "head"),
    [
        (0.3, 0.05, 0.15, "gain", "Significant gain"),
        (0.21, -0.02, 0.04, "none", "No significant gain"),
        (0.1, -0.15, -0.05, "loss", "Significant loss"),
    ],
)
def test_verdict_says_what_the_interval_shows(after: float, low: float, high: float, outcome: str, head: str) -> None:
    found = verdict(table("value", 0.2, after, low, high), None, after="PPO")
    assert found.outcome == outcome
    assert found.sentence.startswith(head)
    assert f"{low:+.4f} to {high:+.4f}".replace("-", "−") in found.sentence


def test_verdict_names_the_change_of_the_ranking_metric() -> None:
    simulated = table("value", 0.2, 0.3, 0.05, 0.15)
    worse = table("NDCG@10", 0.1, 0.08, -0.03, -0.01)
    assert "NDCG@10 on held-out events falls significantly" in verdict(simulated, worse, after="PPO").sentence
    same = table("NDCG@10", 0.1, 0.1, -0.01, 0.01)
    assert "does not change significantly" in verdict(simulated, same, after="PPO").sentence
    with pytest.raises(RequestError, match="paired difference"):
        verdict(simulated, None, after="SFT")
    assert verdict(simulated, worse, after="PPO").trade == "NDCG@10 on held-out events falls significantly, by 20.0%"
    assert verdict(simulated, same, after="PPO").trade == ""
    assert verdict(simulated, same, after="PPO").relative == pytest.approx(0.5)


def test_what_got_worse_lists_significant_losses_only() -> None:
    worse = table("NDCG@10", 0.1, 0.08, -0.03, -0.01)
    unclear = table("value", 0.2, 0.19, -0.02, 0.01)
    higher_loss = table("loss", 1.0, 1.2, 0.1, 0.3, lower_is_better=("loss",))
    lower_loss = table("loss", 1.0, 0.8, -0.3, -0.1, lower_is_better=("loss",))
    sentences = what_got_worse([worse, unclear, higher_loss, lower_loss], "PPO")
    assert [s.split(" ")[0] for s in sentences] == ["NDCG@10", "loss"]
    assert "0.1000 → 0.0800" in sentences[0]
