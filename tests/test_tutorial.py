"""The tutorial runs from top to bottom, and shows what it says."""

import os
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


@pytest.mark.slow
@pytest.mark.thorough
def test_the_tutorial_runs(monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(TUTORIAL, as_version=4)
    kept = [cell.get("outputs") for cell in notebook.cells]
    root = str(TUTORIAL.parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": root}}).execute()
    for cell, before in zip(notebook.cells, kept):
        if cell.cell_type == "code":
            assert bool(cell.outputs) == bool(before), "outputs must be kept: run it and save it"
            assert _text(cell.outputs) == _text(before)


def _text(outputs):
    """What is printed and shown as text; pictures may differ in their bytes."""
    found = []
    for output in outputs:
        if output.output_type == "stream":
            found.append(output.text)
        elif output.output_type == "execute_result":
            found.append(output.data["text/plain"])
    return found
