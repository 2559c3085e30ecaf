"""The report's plain words, against figures that are worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest

from llmrec.evaluation.reporting.contents import RunReport
from llmrec.evaluation.reporting.plain import plain_words
from llmrec.evaluation.significance import Interval
from llmrec.evaluation.table import Cell, Comparison
from llmrec.evaluation.verdict import Verdict
from tests.evaluation.sample import sample_report


def report(outcome="gain", caveats=(), hits=(0.40, 0.30), sure=True, coverage=(0.5, 0.6)) -> RunReport:
    change = hits[1] - hits[0]
    width = 0.01 if sure else 0.5
    judged = {
        "SFT": {"click_rate": Cell(0.10), "conversion_rate": Cell(0.02)},
        "PPO": {"click_rate": Cell(0.125), "conversion_rate": Cell(0.02)},
    }
    ranking = {
        "SFT": {"HR@5": Cell(0.1), "HR@10": Cell(hits[0]), "coverage@10": Cell(coverage[0])},
        "PPO": {
            "HR@5": Cell(0.1),
            "HR@10": Cell(hits[1], None, Interval(change, change - width, change + width)),
            "coverage@10": Cell(coverage[1]),
        },
    }
    return dataclasses.replace(
        sample_report(),
        tables=[Comparison("ranking", ranking, "SFT"), Comparison("judge", judged, "SFT")],
        verdict=Verdict(outcome, "Said.", caveats=caveats),
        worse=["One.", "Two."],
    )


def test_a_gain_with_its_cost():
    told = plain_words(report())
    assert told.sentence == (
        "With PPO, which is handed on, a judge that simulates people expects them to click 12.5 instead of 10.0 and buy "
        "(convert) 2.0 as before of 100 items that they are shown, but lists of 10 hold 30 instead of 40 of 100 things "
        "that people really chose later."
    )
    assert told.coverage == "All of these lists of 10 together show 60% of the catalogue, up from 50%."
    assert told.next[0] == "Read what got worse below (2 figures), and for which groups."
    assert "small part of real users" in told.next[1]


def test_what_may_be_chance_is_said_and_a_trade_is_to_be_decided():
    told = plain_words(report(sure=False, caveats=("Traded: this for that.",), coverage=(0.5, 0.501)))
    assert (
        "and lists of 10 hold 30 instead of 40 of 100 things that people really chose later (which may be chance)"
        in (told.sentence)
    )
    assert told.coverage.endswith("50% of the catalogue, as before.")
    assert told.next[0] == "Decide whether this is wanted: this for that."
    assert told.tone == "caution"


@pytest.mark.parametrize("outcome", ["none", "loss"])
def test_no_gain_hands_on_what_was(outcome):
    told = plain_words(report(outcome, coverage=(0.6, 0.5)))
    assert told.sentence.startswith("SFT is handed on, since no gain of PPO held up; with PPO a judge")
    assert "down from 60%" in told.coverage
    assert told.next[0].startswith("Use SFT.")


def test_reports_that_say_too_little():
    assert plain_words(dataclasses.replace(sample_report(), verdict=None)) is None
    assert plain_words(dataclasses.replace(sample_report(), tables=())) is None
