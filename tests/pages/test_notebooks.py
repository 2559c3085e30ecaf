"""The notebooks run from first to last cell, at tiny sizes, and are kept without outputs."""

from __future__ import annotations

import json

import pytest

from tests.cli import tiny
from tests.pages.blocks import ROOT

NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))
OWN = {key: value for key, value in tiny.SETTINGS.items() if not key.startswith("world.")}
SMALL = {
    "own-data": f'users = 120\nsettings = {OWN!r}\nout = "runs/own"',
    "rl-and-gate": f'settings = {tiny.SETTINGS!r}\nout = "runs/rl"',
}
"""What takes the place of the cell that is tagged "parameters"."""


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_there_are_both_stories_without_outputs():
    assert {path.stem for path in NOTEBOOKS} == set(SMALL)
    for path in NOTEBOOKS:
        assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells(path))
        assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in cells(path)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    for name, value in tiny.environment(tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = SMALL[path.stem]
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    said = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "NDCG@10" in said
    assert any(word in said for word in ("Improved", "Traded", "Not improved"))
