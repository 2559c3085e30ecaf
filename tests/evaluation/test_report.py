"""The report shows everything, loads nothing, and lets no untrusted text become markup."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from llmrec.evaluation.drawing import panels
from llmrec.evaluation.facts import config_changes, machine_facts, package_versions
from llmrec.evaluation.plots import (
    Reliability,
    comparison_figure,
    gate_figure,
    improvement_figure,
    legend_above,
    loss_figure,
    reliability_figure,
)
from llmrec.evaluation.reporting.contents import DataFacts, RunReport
from llmrec.evaluation.reporting.write import write_report
from llmrec.evaluation.verdict import Verdict
from llmrec.simulator.binning import bins_of
from tests.evaluation.sample import HOSTILE, sample_report, sample_tables


class Page(HTMLParser):
    """Collects tags, attributes and text; checks that tags close in order."""

    VOID = frozenset({"meta", "br", "img", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, sample_report(title=f"Run {HOSTILE}"))
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_untrusted_text_stays_text(page: Page) -> None:
    assert not page.open
    assert not {"script", "img", "iframe", "link", "object", "form", "base"} & set(page.tags)
    assert page.tags.count("a") == 14, "the list of contents and the skip link"
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert HOSTILE in [t.removeprefix("Run ") for t in page.text]


def test_what_decides_stands_at_the_top(page: Page) -> None:
    text = " ".join(" ".join(page.text).split())
    order = ["With PPO, which is handed on", "What next", "Slates before and after", "The verdict in figures"]
    order += ["All figures", "Reliability of the simulators", "content hash"]
    places = [text.index(part, text.index("With PPO")) for part in order]
    assert places == sorted(places)


def test_the_page_loads_nothing(page: Page, folder: Path) -> None:
    loading = [value for name, value in page.attributes if name in ("src", "href", "data", "srcset", "action")]
    assert all(value.startswith("#") for value in loading)
    style = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)", style)
    outside = style.replace("http://evil.example", "")
    assert "http" not in outside.replace("http-equiv", "")


def test_ids_are_unique_and_references_resolve(page: Page) -> None:
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    values = " ".join(value for _, value in page.attributes)
    used = set(re.findall(r"url\(#([^)]*)\)", values)) | {v[1:] for n, v in page.attributes if n == "href"}
    assert used <= set(ids)


def test_the_page_holds_every_part(page: Page) -> None:
    text = " ".join(" ".join(page.text).split())
    report = sample_report()
    assert report.verdict is not None
    parts = [
        report.verdict.sentence,
        report.data.proxy,
        report.data.content_hash,
        report.command,
        "ppo.steps",
        "PPO 0%",
    ]
    parts += ["2.13.0", "Example CPU", "1 min 35 s", "4 min 07 s", "The Quiet Lamp", "What got worse", *report.notes]
    for part in parts:
        assert part in text
    for sentence in report.decisions:
        assert sentence in text
    assert page.tags.count("svg") == 7
    assert page.tags.count("table") == page.tags.count("caption") == 10
    assert "calibration error low" not in text
    assert "0.0120 0.0080 to 0.0190" in text
    assert "agrees with 62.0% (95% interval 58.0% to 66.0%) of 400 held-out preferences" in text


def test_markdown_holds_the_tables_and_no_markup_from_outside(folder: Path) -> None:
    text = (folder / "report.md").read_text(encoding="utf-8")
    for table in sample_tables():
        assert table.to_markdown().strip() in text
    assert not re.search(r"<\w|</", text)
    assert "http://" not in text
    assert "| 1 | The Quiet Lamp (clicked) | The Quiet Lamp |" in text
    assert "| 3 | Field Notebook (bought) |" in text
    for name in re.findall(r"\]\((figures/[\w-]+\.svg)\)", text):
        assert (folder / name).is_file()


def test_figure_files_are_svg_with_colours_of_their_own(folder: Path) -> None:
    files = sorted((folder / "figures").iterdir())
    assert [f.stem for f in files] == [
        "comparison-1",
        "comparison-2",
        "gate",
        "reliability",
        "reward-model",
        "sft",
        "training",
    ]
    for file in files:
        root = ET.fromstring(file.read_text(encoding="utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        style = root.find("{http://www.w3.org/2000/svg}style")
        assert style is not None
        assert "prefers-color-scheme" in str(style.text)


def test_what_the_import_assumed_and_left_out_is_shown(tmp_path: Path) -> None:
    said = "Assumed: log.csv: <b>tab</b>. events: 1 left out, wrong number of fields (first: line 7)."
    facts = {"name": "x", "content_hash": "0", "click": "click", "conversion": "click", "split": "time"}
    data = DataFacts(counts={"items": 2}, repeat="allow", imported=said, **facts)
    write_report(tmp_path, RunReport(title="t", date="d", command="c", data=data))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1 left out, wrong number of fields (first: line 7)" in page
    assert "<b>tab</b>" not in page


def test_an_almost_empty_report_is_whole(tmp_path: Path) -> None:
    facts = {
        "name": "x",
        "content_hash": "0",
        "click": "click",
        "conversion": "click",
        "split": "time",
        "repeat": "allow",
    }
    report = RunReport(title="t", date="d", command="c ``` d", data=DataFacts(counts={"items": 2}, **facts))
    write_report(tmp_path, report)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not page.open
    assert "svg" not in page.tags
    assert page.tags.count("table") == 1, "the overview"
    assert "````\nc ``` d\n````" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert not (tmp_path / "figures").exists()


def test_figures_leave_out_what_is_not_there() -> None:
    assert improvement_figure([], "PPO") == loss_figure([]) == reliability_figure({}) == ""
    assert comparison_figure(sample_tables()[0], ["absent"]) == ""
    svg = improvement_figure([{"step": 1, "reward": 0.5}, {"step": 2, "reward": float("nan"), "kl": 0.1}], "PPO")
    assert "Reward" in svg
    assert "Value loss" not in svg


def test_a_curve_without_rewards_shows_its_loss_and_its_accuracy() -> None:
    curve = [{"step": s, "loss": 0.7 - 0.1 * s, "rewards/accuracies": 0.5, "rewards/chosen": 0.1} for s in range(3)]
    svg = improvement_figure(curve, "DPO")
    for title in ("Loss", "Pairs in order (share)", "Implied rewards (nats)", "DPO training curves"):
        assert title in svg
    assert "Reward terms" not in svg
    terms = {f"reward/t{n}": 0.1 * n for n in range(5)}
    many = improvement_figure(
        [{"step": s, "reward": 1.0, "rollout_kl": 0.1, "kl": 0.3, **terms} for s in range(3)], "GRPO"
    )
    assert [f"t{n}" in many for n in range(5)] == [True] * 5


def test_the_gate_s_figure_shows_differences() -> None:
    table = sample_report().gate
    assert table is not None
    svg = gate_figure(table)
    assert "checkpoint 100, promoted" in svg
    assert "reward simulator" in svg
    ET.fromstring(svg)


def test_text_in_a_figure_is_escaped() -> None:
    table = sample_tables()[0]
    table.cells[HOSTILE[:30] + "$x$"] = table.cells["PPO"]
    svg = comparison_figure(table)
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg
    ET.fromstring(svg)


def test_reliability_bins_by_hand() -> None:
    found = Reliability.of(bins_of(np.array([0.9, 0.1, 0.2, 0.8]), np.array([1.0, 0.0, 1.0, 1.0]), 2))
    assert found.predicted_J == pytest.approx([0.15, 0.85])
    assert found.observed_J == pytest.approx([0.5, 1.0])
    assert found.count_J.tolist() == [2, 2]


def test_config_changes_name_the_key_and_both_values() -> None:
    default = {"seed": 0, "ppo": {"steps": 150, "lora": {"rank": 16}}}
    chosen = {"seed": 0, "ppo": {"steps": 20, "lora": {"rank": 8}}}
    assert config_changes(default, chosen) == {"ppo.steps": (150, 20), "ppo.lora.rank": (16, 8)}


def test_facts_are_there_and_name_no_host() -> None:
    import platform

    assert package_versions()["python"] == platform.python_version()
    assert package_versions()["numpy"] == np.__version__
    facts = machine_facts()
    assert int(facts["cores"]) >= 1
    assert platform.node() not in facts.values()


@pytest.mark.parametrize(("caveats", "tone"), [((), "gain"), (("One list for everybody.",), "caution")])
def test_a_gain_with_a_caveat_is_not_green(caveats: tuple[str, ...], tone: str, tmp_path: Path) -> None:
    report = dataclasses.replace(sample_report(), verdict=Verdict("gain", "Improved, so to speak.", caveats=caveats))
    write_report(tmp_path, report)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f'<p class="verdict {tone}">With PPO, which is handed on,' in page
    assert "Improved, so to speak." in page
    assert ".verdict.caution{border-color:var(--orange)}" in page


def test_what_a_world_knows_of_the_headroom_stands_in_the_verdict(tmp_path: Path) -> None:
    said = f"PPO closes 61% of what is left {HOSTILE}"
    report = dataclasses.replace(sample_report(), verdict=Verdict("gain", "Improved."), headroom=said)
    write_report(tmp_path, report)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert f"Improved. {said}" in page.text
    (line,) = [x for x in (tmp_path / "report.md").read_text(encoding="utf-8").splitlines() if "closes 61%" in x]
    assert line.startswith("Improved. PPO closes 61% of what is left ")
    assert "<script>" not in line


@pytest.mark.parametrize(
    "names", [("click", "conversion", "next_item"), ("click", "a_term_with_a_very_long_name", "b", "c")]
)
def test_names_of_lines_cross_no_line(names: tuple[str, ...]) -> None:
    """Lines at the top, in the middle and at the bottom leave no free corner, so the names have a band of their own."""
    figure, (axis, *_) = panels(6)
    for n, name in enumerate(names):
        axis.plot([0, 1, 2], [1 - n / len(names)] * 3, label=name, marker="o", markersize=2.5)
    legend_above(axis)
    figure.draw_without_rendering()
    legend = axis.get_legend()
    assert legend is not None
    box = legend.get_window_extent()
    assert box.y0 >= max(line.get_window_extent().y1 for line in axis.lines)
    assert box.x1 <= axis.get_window_extent().x1 + 1
