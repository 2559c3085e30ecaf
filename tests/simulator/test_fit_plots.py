"""The pictures of eval/simulator_fit.py are files that a browser shows."""

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "eval" / "simulator_fit.py"


def test_a_saved_plot_is_an_svg_document(tmp_path):
    spec = importlib.util.spec_from_file_location("simulator_fit", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    curve = [{"predicted": 0.1, "observed": 0.2, "count": 10}, {"predicted": 0.5, "observed": 0.4, "count": 20}]
    cell = {"buckets": {"user_activity": {"few": {"reliability": curve}, "many": {"reliability": curve}}}}
    script.plot(cell, tmp_path / "plot.svg")
    root = ET.parse(tmp_path / "plot.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "user activity: few" in root.attrib["aria-label"]
