"""The notebook runs to its end after the quickstart, and the one that readers see on the web has its pictures."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from support.smoke_run import SmokeRun

NOTEBOOK = Path(__file__).parents[1] / "jobs" / "example.ipynb"
PICTURES = 6
"""Figures that the notebook draws."""


def figures(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def text(notebook: nbformat.NotebookNode) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("text", "") + str(output.get("data", {}).get("text/plain", "")) for output in outputs)


def test_every_cell_runs_after_the_quickstart(smoke: SmokeRun) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(smoke.folder)}}).execute()
    assert figures(notebook) == PICTURES
    shown = text(notebook)
    assert f"{smoke.score('student', 'head'):.3f}" in shown
    assert "of the other pictures" in shown
    for noise in ("INFO", "WARNING", "Warning"):
        assert noise not in shown


def test_the_stored_outputs_are_whole_and_tell_nothing_of_a_machine() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert figures(notebook) == PICTURES
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    content = NOTEBOOK.read_text(encoding="utf-8")
    assert not any(folder in content for folder in ("/home/", "/tmp/", "/root/", "/work/"))
    assert len(content) < 400_000
