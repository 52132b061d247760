"""The notebook runs from its first cell to its last, in a kernel of its own."""

import json

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.processes import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.verify]
NOTEBOOK = ROOT / "examples" / "first_steps.ipynb"


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("MM_BALANCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    said = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    assert "audio is ahead" in said
    assert said.count("image/png") == 2
    assert "gap_mixture on vectors, seed 0: test accuracy fused" in said
    assert (tmp_path / "explorer.html").is_file()
    assert not (tmp_path / "mlflow.db").exists()
